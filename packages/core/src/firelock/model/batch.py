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
class BatchCounts:
    """How far a batch is, all at one time: its own members are counted, not those of batches within it."""

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
    batches: int = 0  # how many of its members are batches

    @property
    def ended(self) -> int:
        """How many members have succeeded, failed or were deleted."""
        return self.succeeded + self.failed + self.deleted

    @property
    def progress(self) -> float:
        """How much of it has ended, from 0 to 1; falls by adding and by requeue alone."""
        return self.ended / self.total if self.total else 1.0


@attrs.frozen
class DeepBatchCounts:
    """How far a batch is together with all batches within it: their jobs are counted, batches are not.

    It is read batch by batch, so it is not the state at one time: while jobs run, the numbers may be off by
    those that moved meanwhile.
    """

    total: int  # jobs
    active: int  # that may still move by themselves, or that run although they were deleted
    waiting: int  # that wait for another member
    succeeded: int
    failed: int
    deleted: int
    batches: int  # batches within it that were read
    is_cut: bool  # more batches are within it than were to be read; each of these counts as one job

    @property
    def ended(self) -> int:
        """How many jobs have succeeded, failed or were deleted."""
        return self.succeeded + self.failed + self.deleted

    @property
    def progress(self) -> float:
        """How much of it has ended, from 0 to 1."""
        return min(1.0, self.ended / self.total) if self.total else 1.0
