"""Read a batch and its nested batches, one after another and in bounded pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from firelock.model.batch import BATCH_TASK, BatchCounts, DeepBatchCounts
from firelock.model.job import JobFilter, JobRecord
from firelock.model.state import State

if TYPE_CHECKING:
    from firelock.storage import Storage

_PAGE = 500


def pages_of(storage: Storage, where: JobFilter) -> Iterator[list[JobRecord]]:
    """Yield the matching jobs page by page, oldest first."""
    cursor = None
    while True:
        page = storage.find(where, limit=_PAGE, cursor=cursor, oldest_first=True)
        yield page.jobs
        cursor = page.cursor
        if cursor is None:
            return


def _inner_pages(
    storage: Storage, batch_id: str, number: int, after: JobRecord | None = None
) -> Iterator[list[JobRecord]]:
    """Yield the batches directly within a batch, page by page.

    Args:
        storage: the storage of the batches.
        batch_id: the outer batch.
        number: a lower bound for the number of batches directly within it; if 0, nothing is read. The search
            through the members of a large batch ends when this many are found.
        after: the batch after which to begin; None to begin with the first batch.
    """
    if not number:
        return
    since = None if after is None else after.created_at
    found = 0
    for page in pages_of(storage, JobFilter(batch_id=batch_id, task=BATCH_TASK, since=since)):
        found += len(page)
        wanted = [job for job in page if after is None or _place(job) > _place(after)]
        if wanted:
            yield wanted
        if after is None and found >= number:
            return


def _place(job: JobRecord) -> tuple[int, str]:
    return job.created_at, job.id


# ---- counts ----------------------------------------------------------------------------------------------


def deep_counts(
    storage: Storage, batch_id: str, counts: BatchCounts, limit: int | None = None
) -> DeepBatchCounts:
    """Return the counts of a batch and of all nested batches; see `Batch.counts`.

    Args:
        storage: the storage of the batches.
        batch_id: the batch.
        counts: the batch's own counts.
        limit: the maximum number of batches to read; None for all.
    """
    sums = Counter[str]()
    _add(sums, counts, 1)
    read, is_cut = 0, False
    for inner, its_counts in _batches_within(storage, batch_id, counts):
        if limit is not None and read >= limit:
            is_cut = True
            break
        read += 1
        _add(sums, its_counts, 1)
        _add(sums, _as_member(inner, its_counts), -1)
    return DeepBatchCounts(**{name: max(0, sums[name]) for name in _COUNTED}, batches=read, is_cut=is_cut)


_COUNTED = ("total", "active", "waiting", "succeeded", "failed", "deleted")


def _add(sums: Counter[str], counts: BatchCounts, sign: int) -> None:
    for name in _COUNTED:
        sums[name] += sign * getattr(counts, name)


def _as_member(inner: JobRecord, counts: BatchCounts) -> BatchCounts:
    """Return the counts that an inner batch, as one member, adds to the enclosing batch."""
    state = inner.state
    if inner.is_final:
        return BatchCounts(
            1, succeeded=int(state is State.SUCCEEDED), failed=int(state is State.FAILED),
            deleted=int(state is State.DELETED),
        )  # fmt: skip
    waits = bool(inner.parents) and counts.is_unopened and not counts.is_cancelled
    return BatchCounts(1, active=int(not waits), waiting=int(waits))


def _batches_within(
    storage: Storage, batch_id: str, counts: BatchCounts
) -> Iterator[tuple[JobRecord, BatchCounts]]:
    """Yield each nested batch, at any depth, with its counts; outer batches come first."""
    for page in _inner_pages(storage, batch_id, counts.batches):
        for inner, its_counts in zip(page, storage.batch_counts([job.id for job in page]), strict=True):
            if its_counts is not None:  # None if it was pruned in the meantime
                yield inner, its_counts
                yield from _batches_within(storage, inner.id, its_counts)


# ---- members ---------------------------------------------------------------------------------------------


def path_to(storage: Storage, batch_id: str, job_id: str, *, is_deep: bool) -> list[JobRecord] | None:
    """Return the path from a batch to a job within it, including the job; None if the batch has no such job.

    Args:
        storage: the storage of the jobs.
        batch_id: the outer batch.
        job_id: the job.
        is_deep: whether the job may be in a nested batch.
    """
    path: list[JobRecord] = []
    wanted: str | None = job_id
    while wanted is not None and wanted != batch_id:
        record = storage.get((wanted,))[0]
        if record is None or (path and not is_deep):
            return None
        path.insert(0, record)
        wanted = None if record.relations is None else record.relations.batch_id
    return path if path and wanted == batch_id else None


def walk_members(
    storage: Storage, batch_id: str, task: str | None, path: Sequence[JobRecord], batches: int
) -> Iterator[list[JobRecord]]:
    """Yield the members of a batch page by page, then those of each nested batch, in order.

    Args:
        storage: the storage of the jobs.
        batch_id: the batch.
        task: only jobs of this task; None for all.
        path: the path to the job after which to begin, from `path_to`; empty to begin with the first member.
        batches: the number of batches directly within it; 0 excludes them.
    """
    after = path[0] if path else None
    is_within = batches > 0 and after is not None and after.is_batch  # its own members were already read
    if is_within and after is not None and len(path) > 1:
        counts = storage.batch_counts([after.id])[0]
        yield from walk_members(storage, after.id, task, path[1:], counts.batches if counts else 0)
    if not is_within:
        since = None if after is None else after.created_at
        for page in pages_of(storage, JobFilter(batch_id=batch_id, task=task, since=since)):
            yield [job for job in page if after is None or _place(job) > _place(after)]
    for inner_page in _inner_pages(storage, batch_id, batches, after if is_within else None):
        all_counts = storage.batch_counts([inner.id for inner in inner_page])
        for inner, counts in zip(inner_page, all_counts, strict=True):
            if counts is not None and counts.total:  # otherwise it was pruned or has no members
                yield from walk_members(storage, inner.id, task, (), counts.batches)
