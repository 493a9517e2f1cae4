"""What runs jobs: executors, dispatcher and upkeep under one session, in whatever process."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import attrs

from firelock.context import Console
from firelock.errors import ConfigurationError, FirelockError, StorageError
from firelock.hookspecs import ServerInfo
from firelock.options import Executor
from firelock.queue_choice import QueueChoice, parse_queues
from firelock.server.attempt import CancelKind, Runner
from firelock.server.dispatcher import Dispatcher
from firelock.server.loading import load_app, load_module
from firelock.server.process_state import die_with_parent, enable_loggers, keep_streams_open, log_to_stderr
from firelock.server.shared_memory import Board
from firelock.server.supervisor import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, share
from firelock.server.upkeep import Metrics, Upkeep
from firelock.server.workers import AsyncWorkers, Desk, ThreadWorkers
from firelock.values import Holder

if TYPE_CHECKING:
    from firelock.runtime import Runtime

__all__ = [
    "Child",
    "check_runnable",
]

log = logging.getLogger("firelock.server.child")  # also where this module is the program

_CANCEL_GRACE = 5.0  # for cancelled jobs to end, before they are handed back under their own feet
_LEAST_GRACE = 1.0  # of that also in a hurry, or a job that heeds its cancellation could run twice at once
_SETTLE_GRACE = 10.0  # for the last ends to be written
_THREAD_GRACE = 0.5


@attrs.define(eq=False)
class Child:
    """One set of workers.

    Args:
        runtime: of an app, with its tasks registered.
        board: with a place for each thread and each coroutine.
        server: for hooks and histories.
        queues: what to claim from.
        workers: threads.
        async_workers: coroutines at once.
        app_spec: how a process of its own finds the app; None where it cannot.
        on_session_lost: called from the dispatcher's thread with the id of a session found dead.
        storage: a URL that the server's command line gave in place of the app's own.
        imports: modules with tasks that it named.
    """

    runtime: Runtime
    board: Board
    server: ServerInfo
    queues: QueueChoice
    workers: int
    async_workers: int
    app_spec: str | None
    on_session_lost: Callable[[str], None]
    storage: str | None = None
    imports: Sequence[str] = ()
    _is_hurried: threading.Event = attrs.field(init=False, factory=threading.Event)
    _is_over: threading.Event = attrs.field(init=False, factory=threading.Event)
    _threads: ThreadWorkers = attrs.field(init=False)
    _coroutines: AsyncWorkers = attrs.field(init=False)
    _dispatcher: Dispatcher = attrs.field(init=False)
    _upkeep: Upkeep = attrs.field(init=False)
    _waker: threading.Thread = attrs.field(init=False)

    def start(self, session_id: str) -> None:
        """Jobs are claimed and run for this session.

        Raises:
            ConfigurationError: there is no task to run.
        """
        check_runnable(self.runtime, self.app_spec)
        console, metrics = Console(self.runtime.clock.now), Metrics()
        desk = Desk(
            Runner(self.runtime, console),
            console,
            self.board,
            self.server,
            self.app_spec,
            self._wake,
            self.storage,
            self.imports,
        )
        self._threads = ThreadWorkers(desk, self.workers)
        self._coroutines = AsyncWorkers(desk, self.async_workers, self.workers)
        self._dispatcher = Dispatcher(
            self.runtime,
            desk,
            threads=self._threads,
            coroutines=self._coroutines,
            queues=self.queues,
            metrics=metrics,
        )
        self._upkeep = Upkeep(
            self.runtime,
            desk,
            dispatcher=self._dispatcher,
            coroutines=self._coroutines,
            metrics=metrics,
            board=self.board,
        )
        self._dispatcher.on_next_due = self._upkeep.next_due
        self._dispatcher.on_session_lost = self.on_session_lost
        self._dispatcher.on_contact = lambda is_there: self._upkeep.contact(is_there=is_there)
        self._waker = threading.Thread(target=self._wait_for_work, name="firelock-waker", daemon=True)
        self.board.adopt_session()
        self._dispatcher.start(Holder(session_id, self.server.name))
        self._upkeep.start()  # after the session is adopted: before, the right to run looks lost
        log.info("Jobs are run from now on.", extra={"session": session_id})
        self._waker.start()

    def adopt(self, session_id: str) -> None:
        """A new session takes the place of one that was lost."""
        log.warning("The session of this server was lost; what ran is cancelled, a new session begins.")
        self._dispatcher.adopt(Holder(session_id, self.server.name))

    def quiet(self, *, is_quiet: bool) -> None:
        """No more jobs are claimed, or again."""
        self._dispatcher.quiet(is_quiet=is_quiet)

    def _wake(self) -> None:
        self._dispatcher.wake()  # made after the executors that call it

    # ---- the wake-up -------------------------------------------------------------------------------------

    def _wait_for_work(self) -> None:
        storage, poll = self.runtime.storage, self.runtime.settings.poll
        names = self.queues.names
        while not self._is_over.is_set():
            try:
                has_work = storage.wait(names, poll)
            except StorageError:
                self._is_over.wait(poll)
                continue
            except Exception:  # without this thread every job would wait for the poll
                log.exception("The wait for work met an error that it does not know; it goes on.")
                self._is_over.wait(poll)
                continue
            if has_work:
                self._dispatcher.work_came()
                self._dispatcher.wait_until_dry(poll)  # while workers are busy, work that waits is no news

    # ---- stopping ----------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """A stop that is under way waits for no job any more."""
        self._is_hurried.set()

    def stop(self, grace: float) -> list[str]:
        """Nothing is claimed; jobs had the grace time to end, then were cancelled, then handed back.

        Return the ids of jobs that still run although they were handed back: threads cannot be ended.
        """
        self._dispatcher.quiet(is_quiet=True)
        self._wait_for(lambda: self._dispatcher.is_quiet, _CANCEL_GRACE)  # a claim under way brings jobs yet
        self._wait_until_idle(grace)
        for run in self._dispatcher.runs():
            run.cancel(CancelKind.STOP, "server stopping")
        self._wait_for(lambda: self._dispatcher.is_drained, _LEAST_GRACE)
        self._wait_until_idle(_CANCEL_GRACE - _LEAST_GRACE if grace else 0.0)
        stuck = [run.job.id for run in self._dispatcher.runs()]
        if stuck:
            log.warning(
                "%d jobs ignore their cancellation; they are handed back while they still run.", len(stuck)
            )
        if not self._dispatcher.is_drained:
            self._dispatcher.abandon("server stopped while the job was running")
        self._wait_for(lambda: self._dispatcher.holds_nothing, _SETTLE_GRACE)
        self._is_over.set()
        self.runtime.storage.interrupt()
        if not self._dispatcher.stop(_SETTLE_GRACE):
            log.error("The last ends could not be written: the storage does not answer.")
        self._upkeep.stop(_SETTLE_GRACE)
        self._threads.close(_THREAD_GRACE)
        self._coroutines.close(_THREAD_GRACE)
        self._waker.join(_THREAD_GRACE)
        return stuck

    def _wait_until_idle(self, seconds: float) -> None:
        self._wait_for(lambda: self._dispatcher.is_drained or self._is_hurried.is_set(), seconds)

    @staticmethod
    def _wait_for(is_so: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not is_so() and time.monotonic() < deadline:
            pause.wait(0.01)


def check_runnable(runtime: Runtime, app_spec: str | None) -> None:
    """The app has tasks, every signature can be bound, and tasks that need a process can have one.

    Raises:
        ConfigurationError: it has none, or a process could not find the app.
        TaskError: a task's annotations cannot be used.
    """
    tasks = runtime.tasks.runnable()
    if not tasks:
        message = (
            "This server has no task to run. Decorate functions with @fire.task, and name their modules in "
            'Firelock(imports=["app.tasks"]) or by --import.'
        )
        raise ConfigurationError(message)
    for info in tasks:
        runtime.tasks.binder(info)
        if info.executor is Executor.PROCESS and app_spec is None:
            message = (
                f'Task {info.name!r} has executor="process", but the app stands in no module that another '
                "process could import. Make it a module's global variable."
            )
            raise ConfigurationError(message)


_PROGRAM = "firelock"


class ChildProcess:
    """Imports the app, asks for a session, runs jobs, and obeys its supervisor line by line."""

    def __init__(self, orders: IO[str], reports: IO[str], memory: int, options: dict[str, Any]) -> None:
        self._orders = orders
        self._reports = reports
        self._memory = memory  # the descriptor of what becomes the board
        self._options = options
        self._child: Child | None = None
        self._stopping: queue.SimpleQueue[float] = queue.SimpleQueue()

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        app = load_app(self._options["app_spec"], storage=self._options["storage"])
        runtime = app.runtime
        for name in self._options["imports"]:
            load_module(name)
        enable_loggers()
        check_runnable(runtime, self._options["app_spec"])
        queues = parse_queues(self._options["queues"])
        total = self._options["workers"] or runtime.settings.worker_count
        coroutines = self._options["async_workers"] or runtime.settings.async_workers
        workers = share(total, self._options["processes"], self._options["place"])
        board = Board.allocate(self._memory, workers + coroutines)
        os.close(self._memory)
        server = ServerInfo(
            self._options["server_id"], self._options["name"], str(queues), total, os.getpid()
        )
        about = self._about(runtime, server) if self._options["is_first"] else []
        if self._options["is_first"]:
            runtime.storage.clock()  # connects: an unreachable storage is said here, in one line
            app.recurring.sync()
        runtime.plugins.worker_process_started(server)
        enable_loggers()  # a plugin may configure logging there
        self._child = Child(
            runtime, board, server, queues, workers, coroutines, self._options["app_spec"],
            self._report_lost, self._options["storage"], self._options["imports"],
        )  # fmt: skip
        self._say({"ready": {
            "storage": runtime.storage.connect_url, "settings": runtime.settings.to_json(),
            "workers": workers, "queues": str(queues), "about": about, "places": board.workers,
        }})  # fmt: skip
        threading.Thread(target=self._obey_all, name="firelock-orders", daemon=True).start()
        grace = self._stopping.get()
        stuck = self._child.stop(grace)
        if self._options["place"] == 0:
            runtime.plugins.server_stopped(server)
        runtime.plugins.worker_process_stopped(server)
        app.close()
        if stuck:
            logging.shutdown()
            os._exit(EXIT_OK)  # threads cannot be ended, and their jobs have been handed back
        return EXIT_OK

    @staticmethod
    def _about(runtime: Runtime, server: ServerInfo) -> list[str]:
        tasks = len(runtime.tasks.runnable())
        lines = [
            f"Firelock server {server.name}: {server.workers} workers, queues {server.queues}, {tasks} tasks"
        ]
        lines += [f"  {name}: {value}" for name, value in runtime.storage.describe().items()]
        lines += [
            f"  plugin {info.name}: {info.distribution} {info.version}".rstrip()
            for info in runtime.plugins.listing()
            if info.distribution != _PROGRAM
        ]
        return lines

    # ---- the two pipes -----------------------------------------------------------------------------------

    def _say(self, report: dict[str, Any]) -> None:
        try:
            self._reports.write(json.dumps(report) + "\n")
            self._reports.flush()
        except OSError:
            os._exit(EXIT_FAILED)  # the supervisor is gone, and with it the session

    def _report_lost(self, session: str) -> None:
        self._say({"session_lost": session})

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self._orders:
            yield json.loads(line)

    def _obey_all(self) -> None:
        """Obey until the supervisor is gone, and nobody renews the session any more; who is deaf ends too."""
        try:
            self._obey_each()
        except Exception:
            log.exception("An order could not be obeyed; this child ends, and another takes its place.")
        os._exit(EXIT_FAILED)

    def _obey_each(self) -> None:
        is_started = False
        child = self._child
        if child is None:  # pragma: no cover - it is set before this thread starts
            raise AssertionError(self)
        for order in self._lines():
            if "session" in order and not is_started:
                is_started = True
                child.start(order["session"])
                if self._options["is_first"]:
                    child.runtime.plugins.server_started(child.server)
            elif "session" in order:
                child.adopt(order["session"])
            elif "quiet" in order and is_started:
                child.quiet(is_quiet=order["quiet"])
            elif "stop" in order and not is_started:
                os._exit(EXIT_OK)
            elif "stop" in order:
                self._stopping.put(order["stop"])
            elif "hurry" in order and is_started:
                child.hurry()


def main() -> int:
    """Return the exit code of a child's process."""
    parent, orders, reports, memory, given = sys.argv[1:]
    options = json.loads(given)
    die_with_parent(int(parent))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the supervisor hears them and tells us
    level = logging.DEBUG if options["is_verbose"] else logging.INFO
    keep_streams_open()
    log_to_stderr(level)
    process = ChildProcess(os.fdopen(int(orders)), os.fdopen(int(reports), "w"), int(memory), options)
    try:
        return process.run()
    except ConfigurationError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_USAGE
    except StorageError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_UNREACHABLE
    except FirelockError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
