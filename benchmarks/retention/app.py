"""The application that servers run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.retention import tasks
from firelock import Firelock
from firelock.storage import SessionRecord

fire = Firelock()
tasks.declare(fire)

if sweeps := os.environ.get("BENCHMARK_SWEEPS"):  # the path of a file
    path = Path(sweeps)
    oldest_session = fire.storage.oldest_session  # the first call of each sweep

    def noted() -> SessionRecord | None:
        """Note the time, then call the storage."""
        with path.open("a", encoding="ascii") as times:
            times.write(f"{time.monotonic()}\n")
        return oldest_session()

    fire.storage.oldest_session = noted  # type: ignore[method-assign]
