"""The line of jobs that wait for a limit's key: their order, positions and estimated start times.

Jobs with the same keys wait in one lane, ordered by priority and age, and the lanes take turns. Therefore the
line contains the first job of each lane, then the second job of each lane, and so on. A claim can deviate
from the line, because it begins at the lane where the previous claim ended, and skips lanes that are blocked
by another of their keys. A position is therefore exact if the key has one lane, and otherwise an
approximation.

All functions are pure; a storage supplies the lanes and counts their jobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs

from firelock.limits.settings import LimitSettings

LINE_LANES = 1_000
"""The maximum number of a key's lanes that a line includes."""
LINE_LENGTH = 10_000
"""The maximum number of places that are counted."""

NEVER = math.inf
"""The estimate for a key that is paused, or whose concurrency or rate is 0."""

CountJobs = Callable[[Sequence[int], int], Sequence[int]]
"""A function that returns the number of jobs that wait in each of these lanes (by index), up to a maximum."""


@attrs.frozen
class Spot:
    """A position in a line: the index of its lane, and the number of jobs before it in that lane."""

    lane: int
    rank: int


def spots(count: CountJobs, lanes: int, after: int, limit: int) -> list[Spot]:
    """Return at most `limit` positions, beginning with `after`, but none from `LINE_LENGTH` on."""
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
    """Return, for each lane, the number of jobs to skip and the number of jobs to read after them."""
    parts: dict[int, tuple[int, int]] = {}
    for spot in found:
        first, number = parts.get(spot.lane, (spot.rank, 0))
        parts[spot.lane] = first, number + 1
    return parts


def in_turns(found: Sequence[Spot], ids: Mapping[int, Sequence[str]]) -> tuple[str, ...]:
    """Return the ids that were read from the lanes, in the order of the line."""
    left = {lane: iter(some) for lane, some in ids.items()}
    read = (next(left[spot.lane], None) for spot in found)
    return tuple(id for id in read if id is not None)  # jobs can have started in the meantime


def place_of(count: CountJobs, lanes: int, spot: Spot) -> int:
    """Return the number of jobs before this position in the line, at most `LINE_LENGTH`."""
    if spot.rank >= LINE_LENGTH:
        return LINE_LENGTH
    lengths = _lengths(count, lanes, LINE_LENGTH, spot.rank + 1)
    before = sum(min(length, spot.rank) for length in lengths)
    before += sum(length > spot.rank for length in lengths[: spot.lane])
    return min(before, LINE_LENGTH)


def _lengths(count: CountJobs, lanes: int, wanted: int, deepest: int) -> list[int]:
    """Return the length of each lane, up to the first depth at which enough jobs are counted.

    All lanes are counted to the same depth, which is doubled until `wanted` jobs are counted. Therefore a
    count reads only a small multiple of `wanted` jobs.
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
    settings: LimitSettings,
    *,
    running: int,
    next_arrival_at: int,
    ahead: int,
    cost: int,
    run_time: float | None,
    now: int,
) -> float | None:
    """Return an estimate of the time when a key allows a job to start, in microseconds.

    The result is `NEVER` if a person must act first, and None if the time is unknown.

    Args:
        settings: the settings of the key.
        running: the number of jobs that hold the key.
        next_arrival_at: the time up to which its rate is used; see `LimitSettings.opens_at`.
        ahead: the number of jobs before this one; they are assumed to have the same cost and duration.
        cost: units of the rate that the start of the job uses.
        run_time: the duration of such a run, in microseconds; None if it is unknown.
        now: the storage's time, in microseconds.
    """
    if settings.is_paused or settings.concurrent == 0 or settings.rate == 0:
        return NEVER
    starts_at = rate_opens(settings, next_arrival_at=next_arrival_at, ahead=ahead, cost=cost, now=now)
    ends = ends_before(settings, running=running, ahead=ahead)
    if ends and settings.concurrent:
        if run_time is None:
            return None
        starts_at = max(starts_at, now + ends * run_time / settings.concurrent)
    return starts_at


def start_bound(
    settings: LimitSettings,
    *,
    left: Sequence[float],
    next_arrival_at: int,
    ahead: int,
    cost: int,
    timeout: float | None,
    now: int,
) -> float | None:
    """Return the time when a key allows a job to start if all jobs before it run until their timeouts.

    The result is `NEVER` if a person must act first, and None if a job before it has no timeout.

    Args:
        settings: the settings of the key.
        left: for each job that holds the key, the remaining time until the timeout of its run, in
            microseconds.
        next_arrival_at: the time up to which its rate is used; see `LimitSettings.opens_at`.
        ahead: the number of jobs before this one.
        cost: units of the rate that the start of the job uses.
        timeout: the timeout of the jobs before it, in microseconds; None if one of them has none.
        now: the storage's time, in microseconds.
    """
    if settings.is_paused or settings.concurrent == 0 or settings.rate == 0:
        return NEVER
    starts_at = rate_opens(settings, next_arrival_at=next_arrival_at, ahead=ahead, cost=cost, now=now)
    if not ends_before(settings, running=len(left), ahead=ahead) or settings.concurrent is None:
        return starts_at
    if timeout is None:
        return None
    free = [0.0] * (settings.concurrent - len(left))
    # If more jobs hold the key than its concurrency allows, the first jobs to end do not allow another start.
    ends = sorted([*free, *left])[-settings.concurrent :]
    rounds, place = divmod(ahead, settings.concurrent)
    return max(starts_at, now + ends[place] + rounds * timeout)


def room_after(ends: Sequence[float], concurrent: int | None) -> float:
    """Return the time when a key allows one more job to start if earlier jobs end by these times.

    Args:
        ends: the latest possible end time of each run that holds the key or comes before the job, in
            microseconds.
        concurrent: the number of jobs that may hold the key; None for any number.
    """
    if concurrent is None or len(ends) < concurrent:
        return -math.inf
    return sorted(ends)[-concurrent] if concurrent else NEVER


def rate_opens(settings: LimitSettings, *, next_arrival_at: int, ahead: int, cost: int, now: int) -> float:
    """Return the time, not before `now`, when the rate of a key allows a job to start, in microseconds.

    `ahead` is the number of jobs before it.
    """
    starts_at = max(float(now), settings.opens_at(next_arrival_at, cost))
    if not settings.interval:
        return starts_at
    after_others = max(next_arrival_at, now) + ahead * cost * settings.interval
    return max(starts_at, settings.opens_at(after_others, cost))


def ends_before(settings: LimitSettings, *, running: int, ahead: int) -> int:
    """Return the number of runs that must end before a key allows a job to start after `ahead` others."""
    if settings.concurrent is None:
        return 0
    return max(0, ahead + 1 - max(0, settings.concurrent - running))
