"""`JobContext`, the interface of a running job; the `Console` for its log lines; and `Snooze`."""

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
from firelock.model.text import number_of, printable, shorten
from firelock.resource import Resource, find_resource
from firelock.storage import Storage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from firelock.flows.batch import Batch
    from firelock.flows.fake_steps import FakeRun
    from firelock.flows.signals import Signal
    from firelock.flows.steps import JobSteps, Steps
    from firelock.jobs.job import Job
    from firelock.options import Call
    from firelock.server.open_resources import OpenResources
    from firelock.server.run import Run
    from firelock.task import TaskVerbs

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

running_job: ContextVar[JobContext] = ContextVar("firelock_running_job")

_KEYS = "9e1c4a56-60d1-5e4f-9b5a-2f4b5a1d7c3e"  # the namespace of the UUIDs that `key` returns


@attrs.define(eq=False, repr=False)
class JobContext:
    """The running job: annotate a task's first parameter with this class, or call `current_job()`.

    A context is never serialized. Every method can be called from any thread. A method that stores something
    stores it immediately, except `complete_within` and `within`, which use the transaction passed to them.
    """

    _job: ClaimedJob
    _console: Console
    _cancelled: bool = False
    cancel_reason: str = ""
    args: tuple[object, ...] = ()  # the decoded arguments, without the context
    kwargs: Mapping[str, object] = attrs.Factory(dict)
    _resources: OpenResources | None = None
    server: str = ""  # the name of the server that runs the job
    _run: Run | FakeRun | None = None

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
        """Return a context for a unit test of a task; its log lines are discarded.

        This context runs steps and keeps their values. `complete_within` accepts any session and adds the
        result to `completions`. A wait raises `StepError` because there is no server, unless `answers`
        contains its name. In that case, the wait immediately returns that answer. A step whose name is in
        `answers` returns its answer in the same way.

        Args:
            id: the id of the job.
            attempt: the number of the attempt.
            retries: the number of retries before this attempt.
            due_at: the time for which the job was created.
            queue: the queue of the job.
            tags: the tags of the job.
            meta: the meta of the job.
            cancelled: whether the job should stop; `complete_within` then raises `JobCancelled`.
            answers: the answers, keyed by the name of a step, sleep, signal, `run` or `gather`, or by the id
                of a joined job.
        """
        from firelock.flows.fake_steps import FakeRun  # noqa: PLC0415 - only tests need it
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
        context.served_by(FakeRun(job, context, answers or {}))
        return context

    # ---- the job's fields --------------------------------------------------------------------------------

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
        """The number of this attempt, starting at 1; all runs of an attempt have the same number."""
        return self._job.attempt

    @property
    def retries(self) -> int:
        """The number of retries before this attempt; 0 in the first attempt."""
        return self._job.retries

    @property
    def fence(self) -> int:
        """A number that grows with every claim of this job, for systems that must refuse an old run."""
        return self._job.fence

    @property
    def created_at(self) -> datetime:
        """The time at which the job was stored, according to the client's clock."""
        return from_micros(self._job.created_at)

    @property
    def enqueued_at(self) -> datetime:
        """The time at which the job last entered its queue, according to the storage's clock."""
        return from_micros(self._job.enqueued_at)

    @property
    def claimed_at(self) -> datetime:
        """The time at which the server claimed the job for this run, according to the storage's clock."""
        return from_micros(self._job.claimed_at)

    @property
    def due_at(self) -> datetime:
        """The time for which the job was created.

        This is the nominal time of a recurring or delayed job, and the creation time of any other job.
        """
        job = self._job
        return from_micros(job.created_at if job.nominal_at is None else job.nominal_at)

    @property
    def queue(self) -> str:
        """The queue from which the job was claimed."""
        return self._job.queue

    @property
    def priority(self) -> int:
        """The priority of the job within the queue."""
        return self._job.priority

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the job."""
        return self._job.tags

    @property
    def meta(self) -> Mapping[str, str]:
        """The metadata of the job, read-only, as set by `using(meta=…)`, a plugin or the parent."""
        return self._job.meta

    @property
    def recurring_id(self) -> str | None:
        """The id of the recurring job that created this job, or None."""
        return self._job.recurring_id

    # ---- cancellation ------------------------------------------------------------------------------------

    @property
    def suspended(self) -> bool:
        """Whether this run ends because the job waits, regardless of the task's return value or exception.

        This property is for code that wraps a task, such as a plugin's context. The end of such a run is
        neither a failure nor the end of the job.
        """
        return self._run is not None and self._run.is_suspended

    @property
    def cancelled(self) -> bool:
        """Whether the job should end now: it was deleted or timed out, or its server is stopping or lost it.

        The reason is in `cancel_reason`.
        """
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """Raise `JobCancelled` if the job should end.

        Raises:
            JobCancelled: The job should end. Do not catch this exception.
        """
        if self._cancelled:
            raise JobCancelled(self.cancel_reason)

    def cancel(self, reason: str) -> None:
        """Request that the job stops. The server calls this method."""
        if not self._cancelled:
            self.cancel_reason = reason
            self._cancelled = True

    # ---- end within a transaction ------------------------------------------------------------------------

    def complete_within(self, session: object, result: object = None) -> None:
        """Mark the job as succeeded if and only if the transaction of `session` commits.

        Use this method in a task that writes to the database of its jobs. The task's writes and the success
        of the job are in one commit, so they happen exactly once, even after a crash. Call this method
        immediately before the commit, because the job's row is locked from this call until the transaction
        ends.

        After the commit, the task may continue within its timeout and the grace period of a stop. The job has
        succeeded by then, so an exception is only logged and neither fails nor repeats the job. After a
        rollback, the run continues as before, and its outcome is stored as usual.

        Args:
            session: a SQLAlchemy Session or Connection, or the driver's connection, with a transaction.
            result: the result of the job; the return value of the task is not stored.

        Raises:
            JobCancelled: The job no longer belongs to this run, because it was deleted or returned to its
                queue. Do not catch this exception, so that the transaction is rolled back.
            UnsupportedFeature: The jobs' storage cannot join a transaction.
            ConfigurationError: The transaction is in another database.
        """
        if self._run is None:
            raise LookupError(
                "complete_within() cannot end a job because no server runs a job with this context. In a "
                "test, use JobContext.fake()."
            )
        self._run.complete(session, result)

    async def acomplete_within(self, session: object, result: object = None) -> None:
        """Call `complete_within` with an AsyncSession or AsyncConnection."""
        run_sync = getattr(session, "run_sync", None)
        if run_sync is None:
            self.complete_within(session, result)
        else:
            await run_sync(lambda inner: self.complete_within(inner, result))

    @property
    def completions(self) -> tuple[object, ...]:
        """The results that were passed to `complete_within` of a context from `JobContext.fake()`.

        Raises:
            LookupError: A server runs this job. Read the result from the job's handle.
        """
        completions = getattr(self._run, "completions", None)
        if completions is None:
            raise LookupError(
                "completions is only available on a context from JobContext.fake(). Use job.result() to read "
                "the result of a stored job."
            )
        return tuple(completions)

    def served_by(self, run: Run | FakeRun) -> None:
        """Set the run to which this context belongs. The server calls this method."""
        self._run = run

    # ---- steps -------------------------------------------------------------------------------------------

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in the first run in which it succeeds, and return its stored value in later runs.

        The value is stored before this method returns. The name identifies the step within the job,
        regardless of its position in the code. The value is converted like the result of a task: according to
        the return annotation, or as plain JSON without an annotation. The function runs at least once: if the
        process crashes after the function but before its value is stored, the function runs again. If a
        service must not do the same thing twice, pass `key(name)` to it. An exception is not stored, so the
        step can be tried again.

        Raises:
            StepError: The name is used twice in this run, or within another step; the returned value cannot
                be stored or is larger than 256 KiB; the stored value no longer fits the annotation; or the
                job already stores 1,000 names or 4 MiB. If the task does not catch this error, the job fails
                without a retry.
            JobCancelled: The job no longer belongs to this run.
            Exception: The function raised this exception.
        """
        return self._steps.step(name, function, args, kwargs)

    async def astep(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call `step` with an async function; steps that are awaited together share round trips."""
        return await self._steps.astep(name, function, args, kwargs)

    def within(self, session: object, /) -> Steps:
        """Return an object whose steps are stored if and only if this transaction commits.

        Args:
            session: a SQLAlchemy Session or Connection, or the driver's connection, with a transaction in the
                database of the jobs.

        Raises:
            UnsupportedFeature: The jobs' storage cannot join a transaction.
        """
        from firelock.flows.steps import Steps  # noqa: PLC0415 - loaded when first used

        return Steps(self._steps, session)

    def key(self, name: str, /) -> str:
        """Return a UUID string that is the same in every run of this job, and unique to this job and name.

        Pass the string to a service as an idempotency key: the service then performs two requests with the
        same key only once.
        """
        import uuid  # noqa: PLC0415 - loaded when first used

        return str(uuid.uuid5(uuid.UUID(_KEYS), f"{self._job.id} {name}"))

    # ---- waits without a worker --------------------------------------------------------------------------

    def sleep(self, name: str, span: timedelta | float | datetime, /) -> None:
        """Wait until this duration has passed since the first run reached this call, or until this time.

        The job does not occupy a worker while it waits. The run ends with this call: `finally` blocks and
        context managers run. After the wait, a new run starts at the top of the function and skips the stored
        steps. A sleep does not count as an attempt and does not use the job's limits. A sleep of less than 2
        seconds waits without ending the run.

        Args:
            name: unique within the job.
            span: a timedelta, seconds, or an aware datetime.

        Raises:
            StepError: `span` is invalid, or a reason listed at `step` applies.
        """
        self._steps.sleep(name, span)

    async def asleep(self, name: str, span: timedelta | float | datetime, /) -> None:
        """Call `sleep` in an async task."""
        await self._steps.asleep(name, span)

    def receive(self, signal: Signal[T], /, *, timeout: timedelta | float | None) -> T | None:
        """Return the first payload of this signal that was sent to this job, or None after the timeout.

        A payload that was sent before this call is returned too. The job does not occupy a worker while it
        waits; see `sleep`. The payload, or the timeout, is stored and stays the same in later runs. The
        timeout starts when a run first reaches this call.

        Args:
            signal: a signal from `fire.signal(name, type)`; for another wait in this job, use
                `signal.named(key)`.
            timeout: a timedelta or seconds; None waits without a limit.

        Raises:
            StepError: The payload does not fit the signal's type, or a reason listed at `step` applies.
        """
        return self._steps.receive(signal, timeout)

    async def areceive(self, signal: Signal[T], /, *, timeout: timedelta | float | None) -> T | None:
        """Call `receive` in an async task."""
        return await self._steps.areceive(signal, timeout)

    def run(self, name: str, task: TaskVerbs[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task in a job on any server, and return the result of that job.

        This job does not occupy a worker while it waits; see `sleep`. The called job is created once, and
        this job also waits for its retries. If the called job has failed, a later attempt of this job creates
        a new one when it reaches this call.

        Raises:
            JobFailed: The called job failed after its retries. If the task does not catch this error, this
                job fails without a retry.
            JobDeleted: The called job was deleted. The consequences are the same as for `JobFailed`.
            ResultUnavailable: The result of the called job was not stored. The consequences are the
                same as for `JobFailed`.
            StepError: `task` is not a task, or a reason listed at `step` applies.
        """
        result: R = self._steps.run(name, call_to_run(name, task, args, kwargs))
        return result

    async def arun(self, name: str, task: TaskVerbs[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `run` in an async task."""
        result: R = await self._steps.arun(name, call_to_run(name, task, args, kwargs))
        return result

    def gather(self, name: str, calls: Iterable[Call[R]], /) -> list[R]:
        """Run a job for each call, at most 500, and return their results in order.

        All jobs are stored together. This method returns or raises only after all of them have ended; see
        `run`.

        Raises:
            JobFailed: A job failed after its retries. If several jobs failed, the error describes the first
                of them.
        """
        return self._steps.gather(name, calls)

    async def agather(self, name: str, calls: Iterable[Call[R]], /) -> list[R]:
        """Call `gather` in an async task."""
        return await self._steps.agather(name, calls)

    def join(self, job: Job[R], /, *, name: str | None = None) -> R:
        """Wait until a job or batch that was created elsewhere has ended, and return its result; see `run`.

        Args:
            job: the handle of that job or batch.
            name: the name under which the result is stored; the job's id by default. To join the same job
                twice, for example after its requeue, pass a different name each time.

        Raises:
            JobNotFound: The job was not found.
            JobFailed: The job, or a member of the batch, failed after its retries.
            JobDeleted: The job was deleted, or the batch was cancelled.
        """
        return self._steps.join(job, name)

    async def ajoin(self, job: Job[R], /, *, name: str | None = None) -> R:
        """Call `join` in an async task."""
        return await self._steps.ajoin(job, name)

    # ---- streams and the batch ---------------------------------------------------------------------------

    def emit(self, data: str, /, *, stream: str = "out") -> None:
        """Append the string to a stream of this job, which others can read with `Job.stream()` as it grows.

        The string is stored within 100 ms, and before the run ends. Later runs, including those after a wait,
        continue with higher offsets. The output of repeated code is emitted again, but not the output of
        stored steps.

        Raises:
            StepError: `data` is not a string, or the stream would be larger than 4 MiB.
        """
        self._steps.emit(stream, data)

    async def aemit(self, data: str, /, *, stream: str = "out") -> None:
        """Call `emit` without blocking the event loop, even if a lot of output is waiting to be stored."""
        await self._steps.aemit(stream, data)

    @property
    def batch(self) -> Batch:
        """The batch that the job is a member of. The job can add jobs to it even if the batch is cancelled.

        Raises:
            StepError: The job is not a member of a batch.
        """
        return self._steps.batch

    @property
    def _steps(self) -> JobSteps:
        if self._run is None:
            raise LookupError(
                "Steps are not available because no server runs a job with this context. In a test, use "
                "JobContext.fake()."
            )
        return self._run.steps

    # ---- resources ---------------------------------------------------------------------------------------

    def resource(self, resource: T, /) -> T:
        """Return the open value of a resource; the worker process opens it when it is first used.

        Use `aresource` for a resource that is opened on the event loop. This method returns such a resource
        only if a test replaces it.

        Raises:
            LookupError: No worker runs this job, or the resource is opened on the event loop.
            ConfigurationError: `resource` is not a resource.
            Exception: The resource could not be opened.
        """
        found = find_resource(resource)
        return cast("T", found.replacements[-1] if found.replacements else self._opener(found).get(found))

    async def aresource(self, resource: T, /) -> T:
        """Return the open value of a resource in an async task; a sync resource is opened in a thread."""
        found = find_resource(resource)
        return cast(
            "T", found.replacements[-1] if found.replacements else await self._opener(found).aget(found)
        )

    def _opener(self, resource: Resource) -> OpenResources:
        if self._resources is None:
            raise LookupError(
                f"Resource {resource.name} is not open because no worker runs this function. Pass its value "
                f"when you call the function yourself, or use replaced({resource.name}, by=…) in a test."
            )
        return self._resources

    # ---- log and progress --------------------------------------------------------------------------------

    def log(self, text: str, *, level: str = "info") -> None:
        """Write a line to the log of the job.

        Lines are stored in groups soon after the call, at the latest when the job ends.
        """
        self._console.log(self._job.id, self._job.attempt, level, text)

    def progress(self, done: float, total: float, message: str | None = None) -> None:
        """Set the progress of the job to `done` of `total`; only the newest progress is kept."""
        self._console.progress(self._job.id, done, total, message)


def current_job() -> JobContext:
    """Return the context of the job that runs in this thread or coroutine.

    Raises:
        LookupError: No job runs here.
    """
    try:
        return running_job.get()
    except LookupError:
        raise LookupError(
            "No job is running in this context. Use current_job() inside a task that a server runs."
        ) from None


log = logging.getLogger(__name__)

LEVELS = ("debug", "info", "warning", "error")
_TEXT_LIMIT = 4_096
_LONGEST_WAIT = 2.0  # seconds to wait for the flush of another thread
_LOCKED_REST = 1.0  # seconds after which the lines of a locked job are sent again
_JOB_LIMIT = 1_000  # maximum number of buffered lines per job; a storage does not keep more lines either


@attrs.define(eq=False)
class Console:
    """A buffer for the log lines and progress of a worker process's jobs until the next flush.

    A flush is one storage call. The buffer is bounded: if a job writes faster than the buffer is flushed, the
    newest lines are kept, and the first of them states how many were omitted. If another transaction has
    locked the row of a job, the lines of this job are kept and sent again after a second.
    """

    _now: Callable[[], int]
    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _lines: dict[str, list[LogLine]] = attrs.Factory(lambda: defaultdict(list))
    _left_out: Counter[str] = attrs.Factory(Counter)
    _progress: dict[str, Progress] = attrs.Factory(dict)
    _sending: threading.Lock = attrs.Factory(threading.Lock)
    _locked: dict[str, float] = attrs.Factory(dict)  # by job: monotonic time when its lines are sent again

    def log(self, job_id: str, attempt: int, level: str, text: str) -> None:
        """Add a line to the buffer, cut to 4,096 characters."""
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
        """Replace the progress of the job in the buffer."""
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
        """Write the buffered lines and progress; keep them if the storage is unavailable.

        The outcome of a job is sent after a flush. If another thread is flushing, this method waits up to two
        seconds for it. Otherwise the outcome could be stored before log lines that are still being sent. If
        the storage rejects lines for another reason, they are dropped, and this is logged, because a log line
        must not delay an outcome.

        Raises:
            StorageUnavailable: The storage is unavailable, so nothing was written.
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
                text=f"({number_of(count + 1, 'line')} omitted: written too fast)",
                attempt=first.attempt,
            )
        try:
            locked = storage.append_logs(lines, progress)
        except StorageUnavailable:
            self._put_back(lines, progress)
            raise
        except Exception:
            log.exception(
                "The storage rejected log lines of %s; discarding these lines.",
                number_of(len({*lines, *progress}), "job"),
            )
            return
        if locked:
            self._locked |= dict.fromkeys(locked, time.monotonic() + _LOCKED_REST)
            self._put_back(
                {job_id: lines[job_id] for job_id in locked if job_id in lines},
                {job_id: progress[job_id] for job_id in locked if job_id in progress},
            )

    def _take(self) -> tuple[dict[str, list[LogLine]], dict[str, Progress], dict[str, int]]:
        """Remove and return the lines, progress and counts of omitted lines that can be written now."""
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
    """Raise ValueError if the log level is unknown; the error fails the job that used the level."""
    if level not in LEVELS:
        raise ValueError(f"Log level {level!r} is unknown; use one of {', '.join(LEVELS)}.")


def check_progress(done: float, total: float) -> None:
    """Raise ValueError unless both values are finite numbers; the error fails the job that reported them."""
    if not _is_finite(done) or not _is_finite(total):
        raise ValueError(f"Progress must be two finite numbers, done and total, got ({done!r}, {total!r}).")


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # the integer is too large for a float
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
        raise ValueError(f"The delay of Snooze must be a timedelta or seconds, 0 to 365 days, got {value!r}.")
    return value


@attrs.frozen
class Snooze:
    """The return value with which a task requests another run after a delay; the attempt does not count.

    Raises:
        ValueError: The delay is not a duration, or is negative or longer than a year.
    """

    after: timedelta = attrs.field(converter=_to_span)  # a number is interpreted as seconds
    reason: str = attrs.field(default="snoozed", converter=printable)
