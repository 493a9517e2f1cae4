"""Checks of open batches that have not changed for a long time, whose counts must match their members."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from firelock.model.batch import BATCH_TASK, BatchCounts
from firelock.model.job import JobRecord
from firelock.model.state import FINAL_STATES, State
from firelock.storage import JobFilter, Storage, batches

LONG_STILL = 3_600 * 1_000_000
"""Microseconds since the last change of a batch or of a member, after which the batch is checked."""
_BATCHES, _MEMBERS, _PAGE = 20, 2_000, 500


@attrs.frozen
class StillBatch:
    """An open batch that has a problem and does not end without intervention."""

    id: str
    name: str
    counts: BatchCounts
    members: BatchCounts  # counts of the stored members, without the batch's own flags

    @property
    def is_miscounted(self) -> bool:
        """Whether the counts differ from the members.

        If they do not differ, no member can continue, but no server has ended the batch.
        """
        return _counts(self.counts) != _counts(self.members)


def find_still(storage: Storage, now: int) -> list[StillBatch]:
    """Return those of the 20 oldest open batches that have a problem.

    The search takes some round trips per batch that has not changed for an hour. The counts of a batch with
    more than 2,000 members are not checked.
    """
    where = JobFilter(state=State.AWAITING, task=BATCH_TASK, until=now - LONG_STILL)
    found = storage.find(where, limit=_BATCHES, oldest_first=True).jobs
    still = [job for job in found if _changed_at(storage, job.id) <= now - LONG_STILL]
    all_counts = storage.batch_counts([job.id for job in still])
    checked = (_checked(storage, *one) for one in zip(still, all_counts, strict=True))
    return [one for one in checked if one.is_miscounted or batches.end_of(one.counts) in FINAL_STATES]


def _changed_at(storage: Storage, batch_id: str) -> int:
    """Return when a member last changed its state; 0 if the batch has no members."""
    pages = [storage.find(JobFilter(state=state, batch_id=batch_id), limit=1) for state in State]
    return max((job.changed_at for page in pages for job in page.jobs), default=0)


def _checked(storage: Storage, job: JobRecord, counts: BatchCounts | None) -> StillBatch:
    counts = counts or BatchCounts()
    relations = job.relations
    name = relations.batch.name if relations is not None and relations.batch is not None else ""
    members = counts if counts.total > _MEMBERS else _recounted(_members(storage, job.id), counts)
    return StillBatch(job.id, name, counts, members)


def _members(storage: Storage, batch_id: str) -> Iterator[JobRecord]:
    cursor = None
    while True:
        page = storage.find(JobFilter(batch_id=batch_id), limit=_PAGE, cursor=cursor)
        yield from page.jobs
        cursor = page.cursor
        if cursor is None:
            return


def _recounted(members: Iterator[JobRecord], counts: BatchCounts) -> BatchCounts:
    """Return the counts of the members; members that wait for another member are not recounted."""
    ended = dict.fromkeys(FINAL_STATES, 0)
    total = moving = batches = 0
    for job in members:
        total += 1
        batches += job.is_batch
        moving += not job.is_final or job.is_stopping
        if job.is_final:
            ended[job.state] += 1
    return BatchCounts(
        total=total,
        active=moving - counts.waiting,
        waiting=counts.waiting,
        succeeded=ended[State.SUCCEEDED],
        failed=ended[State.FAILED],
        deleted=ended[State.DELETED],
        batches=batches,
    )


def _counts(counts: BatchCounts) -> tuple[int, ...]:
    return (
        counts.total, counts.active, counts.waiting, counts.succeeded, counts.failed, counts.deleted,
        counts.batches,
    )  # fmt: skip
