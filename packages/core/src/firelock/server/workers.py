"""Workers: threads for `def` tasks, an event loop for `async def` tasks, and job processes if required.

`Workers` accepts claimed runs and returns how many more jobs it can accept. The outcome of each job is added
to the dispatcher's inbox.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import attrs

from firelock.model.aio import in_thread
from firelock.model.job import ClaimedJob
from firelock.model.session import ClaimHolder
from firelock.model.text import number_of
from firelock.options import Executor
from firelock.plugins.observers import EndObservers
from firelock.server.job_process import JobProcess, JobProcessPool, JobProcessSpec
from firelock.server.run import EndedRun, JobRunner, ProcessState, Run
from firelock.server.shared_memory import SharedMemory, WorkerCounts

if TYPE_CHECKING:
    import asyncio

    from firelock.context import Console
    from firelock.options import TaskInfo
    from firelock.task import Registry

log = logging.getLogger(__name__)

FLUSH_SIZE = 100  # number of outcomes that justify a separate round trip
SUSPECT_CRASHES = 2  # number of crashes after which a job runs alone
_MEGABYTE = 1_000_000
_MOST_AT_ONCE = 500  # maximum number of jobs per claim
_RIGHT_POLL = 0.05
_LONG_WAIT = 0.050  # seconds after which a waiting async job is handed back
_LAST_CANCELLATIONS = 0.2  # seconds within which cancelled coroutines must end when their loop stops
_CLOSING_GRACE = 10.0  # seconds within which the resources on the loop must be closed
_NOTHING: frozenset[str] = frozenset()
_APART_SECONDS = 60.0  # seconds for which each kind of worker claims separately after jobs had to wait
PASSING_POLL = 0.25  # seconds between claims that skip jobs, because later jobs may not be reported
_REST_FACTOR = 30  # multiple of such a claim's duration for which new work is ignored
_BLOCKED = 0.7  # if the event loop does not respond for this many seconds, a warning is logged


@attrs.define(eq=False)
class DispatcherInbox:
    """Messages to the dispatcher from other threads: outcomes to settle, orders, and reports of work."""

    ended: deque[EndedRun] = attrs.Factory(deque)
    parked: int = 0  # number of parked ends in the dispatcher's last iteration
    orders: deque[Callable[[], None]] = attrs.Factory(deque)
    _flag: threading.Event = attrs.Factory(threading.Event)
    _dry: threading.Event = attrs.Factory(threading.Event)  # set after a claim got too few jobs
    _has_work: bool = False
    _is_waiting: bool = False

    def finish(self, ended: EndedRun, *, is_dry: bool) -> None:
        """Add an outcome to settle; wake the dispatcher if there are enough or no other job is waiting."""
        self.ended.append(ended)
        if is_dry or len(self.ended) >= FLUSH_SIZE:
            self.wake()

    def wake(self) -> None:
        """Wake the dispatcher, because there is an outcome to settle or a worker is idle."""
        if not self._flag.is_set():
            self._flag.set()

    def order(self, action: Callable[[], None]) -> None:
        """Let the dispatcher call this function before its next exchange."""
        self.orders.append(action)
        self._flag.set()

    def note_reported_work(self) -> None:
        """Record that the storage has reported work; a busy dispatcher finds the work without being woken."""
        self._dry.clear()
        self._has_work = True
        if self._is_waiting:
            self._flag.set()

    def wait_until_dry(self, timeout: float) -> None:
        """Wait until a claim gets fewer jobs than requested, or until the timeout.

        Only claims since the last report of work count.
        """
        self._dry.wait(timeout)

    # ---- for the dispatcher ------------------------------------------------------------------------------

    def begin_turn(self) -> bool:
        """Run the orders and return whether work was reported; later messages wake the dispatcher again."""
        self._flag.clear()
        has_work, self._has_work = self._has_work, False
        while self.orders:
            self.orders.popleft()()
        return has_work

    def skip_next_wait(self) -> None:
        """Let the next iteration start without a wait."""
        self._has_work = True

    def ran_dry(self) -> None:
        """Record that a claim got fewer jobs than requested."""
        self._dry.set()

    def wait(self, seconds: float) -> None:
        """Wait this many seconds, or until a thread wakes the dispatcher."""
        self._flag.wait(seconds)

    def wait_for_work(self, seconds: float) -> None:
        """Wait like `wait`, unless work was reported or a job has ended since this iteration began."""
        self._is_waiting = True
        if not self._has_work and not self.ended:
            self._flag.wait(seconds)
        self._is_waiting = False


@attrs.define(eq=False)
class ClaimedRun:
    """A claimed job that waits for a worker."""

    job: ClaimedJob
    holder: ClaimHolder
    is_dropped: bool = False  # whether the job was lost before it started, so that workers skip it
    is_start_stored: bool = False  # whether its start time is stored


@attrs.frozen
class ProcessLimits:
    """The limits at which a worker process is replaced; 0 means no limit."""

    jobs: int = 0
    memory_bytes: int = 0

    def reached(self, ended: int, rss_bytes: int) -> str | None:
        """Describe the limit that a worker process has reached after this many jobs; None if there is none.

        The memory limit does not apply to a process that has not run any job, because a new process would be
        just as large.
        """
        if self.jobs and ended >= self.jobs:
            return f"has run {number_of(ended, 'job')}"
        if ended and self.is_too_large(rss_bytes):
            return f"has {rss_bytes / _MEGABYTE:,.0f} MB"
        return None

    def is_too_large(self, rss_bytes: int) -> bool:
        """Return whether a process of this size has reached the memory limit."""
        return 0 < self.memory_bytes <= rss_bytes


NO_LIMITS = ProcessLimits()


@attrs.define(eq=False)
class WorkerContext:
    """The objects that the workers of a worker process need to run a job."""

    runner: JobRunner
    console: Console
    memory: SharedMemory
    inbox: DispatcherInbox
    process_spec: JobProcessSpec | None  # None if a job process could not find the app
    state: ProcessState = attrs.Factory(ProcessState)
    limits: ProcessLimits = NO_LIMITS
    observers: EndObservers = attrs.Factory(EndObservers)

    def runs_apart(self, info: TaskInfo, crashes: int = 0) -> bool:
        """Return whether a job with this many crashes runs in a job process, while a thread waits for it."""
        return self.process_spec is not None and (
            crashes >= SUSPECT_CRASHES or info.executor is Executor.PROCESS
        )


class Workers:
    """The threads and the event loop of a worker process; this is the dispatcher's interface to them."""

    def __init__(
        self,
        context: WorkerContext,
        tasks: Registry,
        *,
        threads: int,
        coroutines: int,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._context = context
        self._tasks = tasks
        on_loop = {info.name for info in tasks.runnable() if info.is_async and not context.runs_apart(info)}
        self._on_loop = frozenset(on_loop)
        self._in_threads = frozenset(info.name for info in tasks.runnable()) - on_loop
        self._has_sync = not on_loop or bool(self._in_threads)
        self._window = 1 if self._has_sync else coroutines  # maximum for the loop in claims for both kinds
        self.threads = ThreadWorkers(context, threads)
        places = [*range(threads, threads + coroutines)]
        self.coroutines = AsyncWorkers(context, coroutines, places, host=loop) if on_loop else None
        self.left_out = _NOTHING  # tasks that the next claim excludes
        self.claims_for_other_next = (
            False  # whether workers of the other kind are also free and therefore get the next claim
        )
        self._is_loops_turn = False
        self._apart_until = 0.0  # monotonic; until then, each kind of worker claims separately
        self._rests_until = 0.0  # monotonic
        self._claiming_since = 0.0
        self._idle_until: dict[bool, float] = {}  # monotonic time of the next claim (True: for threads)
        self._suspected: set[str] = set()  # tasks of suspects for which no thread was free
        self._is_mixture_logged = False
        self._both = [each for each in (self.threads, self.coroutines) if each is not None]

    def start(self) -> None:
        """Start the threads, which wait for jobs."""
        self.threads.start()

    def runs(self) -> list[Run]:
        """Return the current runs."""
        return [run for each in self._both for run in list(each.running.values())]

    def counts(self) -> WorkerCounts:
        """Return the numbers of all workers, of busy ones, and of those stuck after a timeout, by kind."""
        threads, coroutines = self.threads, self.coroutines
        in_threads = list(threads.running.values())
        on_loop = [] if coroutines is None else list(coroutines.running.values())
        return WorkerCounts(
            threads=threads.count, coroutines=0 if coroutines is None else coroutines.limit,
            busy_threads=len(in_threads), busy_coroutines=len(on_loop),
            stuck_threads=sum(run.is_stuck for run in in_threads),
            stuck_coroutines=sum(run.is_stuck for run in on_loop), parked=self._context.inbox.parked,
        )  # fmt: skip

    def are_half_uncancellable(self) -> bool:
        """Return whether jobs that do not stop occupy at least half of the threads or of the coroutines."""
        kinds = [(self.threads.running, self.threads.count)]
        if self.coroutines is not None:
            kinds.append((self.coroutines.running, self.coroutines.limit))
        return any(
            0 < most <= 2 * sum(run.ignores_cancellation for run in list(running.values()))
            for running, most in kinds
        )

    @property
    def has_waiting(self) -> bool:
        """Whether jobs wait here for a worker."""
        return any(each.waiting for each in self._both)

    def room(self, ahead: int, unended: int) -> int:
        """Return how many jobs to claim now.

        Args:
            ahead: the number of jobs that may wait for a thread.
            unended: the number of claimed jobs that have not ended.
        """
        threads, coroutines = self.threads, self.coroutines
        in_threads = len(threads.running) + threads.waiting
        for_threads = max(0, threads.count + ahead - in_threads) if self._has_sync else 0
        if coroutines is None:
            return min(for_threads, _MOST_AT_ONCE)
        on_loop = max(len(coroutines.running), unended - in_threads)
        for_loop = max(0, coroutines.limit - on_loop)
        return min(self._share(for_threads, for_loop), _MOST_AT_ONCE)

    def _share(self, for_threads: int, for_loop: int) -> int:
        """Return how many jobs to claim; exclude tasks whose jobs would have to wait for a worker."""
        if for_threads:
            self._suspected.clear()
        self.left_out, self.claims_for_other_next = _NOTHING, False
        if not self._has_sync:
            return for_loop
        if for_threads and for_loop and time.monotonic() >= self._apart_until:
            return for_threads + min(for_loop, self._window)
        for_threads = 0 if self._is_idle(for_threads=True) else for_threads
        for_loop = 0 if self._is_idle(for_threads=False) else for_loop
        self.claims_for_other_next = bool(for_threads and for_loop) and not self._is_loops_turn
        if for_loop and (self._is_loops_turn or not for_threads):
            self.left_out = self._in_threads | self._suspected
            return for_loop
        self.left_out = self._on_loop
        return for_threads

    def _is_idle(self, *, for_threads: bool) -> bool:
        """Return whether a claim for this kind of worker is useless, because the last one found no jobs."""
        until = self._idle_until.get(for_threads)
        if until is not None and time.monotonic() >= until:
            del self._idle_until[for_threads]
            return False
        return until is not None

    def claiming(self) -> frozenset[str]:
        """Record the start of a claim; return the tasks that the claim excludes."""
        self._is_loops_turn, self._claiming_since = self.claims_for_other_next, time.monotonic()
        return self.left_out

    def claimed(self, *, is_full: bool, has_more: bool) -> bool:
        """Record that a claim has ended; return whether threads have run out of jobs.

        A claim that excludes tasks may check many jobs without finding any that it can claim. In that case,
        the next claim for the same kind of worker is made when new work is reported or `PASSING_POLL` has
        passed. Immediately after the claim, reports of new work are ignored for some time.

        Args:
            is_full: whether the claim got all jobs that it requested.
            has_more: whether the next claim may find more jobs.
        """
        left_out, now = self.left_out, time.monotonic()
        is_for_threads = not left_out or left_out == self._on_loop
        if left_out and is_full and now < self._apart_until:  # more jobs of this kind than workers
            self._apart_until = now + _APART_SECONDS
        elif left_out and not has_more:
            self._idle_until[is_for_threads] = now + PASSING_POLL
            self._rests_until = now + min(PASSING_POLL, _REST_FACTOR * (now - self._claiming_since))
        return is_full and self.threads.has_idle and is_for_threads

    def note_new_work(self) -> None:
        """Record that there may be work that the last claims did not find."""
        self._idle_until.clear()

    @property
    def is_passing_over(self) -> bool:
        """Whether workers are idle although jobs for the other kind may be waiting before theirs."""
        return bool(self._idle_until)

    @property
    def rest(self) -> float:
        """The number of seconds for which new work does not cause a claim."""
        return max(0.0, self._rests_until - time.monotonic())

    def separate_claims(self) -> None:
        """Claim for one kind of worker at a time, because jobs have waited too long for a free worker."""
        if self.coroutines is None or not self._has_sync:
            return
        self._apart_until = time.monotonic() + _APART_SECONDS
        if not self._is_mixture_logged:
            self._is_mixture_logged = True
            log.warning(
                "Jobs of `async def` and `def` tasks share queues, and one kind found no free worker. Claims "
                "now skip jobs of a kind whose workers are all busy, but check at most 1,000 jobs. Use "
                "separate queues for the two kinds (queue= of the tasks), so that neither waits for the "
                "other."
            )

    def put(self, claimed: list[ClaimedRun]) -> None:
        """Run each job as soon as a worker of the kind that its task needs is free."""
        coroutines = self.coroutines
        if coroutines is None:
            self.threads.put(claimed)
            return
        in_threads: list[ClaimedRun] = []
        on_loop: list[ClaimedRun] = []
        for each in claimed:
            if self._runs_on_loop(each.job):
                on_loop.append(each)
            else:
                in_threads.append(each)
        if in_threads:
            self.threads.put(in_threads)
        if on_loop:
            coroutines.put(on_loop)
        if self._has_sync and not self.left_out:
            window = self._window * 2 if len(on_loop) * 2 > self._window else self._window // 2
            self._window = max(1, min(coroutines.limit, window))

    def _runs_on_loop(self, job: ClaimedJob) -> bool:
        info = self._tasks.get(job.task)
        if info is None or info.is_remote:  # the job is postponed anyway, so use the kind of the claim
            return bool(self.left_out) and self.left_out != self._on_loop
        if not info.is_async or self._context.runs_apart(info):
            return False
        is_suspect = self._context.runs_apart(info, job.crashes)
        if is_suspect and not self.threads.has_idle:
            self._suspected.add(job.task)
        return not is_suspect

    def take_back(self) -> list[ClaimedRun]:
        """Remove and return the jobs that have not started."""
        return [claimed for each in self._both for claimed in each.take_back()]

    def hold_up(self) -> list[HeldUp]:
        """Remove and return, by kind of worker, the jobs that have not started; they start when put back."""
        return [(each, each.take_back()) for each in self._both]

    def close(self, timeout: float) -> None:
        """End idle workers and the loop, and close the resources; busy workers end after their jobs."""
        for each in self._both:
            each.close(timeout)
        resources = self._context.runner.resources
        if resources.entered:
            resources.close()


def thread_count(workers: int) -> int:
    """Return the number of threads for this setting; 0 means five per core."""
    return workers or 5 * (os.cpu_count() or 1)


def have_ended(threads: Sequence[threading.Thread], timeout: float) -> bool:
    """Wait for the started threads until the timeout; return whether all of them have ended."""
    deadline = time.monotonic() + timeout
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


@attrs.define(eq=False, slots=False)
class ThreadWorkers:
    """A fixed number of threads, each of which runs one job at a time."""

    _context: WorkerContext
    count: int
    running: dict[int, Run] = attrs.Factory(dict)
    _todo: queue.SimpleQueue[ClaimedRun | None] = attrs.Factory(queue.SimpleQueue)
    _pushed: deque[tuple[float, int]] = attrs.Factory(deque)  # (time, number of jobs added by then)
    _put_count: int = 0
    _is_closed: bool = False

    def __attrs_post_init__(self) -> None:
        spec = self._context.process_spec
        self._pool = None if spec is None else JobProcessPool(spec)
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"firelock-worker-{worker}", daemon=True)
            for worker in range(self.count)
        ]

    def start(self) -> None:
        """Start the threads, which wait for jobs."""
        for thread in self._threads:
            thread.start()

    # ---- for the dispatcher ------------------------------------------------------------------------------

    def put(self, claimed: Sequence[ClaimedRun]) -> None:
        """Run the jobs in this order, as soon as workers are free."""
        self._put_count += len(claimed)
        self._pushed.append((time.monotonic(), self._put_count))
        for claimed_run in claimed:
            self._todo.put(claimed_run)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait here for a worker."""
        return self._todo.qsize()

    @property
    def has_idle(self) -> bool:
        """Whether a worker is idle."""
        return not self._todo.qsize() and len(self.running) < self.count

    def oldest_wait(self) -> float:
        """Return the number of seconds for which the oldest waiting job has waited."""
        begun = self._put_count - self._todo.qsize()
        while self._pushed and self._pushed[0][1] <= begun:
            self._pushed.popleft()
        return time.monotonic() - self._pushed[0][0] if self._pushed else 0.0

    def take_back(self) -> list[ClaimedRun]:
        """Remove and return the jobs that have not started."""
        claimed: list[ClaimedRun | None] = []
        with suppress(queue.Empty):
            while True:
                claimed.append(self._todo.get_nowait())
        return list(filter(None, claimed))

    def close(self, timeout: float) -> None:
        """End idle workers; busy workers end after their jobs."""
        self._is_closed = True
        for _ in self._threads:
            self._todo.put(None)
        have_ended(self._threads, timeout)
        if self._pool is not None:
            self._pool.close()

    # ---- in a worker -------------------------------------------------------------------------------------

    def _work(self, worker: int) -> None:
        pool, get, finish, is_dry = self._pool, self._todo.get, self._context.inbox.finish, self._todo.empty
        while (claimed_run := get()) is not None:
            if claimed_run.is_dropped or not self._may_start(claimed_run):
                continue
            finish(self._execute(worker, claimed_run), is_dry=is_dry())
            if pool is not None and pool.surplus:
                pool.tidy()

    def _may_start(self, claimed_run: ClaimedRun) -> bool:
        """Wait for the right to run; return False if the claim was dropped or the workers were closed."""
        while not self._context.memory.may_start():
            if claimed_run.is_dropped or self._is_closed:
                return False
            time.sleep(_RIGHT_POLL)
        return not claimed_run.is_dropped

    def _execute(self, worker: int, claimed_run: ClaimedRun) -> EndedRun:
        context = self._context
        run = context.runner.prepare(claimed_run.job, claimed_run.holder)
        if isinstance(run, EndedRun):
            return run
        self.running[worker] = run
        try:
            if claimed_run.is_dropped:  # dropped during `prepare`, when the dispatcher could not find the run
                return context.runner.passed_over(run)
            if self._pool is not None and context.runs_apart(run.info, claimed_run.job.crashes):
                return self._run_apart(worker, run, self._pool)
            context.memory.start(worker, claimed_run.job.id)
            return context.runner.run(run)
        except BaseException as error:  # noqa: BLE001 - the thread continues, even if no process could start
            return context.runner.interrupted(run, error)
        finally:
            context.memory.end(worker)
            context.state.repair()
            del self.running[worker]

    def _run_apart(self, worker: int, run: Run, pool: JobProcessPool) -> EndedRun:
        """Run the job in a job process, idle or new; a suspect gets a new process that is not reused.

        The job is listed as running as soon as it starts there, so that a crash is counted if this worker
        process dies.
        """
        context = self._context

        def on_start() -> None:
            context.memory.start(worker, run.job.id)
            if is_suspect:
                context.runner.store_start(run)

        is_suspect = run.job.crashes >= SUSPECT_CRASHES
        process = pool.take(run.info, is_new=is_suspect)
        try:
            return process.run(run, context.runner, context.console, on_start)
        except BaseException:
            process.kill()  # its next reply would be unpredictable
            raise
        finally:
            pool.give_back(process, is_used_up=is_suspect or self._is_worn(process))

    def _is_worn(self, process: JobProcess) -> bool:
        limits = self._context.limits
        return bool(limits.memory_bytes) and limits.is_too_large(process.rss_bytes())


@attrs.define(eq=False)
class AsyncWorkers:
    """An event loop: the host's, or one in a separate thread, started when the first `async def` job runs."""

    _context: WorkerContext
    limit: int
    _free: list[int]  # unused slots in the worker process's shared memory
    _host: asyncio.AbstractEventLoop | None = None
    running: dict[int, Run] = attrs.Factory(dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _todo: deque[tuple[float, ClaimedRun]] = attrs.Factory(deque)  # (time since which it waits, job)
    _is_polling: bool = False
    _is_waking: bool = False
    _is_closing: bool = False
    _preparing: set[asyncio.Task[None]] = attrs.Factory(set)
    _answered_at: float = 0.0
    _is_warned: bool = False

    def put(self, claimed: Sequence[ClaimedRun]) -> None:
        """Start the jobs now; if there are too many, the others start in order as soon as jobs have ended."""
        loop = self._loop or self._open()
        now = time.monotonic()
        self._todo.extend((now, claimed_run) for claimed_run in claimed)
        try:
            loop.call_soon_threadsafe(self._start_all, loop)
        except RuntimeError:  # the jobs will be handed back because they wait too long
            if not self._is_warned:
                self._is_warned = True
                log.error(
                    "The host closed the event loop on which async jobs run; stop the server before the loop."
                )

    @property
    def waiting(self) -> int:
        """The number of jobs that wait here for a free slot."""
        return len(self._todo)

    def take_back_late(self) -> list[ClaimedRun]:
        """Remove and return the jobs that wait for a free slot, if the first one has waited too long."""
        if self.oldest_wait() <= _LONG_WAIT:
            return []
        return self.take_back()

    def oldest_wait(self) -> float:
        """Return the number of seconds for which the first waiting job has waited."""
        try:
            return time.monotonic() - self._todo[0][0]
        except IndexError:
            return 0.0

    def take_back(self) -> list[ClaimedRun]:
        """Remove and return the jobs that have not started."""
        claimed: list[ClaimedRun] = []
        with suppress(IndexError):
            while True:
                claimed.append(self._todo.popleft()[1])
        return claimed

    def _open(self) -> asyncio.AbstractEventLoop:
        import asyncio  # noqa: PLC0415 - loaded when first used

        if self._host is not None:
            self._loop = self._host
            return self._host
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="firelock-loop", daemon=True)
        self._thread.start()
        return loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio  # noqa: PLC0415 - loaded by now

        while not self._is_closing:
            try:
                loop.run_forever()
            except BaseException:
                log.exception("A job's callback or task tried to end the event loop; continuing.")
        resources = self._context.runner.resources
        if (
            pending := asyncio.all_tasks(loop) - resources.keepers
        ):  # these jobs were handed back while they ran; cancel them again, but do not wait for them
            for task in pending:
                task.cancel()
            loop.run_until_complete(asyncio.wait(pending, timeout=_LAST_CANCELLATIONS))
        if resources.has_async:
            loop.run_until_complete(resources.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def close(self, timeout: float) -> None:
        """Close the resources on the loop and stop the loop, unless it is the host's or a job blocks it."""
        loop, resources = self._loop, self._context.runner.resources
        if loop is None or loop.is_closed():
            return
        if resources.has_async:
            timeout += _CLOSING_GRACE
        if self._thread is None:
            if resources.has_async:
                import asyncio  # noqa: PLC0415 - loaded by now

                try:
                    asyncio.run_coroutine_threadsafe(resources.aclose(), loop).result(timeout)
                except TimeoutError:
                    log.warning(
                        "Resources on the host's event loop remain open, because they were not closed in "
                        "time."
                    )
            return
        self._is_closing = True
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(timeout)
        if resources.has_async:
            log.warning("Resources on the event loop remain open, because they were not closed in time.")

    # ---- on the loop -------------------------------------------------------------------------------------

    def _start_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start waiting jobs, as long as slots are free and the process has the right to run jobs."""
        if not self._context.memory.may_start():
            if not self._is_polling:
                self._is_polling = True
                loop.call_later(_RIGHT_POLL, self._poll, loop)
            return
        while self._free:
            try:
                _, claimed_run = self._todo.popleft()
            except IndexError:
                return
            if not claimed_run.is_dropped:
                self._start_one(loop, claimed_run)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_polling = False
        self._start_all(loop)

    def _start_one(self, loop: asyncio.AbstractEventLoop, claimed_run: ClaimedRun) -> None:
        runner = self._context.runner
        try:
            job = claimed_run.job
            if (job.relations_json is not None or job.crashes) and runner.reads_storage(job):
                place = self._free[-1]
                task = loop.create_task(self._start_tied(loop, claimed_run, place))
                self._free.remove(place)
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)
                return
            run = runner.prepare(claimed_run.job, claimed_run.holder)
        except Exception as error:  # noqa: BLE001 - no error may hold up other jobs
            self._finish(self._not_started(claimed_run, error))
            return
        if isinstance(run, EndedRun):
            self._finish(run)
        else:
            self._start_prepared(loop, claimed_run, run, self._free.pop())

    def _not_started(self, claimed_run: ClaimedRun, error: Exception) -> EndedRun:
        """Return an outcome that removes the job from its session, so that the error affects no other job."""
        log.error("Job %s could not be started; trying again later.", claimed_run.job.id, exc_info=error)
        return self._context.runner.unprepared(claimed_run.job, claimed_run.holder, error)

    async def _start_tied(self, loop: asyncio.AbstractEventLoop, claimed_run: ClaimedRun, place: int) -> None:
        """Prepare the job in a thread, because this reads the storage, and start the job here."""
        run: Run | EndedRun | None = None
        try:
            run = await in_thread(self._context.runner.prepare, claimed_run.job, claimed_run.holder)
        except Exception as error:  # noqa: BLE001 - no thread could be started, for example
            run = self._not_started(claimed_run, error)
        finally:
            if not isinstance(run, Run):  # the job must not start, or the loop is being stopped
                self._free.append(place)
        if isinstance(run, Run):
            self._start_prepared(loop, claimed_run, run, place)
            return
        self._finish(run)
        if self._todo:
            self._start_all(loop)

    def _start_prepared(
        self, loop: asyncio.AbstractEventLoop, claimed_run: ClaimedRun, run: Run, place: int
    ) -> None:
        self.running[place] = run
        if claimed_run.is_dropped:  # dropped during `prepare`, when the dispatcher could not find the run
            self._leave(place)
            self._finish(self._context.runner.passed_over(run))
            return
        self._context.memory.start(place, claimed_run.job.id)
        try:
            task = loop.create_task(
                self._run(loop, run, place), name=f"job {claimed_run.job.id} {claimed_run.job.task}"
            )
        except Exception as error:  # noqa: BLE001 - from a task factory of the host's loop
            self._context.memory.end(place)
            self._leave(place)
            self._finish(self._not_started(claimed_run, error))
            return
        run.stop, run.coroutine = lambda: loop.call_soon_threadsafe(task.cancel), task
        if run.cancelled is not None:
            loop.call_soon(task.cancel)  # cancelled after its start; otherwise its end is never handled

    def _leave(self, place: int) -> None:
        del self.running[place]
        self._free.append(place)

    async def _run(self, loop: asyncio.AbstractEventLoop, run: Run, place: int) -> None:
        try:
            ended = await self._context.runner.arun(run)
        except BaseException as error:  # noqa: BLE001 - after any error, the place is free again
            ended = self._context.runner.interrupted(run, error)
        run.stop = None
        self._context.state.repair()
        self._context.memory.end(place)
        del self.running[place]
        self._free.append(place)
        self._finish(ended)
        if self._todo:
            self._start_all(loop)

    def _finish(self, ended: EndedRun) -> None:
        """Add an outcome to settle; all outcomes of one loop iteration wake the dispatcher only once."""
        self._context.inbox.ended.append(ended)
        if not self._is_waking and self._loop is not None:
            self._is_waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        self._context.inbox.wake()

    # ---- monitoring --------------------------------------------------------------------------------------

    def watch(self) -> None:
        """If a job blocks the loop for a long time, log this once; called a few times per second."""
        loop = self._loop
        if loop is None or not self.running:
            self._answered_at = 0.0
            return
        now = time.monotonic()
        if self._answered_at and now - self._answered_at > _BLOCKED and not self._is_warned:
            self._is_warned = True
            import asyncio  # noqa: PLC0415 - loaded by now

            task = asyncio.current_task(loop)
            log.warning(
                "The event loop has been blocked for %.1f s by %s%s; use a `def` task, or await.",
                now - self._answered_at,
                task.get_name() if task else "code outside of jobs",
                " or by a plugin's job_context" if task and self._context.runner.has_job_context else "",
            )
        if not self._answered_at:
            self._answered_at = now
        loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        self._is_warned = False


HeldUp: TypeAlias = tuple[ThreadWorkers | AsyncWorkers, list[ClaimedRun]]
"""Waiting jobs, and the workers for which they wait."""
