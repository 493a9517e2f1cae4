"""What is stored of a recurring job, as its readers see it: the definition, its origin, what comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import attrs

from firelock.clock import from_micros
from firelock.cron import Cron, Every, schedule_from_json
from firelock.errors import ConfigurationError
from firelock.storage import RecurringRecord
from firelock.storage.derived import unknown_fields
from firelock.text import shown
from firelock.values import NewJob, State

__all__ = [
    "Origin",
    "RecurringJob",
    "Upcoming",
    "awaiting_code",
    "check_recurring_id",
    "digest_of",
    "is_declared_once",
    "is_newer",
    "job_of",
    "newer_words",
]

_ID_LIMIT = 200
_OF_CALLS = "call:"  # before the digest of what `recur()` wrote, so that an edit of it is told from others
_RESET = "reset"  # in place of a digest: equal to none, so that the code's next word counts


class Origin(StrEnum):
    """Where a definition came from; the text is what people read."""

    CODE = "code"  # declared by `@fire.recurring`
    CALL = "call"  # written by `task.recur(…)`
    EDITED = "code, edited"  # one of the two, changed by an operator since
    CREATED = "created here"  # by an operator: the code knows nothing of it


@attrs.frozen
class Upcoming:
    """An instant at which a schedule fires, in UTC."""

    at: datetime
    note: str | None = None  # what a change of clocks does to it, for people; None where nothing


@attrs.frozen
class RecurringJob:
    """A recurring definition as it was read."""

    record: RecurringRecord

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def task(self) -> str:
        """The task it runs."""
        return self.record.task

    @property
    def schedule(self) -> Cron | Every:
        """When it runs."""
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
    def arguments(self) -> str:
        """The arguments of its jobs, as their serializer stored them."""
        return self.record.arguments

    @property
    def version(self) -> int:
        """Its version, which grows with every change of the definition."""
        return self.record.version

    @property
    def origin(self) -> Origin:
        """Where it came from."""
        if self.record.origin != "operator":
            return Origin(self.record.origin)
        return Origin.CREATED if self.record.code_digest is None else Origin.EDITED

    @property
    def is_gone(self) -> bool:
        """Tell whether it was declared once and is no longer in the code."""
        return self.record.is_gone

    @property
    def awaits_code(self) -> bool:
        """Tell whether it was reset, and what the code says is written when code next says it."""
        return (self.record.code_digest or "").removeprefix(_OF_CALLS) == _RESET

    @property
    def is_paused(self) -> bool:
        """Tell whether it is paused."""
        return self.record.is_paused

    @property
    def next_at(self) -> datetime | None:
        """The next instant it runs for, one that could not be fired yet among them; None for never."""
        owed_at, next_at = self.record.owed_at, self.record.next_at
        return None if next_at is None else from_micros(next_at if owed_at is None else owed_at)

    @property
    def last_at(self) -> datetime | None:
        """The last instant it ran for, nominal."""
        return None if self.record.last_at is None else from_micros(self.record.last_at)

    @property
    def error(self) -> str | None:
        """Why the last firing failed, or why this process fires it never: a newer version wrote it."""
        return newer_words(self.record) if is_newer(self.record) else self.record.error


def is_newer(definition: RecurringRecord) -> bool:
    """Tell whether a newer version wrote something of it that this one does not know."""
    return definition.newer is not None


def newer_words(definition: RecurringRecord) -> str:
    """Return what is unknown of a definition that a newer version wrote, and what to do."""
    unknown = unknown_fields(definition)
    if unknown is None:
        return f"The definition cannot be read: {shown(definition.newer)}. Remove it and add it again."
    names = ", ".join(unknown or ["schedule"])
    return (
        f"A newer version of Firelock wrote this definition: {names} is unknown here. It is neither fired "
        "nor changed by this process; upgrade it."
    )


def check_recurring_id(recurring_id: str) -> str:
    """Return the id; ConfigurationError unless it is 1 to 200 printable characters."""
    is_text = isinstance(recurring_id, str)
    if not is_text or not 0 < len(recurring_id) <= _ID_LIMIT or not recurring_id.isprintable():
        message = f"Recurring id {shown(recurring_id)} is refused; use 1 to {_ID_LIMIT} printable characters."
        raise ConfigurationError(message)
    return recurring_id


def digest_of(definition: RecurringRecord) -> str:
    """Return the digest of what code says of a definition, and of the way in which it says it."""
    fields: Sequence[object] = [
        definition.task, definition.arguments, definition.serializer, definition.schedule, definition.queue,
        definition.priority, definition.tags, definition.timeout_seconds, definition.retry,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:32]
    return f"{_OF_CALLS}{digest}" if definition.origin == "call" else digest


def awaiting_code(definition: RecurringRecord) -> RecurringRecord:
    """Return an edited definition that whatever the code says next takes the place of."""
    is_of_calls = (definition.code_digest or "").startswith(_OF_CALLS)
    return attrs.evolve(definition, code_digest=f"{_OF_CALLS}{_RESET}" if is_of_calls else _RESET)


def is_declared_once(definition: RecurringRecord) -> bool:
    """Tell whether a declaration in code wrote it, whoever edited it since."""
    if definition.origin == "code":
        return True
    digest = definition.code_digest
    return definition.origin == "operator" and digest is not None and not digest.startswith(_OF_CALLS)


def job_of(record: RecurringRecord, job_id: str, instant: int, now: int, reason: str) -> NewJob:
    """Return a job of the definition, for a nominal instant."""
    return NewJob(
        job_id, record.task, record.arguments, record.serializer, record.queue, record.priority,
        State.ENQUEUED, now, None, instant, reason, record.tags, record.timeout_seconds, record.retry,
        record.id,
    )  # fmt: skip
