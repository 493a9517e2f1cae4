"""Measure with real servers: fairness between one large and a hundred small tenants, and rate limits."""

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
    """Yield the number of jobs after which all jobs of the small tenants had begun."""
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
    yield {
        "what": f"{TENANTS} × {FEW} jobs behind {many:,} of one tenant: all had started after",
        "jobs": done,
    }


def rates(plan: Plan) -> Iterator[Row]:
    """Yield the error of a rate, and the maximum in any window, by the times of the claims.

    Three processes claim. Each notes the time, by its estimate of the storage's clock, just before a claim.
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
                lambda: len(tasks.read_starts(path)) >= wanted, what="the rate had admitted the jobs"
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
