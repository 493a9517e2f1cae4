"""Measure with real servers: jobs per second in another checkout, and with and without limits."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from benchmarks import stage
from benchmarks.pairs import Row, ratio
from benchmarks.plan import Plan
from benchmarks.stage import Stage

JOBS = {"sqlite": 20_000, "postgresql": 12_000, "mariadb": 6_000, "redis": 40_000}
# The loads: task and number of servers. `baseline` is keyless too, but in the other checkout.
STAGES = {
    "baseline": ("keyless", 1),
    "keyless": ("keyless", 1),
    "never": ("never", 1),
    "turns": ("turns", 1),
    "keys": ("keys", 1),
    "keyless of 4": ("keyless", 4),
    "never of 4": ("never", 4),
    "open of 4": ("open", 4),
}
COMPARED = {
    ("keyless", "baseline"): "keyless jobs compared with the baseline's",
    ("never", "keyless"): "a limit that is never reached, one server",
    ("open of 4", "keyless of 4"): "a limit that is never reached, four servers on one key",
    (
        "never of 4",
        "keyless of 4",
    ): "1,000 concurrent jobs, which four servers reach with the jobs that they claim ahead",
    ("turns", "keyless"): "100 keys without a limit, a job of each in turn",
    ("keys", "keyless"): "100 keys with a limit that is never reached, a job of each in turn",
}
ROUNDS = 5
"""Rounds after which storages and servers are replaced, so that a lucky process does not affect all pairs."""


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the rows of a storage; all loads run in the same rounds, in rotating order."""
    names = [name for name in STAGES if plan.baseline or name != "baseline"]
    speed: dict[str, list[float]] = defaultdict(list)
    cost: dict[str, list[float]] = defaultdict(list)
    done = 0
    while done < plan.pairs:
        with ExitStack() as stack:
            stages = {name: stack.enter_context(_running(plan, name, f"{done}-{name}")) for name in names}
            for one in stages.values():
                one.run(plan.scaled(2_000))
            for _ in range(min(ROUNDS, plan.pairs - done)):
                for name in names if done % 2 else reversed(names):
                    figures = stages[name].run(plan.scaled(JOBS[plan.storage]))
                    speed[name].append(figures["jobs_per_s"])
                    cost[name].append(figures["cpu_us_per_job"])
                done += 1
                plan.progress(
                    f"round {done}: " + ", ".join(f"{name} {speed[name][-1]:,.0f}" for name in names)
                )
    for (ours, base), what in COMPARED.items():
        if base in speed:
            yield ratio(f"{what}: jobs/s", speed[ours], speed[base])
            yield ratio(f"{what}: µs of CPU time per job", cost[ours], cost[base])


def _running(plan: Plan, name: str, folder: str) -> AbstractContextManager[Stage]:
    task, number = STAGES[name]
    python = str(Path(plan.baseline) / ".venv/bin/python") if name == "baseline" else sys.executable
    arguments = (plan.storage, task, number)
    place = plan.folder / folder.replace(" ", "-")
    return stage.running(python, "benchmarks.limits.loads", arguments, place)
