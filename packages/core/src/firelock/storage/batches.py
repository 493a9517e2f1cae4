"""How a batch is counted: what each member adds to its counts, and what the sum says.

A storage writes one `Share` with each change of a member, after less before, in the step of that change, and
adds them up when it folds: nobody locks a batch to end a job.
"""

from __future__ import annotations

from typing import NamedTuple

from firelock.model.batch import BatchCounts
from firelock.model.job import JobRecord
from firelock.model.lifecycle import batch_end
from firelock.model.state import State


class Share(NamedTuple):
    """What a member adds to the counts of its batch, or by how much that changes."""

    total: int = 0
    active: int = 0
    waiting: int = 0
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0
    batches: int = 0
    failures: int = 0  # members that have failed by this change; a requeue takes none back

    def less(self, before: Share) -> Share:
        """Return the change from the other one to this one."""
        return Share(*(one - other for one, other in zip(self, before, strict=True)))

    def plus(self, other: Share) -> Share:
        """Return both together."""
        return Share(*(one + another for one, another in zip(self, other, strict=True)))


NOTHING = Share()


def share_of(job: JobRecord, *, is_related: bool, is_releasing: bool, is_cancelled: bool = False) -> Share:
    """Return what the member adds as it is now.

    Args:
        job: the member.
        is_tied: a tie to a parent is not decided.
        is_releasing: it has ended, and what waits for it is not decided yet.
        is_cancelled: it is a batch, and cancelled.
    """
    state = job.state
    waits = state is State.AWAITING and is_related and job.waits_for is None and not is_cancelled
    is_active = (not job.is_final and not waits) or is_releasing or job.is_stopping
    return Share(
        1, int(is_active), int(waits), int(state is State.SUCCEEDED), int(state is State.FAILED),
        int(state is State.DELETED), int(job.is_batch),
    )  # fmt: skip


def changed(before: Share, after: Share) -> Share:
    """Return what a change of a member is written as; a failure that is new stops those that fail fast."""
    return after.less(before)._replace(failures=int(after.failed > before.failed))


def folded(counts: BatchCounts, known: Share, *, fails_fast: bool) -> BatchCounts:
    """Return the counts with the sum of what has become known."""
    return BatchCounts(
        total=counts.total + known.total,
        active=counts.active + known.active,
        waiting=counts.waiting + known.waiting,
        succeeded=counts.succeeded + known.succeeded,
        failed=counts.failed + known.failed,
        deleted=counts.deleted + known.deleted,
        is_held=counts.is_held,
        is_shut=counts.is_shut,
        is_cancelled=counts.is_cancelled,
        is_stopping=counts.is_stopping or (fails_fast and known.failures > 0),
        batches=counts.batches + known.batches,
    )


def end_of(counts: BatchCounts) -> State:
    """Return the state of a batch with this counts: awaiting while it is open."""
    if counts.is_cancelled or not (counts.is_held or counts.is_shut):
        ended = batch_end(
            active=counts.active, waiting=counts.waiting, failed=counts.failed,
            is_cancelled=counts.is_cancelled, is_stopping=counts.is_stopping,
        )  # fmt: skip
        return State.AWAITING if ended is None else ended
    return State.AWAITING
