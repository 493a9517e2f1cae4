"""When batches are looked at whose members end: rarely while many are left, often near the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import attrs

from firelock.jobs.administration import RELEASE_LIMIT

if TYPE_CHECKING:
    from firelock.storage import Storage

OFTEN, SELDOM, RAREST = 0.020, 0.060, 0.250  # seconds between two looks
_DEARNESS = 12  # times as long as a look took there is none
_ENDS_PER_SECOND = 20_000  # twice what servers on one database reach: it does not end before the next look
_FEW = 8  # batches at a time


def rest_after(seconds: float) -> float:
    """Return how many seconds batches are left alone after a look that took so many.

    What it costs stays below a tenth of a child's time, where the storage is not slow altogether; a batch
    ends within 60 ms of its last member's settlement.
    """
    return min(SELDOM, max(OFTEN, seconds * _DEARNESS))


@attrs.define(eq=False)
class BatchLooks:
    """Which batches wait for a look, and when it is due.

    A look is a `release`: it locks, sums up and writes. Where the same few batches had members that ended
    before the last look and since, it is worth a read how many are left: by that the next one comes later,
    and at the end soon, however dear it is.
    """

    _storage: Storage
    _clock: Callable[[], float] = time.monotonic
    _told: set[str] = attrs.Factory(set)  # whose members have ended since the last look
    _former: set[str] = attrs.Factory(set)  # and before it
    _is_urgent: bool = False  # a member has not succeeded, by which the others may be stopped
    _at: float = 0.0  # monotonic: of the last look
    _rest: float = OFTEN  # behind it
    is_owed: bool = False

    @property
    def rest(self) -> float:
        """How many seconds after the last look the next one comes."""
        return OFTEN if self._is_urgent else self._rest

    def tell(self, batches: Collection[str], *, have_failed: bool) -> None:
        """Members of these have ended; none of them, or some not well."""
        if batches:
            self.is_owed = True
            self._told.update(batches)
            self._is_urgent |= have_failed

    def is_due(self) -> bool:
        """Tell whether one is owed and may come: the first end's at once, the last one's after the rest."""
        return self.is_owed and self._clock() - self._at >= self.rest

    def look(self) -> None:
        """Continuations that ends have set free are moved, and batches are as their members leave them.

        Raises:
            StorageError: of what was asked; upkeep does what is left.
        """
        began = self._clock()
        told, self._told, is_urgent, self._is_urgent = self._told, set(), self._is_urgent, False
        former, self._former, self.is_owed = self._former, told, False
        number = self._storage.release(RELEASE_LIMIT)
        self.is_owed = number >= RELEASE_LIMIT  # there may be more
        left, is_all = 0, number <= len(told)  # else continuations were moved as well
        if told and told <= former and len(told) <= _FEW and is_all and not is_urgent:
            all_counts = self._storage.batch_counts(sorted(told))
            left = min((counts.active for counts in all_counts if counts is not None), default=0)
        self._at = self._clock()
        known = min(RAREST, max(OFTEN, left / _ENDS_PER_SECOND))
        self._rest = known if left else rest_after(self._at - began)
