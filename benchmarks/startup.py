"""What starting costs: an import above bare Python, and the command line's help."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.entry import Figures, Load

PYTHON = sys.executable
COMMAND = str(Path(sys.executable).with_name("firelock"))


def elapsed_ms(command: Sequence[str]) -> float:
    """Return how long a command takes from its start to its end."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


def startup(load: Load) -> Figures:
    """Measure medians of starts that take turns, after one of each that fills the caches."""
    commands = {
        "bare_ms": [PYTHON, "-c", "pass"],
        "import_ms": [PYTHON, "-c", "import firelock"],
        "help_ms": [COMMAND, "--help"],
    }
    for command in commands.values():
        elapsed_ms(command)
    starts = max(5, min(20, load.samples // 20))
    rounds = [{name: elapsed_ms(command) for name, command in commands.items()} for _ in range(starts)]
    medians = {name: statistics.median(times[name] for times in rounds) for name in commands}
    return {**medians, "added_ms": medians["import_ms"] - medians["bare_ms"]}
