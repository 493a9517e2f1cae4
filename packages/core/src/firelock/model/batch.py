"""The definition and the counts of a batch."""

from __future__ import annotations

import attrs

from firelock.model.state import State


@attrs.frozen
class BatchRules:
    """The fields that make a job a batch. A batch has no task and never runs; it groups its members.

    A batch ends when none of its members can continue.
    """

    name: str  # a display name
    fails_fast: bool = False  # whether the first failure stops the remaining members
    keeps: tuple[int | None, int | None, int | None] = (None, None, None)
    """Microseconds for which the batch is kept after success, failure or deletion; None means forever."""

    def expiry(self, state: State, at: int) -> int | None:
        """Return the time from which a batch that ends now in this state may be pruned; None for never."""
        keep = self.keeps[_ENDS.index(state)]
        return None if keep is None else at + keep


_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)


BATCH_TASK = "firelock:batch"
"""The value of a batch's task name, because a batch has no task."""


@attrs.frozen
class BatchCounts:
    """The counts of a batch's own members at one point in time, without the members of inner batches."""

    total: int = 0  # number of members; an inner batch counts as one
    active: int = 0  # members that can still change state on their own, or were deleted but are still running
    waiting: int = 0  # members that wait for another member
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0
    is_held: bool = False  # whether its creator is still adding members
    is_unopened: bool = False  # whether it has not opened, because a job that it waits for has not ended
    is_cancelled: bool = False  # whether it was cancelled, which is permanent
    is_stopping: bool = False  # whether a member has failed, so that the remaining members are being stopped
    batches: int = 0  # members that are batches

    @property
    def ended(self) -> int:
        """The number of members that have succeeded, failed or were deleted."""
        return self.succeeded + self.failed + self.deleted

    @property
    def progress(self) -> float:
        """The share of members that have ended, 0 to 1; it falls only if members are added or requeued."""
        return self.ended / self.total if self.total else 1.0


@attrs.frozen
class DeepBatchCounts:
    """The number of jobs in a batch and all its inner batches; batches themselves are not counted.

    The batches are read one after another, so the counts do not describe a single point in time. While jobs
    run, the counts can be off by the number of jobs that changed during the reading.
    """

    total: int  # number of jobs
    active: int  # jobs that can still change state on their own, or were deleted but are still running
    waiting: int  # jobs that wait for another member
    succeeded: int
    failed: int
    deleted: int
    batches: int  # inner batches that were read
    is_cut: bool  # whether some inner batches were not read because of the maximum; each counts as one job

    @property
    def ended(self) -> int:
        """The number of jobs that have succeeded, failed or were deleted."""
        return self.succeeded + self.failed + self.deleted

    @property
    def progress(self) -> float:
        """The share of jobs that have ended, from 0 to 1."""
        return min(1.0, self.ended / self.total) if self.total else 1.0
