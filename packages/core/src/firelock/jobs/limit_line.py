"""The jobs that wait for a limit's key: their order, why they wait, and their estimated start times."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import attrs

from firelock.jobs.blocked_by import KeyReads, KeyWait, Lasting, TimeoutOf
from firelock.limits.line import LINE_LENGTH, NEVER
from firelock.model.clock import SECOND, from_micros
from firelock.model.job import JobRecord
from firelock.model.limit import LimitUse
from firelock.model.state import State
from firelock.storage import Feature, Storage

_MINUTE = 60 * SECOND
_WINDOW = 60 * _MINUTE  # micros; run times are estimated from the runs that ended in this period
_ENDS = 2  # number of jobs on a page whose positions for other keys are read one by one
_LATEST = 250_000_000_000 * SECOND  # the year 9892; a datetime cannot represent much later times
_KEYS = 10  # maximum number of keys that a page reads, because each read visits every lane
_FRONT = 200  # maximum number of jobs in front that are read to compute a bound
_BETWEEN = 500  # positions that are read for another key, beginning with the page's first job


@attrs.frozen(kw_only=True)
class KeyPlace:
    """The position of a job among the jobs that wait for one of its keys."""

    key: str
    ahead: int | None  # the number of jobs before it, at most 10,000; None if it does not wait for the key
    is_least: bool  # whether more jobs might come before it than were counted
    wait: KeyWait | None  # why the key does not allow it to start now; None if it does
    starts_at: datetime | None  # the estimated time at which the key allows it to start; None if unknown
    starts_by: datetime | None  # the time if all jobs in front time out; set only if `starts_at` is unknown


@attrs.frozen(kw_only=True)
class WaitingJob:
    """A job that waits for a limit's key."""

    job: JobRecord
    place: int  # the number of jobs before it that wait for the key
    turn: int | None
    """Like `place`, but without the overtaken jobs of this page; None for an overtaken job.

    Others overtake a job if the key has room for it, but another key holds it back.
    """
    waits: tuple[KeyWait, ...]  # the keys that do not allow it to start now
    # Other keys that do not allow a job to start now, so this job cannot start next.
    blocked_by: tuple[str, ...]
    is_read: bool  # whether all its keys were read; otherwise there might be more `waits`
    starts_at: datetime | None  # the estimated time at which all its keys allow it to start; None if unknown
    starts_by: datetime | None  # the time if all jobs in front time out; set only if `starts_at` is unknown


@attrs.frozen(kw_only=True)
class WaitingLine:
    """A page of the jobs that wait for a limit's key, in their waiting order."""

    key: str
    jobs: tuple[WaitingJob, ...]
    after: int | None  # the `after` of the next page; None on the last page
    is_cut: bool  # whether there are more lanes than a line includes


def read_line(
    storage: Storage, key: str, now: int, *, after: int, limit: int, timeout: TimeoutOf
) -> WaitingLine:
    """Return a page of the jobs that wait for a key.

    The number of reads is bounded. The reads return the waiting line, its jobs, ten keys, the run times of
    the last hour and, in three reads, the positions of the jobs for each key that all jobs of the page share.
    If no job of these tasks has ended in the last hour, the jobs that hold these keys are read as well.
    """
    found = storage.find_waiting(key, after=after, limit=limit + 1)
    has_more = len(found.ids) > limit and after + limit < LINE_LENGTH
    records = [
        (after + place, record)
        for place, record in enumerate(storage.get(found.ids[:limit]))
        if record is not None and record.state is State.ENQUEUED  # the other jobs have since started
    ]
    if records:
        page = _Page(storage, now, key, [record for _, record in records], timeout, after=after)
        jobs = tuple(page.waiting(place, record) for place, record in records)
    else:
        jobs = ()
    return WaitingLine(key=key, jobs=jobs, after=after + limit if has_more else None, is_cut=found.is_cut)


def read_places(storage: Storage, record: JobRecord, now: int, timeout: TimeoutOf) -> list[KeyPlace]:
    """Return the position of an enqueued job for each of its keys; an empty list for any other job.

    This costs four reads per key, plus one. If no job of the task has ended in the last hour, this requires
    one more read per key, and two more reads for up to 200 jobs in front.
    """
    if record.state is not State.ENQUEUED or Feature.LIMITS not in storage.features:
        return []
    uses = _uses(record)
    keys = KeyReads(storage, now)
    run_time = _run_time(storage, [record.task], now) if uses else None
    found = {use.key: storage.find_waiting(use.key, limit=0, job_id=record.id) for use in uses}
    ahead = {key: line.place or 0 for key, line in found.items()}
    waits = {wait.key: wait for wait in _held_now(keys, record, ahead)}
    starts = {use.key: keys.estimate(use, ahead[use.key], run_time) for use in uses}
    bounds: Mapping[str, float | None] = {}
    if None in starts.values():
        longest = max(ahead, key=lambda key: ahead[key])
        before = [one for one in _front(storage, longest, ahead[longest]) if one.id != record.id]
        known = _Bounds(keys, [*before, record], timeout)
        known.pass_all(before, frozenset(ahead))
        bounds = known.by_key(uses, ahead)
    return [
        KeyPlace(
            key=use.key, ahead=found[use.key].place, wait=waits.get(use.key),
            is_least=found[use.key].is_cut or found[use.key].place == LINE_LENGTH,
            starts_at=_to_datetime(starts[use.key]),
            starts_by=None
            if starts[use.key] is not None
            else _to_datetime(bounds[use.key]),
        )
        for use in uses
    ]  # fmt: skip


def _held_now(
    keys: KeyReads, record: JobRecord, ahead: Mapping[str, int], among: Collection[str] | None = None
) -> list[KeyWait]:
    """Return the keys that block every job; if there are none, those whose starts go to jobs in front."""
    return keys.waits(record, among=among) or keys.waits(record, ahead, among)


def _combined(starts: Sequence[float | None], now: int) -> datetime | None:
    """Return approximately when all keys allow a job to start; None if this is unknown.

    Keys without an estimate matter only if no other key delays the job.
    """
    at = max((start for start in starts if start is not None), default=now)
    if at == NEVER or (None in starts and at <= now):
        return None
    return _to_datetime(at)


def _to_datetime(at: float | None) -> datetime | None:
    return None if at is None or at == NEVER else from_micros(min(math.ceil(at), _LATEST))


def _front(storage: Storage, key: str, count: int) -> list[JobRecord]:
    """Return the first jobs of a line, in order; an empty list if there are more than 200."""
    if not 0 < count <= _FRONT:
        return []
    found = storage.get(storage.find_waiting(key, limit=count).ids)
    return [record for record in found if record is not None and record.state is State.ENQUEUED]


class _Bounds:
    """The start times of the jobs of a line if all jobs in front run until their timeouts.

    Under each of its keys, a job starts only after the runs before it. One of these runs might be late
    because of a key that the two jobs do not share, so the bounds of the jobs in front are kept.
    """

    def __init__(self, keys: KeyReads, records: Sequence[JobRecord], timeout: TimeoutOf) -> None:
        self._keys, self._records, self._timeout = keys, records, timeout
        self._lasting: dict[str, Lasting] = {}  # maximum run durations by key
        self._ends: defaultdict[str, list[float]] = defaultdict(list)  # latest ends of jobs in front, by key
        self._passed: list[float] = []  # latest end times of the overtaken jobs

    def by_key(
        self, uses: Sequence[LimitUse], ahead: Mapping[str, int], passed_in: str | None = None
    ) -> dict[str, float | None]:
        """Return when each key allows the next job to start; None if a job in front has no timeout."""
        bounds: dict[str, float | None] = {}
        for use in uses:
            ends = [*self._ends[use.key], *(self._passed if use.key == passed_in else ())]
            bounds[use.key] = self._keys.bound(use, ahead[use.key], self._runs(use.key), ends)
        return {key: None if bound == NEVER else bound for key, bound in bounds.items()}

    def next(
        self, uses: Sequence[LimitUse], ahead: Mapping[str, int], passed_in: str | None = None
    ) -> float | None:
        """Return when all keys allow the next job to start; None if a job in front has no timeout.

        For the key `passed_in`, only other overtaken jobs come after this job.
        """
        bounds = self.by_key(uses, ahead, passed_in).values()
        at = max((NEVER if bound is None else bound for bound in bounds), default=NEVER)
        for use in uses:
            timeout = self._runs(use.key).timeout
            ends = self._passed if use.key == passed_in else self._ends[use.key]
            ends.append(NEVER if timeout is None else at + timeout)
        return None if at == NEVER else at

    def pass_all(self, records: Iterable[JobRecord], among: Collection[str]) -> None:
        """Add these jobs at the front of the line; `among` contains the keys that are relevant."""
        seen: Counter[str] = Counter()
        for record in records:
            uses = [use for use in _uses(record) if use.key in among]
            self.next(uses, seen)
            seen.update(use.key for use in uses)

    def _runs(self, key: str) -> Lasting:
        if key not in self._lasting:
            alike = [one for one in self._records if any(use.key == key for use in _uses(one))]
            self._lasting[key] = self._keys.lasting(key, alike, self._timeout)
        return self._lasting[key]


class _Page:
    """The jobs of a page, and the data that is read once for all of them."""

    def __init__(
        self,
        storage: Storage,
        now: int,
        key: str,
        records: Sequence[JobRecord],
        timeout: TimeoutOf,
        *,
        after: int,
    ) -> None:
        self._storage, self._key, self._now = storage, key, now
        self._keys = KeyReads(storage, now)
        self._run_time = _run_time(storage, {record.task for record in records}, now)
        self._seen: Counter[str] = Counter()
        self._passed = 0  # number of overtaken rows before the next one
        keys = [[use.key for use in _uses(record)] for record in records]
        shared = [one for one in keys[0] if one != key and all(one in of for of in keys)]
        wanted = dict.fromkeys([key, *shared, *(one for of in keys for one in of)])
        self._readable = frozenset(list(wanted)[:_KEYS])
        self._places: dict[str, dict[str, int]] = {}  # positions of jobs by key and job id
        self._shared = {one: self._ends(one, records) for one in shared}
        self._last = max(1, len(records) - 1)
        self._bounds: _Bounds | None = None  # None if the starts are estimated from run times
        if self._run_time is None:
            front = _front(storage, key, after)
            self._bounds = _Bounds(self._keys, [*front, *records], timeout)
            self._bounds.pass_all(front, self._readable)

    def _ends(self, key: str, records: Sequence[JobRecord]) -> tuple[int, int]:
        """Return the positions of the first and the last job of the page for another key.

        The positions of the jobs between them are read as well, for at most 500 positions from the first one.
        """
        first, last = (self._place(key, record) for record in (records[0], records[-1]))
        if last > first and len(records) > _ENDS:
            limit = min(last - first + 1, _BETWEEN)
            between = self._storage.find_waiting(key, after=first, limit=limit)
            self._places[key] = {id: first + number for number, id in enumerate(between.ids)}
        return first, max(first, last)

    def _place(self, key: str, record: JobRecord) -> int:
        return self._storage.find_waiting(key, limit=0, job_id=record.id).place or 0

    def waiting(self, place: int, record: JobRecord) -> WaitingJob:
        """Return the next job of the page with its keys and its estimated start."""
        uses = [use for use in _uses(record) if use.key in self._readable]
        row = self._seen[self._key]
        has_room = not self._keys.waits(record, among={self._key})
        blocking = self._keys.waits(record, among=self._readable - {self._key})
        is_passed = has_room and bool(blocking)
        turn = None if is_passed else place - self._passed
        self._passed += is_passed
        before = place if turn is None else turn
        ahead = {
            use.key: before if use.key == self._key else self._ahead(use.key, row, record) for use in uses
        }
        known = {key: number for key, number in ahead.items() if key == self._key or key in self._shared}
        self._seen.update(use.key for use in _uses(record))
        starts = [self._keys.estimate(use, ahead[use.key], self._run_time) for use in uses]
        starts_at = _combined(starts, self._now)
        bound = None
        if self._bounds is not None:
            bound = self._bounds.next(uses, ahead, self._key if is_passed else None)
        return WaitingJob(
            job=record, place=place, turn=turn,
            waits=tuple(_held_now(self._keys, record, known, self._readable)),
            blocked_by=tuple(wait.key for wait in blocking),
            is_read=len(uses) == len(_uses(record)), starts_at=starts_at,
            starts_by=_to_datetime(bound) if starts_at is None else None,
        )  # fmt: skip

    def _ahead(self, key: str, row: int, record: JobRecord) -> int:
        """Return the approximate number of jobs before a row that wait for another key.

        If the jobs of the page do not all share the key, this is a lower bound.
        """
        place = self._places.get(key, {}).get(record.id)
        if place is not None:
            return place
        if key in self._shared:
            first, last = self._shared[key]
            return first + (last - first) * row // self._last
        return self._seen[key]


def _uses(record: JobRecord) -> tuple[LimitUse, ...]:
    return () if record.admission is None else record.admission.limits


def _run_time(storage: Storage, tasks: Iterable[str], now: int) -> float | None:
    """Return the mean duration of these tasks' runs in the last hour, in micros; None if no run ended."""
    names = set(tasks)
    only = next(iter(names)) if len(names) == 1 else None
    ended = [one for one in storage.timeline(now - _WINDOW, now + _MINUTE, task=only) if one.task in names]
    runs = sum(one.count for one in ended)
    return sum(one.duration for one in ended) / runs if runs else None
