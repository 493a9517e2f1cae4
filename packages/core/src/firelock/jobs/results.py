"""Wait for jobs to end, and read what they returned.

All waits of an app share the lookups, in a thread that starts with the first wait.
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

_FIRST_LOOK, _LONGEST = 0.005, 0.25  # seconds
_GROWTH = 1.3
_IDS_A_CALL = 500

reads = itertools.count(1)
"""Numbers for the looks at jobs in this process, taken before each is sent."""


@attrs.frozen
class Observation:
    """A job as one read of the storage saw it; None where it is gone."""

    began: int
    record: JobRecord | None


@attrs.define
class _Wait:
    """A job that somebody waits for, and when it is looked at."""

    look_at: float  # by the clock of `Results`
    interval: float = _FIRST_LOOK  # seconds until the look after that
    futures: list[Future[Observation]] = attrs.Factory(list)

    def postpone(self, now: float) -> None:
        """Move the look by the interval, which grows, to an instant that it shares with other waits.

        The instants are multiples of the longest interval divided by a power of two. So waits that have
        reached the longest interval are all looked at together.
        """
        self.interval = min(_LONGEST, self.interval * _GROWTH)
        step = _LONGEST
        while step > self.interval:
            step /= 2
        self.look_at = (now + self.interval) // step * step


class Results:
    """The waits of all `result()` calls of an app.

    A job is looked at 5 ms after somebody began to wait for it, then less and less often. Each job has an
    interval of its own, so that a new wait does not make earlier ones read their jobs again.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._waiting: dict[str, _Wait] = {}
        # When which job is looked at. An entry whose wait has another instant by now, or none, is void.
        self._looks: list[tuple[float, str]] = []
        self._looked_at = -_FIRST_LOOK
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def wait_for(self, job_id: str) -> Future[Observation]:
        """Return a future of the look that sees the job ended, or gone.

        Raises:
            StorageError: the app is closed.
        """
        if self._pid != os.getpid():  # the thread of before a fork is the parent's
            self._reset()
        future: Future[Observation] = Future()
        with self._condition:
            if self._is_closed:
                raise StorageError("This Firelock is closed; make a new one.")
            wait = self._waiting.setdefault(job_id, _Wait(0.0))
            wait.futures.append(future)
            wait.look_at, wait.interval = self._clock() + _FIRST_LOOK, _FIRST_LOOK
            heapq.heappush(self._looks, (wait.look_at, job_id))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-results", daemon=True)
                self._thread.start()
            if self._looks[0] == (wait.look_at, job_id):
                self._condition.notify()
        return future

    def forget(self, job_id: str, future: Future[Observation]) -> None:
        """Nobody waits for this future any more."""
        with self._condition:
            wait = self._waiting.get(job_id)
            if wait is None:
                return
            wait.futures = [each for each in wait.futures if each is not future]
            if not wait.futures:
                del self._waiting[job_id]
                self._condition.notify()

    def close(self) -> None:
        """The thread has ended; who still waits is told so by a `StorageError`."""
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
                    self._looks.clear()
                    self._thread = None
                    return
                now = self._clock()
                look_at = max(self._looks[0][0], self._looked_at + _FIRST_LOOK)
                if now < look_at:
                    self._condition.wait(look_at - now)
                    continue
                self._looked_at = now
                ids = list(self._due(now))
            for start in range(0, len(ids), _IDS_A_CALL):
                self._look(ids[start : start + _IDS_A_CALL])

    def _due(self, now: float) -> Iterable[str]:
        """Yield the jobs to look at now, each of which is looked at again later."""
        while self._looks and self._looks[0][0] <= now:
            look_at, job_id = heapq.heappop(self._looks)
            wait = self._waiting.get(job_id)
            if wait is not None and wait.look_at == look_at:
                wait.postpone(now)
                heapq.heappush(self._looks, (wait.look_at, job_id))
                yield job_id

    def _look(self, ids: list[str]) -> None:
        began = next(reads)
        try:
            records = self._storage.get(ids)
        except StorageUnavailable:
            return  # the waits go on; their own timeouts end them
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
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


# ---- what a job returned -----------------------------------------------------------------------------------


def result_of(client: Client, record: JobRecord) -> object:
    """Return what the task of a job returned.

    Raises:
        JobFailed, JobDeleted: it ended otherwise.
        ResultUnavailable: there is no storable result.
    """
    if record.state is not State.SUCCEEDED or record.result is None:
        raise without_result(record)
    return decode_result(client, record)


def decode_result(client: Client, record: JobRecord) -> object:
    """Return the result of a succeeded job.

    Raises:
        UnknownTask: its task is not registered here.
        ResultUnavailable: its serializer is not installed here.
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
    """Return what to raise where a job has ended that has no result."""
    named = f"Job {record.id} ({record.task})"
    if record.state is State.DELETED:
        return JobDeleted(f"{named} was deleted: {record.reason}.")
    if record.state is State.SUCCEEDED:
        return ResultUnavailable(f"{named} succeeded: {record.result_absent}")
    error = record.error
    why = f"{error.type}: {error.message}" if error else record.reason or "no reason"
    return JobFailed(f"{named} failed: {why}")
