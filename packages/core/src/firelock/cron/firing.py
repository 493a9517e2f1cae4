"""Which instants a recurring job owes, given the one that was due and the present."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

import attrs

from firelock.cron.options import Misfire, require_instant, require_span
from firelock.cron.schedule import Schedule

__all__ = ["Firing", "due_instants"]

_SECOND = timedelta(seconds=1)
_MICRO = timedelta(microseconds=1)
_GRACE = timedelta(seconds=60)
_LONGEST_GRACE = timedelta(hours=1)
_FIRST_LOOK_BACK = timedelta(minutes=1)


@attrs.frozen
class Firing:
    """What to run now and when to look again."""

    instants: list[datetime]  # nominal instants to run, in order; each becomes one job
    dropped: int  # instants that passed and get no run
    next_at: datetime | None  # the first instant after now; None when none ever comes


def due_instants(
    schedule: Schedule,
    *,
    due: datetime,
    now: datetime,
    since: datetime | None = None,
    grace: timedelta = _GRACE,
) -> Firing:
    """Return the instants to run from the stored `due` up to `now`; costs by what runs, not by the downtime.

    An instant at most `grace` late is no misfire. If none is later than that, all of them run. Otherwise the
    policy decides: `once` runs only the latest instant up to now; `all` runs those within the grace and the
    newest `misfire_limit` of the late ones; `skip` runs those within the grace. `due` counts as an instant,
    even if the schedule has changed since it was stored; of the schedule's own those after `since` count,
    when it became what it is. Nothing runs while `due` is still ahead.

    Raises:
        ScheduleError: an instant is not aware, or the grace is negative or above one hour.
    """
    due, now = require_instant("due", due), require_instant("now", now)
    require_span("grace", grace, low=timedelta(0), high=_LONGEST_GRACE)
    if due > now:
        return Firing([], 0, due)
    start = due if since is None else min(max(due, require_instant("since", since)), now)
    total = 1 + schedule.count(start, now)
    on_time_from = now - grace
    if due >= on_time_from:
        wanted = total
    else:
        wanted = _wanted(schedule, schedule.count(max(start, on_time_from - _MICRO), now), total)
    return Firing(_newest(schedule, wanted, due, start, now), total - wanted, schedule.next_after(now))


def _wanted(schedule: Schedule, on_time: int, total: int) -> int:
    match schedule.misfire:
        case Misfire.ONCE:
            return 1
        case Misfire.ALL:
            return min(total, on_time + schedule.misfire_limit)
        case Misfire.SKIP:
            return on_time
        case _:
            assert_never(schedule.misfire)


def _newest(schedule: Schedule, wanted: int, due: datetime, start: datetime, now: datetime) -> list[datetime]:
    """Return the last instants up to now, so many, in order: `due`, and the schedule's after `start`."""
    if wanted == 0:
        return []
    instants: list[datetime] = []
    if schedule.count(start, now) < wanted:
        instants.append(due)
    else:
        start = _start_of(schedule, wanted, start, now)
    while (instant := schedule.next_after(start)) is not None and instant <= now:
        instants.append(instant)
        start = instant
    return instants


def _start_of(schedule: Schedule, wanted: int, first: datetime, now: datetime) -> datetime:
    """Return a moment, `first` or later, after which exactly `wanted` instants come up to now.

    At most one instant comes a second, so that moving back by seconds meets every count.
    """
    span = _FIRST_LOOK_BACK
    while now - span > first and schedule.count(now - span, now) < wanted:
        span *= 4
    few, enough = 0, min(span, now - first) // _SECOND + 1
    while enough - few > 1:
        middle = (few + enough) // 2
        if schedule.count(now - middle * _SECOND, now) < wanted:
            few = middle
        else:
            enough = middle
    return max(first, now - enough * _SECOND)
