"""How many jobs to claim beyond the free workers: by the wait observed, so that speed never costs fairness.

Jobs of microseconds want hundreds at hand, a job of seconds none that waits behind it. Additive increase,
multiplicative decrease, as congestion control does it.
"""

from __future__ import annotations

import attrs

__all__ = ["ClaimAhead"]

_LONG_WAIT, _TOO_LONG_WAIT = 0.020, 0.050  # seconds


@attrs.define
class ClaimAhead:
    """The number of jobs that may wait here without a free worker; 0 at first."""

    limit: int  # the most it may be
    _ahead: float = 0.0

    @property
    def ahead(self) -> int:
        """Return how many jobs to hold beyond the workers."""
        return int(self._ahead)

    def ran_dry(self) -> None:
        """Workers had nothing to do while a claim that found jobs was under way: hold more."""
        self._ahead = min(self.limit, self._ahead * 1.05 + 1)

    def observe(self, oldest_wait: float) -> bool:
        """Note the oldest wait here, in seconds; return True if all that wait should be handed back."""
        if oldest_wait > _TOO_LONG_WAIT:
            self._ahead /= 2
            return True
        if oldest_wait > _LONG_WAIT:
            self._ahead *= 0.9
        return False
