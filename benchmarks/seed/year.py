"""The fictional jobs of a year, with their times and ends, from one random seed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, islice
from random import Random
from typing import TYPE_CHECKING

import attrs

from benchmarks.seed.failures import GATEWAY_DOWN, KINDS, Failure, Failures
from firelock.model.clock import SECOND, from_micros
from firelock.retry import OnExceeded

if TYPE_CHECKING:
    from benchmarks.seed.looks import Look, Looks

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "Burst",
    "Fate",
    "Plan",
    "Rhythm",
    "Sizes",
    "Year",
]

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
DAYS = 365
_LAST_GAP = 20 * SECOND  # the youngest job is this old
_SPREAD = 15 * SECOND  # at most so long before their burst its jobs were made
# How busy each hour of a day is, in UTC: a shop in Europe with some customers overseas.
_BY_HOUR = (
    0.32, 0.25, 0.22, 0.2, 0.22, 0.3, 0.45, 0.65, 0.85, 1.0, 1.08, 1.1, 1.12, 1.08, 1.02, 1.0, 1.05, 1.15,
    1.25, 1.2, 1.0, 0.8, 0.6, 0.45,
)  # fmt: skip
_BY_WEEKDAY = (1.0, 0.97, 0.98, 1.02, 1.1, 0.8, 0.66)
_GROWTH = 1.4  # so much more at the year's end than at its start, above 1
_RUN_UP_DAYS = 10  # so long before its end the year begins to be busier than usual
_SHARE_OF_LAST_DAY = (0.035, 0.2)  # at least, at most
_WANTED_IN_LAST_DAY = 3_500


@attrs.frozen
class Burst:
    """Jobs that are stored and claimed together: how many, when, and within which span they were made."""

    at: int
    spread: int
    first: int  # place of its first job among all
    count: int


class Rhythm:
    """A distribution of jobs over the year that ends now."""

    def __init__(self, now: int, jobs: int) -> None:
        self.now = now
        self.jobs = jobs
        self._start = now - DAYS * DAY - _LAST_GAP
        weights = [self._weight(hour) for hour in range(DAYS * 24)]
        low, high = _SHARE_OF_LAST_DAY
        share = min(high, max(low, _WANTED_IN_LAST_DAY / jobs))
        factor = max(1.0, share * sum(weights[:-24]) / ((1 - share) * sum(weights[-24:])))
        weights = [weight * factor ** _run_up(DAYS - hour // 24) for hour, weight in enumerate(weights)]
        self._edges = [0.0, *accumulate(weights)]

    def _weight(self, hour: int) -> float:
        at = from_micros(self._start + hour * HOUR)
        growth = 1 + _GROWTH * hour / (DAYS * 24)
        wobble = 1 + 0.12 * ((hour * 7_919) % 97 / 97 - 0.5)
        return _BY_HOUR[at.hour] * _BY_WEEKDAY[at.weekday()] * growth * wobble

    def instant(self, place: float) -> int:
        """Return the time of the job at this position."""
        wanted = place / self.jobs * self._edges[-1]
        hour = min(len(self._edges) - 2, bisect_right(self._edges, wanted) - 1)
        low, high = self._edges[hour], self._edges[hour + 1]
        inside = (wanted - low) / (high - low)
        return self._start + int((hour + inside) * HOUR)

    def place(self, instant: int) -> int:
        """Return the number of jobs before a time."""
        hours = (instant - self._start) / HOUR
        hour = int(hours)
        low, high = self._edges[hour], self._edges[hour + 1]
        return int((low + (high - low) * (hours - hour)) / self._edges[-1] * self.jobs)

    def bursts(self, random: Random, size: int) -> Iterator[Burst]:
        """Yield the bursts in order of time, smaller ones in the last day."""
        first, former = 0, self._start
        while first < self.jobs:
            is_recent = self.now - former < DAY
            usual = max(1, size // 2) if is_recent else size
            count = min(self.jobs - first, max(1, int(usual * (0.4 + 1.2 * random.random()))))
            at = max(former + 1, self.instant(first + count))
            yield Burst(at, min(at - former, _SPREAD), first, count)
            first, former = first + count, at


def _run_up(days_left: int) -> float:
    """Return 1 for the last day, 0 for those before the run-up, and what lies between them."""
    return max(0.0, 1 - (days_left - 1) / _RUN_UP_DAYS)


_INCIDENT = (5 * HOUR, 5 * HOUR - 40 * MINUTE)  # so long ago it began and ended
_INCIDENT_SHARE = 0.7  # of the jobs that came meanwhile
_INCIDENT_LEAST = 16  # jobs; where fewer came, as by night, it began earlier
_CALM = 30  # in the last bursts nothing is tried again: there is no later one
_RETRYING_MADE = (9 * HOUR, 30 * MINUTE)  # so long ago
_MOST_FAILED_FIRST, _MOST_FAILED_YET = 4, 6
_TIME_FOR_ALL = 7 * HOUR  # within which all retries of any policy are made
_CHILD_OF = {
    "shop.billing.charge_card": "shop.mail.send_receipt",
    "shop.shipping.create_label": "shop.mail.send_shipped",
    "shop.imports.import_stock": "shop.catalog.reindex_product",
}
_CHILD_SHARE = 0.12


class Fate(IntEnum):
    """The fates of a job."""

    SUCCEEDS = 0
    FAILS = 1
    RECOVERS = 2  # fails some times, then succeeds
    DELETED = 3  # by somebody, before it ran
    DROPPED = 4  # by its retry policy
    CRASHES = 5  # its process dies three times
    DELAYED = 6  # succeeds, and was made for later
    RETRYING = 7  # has failed and waits for a retry that is still to come
    HIT = 8  # failed in the incident
    SURVIVES = 9  # failed in the incident, succeeded after it


@attrs.frozen
class Sizes:
    """The numbers of jobs of each kind in a seed."""

    jobs: int
    processing: int
    enqueued: int
    scheduled: int
    retrying: int
    awaiting: int
    runs: int  # of each recurring job, at most

    @classmethod
    def of(cls, jobs: int) -> Sizes:
        """Return the sizes for a total number of jobs."""
        return cls(
            jobs,
            processing=30,
            enqueued=min(6_000, jobs * 12 // 1_000),
            scheduled=min(900, jobs * 6 // 1_000),
            retrying=min(300, jobs * 3 // 1_000),
            awaiting=min(240, jobs * 6 // 1_000),
            runs=min(20, max(2, jobs // 1_000)),
        )

    @property
    def present(self) -> int:
        """Return how many jobs have not ended and have no past, retrying ones left out."""
        return self.processing + self.enqueued + self.scheduled + self.awaiting


@attrs.define
class Plan:
    """The plan of a job: its kind and its remaining events."""

    look: Look
    fate: Fate
    result: str = ""
    failure: Failure | None = None
    failing: int = 0  # so many more runs fail
    has_child: bool = False
    is_child: bool = False  # of the job before it in its burst


class Year:
    """The jobs that were ended, or retried, in the year before now."""

    def __init__(
        self, rhythm: Rhythm, bursts: Sequence[Burst], looks: Looks, sizes: Sizes, random: Random
    ) -> None:
        self._now = rhythm.now
        self._looks = looks
        self._random = random
        self._failures = Failures(KINDS)
        usable = bursts[max(0, len(bursts) - _CALM)].first
        self._fates = self._draw_fates(rhythm, usable, sizes)
        pairs = [
            (kind, looks.by_name[name], kind.weight / len(kind.tasks))
            for kind in self._failures.kinds for name in kind.tasks
        ]  # fmt: skip
        final = [pair for pair in pairs if not _drops(pair[0], pair[1])]
        self._failing_ever = _Choice(final)
        self._failing_soon = _Choice([pair for pair in final if not _is_retried(pair[0], pair[1], 4)])
        self._failing = self._failing_ever
        self._retried = _Choice([pair for pair in pairs if _is_retried(pair[0], pair[1], 1)])
        self._retrying = _Choice([pair for pair in pairs if _is_retried(pair[0], pair[1], 3)])
        self._dropped = _Choice([pair for pair in pairs if _drops(pair[0], pair[1])])
        self._gateway = _Choice([(GATEWAY_DOWN, looks.by_name[name], 1.0) for name in GATEWAY_DOWN.tasks])

    def _draw_fates(self, rhythm: Rhythm, usable: int, sizes: Sizes) -> bytearray:
        fates = bytearray(rhythm.jobs)
        began, ended = (min(usable, rhythm.place(rhythm.now - ago)) for ago in _INCIDENT)
        began = max(0, min(began, ended - _INCIDENT_LEAST))
        hit = [place for place in range(began, ended) if self._random.random() < _INCIDENT_SHARE]
        for place in hit:
            fates[place] = Fate.SURVIVES if self._random.random() < 1 / 3 else Fate.HIT
        wanted = {
            Fate.FAILS: max(0, sizes.jobs * 24 // 1_000 - fates.count(Fate.HIT)),
            Fate.CRASHES: max(1, sizes.jobs // 3_000),
            Fate.RECOVERS: sizes.jobs * 12 // 1_000,
            Fate.DELETED: sizes.jobs * 6 // 1_000,
            Fate.DROPPED: sizes.jobs * 4 // 1_000,
            Fate.DELAYED: sizes.jobs * 15 // 1_000,
        }
        first, last = (min(usable, rhythm.place(rhythm.now - ago)) for ago in _RETRYING_MADE)
        self._strew(fates, Fate.RETRYING, sizes.retrying, first, last)
        for fate, count in wanted.items():
            self._strew(fates, fate, count, 0, usable)
        return fates

    def _strew(self, fates: bytearray, fate: Fate, count: int, low: int, high: int) -> None:
        """So many jobs that had no fate of their own between these places have this one."""
        free = fates[low:high].count(Fate.SUCCEEDS)
        left = min(count, free)
        while left:
            place = low + int(self._random.random() * (high - low))
            if not fates[place]:
                fates[place] = fate
                left -= 1

    def plans(self, burst: Burst) -> list[Plan]:
        """Return a burst's jobs."""
        looks = iter(self._looks.some(self._random, burst.count))
        fates = self._fates[burst.first : burst.first + burst.count]
        self._failing = self._failing_soon if self._now - burst.at < _TIME_FOR_ALL else self._failing_ever
        plans = [self._plan(fate, look) for fate, look in zip(fates, looks, strict=True)]
        for parent, child in zip(plans, islice(plans, 1, None), strict=False):
            if self._may_follow(parent, child):
                parent.has_child = child.is_child = True
                child.look = self._looks.by_name[_CHILD_OF[parent.look.name]]
        return plans

    def _may_follow(self, parent: Plan, child: Plan) -> bool:
        if parent.fate or child.fate or parent.is_child or parent.look.name not in _CHILD_OF:
            return False
        return self._random.random() < _CHILD_SHARE

    def _plan(self, fate: int, look: Look) -> Plan:
        match fate:
            case Fate.SUCCEEDS | Fate.DELAYED | Fate.DELETED:
                return Plan(look, Fate(fate))
            case Fate.FAILS:
                return self._failing_plan(Fate.FAILS, self._failing)
            case Fate.HIT:
                return self._failing_plan(Fate.HIT, self._gateway)
            case Fate.DROPPED:
                return self._failing_plan(Fate.DROPPED, self._dropped)
            case Fate.CRASHES:
                return Plan(self._looks.by_name["shop.media.transcode_video"], Fate.CRASHES)
            case Fate.SURVIVES:
                return self._failing_plan(Fate.SURVIVES, self._gateway, most=2)
            case Fate.RECOVERS:
                return self._failing_plan(Fate.RECOVERS, self._retried, most=_MOST_FAILED_FIRST)
            case _:
                return self._failing_plan(Fate.RETRYING, self._retrying, most=_MOST_FAILED_YET)

    def _failing_plan(self, fate: Fate, choice: _Choice, *, most: int | None = None) -> Plan:
        failure, look = choice.draw(self._random)
        plan = Plan(look, fate, failure=failure, failing=1_000)
        if most is not None:
            retries = min(most, look.retry.attempts)
            plan.failing = 1 + int(self._random.random() ** 2.5 * retries)
        return plan

    def failure_of(self, task: str) -> Failure:
        """Return a kind of failure of the task."""
        return self._failures.of_task(self._random, task)


class _Choice:
    """Pairs of a failure and a task that it befalls, common ones more often."""

    def __init__(self, pairs: Sequence[tuple[Failure, Look, float]]) -> None:
        self._pairs = [(failure, look) for failure, look, _ in pairs]
        self._weights = [weight for *_, weight in pairs]

    def draw(self, random: Random) -> tuple[Failure, Look]:
        return random.choices(self._pairs, self._weights)[0]


def _is_retried(failure: Failure, look: Look, attempts: int) -> bool:
    return look.retry.attempts >= attempts and look.retry.wants(failure.example)


def _drops(failure: Failure, look: Look) -> bool:
    return look.retry.on_exceeded is OnExceeded.DELETE and look.retry.wants(failure.example)
