"""A stored recurring job: the definition, its origin and its due times.

A definition is a record of the kind `recurring`. Its due time is the time when it fires next. The value of
the record contains a separate version, which does not change when the definition fires. Therefore an edit
does not conflict with a firing in the meantime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, get_type_hints

import attrs

from firelock.errors import ConfigurationError
from firelock.model.clock import from_micros
from firelock.model.job import NewJob
from firelock.model.limit import Admission, read_admission
from firelock.model.meta import read_meta
from firelock.model.record import Record
from firelock.model.state import State
from firelock.model.text import shown
from firelock.schedules.cron import Cron, Every, schedule_from_json
from firelock.storage import Storage

RECURRING = "recurring"
"""The kind of the records that contain definitions."""

_ID_LIMIT = 200
_OF_CALLS = "call:"  # prefix of the digests of definitions from `recur()`; digests of declarations have none
_RESET = "reset"  # differs from every digest, so the next definition from the code replaces it


class Origin(StrEnum):
    """The origin of a definition; the value is the displayed string."""

    CODE = "code"  # declared by `@fire.recurring`
    CALL = "call"  # written by `task.recur(…)`
    EDITED = "code, edited"  # declared in the code, then changed by an operator
    CREATED = "created here"  # created by an operator; not in the code


@attrs.frozen
class Upcoming:
    """A time at which a schedule fires, in UTC."""

    at: datetime
    note: str | None = None  # the effect of a clock change, for display; None without an effect


@attrs.frozen
class RecurringRecord:
    """A recurring definition and its progress."""

    id: str
    task: str
    arguments: str
    serializer: str
    schedule: str  # JSON of a Cron or Every
    queue: str
    priority: int = 0
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None
    meta_json: str | None = None
    is_paused: bool = False
    origin: str = "call"  # "call" for recur(), "code" for a declaration, "operator" for a manual change
    code_digest: str | None = None  # digest of the last stored definition from the code
    is_gone: bool = False  # whether the definition was declared in the code but no longer is
    created_at: int = 0
    updated_at: int = 0
    version: int = 0  # version of the definition; 0 if it is not stored yet
    timed_at: int = 0  # time when the current due times took effect; earlier due times do not count
    # The progress is written when the definition fires, and kept when the definition is updated.
    next_at: int | None = None  # None if the definition never fires again
    last_at: int | None = None  # the last due time that fired
    last_job_id: str | None = None
    dropped: int = 0  # the total number of missed due times that were dropped
    error: str | None = None  # the reason why the last firing failed
    # These fields are written only if they are not None, so that older versions can read other definitions.
    admission_json: str | None = None  # the limits and other admission rules of its jobs, as stored
    skipped: str | None = None  # the reason why the last due time did not create a job; part of the progress
    newer: str | None = None  # the stored value, if this release cannot read one of its fields
    more: str | None = None  # fields of a newer release, as JSON; kept unchanged

    @property
    def due_at(self) -> int | None:
        """The time at which the definition fires next; None if it is paused or never fires again."""
        return None if self.is_paused else self.next_at


@attrs.frozen
class RecurringJob:
    """A snapshot of a recurring definition."""

    record: RecurringRecord

    @property
    def id(self) -> str:
        """The id of the definition."""
        return self.record.id

    @property
    def task(self) -> str:
        """The name of its task."""
        return self.record.task

    @property
    def schedule(self) -> Cron | Every:
        """The schedule."""
        return schedule_from_json(self.record.schedule)

    @property
    def queue(self) -> str:
        """The queue of its jobs."""
        return self.record.queue

    @property
    def priority(self) -> int:
        """The priority of its jobs."""
        return self.record.priority

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its jobs."""
        return self.record.tags

    @property
    def meta(self) -> Mapping[str, str]:
        """The read-only metadata of its jobs; empty if they have none."""
        return read_meta(self.record.meta_json)

    @property
    def arguments(self) -> str:
        """The arguments of its jobs, as their serializer stored them."""
        return self.record.arguments

    @property
    def version(self) -> int:
        """The version of the definition, which grows with each change."""
        return self.record.version

    @property
    def origin(self) -> Origin:
        """The origin of the definition."""
        if self.record.origin != "operator":
            return Origin(self.record.origin)
        return Origin.CREATED if self.record.code_digest is None else Origin.EDITED

    @property
    def is_gone(self) -> bool:
        """Whether the definition was declared in the code but no longer is."""
        return self.record.is_gone

    @property
    def awaits_code(self) -> bool:
        """Whether the definition was reset, and the one from the code has not been stored yet.

        The definition from the code is stored when the code next declares it.
        """
        return (self.record.code_digest or "").removeprefix(_OF_CALLS) == _RESET

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.record.is_paused

    @property
    def next_at(self) -> datetime | None:
        """The next due time, or a past one that could not fire yet; None if no due time will follow."""
        return None if self.record.next_at is None else from_micros(self.record.next_at)

    @property
    def last_at(self) -> datetime | None:
        """The last due time for which the definition fired."""
        return None if self.record.last_at is None else from_micros(self.record.last_at)

    @property
    def limits(self) -> tuple[str, ...]:
        """The limit keys that its jobs hold while they run, for example "tenant:7"; empty without limits."""
        admission = self._admission
        return () if admission is None else tuple(use.key for use in admission.limits)

    @property
    def unique_key(self) -> str | None:
        """The unique key of its jobs, which no other job of the task can have at the same time, or None."""
        admission = self._admission
        unique = None if admission is None else admission.unique
        return None if unique is None else unique.key.partition(" ")[2]

    @property
    def start_within(self) -> timedelta | None:
        """How long its jobs may wait in their queue before they are deleted; None if there is no limit."""
        admission = self._admission
        within = None if admission is None else admission.start_within
        return None if within is None else timedelta(microseconds=within)

    @property
    def _admission(self) -> Admission | None:
        text = self.record.admission_json
        return None if text is None else read_admission(text)

    @property
    def skipped(self) -> str | None:
        """The reason why the last due time did not create a job (its unique key was in use), or None."""
        return self.record.skipped

    @property
    def error(self) -> str | None:
        """The reason why the last firing failed, or why only a newer version can fire the definition."""
        return newer_words(self.record) if is_newer(self.record) else self.record.error


def is_newer(definition: RecurringRecord) -> bool:
    """Return whether the definition has a field from a newer release that this release cannot read."""
    return definition.newer is not None


def newer_words(definition: RecurringRecord) -> str:
    """Return a message that names the unknown fields of a newer version's definition, and the fix."""
    kept = _object("{}" if definition.newer is None else definition.newer)
    if kept is None:
        return f"The definition cannot be read: {shown(definition.newer)}. Remove it and add it again."
    unknown = {name for name, value in kept.items() if name in _kinds() and not _is_known(name, value)}
    names = ", ".join(sorted({*unknown, *(_NEEDED - kept.keys())}) or ["schedule"])
    return (
        f"A newer version of Firelock wrote this definition: {names} is unknown to this version. This "
        "process neither fires nor changes it. Upgrade Firelock in this process."
    )


def check_recurring_id(recurring_id: str) -> str:
    """Return the id of a recurring job if it is valid.

    Raises:
        ConfigurationError: The id is not a string of 1 to 200 printable characters.
    """
    is_text = isinstance(recurring_id, str)
    if not is_text or not 0 < len(recurring_id) <= _ID_LIMIT or not recurring_id.isprintable():
        raise ConfigurationError(
            f"Recurring id must be 1 to {_ID_LIMIT} printable characters, got {shown(recurring_id)}."
        )
    return recurring_id


def digest_of(definition: RecurringRecord) -> str:
    """Return the digest of a definition in the code; it differs for declarations and calls of `recur()`."""
    fields: Sequence[object] = [
        definition.task, definition.arguments, definition.serializer, definition.schedule, definition.queue,
        definition.priority, definition.tags, definition.timeout_seconds, definition.retry,
        definition.meta_json,
    ]  # fmt: skip
    if definition.admission_json is not None:
        fields = [*fields, definition.admission_json]
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]
    return f"{_OF_CALLS}{digest}" if definition.origin == "call" else digest


def awaiting_code(definition: RecurringRecord) -> RecurringRecord:
    """Return an edited definition, marked so that the next definition from the code replaces it."""
    is_of_calls = (definition.code_digest or "").startswith(_OF_CALLS)
    return attrs.evolve(definition, code_digest=f"{_OF_CALLS}{_RESET}" if is_of_calls else _RESET)


def is_declared_once(definition: RecurringRecord) -> bool:
    """Return whether the definition comes from a declaration in the code, even if it was edited later."""
    if definition.origin == "code":
        return True
    digest = definition.code_digest
    return definition.origin == "operator" and digest is not None and not digest.startswith(_OF_CALLS)


def job_of(record: RecurringRecord, job_id: str, instant: int, now: int, reason: str) -> NewJob:
    """Return a job of the definition for a due time."""
    return NewJob(
        id=job_id,
        task=record.task,
        arguments=record.arguments,
        serializer=record.serializer,
        queue=record.queue,
        priority=record.priority,
        state=State.ENQUEUED,
        created_at=now,
        nominal_at=instant,
        reason=reason,
        tags=record.tags,
        timeout_seconds=record.timeout_seconds,
        retry=record.retry,
        recurring_id=record.id,
        meta_json=record.meta_json,
        admission_json=record.admission_json,
    )


# ---- records ---------------------------------------------------------------------------------------------

_NEEDED = {"task", "arguments", "serializer", "schedule", "queue"}
_PROGRESS = ("next_at", "last_at", "last_job_id", "dropped", "error", "skipped")
_LATER = ("admission_json", "skipped")  # fields that are unknown to older versions


def put_recurring(
    storage: Storage, recurring: RecurringRecord, *, keep_progress: bool, read: RecurringRecord | None = None
) -> RecurringRecord | None:
    """Store the definition with version + 1 if its version is still the stored one (0 for a new definition).

    With `keep_progress`, the current stored progress (`next_at` to `error`, and `skipped`) is kept. Return
    the stored definition, or None if the version has changed or a newer version of Firelock wrote the stored
    definition.

    Args:
        storage: the storage of the definition.
        recurring: the definition to store.
        keep_progress: whether to keep the progress, because the change does not affect due times.
        read: the definition before the change. If it is passed, None is also returned if the definition was
            removed and added again, or if it has fired in the meantime and the progress is not kept.
    """
    while True:
        record = storage.get_record(RECURRING, recurring.id)
        stored = read_recurring(record) if record else None
        if (stored.version if stored else 0) != recurring.version:
            return None
        if stored is not None and (
            is_newer(stored) or not _is_as_read(stored, read, keep_progress=keep_progress)
        ):
            return None
        wanted = attrs.evolve(recurring, version=recurring.version + 1)
        if keep_progress and stored is not None:
            wanted = attrs.evolve(wanted, **{name: getattr(stored, name) for name in _PROGRESS})
        written = storage.put_record(
            RECURRING,
            recurring.id,
            recurring_json(wanted),
            expected_version=record.version if record else 0,
            due_at=wanted.due_at,
        )
        if written is not None:  # otherwise, the definition has fired or was changed in the meantime
            return wanted


def _is_as_read(stored: RecurringRecord, read: RecurringRecord | None, *, keep_progress: bool) -> bool:
    names = ("created_at",) if keep_progress else ("created_at", *_PROGRESS)
    return read is None or all(getattr(stored, name) == getattr(read, name) for name in names)


def get_recurring(storage: Storage, recurring_id: str) -> RecurringRecord | None:
    """Return the stored definition; None if it was not found."""
    record = storage.get_record(RECURRING, recurring_id)
    return read_recurring(record) if record else None


def recurring_json(recurring: RecurringRecord) -> str:
    """Return the value of the definition's record."""
    fields = attrs.asdict(recurring)
    del fields["newer"], fields["more"]
    for name in _LATER:
        if fields[name] is None:
            del fields[name]
    return json.dumps(fields | json.loads(recurring.more or "{}"), ensure_ascii=False)


def read_recurring(record: Record) -> RecurringRecord:
    """Return the definition that is stored in a record; every record is accepted.

    Fields that are unknown to this release are kept in `more`. If a known field cannot be read, `newer` is
    set in addition to all readable fields.
    """
    stored = _object(record.value)
    fields = {**(stored or {}), "id": record.key}
    known: dict[str, Any] = {name: value for name, value in fields.items() if _is_known(name, value)}
    more = {name: value for name, value in fields.items() if name not in _kinds()}
    is_whole = stored is not None and known.keys() >= (fields.keys() - more.keys()) | _NEEDED
    known["tags"] = tuple(known.get("tags", ()))
    return RecurringRecord(
        **{**dict.fromkeys(_NEEDED, ""), **known},
        newer=None if is_whole else record.value,
        more=json.dumps(more, ensure_ascii=False) if more else None,
    )


@cache
def _kinds() -> Mapping[str, Any]:
    """Return the type that a value of each field must have."""
    hints = get_type_hints(RecurringRecord)
    del hints["newer"], hints["more"]
    return {**hints, "timeout_seconds": float | int | None, "tags": list}


def _object(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_known(name: str, value: object) -> bool:
    kinds = _kinds()
    if name not in kinds or not isinstance(value, kinds[name]):
        return False
    return name != "tags" or all(isinstance(tag, str) for tag in value)
