"""One scenario of one contender, run in a process of its own and printed as JSON.

Only the standard library is imported here: peers run from a virtual environment of their own, without attrs.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float]


@dataclass(frozen=True)
class Load:
    """How much one run does, and where."""

    jobs: int
    """Jobs stored or run; a scenario whose jobs cost a commit each uses `singles` instead."""
    singles: int
    """Jobs enqueued with a commit each."""
    stored: int
    """Finished jobs that a growth scenario stores beforehand."""
    waiting: int
    """Jobs in an unserved queue that a growth scenario stores beforehand."""
    churned: int
    """Jobs that a churn scenario runs."""
    samples: int
    """Jobs timed for a latency, and starts timed for an import."""
    seconds: int
    """How long an idle server is watched."""
    directory: Path
    """An empty folder that is this run's alone."""

    @property
    def database(self) -> Path:
        """Return the database file of this run."""
        return self.directory / "jobs.db"


AMOUNTS = ("jobs", "singles", "stored", "waiting", "churned", "samples", "seconds")
ScenarioFunction = Callable[[Load], Figures]


def timed(action: Callable[[], object], *, jobs: int) -> Figures:
    """Return jobs a second and processor time a job, in this process, of one action over `jobs` jobs."""
    cpu = time.process_time()
    begun = time.perf_counter()
    action()
    elapsed = time.perf_counter() - begun
    return {"jobs_per_s": jobs / elapsed, "cpu_us_per_job": (time.process_time() - cpu) / jobs * 1e6}


def exit_when_told() -> None:
    """Make the signal that tells this process to end an exit that leaves nothing behind."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))


def run(scenarios: Mapping[str, ScenarioFunction]) -> None:
    """Run the scenario that the command line names; its figures are the last line of standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=sorted(scenarios))
    parser.add_argument("--directory", type=Path, required=True)
    for name in AMOUNTS:
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    load = Load(**{name: getattr(options, name) for name in AMOUNTS}, directory=options.directory.resolve())
    exit_when_told()
    figures = scenarios[options.scenario](load)
    sys.stdout.write(json.dumps(figures) + "\n")
