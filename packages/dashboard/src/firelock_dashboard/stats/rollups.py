"""Sums of ended attempts: counts by outcome, durations, and bounds of percentiles."""

from __future__ import annotations

import json
import logging
import math
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, Any

import attrs

from firelock import StorageError
from firelock.storage import DURATION_BUCKETS, Rollup
from firelock_dashboard.web.formatting import instant, micros

if TYPE_CHECKING:
    from firelock import Firelock

# in the stacking order of bars, with successes at the bottom and outcomes that need attention at the top
OUTCOMES = ("succeeded", "deleted", "retried", "crashed", "failed")

HOUR = 3_600_000_000
MINUTE = 60_000_000
FIVES = 12  # the number of five-minute periods in an hour

_EDGES = (0.0, *DURATION_BUCKETS, math.inf)
_BUCKETS = len(DURATION_BUCKETS) + 1
_NOTHING = (0,) * _BUCKETS


@attrs.define
class RunSum:
    """A sum of ended attempts: counts by outcome, the total duration, and the distribution of durations."""

    counts: dict[str, int] = attrs.field(factory=dict)
    duration: int = 0  # the sum, in micros
    histogram: tuple[int, ...] = _NOTHING  # not a list, because the garbage collector skips tuples of numbers
    last: int = 0  # the newest minute in which an attempt ended, in micros; 0 if none did

    @classmethod
    def of(cls, rollup: Rollup) -> RunSum:
        """Return a rollup as a sum."""
        return cls({rollup.outcome: rollup.count}, rollup.duration, tuple(rollup.histogram), rollup.minute)

    def merge(self, other: RunSum) -> None:
        """Add another sum to this one."""
        for outcome, count in other.counts.items():
            self.counts[outcome] = self.counts.get(outcome, 0) + count
        self.duration += other.duration
        self.histogram = tuple(map(add, self.histogram, other.histogram))
        self.last = max(self.last, other.last)

    @property
    def runs(self) -> int:
        """The number of attempts that ended, with any outcome."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """The mean duration in seconds, or None if no attempt ended."""
        return self.duration / self.runs / 1_000_000 if self.runs else None

    def quantile(self, share: float) -> float | None:
        """Return an upper bound, in seconds, of the duration of this share of the attempts.

        The result is the exact duration if one attempt ended, and None if none ended. Otherwise it is the
        upper end of the percentile's bucket, or less if the sum of all durations rules out that value.
        """
        reached = list(accumulate(self.histogram))
        if not reached[-1]:
            return None
        rank = max(1, math.ceil(share * reached[-1] - 1e-9))
        place = bisect_left(reached, rank)
        low, high = _EDGES[place : place + 2]
        as_long = reached[place] - rank + 1  # number of attempts in this bucket at or above the percentile
        others = sum(count * edge for count, edge in zip(self.histogram, _EDGES, strict=False) if count)
        room = self.duration / 1_000_000 - (others - as_long * low)
        return min(high, max(low, room / as_long))

    def dump(self) -> list[object]:
        """Return the sum as JSON values."""
        return [self.counts, self.duration, self.histogram, self.last]

    @classmethod
    def load(cls, values: Any) -> RunSum:  # noqa: ANN401 - the result of json.loads
        """Return the sum that `dump` returned.

        Raises:
            ValueError: If the values do not form a valid sum.
        """
        counts, duration, histogram, last, *_ = values
        if len(histogram) != _BUCKETS:
            raise ValueError(f"The histogram must have {_BUCKETS} buckets, got {len(histogram)}.")
        counted = {str(name): int(count) for name, count in counts.items()}
        return cls(counted, int(duration), tuple(histogram), last)


def total(run_sums: Iterable[RunSum]) -> RunSum:
    """Return the sum of all these sums."""
    found = RunSum()
    for run_sum in run_sums:
        found.merge(run_sum)
    return found


@attrs.define
class Fold:
    """The attempts that ended within a period: in total, by task and by queue."""

    all: RunSum = attrs.field(factory=RunSum)
    tasks: dict[str, RunSum] = attrs.field(factory=dict)
    queues: dict[str, RunSum] = attrs.field(factory=dict)

    def add(self, rollup: Rollup) -> None:
        """Add a rollup to the sums."""
        run_sum = RunSum.of(rollup)
        self.all.merge(run_sum)
        self.tasks.setdefault(rollup.task, RunSum()).merge(run_sum)
        self.queues.setdefault(rollup.queue, RunSum()).merge(run_sum)

    def merge(self, other: Fold) -> None:
        """Add other sums to these."""
        self.all.merge(other.all)
        for mine, theirs in ((self.tasks, other.tasks), (self.queues, other.queues)):
            for name, run_sum in theirs.items():
                mine.setdefault(name, RunSum()).merge(run_sum)

    def of(self, task: str | None, queue: str | None) -> RunSum | None:
        """Return the sum for a task, a queue or all attempts; None if no such attempt ended."""
        if task is not None:
            return self.tasks.get(task)
        return self.all if queue is None else self.queues.get(queue)


@attrs.define
class Hour:
    """A completed hour: its sums, and the sums of each five-minute period."""

    at: int  # the start of the hour, in micros
    fold: Fold
    fives: list[RunSum]

    @classmethod
    def of(cls, at: int, minutes: Mapping[int, Fold]) -> Hour:
        """Return the hour that consists of these minutes; the keys are the minutes' starts in micros."""
        hour = cls(at, Fold(), [RunSum() for _ in range(FIVES)])
        for minute, fold in minutes.items():
            hour.fold.merge(fold)
            hour.fives[(minute - at) // (5 * MINUTE)].merge(fold.all)
        return hour

    def dump(self) -> str:
        """Return the hour as the JSON of a record."""
        kinds = {"tasks": self.fold.tasks, "queues": self.fold.queues}
        summed = {kind: {name: one.dump() for name, one in sums.items()} for kind, sums in kinds.items()}
        fives = [run_sum.dump() for run_sum in self.fives]
        return json.dumps({**summed, "fives": fives}, separators=(",", ":"))

    @classmethod
    def load(cls, at: int, text: str) -> Hour:
        """Return the hour of a record.

        Raises:
            ValueError: If the record has other content; the caller must sum up the hour again.
        """
        try:
            fields = json.loads(text)
            fives = list(map(RunSum.load, fields["fives"]))
            tasks, queues = (
                {str(name): RunSum.load(values) for name, values in fields[kind].items()}
                for kind in ("tasks", "queues")
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"Cannot read the summary of an hour: {error!r}.") from error
        if len(fives) != FIVES:
            raise ValueError(
                f"The summary of an hour must have {FIVES} spans of five minutes, got {len(fives)}."
            )
        return cls(at, Fold(total(fives), tasks, queues), fives)


log = logging.getLogger(__name__)

KEPT_HERE = 31 * 24  # hours
_KEPT_HOURS = 90 * 24  # in the storage
_KIND = "history"
_PAGE = 200
_HOUR_FORMAT = "%Y-%m-%dT%H"


def read_minutes(fire: Firelock, since: int, until: int) -> dict[int, Fold]:
    """Return the attempts of each minute from `since` to before `until`, by the minute's start.

    Minutes without attempts are left out.
    """
    minutes: dict[int, Fold] = {}
    for start in range(since, until, HOUR):
        for rollup in fire.jobs.timeline(instant(start), instant(min(until, start + HOUR))):
            minutes.setdefault(rollup.minute, Fold()).add(rollup)
    return minutes


class Hours:
    """The sums of hours, by the hour's start.

    Only `recall`, `fold` and `prune` access the storage. Two dashboards that sum up the same hour write the
    same record.
    """

    def __init__(self, fire: Firelock) -> None:
        self._fire = fire
        self._lock = threading.Lock()
        self._hours: dict[int, Hour] = {}

    def get(self, at: int) -> Hour | None:
        """Return the sums of the hour that starts at this time, or None if it is not summed up yet."""
        return self._hours.get(at)

    def missing(self, since: int, until: int) -> list[int]:
        """Return the starts of the hours from `since` to before `until` that have no sums, newest first."""
        return [at for at in range(until - HOUR, since - 1, -HOUR) if at not in self._hours]

    def recall(self, since: int, until: int) -> None:
        """Load the stored sums of the hours from `since` to before `until`.

        One read fetches up to 200 hours. A record that cannot be read is skipped; the hour is then summed up
        again.
        """
        after = _key(since - HOUR)
        while page := self._fire.storage.list_records(_KIND, after=after, limit=_PAGE):
            for record in page:
                at = _instant_of(record.key)
                if at is not None and at >= until:
                    return
                if at is not None and at not in self._hours:
                    try:
                        self._keep(Hour.load(at, record.value))
                    except ValueError:
                        log.warning("Cannot read the summary of hour %s; computing it again.", record.key)
            after = page[-1].key

    def fold(self, at: int, minutes: Mapping[int, Fold] | None = None) -> None:
        """Sum up the hour, from its minutes if they are given, and store the sums.

        An hour in which nothing ended is not stored, because reading it again is cheaper than storing it.
        """
        hour = Hour.of(at, read_minutes(self._fire, at, at + HOUR) if minutes is None else minutes)
        self._keep(hour)
        if hour.fold.tasks:
            try:
                self._fire.storage.put_record(_KIND, _key(at), hour.dump())
            except StorageError as error:
                # a process with read-only access keeps its summaries in memory
                log.warning("Cannot store the summary of an hour; keeping it in memory: %s", error)

    def _keep(self, hour: Hour) -> None:
        with self._lock:
            self._hours[hour.at] = hour
            for at in sorted(self._hours)[:-KEPT_HERE]:
                del self._hours[at]

    def prune(self, now: int) -> int:
        """Delete up to a page of summaries older than 90 days from the storage; return their number."""
        deleted = 0
        for record in self._fire.storage.list_records(_KIND, limit=_PAGE):
            if record.key >= _key(now - _KEPT_HOURS * HOUR):
                break
            deleted += self._fire.storage.delete_record(_KIND, record.key)
        return deleted


def _key(at: int) -> str:
    """Return the key of an hour's record; keys ascend with time."""
    return instant(max(0, at)).strftime(_HOUR_FORMAT)


def _instant_of(key: str) -> int | None:
    try:
        return micros(datetime.strptime(key, _HOUR_FORMAT).replace(tzinfo=UTC))
    except ValueError:
        return None
