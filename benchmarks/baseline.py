"""Compare Firelock with another checkout of itself: what became faster or slower, and how certain this is.

Each pair is one run of this checkout and one of the other; each checkout runs its own benchmarks with its own
environment. Within two pairs, each checkout goes first once; the seed selects the order. The ratio of a pair
is new/old for rates and old/new for times and costs, so more than 1 is better. A figure's result is the
median ratio with its bootstrap interval of 95 %.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from benchmarks.contenders import OURS, OWN, Contender
from benchmarks.entry import AMOUNTS, Figures
from benchmarks.report import text
from benchmarks.scenarios import BY_STORAGE, Figure, Scenario

RESAMPLES = 10_000
LEAST_UPPER_END = 0.97
MOST_WIDTH = 0.10
MOST_ROUNDS = 3
"""The maximum number of pairs of a figure with a wide interval, as a multiple of `--pairs`."""

LOADS = {
    "jobs": 20_000,
    "singles": 2_000,
    "stored": 50_000,
    "waiting": 50_000,
    "churned": 60_000,
    "samples": 200,
    "seconds": 20,
}
STORAGE = ("jobs_per_s", "cpu_us_per_job", "storage_us_per_job")
MAIN: Mapping[str, Sequence[str]] = {
    "enqueue_bulk_100": STORAGE,
    "enqueue_bulk": STORAGE,
    "enqueue_one": STORAGE,
    "process": STORAGE,
    "limited": STORAGE,
    "members": STORAGE,
    "latency": ("p50_ms",),
    "startup": ("import_ms", "help_ms"),
}
"""Scenarios measured by default, with their judged figures. Of other scenarios all figures are judged."""
RATES = frozenset({"jobs/s", "share"})
"""Units of figures that are better when larger; all others are costs."""
Run = Callable[[Contender, Scenario, dict[str, int]], Figures]


@attrs.frozen
class Interval:
    """The median of ratios and its confidence interval of 95 %."""

    median: float
    low: float
    high: float
    pairs: int

    @property
    def verdict(self) -> str:
        """Return `passed`, `FAILED` (slower beyond the noise) or `inconclusive` (more pairs are needed)."""
        if self.high < LEAST_UPPER_END:
            return "FAILED"
        return "passed" if self.high - self.low <= MOST_WIDTH else "inconclusive"


def interval(ratios: Sequence[float], *, seed: int) -> Interval:
    """Return the median of the ratios with its percentile bootstrap interval of 95 %.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    chance = random.Random(seed)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975) - 1]
    return Interval(statistics.median(ratios), low, high, len(ratios))


def ratio(figure: Figure, ours: float, baseline: float) -> float:
    """Return how much better ours is: new/old for a rate, old/new for a cost; 1 if both are zero."""
    above, below = (ours, baseline) if figure.unit in RATES else (baseline, ours)
    if above == below:
        return 1.0
    return above / below if below else float("inf")


@attrs.define
class Comparison:
    """One scenario of both checkouts: the pairs so far."""

    scenario: Scenario
    ours: Contender
    baseline: Contender
    amounts: dict[str, int]
    seed: int
    run: Run
    pairs: list[tuple[Figures, Figures]] = attrs.field(factory=list)

    _chance: random.Random = attrs.field(init=False)
    _order: list[Contender] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def measure(self, pairs: int) -> None:
        """Add this number of pairs."""
        for _ in range(pairs):
            if len(self.pairs) % 2 == 0:
                self._order = self._chance.sample((self.ours, self.baseline), 2)
            else:
                self._order.reverse()
            found = {one.name: self.run(one, self.scenario, self.amounts) for one in self._order}
            self.pairs.append((found[self.ours.name], found[self.baseline.name]))
            progress(f"{self.scenario.name}: pair {len(self.pairs)}")

    def intervals(self) -> Iterator[tuple[Figure, Interval]]:
        """Yield each judged figure that every run of both checkouts has, with its interval."""
        judged = MAIN.get(self.scenario.name)
        for figure in self.scenario.figures:
            is_judged = judged is None or figure.name in judged
            if is_judged and all(figure.name in one for pair in self.pairs for one in pair):
                ratios = [
                    ratio(figure, ours[figure.name], baseline[figure.name]) for ours, baseline in self.pairs
                ]
                yield figure, interval(ratios, seed=self.seed)

    def is_open(self) -> bool:
        """Return whether more pairs could still change the verdict on a figure."""
        return any(found.verdict == "inconclusive" for _, found in self.intervals())

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield a row for each figure: what was measured, the interval, the verdict."""
        for figure, found in self.intervals():
            medians = {
                name: statistics.median(pair[place][figure.name] for pair in self.pairs)
                for place, name in enumerate((self.ours.name, self.baseline.name))
            }
            yield {
                "scenario": self.scenario.name, "figure": figure.name, "unit": figure.unit, **medians,
                **attrs.asdict(found), "verdict": found.verdict, "seed": self.seed,
            }  # fmt: skip


def compare(options: argparse.Namespace, run: Run) -> Iterator[Sequence[dict[str, object]]]:
    """Yield the rows of each scenario; one with a failed figure is measured once more, with the next seed."""
    ours = next(one for one in OWN[options.storage] if one.name == OURS)
    baseline = other(ours, Path(options.baseline))
    for contender in (ours, baseline):
        compile_sources(contender)
    wanted = options.scenario or MAIN
    amounts = LOADS | {name: value for name in LOADS if (value := getattr(options, name, None))}
    for scenario in BY_STORAGE[options.storage]:
        if (
            scenario.name in wanted
            and scenario.name in ours.scenarios
            and scenario.name not in baseline.scenarios
        ):
            progress(f"{scenario.name} is not measured: {baseline.folder} does not have this scenario")
        elif scenario.name in wanted and scenario.name in ours.scenarios:
            for seed in (options.seed, options.seed + 1):
                one = Comparison(scenario, ours, baseline, amounts, seed, run)
                one.measure(options.pairs)
                while one.is_open() and len(one.pairs) < MOST_ROUNDS * options.pairs:
                    one.measure(max(1, options.pairs // 2))
                yield (rows := list(one.rows()))
                if not any(row["verdict"] == "FAILED" for row in rows):
                    break


def other(ours: Contender, folder: Path) -> Contender:
    """Return the same contender of another checkout, with the scenarios and amounts that its programs have.

    Raises:
        SystemExit: If the folder has no environment that can run the contender.
    """
    folder = folder.resolve()
    python = folder / ".venv" / "bin" / "python"
    if not python.exists():
        sys.exit(f"--baseline: {folder} has no .venv; run `make setup` there first.")
    command = (str(python), *ours.command[1:])
    usage = subprocess.run(
        [*command, "--help"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    has = frozenset(re.findall(r"\w+", usage))
    amounts = tuple(name for name in AMOUNTS if name in has)
    return Contender("baseline", command, ours.scenarios & has, folder=folder, amounts=amounts)


def compile_sources(contender: Contender) -> None:
    """Write the bytecode of a checkout; compiling during a run would count as its processor time."""
    compiling = [contender.command[0], "-m", "compileall", "-q", "-x", "/results/", "packages", "benchmarks"]
    subprocess.run(compiling, cwd=contender.folder, check=True, stdout=subprocess.DEVNULL)


def line(row: Mapping[str, object]) -> str:
    """Return a row as one line of the printed table."""
    value = {name: text(float(str(row[name]))) for name in (OURS, "baseline")}
    ends = f"{row['median']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    return (
        f"{row['scenario']!s:18}{row['figure']!s:20}{value[OURS]:>12}{value['baseline']:>12}  "
        f"{row['unit']!s:12}"
        f"{ends:24}{row['pairs']!s:>4} pairs  seed {row['seed']}  {row['verdict']}"
    )


def progress(text: str) -> None:
    """Print a line about the progress."""
    print(f"  {text}", file=sys.stderr, flush=True)
