"""What makes a job a batch, and how far a batch is."""

from __future__ import annotations

import attrs

from firelock.model.state import State


@attrs.frozen
class BatchRules:
    """What makes a job a batch: it has no task, is never run, and ends when no member of it can go on."""

    name: str  # for people
    fails_fast: bool = False  # the first failure stops the rest
    keeps: tuple[int | None, int | None, int | None] = (None, None, None)
    """How long it stays in micros, once it has succeeded, failed or is deleted; None for ever."""

    def expiry(self, state: State, at: int) -> int | None:
        """Return when it may be pruned if it ends so at this instant."""
        keep = self.keeps[_ENDS.index(state)]
        return None if keep is None else at + keep


_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)


BATCH_TASK = "firelock:batch"
"""What stands where a batch, which has no task, would have its name."""


@attrs.frozen
class Tally:
    """How far a batch is, all of one instant."""

    total: int = 0  # members; an inner batch is one
    active: int = 0  # that may still move by themselves, or that run although they were deleted
    waiting: int = 0  # that wait for another member
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0
    is_held: bool = False  # while it is filled
    is_shut: bool = False  # what it is after has not ended
    is_cancelled: bool = False  # for good
    is_stopping: bool = False  # a member has failed, and the rest is stopped therefore

    @property
    def ended(self) -> int:
        """How many members have succeeded, failed or were deleted."""
        return self.succeeded + self.failed + self.deleted

    @property
    def progress(self) -> float:
        """How much of it has ended, from 0 to 1; falls by adding and by requeue alone."""
        return self.ended / self.total if self.total else 1.0
