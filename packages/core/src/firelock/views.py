"""What a handle shows of a job's life: the contract's values with aware datetimes in place of micros."""

from __future__ import annotations

from datetime import datetime
from typing import overload

import attrs

from firelock.clock import from_micros
from firelock.values import Attempt, ErrorInfo, HistoryEntry, LogLine, Progress, State

__all__ = ["FailedAttempt", "JobLogLine", "JobProgress", "JobStep", "as_datetime"]


@overload
def as_datetime(instant: int) -> datetime: ...
@overload
def as_datetime(instant: int | None) -> datetime | None: ...
def as_datetime(instant: int | None) -> datetime | None:
    """Return micros as an aware datetime in UTC; None stays None."""
    return None if instant is None else from_micros(instant)


@attrs.frozen
class JobStep:
    """One step of a job's life."""

    state: State
    at: datetime
    reason: str | None
    attempt: int | None  # set where the step ends an attempt, with the three below
    claimed_at: datetime | None
    started_at: datetime | None
    server: str | None
    elided: int  # above 0: this step stands for that many left out here
    due_at: datetime | None  # where somebody took a scheduled job away: when it would have been due

    @classmethod
    def of(cls, entry: HistoryEntry) -> JobStep:
        """Return the step of an entry."""
        return cls(
            entry.state, as_datetime(entry.at), entry.reason, entry.attempt, as_datetime(entry.claimed_at),
            as_datetime(entry.started_at), entry.server, entry.elided,
            as_datetime(entry.due_at),
        )  # fmt: skip


@attrs.frozen
class FailedAttempt:
    """A failed attempt with its traceback."""

    attempt: int
    at: datetime
    error: ErrorInfo

    @classmethod
    def of(cls, attempt: Attempt) -> FailedAttempt:
        """Return the view of a stored attempt."""
        return cls(attempt.attempt, as_datetime(attempt.at), attempt.error)


@attrs.frozen
class JobLogLine:
    """One line that a job logged."""

    number: int  # ascends within the job; the page cursor
    at: datetime
    level: str
    text: str
    attempt: int

    @classmethod
    def of(cls, line: LogLine) -> JobLogLine:
        """Return the view of a stored line."""
        return cls(line.number, as_datetime(line.at), line.level, line.text, line.attempt)


@attrs.frozen
class JobProgress:
    """How far a running job says it is."""

    done: float
    total: float
    at: datetime
    message: str | None

    @classmethod
    def of(cls, progress: Progress) -> JobProgress:
        """Return the view of a stored progress."""
        return cls(progress.done, progress.total, as_datetime(progress.at), progress.message)
