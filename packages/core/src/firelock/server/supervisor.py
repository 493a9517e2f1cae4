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
from collections.abc import Callable, Collection
from typing import Any

import attrs

from firelock.clock import StorageClock
from firelock.errors import ConfigurationError, FirelockError, StorageError, StorageUnavailable
from firelock.ids import new_id
from firelock.plugins import installed_version, open_storage
from firelock.server.job_process import describe_exit
from firelock.server.session_renewal import SessionKeeper
from firelock.server.shared_memory import Board, share_memory
from firelock.settings import Settings
from firelock.storage import Feature, NewSession, Renewal, Storage

__all__ = ["ServerOptions", "Supervisor"]

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 3
_TICK = 1.0
_STOP_MARGIN = 20.0  # beyond the grace time: a child that has not ended by then is killed
_SHORT_LIFE, _LONGEST_PAUSE = 5.0, 30.0
_TRY_AGAIN = 1.0


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


@attrs.define(eq=False)
class _Child:
    place: int
    process: subprocess.Popen[bytes]
    memory: int  # the descriptor of what the board is made in
    orders: Any  # the pipe's writing end
    started_at: float
    session: str | None = None
    quick_deaths: int = 0
    board: Board | None = None  # once it has imported the app and knows how many workers it has


class Supervisor:
    """One `firelock server`. `run()` returns its exit code."""

    def __init__(self, options: ServerOptions, *, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._id = new_id()
        self._name = options.name or f"{socket.gethostname()}:{os.getpid()}"
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._children: dict[int, _Child] = {}
        self._restarts: list[tuple[float, int, int]] = []  # when, which place, after how many quick deaths
        self._storage: Storage | None = None
        self._settings = Settings()
        self._keeper: SessionKeeper | None = None
        self._workers = 0
        self._queues = "*"
        self._stops_at: float | None = None
        self._signals = 0
        self._exit_code = EXIT_OK
        self._is_up = False
        self._is_quiet = False

    # ---- the loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop by SIGTERM, SIGINT or an order; return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda *_: self._events.put(lambda: self._obey("quiet")))
        try:
            for place in range(self._options.processes):
                self._start_child(place, 0)
        except (OSError, ConfigurationError) as error:
            self._say(f"firelock: no process can be started: {error}")
            self._exit_code = EXIT_FAILED
            self._stop()
        while self._children or (self._restarts and self._stops_at is None):
            with contextlib.suppress(queue.Empty):
                self._do(self._events.get(timeout=_TICK))
            self._do(self._tick)
        self._close()
        return self._exit_code

    @staticmethod
    def _do(event: Callable[[], None]) -> None:
        """The event is dealt with, whatever it meets: if this loop ended, every child would end with it."""
        try:
            event()
        except Exception:
            log.exception("The supervisor met an error that it does not know; it goes on.")

    def _later(self, event: Callable[[], None]) -> None:
        timer = threading.Timer(_TRY_AGAIN, lambda: self._events.put(event))
        timer.daemon = True
        timer.start()

    def _signalled(self, *_: object) -> None:
        self._events.put(self._stop)

    def _tick(self) -> None:
        now = time.monotonic()
        for restart in [restart for restart in self._restarts if restart[0] <= now]:
            self._restarts.remove(restart)
            if self._stops_at is None:
                self._start_again(restart[1], restart[2])
        for child in list(self._children.values()):
            silence = now - child.started_at if child.board is None else child.board.silence()
            if silence > self._settings.child_silence:
                log.error(
                    "Child %d has reported nothing for %.0f s; it is killed.", child.process.pid, silence
                )
                child.process.kill()
            elif self._stops_at is not None and now > self._stops_at:
                log.error("Child %d did not end in time; it is killed.", child.process.pid)
                child.process.kill()

    def _close(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()
        if self._storage is not None:
            self._storage.close()

    # ---- children ----------------------------------------------------------------------------------------

    def _start_again(self, place: int, quick_deaths: int) -> None:
        try:
            self._start_child(place, quick_deaths)
        except (OSError, ConfigurationError) as error:
            log.error("No process can be started, trying again in %.0f s: %s", _LONGEST_PAUSE, error)
            self._restarts.append((time.monotonic() + _LONGEST_PAUSE, place, quick_deaths))

    def _start_child(self, place: int, quick_deaths: int) -> None:
        """Start a process; it says which storage and settings it has, and gets its session then.

        Raises:
            OSError: the system gives no process, or none of the pipes that one needs.
            ConfigurationError: the system gives no shared memory.
        """
        with contextlib.ExitStack() as undo:
            memory = share_memory()
            undo.callback(os.close, memory)
            orders_read, orders_write = self._pipe(undo)
            reports_read, reports_write = self._pipe(undo)
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "firelock.server.child", str(os.getpid()), str(orders_read),
                 str(reports_write), str(memory), self._child_options(place)],
                pass_fds=(orders_read, reports_write, memory),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's interrupt comes to us alone; we tell the children
            )  # fmt: skip
            undo.pop_all()
        os.close(orders_read)
        os.close(reports_write)
        child = _Child(place, process, memory, os.fdopen(orders_write, "w"), time.monotonic())
        child.quick_deaths = quick_deaths
        self._children[process.pid] = child
        threading.Thread(target=self._listen, args=(child, reports_read), daemon=True).start()
        threading.Thread(target=self._await_exit, args=(child,), daemon=True).start()

    @staticmethod
    def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
        ends = os.pipe()
        for end in ends:
            undo.callback(os.close, end)
        return ends

    def _child_options(self, place: int) -> str:
        return json.dumps(
            {
                **attrs.asdict(self._options),
                "place": place,
                "server_id": self._id,
                "name": self._name,
                "is_first": place == 0 and not self._is_up,
            }
        )

    def _listen(self, child: _Child, reports: int) -> None:
        with os.fdopen(reports) as lines:
            for line in lines:
                report = json.loads(line)
                self._events.put(lambda report=report: self._report(child, report))  # type: ignore[misc]

    def _await_exit(self, child: _Child) -> None:
        child.process.wait()
        self._events.put(lambda: self._exited(child))

    def _report(self, child: _Child, report: dict[str, Any]) -> None:
        if "ready" in report:
            self._introduce(child, report["ready"])
        elif "session_lost" in report:
            self._begin_anew(report["session_lost"])

    def _introduce(self, child: _Child, ready: dict[str, Any]) -> None:
        """A child has imported the app: open its storage, if it is the first, and begin its session."""
        is_first = self._keeper is None
        try:
            child.board = Board.attach(child.memory, ready["places"])
            keeper = self._keeper or self._open(ready)
            for line in ready["about"]:  # the first child tells it, whichever is ready first
                self._say(line)
            if is_first:
                self._begin(keeper, child)
        except FirelockError as error:
            self._say(f"firelock: {error}")
            self._exit_code = EXIT_UNREACHABLE if isinstance(error, StorageError) else EXIT_USAGE
            self._stop()
            child.process.kill()
            return
        if not is_first:
            self._begin_when_possible(keeper, child, None)

    def _open(self, ready: dict[str, Any]) -> SessionKeeper:
        storage = open_storage(ready["storage"])
        if Feature.SHARED not in storage.features:
            message = (
                f"{storage.url} lives in one process, and a server's children are others. Use "
                "sqlite:///jobs.db, or run fire.server() inside the process that enqueues."
            )
            raise StorageError(message)
        self._storage = storage
        self._settings = Settings.from_json(ready["settings"])
        self._workers, self._queues = ready["workers"], ready["queues"]
        self._keeper = SessionKeeper(
            storage, self._settings, self._id,
            on_lost=lambda session: self._events.put(lambda: self._begin_anew(session)),
            on_order=lambda order: self._events.put(lambda: self._obey(order)),
        )  # fmt: skip
        self._keeper.start()
        self._is_up = True
        return self._keeper

    def _begin(self, keeper: SessionKeeper, child: _Child) -> None:
        if self._storage is None or child.board is None or self._stops_at is not None:
            return  # it has been told to stop
        session = NewSession(
            new_id(), self._id, self._name, socket.gethostname(), child.process.pid,
            StorageClock(self._storage).now(), float(self._settings.session_timeout), self._workers,
            self._queues, installed_version(),
        )  # fmt: skip
        keeper.begin(session, child.board)
        child.session = session.id
        self._tell(child, {"session": session.id})
        if self._is_quiet:
            keeper.mark("quiet")
            self._tell(child, {"quiet": True})

    def _begin_when_possible(self, keeper: SessionKeeper, child: _Child, former: str | None) -> None:
        """The child has a session in place of its former one; while the storage is away it is tried again."""
        if child.session != former or child.process.poll() is not None:
            return
        try:
            self._begin(keeper, child)
        except StorageError as error:
            log.warning("No new session yet, trying again: %s", error)
            self._later(lambda: self._begin_when_possible(keeper, child, former))

    def _begin_anew(self, lost: str) -> None:
        """A session is dead: its child, if it lives, gets another one and drops what it held."""
        keeper = self._keeper
        if keeper is None:
            return
        keeper.forget(lost)
        for child in self._children.values():
            if child.session == lost:
                self._begin_when_possible(keeper, child, lost)

    def _exited(self, child: _Child) -> None:
        """A child has ended: what it held goes back now, blaming what it ran if it did not end in order."""
        code = child.process.returncode
        is_stopping = self._stops_at is not None
        del self._children[child.process.pid]
        with contextlib.suppress(OSError):  # an order that it did not live to read is still in the buffer
            child.orders.close()
        running = [] if child.board is None else child.board.running()
        if child.session is not None:
            # A job may end its process with exit code 0 as well; only who was told to stop ends in order.
            self._end_session(child, () if is_stopping and code == EXIT_OK else running)
        if child.board is not None:
            child.board.close()
        os.close(child.memory)
        if is_stopping:
            if code != EXIT_OK and self._exit_code == EXIT_OK:
                self._exit_code = EXIT_FAILED  # it did not end in order, so the server did not either
            return
        if self._is_up:
            self._restart(child, code, was_running=bool(running))
            return
        self._exit_code = code if code in {EXIT_USAGE, EXIT_UNREACHABLE} else EXIT_FAILED
        self._stop()

    def _end_session(self, child: _Child, running: Collection[str]) -> None:
        keeper, storage, session = self._keeper, self._storage, child.session
        if keeper is None or storage is None or session is None:
            return
        keeper.forget(session)
        code = child.process.returncode
        reason = (
            "server stopped"
            if code == EXIT_OK and not running
            else f"its process died: {describe_exit(code)}"
        )
        if self._stops_at is not None:
            with contextlib.suppress(StorageError):  # how it is listed; its end matters more
                storage.renew([Renewal(session, state="stopping")])
        try:
            taken = storage.end_session(session, running, reason=reason)
        except StorageUnavailable as error:
            log.warning("Session %s could not be ended; until it is, its jobs wait: %s", session, error)
            if self._stops_at is None:
                self._later(lambda: self._end_session(child, running))
            return
        except StorageError as error:
            log.warning("Session %s could not be ended, so its jobs wait for its timeout: %s", session, error)
            return
        if taken.crashed:
            log.warning(
                "Child %d died (%s); it was running %s.", child.process.pid, reason, ", ".join(taken.crashed)
            )

    def _restart(self, child: _Child, code: int, *, was_running: bool) -> None:
        """Another child starts: at once where a job may have killed this one, since crashes bound that."""
        lived = time.monotonic() - child.started_at
        deaths = child.quick_deaths + 1 if lived < _SHORT_LIFE and not was_running else 0
        pause = 0.0 if deaths <= 1 else min(_LONGEST_PAUSE, 2.0 ** (deaths - 2))
        log.warning(
            "Child %d ended (%s); another starts in %.0f s.", child.process.pid, describe_exit(code), pause
        )
        self._restarts.append((time.monotonic() + pause, child.place, deaths))
        self._events.put(lambda: None)

    # ---- orders ------------------------------------------------------------------------------------------

    def _tell(self, child: _Child, order: dict[str, Any]) -> None:
        try:
            child.orders.write(json.dumps(order) + "\n")
            child.orders.flush()
        except OSError:
            log.debug("Child %d ended before it could be told %s.", child.process.pid, order)

    def _tell_all(self, order: dict[str, Any]) -> None:
        for child in self._children.values():
            self._tell(child, order)

    def _stop(self) -> None:
        """First: children stop in order. Again: they hand back at once. A third time: they are killed."""
        self._signals += 1
        if self._signals == 1:
            grace = self._settings.grace
            self._stops_at = time.monotonic() + grace + _STOP_MARGIN
            if self._keeper is not None:
                self._keeper.mark("stopping")
            self._tell_all({"stop": grace})
        elif self._signals == 2:  # noqa: PLR2004 - the second signal
            self._stops_at = time.monotonic() + _STOP_MARGIN
            self._tell_all({"hurry": True})
        else:
            for child in self._children.values():
                child.process.kill()

    def _obey(self, order: str) -> None:
        if order == "stop":
            if self._signals == 0:
                self._stop()
            return
        self._is_quiet = order == "quiet"
        if self._keeper is not None:
            self._keeper.mark("quiet" if self._is_quiet else "running")
        self._tell_all({"quiet": self._is_quiet})


def share(total: int, places: int, place: int) -> int:
    """Return how many of a server's workers a child gets: equal shares, the first ones one more."""
    return max(1, total // places + (1 if place < total % places else 0))
