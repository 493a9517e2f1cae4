"""What ended within a while, added up: counts by outcome, durations, and percentiles out of a histogram."""

from __future__ import annotations

import json
import logging
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import accumulate, starmap
from operator import add
from typing import TYPE_CHECKING, Any

import attrs

from firelock import StorageError
from firelock.storage import DURATION_BUCKETS, Rollup

if TYPE_CHECKING:
    from firelock import Firelock

__all__ = [
    "FIVES",
    "OUTCOMES",
    "Fold",
    "Hour",
    "Hours",
    "Tally",
    "read_minutes",
]

# In the order in which bars are stacked: what went well at the bottom, what needs somebody on top.
OUTCOMES = ("succeeded", "deleted", "retried", "crashed", "failed")

HOUR = 3_600_000_000
MINUTE = 60_000_000
FIVES = 12  # spans of five minutes in an hour

_SHORTEST = DURATION_BUCKETS[0] / 3  # where the first bucket is taken to begin, in seconds
_LONGEST = DURATION_BUCKETS[-1] * 3  # where the last one is taken to end
_EDGES = (_SHORTEST, *DURATION_BUCKETS, _LONGEST)
_BUCKETS = len(DURATION_BUCKETS) + 1
_NOTHING = (0,) * _BUCKETS


@attrs.define
class Tally:
    """What ended: how often with which outcome, how long it took in all, and how the durations lie."""

    counts: dict[str, int] = attrs.field(factory=dict)
    duration: int = 0  # the sum, in micros
    histogram: tuple[int, ...] = _NOTHING  # no list: the garbage collector passes over tuples of numbers
    last: int = 0  # the newest minute in which anything ended, in micros; 0 for never

    @classmethod
    def of(cls, rollup: Rollup) -> Tally:
        """Return a rollup as a sum."""
        return cls({rollup.outcome: rollup.count}, rollup.duration, tuple(rollup.histogram), rollup.minute)

    def merge(self, other: Tally) -> None:
        """Another sum is part of this one."""
        for outcome, count in other.counts.items():
            self.counts[outcome] = self.counts.get(outcome, 0) + count
        self.duration += other.duration
        self.histogram = _sum(self.histogram, other.histogram)
        self.last = max(self.last, other.last)

    @property
    def runs(self) -> int:
        """How many attempts ended, whatever their outcome."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float | None:
        """The mean duration in seconds; None where nothing ended."""
        return self.duration / self.runs / 1_000_000 if self.runs else None

    def quantile(self, share: float) -> float | None:
        """Return the seconds that this share of the attempts stayed within; None where nothing ended.

        Within a bucket durations are taken to lie evenly on the logarithmic scale on which buckets are set.
        """
        total = sum(self.histogram)
        if total == 0:
            return None
        wanted = share * total
        reached = list(accumulate(self.histogram))
        place = min(bisect_left(reached, wanted), _BUCKETS - 1)
        before = reached[place] - self.histogram[place]
        part = (wanted - before) / self.histogram[place] if self.histogram[place] else 0.0
        low, high = _EDGES[place], _EDGES[place + 1]
        return float(low * (high / low) ** part)

    def dump(self) -> list[object]:
        """Return the sum as JSON values."""
        return [self.counts, self.duration, self.histogram, self.last]

    @classmethod
    def load(cls, values: Any) -> Tally:  # noqa: ANN401 - what json.loads returns
        """Return the sum that `dump` returned.

        Raises:
            ValueError: it is none.
        """
        counts, duration, histogram, last = values
        if len(histogram) != _BUCKETS:
            message = f"The histogram has {len(histogram)} buckets; {_BUCKETS} are known."
            raise ValueError(message)
        counted = {str(name): int(count) for name, count in counts.items()}
        return cls(counted, int(duration), tuple(histogram), last)


def _sum(one: Iterable[int], other: Iterable[int]) -> tuple[int, ...]:
    return tuple(starmap(add, zip(one, other, strict=True)))


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of sums."""
    found = Tally()
    for tally in tallies:
        found.merge(tally)
    return found


@attrs.define
class Fold:
    """What ended within a while: in all, and by task and by queue."""

    all: Tally = attrs.field(factory=Tally)
    tasks: dict[str, Tally] = attrs.field(factory=dict)
    queues: dict[str, Tally] = attrs.field(factory=dict)

    def add(self, rollup: Rollup) -> None:
        """A rollup is part of the sums."""
        tally = Tally.of(rollup)
        self.all.merge(tally)
        self.tasks.setdefault(rollup.task, Tally()).merge(tally)
        self.queues.setdefault(rollup.queue, Tally()).merge(tally)

    def merge(self, other: Fold) -> None:
        """Other sums are part of these."""
        self.all.merge(other.all)
        for mine, theirs in ((self.tasks, other.tasks), (self.queues, other.queues)):
            for name, tally in theirs.items():
                mine.setdefault(name, Tally()).merge(tally)

    def of(self, task: str | None, queue: str | None) -> Tally | None:
        """Return the sum of a task, of a queue or of all; None where nothing of it ended."""
        if task is not None:
            return self.tasks.get(task)
        return self.all if queue is None else self.queues.get(queue)


@attrs.define
class Hour:
    """An hour that is over: its sums, and those of each five minutes of it."""

    at: int  # micros of its start
    fold: Fold
    fives: list[Tally]

    @classmethod
    def of(cls, at: int, minutes: Mapping[int, Fold]) -> Hour:
        """Return the hour that these minutes make up, each under the micros of its start."""
        hour = cls(at, Fold(), [Tally() for _ in range(FIVES)])
        for minute, fold in minutes.items():
            hour.fold.merge(fold)
            hour.fives[(minute - at) // (5 * MINUTE)].merge(fold.all)
        return hour

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing ended in it."""
        return not self.fold.tasks

    def dump(self) -> str:
        """Return the hour as the JSON of a record."""
        return json.dumps(
            {
                "tasks": {name: tally.dump() for name, tally in self.fold.tasks.items()},
                "queues": {name: tally.dump() for name, tally in self.fold.queues.items()},
                "fives": [tally.dump() for tally in self.fives],
            },
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, at: int, text: str) -> Hour:
        """Return the hour of a record.

        Raises:
            ValueError: the record holds something else; whoever reads it folds the hour anew.
        """
        try:
            fields = json.loads(text)
            fives = [Tally.load(values) for values in fields["fives"]]
            tasks = {str(name): Tally.load(values) for name, values in fields["tasks"].items()}
            queues = {str(name): Tally.load(values) for name, values in fields["queues"].items()}
        except (TypeError, KeyError, AttributeError) as error:
            message = f"The summary of an hour cannot be read: {error!r}."
            raise ValueError(message) from error
        if len(fives) != FIVES:
            message = f"The summary of an hour has {len(fives)} spans of five minutes; {FIVES} are known."
            raise ValueError(message)
        return cls(at, Fold(total(fives), tasks, queues), fives)


log = logging.getLogger(__name__)

KEPT_HERE = 31 * 24  # hours
_KEPT_HOURS = 90 * 24  # in the storage
_KIND = "history"
_PAGE = 200


def read_minutes(fire: Firelock, since: int, until: int) -> dict[int, Fold]:
    """Return what ended in each minute from `since` to before `until`, under its start; no empty ones."""
    minutes: dict[int, Fold] = {}
    for rollup in _rollups(fire, since, until):
        minutes.setdefault(rollup.minute, Fold()).add(rollup)
    return minutes


def _rollups(fire: Firelock, since: int, until: int) -> Iterable[Rollup]:
    for start in range(since, until, HOUR):
        yield from fire.jobs.timeline(_instant(start), _instant(min(until, start + HOUR)))


class Hours:
    """Sums of hours by their start; `recall` and `fold` fill it, and nothing else reads the storage.

    Two dashboards that fold the same hour write the same record.
    """

    def __init__(self, fire: Firelock) -> None:
        self._fire = fire
        self._lock = threading.Lock()
        self._hours: dict[int, Hour] = {}

    def get(self, at: int) -> Hour | None:
        """Return the sums of the hour that starts then, None where they are not there yet."""
        return self._hours.get(at)

    def missing(self, since: int, until: int) -> list[int]:
        """Return the starts of the hours from `since` to before `until` that are not there, newest first."""
        return [at for at in range(until - HOUR, since - 1, -HOUR) if at not in self._hours]

    def recall(self, since: int, until: int) -> int:
        """Hours from `since` to before `until` that anybody folded are here; return how many.

        One read of a hundred hours or two; a record that cannot be read is passed over and folded anew.
        """
        found, after = 0, _key(since - HOUR)
        while page := self._fire.storage.list_records(_KIND, after=after, limit=_PAGE):
            for record in page:
                at = _instant_of(record.key)
                if at is not None and at >= until:
                    return found
                if at is None or self._hours.get(at) is not None:
                    continue
                try:
                    self._keep(Hour.load(at, record.value))
                    found += 1
                except ValueError:
                    log.warning("The summary of %s cannot be read; it is added up again.", record.key)
            after = page[-1].key
        return found

    def fold(self, at: int, minutes: Mapping[int, Fold] | None = None) -> Hour:
        """The hour is summed up, out of its minutes where they are known, and stored; return it.

        An hour in which nothing ended is not stored: to look again is cheaper than to keep it.
        """
        found = read_minutes(self._fire, at, at + HOUR) if minutes is None else minutes
        hour = Hour.of(at, found)
        self._keep(hour)
        if not hour.is_empty:
            try:
                self._fire.storage.put_record(_KIND, _key(at), hour.dump())
            except StorageError as error:
                # Whoever may only read the storage still sees the history, as long as this process lives.
                log.warning("The summary of an hour could not be stored: %s", error)
        return hour

    def _keep(self, hour: Hour) -> None:
        with self._lock:
            self._hours[hour.at] = hour
            if len(self._hours) > KEPT_HERE:
                for at in sorted(self._hours)[: len(self._hours) - KEPT_HERE]:
                    del self._hours[at]

    def prune(self, now: int) -> int:
        """Up to a page of summaries older than 90 days is gone from the storage; return how many."""
        gone = 0
        for record in self._fire.storage.list_records(_KIND, limit=_PAGE):
            if record.key >= _key(now - _KEPT_HOURS * HOUR):
                break
            gone += self._fire.storage.delete_record(_KIND, record.key)
        return gone


def _instant(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC)


def _key(at: int) -> str:
    """Return the key of an hour's record; keys ascend with time."""
    return _instant(max(0, at)).strftime("%Y-%m-%dT%H")


def _instant_of(key: str) -> int | None:
    try:
        return int(datetime.strptime(key, "%Y-%m-%dT%H").replace(tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError:
        return None
