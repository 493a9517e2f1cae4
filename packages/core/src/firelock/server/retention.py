"""Removal of expired jobs, in slices, by one worker process per storage, as fast as jobs expire."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import attrs

from firelock.control.servers import forget_orders
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.ids import new_id
from firelock.storage import Storage

log = logging.getLogger(__name__)

LEASE = "firelock:retention"
"""The lock whose holder removes expired jobs."""
_SLICE = 0.2  # seconds after which a slice starts no more calls
_CALL = 0.05  # target duration of a call in seconds; writers may have to wait for it, for example with SQLite
_FEWEST, _MOST = 100, 500  # jobs per call; with fewer jobs, round trips would take longer than the removal
_RESTS = (3, 1)  # pauses after slices that left jobs, in durations of a slice: at first, and after many
_IN_A_ROW = 5  # each time this many more slices have left jobs than have not, pauses get a duration shorter
_SHORTEST_PAUSE = 1.0  # minimum number of seconds to pause after a slice that left no jobs
_ORDERS_EVERY = 3_600.0  # seconds between two searches for orders to servers that have ended


@attrs.define(eq=False)
class Retention:
    """The removal of expired jobs, and the lease that assigns it to one worker process per storage.

    Args:
        storage: the storage of the jobs.
        seldom: seconds between two slices if no jobs expire.
        lease_seconds: seconds after which another process takes over if this one has stopped.
        ended: returns the number of jobs that have ended in this process; if it has grown, the next slice
            starts sooner.
        is_over: returns whether the process is stopping.
        clock: returns monotonic seconds.
    """

    _storage: Storage
    _seldom: float
    _lease_seconds: float
    _ended: Callable[[], int]
    _is_over: Callable[[], bool]
    _clock: Callable[[], float] = time.monotonic
    _owner: str = attrs.Factory(new_id)
    _token: int | None = None
    _chunk: int = 100  # maximum number of jobs in the next call
    _pause: float = _SHORTEST_PAUSE
    _left_jobs: int = 0  # slices that left jobs, minus those that did not; bounded
    _ended_before: int = 0
    _orders_at: float = float("-inf")  # monotonic

    def run_slice(self) -> float:
        """Remove expired jobs for a fifth of a second if this process holds the lease.

        Return the number of seconds until the next slice.
        """
        try:
            return self._rest() if self._holds_lease() else self._seldom
        except StorageUnavailable as error:
            self._pause = min(self._seldom, 2 * self._pause)
            log.debug("Expired jobs could not be removed; trying again in %.0f s: %s", self._pause, error)
            return self._pause

    def _holds_lease(self) -> bool:
        """Acquire or renew the lease and return whether it is held.

        The lease is renewed in each slice, so a process that has lost it stops removing jobs.
        """
        held, self._token = self._token, None
        self._token = self._storage.acquire_lock(LEASE, self._owner, self._lease_seconds)
        if self._token is None and held is not None:
            log.info("Another server removes expired jobs from now on.")
        elif self._token is not None and held is None:
            log.debug("This process removes expired jobs from now on.")
        return self._token is not None

    def _rest(self) -> float:
        """Run one slice and return the number of seconds until the next one."""
        began = self._clock()
        removed, has_more = self._remove(began + _SLICE)
        if has_more:
            self._pause = _SHORTEST_PAUSE
            first, last = _RESTS
            rest = first - self._left_jobs // _IN_A_ROW
            self._left_jobs = min(self._left_jobs + 1, _IN_A_ROW * (first - last))
            return rest * (self._clock() - began)
        self._left_jobs = max(0, self._left_jobs - 1)
        self._forget_orders()
        ended = self._ended()
        is_busy = bool(removed) or ended != self._ended_before
        self._pause = _SHORTEST_PAUSE if is_busy else 2 * self._pause
        self._pause, self._ended_before = min(self._seldom, self._pause), ended
        return self._pause * random.uniform(0.8, 1.2)  # noqa: S311 - servers drift apart

    def _remove(self, until: float) -> tuple[int, bool]:
        """Remove jobs until this time; return how many were removed, and whether there may be more."""
        removed = 0
        while not self._is_over() and (began := self._clock()) < until:
            limit = self._chunk
            pruned = self._storage.prune(limit)
            removed += pruned
            if pruned < limit:
                return removed, False
            took = self._clock() - began
            if took > 2 * _CALL:
                self._chunk = max(_FEWEST, limit // 2)
            elif took < _CALL / 2:
                self._chunk = min(_MOST, 2 * limit)
        return removed, True

    def _forget_orders(self) -> None:
        now = self._clock()
        if now >= self._orders_at:
            self._orders_at = now + _ORDERS_EVERY
            forget_orders(self._storage)

    def hand_over(self) -> None:
        """Release the lease because this process ends, so that the next process does not have to wait."""
        token, self._token = self._token, None
        if token is None:
            return
        try:
            self._storage.release_lock(LEASE, self._owner, token)
        except StorageError as error:
            log.debug(
                "The lease for removing expired jobs was not released, so it expires by itself: %s", error
            )
