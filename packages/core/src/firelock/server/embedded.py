"""A server inside another process, such as a web application's process, for development and small loads."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Self

import attrs

from firelock.control.servers import session_to_end
from firelock.errors import ConfigurationError, StorageError
from firelock.model.aio import in_thread
from firelock.model.ids import new_id
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.job_counters import counted_here
from firelock.server.job_process import JobProcessSpec, running_script
from firelock.server.probes import (
    LOOPBACK,
    ProbeListener,
    ProcessStatus,
    ServerStatus,
    probe_pages,
    reported,
)
from firelock.server.queue_choice import QueueChoice, parse_queues
from firelock.server.session_renewal import SessionRenewal
from firelock.server.shared_memory import SharedMemory
from firelock.server.worker_process import WorkerProcess, check_runnable, store_declared
from firelock.server.workers import thread_count
from firelock.task import MAIN_MODULES

if TYPE_CHECKING:
    import asyncio

    from firelock.runtime import ServedApp
    from firelock.task import Registry

log = logging.getLogger(__name__)

_BEGIN_AGAIN = 1.0  # seconds between two attempts to create a session


class EmbeddedServer:
    """A supervisor and a worker process in this process; see `Firelock.server` for the drawbacks.

    Use it as a context manager, with `start()` and `stop()`, or with `run()`, which serves until SIGINT or
    SIGTERM.
    """

    def __init__(
        self,
        app: ServedApp,
        *,
        queues: Sequence[str] | str | None,
        workers: int | None,
        async_workers: int | None,
        name: str | None,
        probe_port: int | None = None,
        probe_host: str = LOOPBACK,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        settings = app.runtime.settings
        self._app = app
        self._queues = parse_queues(queues)
        self._threads = (
            thread_count(settings.workers) if workers is None else _checked_integer("workers", workers)
        )
        self._coroutines = (
            settings.async_workers
            if async_workers is None
            else _checked_integer("async_workers", async_workers)
        )
        self._loop = _open_loop(loop)
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._probe_port = (
            0 if probe_port is None else _checked_integer("probe_port", probe_port, most=65_535)
        )
        self._probe_host = probe_host
        self._probes: ProbeListener | None = None
        self._running: _RunningServer | None = None
        self._stopping = threading.Lock()
        self._stop_requested = threading.Event()

    def start(self) -> Self:
        """Start claiming and running jobs.

        Raises:
            ConfigurationError: If the app has no tasks, or the server is already running.
            StorageError: If the storage is unreachable.
        """
        if self._running is not None:
            raise ConfigurationError(
                f"Server {self.name} is already running; stop it first, or create another one."
            )
        self._stop_requested.clear()
        self._app.load_imports()
        if self._probe_port:
            self._probes = ProbeListener(
                self._probe_host, self._probe_port, probe_pages(self.status, counted_here)
            )
        try:
            self._begin()
        except BaseException:
            self._end_probes()
            raise
        if self._stop_requested.is_set():  # a stop was requested during the start
            self.stop()
        return self

    def _begin(self) -> None:
        server = ServerInfo(new_id(), self.name, str(self._queues), self._threads, os.getpid())
        self._running = _RunningServer(
            self._app, server, self._queues, self._threads, self._coroutines, self._stop_in_thread, self._loop
        )

    def _end_probes(self) -> None:
        if self._probes is not None:
            self._probes.close()
            self._probes = None

    def status(self) -> ServerStatus:
        """Return the current status of the server from memory. Thread-safe."""
        settings, running = self._app.runtime.settings, self._running
        status = ServerStatus(
            name=self.name, mode="running", processes=(ProcessStatus(place=0),),
            hang_timeout=settings.hang_timeout, heartbeat=settings.heartbeat,
        )  # fmt: skip
        return status if running is None else running.status(status)

    def _stop_in_thread(self) -> None:
        self._stop_requested.set()
        threading.Thread(target=self.stop, name="firelock-stop").start()

    def stop(self, *, grace: float | None = None) -> None:
        """Wait for jobs until the grace period ends, hand back unfinished jobs, and stop.

        A second call does nothing.

        Raises:
            ConfigurationError: If the server runs jobs on the event loop that this call would block.
        """
        self._refuse_on_loop()
        with self._stopping:
            if self._running is None:
                return
            self._running.end(self._app.runtime.settings.grace if grace is None else grace)
            self._running = None
            self._end_probes()
        self._stop_requested.set()

    def _refuse_on_loop(self) -> None:
        asyncio = sys.modules.get("asyncio")
        if self._loop is not None and asyncio is not None and asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - the public function raises if there is none
            raise ConfigurationError(
                f"Server {self.name} runs jobs on this event loop, which cannot wait for them while it runs "
                "them. Use `async with fire.server(loop=…)`, or stop the server in a thread."
            )

    @property
    def is_running(self) -> bool:
        """Whether the server runs jobs."""
        return self._running is not None

    def run(self) -> None:
        """Run the server until SIGINT or SIGTERM; after a second signal, it stops without waiting for jobs.

        Raises:
            ConfigurationError: If this is not the main thread, or for the same reasons as in `start`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "run() handles signals, so it must run in the main thread; use start() and stop() in other "
                "threads."
            )
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def request_stop(*_: object) -> None:
            if self._stop_requested.is_set() and self._running is not None:
                self._running.hurry()
            self._stop_requested.set()

        for number in previous:  # set first, so that a signal during the start stops the server normally
            signal.signal(number, request_stop)
        try:
            self.start()
            while not self._stop_requested.wait(0.5):
                continue
            self.stop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        """Start the server."""
        self._refuse_on_loop()  # checked here, because an error in `__exit__` would leave the server running
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start the server without blocking the event loop."""
        return await in_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        """Stop the server without blocking the event loop."""
        await in_thread(self.stop)


@attrs.define(eq=False, slots=False)
class _RunningServer:
    """A running server, from its start to its stop."""

    _app: ServedApp
    _server: ServerInfo
    _queues: QueueChoice
    _threads: int
    _coroutines: int
    _on_stop: Callable[[], None]
    _loop: asyncio.AbstractEventLoop | None = None
    _renewing: threading.Lock = attrs.Factory(threading.Lock)
    _ending: threading.Event = attrs.Factory(threading.Event)
    _started_at: float = attrs.Factory(time.monotonic)

    def __attrs_post_init__(self) -> None:
        app, server, runtime = self._app, self._server, self._app.runtime
        app_spec = locate_app(app)
        check_runnable(runtime, can_be_found=app_spec is not None)
        clocks = runtime.clock.host
        self._memory = SharedMemory.create(self._threads + self._coroutines, clocks.elapsed)
        self._sessions = SessionRenewal(
            runtime.storage, runtime.settings, server, on_lost=self._replace_in_thread, on_order=self._obey,
            clocks=clocks,
        )  # fmt: skip
        with ExitStack() as undo:  # stops the started parts if a later part fails to start
            undo.callback(self._memory.close)
            store_declared(app)
            self._app.runtime.plugins.worker_process_started(server)
            self._session = self._begin()
            undo.callback(self._end_session)
            spec = None
            if app_spec is not None:
                spec = JobProcessSpec(
                    app_spec, server, imports=locate_tasks(runtime.tasks),
                    ready_seconds=runtime.settings.hang_timeout,
                )  # fmt: skip
            self._process = WorkerProcess(
                runtime, self._memory, server, self._queues, self._threads, self._coroutines, spec,
                self._replace_in_thread, self._loop,
            )  # fmt: skip
            undo.callback(self._sessions.stop)
            self._sessions.start()
            undo.callback(self._process.stop, 0)
            self._process.start(self._session)
            undo.pop_all()
        self._app.runtime.plugins.server_started(server)

    def _begin(self) -> str:
        return self._sessions.begin(self._memory, pid=self._server.pid, workers=self._server.workers)

    def status(self, status: ServerStatus) -> ServerStatus:
        """Return the status, completed with data of the running server."""
        now, sessions = time.monotonic(), self._sessions
        process = ProcessStatus(place=0, has_begun=True)
        with suppress(ValueError):  # the server has just stopped
            age = now - self._started_at
            alive = attrs.evolve(process, pid=self._server.pid, age=age, waited=age, has_session=True)
            process = reported(alive, self._memory)
        return attrs.evolve(
            status, mode=sessions.state, processes=(process,),
            reached=None if sessions.reached_at is None else now - sessions.reached_at,
            round_trips=tuple(sessions.round_trips), round_trip_seconds=sessions.round_trip_seconds,
        )  # fmt: skip

    def _replace_in_thread(self, lost: str) -> None:
        """Create another session in a separate thread, because the caller must not wait for the storage."""
        threading.Thread(target=self._replace, args=(lost,), name="firelock-session", daemon=True).start()

    def _replace(self, lost: str) -> None:
        is_repeat = False
        with self._renewing:
            while lost == self._session and not self._ending.is_set():
                self._sessions.forget(lost)
                try:
                    self._session = self._begin()
                except StorageError as error:
                    if not is_repeat:
                        log.warning("No new session yet; retrying every second: %s", error)
                    is_repeat = True
                    self._ending.wait(_BEGIN_AGAIN)
                else:
                    self._process.adopt(self._session)
                    if is_repeat:
                        log.info("The server has a new session.")

    def _obey(self, order: str) -> None:
        if self._ending.is_set():
            return
        if session_to_end(order) is not None:
            log.warning(
                "Ignoring the order to end the worker process of this server: it runs inside the "
                "application. Stop the application instead."
            )
        elif order == "stop":
            self._on_stop()
        else:
            self._process.quiet(is_quiet=order == "quiet")
            self._sessions.mark("quiet" if order == "quiet" else "running")

    def hurry(self) -> None:
        """Stop waiting for jobs while the server stops."""
        self._process.hurry()

    def end(self, grace: float) -> None:
        """Wait for jobs until the grace period ends, hand back unfinished jobs, and end the session."""
        self._ending.set()
        self._sessions.mark("stopping")
        stuck = self._process.stop(grace)
        with self._renewing:
            self._sessions.stop()
        self._end_session()
        if not stuck:  # running jobs still write to this memory
            self._memory.close()
        self._app.runtime.plugins.server_stopped(self._server)
        self._app.runtime.plugins.worker_process_stopped(self._server)

    def _end_session(self) -> None:
        try:
            self._sessions.end(self._session)
        except StorageError as error:
            log.warning(
                "Session %s could not be ended, so its jobs wait until it expires: %s", self._session, error
            )


def _checked_integer(name: str, value: int, *, most: int = 10_000) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigurationError(f"{name} must be an integer from 1 to {most}, got {value!r}.")
    return value


def _open_loop(loop: object) -> asyncio.AbstractEventLoop | None:
    if loop is None:
        return None
    import asyncio  # noqa: PLC0415 - loaded by the code that passes a loop

    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise ConfigurationError(
            f"loop must be an event loop, got {loop!r}. Pass asyncio.get_running_loop()."
        )
    if loop.is_closed():
        raise ConfigurationError(
            f"loop={loop!r} is closed; pass the running loop: asyncio.get_running_loop()."
        )
    return loop


# ---- name of the app, for job processes -------------------------------------------------------------------


def locate_app(app: ServedApp) -> str | None:
    """Return a string with which another process can find this app; None if it is not a global variable.

    The module that created the app is tried first, then all others. The running program is tried last,
    because importing it runs its top-level code again.
    """
    found = _places_of(app)
    if not found and app.holder is not None:
        holder, attribute = app.holder
        found = [(name, f"{held}.{attribute}") for name, held in _places_of(holder)]
    modules = [(name, attribute) for name, attribute in found if name not in MAIN_MODULES]
    if modules:
        name, attribute = min(modules, key=lambda each: each[0] != app.module)
        return f"{name}:{attribute}"
    if not found or (script := running_script()) is None:
        return None
    return f"{script.place}:{found[0][1]}"


def _places_of(wanted: object) -> list[tuple[str, str]]:
    """Return each pair of a module and a global name that refers to the object."""
    return [
        (name, attribute)
        for name, module in list(sys.modules.items())
        for attribute, value in list(vars(module).items() if isinstance(module, ModuleType) else ())
        if value is wanted
    ]


def locate_tasks(tasks: Registry) -> tuple[str, ...]:
    """Return the modules of the app's tasks that another process can import by name, without repetition."""
    names = dict.fromkeys(info.function.__module__ for info in tasks.runnable())
    return tuple(
        name
        for name in names
        if name not in MAIN_MODULES and getattr(sys.modules.get(name), "__spec__", None) is not None
    )
