"""The times at which batches are released: rarely while many members remain, often when few remain."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import attrs

from firelock.jobs.administration import RELEASE_LIMIT

if TYPE_CHECKING:
    from firelock.storage import Storage

OFTEN, SELDOM, RAREST = 0.020, 0.060, 0.250  # seconds between two releases
_PAUSE_FACTOR = 12  # the pause after a release, as a multiple of the release's duration
_ENDS_PER_SECOND = 20_000  # twice what one database can store, so that no batch ends before its next release
_FEW = 8  # if members of more batches than this have ended, the counts are not read


def rest_after(seconds: float) -> float:
    """Return the pause, in seconds, after a release that took this many seconds.

    Unless the storage is very slow, releases take less than a tenth of a worker process's time, and a batch
    ends within 60 ms after its last member is settled.
    """
    return min(SELDOM, max(OFTEN, seconds * _PAUSE_FACTOR))


@attrs.define(eq=False)
class BatchReleases:
    """The batches that wait for a release, and the time at which it is due.

    A release takes locks, adds up counts and writes them. If members of the same few batches have ended both
    before and after the last release, it is worth reading the number of their remaining members. With this
    number, the next release can be postponed while many members remain, and comes soon when few remain, even
    if a release is expensive.
    """

    _storage: Storage
    _clock: Callable[[], float] = time.monotonic
    _ended: set[str] = attrs.Factory(set)  # batches with members that have ended since the last release
    _previous: set[str] = attrs.Factory(set)  # batches with members that ended before the last release
    _is_urgent: bool = False  # whether a member has not succeeded, so that others might have to be stopped
    _at: float = 0.0  # monotonic time of the last release
    _rest: float = OFTEN  # pause after the last release
    is_needed: bool = False

    @property
    def rest(self) -> float:
        """The seconds from the last release to the next one."""
        return OFTEN if self._is_urgent else self._rest

    def record_ends(self, batches: Collection[str], *, have_failed: bool) -> None:
        """Record that members of these batches have ended, and whether any of them has not succeeded."""
        if batches:
            self.is_needed = True
            self._ended.update(batches)
            self._is_urgent |= have_failed

    def is_due(self) -> bool:
        """Return whether a release is needed and due.

        The release is due as soon as the first member has ended, and after the pause for later members.
        """
        return self.is_needed and self._clock() - self._at >= self.rest

    def release(self) -> None:
        """Move the continuations of ended jobs, and update batches whose members have ended.

        Raises:
            StorageError: If a storage call fails; upkeep does the remaining work.
        """
        began = self._clock()
        ended, self._ended, is_urgent, self._is_urgent = self._ended, set(), self._is_urgent, False
        previous, self._previous, self.is_needed = self._previous, ended, False
        number = self._storage.release(RELEASE_LIMIT)
        self.is_needed = number >= RELEASE_LIMIT  # there may be more continuations or batches
        left, is_all = 0, number <= len(ended)  # if more were moved, some were continuations
        if ended and ended <= previous and len(ended) <= _FEW and is_all and not is_urgent:
            all_counts = self._storage.batch_counts(sorted(ended))
            left = min((counts.active for counts in all_counts if counts is not None), default=0)
        self._at = self._clock()
        known = min(RAREST, max(OFTEN, left / _ENDS_PER_SECOND))
        self._rest = known if left else rest_after(self._at - began)
