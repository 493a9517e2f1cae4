"""Loads that take turns, round by round, on stages that are replaced after a number of rounds."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks import stage
from benchmarks.pairs import Row, quarters, ratio
from benchmarks.plan import Plan

ROUNDS_PER_STAGE = 5
"""Rounds after which storages and servers are replaced, so that a lucky process does not affect all pairs."""
WARM = 1_000
PLAIN = {"sqlite": 20_000, "postgresql": 12_000, "mariadb": 6_000, "redis": 40_000}
"""The number of jobs of a load, which takes about a second."""
Taken = Mapping[str, Mapping[str, list[float]]]
"""The figures of all rounds, by load and by name."""


@attrs.frozen
class Load:
    """A load that is run on a stage."""

    kind: str
    """See `loads`."""
    jobs: int
    servers: int = 1
    is_baseline: bool = False
    """Whether the other checkout runs the load."""

    @property
    def stage(self) -> str:
        """Return the name of the load's stage, which other loads can share."""
        return f"{'baseline' if self.is_baseline else 'ours'}-{self.servers}"


def take(plan: Plan, loads: Mapping[str, Load], *, rounds: int, shown: str) -> Taken:
    """Return the figures of loads by their names; print one figure of each round.

    If the part's time runs out, only the completed rounds are returned, at least one.
    """
    taken: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in loads}
    done = 0
    while done < rounds and (not done or plan.has_time()):
        with ExitStack() as stack:
            stages = {}
            for load in loads.values():
                if load.stage not in stages:
                    python = f"{plan.baseline}/.venv/bin/python" if load.is_baseline else sys.executable
                    folder = plan.folder / f"{shown}-{done}-{load.stage}"
                    arguments = (plan.storage, load.servers)
                    running = stage.running(python, "benchmarks.composition.loads", arguments, Path(folder))
                    stages[load.stage] = stack.enter_context(running)
            for load in loads.values():
                stages[load.stage].run(load.kind, min(WARM, load.jobs))
            for turn in range(min(ROUNDS_PER_STAGE, rounds - done)):
                if turn and not plan.has_time():
                    break
                for name in list(loads)[:: 1 if done % 2 else -1]:
                    for figure, value in (
                        stages[loads[name].stage].run(loads[name].kind, loads[name].jobs).items()
                    ):
                        taken[name][figure].append(value)
                done += 1
                figures = ", ".join(f"{name} {taken[name][shown][-1]:,.4g}" for name in loads)
                plan.progress(f"{shown}, round {done} of {rounds}: {figures}")
    return taken


def compare(what: str, taken: Taken, ours: str, base: str, figures: Mapping[str, str]) -> Iterator[Row]:
    """Yield a row for each figure that compares two loads; `figures` contains their descriptions."""
    for figure, description in figures.items():
        yield ratio(f"{what}, {description}", taken[ours][figure], taken[base][figure])


def single(what: str, values: list[float]) -> Row:
    """Return a row of a figure that is not compared with another."""
    low, middle, high = quarters(values)
    return {
        "what": what,
        "median": middle,
        "low": low,
        "high": high,
        "most": max(values),
        "rounds": len(values),
    }
