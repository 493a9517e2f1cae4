"""How one attempt ended, before anybody decides what becomes of the job."""

from __future__ import annotations

from datetime import timedelta

import attrs

from firelock.job import ClaimedJob
from firelock.lifecycle import Transition

__all__ = ["JobCancelled", "Settled", "Snooze"]


@attrs.frozen
class Snooze:
    """Returned by a task: run me again after this span; the attempt does not count."""

    after: timedelta = attrs.field()
    reason: str = "snoozed"

    @after.validator
    def _is_positive(self, _: object, value: timedelta) -> None:
        if value < timedelta(0):
            message = f"Snooze({value}) lies in the past; pass a span of zero or more."
            raise ValueError(message)


class JobCancelled(BaseException):
    """Raised inside a task that was told to stop; let it pass."""


@attrs.frozen
class Settled:
    """A job whose attempt ended and whose end was accepted by the storage."""

    job: ClaimedJob
    transition: Transition
    duration: int  # of the run, in micros; 0 where it never started
