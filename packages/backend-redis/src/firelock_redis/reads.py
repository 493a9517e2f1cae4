"""What people read of single jobs, and the numbers over all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from firelock.storage import (
    Attempt,
    Counts,
    ErrorInfo,
    FailureGroup,
    HistoryEntry,
    JobFilter,
    JobRecord,
    State,
    selection,
)
from firelock_redis.database import Database
from firelock_redis.places import Query, first_places
from firelock_redis.rows import read_history, record_of, state_of

__all__ = [
    "Texts",
    "counts",
    "damaged_job",
    "errors",
    "failure_groups",
    "get",
    "history",
    "read_job",
    "read_texts",
]

Texts = tuple[str, str]
"""A job's record and payload as they are stored."""

_TOGETHER = 500
_GROUPED_LIMIT = 10_000
_COUNTED = (
    State.AWAITING,
    State.SCHEDULED,
    State.ENQUEUED,
    State.SUCCEEDED,
    State.FAILED,
    State.DELETED,
    State.PROCESSING,
)
# What reading a text that nobody wrote may raise.
_GARBAGE = (ValueError, LookupError, TypeError, RecursionError)


# ---- jobs ------------------------------------------------------------------------------------------------


def get(database: Database, ids: Sequence[str]) -> list[JobRecord | None]:
    """See `Storage.get`; one round trip for 500 of a partition's jobs, or for a megabyte."""
    found = read_texts(database, ids)
    jobs = {id: read_job(id, texts) or damaged_job(id, texts, 0) for id, texts in found.items()}
    return [jobs.get(id) for id in ids]


def read_texts(database: Database, ids: Iterable[str]) -> dict[str, Texts]:
    """Return the texts of the jobs that are stored."""
    found: dict[str, Texts] = {}
    by_partition: dict[int, list[str]] = {}
    for id in dict.fromkeys(ids):
        by_partition.setdefault(database.partitions.of(id), []).append(id)
    for partition, asked in by_partition.items():
        while asked:
            some = asked[:_TOGETHER]
            texts = database.run("get", partition, *some)
            pairs = list(zip(texts[::2], texts[1::2], strict=True))
            for id, (record, payload) in zip(some, pairs, strict=False):
                if record is not None:
                    found[id] = record, payload or ""
            asked = asked[len(pairs) :]  # noqa: PLW2901
    return found


def read_job(id: str, texts: Texts) -> JobRecord | None:
    """Return the job; None where its texts are not what was written."""
    try:
        return record_of(id, *texts)
    except _GARBAGE:
        return None


def damaged_job(id: str, texts: Texts, at: int) -> JobRecord:
    """Return what is shown of a job whose texts cannot be read; one in a state nobody knows has failed."""
    record, payload = texts
    head, _, arguments = payload.partition("\n")
    try:
        state = state_of(record[:1])
    except KeyError:
        state = State.FAILED
    reason = "what is stored of this job cannot be read"
    return JobRecord(
        id, head.partition("\t")[0], arguments, "", state, "", 0, at, reason=reason, changed_at=at
    )


# ---- one job ---------------------------------------------------------------------------------------------


def history(database: Database, job_id: str) -> list[HistoryEntry]:
    """See `Storage.history`."""
    texts = read_texts(database, [job_id]).get(job_id)
    if texts is None:
        return []
    record, payload = texts
    try:
        return read_history(record, int(payload.split("\t", 3)[2]))
    except _GARBAGE:
        return []


def errors(database: Database, job_id: str) -> list[Attempt]:
    """See `Storage.errors`."""
    lines = database.run("errors", database.partitions.of(job_id), job_id)
    return [attempt for line in lines if (attempt := _read_attempt(line)) is not None]


def _read_attempt(line: str) -> Attempt | None:
    number, _, body = line.partition("\t")
    try:
        at, *fields = json.loads(body)
        return Attempt(int(number), at, ErrorInfo(*fields))
    except _GARBAGE:
        return None


# ---- numbers ---------------------------------------------------------------------------------------------


def counts(database: Database) -> Counts:
    """See `Storage.counts`; one round trip for 400 queues of a partition."""
    by_state: dict[State, int] = {}
    by_queue: dict[str, dict[State, int]] = {}
    for partition in range(database.partitions.number):
        for queue, *numbers in _counted(database, partition):
            for state, number in zip(_COUNTED, numbers, strict=True):
                if number:
                    by_state[state] = by_state.get(state, 0) + number
                    states = by_queue.setdefault(queue, {})
                    states[state] = states.get(state, 0) + number
    return Counts(by_state, by_queue)


def _counted(database: Database, partition: int) -> Iterator[list[Any]]:
    later, *counted = database.run("counts", partition)
    yield from counted
    while later:
        later, *counted = database.run("counts", partition, *later)
        yield from counted


def failure_groups(database: Database, limit: int) -> list[FailureGroup]:
    """See `Storage.failure_groups`; one round trip for 500 failed jobs, besides finding them."""
    query = Query(JobFilter(state=State.FAILED), None, is_oldest_first=False)
    places, _ = first_places(database, query, _GROUPED_LIMIT)
    sizes: Counter[str] = Counter()
    newest: dict[str, selection.Place] = {}
    for some, groups in _grouped(database, places[:_GROUPED_LIMIT]):
        for mark, size, first in groups:
            sizes[mark] += size
            newest[mark] = max(some[first], newest.get(mark, some[first]))
    largest = sorted(sizes, key=lambda mark: (-sizes[mark], mark))[: max(0, limit)]
    samples = get(database, [newest[mark][1] for mark in largest])
    return [
        FailureGroup(mark, job.error.type, job.error.message, job.task, sizes[mark], newest[mark][0], job.id)
        for mark, job in zip(largest, samples, strict=True)
        if job is not None and job.error is not None
    ]


def _grouped(
    database: Database, places: Sequence[selection.Place]
) -> Iterator[tuple[list[selection.Place], list[Any]]]:
    """Yield places, newest first, and for each fingerprint among them how many and the first one's number."""
    by_partition: dict[int, list[selection.Place]] = {}
    for place in places:
        by_partition.setdefault(database.partitions.of(place[1]), []).append(place)
    for partition, here in by_partition.items():
        for start in range(0, len(here), _TOGETHER):
            some = here[start : start + _TOGETHER]
            yield some, database.run("failures", partition, *(id for _, id in some))
