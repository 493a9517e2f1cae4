"""Steps, suspensions, resumes and calls a second, of a server with ten workers."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.composition.rounds import Load, alone, take
from benchmarks.pairs import Row
from benchmarks.plan import Plan

JOBS = {"sqlite": 500, "postgresql": 500, "mariadb": 250, "redis": 1_000}
"""Of 20 steps each; four times as many wait for a signal, or call another one."""


def measure(plan: Plan) -> Iterator[Row]:
    """Yield how many a second, each load by itself."""
    jobs = max(20, int(JOBS[plan.storage] * plan.scale))
    kinds = {
        "steps": (jobs, "steps_per_s"),
        "waits": (4 * jobs, "resumes_per_s"),
        "calls": (4 * jobs, "calls_per_s"),
    }
    for kind, (number, shown) in kinds.items():
        taken = take(plan, {kind: Load(kind, number)}, rounds=max(1, plan.pairs // 4), shown=shown)[kind]
        for figure, values in taken.items():
            yield alone(f"{number:,} jobs: {figure}", values)
