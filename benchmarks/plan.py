"""The options of a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import attrs


@attrs.frozen
class Plan:
    """The storage, the amount of work and the folder of a run."""

    storage: str
    pairs: int
    scale: float  # share of the jobs of a full run
    baseline: str  # folder of another checkout with its .venv; empty for none
    folder: Path  # empty
    ends_at: float = float("inf")  # monotonic time after which no round begins

    def scaled(self, jobs: int) -> int:
        """Return the scaled number of jobs."""
        return max(100, int(jobs * self.scale))

    def has_time(self) -> bool:
        """Return whether another round may begin."""
        return time.monotonic() < self.ends_at

    def progress(self, line: str) -> None:
        """Print the progress."""
        print(f"  {self.storage}: {line}", file=sys.stderr, flush=True)
