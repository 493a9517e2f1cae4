"""What a running job may ask about itself, say and return: `JobContext`, its console, `Snooze`."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import attrs

from firelock.errors import JobCancelled, StorageUnavailable
from firelock.flows.steps import call_to_run
from firelock.model.clock import from_micros
from firelock.model.job import ClaimedJob, LogLine, Progress
from firelock.model.meta import NO_META, check_meta, write_meta
from firelock.model.text import printable, shorten
from firelock.resource import Resource, find_resource
from firelock.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from firelock.flows.batch import Batch
    from firelock.flows.fake_steps import FakeAttempt
    from firelock.flows.signals import Signal
    from firelock.flows.steps import JobSteps, Steps
    from firelock.jobs.job import Job
    from firelock.options import Call
    from firelock.server.attempt import Run
    from firelock.server.open_resources import OpenResources
    from firelock.task import TaskVerbs

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

running_job: ContextVar[JobContext] = ContextVar("firelock_running_job")

_KEYS = "9e1c4a56-60d1-5e4f-9b5a-2f4b5a1d7c3e"  # of all that `key` makes: a name space


@attrs.define(eq=False, repr=False)
class JobContext:
    """The job that is running: annotate a task's first parameter with it, or call `current_job()`.

    It is never serialized. Every method may be called from any thread. What a method stores is stored
    immediately, except by `complete_within` and `within`, which use the transaction that they are given.
    """

    _job: ClaimedJob
    _console: Console
    _cancelled: bool = False
    cancel_reason: str = ""
    args: tuple[object, ...] = ()  # decoded, the context left out
    kwargs: Mapping[str, object] = attrs.Factory(dict)
    _resources: OpenResources | None = None
    server: str = ""  # the name of the server that runs it
    _attempt: Run | FakeAttempt | None = None

    @classmethod
    def fake(
        cls,
        *,
        id: str = "00000000-0000-7000-8000-000000000000",
        attempt: int = 1,
        retries: int = 0,
        due_at: datetime | None = None,
        queue: str = "default",
        tags: tuple[str, ...] = (),
        meta: Mapping[str, str] = NO_META,
        cancelled: bool = False,
        answers: Mapping[str, object] | None = None,
    ) -> JobContext:
        """Return a context for a unit test of a task; what it logs goes nowhere.

        Steps run, and are remembered by this context. `complete_within` accepts any session and remembers the
        result in `completions`. A wait has no server here and raises `StepError`,
        unless `answers` has its name: that is what it returns at once, and so does a step of such a name.

        Args:
            id: the job's.
            attempt: the number of the run.
            retries: how many came before.
            due_at: what the job was made for.
            queue: the job's.
            tags: the job's.
            meta: the job's.
            cancelled: whether it is told to stop; `complete_within` then raises `JobCancelled`.
            answers: by the name of a step, sleep, signal, `run` or `gather`, by the id of a joined job.
        """
        from firelock.flows.fake_steps import FakeAttempt  # noqa: PLC0415 - likewise
        from firelock.model.clock import micros  # noqa: PLC0415 - only tests need it

        at = 0 if due_at is None else micros(due_at)
        job = ClaimedJob(
            id=id,
            task="fake",
            arguments="{}",
            serializer="json",
            queue=queue,
            priority=0,
            attempt=attempt,
            retries=retries,
            crashes=0,
            fence=1,
            created_at=at,
            enqueued_at=at,
            claimed_at=at,
            nominal_at=at,
            tags=tags,
            meta_json=write_meta(check_meta(meta)),
        )
        context = cls(job, Console(lambda: at), cancelled)
        context.served_by(FakeAttempt(job, context, answers or {}))
        return context

    # ---- what it is --------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def task(self) -> str:
        """The task's name as stored with the job."""
        return self._job.task

    @property
    def attempt(self) -> int:
        """The number of this run, from 1."""
        return self._job.attempt

    @property
    def retries(self) -> int:
        """How many retries came before this run; 0 in the first."""
        return self._job.retries

    @property
    def fence(self) -> int:
        """A number that grows with every claim of this job: for systems that must refuse an old run."""
        return self._job.fence

    @property
    def created_at(self) -> datetime:
        """When it was stored, by the clock of its client."""
        return from_micros(self._job.created_at)

    @property
    def enqueued_at(self) -> datetime:
        """When it last came into its queue, by the storage's clock."""
        return from_micros(self._job.enqueued_at)

    @property
    def claimed_at(self) -> datetime:
        """When its server took it for this run, by the storage's clock."""
        return from_micros(self._job.claimed_at)

    @property
    def due_at(self) -> datetime:
        """The instant the job was made for: nominal for a recurring or delayed one, else its creation."""
        job = self._job
        return from_micros(job.created_at if job.nominal_at is None else job.nominal_at)

    @property
    def queue(self) -> str:
        """The queue it was taken from."""
        return self._job.queue

    @property
    def priority(self) -> int:
        """Its priority within the queue."""
        return self._job.priority

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        return self._job.tags

    @property
    def meta(self) -> Mapping[str, str]:
        """What travels with it, read only: as `using(meta=…)`, a plugin or its parent gave it."""
        return self._job.meta

    @property
    def recurring_id(self) -> str | None:
        """The recurring job that made it, if one did."""
        return self._job.recurring_id

    # ---- being told to stop ------------------------------------------------------------------------------

    @property
    def suspended(self) -> bool:
        """Tell whether this run ends here because the job waits, whatever the task raises or returns.

        For what stands round a task, such as a plugin's context: such an end is no failure, nor the job's.
        """
        return self._attempt is not None and self._attempt.is_suspended

    @property
    def cancelled(self) -> bool:
        """Tell whether the job should end now: deleted, timed out, or its server stops or lost it."""
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """Return if the job may go on.

        Raises:
            JobCancelled: it should end; let the exception pass.
        """
        if self._cancelled:
            raise JobCancelled(self.cancel_reason)

    def cancel(self, reason: str) -> None:
        """The job is told to end; called by the server."""
        if not self._cancelled:
            self.cancel_reason = reason
            self._cancelled = True

    # ---- ending within a transaction ---------------------------------------------------------------------

    def complete_within(self, session: object, result: object = None) -> None:
        """The job is succeeded if and only if the transaction of `session` commits, with all else in it.

        For a task whose effects are in the same database as its jobs: effects and end are one commit, so
        that they happen exactly once, whatever crashes. Call it last before the commit: from then on the
        job's row is locked until the transaction ends.

        After the commit the task may go on, within its timeout and the grace of a stop. The job has succeeded
        by then, so an exception is logged and neither fails the job nor repeats it. After a rollback the run
        goes on as before, and its ordinary end counts.

        Args:
            session: a SQLAlchemy Session or Connection, or the driver's connection, with a transaction.
            result: what the job returns; what the task returns afterwards is not stored.

        Raises:
            JobCancelled: the job is no longer this run's, since it was deleted or given to another server;
                let it pass, so that the transaction is rolled back.
            UnsupportedFeature: the jobs' storage cannot join a transaction.
            ConfigurationError: the transaction is on another database.
        """
        if self._attempt is None:
            raise LookupError(
                "No job runs with this context, so complete_within() cannot end one; use JobContext.fake()."
            )
        self._attempt.complete(session, result)

    async def acomplete_within(self, session: object, result: object = None) -> None:
        """`complete_within` for an AsyncSession or AsyncConnection."""
        run_sync = getattr(session, "run_sync", None)
        if run_sync is None:
            self.complete_within(session, result)
        else:
            await run_sync(lambda inner: self.complete_within(inner, result))

    @property
    def completions(self) -> tuple[object, ...]:
        """The results that were passed to `complete_within` of a context that `JobContext.fake()` made.

        Raises:
            LookupError: a server runs this job; read its result from its handle.
        """
        completions = getattr(self._attempt, "completions", None)
        if completions is None:
            raise LookupError("completions are those of JobContext.fake(); read job.result() of a real job.")
        return tuple(completions)

    def served_by(self, attempt: Run | FakeAttempt) -> None:
        """This is the attempt of a server; called by the server."""
        self._attempt = attempt

    # ---- what it remembers -------------------------------------------------------------------------------

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns, from the first run in which it did: a later run skips it.

        It is remembered before this returns, by the name within the job, whatever stands before or after it
        in the code; converted as a task's result is, by the return annotation, or as plain JSON without one.
        The function happens at least once: after a crash between its end and its memo, again. Give
        `key(name)` to whoever must not do it twice. An exception is not remembered: it may be tried again.

        Raises:
            StepError: the name stands twice in this run or within another step; what was returned cannot be
                stored, has more than 256 KiB, or no longer fits what was stored; or the job remembers 1,000
                names or 4 MiB already. Where it leaves the task, the job fails without a retry.
            JobCancelled: the job is no longer this run's.
            Exception: the function's own.
        """
        return self._steps.step(name, function, args, kwargs)

    async def astep(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """`step` for an async function; steps that are awaited together share round trips."""
        return await self._steps.astep(name, function, args, kwargs)

    def within(self, session: object, /) -> Steps:
        """Return steps that are remembered by the commit of this transaction, and only by it.

        Args:
            session: a SQLAlchemy Session or Connection, or the driver's connection, with a transaction in the
                jobs' own database.

        Raises:
            UnsupportedFeature: the jobs' storage cannot join a transaction.
        """
        from firelock.flows.steps import Steps  # noqa: PLC0415 - loaded when first used

        return Steps(self._steps, session)

    def key(self, name: str, /) -> str:
        """Return a text that is the same for this job and name in every run, and for no other: a UUID.

        For a service that takes an idempotency key: what was asked twice with one key is done once.
        """
        import uuid  # noqa: PLC0415 - loaded when first used

        return str(uuid.uuid5(uuid.UUID(_KEYS), f"{self._job.id} {name}"))

    # ---- waiting without a worker ------------------------------------------------------------------------

    def sleep(self, name: str, span: timedelta | float | datetime, /) -> None:
        """So much time has passed since the first run came here; the job holds no worker meanwhile.

        The run ends here: `finally` and contexts run, and after the time a new run begins at the top, in
        which steps are skipped. The attempt does not count, limits are free. Below 2 seconds it waits in
        place.

        Args:
            name: of its own within the job.
            span: a timedelta, seconds, or an aware datetime.

        Raises:
            StepError: as `step`; or the span is none.
        """
        self._steps.sleep(name, span)

    async def asleep(self, name: str, span: timedelta | float | datetime, /) -> None:
        """`sleep` in an async task."""
        await self._steps.asleep(name, span)

    def receive(self, signal: Signal[T], /, *, timeout: timedelta | float | None) -> T | None:
        """Return what was first sent to this job as the signal, or None where the time was over first.

        What was sent before anybody waited counts. The job holds no worker meanwhile, see `sleep`. What was
        received once stands, and so does the time-out, which counts from the first run that came here.

        Args:
            signal: of `fire.signal(name, type)`; `signal.named(key)` for another wait of this job.
            timeout: a timedelta or seconds; None waits for ever.

        Raises:
            StepError: as `step`; or what was sent does not fit the signal's type.
        """
        return self._steps.receive(signal, timeout)

    async def areceive(self, signal: Signal[T], /, *, timeout: timedelta | float | None) -> T | None:
        """`receive` in an async task."""
        return await self._steps.areceive(signal, timeout)

    def run(self, name: str, task: TaskVerbs[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of a job of the task, which runs on any server.

        This job holds no worker meanwhile, see `sleep`. The other one is made once: retries of its own are
        waited through. Where it has failed and a later attempt of this job comes here, it is made anew.

        Raises:
            JobFailed: it failed for good. Where that leaves the task, this job fails without a retry.
            JobDeleted: it was deleted, likewise.
            ResultUnavailable: its result was not stored, likewise.
            StepError: as `step`; or that is no task.
        """
        result: R = self._steps.run(name, call_to_run(name, task, args, kwargs))
        return result

    async def arun(self, name: str, task: TaskVerbs[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """`run` in an async task."""
        result: R = await self._steps.arun(name, call_to_run(name, task, args, kwargs))
        return result

    def gather(self, name: str, calls: Iterable[Call[R]], /) -> list[R]:
        """Return the results of a job for each call, at most 500, in order; all are stored in one step.

        All have ended before it returns or raises; see `run`.

        Raises:
            JobFailed: one failed for good; the first of them is told.
        """
        return self._steps.gather(name, calls)

    async def agather(self, name: str, calls: Iterable[Call[R]], /) -> list[R]:
        """`gather` in an async task."""
        return await self._steps.agather(name, calls)

    def join(self, job: Job[R], /, *, name: str | None = None) -> R:
        """Return the result of a job or batch made elsewhere, when it has ended; see `run`.

        Args:
            job: the handle of that job or batch.
            name: what its result is remembered by, its id by default. Whoever joins the same job twice, such
                as after its requeue, gives each a name of its own.

        Raises:
            JobNotFound: it is not stored.
            JobFailed: it failed for good, or members of the batch did.
            JobDeleted: it was deleted, or cancelled.
        """
        return self._steps.join(job, name)

    async def ajoin(self, job: Job[R], /, *, name: str | None = None) -> R:
        """`join` in an async task."""
        return await self._steps.ajoin(job, name)

    # ---- saying something while it runs ------------------------------------------------------------------

    def emit(self, data: str, /, *, stream: str = "out") -> None:
        """The text is added to a stream of this job, which others read while it grows: `Job.stream()`.

        Stored within 100 ms, and before the run ends. A later run, behind a wait as well, has higher
        offsets; what it skips, since it is remembered, is not emitted again, what it does again is.

        Raises:
            StepError: it is no text, or the stream would have more than 4 MiB.
        """
        self._steps.emit(stream, data)

    async def aemit(self, data: str, /, *, stream: str = "out") -> None:
        """`emit` without blocking the event loop while much waits to be stored."""
        await self._steps.aemit(stream, data)

    @property
    def batch(self) -> Batch:
        """The batch that the job is a member of; adding to it from here is always allowed, cancelled or not.

        Raises:
            StepError: it is a member of none.
        """
        return self._steps.batch

    @property
    def _steps(self) -> JobSteps:
        if self._attempt is None:
            raise LookupError("This context is not of a job that a server runs; JobContext.fake() has steps.")
        return self._attempt.steps

    # ---- what its worker keeps open ----------------------------------------------------------------------

    def resource(self, resource: T, /) -> T:
        """Return what the worker has open of an `@fire.resource`; it is opened now if this is its first use.

        Of those that are opened on the event loop only where a test replaces them: see `aresource`.

        Raises:
            LookupError: no worker runs this job, or it is opened on the event loop.
            ConfigurationError: it is no resource.
            Exception: as it was opened.
        """
        found = find_resource(resource)
        return cast("T", found.replacements[-1] if found.replacements else self._opener(found).get(found))

    async def aresource(self, resource: T, /) -> T:
        """`resource` for an async task, of either kind; what is not async is opened in a thread."""
        found = find_resource(resource)
        return cast(
            "T", found.replacements[-1] if found.replacements else await self._opener(found).aget(found)
        )

    def _opener(self, resource: Resource) -> OpenResources:
        if self._resources is None:
            raise LookupError(
                f"No worker runs this, so that {resource.name} is open nowhere. Pass it where you call the "
                f"task's function yourself, or replace it in a test: with replaced({resource.name}, by=…)."
            )
        return self._resources

    # ---- saying something --------------------------------------------------------------------------------

    def log(self, text: str, *, level: str = "info") -> None:
        """The line is in the job's log soon: written with others, at the latest with the job's end."""
        self._console.log(self._job.id, self._job.attempt, level, text)

    def progress(self, done: float, total: float, message: str | None = None) -> None:
        """The job's progress is `done` of `total`; only the newest is kept."""
        self._console.progress(self._job.id, done, total, message)


def current_job() -> JobContext:
    """Return the context of the job that runs in this thread or coroutine.

    Raises:
        LookupError: no job runs here.
    """
    try:
        return running_job.get()
    except LookupError:
        raise LookupError(
            "No job is running here; current_job() works inside a task that a server runs."
        ) from None


log = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")
_TEXT_LIMIT = 4_096
_LONGEST_WAIT = 2.0  # seconds, for the flush of another thread
_LOCKED_REST = 1.0  # seconds after which the lines of a locked job are sent again
_JOB_LIMIT = 1_000  # lines a job may have waiting here; a storage keeps no more of it either


@attrs.define(eq=False)
class Console:
    """Lines and progress of a worker process's jobs until the next flush; a flush is one storage call.

    Bounded: a job that writes faster than the flushes keeps its newest lines, and the first of them says how
    many were left out. What a job has said whose row another transaction locks is kept, and tried again
    after a second.
    """

    _now: Callable[[], int]
    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _lines: dict[str, list[LogLine]] = attrs.Factory(lambda: defaultdict(list))
    _left_out: Counter[str] = attrs.Factory(Counter)
    _progress: dict[str, Progress] = attrs.Factory(dict)
    _sending: threading.Lock = attrs.Factory(threading.Lock)
    _locked: dict[str, float] = attrs.Factory(dict)  # monotonic, by job: when its lines are sent again

    def log(self, job_id: str, attempt: int, level: str, text: str) -> None:
        """One line waits to be written; it is cut at 4,096 characters."""
        check_level(level)
        line = LogLine(
            number=0, at=self._now(), level=level, text=shorten(printable(text), _TEXT_LIMIT), attempt=attempt
        )
        with self._lock:
            lines = self._lines[job_id]
            if len(lines) >= _JOB_LIMIT:
                del lines[0]
                self._left_out[job_id] += 1
            lines.append(line)

    def progress(self, job_id: str, done: float, total: float, message: str | None) -> None:
        """The newest progress of the job waits to be written."""
        check_progress(done, total)
        progress = Progress(
            done=done,
            total=total,
            at=self._now(),
            message=None if message is None else shorten(printable(message), _TEXT_LIMIT),
        )
        with self._lock:
            self._progress[job_id] = progress

    def flush(self, storage: Storage) -> None:
        """Write the gathered lines and progress; keep them if the storage is unavailable.

        Ends of jobs are sent after a flush. So a flush also waits for the one of another thread, but at most
        two seconds: otherwise an end could be stored before lines that are still on their way. Lines that the
        storage refuses for another reason are dropped and logged, because no line may keep an end waiting.

        Raises:
            StorageUnavailable: nothing was written.
        """
        if not self._sending.acquire(timeout=_LONGEST_WAIT):
            return
        try:
            self._flush(storage)
        finally:
            self._sending.release()

    def _flush(self, storage: Storage) -> None:
        lines, progress, left_out = self._take()
        if not (lines or progress):
            return
        for job_id, count in left_out.items():
            first = lines[job_id][0]
            lines[job_id][0] = LogLine(
                number=0,
                at=first.at,
                level="warning",
                text=f"({count + 1} lines left out: written too fast)",
                attempt=first.attempt,
            )
        try:
            locked = storage.append_logs(lines, progress)
        except StorageUnavailable:
            self._put_back(lines, progress)
            raise
        except Exception:
            log.exception(
                "Log lines of %d jobs were refused by the storage and are lost.", len({*lines, *progress})
            )
            return
        if locked:
            self._locked |= dict.fromkeys(locked, time.monotonic() + _LOCKED_REST)
            self._put_back(
                {job_id: lines[job_id] for job_id in locked if job_id in lines},
                {job_id: progress[job_id] for job_id in locked if job_id in progress},
            )

    def _take(self) -> tuple[dict[str, list[LogLine]], dict[str, Progress], dict[str, int]]:
        """Return what is to be written now, which is not gathered any more."""
        if not (self._lines or self._progress):
            return {}, {}, {}
        if self._locked:
            now = time.monotonic()
            self._locked = {job_id: until for job_id, until in self._locked.items() if until > now}
        resting = self._locked
        with self._lock:
            lines = {id: self._lines.pop(id) for id in [*self._lines] if id not in resting}
            progress = {id: self._progress.pop(id) for id in [*self._progress] if id not in resting}
            return lines, progress, {id: self._left_out.pop(id) for id in [*self._left_out] if id in lines}

    def _put_back(self, lines: Mapping[str, list[LogLine]], progress: Mapping[str, Progress]) -> None:
        with self._lock:
            for job_id, older in lines.items():
                self._lines[job_id] = (older + self._lines[job_id])[-_JOB_LIMIT:]
            self._progress = {**progress, **self._progress}


def check_level(level: str) -> None:
    """Return if there is such a level; else ValueError, which fails the job that used it."""
    if level not in LEVELS:
        raise ValueError(f"Log level {level!r} is unknown; use one of {', '.join(LEVELS)}.")


def check_progress(done: float, total: float) -> None:
    """Return if both are finite numbers; else ValueError, which fails the job that reported them."""
    if not _is_finite(done) or not _is_finite(total):
        raise ValueError(f"({done!r}, {total!r}) is no progress; pass two finite numbers, done and total.")


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


_LONGEST = timedelta(days=365)


def _to_span(value: timedelta | float) -> timedelta:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= _LONGEST.total_seconds()
    ):
        return timedelta(seconds=value)
    if not isinstance(value, timedelta) or not timedelta(0) <= value <= _LONGEST:
        raise ValueError(f"Snooze({value!r}): pass a timedelta, or seconds, from 0 to 365 days.")
    return value


@attrs.frozen
class Snooze:
    """Returned by a task: run me again after this span; the attempt does not count.

    Raises:
        ValueError: the span is negative, above a year or none.
    """

    after: timedelta = attrs.field(converter=_to_span)  # a number is seconds
    reason: str = attrs.field(default="snoozed", converter=printable)
