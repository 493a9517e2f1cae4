"""Measure the cost of starts: an import, commands, and a server until its first job has ended."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.entry import Figures, Load

PYTHON = sys.executable
COMMAND = str(Path(sys.executable).with_name("firelock"))
DRIVER = "import sqlite3, sqlalchemy.dialects.sqlite"
"""The modules that every process with an SQLite storage must import in addition to Firelock."""


def elapsed_ms(command: Sequence[str]) -> float:
    """Return the duration of a command."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


def cpu_ms(command: Sequence[str]) -> float:
    """Return the processor time that a command and its children use."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def startup(load: Load, first_job_ms: Callable[[], float]) -> Figures:
    """Measure medians of starts that take turns, after one of each that fills the caches.

    `first_job_ms` returns the processor time of a server until its first job has ended.
    """
    elapsed = {
        "bare_ms": [PYTHON, "-c", "pass"],
        "import_ms": [PYTHON, "-c", "import firelock"],
        "help_ms": [COMMAND, "--help"],
    }
    used = {
        "help_cpu_ms": [COMMAND, "--help"],
        "driver_cpu_ms": [PYTHON, "-c", DRIVER],
        "command_cpu_ms": [COMMAND, "queues", "list", "--app", "benchmarks.ours_app:fire"],
    }

    def round_of() -> Figures:
        times = {name: elapsed_ms(command) for name, command in elapsed.items()}
        times |= {name: cpu_ms(command) for name, command in used.items()}
        return times | {"first_job_cpu_ms": first_job_ms()}

    round_of()
    starts = max(5, min(20, load.samples // 20))
    rounds = [round_of() for _ in range(starts)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    return {
        **medians,
        "added_ms": medians["import_ms"] - medians["bare_ms"],
        "command_added_cpu_ms": medians["command_cpu_ms"] - medians["driver_cpu_ms"],
        "first_job_added_cpu_ms": medians["first_job_cpu_ms"] - 2 * medians["driver_cpu_ms"],
    }
