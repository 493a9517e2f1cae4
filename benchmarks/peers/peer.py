"""What is noted of a peer, and how much it is given to do."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.entry import Load

LEAST = 200


@dataclass(frozen=True)
class Peer:
    """A job system on one storage."""

    module: str
    """Its adapter, below `benchmarks.peers`."""
    language: str
    packages: tuple[str, ...]
    """Those whose versions are written down."""
    is_acknowledging: bool
    """Whether a job in hand outlives the crash of its worker."""
    settings: str
    share: int
    """It is given one job of so many: the slower, the fewer."""
    environment: str
    """Of requirements-ENVIRONMENT.txt: one where nothing conflicts."""
    has_bulk: bool = False
    python: tuple[int, int] = (3, 11)
    """The least version that it runs on."""

    @property
    def platform(self) -> str:
        """Return what it runs on, as those are told who lack it."""
        return f"Python {self.python[0]}.{self.python[1]}" if self.language == "Python" else self.language

    def amount(self, load: Load) -> int:
        """Return how many jobs it is given."""
        return max(load.jobs // self.share, LEAST)

    def singles(self, load: Load) -> int:
        """Return how many jobs it is given one by one."""
        return max(min(load.singles, load.jobs // self.share), LEAST)
