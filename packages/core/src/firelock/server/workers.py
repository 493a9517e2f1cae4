"""Where runs happen: threads for `def` tasks, an event loop for `async def`, processes for what asks for one.

An executor takes tickets (claimed jobs with their holder), says how many it holds, and appends each end to
the dispatcher's list.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.hookspecs import ServerInfo
from firelock.options import Executor
from firelock.server.attempt import Ended, Run, Runner
from firelock.server.job_process import ProcessPool
from firelock.server.process_state import Surroundings
from firelock.server.shared_memory import Board
from firelock.values import ClaimedJob, Holder

if TYPE_CHECKING:
    import asyncio

    from firelock.context import Console
    from firelock.options import TaskInfo

__all__ = ["AsyncWorkers", "Desk", "ThreadWorkers", "Ticket"]

log = logging.getLogger(__name__)

FLUSH_SIZE = 100  # ends that are worth a round trip of their own
FULL_PAUSE = 0.25  # seconds until more is claimed after coroutines found no place, unless one becomes free
SUSPECT_CRASHES = 2  # from so many crashes on a job runs alone
_RIGHT_POLL = 0.05
_LONG_WAIT = 0.050  # seconds that a coroutine waits here for a place before it goes back to its queue
_LAST_STEPS = 0.2  # seconds for coroutines to end that are cancelled when their loop stops
_BLOCKED = 0.7  # seconds without an answer from the event loop that are worth a warning


@attrs.define(eq=False)
class Ticket:
    """A claimed job on its way to a worker."""

    job: ClaimedJob
    holder: Holder
    is_dropped: bool = False  # lost before it started: passed over
    is_start_told: bool = False  # the storage knows when it started


@attrs.define(eq=False)
class Desk:
    """What executors share with their dispatcher."""

    runner: Runner
    console: Console
    board: Board
    server: ServerInfo
    app_spec: str | None  # how a process of its own finds the app; None where it cannot
    wake: Callable[[], None]
    storage: str | None = None  # a URL that takes the place of the app's own there
    imports: Sequence[str] = ()  # modules with more tasks, for there
    surroundings: Surroundings = attrs.field(factory=Surroundings)
    ended: deque[Ended] = attrs.field(factory=deque)

    def runs_apart(self, info: TaskInfo, crashes: int = 0) -> bool:
        """Tell whether a job with so many crashes runs in a process of its own, which a thread waits for."""
        return self.app_spec is not None and (crashes >= SUSPECT_CRASHES or info.executor is Executor.PROCESS)

    def finish(self, ended: Ended, *, is_dry: bool) -> None:
        """The end waits to be settled; the dispatcher is woken when a batch is full or nothing else waits."""
        self.ended.append(ended)
        if is_dry or len(self.ended) >= FLUSH_SIZE:
            self.wake()


class ThreadWorkers:
    """A fixed number of threads, each running one job at a time."""

    def __init__(self, desk: Desk, count: int) -> None:
        self.count = count
        self.running: dict[int, Run] = {}
        self._desk = desk
        self._todo: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._pushed: deque[tuple[float, int]] = deque()  # when how many had been put, for the oldest wait
        self._put_count = 0
        self._is_closed = False
        self._pool = None if desk.app_spec is None else ProcessPool(
            desk.app_spec, desk.server, storage=desk.storage, imports=desk.imports,
            surroundings=desk.surroundings,
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"firelock-worker-{worker}", daemon=True)
            for worker in range(count)
        ]
        for thread in self._threads:
            thread.start()

    # ---- the dispatcher's side ---------------------------------------------------------------------------

    def put(self, tickets: Sequence[Ticket]) -> None:
        """The jobs run as soon as workers are free, in this order."""
        self._put_count += len(tickets)
        self._pushed.append((time.monotonic(), self._put_count))
        for ticket in tickets:
            self._todo.put(ticket)

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

    def take_back(self) -> list[Ticket]:
        """Return the jobs that have not started; they will not."""
        tickets: list[Ticket] = []
        while True:
            try:
                ticket = self._todo.get_nowait()
            except queue.Empty:
                return tickets
            if ticket is not None:
                tickets.append(ticket)

    def close(self, timeout: float) -> None:
        """Idle workers have ended; busy ones end with their job."""
        self._is_closed = True
        for _ in self._threads:
            self._todo.put(None)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._pool is not None:
            self._pool.close()

    # ---- a worker's side ---------------------------------------------------------------------------------

    def _work(self, worker: int) -> None:
        pool, get, finish, is_dry = self._pool, self._todo.get, self._desk.finish, self._todo.empty
        while (ticket := get()) is not None:
            if ticket.is_dropped or not self._may_start(ticket):
                continue
            finish(self._attempt(worker, ticket), is_dry=is_dry())
            if pool is not None and pool.surplus:
                pool.tidy()

    def _may_start(self, ticket: Ticket) -> bool:
        """Wait for the right to run; False once the ticket is void."""
        while not self._desk.board.may_start():
            if ticket.is_dropped or self._is_closed:
                return False
            time.sleep(_RIGHT_POLL)
        return not ticket.is_dropped

    def _attempt(self, worker: int, ticket: Ticket) -> Ended:
        desk = self._desk
        run = desk.runner.prepare(ticket.job, ticket.holder)
        if type(run) is Ended:
            return run
        assert type(run) is Run  # noqa: S101 - prepare returns one of the two
        self.running[worker] = run
        is_suspect = ticket.job.crashes >= SUSPECT_CRASHES
        try:
            if ticket.is_dropped:  # while it was prepared, when the dispatcher could not see it running
                return desk.runner.passed_over(run)
            if self._pool is not None and desk.runs_apart(run.info, ticket.job.crashes):
                return self._run_apart(run, self._pool, is_suspect=is_suspect)
            desk.board.start(worker, ticket.job.id)
            return desk.runner.run(run)
        except BaseException as error:  # noqa: BLE001 - no process could be started, say: the thread goes on
            return desk.runner.interrupted(run, error)
        finally:
            desk.board.end(worker)
            desk.surroundings.mend()
            del self.running[worker]

    def _run_apart(self, run: Run, pool: ProcessPool, *, is_suspect: bool) -> Ended:
        """Run in a process of its own: a suspect in a new one that nobody uses again, else in an idle one."""
        process = pool.start(run.info) if is_suspect else pool.take(run.info)
        try:
            return process.run(run, self._desk.runner, self._desk.console)
        except BaseException:
            process.kill()  # nobody knows what it would answer next
            raise
        finally:
            pool.discard(process) if is_suspect else pool.give_back(process)


class AsyncWorkers:
    """One event loop in a thread of its own, started with the first `async def` job."""

    def __init__(self, desk: Desk, limit: int, first_worker: int) -> None:
        self.limit = limit
        self.running: dict[int, Run] = {}
        self._desk = desk
        self._free = list(range(first_worker + limit - 1, first_worker - 1, -1))  # places on the board
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._todo: deque[tuple[float, Ticket]] = (
            deque()
        )  # since when it waits for a place or the right to run
        self._full_until = 0.0  # monotonic
        self._is_polling = self._is_waking = self._is_closing = False
        self._answered_at = 0.0
        self._is_warned = False

    def put(self, tickets: Sequence[Ticket]) -> None:
        """The jobs start now; those above the limit as soon as others have ended, in this order."""
        loop = self._loop or self._open()
        now = time.monotonic()
        self._todo.extend((now, ticket) for ticket in tickets)
        loop.call_soon_threadsafe(self._start_all)

    @property
    def waiting(self) -> int:
        """How many jobs wait here for a place."""
        return len(self._todo)

    @property
    def is_full(self) -> bool:
        """Tell whether more coroutines would find no place here, now or a moment ago."""
        if self._todo:
            return True
        return len(self.running) >= self.limit and time.monotonic() < self._full_until

    def take_back_late(self) -> list[Ticket]:
        """Return the jobs that wait for a place if the first has waited too long; they will not start."""
        if self.oldest_wait() <= _LONG_WAIT:
            return []
        self._full_until = time.monotonic() + FULL_PAUSE
        return self.take_back()

    def oldest_wait(self) -> float:
        """Return how long the first of the waiting jobs has waited, in seconds."""
        try:
            return time.monotonic() - self._todo[0][0]
        except IndexError:
            return 0.0

    def take_back(self) -> list[Ticket]:
        """Return the jobs that have not started; they will not."""
        tickets: list[Ticket] = []
        while True:
            try:
                tickets.append(self._todo.popleft()[1])
            except IndexError:
                return tickets

    def _open(self) -> asyncio.AbstractEventLoop:
        import asyncio  # noqa: PLC0415 - loaded when first used

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
        if pending := asyncio.all_tasks(loop):  # handed back while they ran: cancelled once more, then left
            for task in pending:
                task.cancel()
            loop.run_until_complete(asyncio.wait(pending, timeout=_LAST_STEPS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def close(self, timeout: float) -> None:
        """The loop has stopped, unless a job blocks it."""
        if self._loop is None or self._thread is None or self._loop.is_closed():
            return
        self._is_closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)

    # ---- on the loop -------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        """What waits has started, as far as there are places and the right to run."""
        loop = self._loop
        if loop is None:  # pragma: no cover - it is set before the first call comes here
            raise AssertionError(self)
        if not self._desk.board.may_start():
            if not self._is_polling:
                self._is_polling = True
                loop.call_later(_RIGHT_POLL, self._poll)
            return
        while self._free:
            try:
                _, ticket = self._todo.popleft()
            except IndexError:
                return
            if not ticket.is_dropped:
                self._start_one(loop, ticket)

    def _poll(self) -> None:
        self._is_polling = False
        self._start_all()

    def _start_one(self, loop: asyncio.AbstractEventLoop, ticket: Ticket) -> None:
        run = self._desk.runner.prepare(ticket.job, ticket.holder)
        if isinstance(run, Ended):
            self._finish(run)
            return
        place = self._free.pop()
        self.running[place] = run
        if ticket.is_dropped:  # while it was prepared, when the dispatcher could not see it running
            del self.running[place]
            self._free.append(place)
            self._finish(self._desk.runner.passed_over(run))
            return
        self._desk.board.start(place, ticket.job.id)
        task = loop.create_task(self._run(run, place), name=f"job {ticket.job.id} {ticket.job.task}")
        run.stop = lambda: loop.call_soon_threadsafe(task.cancel)
        if run.cancelled is not None:
            loop.call_soon(task.cancel)  # after its first step: a task cancelled before it never runs its end

    async def _run(self, run: Run, place: int) -> None:
        try:
            ended = await self._desk.runner.arun(run)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the place is free again
            ended = self._desk.runner.interrupted(run, error)
        run.stop = None
        self._desk.surroundings.mend()
        self._desk.board.end(place)
        del self.running[place]
        self._free.append(place)
        self._finish(ended)
        if self._todo:
            self._start_all()

    def _finish(self, ended: Ended) -> None:
        """The end waits to be settled; those of one turn of the loop share one wake."""
        self._desk.ended.append(ended)
        if not self._is_waking and self._loop is not None:
            self._is_waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._is_waking = False
        self._desk.wake()

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
                "The event loop has been blocked for %.1f s by %s; use a `def` task, or await.",
                now - self._answered_at,
                task.get_name() if task else "something that is no job",
            )
        if not self._answered_at:
            self._answered_at = now
        loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        self._is_warned = False
