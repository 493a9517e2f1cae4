"""The start positions of claims while the index of ready jobs contains many jobs that are no longer ready.

While a snapshot is open anywhere on the server, the server keeps the index entry of every job that has been
claimed since the snapshot. A read from the beginning of the index reads all of these entries: at 500 jobs per
second, this is 1.8 million entries per claim after an hour. Therefore, the statement that claims jobs
measures its own duration. A *level* is a priority in a queue. After several slow full reads, the following
reads start, at each level, after the job that was claimed there last. Only an occasional read is full.

A job is late if reads at its level have already passed its position. It waits for a full read. This happens
to jobs that are handed back, and to jobs from a transaction that was open for longer than five seconds. While
no snapshot is open, no job waits. For jobs in lanes, `lanes.LaneFloors` does the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from firelock.storage import ClaimRequest
from firelock_sql.postgresql.connect import number_array, text_array

_LONG = 10_000  # microseconds; a longer read is slow; more time is allowed for each claimed job
_MICROS_OF_A_JOB = 100
_IN_A_ROW = 3  # number of slow reads in a row; the first read of dead entries marks them, so the next is fast
_REST = 20  # pause after a slow full read, as a multiple of its duration
_LATE = 5_000_000  # microseconds; jobs from transactions that are open longer wait for a full read
_MOST_LEVELS = 1_000
_BEFORE_ALL = (-1, -1)
_LOWEST, _HIGHEST = -(1 << 31) - 1, 1 << 31  # numbers that are lower and higher than any priority

Level = tuple[str, int]  # queue, priority
Place = tuple[int, int]  # time at which the job was enqueued, its number
Claimed = tuple[str, int, int, int]  # queue, priority, time, number


@attrs.frozen
class Probe:
    """One part of a short read: a level after a position, or all priorities between two levels of a queue."""

    queue: str
    low: int
    high: int  # equal to `low`: only this level; otherwise, both bounds are excluded
    after: Place = _BEFORE_ALL


@attrs.frozen
class ClaimRead:
    """A claim with its probes; a claim without probes is a full read."""

    request: ClaimRequest
    probes: Sequence[Probe] | None = None

    @property
    def values(self) -> dict[str, object]:
        """The parameters of a short read."""
        probes = self.probes or ()
        places = [probe.after for probe in probes]
        is_of_all = self.request.queues is None  # a claim of named queues does not search for new queues
        known = sorted({probe.queue for probe in probes}) if is_of_all else []
        return {
            "probe_queues": text_array([probe.queue for probe in probes]),
            "lows": number_array([probe.low for probe in probes]),
            "highs": number_array([probe.high for probe in probes]),
            "ats": number_array([at for at, _ in places]),
            "afters": number_array([seq for _, seq in places]),
            "gap_lows": text_array(["", *known][:-1]),
            "gap_highs": text_array(known),
            "last_known": known[-1] if known else None,
        }


class ClaimStart:
    """The known levels, and the progress of this process at each level. Threads may share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[Level, Place] = {}
        self._next_full_at = clock()
        self._slow_reads = 0

    def next_read(self, request: ClaimRequest) -> ClaimRead:
        """Return the next claim with its probes, or without probes for a full read."""
        if self._clock() >= self._next_full_at:
            return ClaimRead(request)
        places = self._places.copy()
        known = dict.fromkeys(queue for queue, _ in sorted(places))
        queues = known if request.queues is None else dict.fromkeys(request.queues)
        if known.keys().isdisjoint(queues):
            return ClaimRead(request)
        return ClaimRead(request, [probe for queue in queues for probe in _probes(queue, places)])

    def record(self, read: ClaimRead, claimed: Sequence[Claimed], result: Any) -> None:  # noqa: ANN401 - varies
        """Record the jobs that a read has claimed.

        `result` is the duration of a full read in microseconds, or the unpaused queues of a short read.
        """
        if read.probes is not None:
            self._record_short(read.request, claimed, set(result or ()))
        elif result <= _LONG + _MICROS_OF_A_JOB * len(claimed):
            self._slow_reads = 0
            self._know((queue, priority) for queue, priority, _, _ in claimed)
        else:
            self._slow_reads += 1
            self._pass(claimed)
            if self._slow_reads >= _IN_A_ROW:
                self._next_full_at = self._clock() + result * _REST / 1_000_000

    def _record_short(self, request: ClaimRequest, claimed: Sequence[Claimed], queues: set[str]) -> None:
        self._pass(claimed)
        if len(claimed) < request.limit:  # no more jobs were ready, so these levels have been read completely
            levels = [level for level in self._places.copy() if level[0] in queues]
            self._pass([(*level, request.now - _LATE, 0) for level in levels])

    def _know(self, levels: Iterable[Level]) -> None:
        for level in set(levels).difference(self._places):
            if len(self._places) < _MOST_LEVELS:
                self._places[level] = _BEFORE_ALL

    def _pass(self, claimed: Iterable[Claimed]) -> None:
        last: dict[Level, Place] = {}
        for queue, priority, enqueued_at, seq in claimed:
            last[queue, priority] = max(last.get((queue, priority), _BEFORE_ALL), (enqueued_at, seq))
        self._know(last)
        for level, place in last.items():
            if level in self._places:
                self._places[level] = max(self._places[level], place)


def _probes(queue: str, places: Mapping[Level, Place]) -> list[Probe]:
    """Return the probes of a queue, highest priorities first."""
    found: list[Probe] = []
    above = _HIGHEST
    for priority in sorted((priority for name, priority in places if name == queue), reverse=True):
        found += [
            Probe(queue, priority, above),
            Probe(queue, priority, priority, places[queue, priority]),
        ]
        above = priority
    return [*found, Probe(queue, _LOWEST, above)]
