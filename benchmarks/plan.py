"""What is asked of a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import attrs


@attrs.frozen
class Plan:
    """A storage, how much is done, and where."""

    storage: str
    pairs: int
    scale: float  # of the jobs of a full run
    former: str  # folder of another checkout with its .venv; empty for none
    folder: Path  # empty
    ends_at: float = float("inf")  # monotonic: no further round is begun then

    def scaled(self, jobs: int) -> int:
        """Return how many jobs stand for so many."""
        return max(100, int(jobs * self.scale))

    def has_time(self) -> bool:
        """Tell whether another round may begin."""
        return time.monotonic() < self.ends_at

    def progress(self, line: str) -> None:
        """Tell those who wait."""
        print(f"  {self.storage}: {line}", file=sys.stderr, flush=True)
