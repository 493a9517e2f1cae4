"""The description of a peer, and its number of jobs."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.entry import Load

LEAST = 200


@dataclass(frozen=True)
class Peer:
    """A job system on one storage."""

    module: str
    """The peer's adapter, a module in `benchmarks.peers`."""
    language: str
    packages: tuple[str, ...]
    """The packages whose versions are recorded."""
    is_acknowledging: bool
    """Whether a running job survives the crash of its worker."""
    settings: str
    share: int
    """The divisor of the number of jobs; slower peers get fewer jobs."""
    environment: str
    """The name in requirements-ENVIRONMENT.txt, for requirements that do not conflict."""
    has_bulk: bool = False
    python: tuple[int, int] = (3, 11)
    """The minimum version of Python."""

    @property
    def platform(self) -> str:
        """The required platform, for messages if it is missing."""
        return f"Python {self.python[0]}.{self.python[1]}" if self.language == "Python" else self.language

    def amount(self, load: Load) -> int:
        """Return the peer's number of jobs."""
        return max(load.jobs // self.share, LEAST)

    def singles(self, load: Load) -> int:
        """Return the peer's number of jobs that are enqueued singly."""
        return max(min(load.singles, load.jobs // self.share), LEAST)
