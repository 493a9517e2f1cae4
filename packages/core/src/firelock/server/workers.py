"""Where runs happen: threads for `def` tasks, an event loop for `async def`, processes for what asks for one.

`Workers` takes claimed runs and says how many more there is room for. Each end goes to the inbox of the
dispatcher.
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
from firelock.options import Executor
from firelock.plugins.observers import EndObservers
from firelock.server.attempt import EndedRun, JobRunner, ProcessState, Run
from firelock.server.job_process import JobProcess, JobProcessPool, JobProcessSpec
from firelock.server.shared_memory import SharedMemory, WorkerCounts

if TYPE_CHECKING:
    import asyncio

    from firelock.context import Console
    from firelock.options import TaskInfo
    from firelock.task import Registry

log = logging.getLogger(__name__)

FLUSH_SIZE = 100  # ends that are worth a round trip of their own
SUSPECT_CRASHES = 2  # from so many crashes on a job runs alone
_MEGABYTE = 1_000_000
_MOST_AT_ONCE = 500  # jobs of one claim
_RIGHT_POLL = 0.05
_LONG_WAIT = 0.050  # seconds that a coroutine waits here for a place before it goes back to its queue
_LAST_STEPS = 0.2  # seconds for coroutines to end that are cancelled when their loop stops
_CLOSING_GRACE = 10.0  # seconds for what is open on the loop to be closed
_NOTHING: frozenset[str] = frozenset()
_APART_SECONDS = 60.0  # that each kind of worker gets claims of its own after jobs found no place
PASSING_POLL = 0.25  # seconds between claims that pass over jobs; no wake-up may tell of those behind them
_REST_FACTOR = 30  # times as long as such a claim took, work that comes in is no news
_BLOCKED = 0.7  # seconds without an answer from the event loop that are worth a warning


@attrs.define(eq=False)
class DispatcherInbox:
    """What other threads tell the dispatcher: ends to settle, orders, and that there is work to claim."""

    ended: deque[EndedRun] = attrs.Factory(deque)
    parked: int = 0  # ends that wait for locked rows, as of the dispatcher's last turn
    orders: deque[Callable[[], None]] = attrs.Factory(deque)
    _flag: threading.Event = attrs.Factory(threading.Event)
    _dry: threading.Event = attrs.Factory(threading.Event)  # the last claim got less than it asked for
    _has_work: bool = False
    _is_waiting: bool = False

    def finish(self, ended: EndedRun, *, is_dry: bool) -> None:
        """The end waits to be settled; the dispatcher is woken when a batch is full or nothing else waits."""
        self.ended.append(ended)
        if is_dry or len(self.ended) >= FLUSH_SIZE:
            self.wake()

    def wake(self) -> None:
        """There is something to settle, or a worker has nothing to do."""
        if not self._flag.is_set():
            self._flag.set()

    def order(self, what: Callable[[], None]) -> None:
        """The dispatcher does this next, between two exchanges."""
        self.orders.append(what)
        self._flag.set()

    def work_came(self) -> None:
        """The storage said that there is work; a dispatcher that is busy finds it by itself."""
        self._dry.clear()
        self._has_work = True
        if self._is_waiting:
            self._flag.set()

    def wait_until_dry(self, timeout: float) -> None:
        """Return when a claim has got less than it asked for since work came, or after the timeout."""
        self._dry.wait(timeout)

    # ---- the dispatcher's side ---------------------------------------------------------------------------

    def begin_turn(self) -> bool:
        """The orders are done; what comes from now on wakes the next turn. Return whether work had come."""
        self._flag.clear()
        has_work, self._has_work = self._has_work, False
        while self.orders:
            self.orders.popleft()()
        return has_work

    def look_again(self) -> None:
        """The next turn does not wait."""
        self._has_work = True

    def ran_dry(self) -> None:
        """A claim got less than it asked for."""
        self._dry.set()

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as somebody wakes the dispatcher."""
        self._flag.wait(seconds)

    def wait_for_work(self, seconds: float) -> None:
        """As `wait`, but also where work came or a job has ended since the turn began."""
        self._is_waiting = True
        if not self._has_work and not self.ended:
            self._flag.wait(seconds)
        self._is_waiting = False


@attrs.define(eq=False)
class ClaimedRun:
    """A claimed job on its way to a worker."""

    job: ClaimedJob
    holder: ClaimHolder
    is_dropped: bool = False  # lost before it started: passed over
    is_start_told: bool = False  # the storage knows when it started


@attrs.frozen
class ProcessLimits:
    """What a worker process may do and have before another takes its place; 0 means without a limit."""

    jobs: int = 0
    memory_bytes: int = 0

    def reached(self, ended: int, rss_bytes: int) -> str | None:
        """Return in words which limit a worker process has reached after so many jobs; None if none.

        One that has run no job has not reached its memory's: its successor would be as large at once.
        """
        if self.jobs and ended >= self.jobs:
            return f"has run {ended:,} jobs"
        if ended and self.is_too_large(rss_bytes):
            return f"has {rss_bytes / _MEGABYTE:,.0f} MB"
        return None

    def is_too_large(self, rss_bytes: int) -> bool:
        """Tell whether a process of this size has reached the limit."""
        return 0 < self.memory_bytes <= rss_bytes


NO_LIMITS = ProcessLimits()


@attrs.define(eq=False)
class WorkerContext:
    """What the workers of a worker process need for a run."""

    runner: JobRunner
    console: Console
    memory: SharedMemory
    inbox: DispatcherInbox
    process_spec: JobProcessSpec | None  # None: no process of its own could find the app
    state: ProcessState = attrs.Factory(ProcessState)
    limits: ProcessLimits = NO_LIMITS
    observers: EndObservers = attrs.Factory(EndObservers)

    def runs_apart(self, info: TaskInfo, crashes: int = 0) -> bool:
        """Tell whether a job with so many crashes runs in a process of its own, which a thread waits for."""
        return self.process_spec is not None and (
            crashes >= SUSPECT_CRASHES or info.executor is Executor.PROCESS
        )


class Workers:
    """The threads and the event loop of a worker process, as its dispatcher sees them."""

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
        self._window = 1 if self._has_sync else coroutines  # claims for the loop, while threads claim as well
        self.threads = ThreadWorkers(context, threads)
        places = [*range(threads, threads + coroutines)]
        self.coroutines = AsyncWorkers(context, coroutines, places, host=loop) if on_loop else None
        self.left_out = _NOTHING  # tasks that a claim for the last room leaves out
        self.owes_a_claim = False  # the other kind of worker has room as well, and gets the next claim
        self._is_loops_turn = False
        self._apart_until = 0.0  # monotonic: each kind gets claims of its own
        self._rests_until = 0.0  # monotonic
        self._claiming_since = 0.0
        self._idle_until: dict[bool, float] = {}  # monotonic, for threads and for the loop: no claim before
        self._suspected: set[str] = set()  # tasks of which a job met no free thread, in which it runs apart
        self._is_mixture_told = False
        self._both = [each for each in (self.threads, self.coroutines) if each is not None]

    def start(self) -> None:
        """Threads wait for jobs."""
        self.threads.start()

    def runs(self) -> list[Run]:
        """Return what is running now."""
        return [run for each in self._both for run in list(each.running.values())]

    def counts(self) -> WorkerCounts:
        """Return how many workers of each kind there are, run a job, and are kept beyond a timeout."""
        threads, coroutines = self.threads, self.coroutines
        in_threads = list(threads.running.values())
        on_loop = [] if coroutines is None else list(coroutines.running.values())
        return WorkerCounts(
            threads=threads.count, coroutines=0 if coroutines is None else coroutines.limit,
            busy_threads=len(in_threads), busy_coroutines=len(on_loop),
            stuck_threads=sum(run.is_stuck for run in in_threads),
            stuck_coroutines=sum(run.is_stuck for run in on_loop), parked=self._context.inbox.parked,
        )  # fmt: skip

    def are_half_deaf(self) -> bool:
        """Return whether jobs that do not stop take at least half of the threads, or of the coroutines."""
        kinds = [(self.threads.running, self.threads.count)]
        if self.coroutines is not None:
            kinds.append((self.coroutines.running, self.coroutines.limit))
        return any(
            0 < most <= 2 * sum(run.is_deaf for run in list(running.values())) for running, most in kinds
        )

    @property
    def has_waiting(self) -> bool:
        """Tell whether jobs wait here for a worker."""
        return any(each.waiting for each in self._both)

    def room(self, ahead: int, unended: int) -> int:
        """Return how many jobs to claim now.

        Args:
            ahead: so many may wait for a thread.
            unended: so many are held and have not ended.
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
        """Return how many jobs to claim, and note of which tasks none: of those that would find no worker."""
        if for_threads:
            self._suspected.clear()
        self.left_out, self.owes_a_claim = _NOTHING, False
        if not self._has_sync:
            return for_loop
        if for_threads and for_loop and time.monotonic() >= self._apart_until:
            return for_threads + min(for_loop, self._window)
        for_threads = 0 if self._is_idle(for_threads=True) else for_threads
        for_loop = 0 if self._is_idle(for_threads=False) else for_loop
        self.owes_a_claim = bool(for_threads and for_loop) and not self._is_loops_turn
        if for_loop and (self._is_loops_turn or not for_threads):
            self.left_out = self._in_threads | self._suspected
            return for_loop
        self.left_out = self._on_loop
        return for_threads

    def _is_idle(self, *, for_threads: bool) -> bool:
        """Tell whether the last claim for a kind found nothing, and no other one would."""
        until = self._idle_until.get(for_threads)
        if until is not None and time.monotonic() >= until:
            del self._idle_until[for_threads]
            return False
        return until is not None

    def claiming(self) -> frozenset[str]:
        """A claim for the last room begins; return the tasks that it leaves out."""
        self._is_loops_turn, self._claiming_since = self.owes_a_claim, time.monotonic()
        return self.left_out

    def claimed(self, *, is_full: bool, has_more: bool) -> bool:
        """The claim is over, and was given all that it asked for or not; return whether threads ran dry.

        One that leaves out tasks may look at many jobs to find none. Then the kind that it was for gets no
        other until work comes in, which is no news for some time, or `PASSING_POLL` is over.

        Args:
            is_full: it was given all that it asked for.
            has_more: the next claim may find more.
        """
        left_out, now = self.left_out, time.monotonic()
        is_for_threads = not left_out or left_out == self._on_loop
        if left_out and is_full and now < self._apart_until:  # more of that kind wait than it has workers
            self._apart_until = now + _APART_SECONDS
        elif left_out and not has_more:
            self._idle_until[is_for_threads] = now + PASSING_POLL
            self._rests_until = now + min(PASSING_POLL, _REST_FACTOR * (now - self._claiming_since))
        return is_full and self.threads.has_idle and is_for_threads

    def hear_news(self) -> None:
        """There may be work that the last claims did not find."""
        self._idle_until.clear()

    @property
    def is_passing_over(self) -> bool:
        """Tell whether workers are free while jobs of the other kind may wait before theirs."""
        return bool(self._idle_until)

    @property
    def rest(self) -> float:
        """Return the seconds for which work that comes in is no reason to claim."""
        return max(0.0, self._rests_until - time.monotonic())

    def found_no_place(self) -> None:
        """Jobs have waited too long for a worker of their kind: a claim is for one kind from now on."""
        if self.coroutines is None or not self._has_sync:
            return
        self._apart_until = time.monotonic() + _APART_SECONDS
        if not self._is_mixture_told:
            self._is_mixture_told = True
            log.warning(
                "Jobs of `async def` and `def` tasks share queues, and one kind found no free worker. Claims "
                "now pass over jobs of a kind whose workers are all busy, but look at 1,000 jobs at most. "
                "Give each kind queues of its own (queue= of its tasks), so that none waits behind the other."
            )

    def put(self, claimed: list[ClaimedRun]) -> None:
        """The jobs run as soon as workers are free, each where its task belongs."""
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
        if info is None or info.is_remote:  # it is put off, whoever has it: the kind that the claim was for
            return bool(self.left_out) and self.left_out != self._on_loop
        if not info.is_async or self._context.runs_apart(info):
            return False
        is_suspect = self._context.runs_apart(info, job.crashes)
        if is_suspect and not self.threads.has_idle:
            self._suspected.add(job.task)
        return not is_suspect

    def take_back(self) -> list[ClaimedRun]:
        """Return the jobs that have not started; they will not."""
        return [claimed for each in self._both for claimed in each.take_back()]

    def hold_up(self) -> list[HeldUp]:
        """Return the jobs that have not started, by who has them; they will start when put there again."""
        return [(each, each.take_back()) for each in self._both]

    def close(self, timeout: float) -> None:
        """Idle workers and the loop have ended, and resources are closed; busy ones end with their job."""
        for each in self._both:
            each.close(timeout)
        resources = self._context.runner.resources
        if resources.entered:
            resources.close()


def thread_count(workers: int) -> int:
    """Return how many threads a server has, where so many are set: five a core if none are."""
    return workers or 5 * (os.cpu_count() or 1)


def have_ended(threads: Sequence[threading.Thread], timeout: float) -> bool:
    """Return whether the threads have ended, those that were ever started, by then at the latest."""
    deadline = time.monotonic() + timeout
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


@attrs.define(eq=False, slots=False)
class ThreadWorkers:
    """A fixed number of threads, each running one job at a time."""

    _context: WorkerContext
    count: int
    running: dict[int, Run] = attrs.Factory(dict)
    _todo: queue.SimpleQueue[ClaimedRun | None] = attrs.Factory(queue.SimpleQueue)
    _pushed: deque[tuple[float, int]] = attrs.Factory(deque)  # when how many had been put
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
        """The threads wait for jobs."""
        for thread in self._threads:
            thread.start()

    # ---- the dispatcher's side ---------------------------------------------------------------------------

    def put(self, claimed: Sequence[ClaimedRun]) -> None:
        """The jobs run as soon as workers are free, in this order."""
        self._put_count += len(claimed)
        self._pushed.append((time.monotonic(), self._put_count))
        for claimed_run in claimed:
            self._todo.put(claimed_run)

    @property
    def waiting(self) -> int:
        """How many jobs wait here for a worker."""
        return self._todo.qsize()

    @property
    def has_idle(self) -> bool:
        """Tell whether a worker has nothing to do."""
        return not self._todo.qsize() and len(self.running) < self.count

    def oldest_wait(self) -> float:
        """Return how long the first of the waiting jobs has waited, in seconds."""
        begun = self._put_count - self._todo.qsize()
        while self._pushed and self._pushed[0][1] <= begun:
            self._pushed.popleft()
        return time.monotonic() - self._pushed[0][0] if self._pushed else 0.0

    def take_back(self) -> list[ClaimedRun]:
        """Return the jobs that have not started; they will not."""
        claimed: list[ClaimedRun | None] = []
        with suppress(queue.Empty):
            while True:
                claimed.append(self._todo.get_nowait())
        return list(filter(None, claimed))

    def close(self, timeout: float) -> None:
        """Idle workers have ended; busy ones end with their job."""
        self._is_closed = True
        for _ in self._threads:
            self._todo.put(None)
        have_ended(self._threads, timeout)
        if self._pool is not None:
            self._pool.close()

    # ---- a worker's side ---------------------------------------------------------------------------------

    def _work(self, worker: int) -> None:
        pool, get, finish, is_dry = self._pool, self._todo.get, self._context.inbox.finish, self._todo.empty
        while (claimed_run := get()) is not None:
            if claimed_run.is_dropped or not self._may_start(claimed_run):
                continue
            finish(self._attempt(worker, claimed_run), is_dry=is_dry())
            if pool is not None and pool.surplus:
                pool.tidy()

    def _may_start(self, claimed_run: ClaimedRun) -> bool:
        """Wait for the right to run; False once the claim is void."""
        while not self._context.memory.may_start():
            if claimed_run.is_dropped or self._is_closed:
                return False
            time.sleep(_RIGHT_POLL)
        return not claimed_run.is_dropped

    def _attempt(self, worker: int, claimed_run: ClaimedRun) -> EndedRun:
        context = self._context
        run = context.runner.prepare(claimed_run.job, claimed_run.holder)
        if isinstance(run, EndedRun):
            return run
        self.running[worker] = run
        try:
            if claimed_run.is_dropped:  # while it was prepared, when the dispatcher could not see it running
                return context.runner.passed_over(run)
            if self._pool is not None and context.runs_apart(run.info, claimed_run.job.crashes):
                return self._run_apart(worker, run, self._pool)
            context.memory.start(worker, claimed_run.job.id)
            return context.runner.run(run)
        except BaseException as error:  # noqa: BLE001 - no process could be started, say: the thread goes on
            return context.runner.interrupted(run, error)
        finally:
            context.memory.end(worker)
            context.state.mend()
            del self.running[worker]

    def _run_apart(self, worker: int, run: Run, pool: JobProcessPool) -> EndedRun:
        """Run in a process of its own: a suspect in a new one that nobody uses again, else in an idle one.

        The job is listed as running from its start there, so that it gets its crash if this process dies.
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
            process.kill()  # nobody knows what it would answer next
            raise
        finally:
            pool.give_back(process, is_used_up=is_suspect or self._is_worn(process))

    def _is_worn(self, process: JobProcess) -> bool:
        limits = self._context.limits
        return bool(limits.memory_bytes) and limits.is_too_large(process.rss_bytes())


@attrs.define(eq=False)
class AsyncWorkers:
    """One event loop, the host's or in a thread of its own that is started with the first `async def` job."""

    _context: WorkerContext
    limit: int
    _free: list[int]  # places in the worker process's memory
    _host: asyncio.AbstractEventLoop | None = None
    running: dict[int, Run] = attrs.Factory(dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None
    _todo: deque[tuple[float, ClaimedRun]] = attrs.Factory(deque)  # and since when it waits
    _is_polling: bool = False
    _is_waking: bool = False
    _is_closing: bool = False
    _preparing: set[asyncio.Task[None]] = attrs.Factory(set)
    _answered_at: float = 0.0
    _is_warned: bool = False

    def put(self, claimed: Sequence[ClaimedRun]) -> None:
        """The jobs start now; those above the limit as soon as others have ended, in this order."""
        loop = self._loop or self._open()
        now = time.monotonic()
        self._todo.extend((now, claimed_run) for claimed_run in claimed)
        try:
            loop.call_soon_threadsafe(self._start_all, loop)
        except RuntimeError:  # the jobs are handed back: they have waited too long
            if not self._is_warned:
                self._is_warned = True
                log.error("The host closed its event loop, on which async jobs run; stop the server before.")

    @property
    def waiting(self) -> int:
        """How many jobs wait here for a place."""
        return len(self._todo)

    def take_back_late(self) -> list[ClaimedRun]:
        """Return the jobs that wait for a place if the first has waited too long; they will not start."""
        if self.oldest_wait() <= _LONG_WAIT:
            return []
        return self.take_back()

    def oldest_wait(self) -> float:
        """Return how long the first of the waiting jobs has waited, in seconds."""
        try:
            return time.monotonic() - self._todo[0][0]
        except IndexError:
            return 0.0

    def take_back(self) -> list[ClaimedRun]:
        """Return the jobs that have not started; they will not."""
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
                log.exception("A job's callback or task would have ended the event loop; it goes on.")
        resources = self._context.runner.resources
        if (
            pending := asyncio.all_tasks(loop) - resources.keepers
        ):  # handed back while they ran: cancelled once more, then left
            for task in pending:
                task.cancel()
            loop.run_until_complete(asyncio.wait(pending, timeout=_LAST_STEPS))
        if resources.has_async:
            loop.run_until_complete(resources.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def close(self, timeout: float) -> None:
        """What is open on the loop is closed; it has stopped, unless it is the host's or a job blocks it."""
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
                        "Resources on the host's event loop are left open: they were not closed in time."
                    )
            return
        self._is_closing = True
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(timeout)
        if resources.has_async:
            log.warning("Resources on the event loop are left open: they were not closed in time.")

    # ---- on the loop -------------------------------------------------------------------------------------

    def _start_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """What waits has started, as far as there are places and the right to run."""
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
            if (job.relations_json is not None or job.crashes) and runner.takes_a_trip(job):
                place = self._free[-1]
                task = loop.create_task(self._start_tied(loop, claimed_run, place))
                self._free.remove(place)
                self._preparing.add(task)
                task.add_done_callback(self._preparing.discard)
                return
            run = runner.prepare(claimed_run.job, claimed_run.holder)
        except Exception as error:  # noqa: BLE001 - whatever it is, no other job waits for it
            self._finish(self._not_started(claimed_run, error))
            return
        if isinstance(run, EndedRun):
            self._finish(run)
        else:
            self._start_prepared(loop, claimed_run, run, self._free.pop())

    def _not_started(self, claimed_run: ClaimedRun, error: Exception) -> EndedRun:
        """Return the end of a job that is to leave its session, and no other job, whatever was raised."""
        log.error("Job %s could not be started.", claimed_run.job.id, exc_info=error)
        return self._context.runner.unprepared(claimed_run.job, claimed_run.holder, error)

    async def _start_tied(self, loop: asyncio.AbstractEventLoop, claimed_run: ClaimedRun, place: int) -> None:
        """Prepare the job in a thread, because that reads the storage, and start it here."""
        run: Run | EndedRun | None = None
        try:
            run = await in_thread(self._context.runner.prepare, claimed_run.job, claimed_run.holder)
        except Exception as error:  # noqa: BLE001 - no thread could be started, for example
            run = self._not_started(claimed_run, error)
        finally:
            if not isinstance(run, Run):  # it was not to start, or the loop ends
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
        if claimed_run.is_dropped:  # while it was prepared, when the dispatcher could not see it running
            self._leave(place)
            self._finish(self._context.runner.passed_over(run))
            return
        self._context.memory.start(place, claimed_run.job.id)
        try:
            task = loop.create_task(
                self._run(loop, run, place), name=f"job {claimed_run.job.id} {claimed_run.job.task}"
            )
        except Exception as error:  # noqa: BLE001 - of a task factory on the host's loop
            self._context.memory.end(place)
            self._leave(place)
            self._finish(self._not_started(claimed_run, error))
            return
        run.stop, run.coroutine = lambda: loop.call_soon_threadsafe(task.cancel), task
        if run.cancelled is not None:
            loop.call_soon(task.cancel)  # after its first step: a task cancelled before it never runs its end

    def _leave(self, place: int) -> None:
        del self.running[place]
        self._free.append(place)

    async def _run(self, loop: asyncio.AbstractEventLoop, run: Run, place: int) -> None:
        try:
            ended = await self._context.runner.arun(run)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the place is free again
            ended = self._context.runner.interrupted(run, error)
        run.stop = None
        self._context.state.mend()
        self._context.memory.end(place)
        del self.running[place]
        self._free.append(place)
        self._finish(ended)
        if self._todo:
            self._start_all(loop)

    def _finish(self, ended: EndedRun) -> None:
        """The end waits to be settled; those of one turn of the loop share one wake."""
        self._context.inbox.ended.append(ended)
        if not self._is_waking and self._loop is not None:
            self._is_waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        self._context.inbox.wake()

    # ---- watching ----------------------------------------------------------------------------------------

    def watch(self) -> None:
        """A job that blocks the loop for long is named in the log, once; called some times a second."""
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
                task.get_name() if task else "something that is no job",
                " or by a plugin's job_context" if task and self._context.runner.has_job_context else "",
            )
        if not self._answered_at:
            self._answered_at = now
        loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        self._is_warned = False


HeldUp: TypeAlias = tuple[ThreadWorkers | AsyncWorkers, list[ClaimedRun]]
"""Jobs that wait, and the workers that they wait for."""
