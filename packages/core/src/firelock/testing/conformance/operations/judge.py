"""Checks of a claim: an independent implementation of limits, as a pure function of the stored state.

The storage chooses which lane comes first. Therefore a claim is checked against rules, not compared with
another claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import attrs

from firelock.model.clock import SECOND
from firelock.model.limit import LimitUse

Keys = tuple[str, ...]
"""The keys of the jobs in a lane; empty for jobs without keys."""

Place = tuple[str, Keys]
"""A queue, and one of its lanes."""

_SLACK = 60 * SECOND  # tolerance, because it is not known exactly when a storage read its clock


@attrs.frozen
class KeySettings:
    """The settings of a key; a rate is the number of microseconds that each unit of cost uses."""

    concurrent: int | None = None
    interval: int = 0  # 0: no rate
    burst: int = 1
    is_closed: bool = False  # whether the key is paused or its rate is zero


@attrs.frozen
class ReadyJob:
    """A job that can be claimed."""

    id: str
    uses: tuple[LimitUse, ...] = ()
    is_late: bool = False  # whether the job must be ended without a run
    keeps: frozenset[str] = frozenset()  # strict keys that the job holds while it waits

    @property
    def lane(self) -> Keys:
        """The keys of the job."""
        return tuple(use.key for use in self.uses)


@attrs.frozen
class Before:
    """The stored state and the request when a claim was made."""

    since: int  # the storage's clock before the claim
    until: int  # the storage's clock after the claim
    room: int
    queues: Sequence[str]  # the requested queues that are not paused
    is_ordered: bool  # whether a queue is served only after the earlier ones
    waiting: Mapping[str, Mapping[Keys, Sequence[ReadyJob]]]  # ready jobs of each queue and lane, in order
    running: Mapping[str, int]  # for each key, the number of jobs that hold it
    next_arrival_at: Mapping[str, int]  # for each key, until when its rate is used up or it is blocked
    settings: Mapping[str, KeySettings]  # by key


@attrs.frozen
class ClaimAnswer:
    """The result of a claim."""

    ids: Sequence[str]
    has_more: bool = False  # whether lanes are left to check, so the next claim should follow immediately


@attrs.frozen
class After:
    """The state after a correct claim."""

    next_arrival_at: dict[str, int]  # for each key, until when its rate is used up
    left: frozenset[Place]  # lanes that were skipped although their next job could start


class Unjust(AssertionError):
    """The error for a claim that breaks a rule."""


def judge(before: Before, claim: ClaimAnswer) -> After:
    """Check a claim; return the state after it.

    Raises:
        Unjust: If the claim breaks a rule.
    """
    places = {
        job.id: (queue, lane)
        for queue in before.queues
        for lane, jobs in before.waiting.get(queue, {}).items()
        for job in jobs
    }
    _say(
        len(claim.ids) <= before.room,
        f"{len(claim.ids)} jobs were claimed, but at most {before.room} were requested",
    )
    _say(len(set(claim.ids)) == len(claim.ids), "a job was claimed twice")
    _say(places.keys() >= set(claim.ids), "a job was claimed that did not wait in the requested queues")
    got = Counter(places[id] for id in claim.ids)
    taken = {
        place: [job for job in before.waiting[place[0]][place[1]] if job.id in set(claim.ids)]
        for place in got
    }
    for place, jobs in taken.items():
        _judge_order(before.waiting[place[0]][place[1]], jobs)
    started = [job for jobs in taken.values() for job in jobs]
    after = _Keys(before, started)
    after.judge()
    open_left = {
        (queue, lane)
        for queue in before.queues
        for lane, jobs in before.waiting.get(queue, {}).items()
        if len(jobs) > got[queue, lane] and after.admits(_rest(jobs, taken.get((queue, lane), [])))
    }
    if len(claim.ids) < before.room and not claim.has_more:
        _say(not open_left, f"lanes still admit jobs although the claim had room: {sorted(open_left)}")
    if not any(job.is_late or 0 in [use.cost for use in job.uses] for job in started):
        _judge_turns(before, got, open_left)  # late jobs and jobs with cost 0 leave more to later lanes
    if before.is_ordered:
        _judge_queues(before.queues, got, open_left, has_more=claim.has_more)
    if len(before.queues) == 1 and len(claim.ids) == before.room:
        _judge_halves(before.room, got, open_left)
    return After(after.next_arrival_at, frozenset(open_left - got.keys()))


def _say(is_just: bool, what: str) -> None:
    if not is_just:
        raise Unjust(what)


def _rest(jobs: Sequence[ReadyJob], taken: Sequence[ReadyJob]) -> list[ReadyJob]:
    ids = {job.id for job in taken}
    return [job for job in jobs if job.id not in ids]


def _judge_order(jobs: Sequence[ReadyJob], taken: Sequence[ReadyJob]) -> None:
    """Check that the first jobs of a lane start; jobs that keep a strict key may start from anywhere."""
    usual = [job for job in jobs if not job.keeps]
    first = [job for job in taken if not job.keeps]
    _say(usual[: len(first)] == first, f"the claimed jobs are not the first of lane {jobs[0].lane}")


class _Keys:
    """The keys after a claim: how many jobs hold each key, and until when its rate is used up."""

    def __init__(self, before: Before, started: Sequence[ReadyJob]) -> None:
        self._before = before
        self._started = [job for job in started if not job.is_late]
        self.running = Counter(before.running)
        self.next_arrival_at = dict(before.next_arrival_at)
        for job in self._started:
            self.running.update(use.key for use in job.uses if use.key not in job.keeps)
        self._costs: dict[str, list[int]] = {}
        for job in self._started:
            for use in job.uses:
                self._costs.setdefault(use.key, []).append(use.cost)
        for key, costs in self._costs.items():
            if interval := self._of(key).interval:
                used = max(self.next_arrival_at.get(key, 0), before.since)
                self.next_arrival_at[key] = (
                    used + sum(costs) * interval if sum(costs) else self.next_arrival_at.get(key, 0)
                )

    def _of(self, key: str) -> KeySettings:
        return self._before.settings.get(key, KeySettings())

    def judge(self) -> None:
        """Check that no key has too many holders or is used too fast, and that no blocked key was used."""
        for key, costs in self._costs.items():
            settings = self._of(key)
            _say(not settings.is_closed, f"a job of key {key} started although the key is closed")
            _say(
                settings.concurrent is None
                or self.running[key] <= settings.concurrent
                or self._only_kept(key),
                f"{self.running[key]} jobs hold {key}, the limit is {settings.concurrent}",
            )
            self._judge_rate(key, settings, costs)

    def _only_kept(self, key: str) -> bool:
        """Return whether the started jobs already held the key; if so, they may exceed its limit."""
        return all(key in job.keeps for job in self._started if key in job.lane)

    def _judge_rate(self, key: str, settings: KeySettings, costs: Sequence[int]) -> None:
        next_arrival_at, now = self._before.next_arrival_at.get(key, 0), self._before.until + _SLACK
        if not settings.interval:
            _say(
                next_arrival_at <= now,
                f"a job of key {key} started before {next_arrival_at}, until which the key is blocked",
            )
            return
        used = max(next_arrival_at, self._before.since)
        if max(costs) > settings.burst:
            _say(
                next_arrival_at <= now,
                f"a start above the burst of {key} did not wait until the rate was unused",
            )
            _say(sum(costs) == max(costs), f"{key} admitted other starts together with one above its burst")
        else:
            end = now + settings.burst * settings.interval
            _say(used + sum(costs) * settings.interval <= end, f"{key} is used faster than its rate")

    def admits(self, left: Sequence[ReadyJob]) -> bool:
        """Return whether the next job of a lane could certainly start."""
        head = next((job for job in left if job.keeps), left[0])
        return all(self._is_open(use, is_kept=use.key in head.keeps) for use in head.uses)

    def _is_open(self, use: LimitUse, *, is_kept: bool) -> bool:
        settings, next_arrival_at = self._of(use.key), self.next_arrival_at.get(use.key, 0)
        if settings.is_closed:
            return False
        if settings.concurrent is not None and self.running[use.key] >= settings.concurrent and not is_kept:
            return False
        spare = max(0, min(settings.burst - cost for cost in (1, use.cost))) * settings.interval
        return next_arrival_at - spare + _SLACK <= self._before.since or next_arrival_at == 0


def _judge_turns(before: Before, got: Mapping[Place, int], open_left: Collection[Place]) -> None:
    """Check that no lane gets two jobs more than another lane of its queue whose next job could start."""
    for queue in before.queues:
        most = max((number for (of, lane), number in got.items() if of == queue and lane), default=0)
        for of, lane in open_left:
            if of == queue and lane:
                behind = got.get((of, lane), 0)
                _say(most <= behind + 1, f"lane {lane} got {behind} jobs, another lane got {most}")


def _judge_queues(
    queues: Sequence[str],
    got: Mapping[Place, int],
    open_left: Collection[Place],
    *,
    has_more: bool,
) -> None:
    """Check that a later queue is served only if no earlier queue has a job that may start."""
    served = {queue for queue, _ in got}
    left = {queue for queue, _ in open_left}
    for number, queue in enumerate(queues):
        if queue in left and not has_more:
            _say(
                served.isdisjoint(queues[number + 1 :]), f"a later queue was served before {queue} was empty"
            )


def _judge_halves(room: int, got: Mapping[Place, int], open_left: Collection[Place]) -> None:
    """Check that jobs with and without keys get half each, as long as more jobs of both kinds can start."""
    plain = sum(number for (_, lane), number in got.items() if not lane)
    for lacks, number, kind in ((False, plain, "without"), (True, room - plain, "with")):
        if any(bool(lane) is lacks for _, lane in open_left):
            _say(number >= room // 2, f"jobs {kind} keys got only {number} of {room} starts")
