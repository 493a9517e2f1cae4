"""When recurring jobs fire within a day from this hour on, in buckets: a lane that shows what piles up."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from firelock import ScheduleError

if TYPE_CHECKING:
    from firelock import RecurringJob

__all__ = ["Bucket", "Lane", "lane_of"]

_BUCKET = timedelta(minutes=10)
_DAY = timedelta(hours=24)
_INSTANTS = 1_000
_OFTEN = 144  # who fires more often within a day is in every bucket, and is told apart
_NAMED = 4


@attrs.frozen
class Bucket:
    """Ten minutes."""

    starts_at: datetime
    count: int  # how many jobs are made in it
    ids: tuple[str, ...]  # of some of the definitions that fire in it
    more: int  # further ones


@attrs.frozen
class Lane:
    """A day from the hour on that has begun."""

    buckets: tuple[Bucket, ...]
    instants: int
    often: int  # definitions that fire too often to be drawn
    left_out: int  # definitions that were not drawn since there is no more room

    @property
    def most(self) -> int:
        """The largest number of jobs in a bucket."""
        return max((bucket.count for bucket in self.buckets), default=0)

    def piles(self, limit: int = 5) -> list[Bucket]:
        """Return the fullest buckets of two jobs or more, fullest first."""
        piled = sorted((one for one in self.buckets if one.count > 1), key=lambda one: -one.count)
        return piled[:limit]


def lane_of(jobs: Iterable[RecurringJob], now: datetime) -> Lane:
    """Return when these fire, at most a thousand instants of them; paused ones do not."""
    start = now.replace(minute=0, second=0, microsecond=0)
    fired: list[list[str]] = [[] for _ in range(_DAY // _BUCKET)]
    instants = often = left_out = 0
    for job in jobs:
        times = [] if job.is_paused else _times(job, now, start + _DAY, _INSTANTS - instants)
        if times is None:
            often += 1
        elif len(times) > _INSTANTS - instants:
            left_out += 1
        else:
            instants += len(times)
            for at in times:
                fired[(at - start) // _BUCKET].append(job.id)
    return Lane(
        tuple(_bucket(start + place * _BUCKET, ids) for place, ids in enumerate(fired)),
        instants, often, left_out,
    )  # fmt: skip


def _bucket(starts_at: datetime, ids: list[str]) -> Bucket:
    names = tuple(dict.fromkeys(ids))
    return Bucket(starts_at, len(ids), names[:_NAMED], max(len(names) - _NAMED, 0))


def _times(job: RecurringJob, now: datetime, until: datetime, room: int) -> list[datetime] | None:
    """Return the instants of a definition, one more than there is room at most; None for too many."""
    try:
        schedule = job.schedule
        if schedule.count(now, until) > _OFTEN:
            return None
        found: list[datetime] = []
        at = schedule.next_after(now)
        while at is not None and at < until and len(found) <= room:
            found.append(at)
            at = schedule.next_after(at)
    except ScheduleError:  # it cannot be read: its row says so
        return []
    return found
