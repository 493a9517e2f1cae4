"""Which jobs, in which order: pages of lists and turns of queues, as pure functions of what is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest, nsmallest
from itertools import chain, islice
from typing import TypeVar
from zlib import crc32

from firelock.errors import StorageError
from firelock.values import JobFilter, JobRecord, Page, Record, State

__all__ = [
    "Place",
    "is_in_window",
    "is_pausing",
    "listed_at",
    "matches",
    "next_in_line",
    "paged",
    "read_cursor",
    "write_cursor",
]

Place = tuple[int, str]
"""Where a job stands in a list: its instant and its id."""

_T = TypeVar("_T")
_INSTANT = re.compile(r"-?[0-9]{1,18}")  # any of a `datetime`, and nothing that a database cannot hold


# ---- lists -----------------------------------------------------------------------------------------------


def matches(job: JobRecord, where: JobFilter) -> bool:
    """Tell whether every field of the filter that is set fits the job, its window of time apart."""
    return (
        where.state in (None, job.state)
        and where.task in (None, job.task)
        and where.queue in (None, job.queue)
        and (where.tag is None or where.tag in job.tags)
        and where.server in (None, job.server)
        and (where.fingerprint is None or where.fingerprint == (job.error and job.error.fingerprint))
        and where.recurring_id in (None, job.recurring_id)
        and (where.id_prefix is None or job.id.startswith(where.id_prefix))
        and (where.parent_id is None or any(where.parent_id == edge.parent_id for edge in job.parents))
        and where.is_retrying in (None, job.is_retrying)
        and (not where.by_due or job.state is State.SCHEDULED)
    )


def is_in_window(job: JobRecord, where: JobFilter) -> bool:
    """Tell whether the job stands within the filter's window of time."""
    at = listed_at(job, where)
    return (where.since is None or where.since <= at) and (where.until is None or at < where.until)


def listed_at(job: JobRecord, where: JobFilter) -> int:
    """Return the instant at which the job, which matches the filter, stands in its list."""
    if where.by_due and job.due_at is not None:
        return job.due_at
    return job.created_at if where.state is None else job.changed_at


def write_cursor(place: Place, where: JobFilter, *, oldest_first: bool) -> str:
    """Return the cursor that opens the page behind this place, for one filter and direction."""
    return f"{_seal(where, oldest_first)}.{place[0]}.{place[1]}"


def read_cursor(cursor: str, where: JobFilter, *, oldest_first: bool) -> Place:
    """Return the place that a page ended with.

    Raises:
        StorageError: no page of this filter and direction gave the cursor.
    """
    owner, _, place = cursor.partition(".")
    time, _, id = place.partition(".")
    if owner != _seal(where, oldest_first) or not _INSTANT.fullmatch(time) or not id:
        message = (
            f"Cursor {cursor!r} belongs to no page of this filter and direction. Start without a cursor."
        )
        raise StorageError(message)
    return int(time), id


def _seal(where: JobFilter, oldest_first: bool) -> str:
    return f"{crc32(repr((where, oldest_first)).encode(errors='backslashreplace')):08x}"


def paged(
    jobs: Iterable[JobRecord], where: JobFilter, *, limit: int, cursor: str | None, oldest_first: bool
) -> Page:
    """Return the page that `Storage.find` promises, out of jobs in any order; costs a look at each."""
    behind = None if cursor is None else read_cursor(cursor, where, oldest_first=oldest_first)
    wanted = (job for job in jobs if matches(job, where) and is_in_window(job, where))
    places = ((listed_at(job, where), job.id, job) for job in wanted)
    if oldest_first:
        rest = (place for place in places if behind is None or place[:2] > behind)
        found = nsmallest(limit + 1, rest, key=lambda place: place[:2])
    else:
        rest = (place for place in places if behind is None or place[:2] < behind)
        found = nlargest(limit + 1, rest, key=lambda place: place[:2])
    shown = found[:limit]
    has_more = bool(shown) and len(found) > limit
    following = write_cursor(shown[-1][:2], where, oldest_first=oldest_first) if has_more else None
    return Page([job for _, _, job in shown], following)


# ---- queues ----------------------------------------------------------------------------------------------


def is_pausing(settings: Record | None) -> bool:
    """Tell whether the record of a queue (kind "queue", key its name) says that it is paused."""
    value = json.loads(settings.value) if settings else None
    return isinstance(value, dict) and value.get("paused") is True


def next_in_line(
    lines: Mapping[str, Iterable[_T]], queues: Sequence[str] | None, limit: int, *, served: str = ""
) -> list[_T]:
    """Return up to `limit` of those who wait, as `Storage.claim` takes them.

    Args:
        lines: who waits in each queue, the first one first; paused queues are left out.
        queues: taken one after another; None takes one of each in turn.
        limit: how many at most.
        served: the queue whose turn it was last, where all take turns: it begins with the one behind.
    """
    if queues is not None:
        return list(islice(chain.from_iterable(lines.get(name, ()) for name in dict.fromkeys(queues)), limit))
    names = sorted(lines, key=lambda name: (name <= served, name))
    turns = [iter(lines[name]) for name in names]
    taken: list[_T] = []
    while turns and len(taken) < limit:
        in_turn = [(turn, one) for turn in turns if (one := next(turn, _NOBODY)) is not _NOBODY]
        turns = [turn for turn, _ in in_turn]
        taken += [one for _, one in in_turn]  # type: ignore[misc]  # nobody was left out above
    return taken[:limit]


_NOBODY = object()
