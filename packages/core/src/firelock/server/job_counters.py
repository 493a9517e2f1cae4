"""Job counters of a process by queue and task, in memory that outlives the process if a server provides it.

A worker process counts in memory that its supervisor reads. When the process dies, its successor continues
these counts, so no counter decreases. Only one process writes at a time, because no two worker processes
share such memory; any number of processes can read it. A row is written as a single copy of numbers that only
grow. Even if the process dies during a write, each number has either its old or its new value.

The multiprocess mode of prometheus-client was rejected: it requires a writable folder, needs an environment
variable before its first import, and keeps files for every process that has ever existed.

The layout is little-endian: layout number · number of bytes used · rows. Each row consists of: length of the
key · key · numbers as doubles. A key is a queue and a task, separated by a zero byte and padded to a multiple
of eight bytes.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Self, TypeAlias

import attrs

from firelock.model.batch import BATCH_TASK
from firelock.model.job import NewJob, Settled
from firelock.model.metrics import MetricFamily
from firelock.model.state import State
from firelock.plugins.hookspecs import hookimpl
from firelock.plugins.loader import of_process, on_probe_port
from firelock.plugins.observers import counts_in_memory

log = logging.getLogger(__name__)

DURATIONS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)
"""Upper bounds of the buckets of `job_duration_seconds` and `job_wait_seconds`, in seconds."""
TASK_LIMIT = 200
"""Pairs of queue and task with separate labels in a process; further ones are counted as "other"."""
OTHER = "other"

_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)
_CREATED, _RETRIES, _CRASHES, _FINISHED = 0, 1, 2, 3
_DURATION = _FINISHED + len(_ENDS)  # offset of the buckets, the overflow bucket and the sum
_WAIT = _DURATION + len(DURATIONS) + 2
_WIDTH = _WAIT + len(DURATIONS) + 2
_ROW = struct.Struct(f"<{_WIDTH}d")
_HEAD = struct.Struct("<QQ")
_LENGTH = struct.Struct("<Q")
_LAYOUT = 0x46_4C_00_01_00_00 + _WIDTH
_LONGEST_KEY, _QUEUE_LIMIT = 1_024, 64
_SIZE = _HEAD.size + (TASK_LIMIT + _QUEUE_LIMIT + 1) * (_LENGTH.size + _LONGEST_KEY + _ROW.size)
_MICROS = 1_000_000


@attrs.frozen
class EndedAttempt:
    """The counted properties of an ended attempt."""

    outcome: State | None  # the final state of the job; None if it runs again
    is_retried: bool
    is_crashed: bool  # whether its job process died
    seconds: float  # the duration of its run
    waited: float  # seconds from becoming enqueued to its start

    @classmethod
    def of(cls, settled: Settled) -> Self | None:
        """Return the counted properties; None if the job was handed back or postponed, or waits."""
        job, transition = settled.job, settled.transition
        outcome = transition.to if transition.to in _ENDS else None
        is_retried = outcome is None and transition.retries is not None
        is_crashed = transition.crashes is not None
        if outcome is None and not is_retried and not is_crashed:
            return None
        started_at = transition.started_at or transition.at - settled.duration
        waited = max(0, started_at - job.enqueued_at) / _MICROS
        return cls(outcome, is_retried, is_crashed, settled.duration / _MICROS, waited)


class TaskLabels:
    """The queue and task under which attempts are counted: their own, or shared ones above the limit."""

    def __init__(self, known: Iterable[tuple[str, str]] = ()) -> None:
        self._known = set(known)

    def of(self, queue: str, task: str) -> tuple[str, str]:
        """Return the labels."""
        key = queue, task
        if key in self._known:
            return key
        if len(self._known) >= TASK_LIMIT or len(_encoded(key)) > _LONGEST_KEY:
            key = queue, OTHER
            if key not in self._known and len(self._known) >= TASK_LIMIT + _QUEUE_LIMIT:
                key = OTHER, OTHER
        self._known.add(key)
        return key


Counted: TypeAlias = Mapping[tuple[str, str], Sequence[float]]
"""Numbers by queue and task; `job_families` defines their meanings."""


@attrs.define(eq=False)
class _CounterRow:
    place: int  # offset of its numbers in the memory
    numbers: list[float]


class JobCounters:
    """Job counters. Thread-safe.

    Args:
        memory: the memory to write to: all zeros, or the counts of an earlier process in the same place.
    """

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        layout, used = _HEAD.unpack_from(memory)
        if layout != _LAYOUT:  # new memory, or rows of another version of Firelock, which cannot be read
            memory[:] = bytes(len(memory))
            used = _HEAD.size
            memory[: _HEAD.size] = _HEAD.pack(_LAYOUT, used)
        self._used: int = used
        self._rows = {key: _CounterRow(place, numbers) for key, place, numbers in _rows_in(memory)}
        self._labels = TaskLabels(self._rows)

    @classmethod
    def private(cls) -> Self:
        """Return counters that no other process can read."""
        return cls(bytearray(_SIZE))

    @classmethod
    def shared(cls, descriptor: int) -> Self:
        """Return counters in the memory of a descriptor; its size is 0 until a process uses it.

        Raises:
            OSError: If there is not enough memory.
        """
        if os.fstat(descriptor).st_size < _SIZE:
            os.ftruncate(descriptor, _SIZE)
            if hasattr(os, "posix_fallocate"):  # reserve memory, so that later writes cannot fail
                os.posix_fallocate(descriptor, 0, _SIZE)
        return cls(mmap.mmap(descriptor, _SIZE))

    # ---- writing -----------------------------------------------------------------------------------------

    def count_created(self, jobs: Iterable[NewJob]) -> None:
        """Count stored jobs. A batch is not counted, because it never runs."""
        with self._lock:
            rows = []
            for job in jobs:
                if job.task == BATCH_TASK:
                    continue
                row = self._row(job.queue, job.task)
                row.numbers[_CREATED] += 1
                rows.append(row)
            self._write(rows)

    def count_settled(self, settled: Iterable[Settled]) -> None:
        """Count ended attempts. Jobs that were handed back or postponed, or that wait, are not counted."""
        with self._lock:
            rows = []
            for each in settled:
                end = EndedAttempt.of(each)
                if end is not None:
                    row = self._row(each.job.queue, each.job.task)
                    _add_end(row.numbers, end)
                    rows.append(row)
            self._write(rows)

    def _row(self, queue: str, task: str) -> _CounterRow:
        row = self._rows.get((queue, task))
        if row is None:
            key = self._labels.of(queue, task)
            row = self._rows.get(key) or self._new_row(key)
        return row

    def _new_row(self, key: tuple[str, str]) -> _CounterRow:
        name = _encoded(key)
        start = self._used + _LENGTH.size
        self._memory[self._used : start] = _LENGTH.pack(len(name))
        self._memory[start : start + len(name)] = name
        place = start + _filled(len(name))
        self._used = place + _ROW.size
        self._memory[: _HEAD.size] = _HEAD.pack(_LAYOUT, self._used)  # last: makes the row visible
        row = self._rows[key] = _CounterRow(place, [0.0] * _WIDTH)
        return row

    def _write(self, rows: Sequence[_CounterRow]) -> None:
        for row in {id(row): row for row in rows}.values():
            # Copy all numbers in one step: `pack_into` would write zeros first, and others could read them.
            self._memory[row.place : row.place + _ROW.size] = _ROW.pack(*row.numbers)

    # ---- reading -----------------------------------------------------------------------------------------

    def numbers(self) -> Counted:
        """Return all numbers by queue and task, for `job_families`."""
        with self._lock:
            return {key: list(row.numbers) for key, row in self._rows.items()}


def _add_end(numbers: list[float], end: EndedAttempt) -> None:
    if end.outcome is not None:
        numbers[_FINISHED + _ENDS.index(end.outcome)] += 1
    numbers[_RETRIES] += end.is_retried
    numbers[_CRASHES] += end.is_crashed
    _observe(numbers, _DURATION, end.seconds)
    _observe(numbers, _WAIT, end.waited)


def _observe(numbers: list[float], place: int, seconds: float) -> None:
    numbers[place + bisect_left(DURATIONS, seconds)] += 1
    numbers[place + len(DURATIONS) + 1] += seconds


def read_counters(descriptor: int) -> Counted:
    """Return the counts in the memory of a descriptor; empty if no process has used it."""
    if os.fstat(descriptor).st_size < _SIZE:
        return {}
    with mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ) as memory:
        if _HEAD.unpack_from(memory)[0] != _LAYOUT:
            return {}
        return {key: numbers for key, _, numbers in _rows_in(memory)}


def _rows_in(memory: mmap.mmap | bytearray) -> Iterator[tuple[tuple[str, str], int, list[float]]]:
    place, used = _HEAD.size, _HEAD.unpack_from(memory)[1]
    while place < used:
        length = _LENGTH.unpack_from(memory, place)[0]
        start = place + _LENGTH.size
        queue, _, task = bytes(memory[start : start + length]).decode().partition("\0")
        place = start + _filled(length)
        yield (queue, task), place, list(_ROW.unpack_from(memory, place))
        place += _ROW.size


def _encoded(key: tuple[str, str]) -> bytes:
    return "\0".join(key).encode("utf-8", "backslashreplace")


def _filled(length: int) -> int:
    return -(-length // 8) * 8


def summed(counted: Iterable[Counted]) -> Counted:
    """Return the sum of the counts of several processes."""
    sums: dict[tuple[str, str], Sequence[float]] = {}
    for counters in counted:
        for key, numbers in counters.items():
            earlier = sums.get(key)
            sums[key] = (
                list(numbers) if earlier is None else [a + b for a, b in zip(earlier, numbers, strict=True)]
            )
    return sums


def job_families(counted: Counted) -> list[MetricFamily]:
    """Return the counts as metrics."""
    created = MetricFamily(
        "firelock_jobs_enqueued_total",
        "counter",
        "Jobs created here, including delayed ones and continuations.",
    )
    finished = MetricFamily("firelock_jobs_finished_total", "counter", "Jobs that ended here, by outcome.")
    retries = MetricFamily("firelock_job_retries_total", "counter", "Attempts that failed and are retried.")
    crashes = MetricFamily(
        "firelock_job_crashes_total", "counter", "Jobs whose job process died, including retried ones."
    )
    duration = MetricFamily("firelock_job_duration_seconds", "histogram", "Durations of attempts.")
    wait = MetricFamily(
        "firelock_job_wait_seconds", "histogram", "Time from becoming enqueued to the start of the attempt."
    )
    for (queue, task), numbers in sorted(counted.items()):
        created.add(numbers[_CREATED], queue=queue, task=task)
        for place, state in enumerate(_ENDS, _FINISHED):
            finished.add(numbers[place], queue=queue, task=task, outcome=str(state))
        retries.add(numbers[_RETRIES], queue=queue, task=task)
        crashes.add(numbers[_CRASHES], queue=queue, task=task)
        for family, place in ((duration, _DURATION), (wait, _WAIT)):
            end = place + len(DURATIONS) + 1
            family.add_histogram(DURATIONS, numbers[place:end], numbers[end], queue=queue, task=task)
    return [created, finished, retries, crashes, duration, wait]


# ---- counters of this process ----------------------------------------------------------------------------


@attrs.define(eq=False)
class _ProcessCounters:
    """The counters of this process, created when they are first used."""

    descriptor: int | None = None  # the descriptor of the memory that a supervisor provided
    is_read_by_others: bool = False  # if True, no registry of this process needs to show the counters
    counters: JobCounters | None = None
    lock: threading.Lock = attrs.Factory(threading.Lock)

    def get(self) -> JobCounters:
        with self.lock:
            if self.counters is None and self.descriptor is not None:
                with suppress(OSError):
                    self.counters = JobCounters.shared(self.descriptor)
                if self.counters is None:
                    log.warning("Not enough memory for shared job counters; using private counters.")
            if self.counters is None:
                self.counters = JobCounters.private()
            return self.counters

    def forget_parent(self) -> None:
        """Count separately in a forked copy of this process, so that it does not overwrite these counts."""
        self.descriptor, self.is_read_by_others, self.counters = None, False, None
        self.lock = threading.Lock()


_of_this_process = _ProcessCounters()
if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_of_this_process.forget_parent)


def process_counters() -> JobCounters:
    """Return the counters of this process."""
    return _of_this_process.get()


def counted_here() -> Counted:
    """Return the counts of this process; empty if it does not count."""
    counters = _of_this_process.counters
    return {} if counters is None else counters.numbers()


def count_in(descriptor: int | None) -> None:
    """Count in memory provided by the supervisor; called in processes of a server.

    None means that no other process reads the counts.
    """
    _of_this_process.descriptor = descriptor
    _of_this_process.is_read_by_others = True


class JobCounting:
    """The plugin that counts jobs in the processes of a server whose metrics can be read."""

    @hookimpl
    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """Count the created jobs."""
        process_counters().count_created(jobs)

    @hookimpl
    @counts_in_memory
    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """Count the ended attempts."""
        process_counters().count_settled(settled)


def count_jobs(*, is_wanted: bool) -> None:
    """Count the jobs of this server process if `is_wanted`; otherwise, when an app has a probe port."""
    if is_wanted:
        count_all_jobs()
    else:
        on_probe_port.append(count_all_jobs)


def count_all_jobs() -> None:
    """Count the jobs of every app that this process creates later, regardless of the app's plugins."""
    process_counters()  # creates them now, so that the supervisor shows that jobs are counted
    of_process["counters"] = JobCounting()


def counts_all_jobs() -> bool:
    """Return whether the jobs of every app of this process are counted without the app's own plugin."""
    return "counters" in of_process


def is_read_by_others() -> bool:
    """Return whether this is a process of a server whose supervisor shows the counters."""
    return _of_this_process.is_read_by_others
