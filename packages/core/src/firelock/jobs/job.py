"""The handle of a job: its fields as last read, and methods that act on the job by its id."""

from __future__ import annotations

import os
import threading
from concurrent.futures import wait
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, cast, overload

import attrs

from firelock.arguments.references import OutputPlaceholder
from firelock.errors import (
    ConfigurationError,
    DuplicateJob,
    JobConflict,
    JobNotCommitted,
    JobNotFound,
    ResultTimeout,
    ResultUnavailable,
    StepError,
    TaskError,
)
from firelock.jobs.administration import (
    CHANGED,
    apply_unless_changed,
    release_continuations,
    restoration,
    to_move_target,
    update_batches,
    why_key_is_taken,
    why_not_moved,
    why_refused,
)
from firelock.jobs.blocked_by import key_waits, waits_words
from firelock.jobs.pagination import Paged
from firelock.jobs.results import Observation, reads, result_of
from firelock.model import lifecycle
from firelock.model.aio import in_thread, twin
from firelock.model.answers import Applied
from firelock.model.clock import from_micros
from firelock.model.job import ErrorInfo, JobRecord, NewJob
from firelock.model.memo import Chunk, MemoKind, memo_words
from firelock.model.state import State
from firelock.model.text import clock_time, shown
from firelock.options import makes_calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from firelock.jobs.client import Client
    from firelock.model.job import Transition
    from firelock.model.memo import Memo
    from firelock.task import TaskVerbs

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
R2 = TypeVar("R2")


_UNCOMMITTED = -1
_STORE_TOGETHER = "; or pass within=… to store both together"
_showing = threading.Lock()  # shared by all handles, to keep them cheap; held only briefly


def _leave_behind() -> None:
    """Replace the lock after a fork, because a thread of the old process might have held it."""
    global _showing  # noqa: PLW0603
    _showing = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


class Job(Generic[R]):
    """One job, as this handle last read it.

    `then` joins the caller's transaction. `requeue`, `delete`, `restore` and `move` act immediately: rolling
    back a transaction around them does not undo them.

    `refresh()`, `requeue()`, `delete()`, `move()`, `result()` and their async versions update the handle with
    the job that they read; nothing else changes it. No property reads the storage. The handle of a newly
    enqueued job shows the job as it was sent to the storage: enqueued, scheduled or awaiting, with no
    attempt, error or server.

    Threads may share a handle. Each property shows the result of one whole read. If two reads overlap, the
    handle keeps the result of the read that began last. `record()` returns all fields of one read.

    If a call was a duplicate, `is_new` of its handle is False, and the handle shows the call until it is
    refreshed.

    Pass `job_id` if `record` describes another job of the same call, because only the id and arguments
    differ.
    """

    __slots__ = ("_client", "_read_number", "_record", "_waits", "id", "is_new")

    id: str

    is_new: bool
    """Whether the call that returned this handle created the job.

    It is False if another job had the unique key of the call; the handle then belongs to that job. It is also
    False for a handle that was not returned by a call.
    """

    def __init__(
        self,
        client: Client,
        record: NewJob | JobRecord,
        is_uncommitted: bool = False,
        job_id: str | None = None,
        is_new: bool | None = None,
    ) -> None:
        self._client = client
        self._record = record
        self._read_number = _UNCOMMITTED if is_uncommitted else 0  # the number of the read that is shown
        self.id = record.id if job_id is None else job_id
        self.is_new = isinstance(record, NewJob) if is_new is None else is_new

    def __repr__(self) -> str:
        """Return the id, task and state."""
        return f"<Job {self.id} {self.task} {self.state}>"

    def __eq__(self, other: object) -> bool:
        """Return whether both are handles of the same job."""
        return isinstance(other, Job) and self.id == other.id

    def __hash__(self) -> int:
        """Return the hash of the id."""
        return hash(self.id)

    # ---- fields as last read -----------------------------------------------------------------------------

    @property
    def _stored(self) -> JobRecord | None:
        """The stored job as last read; None while the handle has only the enqueued job."""
        return self._record if isinstance(self._record, JobRecord) else None

    @property
    def task(self) -> str:
        """The task's name."""
        return self._record.task

    @property
    def state(self) -> State:
        """The state, as last read."""
        return self._record.state

    @property
    def queue(self) -> str:
        """The queue of the job."""
        return self._record.queue

    @property
    def priority(self) -> int:
        """The priority within the queue."""
        return self._record.priority

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags."""
        return self._record.tags

    @property
    def meta(self) -> Mapping[str, str]:
        """The metadata that is stored with the job; read-only, and never changes."""
        return self._record.meta

    @property
    def reason(self) -> str | None:
        """The human-readable reason for the job's state, as last read."""
        return self._record.reason

    @property
    def limits(self) -> tuple[str, ...]:
        """The limit keys that the job holds while it runs, such as "tenant:7"; empty if it has none."""
        admission = self._record.admission
        return () if admission is None else tuple(use.key for use in admission.limits)

    @property
    def unique_key(self) -> str | None:
        """The key that no other job of its task can have at the same time; None if the job has no key."""
        admission = self._record.admission
        if admission is None or admission.unique is None:
            return None
        return admission.unique.key.partition(" ")[2]

    @property
    def start_before(self) -> datetime | None:
        """The deadline for the job's first start; if the job has not started by then, it is deleted.

        It is None if the job has no deadline, or if it runs again.

        If the deadline is a duration that begins when the job becomes enqueued, it is known only if the job
        was already enqueued at the last read.
        """
        admission, record = self._record.admission, self._record
        if admission is None or self.attempt + self.retries + getattr(record, "crashes", 0) > 1:
            return None
        if admission.start_within is None:
            return as_datetime(admission.start_before)
        enqueued_at = getattr(record, "enqueued_at", None)
        if enqueued_at is None and record.state is State.ENQUEUED:
            enqueued_at = record.created_at
        return None if enqueued_at is None else as_datetime(enqueued_at + admission.start_within)

    @property
    def batch_id(self) -> str | None:
        """The id of the batch of which the job is a member; None if it is not a member. It never changes."""
        relations = self._record.relations
        return None if relations is None else relations.batch_id

    @property
    def waits_for(self) -> str | None:
        """The wait that delayed the job at the last read: "signal approval until 2026-11-27 12:00:00 UTC".

        It is set for a job that sleeps, or waits for a signal or for a job that it called. For an enqueued
        job, `refresh()` reads the limits that delay it: "limit tenant:7 (4 of 4 running)". None means that no
        limit delays the job, so it waits for a worker.
        """
        record = self._stored
        if record is not None and record.waits_for and record.state in (State.AWAITING, State.SCHEDULED):
            until = "" if record.due_at is None else f" until {clock_time(record.due_at)}"
            return f"{record.waits_for}{until}"
        seen, words = getattr(self, "_waits", (None, None))
        return words if seen is record else None

    @property
    def output(self) -> R:
        """The placeholder for this job's result in another job's arguments; its type is that of the result.

        Pass the whole placeholder, or lists, tuples and dicts that contain it. The job that receives it runs
        after this one has succeeded. Every other use raises an ArgumentError, which is a TypeError, because
        the result does not exist yet.
        """
        return cast("R", OutputPlaceholder(self))

    @property
    def created_at(self) -> datetime:
        """When the job was created, in UTC."""
        return as_datetime(self._record.created_at)

    @property
    def due_at(self) -> datetime:
        """The time for which the job was created, like `JobContext.due_at`; it never changes.

        This is the nominal time of a recurring or delayed job, and the creation time of any other job.
        """
        record = self._record
        return as_datetime(record.created_at if record.nominal_at is None else record.nominal_at)

    @property
    def next_due_at(self) -> datetime | None:
        """When the job is due: after its delay, for a retry, after rescheduling, or when its wait times out.

        It is None unless the job is scheduled, or waits with a timeout.
        """
        return as_datetime(self._record.due_at)

    @property
    def error(self) -> ErrorInfo | None:
        """The last failure, as last read, without its traceback (see `errors()`)."""
        return getattr(self._record, "error", None)

    @property
    def attempt(self) -> int:
        """The number of attempts, as last read, including a running one; 0 before the first."""
        return getattr(self._record, "attempt", 0)

    @property
    def retries(self) -> int:
        """The number of retries scheduled since the job was created or last requeued, as last read."""
        return getattr(self._record, "retries", 0)

    @property
    def server(self) -> str | None:
        """The server that runs the job or ran it last, as last read; None before the first attempt."""
        return getattr(self._record, "server", None)

    @property
    def started_at(self) -> datetime | None:
        """When the job's last run started, as last read, in UTC."""
        return as_datetime(getattr(self._record, "started_at", None))

    @property
    def ended_at(self) -> datetime | None:
        """When the job ended, as last read, in UTC; None before that."""
        return as_datetime(getattr(self._record, "ended_at", None))

    # ---- reading -----------------------------------------------------------------------------------------

    def record(self) -> JobRecord:
        """Return all stored fields of the job as last read, as a `JobRecord` with times in micros.

        The handle of a newly enqueued job has not read the job yet, so it reads it now, like `refresh()`.
        """
        return self._read() if self._stored is None else self._stored

    arecord = twin(record)

    def _read(self, way_out: str = "") -> JobRecord:
        """Read the job and show it in this handle; `way_out` is added to the advice in an error."""
        read = Observation(next(reads), self._client.storage.get((self.id,))[0])
        if read.record is not None:
            return self._show(read.began, read.record)
        if self._read_number == _UNCOMMITTED:
            raise JobNotCommitted(
                f"Job {self.id} is not stored: the transaction in which it was enqueued has not committed, "
                "or was rolled back. Commit it first, or enqueue the job again if it was rolled "
                f"back{way_out}."
            )
        raise JobNotFound(f"Job {self.id} is not stored: it was never committed, or it has been pruned.")

    def _show(self, began: int, record: JobRecord) -> JobRecord:
        """Show this record, unless the handle already shows a later read; return the record."""
        with _showing:
            if began > self._read_number:
                self._record, self._read_number = record, began
        return record

    def refresh(self) -> Job[R]:
        """Read the job, show it in this handle, and return the handle.

        For an enqueued job with limits, three more reads per key determine its `waits_for`.

        Raises:
            JobNotFound: If the job no longer exists.
            JobNotCommitted: If the transaction of the job has not committed, or was rolled back.
        """
        record = self._read()
        if record.state is State.ENQUEUED and record.admission_json is not None:
            waits = key_waits(self._client.storage, [record], self._client.clock.now())[0]
            self._waits = (record, waits_words(waits))
        return self

    arefresh = twin(refresh)

    def result(self, timeout: float | None = None) -> R:
        """Return the result of the task; wait up to `timeout` seconds, including any retries.

        Afterwards, the handle shows the job as last read, even if an error was raised.

        Raises:
            JobFailed: If the job failed permanently.
            JobDeleted: If the job was deleted.
            ResultTimeout: If the job did not end in time.
            ResultUnavailable: If the job succeeded without a storable result, or was pruned.
        """
        self._require_committed()
        future = self._client.access.results.wait_for(self.id)
        try:
            read = future.result(timeout)
        except TimeoutError as error:
            read = self._ended_at_last(timeout, error)
        finally:
            self._client.access.results.forget(self.id, future)
        return self._result_of(read)

    async def aresult(self, timeout: float | None = None) -> R:
        """Return the result without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - loaded when first used

        await in_thread(self._require_committed)
        future = self._client.access.results.wait_for(self.id)
        try:
            read = await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError as error:
            read = await in_thread(self._ended_at_last, timeout, error)
        finally:
            self._client.access.results.forget(self.id, future)
        return self._result_of(read)

    def _ended_at_last(self, timeout: float | None, cause: Exception) -> Observation:
        """Read the job once more after a timeout of 0 or more; return this read if the job has ended."""
        read = Observation(next(reads), self._client.storage.get((self.id,))[0])
        if read.record is None or read.record.is_final:
            return read
        self._show(read.began, read.record)
        raise ResultTimeout(
            f"Job {self.id} ({self.task}) had not ended within {timeout or 0:g} s."
        ) from cause

    def _result_of(self, read: Observation) -> R:
        record = read.record
        if record is None:
            raise ResultUnavailable(f"Job {self.id} is no longer stored, so its result is not available.")
        self._show(read.began, record)
        return cast("R", result_of(self._client, record))

    def history(self) -> list[JobHistoryEntry]:
        """Return the job's history, oldest entry first."""
        return [JobHistoryEntry.of(entry) for entry in self._client.storage.history(self.id).entries]

    ahistory = twin(history)

    def errors(self) -> list[FailedAttempt]:
        """Return the failed attempts with tracebacks, oldest first."""
        return [FailedAttempt.of(attempt) for attempt in self._client.storage.history(self.id).errors]

    aerrors = twin(errors)

    def log(self, *, after: int = 0, limit: int = 100) -> list[JobLogLine]:
        """Return a page of the job's log; `after` is the number of the last line that was read."""
        return [
            JobLogLine.of(line) for line in self._client.storage.read_log(self.id, after=after, limit=limit)
        ]

    alog = twin(log)

    def progress(self) -> JobProgress | None:
        """Return the last progress that the job reported."""
        record = self._client.storage.get((self.id,))[0]
        return None if record is None or record.progress is None else JobProgress.of(record.progress)

    aprogress = twin(progress)

    def steps(self) -> list[Step]:
        """Return the memos of the job in the order in which they began: steps, signals, sleeps, called jobs.

        Raises:
            JobNotFound: If the job is not stored.
        """
        memos = self._client.storage.recall(self.id)
        if memos is None:
            raise JobNotFound(f"Job {self.id} is not stored: it was never committed, or it has been pruned.")
        return [Step.of_memo(memo) for memo in memos]

    asteps = twin(steps)

    def stream(self, name: str = "out", *, after: int = 0) -> Iterator[Chunk]:
        """Iterate over the output that the job emits, as it arrives, until the job has ended.

        A chunk with a higher `run` than the previous chunk comes from a later run, after a wait, a retry or a
        crash. That run emits its output again, except for the output of steps that are stored.

        Args:
            name: the name of the stream, as passed to `emit`.
            after: the offset of the last chunk that was read; the iteration continues after it.

        Raises:
            JobNotFound: If the job is not stored.
        """
        self._require_committed()
        return self._streamed(name, after)

    def _streamed(self, name: str, after: int) -> Iterator[Chunk]:
        future, pause, has_ended = self._client.access.results.wait_for(self.id), _SHORTEST_PAUSE, False
        try:
            while True:
                chunks = self._client.storage.read_stream(self.id, name, after=after, limit=_CHUNKS)
                yield from chunks
                if chunks:
                    after, pause = chunks[-1].offset, _SHORTEST_PAUSE
                elif has_ended:
                    return
                elif wait((future,), pause).done:
                    has_ended = self._show_end(future.result())
                pause = min(_LONGEST_PAUSE, pause * 1.5)
        finally:
            self._client.access.results.forget(self.id, future)

    async def astream(self, name: str = "out", *, after: int = 0) -> AsyncIterator[Chunk]:
        """Call `stream` without blocking the event loop: `async for chunk in job.astream()`."""
        import asyncio  # noqa: PLC0415 - loaded when first used

        await in_thread(self._require_committed)
        read = self._client.storage.read_stream
        future, pause, has_ended = self._client.access.results.wait_for(self.id), _SHORTEST_PAUSE, False
        ended = asyncio.wrap_future(future)
        try:
            while True:
                chunks = await in_thread(read, self.id, name, after=after, limit=_CHUNKS)
                for chunk in chunks:
                    yield chunk
                if chunks:
                    after, pause = chunks[-1].offset, _SHORTEST_PAUSE
                elif has_ended:
                    return
                elif (await asyncio.wait({ended}, timeout=pause))[0]:
                    has_ended = self._show_end(ended.result())
                pause = min(_LONGEST_PAUSE, pause * 1.5)
        finally:
            ended.cancel()
            self._client.access.results.forget(self.id, future)

    def _show_end(self, read: Observation) -> bool:
        """Show the ended job in this handle, and return True."""
        if read.record is None:
            raise JobNotFound(f"Job {self.id} is not stored: it was never committed, or it has been pruned.")
        self._show(read.began, read.record)
        return True

    # ---- changes -----------------------------------------------------------------------------------------

    def _require_committed(self) -> None:
        if self._read_number == _UNCOMMITTED:
            self._read()

    def requeue(self, *, from_step: str | None = None, reason: str = "requeued by code") -> Job[R]:
        """Enqueue the job again with all its retries, show it in this handle, and return the handle.

        Its memos are kept, so it continues after its last step. `from_step` removes the memo of that name, as
        `steps()` returns it, and all memos that were recorded after it. If a step and a signal have the same
        name, use "signal NAME" for the signal. The history shows `reason`.

        Raises:
            JobConflict: If the job is enqueued or processing; another job has its unique key now; it waits
                for the output of another job; or it is a member of a cancelled batch.
            StepError: If the job has no memo of this name. A failed step has no memo, so a requeue without
                `from_step` continues at that step.
            JobNotFound: If the job is not stored.
        """
        self._require_committed()
        now = self._client.clock.now()
        forget_from = None if from_step is None else self._step_named(from_step)
        change = lifecycle.requeue(self.id, at=now, reason=reason, forget_from=forget_from)
        return self._apply(change, "requeued")

    arequeue = twin(requeue)

    def _step_named(self, name: str) -> tuple[MemoKind, str]:
        """Return the kind and name of the memo with this name."""
        steps = self.steps()
        found = [one for one in steps if name in (one.name, memo_words(one.kind, one.name))]
        if len(found) == 1:
            return found[0].kind, found[0].name
        words = ", ".join(repr(memo_words(one.kind, one.name)) for one in found or steps[:20]) or "none"
        if found:
            raise StepError(f"Job {self.id} has several memos named {name!r}; pass one of {words}.")
        raise StepError(
            f"Job {self.id} has no memo named {shown(name)}. Its memos: {words}. A failed step has no memo; "
            "use job.requeue() without from_step to continue there."
        )

    def delete(self, *, reason: str = "deleted by code") -> Job[R]:
        """Delete the job, show it in this handle, and return the handle. The server cancels a running job.

        Args:
            reason: a note that the job's history and the dashboard show.

        Raises:
            JobConflict: If the job is already deleted.
            JobNotFound: If the job is not stored.
        """
        self._require_committed()
        now = self._client.clock.now()
        expires_at = self._client.retention.until(State.DELETED, now)
        change = lifecycle.delete(self.id, at=now, reason=reason, expires_at=expires_at)
        return self._apply(change, "deleted")

    adelete = twin(delete)

    def restore(self, *, reason: str = "restored by code") -> Job[R]:
        """Undo a delete: return the job to its previous state, show it in this handle, and return the handle.

        The previous state is scheduled, enqueued or failed. A scheduled job is due at the same time as
        before; an enqueued one goes to the end of its queue. Retries that were already used still count. The
        history shows `reason`.

        Raises:
            JobConflict: If the job is not deleted; the delete cannot be undone, because the job was running,
                had succeeded, waited for another job or had continuations; or another job has its unique key.
            JobNotFound: If the job is not stored.
        """
        self._require_committed()
        seen = self._read()
        change = restoration(self._client, seen, reason=reason)
        if isinstance(change, str):
            raise JobConflict(
                f"Job {self.id} cannot be restored: {change}. Use requeue() to run a deleted job again."
            )
        applied = apply_unless_changed(self._client.storage, [change], [seen])[0]
        return self._applied(applied, "restored")

    arestore = twin(restore)

    def move(
        self, *, queue: str | None = None, priority: int | None = None, reason: str = "moved by code"
    ) -> Job[R]:
        """Move the waiting job to another queue, or give it another priority; return the handle.

        The job keeps its id, its age, its history and the jobs that wait for it. A job that already has this
        queue and this priority is not changed.

        Args:
            queue: the new queue; if None, the job stays in its queue.
            priority: the new priority, from -100 to 100; if None, the job keeps its priority.
            reason: a note that the job's history shows.

        Raises:
            ConfigurationError: If neither a queue nor a priority is given, or one of them is not valid.
            JobConflict: If the job is neither awaiting, scheduled nor enqueued, or it is a batch.
            JobNotFound: If the job is not stored.
        """
        self._require_committed()
        target = to_move_target(queue, priority)
        now = self._client.clock.now()
        change = lifecycle.move(self.id, at=now, queue=target.queue, priority=target.priority, reason=reason)
        (applied,) = self._client.storage.move([change])
        record = self._read()
        if not applied.is_applied:
            raise JobConflict(f"Job {self.id} cannot be moved: {why_not_moved(record) or CHANGED}.")
        return self

    amove = twin(move)

    def _apply(self, transition: Transition, done: str) -> Job[R]:
        return self._applied(self._client.storage.apply((transition,))[0], done)

    def _applied(self, applied: Applied, done: str) -> Job[R]:
        if applied is Applied.RELEASE_NEEDED:
            release_continuations(self._client.storage)
        record = self._read()
        if applied is Applied.RELEASE_NEEDED and done == "requeued" and record.relations is not None:
            update_batches(self._client.storage, record.relations.batch_id)
        if applied is Applied.TAKEN:
            raise JobConflict(why_key_is_taken(self._client.storage, record))
        if not applied.is_applied or applied is Applied.ALREADY:
            why = why_refused(self._client.storage, record, done)
            raise JobConflict(f"Job {self.id} is {record.state}; it cannot be {done}: {why}.")
        return self

    def then(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Store a continuation, which runs after this job has succeeded, or as set with `task.using(on=…)`.

        The continuation gets this job's `meta`, except for the names that its own call or a plugin sets.

        Raises:
            JobNotFound: If this job is not stored.
            JobNotCommitted: If the transaction of this job has not committed, or was rolled back, and the
                continuation is stored outside of that transaction.
        """
        check_continues("then", task)
        self.require_visible(partial(self._client.transaction, task.options.within))
        try:
            return self._client.create(task.call(*args, **kwargs), parent_id=self.id, inherited=self.meta)
        except JobNotFound as error:
            self.explain(error)
            raise

    async def athen(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Store a continuation without blocking the event loop."""
        check_continues("athen", task)
        await self.arequire_visible(lambda: task.options.within)
        try:
            return await self._client.acreate(
                task.call(*args, **kwargs), parent_id=self.id, inherited=self.meta
            )
        except JobNotFound as error:
            await in_thread(self.explain, error)
            raise

    def as_source(self, batch_id: str | None, transaction: Callable[[], object | None]) -> str:
        """Return the id of this job for another job that must wait for it; called by the client.

        Args:
            batch_id: the id of the batch of which the other job is a member; None if it is not a member.
            transaction: a function that returns the transaction in which the other job is stored, or None.

        Raises:
            ConfigurationError: If this job is not a member of the batch, or is debounced and so might never
                run.
            DuplicateJob: If the call that returned the handle did not create a member.
            JobNotCommitted: If this job is not stored, and the other job is not in a transaction.
        """
        if batch_id is None:
            self.require_visible(transaction)
            return self.id
        if isinstance(self._record, NewJob) and not self.is_new:
            error = DuplicateJob(
                f"Job {self.id} already has the unique key of the call of {self.task}. So the call created "
                "no member of the batch, and no member can wait for it. Call the task with "
                "using(unique=False), or wait for that job outside of the batch.",
                self.id,
            )
            error.job = self
            raise error
        if self.batch_id != batch_id:
            raise ConfigurationError(
                f"{self!r} is not a member of batch {batch_id}; a member can wait only for members of its "
                "own batch. Add the job to that batch, or pass after= to the batch itself."
            )
        admission = self._record.admission
        if admission is not None and admission.unique is not None and admission.unique.wait is not None:
            raise ConfigurationError(
                f"{self!r} is debounced, so a later call can run in its place, and no member can wait for "
                "it. Call the task with using(unique=False)."
            )
        return self.id

    def require_visible(self, transaction: Callable[[], object | None]) -> None:
        """Check that a job stored in that transaction can refer to this job; None means no transaction.

        Within a transaction, nothing is read here, because the jobs that the transaction has stored are
        visible only inside it. Instead, the storage looks up this job when it stores the other job. See
        `explain`.

        Raises:
            JobNotCommitted: If this job is not stored, and the other job is not in a transaction.
        """
        if self._read_number == _UNCOMMITTED and transaction() is None:
            self._read(_STORE_TOGETHER)

    async def arequire_visible(self, transaction: Callable[[], object | None]) -> None:
        """Call `require_visible` without blocking the event loop."""
        if self._read_number == _UNCOMMITTED:
            await in_thread(self.require_visible, transaction)

    def explain(self, error: JobNotFound) -> None:
        """Raise `JobNotCommitted` if the storage did not find this job because it is not committed.

        This method reads the job if the error names it and the handle has never found it committed.
        """
        if self._read_number == _UNCOMMITTED and self.id in str(error):
            try:
                self._read(_STORE_TOGETHER)
            except JobNotCommitted as uncommitted:
                raise uncommitted from error


def check_continues(verb: str, task: object) -> None:
    """Check that a continuation can be created from the object.

    Raises:
        TaskError: If the object is not a task.
    """
    if not makes_calls(task):
        raise TaskError(
            f"{verb}() accepts a task and then its arguments, got {task!r}. Use job.{verb}(task, …)."
        )


# ---- pages -------------------------------------------------------------------------------------------------


_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between two reads of an idle stream
_CHUNKS = 100


@attrs.frozen
class JobPage(Paged[Job[Any]]):
    """A page of jobs; `cursor` selects the next page, and is None on the last one."""

    jobs: list[Job[Any]]
    cursor: str | None


# ---- views: values of the storage contract, with aware datetimes instead of micros ------------------------


@overload
def as_datetime(instant: int) -> datetime: ...
@overload
def as_datetime(instant: int | None) -> datetime | None: ...
def as_datetime(instant: int | None) -> datetime | None:
    """Return the time in micros as an aware datetime in UTC; None stays None."""
    return None if instant is None else from_micros(instant)


class _View:
    """A readable form of a value of the storage contract."""

    @classmethod
    def of(cls, value: object) -> Self:
        """Return the view of a stored value."""
        names = [field.name for field in attrs.fields(cls)]  # type: ignore[arg-type]  # of attrs
        return cls(**{
            name: as_datetime(getattr(value, name)) if name.endswith("at") else getattr(value, name)
            for name in names
        })  # fmt: skip


@attrs.frozen
class JobHistoryEntry(_View):
    """One entry in a job's history."""

    state: State
    at: datetime
    reason: str | None
    attempt: int | None  # set if the entry ends an attempt, as are the next three fields
    claimed_at: datetime | None
    started_at: datetime | None
    server: str | None
    elided: int  # number of omitted entries that this entry replaces
    due_at: datetime | None  # the previous due time, if an operator changed a scheduled job


@attrs.frozen
class FailedAttempt(_View):
    """A failed attempt with its traceback."""

    attempt: int
    at: datetime
    error: ErrorInfo


@attrs.frozen
class JobLogLine(_View):
    """One line of a job's log."""

    number: int  # a number that increases within the job; used as the cursor of a page
    at: datetime
    level: str
    text: str
    attempt: int


@attrs.frozen
class JobProgress(_View):
    """The progress that a running job reports."""

    done: float
    total: float
    at: datetime
    message: str | None


@attrs.frozen
class Step:
    """A memo of a job: the value of a step, a signal, a sleep or a called job."""

    kind: MemoKind
    name: str
    is_done: bool  # False if it has begun but might not have ended, or if the job waits for it
    at: datetime  # time at which it was written
    took: timedelta | None  # the duration of its function; None if it was not measured
    attempt: int  # the attempt that wrote it; 0 if it was written from outside the job
    author: str  # the sender of a signal; "timeout" if the wait timed out; empty if unknown
    value: str | None  # JSON string; None for a signal whose wait timed out

    @classmethod
    def of_memo(cls, memo: Memo) -> Step:
        """Return the view of a memo."""
        took = None if memo.started_at is None or not memo.is_done else memo.at - memo.started_at
        return cls(
            memo.kind, memo.name, memo.is_done, from_micros(memo.at),
            None if took is None else timedelta(microseconds=max(0, took)), memo.attempt, memo.author,
            memo.value,
        )  # fmt: skip
