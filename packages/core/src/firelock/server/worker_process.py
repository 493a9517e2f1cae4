"""A worker process: workers that share a session, in a separate process or an application's process."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

import attrs

from firelock.context import Console
from firelock.errors import ConfigurationError, FirelockError, StorageError
from firelock.model.session import ClaimHolder
from firelock.model.text import number_of
from firelock.options import Executor
from firelock.plugins.hookspecs import ServerInfo
from firelock.plugins.observers import EndObservers
from firelock.server.dispatcher import Dispatcher
from firelock.server.job_counters import count_in, count_jobs
from firelock.server.job_process import JobProcessSpec
from firelock.server.loading import load_app, load_module
from firelock.server.logs import LogFormat, log_to_stderr, report_exit
from firelock.server.process_state import die_with_parent, enable_loggers, importing, keep_streams_open
from firelock.server.queue_choice import QueueChoice, parse_queues
from firelock.server.run import CancelKind, JobRunner
from firelock.server.shared_memory import SharedMemory
from firelock.server.supervisor import EXIT_FAILED, EXIT_OK, WorkerProcessOptions, exit_code_of, share
from firelock.server.upkeep import Upkeep
from firelock.server.workers import (
    NO_LIMITS,
    DispatcherInbox,
    ProcessLimits,
    WorkerContext,
    Workers,
    have_ended,
    thread_count,
)
from firelock.storage import Feature, server_work, taken_from

if TYPE_CHECKING:
    import asyncio

    from firelock.runtime import Runtime, ServedApp

log = logging.getLogger("firelock.server.worker_process")  # the same name if this module is the main program

_PROGRAM = "firelock"
_CANCEL_GRACE = 5.0  # seconds within which cancelled jobs must end before they are handed back
_LEAST_GRACE = 1.0  # minimum seconds, so that a job that obeys a cancellation never overlaps itself
_SETTLE_GRACE = 10.0  # seconds within which the last outcomes must be written
_PARKED_GRACE = 1.0  # minimum seconds to wait for locked rows, even if less of the grace period remains
_THREAD_GRACE = 0.5
_DOUBT_PAUSE = 0.05  # minimum seconds between two reconciliations, even if many jobs are lost


@attrs.define(eq=False, slots=False)
class WorkerProcess:
    """The workers that share a session.

    Args:
        runtime: the parts of an app whose tasks are registered.
        memory: the shared memory, with space for each thread and each coroutine.
        server: the server, for hooks and histories.
        queues: the queues to claim from.
        threads: the number of workers for `def` tasks.
        coroutines: the number of `async def` jobs that run at the same time.
        process_spec: how to start a job process; None if such a process could not find the app.
        on_session_lost: called from the dispatcher's thread with the id of an expired session.
        loop: the host's event loop for `async def` jobs; None for a separate one.
        limits: the limits that cause a call of `on_worn`.
        on_worn: called once, with a reason, when a limit is reached; the workers continue until they are
            stopped.
    """

    _runtime: Runtime
    _memory: SharedMemory
    _server: ServerInfo
    _queues: QueueChoice
    _threads: int
    _coroutines: int
    _process_spec: JobProcessSpec | None
    _on_session_lost: Callable[[str], None]
    _loop: asyncio.AbstractEventLoop | None = None
    _limits: ProcessLimits = NO_LIMITS
    _on_worn: Callable[[str], None] | None = None
    _inbox: DispatcherInbox = attrs.Factory(DispatcherInbox)
    _is_hurried: threading.Event = attrs.Factory(threading.Event)
    _is_over: threading.Event = attrs.Factory(threading.Event)

    def __attrs_post_init__(self) -> None:
        runtime, console = self._runtime, Console(self._runtime.clock.now)
        runner = JobRunner(runtime, console, self._memory.may_start)
        self._observers = EndObservers(runtime.plugins.end_observers(), runtime.plugins.slow_observers)
        context = WorkerContext(
            runner, console, self._memory, self._inbox, self._process_spec, limits=self._limits,
            observers=self._observers,
        )  # fmt: skip
        self._workers = Workers(
            context, runtime.tasks, threads=self._threads, coroutines=self._coroutines, loop=self._loop
        )
        self._upkeep = Upkeep(runtime, self._server, context, self._workers, self._on_worn)
        self._dispatcher = Dispatcher(
            runtime, context, self._workers, self._queues, self._upkeep, self._on_session_lost
        )
        self._waker = threading.Thread(target=self._wait_for_work, name="firelock-waker", daemon=True)
        self._watcher = threading.Thread(target=self._watch_claims, name="firelock-watcher", daemon=True)
        self._session = ""

    def start(self, session_id: str) -> None:
        """Start claiming and running jobs for this session. If this fails, `stop` ends the started parts."""
        self._memory.adopt_session()
        self._session = session_id
        self._observers.start()
        self._dispatcher.start(ClaimHolder(session_id, self._server.name))
        self._workers.start()
        self._upkeep.start()  # after adopting the session, because the right to run seems lost until then
        log.info("Running jobs from now on.", extra={"session": session_id})
        self._waker.start()
        if Feature.NOTIFY in self._runtime.storage.features:
            self._watcher.start()

    def adopt(self, session_id: str) -> None:
        """Replace a lost session with a new one."""
        log.warning(
            "The session of this server was lost; cancelling its running jobs and beginning a new session."
        )
        self._session = session_id
        self._dispatcher.adopt(ClaimHolder(session_id, self._server.name))

    def quiet(self, *, is_quiet: bool) -> None:
        """Stop claiming jobs, or start claiming them again."""
        self._dispatcher.quiet(is_quiet=is_quiet)

    def _wait_for_work(self) -> None:
        poll = self._runtime.settings.poll
        while not self._is_over.is_set():
            try:
                with server_work():
                    has_work = self._runtime.storage.wait(self._queues.names, poll)
            except Exception as error:  # if this thread ended, every job would wait for the next poll
                if not isinstance(error, StorageError):
                    log.exception("Unexpected error while waiting for work; retrying.")
                self._is_over.wait(poll)
                continue
            if has_work:
                self._is_over.wait(self._workers.rest)
                self._inbox.note_reported_work()
                self._inbox.wait_until_dry(poll)  # do not report work again while all workers are busy

    def _watch_claims(self) -> None:
        """Let the dispatcher reconcile as soon as other processes take jobs from the session."""
        poll = self._runtime.settings.poll
        while not self._is_over.is_set():
            try:
                with server_work():
                    are_taken = self._runtime.storage.wait([taken_from(self._session)], poll)
            except Exception as error:  # without this thread, deletions are noticed a heartbeat later
                if not isinstance(error, StorageError):
                    log.exception(
                        "Unexpected error while watching for jobs taken from this session; retrying."
                    )
                self._is_over.wait(poll)
                continue
            if are_taken:
                self._dispatcher.suspend_and_reconcile()
                self._is_over.wait(_DOUBT_PAUSE)

    # ---- stop --------------------------------------------------------------------------------------------

    def hurry(self) -> None:
        """Stop waiting for jobs while the server stops."""
        self._is_hurried.set()

    def stop(self, grace: float, *, subject: str = "server") -> list[str]:
        """Stop claiming jobs; after the grace period, cancel running jobs, and finally hand them back.

        Return the ids of jobs that still run although they were handed back, because threads cannot be ended.

        Args:
            grace: the number of seconds within which jobs must end.
            subject: the name of the stopping component, for the histories of jobs.
        """
        dispatcher, deadline = self._dispatcher, time.monotonic() + grace
        dispatcher.quiet(is_quiet=True)
        dispatcher.hurry_parked()
        _wait_for(lambda: dispatcher.is_quiet, _CANCEL_GRACE)  # a claim in progress may still return jobs
        self._wait_until_idle(grace)
        for run in self._workers.runs():
            run.cancel(CancelKind.STOP, f"{subject} stopping")
        _wait_for(lambda: dispatcher.is_drained, _LEAST_GRACE)
        self._wait_until_idle(_CANCEL_GRACE - _LEAST_GRACE if grace else 0.0)
        stuck = [run.job.id for run in self._workers.runs()]
        if stuck:
            jobs = (
                "1 job ignores its cancellation"
                if len(stuck) == 1
                else f"{len(stuck):,} jobs ignore their cancellation"
            )
            log.warning("%s and %s with this process.", jobs, "ends" if len(stuck) == 1 else "end")
        if not dispatcher.is_drained:
            dispatcher.abandon(f"{subject} stopped while the job was running")
        _wait_for(lambda: dispatcher.has_settled, _SETTLE_GRACE)
        _wait_for(
            lambda: dispatcher.holds_nothing or self._is_hurried.is_set(),
            max(_PARKED_GRACE, deadline - time.monotonic()),
        )
        self._is_over.set()
        self._runtime.storage.interrupt()
        if not dispatcher.stop(_SETTLE_GRACE):
            log.error("The last outcomes could not be written, because the storage does not respond.")
        self._drain_observers(deadline)
        self._upkeep.stop(_SETTLE_GRACE)
        self._workers.close(_THREAD_GRACE)
        have_ended([self._waker, self._watcher], _THREAD_GRACE)
        return stuck

    def _drain_observers(self, deadline: float) -> None:
        """Report the last outcomes to plugins; slow plugins have until the grace period ends."""
        left = min(deadline - time.monotonic(), self._runtime.settings.grace)  # the deadline may be infinite
        _wait_for(lambda: self._observers.is_drained or self._is_hurried.is_set(), left - _LEAST_GRACE)
        self._observers.close(_LEAST_GRACE)

    def _wait_until_idle(self, seconds: float) -> None:
        """Wait for jobs to end, except those that have ignored their cancellation for a grace period."""

        def is_idle() -> bool:
            return self._is_hurried.is_set() or self._dispatcher.is_drained_of_cancellable

        _wait_for(is_idle, seconds)


def _wait_for(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)


def store_declared(app: ServedApp) -> None:
    """Store the recurring jobs and limits that the app's code declares."""
    app.recurring.sync()  # always needed, because earlier declarations may have been removed from the code
    if any(info.limits for info in app.runtime.tasks):
        app.limits.sync()


def check_runnable(runtime: Runtime, *, can_be_found: bool) -> None:
    """Check that the app has tasks with valid signatures, and that job processes can be started if needed.

    Args:
        runtime: the parts of the app.
        can_be_found: whether another process can import the app.

    Raises:
        ConfigurationError: If the app has no tasks, or a job process could not find it.
        TaskError: If a task's annotations cannot be used.
    """
    tasks = runtime.tasks.runnable()
    if not tasks:
        raise ConfigurationError(
            "This server has no tasks to run. Decorate functions with @fire.task, and pass their modules in "
            'Firelock(imports=["app.tasks"]) or with --import.'
        )
    for info in tasks:
        runtime.tasks.binder(info)
        if info.executor is Executor.PROCESS and not can_be_found:
            raise ConfigurationError(
                f'Task {info.name!r} has executor="process", but other processes cannot import the '
                "app. Assign it to a global variable of a module."
            )


# ---- the process that a supervisor starts: `python -m firelock.server.worker_process` --------------------


class WorkerProgram:
    """A program that imports the app, requests a session, runs jobs and follows its supervisor's orders."""

    def __init__(self, orders: IO[str], reports: IO[str], memory: int, options: WorkerProcessOptions) -> None:
        self._orders = orders
        self._reports = reports
        self._memory = memory  # descriptor of the memory that is shared with the supervisor
        self._options = options
        self._stopping: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._is_retired = False  # whether another worker process has replaced this one

    def run(self) -> int:
        """Run jobs until a stop is requested; return the exit code."""
        options = self._options
        with importing():
            app = load_app(options.app_spec, storage=options.storage)
            for name in options.imports:
                load_module(name)
        enable_loggers()
        runtime = app.runtime
        check_runnable(runtime, can_be_found=True)
        queues = parse_queues(options.queues)
        total = thread_count(options.workers or runtime.settings.workers)
        coroutines = options.async_workers or runtime.settings.async_workers
        threads = share(total, options.processes, options.place)
        memory = SharedMemory.allocate(self._memory, threads + coroutines)
        os.close(self._memory)
        server = ServerInfo(options.server_id, options.server_name, str(queues), total, os.getpid())
        about = _about(runtime, server) if options.is_first else []
        if options.is_first:
            runtime.storage.clock()  # connects, so that an unreachable storage is reported here in one line
            store_declared(app)
        runtime.plugins.worker_process_started(server)
        enable_loggers()  # a plugin may configure logging there
        settings = runtime.settings
        megabytes = options.max_memory_per_process or settings.max_memory_per_process
        limits = ProcessLimits(
            options.max_jobs_per_process or settings.max_jobs_per_process, megabytes * 1_000_000
        )
        process = WorkerProcess(
            runtime, memory, server, queues, threads=threads, coroutines=coroutines,
            process_spec=JobProcessSpec(
                options.app_spec, server, options.storage, tuple(options.imports), options.log_format,
                tuple(options.log_meta), ready_seconds=settings.hang_timeout,
            ),
            on_session_lost=lambda session: self._report({"session_lost": session}),
            limits=limits,
            on_worn=lambda why: self._report({"worn": why}),
        )  # fmt: skip
        self._report({"ready": {
            "storage": runtime.storage.connect_url, "settings": runtime.settings.to_json(),
            "workers": threads, "queues": str(queues), "about": about, "places": memory.workers,
        }})  # fmt: skip

        def started() -> None:
            if options.is_first:
                runtime.plugins.server_started(server)

        threading.Thread(
            target=self._obey_all, args=(process, started), name="firelock-orders", daemon=True
        ).start()
        grace = self._stopping.get()
        stuck = process.stop(grace, subject="worker process" if self._is_retired else "server")
        if options.place == 0 and not self._is_retired:
            runtime.plugins.server_stopped(server)
        runtime.plugins.worker_process_stopped(server)
        app.close()
        if stuck:
            logging.shutdown()
            os._exit(EXIT_OK)  # threads cannot be ended, but their jobs have been handed back
        return EXIT_OK

    def _report(self, report: dict[str, Any]) -> None:
        try:
            self._reports.write(json.dumps(report) + "\n")
            self._reports.flush()
        except OSError:
            os._exit(EXIT_FAILED)  # the supervisor has ended, so the session ends too

    def _obey_all(self, process: WorkerProcess, started: Callable[[], None]) -> None:
        """Carry out orders until the supervisor ends, then exit, because the session is no longer renewed.

        Exiting also ends jobs that do not stop.
        """
        is_started = False
        try:
            for line in self._orders:
                order = json.loads(line)
                if is_started:
                    self._obey(process, order)
                elif "session" in order:
                    is_started = True
                    process.start(order["session"])
                    started()
                elif "stop" in order:
                    os._exit(EXIT_OK)
        except Exception:
            log.exception(
                "An order could not be carried out; ending this worker process, which another one replaces."
            )
        os._exit(EXIT_FAILED)

    def _obey(self, process: WorkerProcess, order: dict[str, Any]) -> None:
        if "session" in order:
            process.adopt(order["session"])
        elif "retire" in order:
            self._is_retired = True
            self._stopping.put(float("inf"))  # the last jobs may take as long as they need
        elif "stop" in order and self._is_retired:
            _run_after(order["stop"], process.hurry)
        elif "stop" in order:
            self._stopping.put(order["stop"])
        elif "hurry" in order:
            process.hurry()
        elif "quiet" in order and not self._is_retired:
            process.quiet(is_quiet=order["quiet"])


def _run_after(seconds: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()


def _about(runtime: Runtime, server: ServerInfo) -> list[str]:
    """Return the lines that describe the server when it starts."""
    workers, tasks = number_of(server.workers, "worker"), number_of(len(runtime.tasks.runnable()), "task")
    lines = [f"Firelock server {server.name}: {workers}, queues {server.queues}, {tasks}"]
    lines += [f"  {name}: {value}" for name, value in runtime.storage.describe().items()]
    lines += [
        f"  plugin {info.name}: {info.distribution} {info.version}".rstrip()
        for info in runtime.plugins.listing()
        if info.distribution != _PROGRAM
    ]
    return lines


def main() -> int:
    """Run a worker process and return its exit code."""
    parent, orders, reports, memory, counters, given = sys.argv[1:]
    count_in(int(counters))
    values = json.loads(given)  # after a reload, the supervisor may run another release
    options = WorkerProcessOptions(
        **{name: values[name] for name in attrs.fields_dict(WorkerProcessOptions) if name in values}
    )
    count_jobs(is_wanted=options.counts_jobs)
    die_with_parent(int(parent))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # the supervisor receives these signals and sends orders
    keep_streams_open()
    level = logging.DEBUG if options.is_verbose else logging.INFO
    log_to_stderr(level, LogFormat(options.log_format), options.log_meta)
    process = WorkerProgram(os.fdopen(int(orders)), os.fdopen(int(reports), "w"), int(memory), options)
    try:
        return process.run()
    except FirelockError as error:
        report_exit(str(error), LogFormat(options.log_format))
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
