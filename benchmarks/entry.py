"""One scenario of one contender, run in a separate process, with its figures printed as JSON.

This module imports only the standard library, because peers run in separate virtual environments without
attrs.
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
    """The amounts and the folder of one run."""

    jobs: int
    """Stored or run jobs; scenarios with one commit per job use `singles` instead."""
    singles: int
    """Jobs that are enqueued with one commit per job."""
    stored: int
    """Finished jobs that a growth scenario stores beforehand."""
    waiting: int
    """Jobs in an unserved queue that a growth scenario stores beforehand."""
    churned: int
    """Jobs that a churn scenario runs."""
    samples: int
    """Measured jobs of a latency scenario, and measured starts of an import scenario."""
    seconds: int
    """Seconds for which an idle server is observed."""
    directory: Path
    """An empty folder that only this run uses."""

    @property
    def database(self) -> Path:
        """Return the database file of this run."""
        return self.directory / "jobs.db"


AMOUNTS = ("jobs", "singles", "stored", "waiting", "churned", "samples", "seconds")
ScenarioFunction = Callable[[Load], Figures]


def timed(action: Callable[[], object], *, jobs: int) -> Figures:
    """Return the jobs per second and this process's processor time per job, of an action on `jobs` jobs."""
    cpu = time.process_time()
    begun = time.perf_counter()
    action()
    elapsed = time.perf_counter() - begun
    return {"jobs_per_s": jobs / elapsed, "cpu_us_per_job": (time.process_time() - cpu) / jobs * 1e6}


def exit_on_signal() -> None:
    """Handle SIGTERM as a normal exit, so that this process stops everything that it has started."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))


def run(scenarios: Mapping[str, ScenarioFunction]) -> None:
    """Run the scenario on the command line; print its figures as the last line of standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=sorted(scenarios))
    parser.add_argument("--directory", type=Path, required=True)
    for name in AMOUNTS:
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    load = Load(**{name: getattr(options, name) for name in AMOUNTS}, directory=options.directory.resolve())
    exit_on_signal()
    figures = scenarios[options.scenario](load)
    sys.stdout.write(json.dumps(figures) + "\n")
