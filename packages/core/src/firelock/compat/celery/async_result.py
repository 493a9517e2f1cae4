"""Celery's results, which find a job by its id, wait until it ends, and return its value or its error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import attrs

from firelock import (
    ConfigurationError,
    Job,
    JobConflict,
    JobDeleted,
    JobFailed,
    JobNotFound,
    State,
)
from firelock.compat.celery.errors import TaskRevokedError
from firelock.compat.celery.refused import Refusing
from firelock.model.dependencies import On

if TYPE_CHECKING:
    from firelock.compat.celery.app import Celery
    from firelock.model.job import ErrorInfo

PROGRESS: Final = "PROGRESS"
_PENDING, _STARTED, _RETRY = "PENDING", "STARTED", "RETRY"
_SUCCESS, _FAILURE, _REVOKED = "SUCCESS", "FAILURE", "REVOKED"
_FINAL = {_SUCCESS, _FAILURE, _REVOKED}
_STATES: Final = {
    State.AWAITING: _PENDING,
    State.SCHEDULED: _PENDING,  # shown as RETRY if the job waits for a retry
    State.ENQUEUED: _PENDING,
    State.PROCESSING: _STARTED,
    State.SUCCEEDED: _SUCCESS,
    State.FAILED: _FAILURE,
    State.DELETED: _REVOKED,
}


class CurrentApp:
    """The app that was created last, to which shared tasks and results without an app belong."""

    made: Celery | None = None


@attrs.frozen
class TaskRequest(Refusing):
    """The value of `self.request`: information about a run for its task."""

    id: str | None = None
    task: str | None = None
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = attrs.Factory(dict)
    retries: int = 0
    delivery_info: Mapping[str, object] = attrs.Factory(dict)
    headers: Mapping[str, str] = attrs.Factory(dict)
    called_directly: bool = True
    is_eager: bool = False

    @property
    def root_id(self) -> str | None:
        """The id of the job."""
        return self.id


_NO_REQUEST: Final = TaskRequest()
running: ContextVar[TaskRequest] = ContextVar("celery_request", default=_NO_REQUEST)


class AsyncResult(Refusing):
    """The result of a job, which is found by the job's id."""

    def __init__(self, id: str, *, app: Celery | None = None, parent: AsyncResult | None = None) -> None:
        self.id = id
        self.parent = parent
        self._app = app or CurrentApp.made
        self._job: Job[Any] | None = None

    @classmethod
    def of(cls, app: Celery, job: Job[Any], parent: AsyncResult | None = None) -> AsyncResult:
        """Return the result of a job that was just stored."""
        result = cls(job.id, app=app, parent=parent)
        result._job = job
        return result

    def __repr__(self) -> str:
        """Return a string with the id."""
        return f"<AsyncResult: {self.id}>"

    def __str__(self) -> str:
        """Return the id."""
        return self.id

    def __eq__(self, other: object) -> bool:
        """Return whether both are results of the same job."""
        return isinstance(other, AsyncResult) and self.id == other.id

    def __hash__(self) -> int:
        """Return the hash of the id."""
        return hash(self.id)

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    @property
    def job(self) -> Job[Any]:
        """The Firelock handle of the job.

        Raises:
            JobNotFound: If the job does not exist.
            ConfigurationError: If no app was created.
        """
        if self._job is None:
            if self._app is None:
                raise ConfigurationError("AsyncResult needs an app; use app.AsyncResult(id).")
            self._job = self._app.fire.jobs.get(self.id)
        return self._job

    def _find_job(self) -> Job[Any] | None:
        try:
            return self.job.refresh()
        except JobNotFound:
            return None

    @property
    def state(self) -> str:
        """One of PENDING, STARTED, PROGRESS, RETRY, SUCCESS, FAILURE, REVOKED; PENDING for an unknown id."""
        job = self._find_job()
        if job is None:
            return _PENDING
        if job.state is State.SCHEDULED and job.retries:
            return _RETRY
        if job.state is State.AWAITING and self._broken_by() is not None:
            return _FAILURE
        if job.state is State.PROCESSING and _progress_of(job) is not None:
            return PROGRESS
        return _STATES[job.state]

    status = state

    def _before(self) -> AsyncResult | None:
        """Return the result of the previous task in the chain, even if only its id is known; else None."""
        if self.parent is None and self.job.state is State.AWAITING:
            waits = [edge for edge in self.job.record().parents if edge.on == On.SUCCEEDED]
            return AsyncResult(waits[0].parent_id, app=self._app) if waits else None
        return self.parent

    def _broken_by(self) -> AsyncResult | None:
        """Return the result of the failed previous task in the chain, because of which this job never runs.

        Celery also reports such a failure on the last result of the chain.
        """
        before = self._before()
        return before if before is not None and before.failed() else None

    def ready(self) -> bool:
        """Return whether the job has ended."""
        return self.state in _FINAL

    def successful(self) -> bool:
        """Return whether the job has succeeded."""
        return self.state == _SUCCESS

    def failed(self) -> bool:
        """Return whether the job has failed."""
        return self.state == _FAILURE

    @property
    def result(self) -> Any:  # noqa: ANN401 - the function's own type
        """The returned value, or the error of a failed job; before the job ends, its progress or None."""
        job = self._find_job()
        if job is not None and job.state is State.AWAITING and (broken := self._broken_by()) is not None:
            return broken.result
        if job is not None and job.state is State.PROCESSING:
            return _progress_of(job)
        if job is None or job.state not in {State.SUCCEEDED, State.FAILED}:
            return None
        return job.result(timeout=0) if job.state is State.SUCCEEDED else _error_of(job.error)

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of the job's last failure."""
        job = self._find_job()
        attempts = [] if job is None else job.errors()
        return attempts[-1].error.traceback if attempts else None

    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **_: object,
    ) -> Any:  # noqa: ANN401 - the function's own type
        """Wait until the job has ended, and return the value that the task returned.

        Raises:
            TimeoutError: If the job did not end in time.
            TaskRevokedError: If the job was revoked or has expired.
            Exception: If the job failed, or an earlier task in its chain failed. The exception is the task's
                own error if its class is loaded in this process and accepts a message, otherwise JobFailed.
            RuntimeError: If a task calls this method, because the other task might wait for the same worker.
        """
        if disable_sync_subtasks and not running.get().called_directly:
            raise RuntimeError(
                "A task must not wait for another task, because it might wait forever; use a chain or link=."
            )
        left = _left(timeout)
        before = self._before()
        if before is not None:
            end = before.get(left(), propagate=propagate, disable_sync_subtasks=disable_sync_subtasks)
            if not propagate and before.failed():
                return end  # this job never runs
        try:
            return self.job.result(left())
        except JobDeleted as error:
            raise TaskRevokedError(str(error)) from error
        except JobFailed as error:
            failure = _error_of(self.job.error) or error
            if propagate:
                raise failure from error
            return failure

    wait = get

    def revoke(self, **_: object) -> None:
        """Delete the job; if it is running, the server cancels it. Do nothing if it is already deleted."""
        with contextlib.suppress(JobConflict, JobNotFound):
            self.job.delete()

    def forget(self) -> None:
        """Do nothing, because a result is removed with its job, according to `keep=` or the retention."""


def _progress_of(job: Job[Any]) -> dict[str, object] | None:
    """Return the progress that the current run has stored with `update_state`; None before the first call."""
    record = job.record()
    progress, began = record.progress, record.claimed_at
    if progress is None or (began is not None and progress.at < began):
        return None
    done, total = (int(one) if one == int(one) else one for one in (progress.done, progress.total))
    return {"current": done, "total": total, **({"status": progress.message} if progress.message else {})}


def _left(timeout: float | None) -> Callable[[], float | None]:
    """Return a function that returns the remaining seconds of a timeout that begins now."""
    if timeout is None:
        return lambda: None
    until = time.monotonic() + timeout
    return lambda: max(0.0, until - time.monotonic())


def _error_of(error: ErrorInfo | None) -> BaseException | None:
    """Return the stored error: an exception of its own class if that class is loaded, otherwise JobFailed.

    No module is imported for the class.
    """
    if error is None:
        return None
    module, _, name = error.type.rpartition(".")
    kind = getattr(sys.modules.get(module or "builtins"), name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(Exception):  # the class requires arguments other than a message
            return kind(error.message)
    return JobFailed(f"{error.type}: {error.message}")


@attrs.frozen
class GroupResult(Refusing):
    """The results of a group, in the order of its tasks."""

    results: Sequence[AsyncResult]

    def __iter__(self) -> Iterator[AsyncResult]:
        """Iterate over the results."""
        return iter(self.results)

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self.results)

    def __getitem__(self, index: int) -> AsyncResult:
        """Return the result at an index."""
        return self.results[index]

    def get(self, timeout: float | None = None, *, propagate: bool = True, **_: object) -> list[Any]:
        """Wait for all jobs, and return their values."""
        left = _left(timeout)
        return [each.get(left(), propagate=propagate) for each in self.results]

    join = get

    def ready(self) -> bool:
        """Return whether all jobs have ended."""
        return all(each.ready() for each in self.results)

    def waiting(self) -> bool:
        """Return whether any job has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Return whether all jobs have succeeded."""
        return all(each.successful() for each in self.results)

    def failed(self) -> bool:
        """Return whether any job has failed."""
        return any(each.failed() for each in self.results)

    def completed_count(self) -> int:
        """Return the number of jobs that have succeeded."""
        return sum(each.successful() for each in self.results)

    def revoke(self) -> None:
        """Delete all jobs."""
        for each in self.results:
            each.revoke()
