"""Statistics of the attempts that ended in the last hour, day, week and month, fast for any number of jobs.

The minutes of the last one or two hours are kept in memory and updated on each read. Each completed hour is
summed up once, by a thread that runs while the dashboard is used. Hours that are not summed up yet are
reported as missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from firelock import FirelockError
from firelock.storage import State
from firelock_dashboard.stats.rollups import (
    HOUR,
    MINUTE,
    OUTCOMES,
    Fold,
    Hours,
    RunSum,
    read_minutes,
    total,
)
from firelock_dashboard.web.formatting import instant

if TYPE_CHECKING:
    from firelock import Firelock
    from firelock.storage import Counts

log = logging.getLogger(__name__)

_LATE = 3  # servers store an ended attempt within this number of minutes
_DAY = 24 * HOUR
_AGE = 2.0  # seconds for which a reading is reused
_TASKS_AGE = 5.0
_FIRST_WAIT = 0.25  # the maximum number of seconds that the first visitor waits for the first reading
_AT_ONCE = 6 * MINUTE  # the longest period that a visitor's own thread reads
_IDLE = 60.0  # the thread ends after this number of seconds without a visitor
_DEPTHS_EVERY, _DEPTHS_KEPT = 30.0, 120


@attrs.frozen
class _Span:
    length: int  # micros
    bucket: int  # the length of a bucket for all tasks, in micros
    bucket_of_one: int  # the same for one task or queue, of which only whole hours are stored


SPANS: Mapping[str, _Span] = {
    "1h": _Span(HOUR, MINUTE, MINUTE),
    "24h": _Span(_DAY, 15 * MINUTE, HOUR),
    "7d": _Span(7 * _DAY, 2 * HOUR, 2 * HOUR),
    "30d": _Span(30 * _DAY, 6 * HOUR, 6 * HOUR),
}


@attrs.frozen
class Series:
    """The attempts that ended, in buckets of equal length, oldest first; the last bucket has not ended yet.

    All lists have the same length.
    """

    span: str
    bucket_seconds: int
    starts: list[int]  # micros
    by_outcome: dict[str, list[int]]  # the numbers of attempts for each of OUTCOMES and any others found
    p50: list[float | None]  # an upper bound in seconds, see `RunSum.quantile`; None if nothing ended
    p95: list[float | None]
    known: list[bool]  # whether all hours of the bucket are summed up
    missing: int  # the number of hours that are not summed up yet

    def count(self, *outcomes: str) -> int:
        """Return the number of attempts in the whole span with one of these outcomes (default: any)."""
        return sum(sum(self.by_outcome.get(name, ())) for name in outcomes or self.by_outcome)


@attrs.frozen
class TaskStats:
    """The statistics of a task's ended attempts; durations are in seconds, or None if no attempt ended."""

    runs: int  # the number of attempts that ended
    succeeded: int
    failed: int  # the number of attempts that failed without a retry
    retried: int  # the number of attempts that failed or crashed and are retried
    p50: float | None
    p95: float | None
    mean: float | None
    last_at: datetime | None  # the start of the newest minute in which an attempt ended
    histogram: tuple[int, ...] = ()  # the number of runs per bucket of DURATION_BUCKETS, then of longer runs

    @property
    def failed_attempts(self) -> int:
        """The number of attempts that did not succeed."""
        return self.failed + self.retried


@attrs.frozen
class Rates:
    """The rates at which jobs enter and leave a queue."""

    out_per_minute: float  # attempts that ended
    in_per_minute: float | None  # new jobs; None until the queue's depth has been known for a minute


@attrs.frozen
class _Depths:
    at: float  # monotonic seconds
    queues: dict[str, int]  # the number of waiting and running jobs by queue
    enqueued: int
    processing: int


@attrs.frozen
class Depths:
    """The number of waiting and running jobs, oldest first, at equal intervals."""

    seconds: float  # the time between the first and the last number
    enqueued: Sequence[int]
    processing: Sequence[int]


class History:
    """Ended attempts by time, task and queue.

    Args:
        fire: the app whose jobs are shown.
        monotonic: the clock for the age of readings.
    """

    def __init__(self, fire: Firelock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fire = fire
        self._monotonic = monotonic
        self._hours = Hours(fire)
        self._minutes: dict[int, Fold] = {}
        self._begin = 0  # the start of the known minutes
        self._settled = 0  # minutes before this time are final; later ones may still change
        self._read_at = float("-inf")
        self._recalled = 0  # the number of hours for which records were read
        self._pruned = False
        self._tasks: dict[int, tuple[float, dict[str, TaskStats]]] = {}
        self._active: tuple[float, Mapping[str, int]] = (float("-inf"), {})
        self._depths: deque[_Depths] = deque(maxlen=_DEPTHS_KEPT)
        self._reading = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_read = threading.Event()
        self._ending = threading.Event()
        self._visited_at = float("-inf")

    # ---- queries -------------------------------------------------------------------------------------------

    def series(self, span: str, *, task: str | None = None, queue: str | None = None) -> Series:
        """Return the attempts that ended within one of `SPANS`, of all tasks or of one task or one queue."""
        self._visit()
        kind, now = SPANS[span], self._now()
        bucket = kind.bucket if task is None and queue is None else kind.bucket_of_one
        buckets = kind.length // bucket
        first = now // bucket * bucket - (buckets - 1) * bucket
        starts = [first + place * bucket for place in range(buckets)]
        found = [self._bucket(start, bucket, task, queue) for start in starts]
        run_sums = [run_sum for run_sum, _ in found]
        names = [*OUTCOMES, *sorted({name for one in run_sums for name in one.counts} - set(OUTCOMES))]
        return Series(
            span, bucket // 1_000_000, starts,
            {name: [run_sum.counts.get(name, 0) for run_sum in run_sums] for name in names},
            [run_sum.quantile(0.5) for run_sum in run_sums], [run_sum.quantile(0.95) for run_sum in run_sums],
            [not missing for _, missing in found], len({at for _, missing in found for at in missing}),
        )  # fmt: skip

    def tasks(self, hours: int = 24) -> dict[str, TaskStats]:
        """Return each task's statistics for this and previous clock hours, at most 5 seconds old."""
        self._visit()
        read_at, stats = self._tasks.get(hours, (float("-inf"), {}))
        if self._monotonic() - read_at > _TASKS_AGE:
            stats = self._stats_since(self._now() // HOUR * HOUR - (hours - 1) * HOUR)
            self._tasks[hours] = (self._monotonic(), stats)
        return stats

    def _stats_since(self, since: int) -> dict[str, TaskStats]:
        return {task: _stats(run_sum) for task, run_sum in self._sum(since).tasks.items()}

    def active_hours(self) -> Mapping[str, int]:
        """Return the number of clock hours of the last 24 in which attempts of each task ended.

        The result is at most 5 seconds old.
        """
        self._visit()
        read_at, found = self._active
        if self._monotonic() - read_at > _TASKS_AGE:
            found = self._count_active_hours(self._now() // HOUR * HOUR - 23 * HOUR)
            self._active = (self._monotonic(), found)
        return found

    def _count_active_hours(self, since: int) -> Mapping[str, int]:
        summed = [self._hours.get(at) for at in range(since, max(since, self._begin), HOUR)]
        found = Counter(task for hour in summed if hour is not None for task in hour.fold.tasks)
        by_hour = defaultdict[int, set[str]](set)
        for minute, fold in list(self._minutes.items()):
            if minute >= since:
                by_hour[minute // HOUR].update(fold.tasks)
        for tasks in by_hour.values():
            found.update(tasks)
        return found

    def lately(self, minutes: int = 15) -> dict[str, TaskStats]:
        """Return each task's statistics for the last minutes (at most 60)."""
        self._visit()
        return self._stats_since(self._now() // MINUTE * MINUTE - minutes * MINUTE)

    def ended(self, minutes: int = 3) -> dict[int, Mapping[str, int]]:
        """Return the number of attempts by outcome for each of the last minutes, including the current one.

        The keys are the minutes' starts in seconds since 1970. A minute in which nothing ended has no
        outcomes.
        """
        self._visit()
        last = self._now() // MINUTE
        starts = [minute * MINUTE for minute in range(last - minutes + 1, last + 1)]
        found = {start: self._minutes.get(start) for start in starts if start >= self._begin}
        return {start // 1_000_000: fold.all.counts if fold else {} for start, fold in found.items()}

    def queues(self, minutes: int = 10) -> dict[str, Rates]:
        """Return each queue's rates for the last minutes (at most 60), including the current one."""
        self._visit()
        now = self._now()
        present = now // MINUTE * MINUTE
        oldest = present - minutes * MINUTE
        share = 1 - (now - present) / MINUTE  # the part of the oldest minute that is within the window
        ended: defaultdict[str, float] = defaultdict(float)
        for minute in range(oldest, present + MINUTE, MINUTE):
            fold = self._minutes.get(minute)
            for queue, run_sum in fold.queues.items() if fold else ():
                ended[queue] += run_sum.runs * (share if minute == oldest else 1.0)
        grown = self._growth(minutes)
        rates = {}
        for queue in {*ended, *(grown or {})}:
            out = ended[queue] / minutes
            came = None if grown is None else max(0.0, out + grown.get(queue, 0.0))
            rates[queue] = Rates(out, came)
        return rates

    @property
    def missing(self) -> int:
        """The number of hours of the last 30 days that are not summed up yet."""
        closed = _closed_until(self._now())
        return len(self._hours.missing(closed - 30 * _DAY, closed))

    def expire(self) -> None:
        """Mark the readings as outdated, so that the next request reads the newly ended attempts."""
        self._read_at = float("-inf")
        self._tasks.clear()
        self._active = (float("-inf"), {})

    def note_depths(self, counts: Counts) -> None:
        """Record the number of waiting and running jobs per queue.

        The rate at which jobs are added is computed from the changes of these numbers.
        """
        now = self._monotonic()
        if not self._depths or now - self._depths[-1].at >= _DEPTHS_EVERY:
            queues = {
                queue: states.get(State.ENQUEUED, 0) + states.get(State.PROCESSING, 0)
                for queue, states in counts.by_queue.items()
            }
            by_state = counts.by_state
            self._depths.append(
                _Depths(now, queues, by_state.get(State.ENQUEUED, 0), by_state.get(State.PROCESSING, 0))
            )

    def depths(self) -> Depths:
        """Return the numbers of waiting and running jobs within the last hour, back to the latest gap."""
        since = self._monotonic() - 3_600
        seen: list[_Depths] = []
        for one in reversed(list(self._depths)):
            if one.at < since or (seen and seen[-1].at - one.at > 2.5 * _DEPTHS_EVERY):
                break
            seen.append(one)
        seen.reverse()
        length = seen[-1].at - seen[0].at if seen else 0.0
        return Depths(length, [one.enqueued for one in seen], [one.processing for one in seen])

    def depths_by_minute(self) -> dict[int, tuple[int, int]]:
        """Return the numbers of waiting and running jobs at the end of each minute with a count.

        The keys are the minutes in seconds since 1970. The numbers of at most one hour are kept, in memory.
        """
        now, monotonic = self._now() / 1_000_000, self._monotonic()
        return {
            int(now - (monotonic - one.at)) // 60 * 60: (one.enqueued, one.processing)
            for one in list(self._depths)
        }

    # ---- sums ----------------------------------------------------------------------------------------------

    def _bucket(self, start: int, size: int, task: str | None, queue: str | None) -> tuple[RunSum, list[int]]:
        """Return the sum of a bucket, and the hours of the bucket that are not summed up yet."""
        run_sums: list[RunSum | None] = []
        missing: list[int] = []
        for at in range(start // HOUR * HOUR, start + size, HOUR):
            low, high = max(at, start), min(at + HOUR, start + size)
            hour = self._hours.get(at)
            if low >= self._begin:
                folds = [self._minutes.get(minute) for minute in range(low, high, MINUTE)]
                run_sums += [fold.of(task, queue) for fold in folds if fold]
            elif hour is None:
                missing.append(at)
            elif high - low == HOUR:
                run_sums.append(hour.fold.of(task, queue))
            else:
                five = 5 * MINUTE
                run_sums += hour.fives[(low - at) // five : (high - at) // five]
        return total(run_sum for run_sum in run_sums if run_sum), missing

    def _sum(self, since: int) -> Fold:
        """Return the known sums since the start of an hour."""
        sums = Fold()
        for at in range(since, max(since, self._begin), HOUR):
            hour = self._hours.get(at)
            if hour is not None:
                sums.merge(hour.fold)
        for minute, fold in list(self._minutes.items()):
            if minute >= since:
                sums.merge(fold)
        return sums

    def _growth(self, minutes: int) -> dict[str, float] | None:
        """Return each queue's growth in jobs per minute; None if depths are known for less than a minute."""
        if not self._depths:
            return None
        newest = self._depths[-1]
        oldest = next(one for one in list(self._depths) if newest.at - one.at <= minutes * 60)
        passed = (newest.at - oldest.at) / 60
        if passed < 1:
            return None
        now, before = newest.queues, oldest.queues
        return {name: (now.get(name, 0) - before.get(name, 0)) / passed for name in {*now, *before}}

    # ---- reading -------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return self._fire.client.clock.now()

    def _visit(self) -> None:
        """Update the data for a visitor, who waits only briefly; a thread reads longer periods."""
        self._visited_at = self._monotonic()
        if self._visited_at - self._read_at <= _AGE:
            return
        is_near = self._settled and self._now() - self._settled <= _AT_ONCE
        if is_near and self._reading.acquire(blocking=False):
            try:
                self._read_on()
            finally:
                self._reading.release()
        else:
            self._is_read.clear()
        self._start()
        self._is_read.wait(_FIRST_WAIT)

    def _read_on(self) -> None:
        """Read the minutes up to now, except those that are final.

        A minute is final if it was read after all servers had stored their attempts.
        """
        now = self._now()
        begin = _closed_until(now - HOUR)
        if self._settled < begin:
            self._settled = self._begin = begin
        read = read_minutes(self._fire, self._settled, now + MINUTE)
        # replaced as a whole, because another thread may be reading the old minutes
        kept = {at: fold for at, fold in self._minutes.items() if begin <= at < self._settled}
        self._minutes = {**kept, **read}
        self._begin = max(self._begin, begin)
        self._settled = max(self._settled, now // MINUTE * MINUTE - _LATE * MINUTE)
        self._read_at = self._monotonic()
        self._is_read.set()

    def advance(self) -> bool:
        """Do the next part of the remaining work, and return whether more remains; called by the thread."""
        with self._reading:
            if self._monotonic() - self._read_at > _AGE:
                self._read_on()
        closed = _closed_until(self._now())
        for hours in (25, 8 * 24, 30 * 24):
            if self._recalled < hours:
                self._hours.recall(closed - hours * HOUR, closed)
                self._recalled = hours
                return True
            missing = self._hours.missing(closed - hours * HOUR, closed)
            if missing:
                self._fold(missing[0])
                return True
        if not self._pruned:
            self._pruned = self._hours.prune(self._now()) == 0
            return True
        return False

    def _fold(self, at: int) -> None:
        is_here = at >= self._begin and at + HOUR <= self._settled
        minutes = {start: fold for start, fold in self._minutes.items() if at <= start < at + HOUR}
        self._hours.fold(at, minutes if is_here else None)

    def settle(self) -> None:
        """Do all remaining work in the calling thread; for scripts and tests."""
        while self.advance():
            pass

    # ---- the thread ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._starting:
            if self._ending.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="firelock-history", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set() and self._monotonic() - self._visited_at < _IDLE:
            began = self._monotonic()
            try:
                pause = 0.0 if self.advance() else 1.0
            except FirelockError as error:
                log.info("Cannot sum up the history now; trying again later: %s", error)
                pause = _IDLE / 6
            # the thread works at most half of the time, so that pages stay fast
            self._ending.wait(max(pause, min(1.0, self._monotonic() - began)))

    def close(self) -> None:
        """Stop the thread."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(5)


def _closed_until(now: int) -> int:
    """Return the end of the newest hour whose rollups are complete."""
    return (now - _LATE * MINUTE) // HOUR * HOUR


def _stats(run_sum: RunSum) -> TaskStats:
    counts = run_sum.counts
    return TaskStats(
        run_sum.runs, counts.get("succeeded", 0), counts.get("failed", 0),
        counts.get("retried", 0) + counts.get("crashed", 0), run_sum.quantile(0.5), run_sum.quantile(0.95),
        run_sum.mean, instant(run_sum.last or None), run_sum.histogram,
    )  # fmt: skip
