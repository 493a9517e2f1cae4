"""Wait for jobs to end, and read what they returned.

All waits of an app share the lookups, in a thread that starts with the first wait.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping
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

_FIRST_LOOK, _LONGEST = 0.005, 0.25
_IDS_A_CALL = 500

reads = itertools.count(1)
"""Numbers for the looks at jobs in this process, taken before each is sent."""


@attrs.frozen
class Observation:
    """A job as one read of the storage saw it; None where it is gone."""

    began: int
    record: JobRecord | None


class Results:
    """Shared by every `result()` of an app. Reads come 5 ms after a wait began, then less and less often."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._waiting: dict[str, list[Future[Observation]]] = {}
        self._interval = _FIRST_LOOK
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
            self._waiting.setdefault(job_id, []).append(future)
            self._interval = _FIRST_LOOK
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-results", daemon=True)
                self._thread.start()
            self._condition.notify()
        return future

    def forget(self, job_id: str, future: Future[Observation]) -> None:
        """Nobody waits for this future any more."""
        with self._condition:
            others = [each for each in self._waiting.pop(job_id, ()) if each is not future]
            if others:
                self._waiting[job_id] = others

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
                    self._thread = None
                    return
                self._condition.wait(self._interval)
                self._interval = min(_LONGEST, self._interval * 1.3)
                ids = list(self._waiting)
            for start in range(0, len(ids), _IDS_A_CALL):
                self._look(ids[start : start + _IDS_A_CALL])

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
                (future, ended[job_id]) for job_id in ended for future in self._waiting.pop(job_id, [])
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
