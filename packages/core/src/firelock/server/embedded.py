"""A server inside another process, such as a web application's: for development and for small work."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from firelock.aio import in_thread
from firelock.errors import ConfigurationError, StorageError
from firelock.hookspecs import ServerInfo
from firelock.ids import new_id
from firelock.plugins import installed_version
from firelock.queue_choice import parse_queues
from firelock.server.child import Child, check_runnable
from firelock.server.loading import locate_app, locate_tasks
from firelock.server.session_renewal import SessionKeeper
from firelock.server.shared_memory import Board
from firelock.storage import NewSession, Renewal

if TYPE_CHECKING:
    from firelock.runtime import ServedApp

__all__ = ["InsideServer"]

log = logging.getLogger(__name__)

_BEGIN_AGAIN = 1.0  # seconds between two tries to begin a session


class InsideServer:
    """Supervisor and child in this process; see `Firelock.server` for what that gives up.

    A context manager; or `start()` and `stop()`; or `run()`, which serves until SIGINT or SIGTERM.
    """

    def __init__(
        self,
        app: ServedApp,
        *,
        queues: Sequence[str] | str | None,
        workers: int | None,
        async_workers: int | None,
        name: str | None,
    ) -> None:
        settings = app.runtime.settings
        self._app = app
        self._queues = parse_queues(queues)
        self._workers = settings.worker_count if workers is None else _at_least_one("workers", workers)
        self._async_workers = (
            settings.async_workers if async_workers is None else _at_least_one("async_workers", async_workers)
        )
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._child: Child | None = None
        self._server: ServerInfo | None = None
        self._session = ""
        self._stopping = threading.Lock()
        self._renewing = threading.Lock()
        self._is_stopping = threading.Event()
        self._stop_asked = threading.Event()

    def start(self) -> Self:
        """Jobs are claimed and run from now on.

        Raises:
            ConfigurationError: there is no task, or it runs already.
            StorageError: the storage cannot be reached.
        """
        if self._child is not None:
            message = f"Server {self.name} runs already; stop it first, or make another."
            raise ConfigurationError(message)
        self._is_stopping.clear()
        self._stop_asked.clear()
        app = self._app
        app.load_imports()
        app_spec, runtime = locate_app(app), app.runtime
        check_runnable(runtime, app_spec)
        self._runtime = runtime
        server = self._server = ServerInfo(new_id(), self.name, str(self._queues), self._workers, os.getpid())
        self._board = Board.create(self._workers + self._async_workers)
        self._keeper = SessionKeeper(
            runtime.storage, runtime.settings, server.id, on_lost=self._begin_anew, on_order=self._obey
        )
        try:
            app.recurring.sync()
            runtime.plugins.worker_process_started(server)  # before the session: nothing is left of a failure
            self._session = self._begin()
        except BaseException:
            self._board.close()
            raise
        self._keeper.start()
        self._child = Child(
            runtime, self._board, server, self._queues, self._workers, self._async_workers, app_spec,
            self._begin_anew, imports=locate_tasks(runtime.tasks),
        )  # fmt: skip
        self._child.start(self._session)
        runtime.plugins.server_started(server)
        return self

    def _begin(self) -> str:
        server = self._server
        if server is None:  # pragma: no cover - `start` has set it
            raise AssertionError(self)
        session = NewSession(
            new_id(), server.id, server.name, socket.gethostname(), os.getpid(), self._runtime.clock.now(),
            float(self._runtime.settings.session_timeout), self._workers, str(self._queues),
            installed_version(),
        )  # fmt: skip
        self._keeper.begin(session, self._board)
        return session.id

    def _begin_anew(self, lost: str) -> None:
        """Begin another session in a thread of its own: who finds the loss must not wait for the storage."""
        threading.Thread(target=self._replace, args=(lost,), name="firelock-session", daemon=True).start()

    def _replace(self, lost: str) -> None:
        with self._renewing:
            while lost == self._session and not self._is_stopping.is_set():
                self._keeper.forget(lost)
                try:
                    self._session = self._begin()
                except StorageError as error:
                    log.warning("No new session yet, trying again: %s", error)
                    self._is_stopping.wait(_BEGIN_AGAIN)
                    continue
                if self._child is not None:
                    self._child.adopt(self._session)

    def _obey(self, order: str) -> None:
        if self._child is None:
            return
        if order == "stop":
            self._stop_asked.set()
            threading.Thread(target=self.stop, name="firelock-stop").start()
        else:
            self._child.quiet(is_quiet=order == "quiet")
            self._keeper.mark("quiet" if order == "quiet" else "running")

    def stop(self, *, grace: float | None = None) -> None:
        """Running jobs had the grace time to end, the rest is handed back; stopping twice is fine."""
        with self._stopping:
            child = self._child
            if child is None or self._server is None:
                return
            self._is_stopping.set()
            self._keeper.mark("stopping")
            stuck = child.stop(self._runtime.settings.grace if grace is None else grace)
            self._child = None
            with self._renewing:
                self._keeper.stop()
                self._keeper.forget(self._session)
            self._end_session()
            if not stuck:  # who still runs writes to it
                self._board.close()
            self._runtime.plugins.server_stopped(self._server)
            self._runtime.plugins.worker_process_stopped(self._server)
        self._stop_asked.set()

    def _end_session(self) -> None:
        session = self._session
        with contextlib.suppress(StorageError):  # how it is listed; its end matters more
            self._runtime.storage.renew([Renewal(session, state="stopping")])
        try:
            self._runtime.storage.end_session(session, (), reason="server stopped")
        except StorageError as error:
            log.warning("Session %s could not be ended, so its jobs wait for its timeout: %s", session, error)

    @property
    def is_running(self) -> bool:
        """Tell whether it runs jobs."""
        return self._child is not None

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; a second one hurries.

        Raises:
            ConfigurationError: it is called from another thread than the main one; and as `start`.
        """
        if threading.current_thread() is not threading.main_thread():
            message = "run() hears signals, which only the main thread can; use start() and stop() elsewhere."
            raise ConfigurationError(message)
        former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def ask(*_: object) -> None:
            if self._stop_asked.is_set() and self._child is not None:
                self._child.hurry()
            self._stop_asked.set()

        for number in former:  # first: a signal that comes while it starts stops it in order
            signal.signal(number, ask)
        try:
            self.start()
            while not self._stop_asked.wait(0.5):
                continue
            self.stop()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start without blocking the event loop."""
        return await in_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop without blocking the event loop."""
        await in_thread(self.stop)


def _at_least_one(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:  # noqa: PLR2004
        message = f"{name}={value!r} is refused; pass a whole number from 1 to 10000."
        raise ConfigurationError(message)
    return value
