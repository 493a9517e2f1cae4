"""Parked ends, whose rows other transactions have locked; they are sent one by one until they are stored.

The dispatcher parks an end that the storage reports as busy. The sender, a separate thread, sends each parked
end in a separate call, so a locked row delays only its own job.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.errors import StorageUnavailable
from firelock.model.answers import Applied
from firelock.server.workers import have_ended
from firelock.storage import server_work

if TYPE_CHECKING:
    from firelock.model.job import Transition
    from firelock.server.run import EndedRun

log = logging.getLogger(__name__)

PARKED_LIMIT = 1_000
"""The number of parked ends at which a worker process claims no more jobs."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts to store a parked end
_PAUSE_AT_STOP = 0.25  # maximum pause, in seconds, while the server stops
_GAP = 0.1  # seconds to pause after an attempt that found a lock, to avoid overloading the storage
_REPORTED_AFTER = 5.0  # seconds


@attrs.define(eq=False)
class ParkedEnd:
    """The outcome of a job, which cannot be stored until the job's row is unlocked."""

    end: EndedRun
    is_hand_back: bool  # whether it hands back a job that never started
    since: float  # monotonic time at which it was parked
    next_at: float  # monotonic time of the next attempt
    pause: float = _FIRST_PAUSE  # the pause before the attempt after the next one
    is_reported: bool = False  # whether the parked end was logged
    is_dropped: bool = False


@attrs.define(eq=False)
class ParkedEnds:
    """The parked ends of a worker process, by job id, and the thread that sends them.

    The dispatcher's thread adds, drops and reads the parked ends. The sender's thread calls `answered` with
    each of them that the storage has accepted or refused.
    """

    _apply: Callable[[list[Transition]], Sequence[Applied]]
    _block_key: Callable[
        [EndedRun], bool
    ]  # blocks the limit key that the outcome names; returns False if the key is locked
    _answered: Callable[[ParkedEnd, Applied], None]
    _clock: Callable[[], float] = time.monotonic
    ended: int = 0  # the number of parked ends of jobs that have run
    _parked: dict[str, ParkedEnd] = attrs.Factory(dict)
    _due: list[tuple[float, int, ParkedEnd]] = attrs.Factory(list)  # a heap; the number preserves the order
    _number: int = 0
    _condition: threading.Condition = attrs.Factory(threading.Condition)
    _longest_pause: float = _LONGEST_PAUSE
    _gap: float = _GAP
    _rests_until: float = 0.0  # monotonic
    _thread: threading.Thread | None = None  # started when the first end is parked
    _is_stopped: bool = False

    def __len__(self) -> int:
        """Return the number of parked ends."""
        return len(self._parked)

    def get(self, job_id: str) -> ParkedEnd | None:
        """Return the parked end of a job; None if the job has none."""
        return self._parked.get(job_id)

    def all(self) -> list[ParkedEnd]:
        """Return the parked ends, oldest first."""
        return list(self._parked.values())

    def park(self, end: EndedRun, *, is_hand_back: bool = False) -> None:
        """Keep the outcome, and send it until the storage accepts or refuses it."""
        now = self._clock()
        parked = ParkedEnd(end, is_hand_back, now, now + _FIRST_PAUSE, 2 * _FIRST_PAUSE)
        self._parked[end.job.id] = parked
        self.ended += not is_hand_back
        with self._condition:
            self._push(parked)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-sender", daemon=True)
                self._thread.start()

    def hurry(self, job_ids: Sequence[str]) -> None:
        """Send the parked ends of these jobs now."""
        now = self._clock()
        with self._condition:
            for job_id in job_ids:
                parked = self._parked.get(job_id)
                if parked is not None and parked.next_at > now:
                    parked.next_at = now
                    self._push(parked)

    def hurry_all(self) -> None:
        """Send all parked ends now, and again at short intervals, because the server is stopping."""
        self._longest_pause, self._gap, self._rests_until = _PAUSE_AT_STOP, 0.0, 0.0
        self.hurry(list(self._parked))

    def remove(self, parked: ParkedEnd) -> None:
        """Remove a parked end that the storage has accepted or refused."""
        if self._parked.get(parked.end.job.id) is parked:
            del self._parked[parked.end.job.id]
            self.ended -= not parked.is_hand_back

    def drop_all(self) -> None:
        """Remove all parked ends, because their session is lost and the storage would refuse them."""
        for parked in self._parked.values():
            parked.is_dropped = True
        self._parked.clear()
        self.ended = 0

    def stop(self, timeout: float) -> None:
        """End the thread."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify()
        if self._thread is not None and not have_ended([self._thread], timeout):
            log.error(
                "The thread that stores parked ends has not ended, because the storage does not respond."
            )

    def report_unstored(self) -> None:
        """Log the jobs whose ends are not stored; called after the last attempt to store them."""
        for parked in self.all():
            log.warning(
                "The outcome of job %s was not stored: another transaction has locked its row. The job runs "
                "again when this server's session has ended and the lock is released.",
                parked.end.job.id,
                extra={"job_id": parked.end.job.id},
            )

    # ---- the sender --------------------------------------------------------------------------------------

    def _push(self, parked: ParkedEnd) -> None:
        self._number += 1
        heapq.heappush(self._due, (parked.next_at, self._number, parked))
        self._condition.notify()

    def _run(self) -> None:
        with server_work():
            while (parked := self._wait_for_due()) is not None:
                try:
                    self._send(parked)
                except Exception:
                    log.exception(
                        "Unexpected error while sending the outcome of job %s; sending it again.",
                        parked.end.job.id,
                        extra={"job_id": parked.end.job.id},
                    )
                    self._put_off(parked)

    def _wait_for_due(self) -> ParkedEnd | None:
        """Return the next parked end to send, or None after a stop."""
        with self._condition:
            while not self._is_stopped:
                if not self._due:
                    self._condition.wait()
                    continue
                at, _, parked = self._due[0]
                if parked.is_dropped or at != parked.next_at:  # finished, or also listed for an earlier time
                    heapq.heappop(self._due)
                    continue
                seconds = max(at, self._rests_until) - self._clock()
                if seconds <= 0:
                    heapq.heappop(self._due)
                    return parked
                self._condition.wait(seconds)
            return None

    def _send(self, parked: ParkedEnd) -> None:
        """Try to store the parked end; if its row is still locked, try again later."""
        try:
            if parked.end.blocks is not None and not self._block_key(parked.end):
                result = Applied.BUSY
            else:
                (result,) = self._apply([parked.end.transition])
        except StorageUnavailable as error:
            log.debug("The outcome of job %s cannot be stored yet: %s", parked.end.job.id, error)
            self._put_off(parked)
            return
        if result is Applied.BUSY:
            self._put_off(parked)
            return
        parked.is_dropped = True
        if parked.is_reported:
            seconds = self._clock() - parked.since
            log.info(
                "The outcome of job %s is stored, after %.0f s.",
                parked.end.job.id, seconds,
                extra={"job_id": parked.end.job.id},
            )  # fmt: skip
        self._answered(parked, result)

    def _put_off(self, parked: ParkedEnd) -> None:
        now = self._clock()
        if not parked.is_reported and now - parked.since >= _REPORTED_AFTER:
            parked.is_reported = True
            log.warning(
                "The outcome of job %s has waited %.0f s because another transaction has locked its row; "
                "sending it again until the lock is released. Keep transactions that change jobs short.",
                parked.end.job.id, now - parked.since,
                extra={"job_id": parked.end.job.id},
            )  # fmt: skip
        with self._condition:
            self._rests_until = now + self._gap
            parked.next_at = now + min(self._longest_pause, parked.pause)
            parked.pause = min(self._longest_pause, 2 * parked.pause)
            self._push(parked)
