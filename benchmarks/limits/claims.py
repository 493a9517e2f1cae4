"""Measure claims without servers: behind jobs of a full key, and while an old snapshot is open."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from benchmarks import churn, places
from benchmarks.claimer import Claimer
from benchmarks.limits import tasks
from benchmarks.pairs import Row, ratio
from benchmarks.plan import Plan

IN_FRONT = 200_000
LANE = 40_000
CLAIM = 10
REPEATS = 60


def behind_full_key(plan: Plan) -> Iterator[Row]:
    """Yield the cost of claiming other jobs behind many jobs of a full key, and without those."""
    repeats = max(plan.pairs, REPEATS if plan.scale >= 1 else 5)
    for others in ("others", "keyless"):
        with (
            places.opened(plan.storage, plan.folder / f"behind-{others}") as crowded,
            places.opened(plan.storage, plan.folder / f"alone-{others}") as alone,
            places.client(crowded.url) as behind,
            places.client(alone.url) as free,
        ):
            declared = [tasks.declare(fire) for fire in (behind, free)]
            for fire in (behind, free):
                fire.limits.set("full", concurrent=4)
                fire.limits.set("others", concurrent=1_000)
            full, one, other = Claimer(behind), Claimer(behind), Claimer(free)
            declared[0]["full"].enqueue_many(tasks.calls("full", plan.scaled(IN_FRONT)))
            if len(full.claim(CLAIM)) != 4:
                message = f"{len(full.held)} jobs hold a key of 4"
                raise RuntimeError(message)
            for claimer, declared_tasks in zip((one, other), declared, strict=True):
                declared_tasks[others].enqueue_many(tasks.calls(others, CLAIM * (repeats + 10)))
                for _ in range(5):
                    claimer.timed(CLAIM)
            taken: tuple[list[float], list[float]] = ([], [])
            for number in range(repeats):
                for index, claimer in ((0, one), (1, other))[:: 1 if number % 2 else -1]:
                    taken[index].append(claimer.timed(CLAIM))
            what = f"a claim of {CLAIM} {others} behind {plan.scaled(IN_FRONT):,} of a full key, ms"
            yield ratio(what, *taken)


def with_snapshot(plan: Plan) -> Iterator[Row]:
    """Yield the cost of a lane's last claims relative to the first while a snapshot is open (PostgreSQL)."""
    if plan.storage != "postgresql":
        return
    for name in ("others", "keyless"):
        for is_held in (True, False):
            with (
                places.opened(plan.storage, plan.folder / f"snapshot-{name}-{is_held}") as place,
                places.client(place.url) as fire,
                churn.old_state_kept(place.url) if is_held else nullcontext(),
            ):
                claimer = Claimer(fire)
                fire.limits.set("others", concurrent=1_000)
                tasks.declare(fire)[name].enqueue_many(tasks.calls(name, plan.scaled(LANE) + 200))
                times = [claimer.timed(CLAIM) for _ in range(plan.scaled(LANE) // CLAIM)]
            yield _first_and_last(name, times, is_held=is_held)


def _first_and_last(name: str, times: Sequence[float], *, is_held: bool) -> Row:
    size = min(100, len(times) // 4)
    first, last = statistics.median(times[5 : 5 + size]), statistics.median(times[-size:])
    what = f"{'a' if is_held else 'no'} snapshot held, {len(times) * CLAIM:,} {name} claimed by {CLAIM}"
    what += ": the last claims compared with the first, ms"
    return {"what": what, "ratio": last / first, "last": last, "first": first, "slowest": max(times)}
