"""The line of jobs that wait for a limit's key: their order, the place of a job, about when it starts.

Jobs with the same keys wait in one lane, in order of priority and age, and the lanes take turns. So the line
is the first job of each lane, then the second of each, and so on. A claim may deviate from it: it begins at
the lane where the previous claim ended, and passes over lanes that another of their keys holds. A place is
therefore exact within one lane, and an approximation among several.

Pure functions; a storage supplies the lanes and counts their jobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs

from firelock.limits.numbers import LimitNumbers

LINE_LANES = 1_000
"""Lanes of one key that a line is made of."""
LINE_LENGTH = 10_000
"""Places that are counted."""

NEVER = math.inf
"""The estimate for a key that is paused, or has a number of 0."""

CountJobs = Callable[[Sequence[int], int], Sequence[int]]
"""Return how many jobs wait in each of these lanes, given by their index, up to a maximum."""


@attrs.frozen
class Spot:
    """One place in a line: the index of its lane, and how many jobs of that lane come before."""

    lane: int
    rank: int


def spots(count: CountJobs, lanes: int, after: int, limit: int) -> list[Spot]:
    """Return the places from `after` on: at most `limit`, and none after `LINE_LENGTH`."""
    until = min(after + limit, LINE_LENGTH)
    if after >= until or not lanes:
        return []
    lengths = _lengths(count, lanes, until, until)
    found: list[Spot] = []
    passed, rank, longer = 0, 0, list(range(lanes))
    while passed < until:
        longer = [lane for lane in longer if lengths[lane] > rank]
        if not longer:
            break
        turns = longer[max(0, after - passed) : until - passed]
        found += [Spot(lane, rank) for lane in turns]
        passed, rank = passed + len(longer), rank + 1
    return found


def parts_of(found: Sequence[Spot]) -> dict[int, tuple[int, int]]:
    """Return what to read of each lane: how many jobs to leave out, and how many to read."""
    parts: dict[int, tuple[int, int]] = {}
    for spot in found:
        first, number = parts.get(spot.lane, (spot.rank, 0))
        parts[spot.lane] = first, number + 1
    return parts


def in_turns(found: Sequence[Spot], ids: Mapping[int, Sequence[str]]) -> tuple[str, ...]:
    """Return the ids that were read from the lanes, in the order of the line."""
    left = {lane: iter(some) for lane, some in ids.items()}
    read = (next(left[spot.lane], None) for spot in found)
    return tuple(id for id in read if id is not None)  # jobs may have started meanwhile


def place_of(count: CountJobs, lanes: int, spot: Spot) -> int:
    """Return how many jobs of the line come before this place, `LINE_LENGTH` at most."""
    if spot.rank >= LINE_LENGTH:
        return LINE_LENGTH
    lengths = _lengths(count, lanes, LINE_LENGTH, spot.rank + 1)
    before = sum(min(length, spot.rank) for length in lengths)
    before += sum(length > spot.rank for length in lengths[: spot.lane])
    return min(before, LINE_LENGTH)


def _lengths(count: CountJobs, lanes: int, wanted: int, deepest: int) -> list[int]:
    """Return the length of each lane, cut at the first depth that covers as many jobs as are wanted.

    All lanes are counted to the same depth, which doubles. So a count reads only a few times as many jobs as
    are wanted.
    """
    lengths = [0] * lanes
    longer, depth = list(range(lanes)), min(deepest, math.ceil(wanted / lanes))
    while longer:
        for lane, length in zip(longer, count(longer, depth), strict=True):
            lengths[lane] = length
        longer = [lane for lane in longer if lengths[lane] >= depth]
        if depth >= deepest or sum(lengths) >= wanted:
            break
        depth = min(deepest, 2 * depth)
    return lengths


def start_estimate(
    numbers: LimitNumbers,
    *,
    running: int,
    free_at: int,
    ahead: int,
    cost: int,
    run_time: float | None,
    now: int,
) -> float | None:
    """Return about when a key admits a job, in micros; `NEVER` before a person acts, None if it is unknown.

    Args:
        numbers: of the key.
        running: how many jobs hold it.
        free_at: up to when its rate has been used.
        ahead: how many jobs come before this one; they are assumed to be like it.
        cost: units of the rate that the start of the job costs.
        run_time: the duration of such a run, in micros; None if it is unknown.
        now: the storage's time, in micros.
    """
    if numbers.is_paused or numbers.concurrent == 0 or numbers.rate == 0:
        return NEVER
    starts_at = rate_opens(numbers, free_at=free_at, ahead=ahead, cost=cost, now=now)
    ends = ends_before(numbers, running=running, ahead=ahead)
    if ends and numbers.concurrent:
        if run_time is None:
            return None
        starts_at = max(starts_at, now + ends * run_time / numbers.concurrent)
    return starts_at


def start_bound(
    numbers: LimitNumbers,
    *,
    left: Sequence[float],
    free_at: int,
    ahead: int,
    cost: int,
    timeout: float | None,
    now: int,
) -> float | None:
    """Return when a key admits a job if all jobs in front run until their timeouts, in micros.

    `NEVER` before a person acts, None if jobs in front have no timeout.

    Args:
        numbers: of the key.
        left: for each job that holds it, how long its run lasts until its timeout, in micros.
        free_at: up to when its rate has been used.
        ahead: how many jobs come before this one.
        cost: units of the rate that the start of the job costs.
        timeout: of the jobs in front, in micros; None if one of them has none.
        now: the storage's time, in micros.
    """
    if numbers.is_paused or numbers.concurrent == 0 or numbers.rate == 0:
        return NEVER
    starts_at = rate_opens(numbers, free_at=free_at, ahead=ahead, cost=cost, now=now)
    if not ends_before(numbers, running=len(left), ahead=ahead) or numbers.concurrent is None:
        return starts_at
    if timeout is None:
        return None
    free = [0.0] * (numbers.concurrent - len(left))
    ends = sorted([*free, *left])[-numbers.concurrent :]  # the first ends make no room if too many hold it
    rounds, place = divmod(ahead, numbers.concurrent)
    return max(starts_at, now + ends[place] + rounds * timeout)


def room_after(ends: Sequence[float], concurrent: int | None) -> float:
    """Return when a key has room for one more job if earlier jobs end by these times, in micros.

    Args:
        ends: the latest end of each run that holds the key or comes before the job.
        concurrent: how many jobs may hold the key; None for any number.
    """
    if concurrent is None or len(ends) < concurrent:
        return -math.inf
    return sorted(ends)[-concurrent] if concurrent else NEVER


def rate_opens(numbers: LimitNumbers, *, free_at: int, ahead: int, cost: int, now: int) -> float:
    """Return when the rate of a key admits a job with so many in front of it, in micros; at least `now`."""
    starts_at = max(float(now), numbers.opens_at(free_at, cost))
    if not numbers.interval:
        return starts_at
    used = max(free_at, now) + ahead * cost * numbers.interval
    return max(starts_at, numbers.opens_at(used, cost))


def ends_before(numbers: LimitNumbers, *, running: int, ahead: int) -> int:
    """Return how many runs must end before a key has room for a job with so many in front of it."""
    if numbers.concurrent is None:
        return 0
    return max(0, ahead + 1 - max(0, numbers.concurrent - running))
