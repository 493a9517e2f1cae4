"""The counts of a batch: each member's share in them, and the batch's state, which follows from their sum.

In the operation that changes a member, a storage records the change of the member's `Share`: the new share
minus the old one. Later, it adds the recorded changes to the counts. Therefore a job can end without locking
its batch.
"""

from __future__ import annotations

from typing import NamedTuple

from firelock.model.batch import BatchCounts
from firelock.model.job import JobRecord
from firelock.model.lifecycle import batch_end
from firelock.model.state import State


class Share(NamedTuple):
    """The numbers that a member adds to the counts of its batch, or a change in these numbers."""

    total: int = 0
    active: int = 0
    waiting: int = 0
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0
    batches: int = 0
    failures: int = 0  # number of members that failed in this change; not reduced by a requeue

    def less(self, before: Share) -> Share:
        """Return the change from `before` to this share."""
        return Share(*(one - other for one, other in zip(self, before, strict=True)))

    def plus(self, other: Share) -> Share:
        """Return the sum of both shares."""
        return Share(*(one + another for one, another in zip(self, other, strict=True)))


NOTHING = Share()


def share_of(job: JobRecord, *, is_related: bool, is_releasing: bool, is_cancelled: bool = False) -> Share:
    """Return the share of a member in its current state.

    Args:
        job: the member.
        is_related: whether an edge to one of its parents is undecided.
        is_releasing: whether the member has ended but the jobs that wait for it have not been moved yet.
        is_cancelled: whether the member is a cancelled batch.
    """
    state = job.state
    waits = state is State.AWAITING and is_related and job.waits_for is None and not is_cancelled
    is_active = (not job.is_final and not waits) or is_releasing or job.is_stopping
    return Share(
        1, int(is_active), int(waits), int(state is State.SUCCEEDED), int(state is State.FAILED),
        int(state is State.DELETED), int(job.is_batch),
    )  # fmt: skip


def changed(before: Share, after: Share) -> Share:
    """Return the share that is recorded when a member changes, including a new failure."""
    return after.less(before)._replace(failures=int(after.failed > before.failed))


def folded(counts: BatchCounts, known: Share, *, fails_fast: bool) -> BatchCounts:
    """Return the counts after adding the sum of the recorded shares."""
    return BatchCounts(
        total=counts.total + known.total,
        active=counts.active + known.active,
        waiting=counts.waiting + known.waiting,
        succeeded=counts.succeeded + known.succeeded,
        failed=counts.failed + known.failed,
        deleted=counts.deleted + known.deleted,
        is_held=counts.is_held,
        is_unopened=counts.is_unopened,
        is_cancelled=counts.is_cancelled,
        is_stopping=counts.is_stopping or (fails_fast and known.failures > 0),
        batches=counts.batches + known.batches,
    )


def end_of(counts: BatchCounts) -> State:
    """Return the state of a batch with these counts; an open batch is awaiting."""
    if counts.is_cancelled or not (counts.is_held or counts.is_unopened):
        ended = batch_end(
            active=counts.active, waiting=counts.waiting, failed=counts.failed,
            is_cancelled=counts.is_cancelled, is_stopping=counts.is_stopping,
        )  # fmt: skip
        return State.AWAITING if ended is None else ended
    return State.AWAITING
