"""Renewal of a server's sessions; one call per heartbeat extends each worker process's right to run jobs."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection
from itertools import chain, repeat

import attrs

from firelock.control.servers import ORDERS, read_orders
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import HOST_CLOCKS, HostClocks, HostWatch, StorageClock
from firelock.model.ids import new_id
from firelock.plugins.hookspecs import ServerInfo
from firelock.plugins.loader import installed_version
from firelock.server.shared_memory import Report, SharedMemory
from firelock.settings import Settings
from firelock.storage import NewSession, Renewal, Storage, Taken, server_work

log = logging.getLogger(__name__)

_MARGIN_SECONDS, _MARGIN_SHARE = 1.0, 0.02
_QUICK_RETRY = 0.5
_RELEASE_LIMIT, _RELEASES = 1_000, 20  # jobs per call, and maximum number of calls after a session ends
_CLOCK_CHECK_INTERVAL = 0.5  # seconds between two checks of this host's clocks
_FIRST_WAITS = (1.5, 3.0)  # seconds; short, because the CPU usage is known only after two reports


ROUND_TRIPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, in seconds, of the buckets in which the response times of the storage are counted."""


@attrs.define(eq=False)
class SessionRenewal:
    """The renewal of a server's sessions. A worker process may start jobs until its last renewal has expired.

    The right to run begins just before the renewal is sent, and a margin is subtracted from its duration. It
    therefore expires in this process before another server can consider the session dead. The time for which
    the machine is suspended counts, because the storage's clock continues to run. Sessions are renewed within
    half a second after a suspension, or after the wall clock was set, because the storage might use the same
    clock.
    """

    _storage: Storage
    _settings: Settings
    _server: ServerInfo
    _on_lost: Callable[[str], None]
    _on_order: Callable[[str], None]
    _clocks: HostClocks = HOST_CLOCKS
    _order_version: int | None = None
    _sessions: dict[str, _RenewedSession] = attrs.Factory(dict)
    _state: str = "running"
    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _over: threading.Event = attrs.Factory(threading.Event)
    _is_failing: bool = False
    reached_at: float | None = None  # monotonic time of the storage's last reply
    round_trips: list[int] = attrs.Factory(lambda: [0] * (len(ROUND_TRIPS) + 1))  # renewals by bucket
    round_trip_seconds: float = 0.0  # total time of all renewals
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start renewing sessions."""
        self._thread = threading.Thread(target=self._run, name="firelock-sessions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing sessions."""
        self._over.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(self._settings.heartbeat + 1)

    def begin(self, memory: SharedMemory, *, pid: int, workers: int) -> str:
        """Create a session, allow its worker process to start jobs, and return the session's id.

        Raises:
            StorageError: If the session could not be created.
        """
        session = NewSession(
            id=new_id(),
            server_id=self._server.id,
            server=self._server.name,
            host=socket.gethostname(),
            pid=pid,
            started_at=StorageClock(self._storage).now(),
            timeout_seconds=float(self._settings.session_timeout),
            workers=workers,
            queues=self._server.queues,
            version=installed_version(),
        )
        requested_at = self._clocks.elapsed()
        with server_work():
            self._storage.begin_session(session)
        self.reached_at = time.monotonic()
        with self._lock:
            self._sessions[session.id] = _RenewedSession(session.id, memory, memory.last_report())
        memory.begin_session()  # before the grant, so that jobs of an earlier session cannot start
        memory.grant(self._right_from(requested_at))
        return session.id

    def forget(self, session_id: str) -> None:
        """Stop renewing the session; its worker process must not start any more jobs."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                session.memory.grant(0)

    def end(self, session_id: str, running: Collection[str] = (), *, reason: str = "server stopped") -> Taken:
        """End the session and return its jobs to their queues; count a crash for each job that ran.

        Raises:
            StorageError: If the session could not be ended.
        """
        self.forget(session_id)
        with server_work():
            if self._state == "stopping":
                with contextlib.suppress(StorageError):  # only listings use this, so errors are ignored
                    self._storage.renew([Renewal(session_id, state=self._state)])
            taken = self._storage.end_session(session_id, running, reason=reason)
            self._release(session_id)
        if taken.left:
            log.warning(
                "Session %s has ended, but other transactions have locked %d of its jobs; a sweep returns "
                "these to their queues when the transactions end.",
                session_id, taken.left, extra={"session": session_id},
            )  # fmt: skip
        return taken

    def _release(self, session_id: str) -> None:
        """Update batches whose last running member was deleted and stopped when this session ended."""
        try:
            for _ in range(_RELEASES):
                if self._storage.release(_RELEASE_LIMIT) < _RELEASE_LIMIT:
                    return
        except StorageError as error:
            log.warning(
                "Batches could not be updated after the end of session %s; the next sweep updates them: %s",
                session_id, error,
            )  # fmt: skip

    @property
    def state(self) -> str:
        """The state that is reported for the sessions."""
        return self._state

    def mark(self, state: str) -> None:
        """Set the state that each renewal of the sessions reports: running, quiet or stopping."""
        self._state = state

    def mark_leaving(self, session_id: str, state: str) -> None:
        """Set the state that is reported for a replaced worker process until the whole server stops."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None:
                session.leaving = state

    def _state_of(self, session: _RenewedSession) -> str:
        if session.leaving and self._state != "stopping":
            return session.leaving
        return "overdue" if session.memory.silence() > 3 * self._settings.heartbeat else self._state

    def _right_from(self, requested_at: float) -> float:
        timeout = self._settings.session_timeout
        return requested_at + timeout - max(min(_MARGIN_SECONDS, timeout / 10), timeout * _MARGIN_SHARE)

    # ---- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        heartbeat = self._settings.heartbeat
        waits = chain(_FIRST_WAITS, repeat(heartbeat))
        wait = next(waits)
        watch = HostWatch(self._clocks)
        while not self._rest(min(wait, heartbeat) * random.uniform(0.8, 1.0), watch):  # noqa: S311 - jitter
            wait = next(waits)
            if not self.renew():
                wait = _QUICK_RETRY

    def _rest(self, seconds: float, watch: HostWatch) -> bool:
        """Wait until a renewal is due or a clock of this host jumps; return whether renewals have stopped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._over.wait(min(left, _CLOCK_CHECK_INTERVAL)):
                return True
            if jump := watch.check():  # upkeep logs the effect on the storage's clock
                log.debug("This machine %s; renewing the sessions now.", jump)
                return False
        return self._over.is_set()

    def renew(self) -> bool:
        """Renew every session and check for orders; return whether the storage was available."""
        try:
            with server_work():
                self._renew_all()
                self._check_orders()
        except StorageUnavailable as error:
            if not self._is_failing:
                log.warning("Sessions could not be renewed; retrying: %s", error)
        except Exception:  # if this thread ended, every session would be lost
            log.exception("Sessions could not be renewed; retrying.")
        else:
            if self._is_failing:
                log.info("Sessions are renewed again.")
            self._is_failing = False
            self.reached_at = time.monotonic()
            return True
        self._is_failing = True
        return False

    def _renew_all(self) -> None:
        with self._lock:  # a worker process's memory is closed only after `forget`
            sessions = list(self._sessions.values())
            renewals = [session.renewal(self._state_of(session)) for session in sessions]
        began, requested_at = time.monotonic(), self._clocks.elapsed()
        alive = self._storage.renew(renewals) if renewals else []
        if renewals:
            self._count_round_trip(time.monotonic() - began)
        lost = []
        with self._lock:
            for session, is_alive in zip(sessions, alive, strict=True):
                if session.id in self._sessions and is_alive:  # after `forget`, no jobs may start
                    session.memory.grant(self._right_from(requested_at))
                elif session.id in self._sessions:
                    lost.append(session.id)
        for session_id in lost:
            self.forget(session_id)
            self._on_lost(session_id)

    def _count_round_trip(self, seconds: float) -> None:
        self.round_trips[bisect_left(ROUND_TRIPS, seconds)] += 1
        self.round_trip_seconds += seconds

    def _check_orders(self) -> None:
        record = self._storage.get_record(ORDERS, self._server.id)
        if record is None:
            return
        if record.version != self._order_version:  # otherwise, it was carried out before but not deleted
            self._order_version = record.version
            self._obey(record.value)
        self._storage.delete_record(ORDERS, record.key, expected_version=record.version)

    def _obey(self, value: str) -> None:
        orders = read_orders(value)
        for order in orders:
            self._on_order(order)
        if not orders:
            log.warning("Unknown order %.100r to this server; deleting it.", value)


@attrs.define(eq=False)
class _RenewedSession:
    id: str
    memory: SharedMemory
    sent: Report  # the worker process's report that was last sent
    cpu_percent: float = 0.0  # share of one processor between the last two sent reports
    leaving: str = ""  # the state to report if the worker process was replaced

    def renewal(self, state: str) -> Renewal:
        """Return the renewal of the session, with the last report of its worker process."""
        report, sent = self.memory.last_report(), self.sent
        if report.at > sent.at:
            if sent.at:
                spent = report.cpu_seconds - sent.cpu_seconds
                self.cpu_percent = max(0.0, 100 * spent / (report.at - sent.at))
            self.sent = report
        workers = report.workers
        return Renewal(
            session=self.id,
            busy=workers.busy,
            state=state,
            rss_bytes=report.rss_bytes,
            cpu_percent=self.cpu_percent,
            stuck_threads=workers.stuck_threads,
            stuck_coroutines=workers.stuck_coroutines,
            parked=workers.parked,
        )
