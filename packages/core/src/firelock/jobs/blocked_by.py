"""Readable reasons why an enqueued job with limits does not start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from firelock.limits.line import ends_before, rate_opens, room_after, start_bound, start_estimate
from firelock.limits.settings import LimitSettings, name_of, read_settings, settings_for
from firelock.model.clock import SECOND, from_micros
from firelock.model.job import JobFilter, JobRecord
from firelock.model.limit import KeyState, LimitUse
from firelock.model.state import State
from firelock.model.text import span
from firelock.storage import Feature, Storage

_KIND = "limit"
_HEAD = 100  # number of jobs that are checked at the head of a queue
_NONE_AHEAD: Mapping[str, int] = {}
_KEYS = 50  # maximum number of keys that are read for the heads of queues

TimeoutOf = Callable[[JobRecord], float | None]
"""Returns the timeout of a job, in seconds; None if it has none, or its task is unknown."""


@attrs.frozen
class KeyWait:
    """The state of a limit key that blocks a job, as it was read."""

    key: str
    running: int  # number of jobs that hold the key
    concurrent: int | None  # maximum number of jobs that hold the key at the same time; None for no limit
    is_paused: bool
    is_full: bool
    opens_in: int = 0  # micros until its rate allows the job to start; 0 if the rate does not delay the job
    opens_at: datetime | None = None  # the same time as a datetime, by the storage's clock
    holders: tuple[str, ...] = ()  # ids of the jobs that hold the key, if it is full; at most 100

    @property
    def is_behind(self) -> bool:
        """Whether the key allows a job to start, but not all the jobs in front of this one."""
        return self.is_full and self.concurrent is not None and self.running < self.concurrent

    def __str__(self) -> str:
        """Return the reason in words: "limit tenant:7 (4 of 4 running)"."""
        why = []
        if self.is_paused:
            why.append("paused")
        if self.is_behind:
            why.append("other jobs first")
        elif self.is_full:
            why.append(f"{self.running:,} of {self.concurrent:,} running")
        if self.opens_in:
            why.append(f"opens in {span(self.opens_in)}")
        return f"limit {self.key} ({', '.join(why)})"


def key_waits(storage: Storage, records: Sequence[JobRecord | None], now: int) -> list[list[KeyWait]]:
    """Return the keys that block each job; the list is empty if the job does not wait for a limit.

    The cost is three reads per key, and none for jobs without limits.
    """
    keys = KeyReads(storage, now)
    return [keys.waits(record) for record in records]


@attrs.frozen
class HeldHead:
    """The state of a queue whose first job waits for a limit, as it was read."""

    count: int  # number of jobs at the head of the queue that wait for limits, at most 100
    first: JobRecord | None  # the first job that waits for a worker, not for a limit; None if none was found


def held_heads(storage: Storage, heads: Iterable[JobRecord], now: int) -> dict[str, HeldHead]:
    """Return the queues whose first job waits for a limit, by name, with a summary of their first jobs.

    Jobs without limits do not require any reads. Otherwise the cost is three reads per key, for at most fifty
    keys in total, and one read for each queue in the result.

    Args:
        storage: the storage of the jobs.
        heads: the first jobs of queues.
        now: the storage's time, in micros.
    """
    keys = KeyReads(storage, now)
    return {head.queue: _held_head(storage, head.queue, keys) for head in heads if keys.waits(head)}


def _held_head(storage: Storage, queue: str, keys: KeyReads) -> HeldHead:
    found = storage.find(JobFilter(state=State.ENQUEUED, queue=queue), limit=_HEAD, oldest_first=True)
    for place, record in enumerate(found.jobs):
        if keys.are_many:
            return HeldHead(place, None)
        if not keys.waits(record):
            return HeldHead(place, record)
    return HeldHead(len(found.jobs), None)


def waits_words(waits: Iterable[KeyWait]) -> str | None:
    """Return the keys that block a job, as one string; None if there are none."""
    return " and ".join(map(str, waits)) or None


@attrs.frozen
class Lasting:
    """The maximum durations of the runs under a key, in micros."""

    left: tuple[float, ...]  # the remaining time until the timeout of each run that holds the key
    timeout: float | None  # the longest timeout; None if a job has none


@attrs.frozen
class KeyReads:
    """The states of keys at one point in time; each key is read once."""

    storage: Storage
    now: int
    states: dict[str, KeyState | None] = attrs.Factory(dict)
    known: dict[str, LimitSettings] = attrs.Factory(dict)
    holders: dict[str, list[JobRecord]] = attrs.Factory(dict)  # the holders of each key

    @property
    def are_many(self) -> bool:
        """Whether a check of several queues has read its maximum number of keys."""
        return len(self.states) >= _KEYS

    def waits(
        self,
        record: JobRecord | None,
        ahead: Mapping[str, int] = _NONE_AHEAD,
        among: Collection[str] | None = None,
    ) -> list[KeyWait]:
        """Return the keys that block a job.

        Args:
            record: the job; None for a job that is not stored.
            ahead: by key, how many jobs come before it in the key's line. A key that would allow one of these
                jobs to start might not allow all of them.
            among: the keys to read; None for all.
        """
        if record is None or record.state is not State.ENQUEUED or record.admission is None:
            return []
        if Feature.LIMITS not in self.storage.features:
            return []
        uses = [use for use in record.admission.limits if among is None or use.key in among]
        found = (self._wait(use, record.id, ahead.get(use.key, 0)) for use in uses)
        return [wait for wait in found if wait is not None]

    def _wait(self, use: LimitUse, job_id: str, ahead: int) -> KeyWait | None:
        state = self._read(use.key)
        settings = settings_for(use.key, self.known)
        running = 0 if state is None else state.running
        holds_itself = state is not None and job_id in state.holders
        is_full = ends_before(settings, running=running - holds_itself, ahead=ahead) > 0
        next_arrival_at = 0 if state is None else state.next_arrival_at
        opens_at = round(
            rate_opens(settings, next_arrival_at=next_arrival_at, ahead=0, cost=use.cost, now=self.now)
        )
        if opens_at <= self.now:
            opens_at = round(
                rate_opens(
                    settings, next_arrival_at=next_arrival_at, ahead=ahead, cost=use.cost, now=self.now
                )
            )
        opens_in = opens_at - self.now
        if not (settings.is_paused or is_full or opens_in):
            return None
        at = from_micros(opens_at) if opens_in else None
        holders = state.holders if state is not None and is_full else ()
        return KeyWait(
            use.key, running, settings.concurrent, settings.is_paused, is_full, opens_in, at, holders
        )

    def estimate(self, use: LimitUse, ahead: int, run_time: float | None) -> float | None:
        """Estimate when a key allows a job to start after `ahead` other jobs; see `start_estimate`."""
        state = self._read(use.key)
        running, next_arrival_at = (0, 0) if state is None else (state.running, state.next_arrival_at)
        settings = settings_for(use.key, self.known)
        return start_estimate(
            settings, running=running, next_arrival_at=next_arrival_at, ahead=ahead, cost=use.cost,
            run_time=run_time, now=self.now,
        )  # fmt: skip

    def lasting(self, key: str, jobs: Sequence[JobRecord], timeout: TimeoutOf) -> Lasting:
        """Return how long the runs under a key can last, from its holders and some of the waiting jobs."""
        state, holders = self._read(key), self._holders(key)
        running = 0 if state is None else state.running
        timeouts = {job.id: timeout(job) for job in (*holders, *jobs)}
        known = {id: seconds * SECOND for id, seconds in timeouts.items() if seconds is not None}
        if not timeouts or len(known) < len(timeouts):
            return Lasting((0.0,) * running, None)
        longest = max(known.values())
        left = [longest] * running  # the runs of jobs that are not among the holders
        for place, job in enumerate(holders[:running]):
            left[place] = max(0.0, (job.claimed_at or self.now) + known[job.id] - self.now)
        return Lasting(tuple(left), longest)

    def bound(self, use: LimitUse, ahead: int, runs: Lasting, ends: Sequence[float] = ()) -> float | None:
        """Return when a key allows a job to start if all jobs in front time out; see `start_bound`.

        Args:
            use: the job's use of the key.
            ahead: how many jobs wait for the key before it.
            runs: the maximum durations of the runs under the key.
            ends: the latest possible end times of the known jobs before it. They can be later than this key
                requires, because other keys delay these jobs.
        """
        state = self._read(use.key)
        settings = settings_for(use.key, self.known)
        bound = start_bound(
            settings, left=runs.left, next_arrival_at=0 if state is None else state.next_arrival_at,
            ahead=ahead, cost=use.cost, timeout=runs.timeout, now=self.now,
        )  # fmt: skip
        if bound is None or not ends:
            return bound
        held = [self.now + left for left in runs.left]
        return max(bound, room_after([*held, *ends], settings.concurrent))

    def _holders(self, key: str) -> list[JobRecord]:
        """Return the jobs that hold a key, at most 100."""
        if key not in self.holders:
            state = self._read(key)
            found = self.storage.get(state.holders) if state is not None and state.holders else []
            self.holders[key] = [job for job in found if job is not None]
        return self.holders[key]

    def _read(self, key: str) -> KeyState | None:
        """Return the state of a key, and store the limit settings of the key and its name in `known`."""
        if key not in self.states:
            found = self.storage.find_keys(key, limit=1)  # keys with this prefix; the key itself sorts first
            self.states[key] = found[0] if found and found[0].key == key else None
        for one in {key, name_of(key)} - self.known.keys():
            record = self.storage.get_record(_KIND, one)
            self.known[one] = LimitSettings() if record is None else read_settings(record.value)
        return self.states[key]
