"""How one attempt ended, before anybody decides what becomes of the job."""

from __future__ import annotations

from datetime import timedelta

import attrs

from firelock.job import ClaimedJob
from firelock.lifecycle import Transition
from firelock.words import printable

__all__ = ["JobCancelled", "Settled", "Snooze"]


_LONGEST = timedelta(days=365)


def _to_span(value: timedelta | float) -> timedelta:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= _LONGEST.total_seconds()
    ):
        return timedelta(seconds=value)
    if not isinstance(value, timedelta) or not timedelta(0) <= value <= _LONGEST:
        message = f"Snooze({value!r}): pass a timedelta, or seconds, from 0 to 365 days."
        raise ValueError(message)
    return value


@attrs.frozen
class Snooze:
    """Returned by a task: run me again after this span; the attempt does not count.

    Raises:
        ValueError: the span is negative, above a year or none.
    """

    after: timedelta = attrs.field(converter=_to_span)  # a number is seconds
    reason: str = attrs.field(default="snoozed", converter=printable)


class JobCancelled(BaseException):
    """Raised inside a task that was told to stop; let it pass."""


@attrs.frozen
class Settled:
    """A job whose attempt ended and whose end was accepted by the storage."""

    job: ClaimedJob
    transition: Transition
    duration: int  # of the run, in micros; 0 where it never started
