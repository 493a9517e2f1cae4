"""The handle of a job: a snapshot, and the verbs that act on the job by its id."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from firelock import lifecycle
from firelock.errors import (
    JobConflict,
    JobDeleted,
    JobFailed,
    JobNotCommitted,
    JobNotFound,
    ResultTimeout,
    ResultUnavailable,
    TaskError,
    UnknownTask,
)
from firelock.job import ErrorInfo, JobRecord, NewJob, State
from firelock.storage import Applied
from firelock.task import TaskVerbs
from firelock.threads import in_thread
from firelock.views import FailedAttempt, JobLogLine, JobProgress, JobStep, as_datetime

if TYPE_CHECKING:
    from firelock.client import Client
    from firelock.lifecycle import Transition

__all__ = ["Job"]

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
R2 = TypeVar("R2")


class Job(Generic[R]):
    """One job, as it was when the handle was made; `refresh()` gives a new handle.

    `job_id` is given where the record is that of a job created alike: but for id and arguments it holds.
    """

    __slots__ = ("_client", "_is_uncommitted", "_record", "id")

    id: str

    def __init__(
        self,
        client: Client,
        record: NewJob | JobRecord,
        is_uncommitted: bool = False,
        job_id: str | None = None,
    ) -> None:
        self._client = client
        self._record = record
        self._is_uncommitted = is_uncommitted
        self.id = record.id if job_id is None else job_id

    def __repr__(self) -> str:
        """Return id, task and state."""
        return f"<Job {self.id} {self.task} {self.state}>"

    def __eq__(self, other: object) -> bool:
        """Handles of one job are equal."""
        return isinstance(other, Job) and self.id == other.id

    def __hash__(self) -> int:
        """Return the hash of the id."""
        return hash(self.id)

    # ---- the snapshot ------------------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """The task's name."""
        return self._record.task

    @property
    def state(self) -> State:
        """The state when this handle was made."""
        return self._record.state

    @property
    def queue(self) -> str:
        """The queue it belongs to."""
        return self._record.queue

    @property
    def priority(self) -> int:
        """Its priority within the queue."""
        return self._record.priority

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        return self._record.tags

    @property
    def reason(self) -> str | None:
        """Why it is in its state, for people."""
        return self._record.reason

    @property
    def created_at(self) -> datetime:
        """When it was created, in UTC."""
        return as_datetime(self._record.created_at)

    @property
    def due_at(self) -> datetime | None:
        """When it becomes due; None unless scheduled."""
        return as_datetime(self._record.due_at)

    @property
    def error(self) -> ErrorInfo | None:
        """The last failure, without its traceback (see `errors()`)."""
        return self.record().error

    @property
    def attempt(self) -> int:
        """How many attempts it had, the running one included."""
        return self.record().attempt

    @property
    def retries(self) -> int:
        """How many retries were scheduled since its creation or last requeue."""
        return self.record().retries

    @property
    def server(self) -> str | None:
        """The server that runs it or ran it last."""
        return self.record().server

    @property
    def started_at(self) -> datetime | None:
        """When its last attempt started, in UTC."""
        return as_datetime(self.record().started_at)

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, in UTC; None before."""
        return as_datetime(self.record().ended_at)

    def record(self) -> JobRecord:
        """Return the contract's value: all that is stored of the job, instants in micros.

        Read now if the handle came from an enqueue.
        """
        if isinstance(self._record, JobRecord):
            return self._record
        return self._read()

    # ---- reading -----------------------------------------------------------------------------------------

    def _read(self) -> JobRecord:
        record = self._client.storage.get((self.id,))[0]
        if record is None:
            if self._is_uncommitted:
                message = (
                    f"Job {self.id} was enqueued in a transaction that has not committed; commit it first."
                )
                raise JobNotCommitted(message)
            message = f"Job {self.id} is not stored: it was never committed, or it has been pruned."
            raise JobNotFound(message)
        self._is_uncommitted = False
        return record

    def refresh(self) -> Job[R]:
        """Return a new handle with the state of now.

        Raises:
            JobNotFound: the job is not stored any more.
            JobNotCommitted: its transaction has not committed.
        """
        return Job(self._client, self._read())

    async def arefresh(self) -> Job[R]:
        """Refresh without blocking the event loop."""
        return await in_thread(self.refresh)

    def result(self, timeout: float | None = None) -> R:
        """Return what the task returned; waits through retries, up to `timeout` seconds.

        Raises:
            JobFailed: it failed for good.
            JobDeleted: it was deleted.
            ResultTimeout: it had not ended in time.
            ResultUnavailable: it succeeded without a storable result, or was pruned.
        """
        self._require_committed()
        future = self._client.results.wait_for(self.id)
        try:
            record = future.result(timeout)
        except TimeoutError as error:
            record = self._ended_at_last(timeout, error)
        finally:
            self._client.results.forget(self.id, future)
        return self._result_of(record)

    async def aresult(self, timeout: float | None = None) -> R:
        """Return the result without blocking the event loop."""
        import asyncio  # noqa: PLC0415 - loaded when first used

        await in_thread(self._require_committed)
        future = self._client.results.wait_for(self.id)
        try:
            record = await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError as error:
            record = await in_thread(self._ended_at_last, timeout, error)
        finally:
            self._client.results.forget(self.id, future)
        return self._result_of(record)

    def _ended_at_last(self, timeout: float | None, cause: Exception) -> JobRecord | None:
        """Return the record if it has ended by now: nobody may have looked within a timeout as short as 0."""
        record = self._client.storage.get((self.id,))[0]
        if record is None or record.is_final:
            return record
        message = f"Job {self.id} ({self.task}) had not ended within {timeout or 0:g} s."
        raise ResultTimeout(message) from cause

    def _result_of(self, record: JobRecord | None) -> R:
        if record is None:
            message = f"Job {self.id} is not stored any more; its result is gone with it."
            raise ResultUnavailable(message)
        if record.state is State.FAILED:
            raise JobFailed(f"Job {record.id} ({record.task}) failed: {_last_error(record)}")
        if record.state is State.DELETED:
            raise JobDeleted(f"Job {record.id} ({record.task}) was deleted: {record.reason}.")
        if record.result is None:
            raise ResultUnavailable(f"Job {record.id} ({record.task}) succeeded: {record.result_absent}")
        info = self._client.registry.get(record.task)
        if info is None:
            message = (
                f"The result of job {record.id} cannot be read: task {record.task!r} is not registered here."
            )
            raise UnknownTask(message)
        serializer = self._client.serializers.get(record.serializer)
        if serializer is None:
            message = (
                f"The result of job {record.id} was stored by the serializer {record.serializer!r}, which is "
                "not installed here."
            )
            raise ResultUnavailable(message)
        return cast("R", self._client.registry.binder(info).decode_result_text(record.result, serializer))

    def history(self) -> list[JobStep]:
        """Return the job's steps, oldest first."""
        return [JobStep.of(entry) for entry in self._client.storage.history(self.id)]

    def errors(self) -> list[FailedAttempt]:
        """Return its failed attempts with tracebacks, oldest first."""
        return [FailedAttempt.of(attempt) for attempt in self._client.storage.errors(self.id)]

    def log(self, *, after: int = 0, limit: int = 100) -> list[JobLogLine]:
        """Return a page of what the job logged; `after` is the number of the last line seen."""
        return [
            JobLogLine.of(line) for line in self._client.storage.read_log(self.id, after=after, limit=limit)
        ]

    def progress(self) -> JobProgress | None:
        """Return how far the job last said it was."""
        progress = self._client.storage.get_progress((self.id,))[0]
        return None if progress is None else JobProgress.of(progress)

    # ---- acting ------------------------------------------------------------------------------------------

    def _require_committed(self) -> None:
        if self._is_uncommitted:
            self._read()

    def requeue(self) -> Job[R]:
        """The job is enqueued with its retries given back; return a new handle.

        Raises:
            JobConflict: it is enqueued or processing.
            JobNotFound: it is not stored.
        """
        self._require_committed()
        return self._apply(self._client_requeue(), "requeued: it runs anyway")

    async def arequeue(self) -> Job[R]:
        """Requeue without blocking the event loop."""
        return await in_thread(self.requeue)

    def delete(self) -> Job[R]:
        """The job is deleted; if it is running it is told to stop. Return a new handle.

        Raises:
            JobConflict: it is deleted already.
            JobNotFound: it is not stored.
        """
        self._require_committed()
        return self._apply(self._client_delete(), "deleted: it is already")

    async def adelete(self) -> Job[R]:
        """Delete without blocking the event loop."""
        return await in_thread(self.delete)

    def _client_requeue(self) -> Transition:
        return lifecycle.requeue(self.id, at=self._client.clock.now(), reason="requeued by code")

    def _client_delete(self) -> Transition:
        now = self._client.clock.now()
        return lifecycle.delete(
            self.id,
            at=now,
            reason="deleted by code",
            expires_at=self._client.retention.until(State.DELETED, now),
        )

    def _apply(self, transition: Transition, done: str) -> Job[R]:
        applied = self._client.storage.apply((transition,))[0]
        if applied is Applied.RELEASING:
            self._client.release_children()
        record = self._read()
        if not applied.is_applied or applied is Applied.ALREADY:
            raise JobConflict(f"Job {self.id} is {record.state}; it cannot be {done}.")
        return Job(self._client, record)

    def then(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """A continuation is stored: it runs when this job has succeeded, or as `task.using(on=…)` says.

        Raises:
            JobNotFound: this job is not stored.
            JobNotCommitted: its transaction has not committed and the continuation is not within it.
        """
        self._require_visible(task)
        return self._client.create_child(self.id, task, args, kwargs)

    async def athen(self, task: TaskVerbs[P, R2], /, *args: P.args, **kwargs: P.kwargs) -> Job[R2]:
        """Continue without blocking the event loop."""
        await in_thread(self._require_visible, task)
        return await self._client.acreate_child(self.id, task, args, kwargs)

    def _require_visible(self, task: TaskVerbs[Any, Any]) -> None:
        if not isinstance(task, TaskVerbs):
            message = f"then() takes a task, then its arguments: job.then(task, …), not {task!r}."
            raise TaskError(message)
        if task.options.within is None:
            self._require_committed()


def _last_error(record: JobRecord) -> str:
    return f"{record.error.type}: {record.error.message}" if record.error else record.reason or "no reason"
