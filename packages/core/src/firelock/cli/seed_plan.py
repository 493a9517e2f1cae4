"""What becomes of each made-up job that has ended: the story of the year, drawn from one random number."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import attrs

from firelock.cli.seed_errors import Failure, Failures
from firelock.cli.seed_failures import GATEWAY_DOWN, KINDS
from firelock.cli.seed_rhythm import HOUR, MINUTE, Burst, Rhythm
from firelock.retry import OnExceeded

if TYPE_CHECKING:
    from firelock.cli.seed_looks import Look, Looks

__all__ = ["Fate", "Plan", "Sizes", "Year"]

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
    """How a job ends."""

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
    """How many jobs of each kind a seed of some size has."""

    jobs: int
    processing: int
    enqueued: int
    scheduled: int
    retrying: int
    awaiting: int
    runs: int  # of each recurring job, at most

    @classmethod
    def of(cls, jobs: int) -> Sizes:
        """Return the sizes for so many jobs in all."""
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
    """What one job is and what is still to happen to it."""

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
        """Return a kind of failure that befalls the task."""
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
