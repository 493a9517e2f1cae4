"""What is still to come in a seed: its moments, and what each of them will find ready."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from firelock.cli.seed_recurring import Run
    from firelock.cli.seed_rhythm import Burst

__all__ = ["Agenda", "Expected", "Moment"]


@attrs.frozen
class Moment:
    """An instant at which jobs are stored and claimed: those of a burst, or runs of recurring jobs."""

    at: int
    burst: Burst | None = None
    runs: Sequence[Run] = ()


@attrs.define
class Expected:
    """What earlier moments leave for a later one: so many jobs of each kind."""

    due: int = 0
    released: int = 0
    enqueued: int = 0


class Agenda:
    """The moments in order of time, each known by its place."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.moments = moments
        self._times = [moment.at for moment in moments]
        self._expected: dict[int, Expected] = {}

    def __len__(self) -> int:
        """Return how many moments there are."""
        return len(self._times)

    def at(self, place: int) -> int:
        """Return the moment's instant."""
        return self._times[place]

    def expected(self, place: int) -> Expected:
        """Return what the moment will find, to be added to."""
        return self._expected.setdefault(place, Expected())

    def take(self, place: int) -> Expected:
        """Return what the moment finds; it is asked once."""
        return self._expected.pop(place, Expected())

    def gap(self, place: int) -> int:
        """Return how long it is from this moment to the next; 0 for the last."""
        return self._times[place + 1] - self._times[place] if place + 1 < len(self._times) else 0

    def next_run(self, at: int, wait: int, *, more: int) -> int | None:
        """Return the moment at which what ended now is run again, with so many moments behind it if possible.

        None where no moment is left.
        """
        soonest = bisect_left(self._times, at + 2)
        wanted = min(bisect_left(self._times, at + wait + 1), len(self._times) - 1 - more)
        place = max(soonest, wanted)
        return place if place < len(self._times) else None
