"""The process that keeps a server's sessions alive and its children running; it imports no application.

A job that keeps an interpreter busy cannot cost the session, because nobody's jobs run here. A child's death
is known by its exit, so what it held is back in its queue at once, without waiting for any lease.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Any

import attrs

from firelock.control.servers import ENDING, RETIRED, session_to_end
from firelock.errors import (
    ConfigurationError,
    FirelockError,
    SchemaMismatch,
    StorageError,
    StorageUnavailable,
)
from firelock.model.ids import new_id
from firelock.model.lifecycle import Moved
from firelock.plugins.hookspecs import ServerInfo
from firelock.plugins.loader import open_storage
from firelock.server.job_counters import Counted, read_counters, summed
from firelock.server.logs import LogFormat
from firelock.server.probes import (
    LOOPBACK,
    ChildStatus,
    ProbeListener,
    ServerStatus,
    liveness,
    probe_pages,
    reported,
)
from firelock.server.process_state import describe_exit
from firelock.server.session_renewal import SessionRenewal
from firelock.server.shared_memory import NO_WORKERS, ChildMemory, share_memory
from firelock.server.systemd import SystemdNotifier
from firelock.settings import Settings
from firelock.storage import Feature, Storage

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 3
_HAVE_SAID_WHY = {EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE}
_TICK = 1.0
_MOST_RETIRED = 4  # of a place: worker processes that were replaced and still run jobs
_STOP_MARGIN = 20.0  # beyond the grace time: a child that has not ended by then is killed
_SHORT_LIFE, _LONGEST_PAUSE = 5.0, 30.0
_DOUBLINGS = 10  # of a pause: more than its longest has, and no more than a float
_TRY_AGAIN = 1.0
_LONG_START = 10.0  # seconds after which the log names a child that has not started
_NEVER = float("inf")


@attrs.frozen
class ServerOptions:
    """What the command line says of a server."""

    app_spec: str
    queues: str | None = None
    workers: int | None = None
    async_workers: int | None = None
    processes: int = 1
    name: str | None = None
    imports: tuple[str, ...] = ()
    storage: str | None = None  # instead of the app's own
    is_verbose: bool = False  # its processes log everything
    log_format: str = LogFormat.TEXT
    log_meta: Sequence[str] = ()  # of a job's meta: what its log records say
    max_jobs_per_child: int = 0  # 0: what the app's own settings say
    max_memory_per_child: int = 0  # MB; 0: what the app's own settings say
    probe_port: int = 0  # 0: what the app's own settings say
    probe_host: str = LOOPBACK


@attrs.frozen(kw_only=True)
class ChildOptions(ServerOptions):
    """What a child is told at its start."""

    place: int  # among its server's children
    server_id: str
    server_name: str
    is_first: bool  # it speaks for the server: nobody has yet
    counts_jobs: bool = False  # whatever plugins the app has: /metrics of the probe port shows them


class ServerMode(StrEnum):
    """What a server is asked to do."""

    RUNNING = "running"
    QUIET = "quiet"
    STOPPING = "stopping"
    HURRYING = "hurrying"  # a stop that waits for no job any more


@attrs.define(eq=False)
class _Place:
    """What is known of all children that were in one place, one after the other."""

    has_begun: bool = False  # one of them had a session
    starts: int = 0
    cpu_seconds: float = 0.0  # of those that have ended
    crashed_jobs: int = 0


@attrs.define(eq=False)
class _KnownChild:
    place: int
    process: subprocess.Popen[bytes]
    descriptor: int  # of the memory
    counters: int  # the descriptor of the memory in which it counts jobs, alone as long as it lives
    orders: Any  # the pipe's writing end
    quick_deaths: int  # in a row, of those in its place
    started_at: float = attrs.Factory(time.monotonic)
    began_at: float | None = None  # when it had its first session
    session: str | None = None
    memory: ChildMemory | None = None  # once it has imported the app and knows how many workers it has
    workers: int = 0
    replaces: _KnownChild | None = None  # until it works: who drains then
    is_retired: bool = False  # another has taken its place; it drains
    ends_by: float = _NEVER  # monotonic; it is killed then
    is_slow: bool = False  # the log has said that it is long in starting
    is_killed: bool = False  # by this supervisor

    def kill(self) -> None:
        """End its process at once."""
        self.is_killed = True
        self.process.kill()

    def describe_exit(self, code: int) -> str:
        """Return how its process ended, for people."""
        return "killed by its server" if self.is_killed and code < 0 else describe_exit(code)


class Supervisor:
    """One `firelock server`. `run()` returns its exit code."""

    def __init__(self, options: ServerOptions, *, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._id = new_id()
        self._name = options.name or f"{socket.gethostname()}:{os.getpid()}"
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._children: dict[int, _KnownChild] = {}
        self._restarts: list[tuple[float, int, int]] = []  # when, which place, after how many quick deaths
        self._storage: Storage | None = None
        self._settings = Settings()
        self._sessions: SessionRenewal | None = None  # until a child has said which storage it has
        self._state = ServerMode.RUNNING
        self._stops_at = _NEVER
        self._exit_code = EXIT_OK
        self._probes: ProbeListener | None = None
        self._counters: list[int] = []  # memories in which children have counted jobs
        self._spare_counters: list[int] = []  # those in which nobody counts now: the next child goes on there
        self._watched = threading.Lock()  # a child leaves the list and its time is added, in one step
        self._places = [_Place() for _ in range(options.processes)]
        self._turned_at = time.monotonic()
        self._manager = SystemdNotifier.of_environment()

    @property
    def _is_stopping(self) -> bool:
        return self._state in {ServerMode.STOPPING, ServerMode.HURRYING}

    # ---- the loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop by SIGTERM, SIGINT or an order; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put(self._stop))
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda *_: self._events.put(lambda: self._obey("quiet")))
        if hasattr(signal, "SIGHUP"):  # a terminal that is closed sends it as well
            hang_up = self._stop if _is_in_terminal() else self._reload
            signal.signal(signal.SIGHUP, lambda *_: self._events.put(hang_up))
        try:
            self._listen_for_probes(self._options.probe_port)
        except ConfigurationError as error:
            self._say(f"firelock: {error}")
            return EXIT_USAGE
        try:
            for place in range(self._options.processes):
                self._start_child(place, 0)
        except (OSError, ConfigurationError) as error:
            self._say(f"firelock: no process can be started: {error}")
            self._exit_code = EXIT_FAILED
            self._stop()
        while self._children or (self._restarts and not self._is_stopping):
            with contextlib.suppress(queue.Empty):
                self._do(self._events.get(timeout=_TICK))
            self._do(self._tick)
        self._close()
        if self._sessions is not None:
            log.info("Stopped, with exit code %d.", self._exit_code)
        return self._exit_code

    def _close(self) -> None:
        if self._sessions is not None:
            self._sessions.stop()
        if self._storage is not None:
            self._storage.close()
        if self._probes is not None:
            self._probes.close()
        for descriptor in self._counters:
            os.close(descriptor)

    @staticmethod
    def _do(event: Callable[[], None]) -> None:
        """The event is dealt with, whatever it meets: if this loop ended, every child would end with it."""
        try:
            event()
        except Exception:
            log.exception("The supervisor met an error that it does not know; it goes on.")

    def _later(self, event: Callable[[], None], seconds: float | None = None) -> None:
        timer = threading.Timer(_TRY_AGAIN if seconds is None else seconds, lambda: self._events.put(event))
        timer.daemon = True
        timer.start()

    def _tick(self) -> None:
        now = self._turned_at = time.monotonic()
        if self._manager.is_due(now) and all(check.is_ok for check in liveness(self.status())):
            self._manager.tell("WATCHDOG=1")
        for restart in [restart for restart in self._restarts if restart[0] <= now]:
            self._restarts.remove(restart)
            if not self._is_stopping:
                self._start_again(restart[1], restart[2])
        for child in list(self._children.values()):
            silence = _status_of_child(ChildStatus(place=child.place), child).silent_for
            if silence > self._settings.child_silence:
                log.error("Child %d has reported nothing for %.0f s; killing it.", child.process.pid, silence)
                child.kill()
            elif now > min(self._stops_at, child.ends_by):
                log.error("Child %d did not end in time; it is killed.", child.process.pid)
                child.kill()
            elif child.memory is None and not child.is_slow and now - child.started_at > _LONG_START:
                child.is_slow = True
                log.warning(
                    "Child %d has not started after %.0f s: it is importing %s, or connecting to its "
                    "storage. It is killed after %g s (child_silence).",
                    child.process.pid, now - child.started_at, self._options.app_spec,
                    self._settings.child_silence,
                )  # fmt: skip

    # ---- starting children -------------------------------------------------------------------------------

    def _start_again(self, place: int, quick_deaths: int) -> None:
        try:
            self._start_child(place, quick_deaths)
        except (OSError, ConfigurationError) as error:
            log.error("No process can be started, trying again in %.0f s: %s", _LONGEST_PAUSE, error)
            self._restarts.append((time.monotonic() + _LONGEST_PAUSE, place, quick_deaths))

    def _start_child(self, place: int, quick_deaths: int, replaces: _KnownChild | None = None) -> None:
        """Start a process; it says which storage and settings it has, and gets its session then.

        Raises:
            OSError: the system gives no process, or none of the pipes that one needs.
            ConfigurationError: the system gives no shared memory.
        """
        options = ChildOptions(
            **attrs.asdict(self._options), place=place, server_id=self._id, server_name=self._name,
            is_first=place == 0 and self._sessions is None,
            counts_jobs=self._options.probe_port > 0,
        )  # fmt: skip
        with contextlib.ExitStack() as undo:
            descriptor = _shared(undo)
            counters = self._spare_counters[-1] if self._spare_counters else _shared(undo)
            orders_read, orders_write = _pipe(undo)
            reports_read, reports_write = _pipe(undo)
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "firelock.server.child", str(os.getpid()), str(orders_read),
                 str(reports_write), str(descriptor), str(counters), json.dumps(attrs.asdict(options))],
                pass_fds=(orders_read, reports_write, descriptor, counters),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's interrupt comes to us alone; we tell the children
            )  # fmt: skip
            undo.pop_all()
        if self._spare_counters:
            self._spare_counters.pop()
        else:
            self._counters.append(counters)
        os.close(orders_read)
        os.close(reports_write)
        child = _KnownChild(
            place, process, descriptor, counters, os.fdopen(orders_write, "w"), quick_deaths,
            replaces=replaces,
        )  # fmt: skip
        self._places[place].starts += 1
        self._children[process.pid] = child
        self._watch(child, reports_read)

    def _watch(self, child: _KnownChild, reports: int) -> None:
        """Threads hear what a child says and that it has ended; where the system gives none, it ends now."""
        exits = threading.Thread(target=self._await_exit, args=(child,), daemon=True)
        try:
            exits.start()
            threading.Thread(target=self._listen, args=(child, reports), daemon=True).start()
        except RuntimeError as error:
            log.error("Child %d is killed, since nothing can watch it: %s", child.process.pid, error)
            os.close(reports)
            child.process.kill()
            if exits.ident is None:
                self._await_exit(child)

    def _listen(self, child: _KnownChild, reports: int) -> None:
        with os.fdopen(reports) as lines:
            for line in lines:
                report = json.loads(line)
                if "ready" in report:
                    self._events.put(lambda ready=report["ready"]: self._introduce(child, ready))  # type: ignore[misc]
                elif "session_lost" in report:
                    self._events.put(lambda lost=report["session_lost"]: self._begin_anew(lost))  # type: ignore[misc]
                elif "worn" in report:
                    self._events.put(lambda why=report["worn"]: self._replace(child, why))  # type: ignore[misc]

    def _await_exit(self, child: _KnownChild) -> None:
        child.process.wait()
        self._events.put(lambda: self._exited(child))

    def _introduce(self, child: _KnownChild, ready: dict[str, Any]) -> None:
        """A child has imported the app: open its storage, if it is the first, and begin its session."""
        is_first = self._sessions is None
        try:
            child.memory, child.workers = (
                ChildMemory.attach(child.descriptor, ready["places"]),
                ready["workers"],
            )
            if is_first:
                self._open(ready)
                self._listen_for_probes(self._settings.probe_port)
            for line in ready["about"]:  # the first child tells it, whichever is ready first
                self._say(line)
            if ready["about"] and self._probes is not None:
                self._say(f"  probes: {self._probes.url} ({' '.join(self._probes.paths)})")
            if is_first:
                self._begin(child)
        except FirelockError as error:
            self._say(f"firelock: {error}")
            self._exit_code = exit_code_of(error)
            self._stop()
            child.process.kill()
            return
        if not is_first:
            self._begin_when_possible(child, None)

    def _open(self, ready: dict[str, Any]) -> None:
        storage = open_storage(ready["storage"])
        if Feature.SHARED not in storage.features:
            raise StorageError(
                f"{storage.url} lives in one process, and a server's children are others. Use "
                "sqlite:///jobs.db, or run fire.server() inside the process that enqueues."
            )
        self._storage = storage
        self._settings = Settings.from_json(ready["settings"])
        self._sessions = SessionRenewal(
            storage, self._settings,
            ServerInfo(self._id, self._name, ready["queues"], ready["workers"], os.getpid()),
            on_lost=lambda session: self._events.put(lambda: self._begin_anew(session)),
            on_order=lambda order: self._events.put(lambda: self._obey(order)),
        )  # fmt: skip
        self._sessions.mark(self._state)
        self._sessions.start()

    # ---- sessions ----------------------------------------------------------------------------------------

    def _begin(self, child: _KnownChild) -> None:
        if self._sessions is None or child.memory is None or self._is_stopping:
            return  # it has been told to stop
        child.session = self._sessions.begin(child.memory, pid=child.process.pid, workers=child.workers)
        if child.is_retired:  # its former session was lost
            self._mark(child)
        self._tell(child, {"session": child.session})
        child.began_at = child.began_at or time.monotonic()
        self._places[child.place].has_begun = True
        if all(place.has_begun for place in self._places):
            self._manager.tell("READY=1")
        if self._state is ServerMode.QUIET:
            self._tell(child, {"quiet": True})
        if child.replaces is not None:
            self._retire(child.replaces)
            child.replaces = None

    def _begin_when_possible(
        self, child: _KnownChild, former: str | None, *, is_repeat: bool = False
    ) -> None:
        """Begin a session of the child in place of its former one; while the storage is away, try again."""
        if child.session != former or child.process.poll() is not None:
            return
        try:
            self._begin(child)
        except StorageError as error:
            if not is_repeat:
                log.warning(
                    "No new session yet for child %d; trying again every second: %s", child.process.pid, error
                )
            self._later(lambda: self._begin_when_possible(child, former, is_repeat=True))
            return
        if is_repeat and child.session != former:
            log.info("Child %d has its new session.", child.process.pid)

    def _begin_anew(self, lost: str) -> None:
        """A session is dead: its child, if it lives, gets another one and drops what it held."""
        if self._sessions is None:
            return
        self._sessions.forget(lost)
        for child in self._children.values():
            if child.session == lost:
                self._begin_when_possible(child, lost)

    def _end_session(self, child: _KnownChild, running: Collection[str], *, is_repeat: bool = False) -> None:
        sessions, session = self._sessions, child.session
        if sessions is None or session is None:
            return
        code = child.process.returncode
        is_in_order = code == EXIT_OK and not running
        reason = "server stopped"
        if not is_in_order:
            died = Moved.WORKER_DIED_ALONE if len(running) == 1 else Moved.WORKER_DIED
            reason = died.format(how=child.describe_exit(code))
        try:
            taken = sessions.end(session, running, reason=reason)
        except StorageUnavailable as error:
            if not is_repeat:
                log.warning("Session %s could not be ended; until it is, its jobs wait: %s", session, error)
            if not self._is_stopping:
                self._later(lambda: self._end_session(child, running, is_repeat=True))
            return
        except StorageError as error:
            log.warning("Session %s could not be ended, so its jobs wait for its timeout: %s", session, error)
            return
        if is_repeat:
            log.info("Session %s has ended; its jobs are back in their queues.", session)
        if taken.crashed:
            self._places[child.place].crashed_jobs += len(taken.crashed)
            log.warning(
                "Child %d died (%s); it was running %s.",
                child.process.pid,
                child.describe_exit(code),
                ", ".join(taken.crashed),
            )

    # ---- the end of a child ------------------------------------------------------------------------------

    def _exited(self, child: _KnownChild) -> None:
        """A child has ended: what it held goes back now, blaming what it ran if it did not end in order."""
        code = child.process.returncode
        with self._watched:
            del self._children[child.process.pid]
            if child.memory is not None:
                self._places[child.place].cpu_seconds += child.memory.last_report().cpu_seconds
        self._spare_counters.append(child.counters)
        with contextlib.suppress(OSError):  # an order that it did not live to read is still in the buffer
            child.orders.close()
        running = [] if child.memory is None else child.memory.running()
        # A job may end its process with exit code 0 as well; only who was told to stop ends in order.
        is_told = self._is_stopping or child.is_retired
        self._end_session(child, () if is_told and code == EXIT_OK else running)
        if child.memory is not None:
            child.memory.close()
        os.close(child.descriptor)
        if self._is_stopping:
            if code != EXIT_OK and self._exit_code == EXIT_OK:
                self._exit_code = EXIT_FAILED  # it did not end in order, so the server did not either
        elif self._sessions is not None:
            self._make_up_for(child, code, was_running=bool(running))
        elif code < 0:  # somebody killed it, the system for want of memory say, so it has said nothing
            self._restart(child, code, was_running=False)
        else:
            if code not in _HAVE_SAID_WHY:
                self._say(
                    f"firelock: the process that was to import {self._options.app_spec} ended "
                    f"({describe_exit(code)}) before it had; so would any other."
                )
            self._exit_code = code if code in {EXIT_USAGE, EXIT_UNREACHABLE} else EXIT_FAILED
            self._stop()

    def _make_up_for(self, child: _KnownChild, code: int, *, was_running: bool) -> None:
        """Another child starts, unless one has taken the place or is about to."""
        successor = next((other for other in self._children.values() if other.replaces is child), None)
        if successor is not None:
            successor.replaces = None  # nobody is left to drain
        elif child.replaces is not None:
            old = child.replaces
            log.warning(
                "Child %d ended (%s); the one that it was to replace goes on.",
                child.process.pid,
                child.describe_exit(code),
            )
            self._later(lambda: self._replace(old, "is still to be replaced"), _LONGEST_PAUSE)
        elif not child.is_retired:
            self._restart(child, code, was_running=was_running)

    # ---- replacing a child: it has reached a limit, or its code is an old one ----------------------------

    def _reload(self) -> None:
        """Every child is replaced by one that imports the app as it is now; who cannot start is tried now."""
        if self._sessions is None:  # the first child speaks for the server, so nothing may come between
            self._later(self._reload)
            return
        for child in list(self._children.values()):
            self._replace(child, "is told to reload")
        self._restarts = [(0.0, place, 0) for _, place, _ in self._restarts]

    def _replace(self, child: _KnownChild, why: str) -> None:
        """Another child starts, one at a time; the one it replaces drains once the other works.

        In this order no worker is missing meanwhile, and a child goes on whose successor cannot start.
        """
        if self._is_stopping or child.is_retired or child.process.poll() is not None:
            return
        if child.session is None or any(other.replaces for other in self._children.values()):
            self._later(lambda: self._replace(child, why))
            return
        log.info("Child %d %s; another takes its place.", child.process.pid, why)
        try:
            self._start_child(child.place, 0, replaces=child)
        except (OSError, ConfigurationError) as error:
            log.error("No process can be started, trying again in %.0f s: %s", _LONGEST_PAUSE, error)
            self._later(lambda: self._replace(child, why), _LONGEST_PAUSE)

    def _retire(self, child: _KnownChild) -> None:
        """The child claims nothing more and ends after its last job.

        It may take as long as it takes until too many others were retired after it, since a job that hangs
        would keep each process that runs it.
        """
        child.is_retired = True
        self._mark(child)
        self._tell(child, {"retire": True})
        draining = [
            one
            for one in self._children.values()  # in the order in which they were started
            if one.place == child.place and one.is_retired and one.ends_by == _NEVER
        ]
        for oldest in draining[:-_MOST_RETIRED]:
            log.warning(
                "Child %d was replaced and still runs jobs, as do %d that were replaced after it; its jobs "
                "have %g s to end, then they go back to their queues.",
                oldest.process.pid, _MOST_RETIRED, self._settings.grace,
            )  # fmt: skip
            self._cut_short(oldest)

    def _cut_short(self, child: _KnownChild) -> None:
        """The jobs of a retired child have the grace time to end; then they go back to their queues."""
        grace = self._settings.grace
        child.ends_by = time.monotonic() + grace + _STOP_MARGIN
        self._mark(child)
        self._tell(child, {"stop": grace})

    def _mark(self, child: _KnownChild) -> None:
        """A retired child's session says that it is one."""
        if self._sessions is not None and child.session is not None:
            self._sessions.mark_leaving(child.session, RETIRED if child.ends_by == _NEVER else ENDING)

    def _end_process(self, session: str) -> None:
        """Replace the child of a session and end it, as an operator ordered; its jobs have the grace time.

        It does not wait for its successor, which might not be able to start.
        """
        child = next((one for one in self._children.values() if one.session == session), None)
        if child is None or child.process.poll() is not None:
            log.info("Told to end the worker process of session %s, which has ended already.", session)
            return
        if child.ends_by != _NEVER:
            return
        log.warning(
            "Told to end child %d: it claims nothing more, and its jobs have %g s to end; then they go back "
            "to their queues.",
            child.process.pid, self._settings.grace, extra={"session": session},
        )  # fmt: skip
        successor = next((one for one in self._children.values() if one.replaces is child), None)
        if successor is not None:
            successor.replaces = None  # nothing is left to retire
        if not child.is_retired:
            self._retire(child)
            if successor is None:
                self._start_again(child.place, 0)
        if child.ends_by == _NEVER:
            self._cut_short(child)

    def _restart(self, child: _KnownChild, code: int, *, was_running: bool) -> None:
        """Another child starts: at once where a job may have killed this one, since crashes bound that.

        Those that end soon after they could run jobs, or before, however long their start took, are followed
        by the next after a growing pause.
        """
        worked = 0.0 if child.began_at is None else time.monotonic() - child.began_at
        deaths = child.quick_deaths + 1 if worked < _SHORT_LIFE and not was_running else 0
        pause = 0.0 if deaths <= 1 else min(_LONGEST_PAUSE, 2.0 ** min(deaths - 2, _DOUBLINGS))
        early = "before it could run a job " if child.began_at is None else ""
        log.warning(
            "Child %d ended %s(%s); another starts in %.0f s.",
            child.process.pid, early, child.describe_exit(code), pause,
        )  # fmt: skip
        self._restarts.append((time.monotonic() + pause, child.place, deaths))
        self._events.put(lambda: None)

    # ---- being watched -----------------------------------------------------------------------------------

    def _listen_for_probes(self, port: int) -> None:
        """Probes are answered at this port, unless they are already; at none if it is 0.

        Raises:
            ConfigurationError: nothing can listen there.
        """
        if port and self._probes is None:
            self._probes = ProbeListener(
                self._options.probe_host, port, probe_pages(self.status, self._counted)
            )

    def status(self) -> ServerStatus:
        """Return the server as it is now, from memory; any thread may ask."""
        now, sessions = time.monotonic(), self._sessions
        waiting = {place: at - now for at, place, _ in list(self._restarts)}
        with self._watched:
            children = tuple(
                self._status_of(number, place, waiting.get(number, 0.0))
                for number, place in enumerate(self._places)
            )
        return ServerStatus(
            name=self._name,
            mode=str(self._state),
            children=children,
            turned=now - self._turned_at,
            reached=None if sessions is None or sessions.reached_at is None else now - sessions.reached_at,
            round_trips=() if sessions is None else tuple(sessions.round_trips),
            round_trip_seconds=0.0 if sessions is None else sessions.round_trip_seconds,
            patience=self._settings.child_silence,
            heartbeat=self._settings.heartbeat,
        )

    def _status_of(self, number: int, place: _Place, starts_in: float) -> ChildStatus:
        status = ChildStatus(
            place=number, has_begun=place.has_begun, starts_in=max(0.0, starts_in), starts=place.starts,
            crashed_jobs=place.crashed_jobs, cpu_seconds=place.cpu_seconds,
        )  # fmt: skip
        here = [child for child in list(self._children.values()) if child.place == number]
        here.sort(key=lambda child: child.session is not None and not child.is_retired)
        for child in here:  # of two in a place the one that claims comes last, and the time is of both
            status = _status_of_child(status, child)
        return status

    def _counted(self) -> Counted:
        """Return what all children have counted, those that have ended too."""
        return summed(map(read_counters, list(self._counters)))

    # ---- orders ------------------------------------------------------------------------------------------

    def _tell(self, child: _KnownChild, order: dict[str, Any]) -> None:
        try:
            child.orders.write(json.dumps(order) + "\n")
            child.orders.flush()
        except OSError:
            log.debug("Child %d ended before it could be told %s.", child.process.pid, order)

    def _enter(self, state: ServerMode, order: dict[str, Any]) -> None:
        self._state = state
        if self._is_stopping:
            self._manager.tell("STOPPING=1")
        if self._sessions is not None and state is not ServerMode.HURRYING:
            self._sessions.mark(state)
        for child in self._children.values():
            self._tell(child, order)

    def _stop(self) -> None:
        """First: children stop in order. Again: they hand back at once. A third time: they are killed."""
        if not self._is_stopping:
            self._stops_at = time.monotonic() + self._settings.grace + _STOP_MARGIN
            if self._sessions is not None:
                log.info(
                    "Stopping: no job is claimed any more, what runs has %g s to end.", self._settings.grace
                )
            self._enter(ServerMode.STOPPING, {"stop": self._settings.grace})
        elif self._state is ServerMode.STOPPING:
            self._stops_at = time.monotonic() + _STOP_MARGIN
            log.info("Told to stop again: what runs is handed back at once.")
            self._enter(ServerMode.HURRYING, {"hurry": True})
        else:
            log.warning("Told to stop a third time: every process is killed.")
            for child in self._children.values():
                child.kill()

    def _obey(self, order: str) -> None:
        """Do what an operator asked for; who stops hears nothing else."""
        if self._is_stopping:
            return
        session = session_to_end(order)
        if session is not None:
            self._end_process(session)
        elif order == "stop":
            self._stop()
        else:
            is_quiet = order == "quiet"
            log.info(
                "Quiet: no job is claimed until told otherwise." if is_quiet else "Jobs are claimed again."
            )
            self._enter(ServerMode.QUIET if is_quiet else ServerMode.RUNNING, {"quiet": is_quiet})


def _status_of_child(status: ChildStatus, child: _KnownChild) -> ChildStatus:
    """Return the status of a place with what is known of this child there."""
    now = time.monotonic()
    status = attrs.evolve(
        status, pid=child.process.pid, age=now - child.started_at, has_session=child.session is not None,
        has_loaded=child.memory is not None, waited=None if child.began_at is None else now - child.began_at,
        silence=None, turned=None, workers=NO_WORKERS, rss_bytes=0,
    )  # fmt: skip
    return status if child.memory is None else reported(status, child.memory)


def _is_in_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _shared(undo: contextlib.ExitStack) -> int:
    descriptor = share_memory()
    undo.callback(os.close, descriptor)
    return descriptor


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        undo.callback(os.close, end)
    return ends


def exit_code_of(error: FirelockError) -> int:
    """Return the exit code of a server that cannot start.

    A layout that does not fit counts as usage: it stays so until a person upgrades or migrates.
    """
    is_unreachable = isinstance(error, StorageError) and not isinstance(error, SchemaMismatch)
    return EXIT_UNREACHABLE if is_unreachable else EXIT_USAGE


def share(total: int, places: int, place: int) -> int:
    """Return how many of a server's workers a child gets: equal shares, the first ones one more."""
    return max(1, total // places + (1 if place < total % places else 0))
