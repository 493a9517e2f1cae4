"""Conversion of jobs to Django's `TaskResult`, with one of four states, formatted times and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import attrs
from django.conf import settings
from django.utils import timezone

from firelock.errors import FirelockError, JobDeleted, ResultUnavailable
from firelock.integrations.django.task_api import AttemptError, Task, TaskResult, TaskResultStatus
from firelock.jobs.job import as_datetime
from firelock.jobs.results import decode_result
from firelock.model.job import ErrorInfo, HistoryEntry, JobHistory, JobRecord
from firelock.model.state import State

if TYPE_CHECKING:
    from firelock import Firelock

STATUSES = {
    State.AWAITING: TaskResultStatus.READY,
    State.SCHEDULED: TaskResultStatus.READY,  # due later, or waiting for a retry
    State.ENQUEUED: TaskResultStatus.READY,
    State.PROCESSING: TaskResultStatus.RUNNING,
    State.SUCCEEDED: TaskResultStatus.SUCCESSFUL,
    State.FAILED: TaskResultStatus.FAILED,
    State.DELETED: TaskResultStatus.FAILED,
}


@attrs.frozen
class AbsentResult:
    """A placeholder for a returned value that was not stored, with the reason."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirelockTaskResult(TaskResult):  # type: ignore[misc]  # Any: Django has no types
    """A TaskResult that distinguishes a result that was not stored from None."""

    @property
    def return_value(self) -> Any:  # noqa: ANN401 - as Django's
        """The value that the task returned.

        Raises:
            ValueError: If the task has not succeeded.
            ResultUnavailable: If the task has succeeded, but the returned value was not stored.
        """
        value = TaskResult.return_value.fget(self)
        if isinstance(value, AbsentResult):
            raise ResultUnavailable(f"Task {self.id} succeeded: {value.reason}")
        return value


# ---- times -----------------------------------------------------------------------------------------------


def shown_instant(instant: datetime | None) -> datetime | None:
    """Return a time in Django's format: aware in UTC or, without `USE_TZ`, naive in `TIME_ZONE`."""
    return instant if instant is None or settings.USE_TZ else timezone.make_naive(instant)


def shown_micros(at: int | None) -> datetime | None:
    """Return a time in Django's format; `at` is in micros."""
    return shown_instant(as_datetime(at))


def aware_instant(run_after: datetime | None) -> datetime | None:
    """Return `run_after` as an aware time; a naive time is interpreted in `TIME_ZONE`."""
    if run_after is not None and timezone.is_naive(run_after):
        run_after = timezone.make_aware(run_after)
    return run_after


# ---- tasks and failures ----------------------------------------------------------------------------------


def task_as_enqueued(
    task: Task, *, backend: str, queue_name: str, priority: int, run_after: datetime | None
) -> Task:
    """Return the task with a job's own options, as `using` would; nothing is validated.

    Stored options might no longer be allowed: for example, the queue might have been removed from `QUEUES`.
    """
    own = {"backend": backend, "queue_name": queue_name, "priority": priority, "run_after": run_after}
    found = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(found, field.name, own.get(field.name, getattr(task, field.name)))
    if run_after is None:
        object.__setattr__(found, "run_after", None)
    return found


def error_of_exception(error: BaseException) -> AttemptError:
    """Return a failure in the format of Django's own backends."""
    kind = type(error)
    return AttemptError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback="".join(format_exception(error)),
    )


def _error_of_stored(error: ErrorInfo) -> AttemptError:
    path = error.type if "." in error.type else f"builtins.{error.type}"
    text = f"{error.type}: {error.message}" if error.traceback is None else error.traceback
    lines = [f"  {line[2:]}" if line.startswith("→ ") else line for line in text.split("\n")]
    return AttemptError(exception_class_path=path, traceback="\n".join((*lines, "")))


def _errors(record: JobRecord, history: JobHistory | None) -> list[AttemptError]:
    found = [_error_of_stored(attempt.error) for attempt in history.errors] if history else []
    if record.error is not None and not found:
        found = [_error_of_stored(record.error)]
    if record.state is State.DELETED:
        path = f"{JobDeleted.__module__}.{JobDeleted.__qualname__}"
        found.append(AttemptError(exception_class_path=path, traceback=f"JobDeleted: {record.reason}\n"))
    return found


# ---- results ---------------------------------------------------------------------------------------------


def read_result(app: Firelock, record: JobRecord, task: Task, backend: str) -> FirelockTaskResult:
    """Return a stored job as a TaskResult.

    If the job has failed or has had several attempts, this also reads its history, which contains the
    tracebacks, the earlier workers and the first start.
    """
    history = None
    if record.attempt > 1 or record.error is not None:
        history = app.storage.history(record.id)
    attempts = {entry.attempt: entry for entry in history.entries if entry.attempt} if history else {}
    last_start = record.claimed_at if record.started_at is None else record.started_at
    has_run = record.attempt > 0
    args, kwargs = _call_of(app, record)
    result = FirelockTaskResult(
        task=task_as_enqueued(
            task,
            backend=backend,
            queue_name=record.queue,
            priority=record.priority,
            run_after=shown_micros(record.nominal_at),
        ),
        id=record.id,
        status=STATUSES[record.state],
        enqueued_at=shown_micros(record.created_at),
        started_at=shown_micros(_start(attempts.get(1), last_start)) if has_run else None,
        last_attempted_at=shown_micros(last_start) if has_run else None,
        finished_at=shown_micros(record.ended_at) if record.is_final else None,
        args=args,
        kwargs=kwargs,
        backend=backend,
        errors=_errors(record, history),
        worker_ids=[
            (attempts[number].server if number in attempts else record.server) or ""
            for number in range(1, record.attempt + 1)
        ],
    )
    if record.state is State.SUCCEEDED:
        object.__setattr__(result, "_return_value", _returned(app, record))
    return result


def _start(entry: HistoryEntry | None, otherwise: int | None) -> int | None:
    if entry is None:
        return otherwise
    return entry.claimed_at if entry.started_at is None else entry.started_at


POSITIONAL = "django.positional"  # key in a job's meta: the number of positional arguments, if needed


def meta_of_call(
    names: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, str] | None:
    """Return the metadata that distinguishes `f(1, b=2)` from `f(1, 2)`; None if this is not needed.

    `names` are the parameters that can be positional. A job's arguments are stored by name.
    """
    return None if kwargs.keys().isdisjoint(names) else {POSITIONAL: str(len(args))}


def as_called(
    names: Sequence[str], args: Sequence[object], kwargs: Mapping[str, object], meta: Mapping[str, str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return a job's arguments as the caller passed them, by position or by name."""
    given = meta.get(POSITIONAL, "")
    if not given.isdecimal() or not int(given) < len(args) <= len(names):
        return list(args), dict(kwargs)
    count = int(given)
    return list(args[:count]), {**dict(zip(names[count:], args[count:], strict=False)), **kwargs}


def _call_of(app: Firelock, record: JobRecord) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a job.

    If the function's parameters have changed, all arguments are returned by name. If the arguments cannot be
    decoded in this process, none are returned.
    """
    serializer = app.client.serializers.get(record.serializer)
    info = app.registry.get(record.task)
    if serializer is None or info is None:
        return [], {}
    binder = app.registry.binder(info)
    try:
        args, kwargs = binder.decode_text(record.arguments, serializer)
    except FirelockError:
        stored = serializer.loads(record.arguments)
        return [], stored if isinstance(stored, dict) else {}
    return as_called(binder.signature.positional, args, kwargs, record.meta)


def _returned(app: Firelock, record: JobRecord) -> object:
    if record.result is None:
        return AbsentResult(record.result_absent or "its result was not stored")
    return decode_result(app.client, record)
