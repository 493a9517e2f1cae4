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
    from benchmarks.seed.templates import JobTemplate, JobTemplates

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
_SPREAD = 15 * SECOND  # the jobs of a burst were created at most this long before it
# The relative load of each hour of a day in UTC, for a shop in Europe with some customers overseas.
_BY_HOUR = (
    0.32, 0.25, 0.22, 0.2, 0.22, 0.3, 0.45, 0.65, 0.85, 1.0, 1.08, 1.1, 1.12, 1.08, 1.02, 1.0, 1.05, 1.15,
    1.25, 1.2, 1.0, 0.8, 0.6, 0.45,
)  # fmt: skip
_BY_WEEKDAY = (1.0, 0.97, 0.98, 1.02, 1.1, 0.8, 0.66)
_GROWTH = 1.4  # the load increases during the year by this share
_RUN_UP_DAYS = 10  # the number of last days in which the load increases further
_SHARE_OF_LAST_DAY = (0.035, 0.2)  # minimum, maximum
_WANTED_IN_LAST_DAY = 3_500


@attrs.frozen
class Burst:
    """Jobs that are stored and claimed together: their number, time, and period of creation."""

    at: int
    spread: int
    first: int  # position of its first job among all jobs
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

    def time_of(self, place: float) -> int:
        """Return the time of the job at this position."""
        wanted = place / self.jobs * self._edges[-1]
        hour = min(len(self._edges) - 2, bisect_right(self._edges, wanted) - 1)
        low, high = self._edges[hour], self._edges[hour + 1]
        inside = (wanted - low) / (high - low)
        return self._start + int((hour + inside) * HOUR)

    def place(self, at: int) -> int:
        """Return the number of jobs before a time."""
        hours = (at - self._start) / HOUR
        hour = int(hours)
        low, high = self._edges[hour], self._edges[hour + 1]
        return int((low + (high - low) * (hours - hour)) / self._edges[-1] * self.jobs)

    def bursts(self, random: Random, size: int) -> Iterator[Burst]:
        """Yield the bursts in order of time; they are smaller in the last day."""
        first, previous = 0, self._start
        while first < self.jobs:
            is_recent = self.now - previous < DAY
            usual = max(1, size // 2) if is_recent else size
            count = min(self.jobs - first, max(1, int(usual * (0.4 + 1.2 * random.random()))))
            at = max(previous + 1, self.time_of(first + count))
            yield Burst(at, min(at - previous, _SPREAD), first, count)
            first, previous = first + count, at


def _run_up(days_left: int) -> float:
    """Return a value that increases from 0 before the run-up to 1 on the last day."""
    return max(0.0, 1 - (days_left - 1) / _RUN_UP_DAYS)


_INCIDENT = (5 * HOUR, 5 * HOUR - 40 * MINUTE)  # time since its beginning and its end
_INCIDENT_SHARE = 0.7  # of the jobs during the incident
_INCIDENT_LEAST = 16  # jobs; if fewer were enqueued, for example at night, it began earlier
_CALM = 30  # number of last bursts without retries, because no burst follows them
_RETRYING_MADE = (9 * HOUR, 30 * MINUTE)  # maximum and minimum age
_MOST_FAILED_FIRST, _MOST_FAILED_YET = 4, 6
_TIME_FOR_ALL = 7 * HOUR  # time within which all retries of any policy run
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
    RECOVERS = 2  # fails several times, then succeeds
    DELETED = 3  # by a user, before it ran
    DROPPED = 4  # by its retry policy
    CRASHES = 5  # its process dies three times
    DELAYED = 6  # succeeds, and was scheduled for a later time
    RETRYING = 7  # has failed and waits for a retry
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
        """Return the number of jobs that have neither ended nor run before; retried jobs do not count."""
        return self.processing + self.enqueued + self.scheduled + self.awaiting


@attrs.define
class Plan:
    """The plan of a job: its kind and its remaining events."""

    template: JobTemplate
    fate: Fate
    result: str = ""
    failure: Failure | None = None
    failing: int = 0  # number of further runs that fail
    has_child: bool = False
    is_child: bool = False  # of the previous job in its burst


class Year:
    """The jobs that ended or were retried in the year before now."""

    def __init__(
        self, rhythm: Rhythm, bursts: Sequence[Burst], templates: JobTemplates, sizes: Sizes, random: Random
    ) -> None:
        self._now = rhythm.now
        self._templates = templates
        self._random = random
        self._failures = Failures(KINDS)
        usable = bursts[max(0, len(bursts) - _CALM)].first
        self._fates = self._draw_fates(rhythm, usable, sizes)
        pairs = [
            (kind, templates.by_name[name], kind.weight / len(kind.tasks))
            for kind in self._failures.kinds for name in kind.tasks
        ]  # fmt: skip
        final = [pair for pair in pairs if not _drops(pair[0], pair[1])]
        self._failing_ever = _Choice(final)
        self._failing_soon = _Choice([pair for pair in final if not _is_retried(pair[0], pair[1], 4)])
        self._failing = self._failing_ever
        self._retried = _Choice([pair for pair in pairs if _is_retried(pair[0], pair[1], 1)])
        self._retrying = _Choice([pair for pair in pairs if _is_retried(pair[0], pair[1], 3)])
        self._dropped = _Choice([pair for pair in pairs if _drops(pair[0], pair[1])])
        self._gateway = _Choice([(GATEWAY_DOWN, templates.by_name[name], 1.0) for name in GATEWAY_DOWN.tasks])

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
        self._scatter(fates, Fate.RETRYING, sizes.retrying, first, last)
        for fate, count in wanted.items():
            self._scatter(fates, fate, count, 0, usable)
        return fates

    def _scatter(self, fates: bytearray, fate: Fate, count: int, low: int, high: int) -> None:
        """Give this fate to a number of random jobs between these positions that only succeed so far."""
        free = fates[low:high].count(Fate.SUCCEEDS)
        left = min(count, free)
        while left:
            place = low + int(self._random.random() * (high - low))
            if not fates[place]:
                fates[place] = fate
                left -= 1

    def plans(self, burst: Burst) -> list[Plan]:
        """Return a burst's jobs."""
        templates = iter(self._templates.some(self._random, burst.count))
        fates = self._fates[burst.first : burst.first + burst.count]
        self._failing = self._failing_soon if self._now - burst.at < _TIME_FOR_ALL else self._failing_ever
        plans = [self._plan(fate, template) for fate, template in zip(fates, templates, strict=True)]
        for parent, child in zip(plans, islice(plans, 1, None), strict=False):
            if self._may_follow(parent, child):
                parent.has_child = child.is_child = True
                child.template = self._templates.by_name[_CHILD_OF[parent.template.name]]
        return plans

    def _may_follow(self, parent: Plan, child: Plan) -> bool:
        if parent.fate or child.fate or parent.is_child or parent.template.name not in _CHILD_OF:
            return False
        return self._random.random() < _CHILD_SHARE

    def _plan(self, fate: int, template: JobTemplate) -> Plan:
        match fate:
            case Fate.SUCCEEDS | Fate.DELAYED | Fate.DELETED:
                return Plan(template, Fate(fate))
            case Fate.FAILS:
                return self._failing_plan(Fate.FAILS, self._failing)
            case Fate.HIT:
                return self._failing_plan(Fate.HIT, self._gateway)
            case Fate.DROPPED:
                return self._failing_plan(Fate.DROPPED, self._dropped)
            case Fate.CRASHES:
                return Plan(self._templates.by_name["shop.media.transcode_video"], Fate.CRASHES)
            case Fate.SURVIVES:
                return self._failing_plan(Fate.SURVIVES, self._gateway, most=2)
            case Fate.RECOVERS:
                return self._failing_plan(Fate.RECOVERS, self._retried, most=_MOST_FAILED_FIRST)
            case _:
                return self._failing_plan(Fate.RETRYING, self._retrying, most=_MOST_FAILED_YET)

    def _failing_plan(self, fate: Fate, choice: _Choice, *, most: int | None = None) -> Plan:
        failure, template = choice.draw(self._random)
        plan = Plan(template, fate, failure=failure, failing=1_000)
        if most is not None:
            retries = min(most, template.retry.attempts)
            plan.failing = 1 + int(self._random.random() ** 2.5 * retries)
        return plan

    def failure_of(self, task: str) -> Failure:
        """Return a kind of failure of the task."""
        return self._failures.of_task(self._random, task)


class _Choice:
    """Weighted pairs of a failure and a task in which it occurs."""

    def __init__(self, pairs: Sequence[tuple[Failure, JobTemplate, float]]) -> None:
        self._pairs = [(failure, template) for failure, template, _ in pairs]
        self._weights = [weight for *_, weight in pairs]

    def draw(self, random: Random) -> tuple[Failure, JobTemplate]:
        return random.choices(self._pairs, self._weights)[0]


def _is_retried(failure: Failure, template: JobTemplate, attempts: int) -> bool:
    return template.retry.attempts >= attempts and template.retry.wants(failure.example)


def _drops(failure: Failure, template: JobTemplate) -> bool:
    return template.retry.on_exceeded is OnExceeded.DELETE and template.retry.wants(failure.example)
