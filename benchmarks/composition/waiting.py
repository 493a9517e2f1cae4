"""Steps, suspensions, resumes and calls per second of a server with ten workers, also in another checkout."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.composition.rounds import Load, single, take
from benchmarks.pairs import Row, ratio
from benchmarks.plan import Plan

JOBS = {"sqlite": 500, "postgresql": 500, "mariadb": 250, "redis": 1_000}
"""The number of jobs with 20 steps each. Four times as many wait for a signal, or call another job."""


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the rate of each load, also compared with that of the other checkout if one is given."""
    jobs = max(20, int(JOBS[plan.storage] * plan.scale))
    kinds = {
        "steps": (jobs, "steps_per_s"),
        "waits": (4 * jobs, "resumes_per_s"),
        "calls": (4 * jobs, "calls_per_s"),
    }
    for kind, (number, shown) in kinds.items():
        loads = {kind: Load(kind, number)}
        if plan.baseline:
            loads["baseline"] = Load(kind, number, is_baseline=True)
        taken = take(plan, loads, rounds=max(1, plan.pairs // 4), shown=shown)
        for figure, values in taken[kind].items():
            yield single(f"{number:,} jobs: {figure}", values)
            if figure in (base := taken.get("baseline", {})):
                yield ratio(f"{number:,} jobs compared with the baseline's: {figure}", values, base[figure])
