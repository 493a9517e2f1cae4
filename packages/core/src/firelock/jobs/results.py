"""Wait until jobs have ended, and read their results.

All waits of an app share the reads, which are done in a thread that the first wait starts.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

import attrs

from firelock.errors import (
    FirelockError,
    JobDeleted,
    JobFailed,
    ResultUnavailable,
    StorageError,
    StorageUnavailable,
    UnknownTask,
)
from firelock.model.job import JobRecord
from firelock.model.state import State
from firelock.storage import Storage

if TYPE_CHECKING:
    from firelock.jobs.client import Client

_FIRST_INTERVAL, _LONGEST = 0.005, 0.25  # seconds
_GROWTH = 1.3
_IDS_A_CALL = 500

reads = itertools.count(1)
"""The numbers of this process's reads of jobs; each number is assigned before its read is sent."""


@attrs.frozen
class Observation:
    """A job as one read of the storage returned it; `record` is None if it was not found."""

    began: int
    record: JobRecord | None


@attrs.define
class _Wait:
    """A job that callers wait for, and the time at which it is read next."""

    read_at: float  # time by the clock of `Results`
    interval: float = _FIRST_INTERVAL  # seconds from that read to the next one
    futures: list[Future[Observation]] = attrs.Factory(list)

    def postpone(self, now: float) -> None:
        """Postpone the next read by an interval that grows, to a time that other waits share.

        The times are multiples of the longest interval divided by a power of two. As a result, the jobs of
        all waits that have reached the longest interval are read together.
        """
        self.interval = min(_LONGEST, self.interval * _GROWTH)
        period = _LONGEST
        while period > self.interval:
            period /= 2
        self.read_at = (now + self.interval) // period * period


class Results:
    """The waits of all `result()` calls of an app.

    A job is read 5 ms after a wait for it began, then less and less often. Each job has its own interval, so
    a new wait does not cause more reads of the other jobs.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._waiting: dict[str, _Wait] = {}
        # The times at which jobs are read. An entry is ignored if its wait has ended or now has another time.
        self._schedule: list[tuple[float, str]] = []
        self._last_read_at = -_FIRST_INTERVAL
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def wait_for(self, job_id: str) -> Future[Observation]:
        """Return a future for the first read that finds that the job has ended or does not exist.

        Raises:
            StorageError: If the app is closed.
        """
        if self._pid != os.getpid():  # after a fork, the thread exists only in the parent
            self._reset()
        future: Future[Observation] = Future()
        with self._condition:
            if self._is_closed:
                raise StorageError("This Firelock is closed; create a new one.")
            wait = self._waiting.setdefault(job_id, _Wait(0.0))
            wait.futures.append(future)
            wait.read_at, wait.interval = self._clock() + _FIRST_INTERVAL, _FIRST_INTERVAL
            heapq.heappush(self._schedule, (wait.read_at, job_id))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-results", daemon=True)
                self._thread.start()
            if self._schedule[0] == (wait.read_at, job_id):
                self._condition.notify()
        return future

    def forget(self, job_id: str, future: Future[Observation]) -> None:
        """Remove a future for which no caller waits."""
        with self._condition:
            wait = self._waiting.get(job_id)
            if wait is None:
                return
            wait.futures = [each for each in wait.futures if each is not future]
            if not wait.futures:
                del self._waiting[job_id]
                self._condition.notify()

    def close(self) -> None:
        """Stop the thread; the remaining waits end with a `StorageError`."""
        if self._pid != os.getpid():
            return
        with self._condition:
            self._is_closed = True
            thread, ids = self._thread, list(self._waiting)
            self._condition.notify()
        error = StorageError("This Firelock was closed while a result was awaited.")
        self._answer(dict.fromkeys(ids, error))
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._is_closed or not self._waiting:
                    self._schedule.clear()
                    self._thread = None
                    return
                now = self._clock()
                read_at = max(self._schedule[0][0], self._last_read_at + _FIRST_INTERVAL)
                if now < read_at:
                    self._condition.wait(read_at - now)
                    continue
                self._last_read_at = now
                ids = list(self._due(now))
            for start in range(0, len(ids), _IDS_A_CALL):
                self._read(ids[start : start + _IDS_A_CALL])

    def _due(self, now: float) -> Iterable[str]:
        """Yield the jobs to read now, and schedule the next read of each."""
        while self._schedule and self._schedule[0][0] <= now:
            read_at, job_id = heapq.heappop(self._schedule)
            wait = self._waiting.get(job_id)
            if wait is not None and wait.read_at == read_at:
                wait.postpone(now)
                heapq.heappush(self._schedule, (wait.read_at, job_id))
                yield job_id

    def _read(self, ids: list[str]) -> None:
        began = next(reads)
        try:
            records = self._storage.get(ids)
        except StorageUnavailable:
            return  # the waits continue; their own timeouts end them
        except Exception as error:  # noqa: BLE001 - passed to the waiting callers
            self._answer(dict.fromkeys(ids, error))
            return
        ended = {
            job_id: Observation(began, record)
            for job_id, record in zip(ids, records, strict=True)
            if record is None or record.is_final
        }
        self._answer(ended)

    def _answer(self, ended: Mapping[str, Observation | Exception]) -> None:
        with self._condition:
            answers = [
                (future, answer)
                for job_id, answer in ended.items()
                if (wait := self._waiting.pop(job_id, None)) is not None
                for future in wait.futures
            ]
        for future, answer in answers:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(answer, Observation):
                future.set_result(answer)
            else:
                future.set_exception(answer)


# ---- results of jobs ---------------------------------------------------------------------------------------


def result_of(client: Client, record: JobRecord) -> object:
    """Return the value that a job's task returned.

    Raises:
        JobFailed, JobDeleted: If the job did not succeed.
        ResultUnavailable: If the job succeeded without a storable result.
    """
    if record.state is not State.SUCCEEDED or record.result is None:
        raise without_result(record)
    return decode_result(client, record)


def decode_result(client: Client, record: JobRecord) -> object:
    """Return the result of a succeeded job.

    Raises:
        UnknownTask: If the task of the job is not registered in this process.
        ResultUnavailable: If the serializer of the job is not installed in this process.
    """
    info = client.registry.get(record.task)
    if info is None:
        raise UnknownTask(
            f"The result of job {record.id} cannot be read: task {record.task!r} is not registered here."
        )
    serializer = client.serializers.get(record.serializer)
    if serializer is None:
        raise ResultUnavailable(
            f"The result of job {record.id} was stored by the serializer {record.serializer!r}, which is not "
            "installed here."
        )
    return client.registry.binder(info).decode_result_text(record.result or "", serializer)


def without_result(record: JobRecord) -> FirelockError:
    """Return the exception to raise for a job that has ended without a result."""
    named = f"Job {record.id} ({record.task})"
    if record.state is State.DELETED:
        return JobDeleted(f"{named} was deleted: {record.reason}.")
    if record.state is State.SUCCEEDED:
        return ResultUnavailable(f"{named} succeeded: {record.result_absent}")
    error = record.error
    why = f"{error.type}: {error.message}" if error else record.reason or "no reason"
    return JobFailed(f"{named} failed: {why}")
