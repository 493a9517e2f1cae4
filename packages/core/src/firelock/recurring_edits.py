"""Changes of recurring definitions by operators: what a definition becomes, checked as code's would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from firelock.arguments.signature import MAX_TAGS, format_tags
from firelock.client import check_tags
from firelock.clock import from_micros, micros
from firelock.cron import Cron, Every, parse_schedule, schedule_from_json, schedule_to_json
from firelock.errors import ArgumentError, ConfigurationError, FirelockError, ScheduleError, UnknownTask
from firelock.options import CallOptions, check_priority, check_queue, shown, to_tags
from firelock.storage import RecurringRecord
from firelock.task import Call

if TYPE_CHECKING:
    from firelock.client import Client
    from firelock.serializer import JsonValue
    from firelock.task import TaskInfo

__all__ = ["Arguments", "Edit", "created", "edited", "put_definition", "to_call"]

Arguments = Mapping[str, object] | Sequence[object]


@attrs.frozen
class Edit:
    """What an operator wants to be otherwise; None leaves it."""

    schedule: str | Cron | Every | None = None
    arguments: Arguments | None = None
    queue: str | None = attrs.field(default=None, converter=attrs.converters.optional(check_queue))
    priority: int | None = attrs.field(default=None, converter=attrs.converters.optional(check_priority))
    tags: tuple[str, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(to_tags))


def edited(client: Client, record: RecurringRecord, edit: Edit) -> RecurringRecord:
    """Return the definition after an edit, its origin the operator; itself where nothing is otherwise.

    Raises:
        ScheduleError: the schedule cannot be read.
        UnknownTask: other arguments are given, and the task that they are for is not registered here.
        ArgumentError, SignatureMismatch: they do not fit the task.
        ConfigurationError: a tag is refused.
    """
    changed = attrs.evolve(
        record,
        queue=record.queue if edit.queue is None else edit.queue,
        priority=record.priority if edit.priority is None else edit.priority,
    )
    if edit.schedule is not None:
        changed = attrs.evolve(changed, schedule=schedule_to_json(parse_schedule(edit.schedule)))
    if edit.arguments is not None:
        changed = _with_arguments(client, changed, edit.arguments)
    changed = _with_tags(client, record, changed, edit.tags)
    return record if changed == record else attrs.evolve(changed, origin="operator")


def _with_arguments(client: Client, record: RecurringRecord, arguments: Arguments) -> RecurringRecord:
    info = client.registry.get(record.task)
    if info is None:
        stored = _stored_arguments(client, record)
        if isinstance(arguments, Mapping) and stored is not None and dict(arguments) == stored:
            return record
        message = (
            f"Task {record.task!r} of recurring job {record.id!r} is not registered in this app, so that its "
            "arguments cannot be checked; leave them as they are, or edit it where the code is."
        )
        raise UnknownTask(message)
    args, kwargs = to_call(client, info, arguments)
    text = client.registry.binder(info).encode_text(args, kwargs, client.serializer)
    return attrs.evolve(record, arguments=text, serializer=client.serializer.name)


def to_call(
    client: Client, info: TaskInfo, arguments: Arguments
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return arguments by name or by position as a call of the task.

    Raises:
        SignatureMismatch: a name is unknown, or one that is needed is missing.
        ArgumentError: they are neither a mapping nor a list.
    """
    if isinstance(arguments, Mapping):
        return client.registry.binder(info).shape.named_call(arguments)
    if isinstance(arguments, str | bytes) or not isinstance(arguments, Sequence):
        message = (
            f'arguments={shown(arguments)} are refused; pass them by name, {{"day": "mon"}}, or as a list.'
        )
        raise ArgumentError(message)
    return tuple(arguments), {}


def _stored_arguments(client: Client, record: RecurringRecord) -> JsonValue:
    """Return the arguments as JSON; None where this app cannot read them."""
    serializer = client.serializers.get(record.serializer)
    try:
        return None if serializer is None else serializer.loads(record.arguments)
    except (FirelockError, ValueError):
        return None


def _with_tags(
    client: Client, before: RecurringRecord, after: RecurringRecord, tags: tuple[str, ...] | None
) -> RecurringRecord:
    """Return the definition with its task's own tags, made of the new arguments, and others as given."""
    if tags is None and before.arguments == after.arguments:
        return after
    former = _own_tags(client, before)
    others = [tag for tag in check_tags(before.tags if tags is None else tags) if tag not in former]
    every = tuple(dict.fromkeys((*_own_tags(client, after), *others)))
    if len(every) > MAX_TAGS:
        message = f"{len(every)} tags; a job has at most {MAX_TAGS}, its task's and others together."
        raise ConfigurationError(message)
    return attrs.evolve(after, tags=every)


def _own_tags(client: Client, record: RecurringRecord) -> tuple[str, ...]:
    """Return the tags that the task makes of the definition's arguments; none where it cannot be asked."""
    info = client.registry.get(record.task)
    stored = _stored_arguments(client, record)
    if info is None or stored is None:
        return ()
    try:
        return format_tags(info.tags, stored, defaults=client.registry.binder(info).defaults)
    except ArgumentError:  # the task has changed since these were stored
        return ()


def created(
    client: Client, recurring_id: str, info: TaskInfo, edit: Edit, timeout: timedelta | float | None
) -> RecurringRecord:
    """Return a definition of an operator's own, that code knows nothing of.

    Raises:
        ScheduleError: the schedule cannot be read.
        ArgumentError, SignatureMismatch: the arguments do not fit the task.
        ConfigurationError: an option is refused.
    """
    args, kwargs = to_call(client, info, () if edit.arguments is None else edit.arguments)
    options = CallOptions(edit.queue, edit.priority, tags=edit.tags, timeout=timeout)
    schedule = "" if edit.schedule is None else edit.schedule
    return definition_of(client, Call(info, options, args, kwargs), recurring_id, schedule, "operator")


def definition_of(
    client: Client, call: Call, recurring_id: str, schedule: str | Cron | Every, origin: str
) -> RecurringRecord:
    """Return the definition whose jobs are this call, not stored yet and without a digest."""
    parsed = parse_schedule(schedule)
    job = client.recurring_arguments(call)
    return RecurringRecord(
        recurring_id, job.task, job.arguments, job.serializer, schedule_to_json(parsed), job.queue,
        job.priority, job.tags, job.timeout_seconds, job.retry, origin=origin,
    )  # fmt: skip


def put_definition(
    client: Client, definition: RecurringRecord, stored: RecurringRecord | None
) -> RecurringRecord | None:
    """The definition takes the place of the stored one; None where that has been changed meanwhile.

    Its next instant is worked out anew where the schedule is another. A run that is due or owed is never
    lost: it runs for its own instant, once, and the other schedule's instants count from now.
    """
    now = client.clock.now()
    first = schedule_from_json(definition.schedule).next_after(from_micros(now))
    next_at = None if first is None else micros(first)
    if stored is None:
        new = attrs.evolve(definition, created_at=now, updated_at=now, timed_at=now, next_at=next_at)
        return client.storage.put_recurring(new, keep_progress=False)
    changed = attrs.evolve(
        definition,
        created_at=stored.created_at,
        updated_at=now,
        version=stored.version,
        timed_at=stored.timed_at if _has_same_instants(stored, definition) else now,
        is_paused=stored.is_paused,
        next_at=next_at,
        last_at=stored.last_at,
        last_job_id=stored.last_job_id,
        dropped=stored.dropped,
    )
    is_due = stored.owed_at is not None or (stored.next_at is not None and stored.next_at <= now)
    keeps = stored.schedule == definition.schedule or is_due
    return client.storage.put_recurring(changed, keep_progress=keeps)


def _has_same_instants(stored: RecurringRecord, definition: RecurringRecord) -> bool:
    """Tell whether both fire at the same instants, whatever becomes of those that are missed or overlap."""
    try:
        before, after = schedule_from_json(stored.schedule), schedule_from_json(definition.schedule)
    except ScheduleError:  # it was broken, and had no instants
        return False
    alike = attrs.evolve(
        before, misfire=after.misfire, misfire_limit=after.misfire_limit, overlap=after.overlap
    )
    return alike == after
