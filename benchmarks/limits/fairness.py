"""Real servers: one tenant's many jobs beside a hundred tenants' few, and what a rate lets through."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from benchmarks import places
from benchmarks.limits import tasks
from benchmarks.pairs import Row
from benchmarks.plan import Plan

MANY, TENANTS, FEW = 100_000, 100, 10
SECONDS = 10


def tenants(plan: Plan) -> Iterator[Row]:
    """Yield after how many jobs the few of each small tenant had all begun."""
    many = plan.scaled(MANY)
    with (
        places.opened(plan.storage, plan.folder / "tenants") as place,
        places.client(place.url) as fire,
    ):
        task = tasks.declare(fire)["tenants"]
        task.enqueue_many([(0,)] * many)
        task.enqueue_many([(tenant,) for tenant in range(1, TENANTS + 1) for _ in range(FEW)])
        with tasks.serving(place) as group:
            path = place.folder / "starts"

            def small() -> int:
                return sum(line != "0" for line in tasks.read_starts(path))

            group[0].wait_until(lambda: small() == TENANTS * FEW, what="the small tenants' jobs had run")
            order = tasks.read_starts(path)
    done = [number for number, tenant in enumerate(order, 1) if tenant != "0"][-1]
    yield {"what": f"{TENANTS} × {FEW} jobs behind {many:,} of one: done after", "jobs": done}


def rates(plan: Plan) -> Iterator[Row]:
    """Yield how far a rate is off, and the most in any window, by the instants of the claims.

    Three processes claim; each stamps a claim by the storage's clock as it knows it, just before it is made.
    """
    seconds = SECONDS if plan.scale >= 1 else 2
    with (
        places.opened(plan.storage, plan.folder / "rates") as place,
        places.client(place.url) as fire,
    ):
        fire.queues.pause("default")
        tasks.declare(fire)["rated"].enqueue_many([()] * (tasks.RATE * (seconds + 2)))
        with tasks.serving(place, processes=3) as group:
            places.wait_for_servers(group[0], fire, 1)
            fire.queues.resume("default")
            path = place.folder / "starts"
            wanted = tasks.BURST + tasks.RATE * seconds
            group[0].wait_until(
                lambda: len(tasks.read_starts(path)) >= wanted, what="the rate had let them through"
            )
            claims = sorted(float(line) for line in tasks.read_starts(path))
    steady = [at for at in claims if claims[0] + 1 <= at <= claims[-1] - 0.1]
    reached = (len(steady) - 1) / (steady[-1] - steady[0])
    row: Row = {"what": f"{tasks.RATE}/s, burst {tasks.BURST}, three processes", "claims": len(claims)}
    row |= {"off_percent": (reached / tasks.RATE - 1) * 100}
    for window in (0.1, 1.0):
        most = max(bisect.bisect_left(claims, at + window) - index for index, at in enumerate(claims))
        row |= {
            f"most_in_{window:g}_s": most,
            f"bound_{window:g}_s": tasks.BURST + round(tasks.RATE * window),
        }
    yield row
