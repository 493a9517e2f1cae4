"""The enqueued jobs with their decoded calls, and the values that a test expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from firelock.errors import FirelockError, UnknownTask
from firelock.jobs.job import Job
from firelock.model.clock import from_micros, micros, span_micros
from firelock.model.job import JobRecord
from firelock.options import TaskInfo
from firelock.task import TaskVerbs

if TYPE_CHECKING:
    from firelock.app import Firelock
    from firelock.arguments.serializer import JsonValue

_SHOWN = 20


@attrs.frozen
class Enqueued:
    """A created job, with the call that created it."""

    job: Job[Any]  # the job in its current state
    task: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def __str__(self) -> str:
        """Return the call and its options in one line."""
        record = self.job.record()
        given = [repr(value) for value in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        parts = [f"{self.task}({', '.join(given)})", f"queue={record.queue}", f"state={record.state}"]
        if record.nominal_at is not None:
            parts.append(f"due_at={from_micros(record.nominal_at).isoformat()}")
        if record.priority:
            parts.append(f"priority={record.priority}")
        if record.tags:
            parts.append(f"tags={list(record.tags)}")
        if record.meta_json:
            parts.append(f"meta={dict(record.meta)}")
        if self.job.limits:
            parts.append(f"limits={list(self.job.limits)}")
        if self.job.unique_key is not None:
            parts.append(f"unique_key={self.job.unique_key!r}")
        return "  ".join(parts)


@attrs.frozen(kw_only=True)
class Expected:
    """The values that a matching job must have; None matches any value."""

    arguments: Mapping[str, JsonValue] | None  # the arguments in stored form, with defaults filled in
    call: str
    queue: str | None
    due_at: int | None
    priority: int | None
    tags: frozenset[str]
    meta: Mapping[str, str]

    def fits(self, app: Firelock, record: JobRecord) -> bool:
        """Return whether a job of the expected task matches."""
        return (
            self.queue in {None, record.queue}
            and self.priority in {None, record.priority}
            and self.due_at in {None, record.nominal_at}
            and self.tags <= set(record.tags)
            and self.meta.items() <= record.meta.items()
            and (self.arguments is None or self.arguments == _stored_arguments(app, record))
        )

    def __str__(self) -> str:
        """Return the expected values as a test would write them."""
        parts = [self.call]
        parts += [f"queue={self.queue}"] if self.queue is not None else []
        parts += [f"due_at={from_micros(self.due_at).isoformat()}"] if self.due_at is not None else []
        parts += [f"priority={self.priority}"] if self.priority is not None else []
        parts += [f"tags={sorted(self.tags)}"] if self.tags else []
        parts += [f"meta={dict(self.meta)}"] if self.meta else []
        return "  ".join(parts)


def expected(
    app: Firelock,
    info: TaskInfo,
    *,
    args: Sequence[object] | None,
    kwargs: Mapping[str, object] | None,
    queue: str | None,
    due_at: datetime | timedelta | None,
    priority: int | None,
    tags: Sequence[str],
    meta: Mapping[str, str],
    now: int,
) -> Expected:
    """Return the values that a test expects, in the form used for comparison.

    Raises:
        SignatureMismatch: If the task cannot be called with these arguments.
        ArgumentError: If an argument could not have been enqueued.
    """
    arguments, call = None, f"{info.name}(…)"
    if args is not None or kwargs is not None:
        given, named = tuple(args or ()), dict(kwargs or {})
        arguments = _with_defaults(app, info, app.registry.binder(info).encode(given, named))
        shown = [repr(value) for value in given] + [f"{name}={value!r}" for name, value in named.items()]
        call = f"{info.name}({', '.join(shown)})"
    if isinstance(due_at, timedelta):
        instant: int | None = now + span_micros(due_at)
    else:
        instant = None if due_at is None else micros(due_at)
    return Expected(
        arguments=arguments, call=call, queue=queue, due_at=instant, priority=priority, tags=frozenset(tags),
        meta=meta,
    )  # fmt: skip


def _with_defaults(app: Firelock, info: TaskInfo, arguments: JsonValue) -> Mapping[str, JsonValue]:
    given = arguments if isinstance(arguments, dict) else {}
    return {**app.registry.binder(info).defaults, **given}


def _stored_arguments(app: Firelock, record: JobRecord) -> Mapping[str, JsonValue] | None:
    info, serializer = app.registry.get(record.task), app.client.serializers.get(record.serializer)
    if info is None or serializer is None:
        return None
    return _with_defaults(app, info, serializer.loads(record.arguments))


def find_task(app: Firelock, task: TaskVerbs[..., Any] | str) -> TaskInfo:
    """Return the registration of the task that a test passed.

    Raises:
        UnknownTask: If the app has no task with this name.
    """
    if isinstance(task, TaskVerbs):
        return task.info
    info = app.registry.get(getattr(task, "name", task))  # tasks of the Celery interface also have a name
    if info is None:
        known = ", ".join(sorted(one.name for one in app.tasks())) or "none"
        raise UnknownTask(f"Task {task!r} is not registered in this app. Registered: {known}.")
    return info


def decoded(app: Firelock, record: JobRecord) -> Enqueued:
    """Return the job with its call; if the arguments cannot be decoded, they remain the stored string."""
    job: Job[Any] = Job(app.client, record)
    info, serializer = app.registry.get(record.task), app.client.serializers.get(record.serializer)
    if info is None or serializer is None:
        return Enqueued(job, record.task, (record.arguments,), {})
    try:
        args, kwargs = app.registry.binder(info).decode_text(record.arguments, serializer)
    except FirelockError:
        return Enqueued(job, record.task, (record.arguments,), {})
    return Enqueued(job, record.task, args, kwargs)


def listed(calls: Sequence[Enqueued]) -> str:
    """Return the enqueued calls, one per line, for the message of a failed assertion."""
    if not calls:
        return "Nothing was enqueued."
    lines = [f"  {call}" for call in calls[:_SHOWN]]
    if len(calls) > _SHOWN:
        lines.append(f"  … and {len(calls) - _SHOWN} more")
    return "\n".join(["Enqueued jobs:", *lines])
