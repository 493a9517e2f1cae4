"""Checks before a job starts: of its batch, of its caller, and of the results among its arguments."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from firelock.arguments.signature import read_text
from firelock.errors import ArgumentError
from firelock.jobs.results import without_result
from firelock.model.dependencies import Input
from firelock.model.lifecycle import Moved
from firelock.model.state import State

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue, Serializer
    from firelock.model.dependencies import Relations
    from firelock.model.job import ClaimedJob, JobRecord
    from firelock.storage import Storage

CHECK_EVERY = 1.0  # seconds between two checks of the same batch or caller
_REMEMBERED = 10_000  # maximum number of cached batches and callers


@attrs.define(eq=False)
class RelatedJobs:
    """Checks the batches and callers of a worker process's jobs.

    As long as the jobs of a batch or caller may start, it is checked at most once a second. Only cancelled
    batches are remembered, because a cancellation is final. By contrast, a caller that has ended, or a member
    that has failed, may have been requeued in the meantime.
    """

    _storage: Storage
    _serializers: Mapping[str, Serializer]
    _every: float = CHECK_EVERY
    _checked_at: dict[str, float] = attrs.Factory(dict)  # time of the last check after which jobs may start
    _cancelled: set[str] = attrs.Factory(set)  # cancelled batches

    def refusal(self, relations: Relations) -> str | None:
        """Return why a job must not start (its batch is cancelled or its caller has ended); None if it may.

        Raises:
            StorageError: If the check fails.
        """
        if (
            relations.batch_id is not None
            and (why := self._check(relations.batch_id, is_batch=True)) is not None
        ):
            return why
        return None if relations.caller_id is None else self._check(relations.caller_id, is_batch=False)

    def is_cached(self, relations: Relations) -> bool:
        """Return whether `refusal` can be called without a round trip."""
        now = time.monotonic()
        return all(
            job_id is None or job_id in self._cancelled or self._is_fresh(job_id, now)
            for job_id in (relations.batch_id, relations.caller_id)
        )

    def _is_fresh(self, job_id: str, now: float) -> bool:
        seen_at = self._checked_at.get(job_id)
        return seen_at is not None and now - seen_at < self._every

    def _check(self, job_id: str, *, is_batch: bool) -> str | None:
        now = time.monotonic()
        if job_id in self._cancelled:
            return Moved.SWEPT.value
        if self._is_fresh(job_id, now):
            return None
        why = self._of_batch(job_id) if is_batch else self._of_caller(job_id)
        if why is None:
            if len(self._checked_at) >= _REMEMBERED:
                self._checked_at = {}
            self._checked_at[job_id] = now
        return why

    def _of_batch(self, job_id: str) -> str | None:
        counts = self._storage.batch_counts([job_id])[0]
        if counts is None:
            return None
        if counts.is_cancelled:
            if len(self._cancelled) >= _REMEMBERED:
                self._cancelled = set()
            self._cancelled.add(job_id)
            return Moved.SWEPT.value
        return Moved.STOPPED.value if counts.is_stopping else None

    def _of_caller(self, job_id: str) -> str | None:
        record = self._storage.get([job_id])[0]
        if record is None:
            return f"its caller {job_id} no longer exists"
        return f"its caller {job_id} has {_ENDS[record.state]}" if record.is_final else None

    def arguments(self, job: ClaimedJob, relations: Relations, serializer: Serializer) -> JsonValue:
        """Return the job's arguments, with the results of other jobs inserted.

        Raises:
            ArgumentError: If a result does not exist or cannot be read.
            StorageError: If the results cannot be fetched.
        """
        arguments: Any = read_text(serializer, job.arguments)
        ids = list(dict.fromkeys(one.job_id for one in relations.inputs))
        records = dict(zip(ids, self._storage.get(ids), strict=True))
        values = {job_id: self._result(job_id, record) for job_id, record in records.items()}
        for one in relations.inputs:
            _put(arguments, one.path, values[one.job_id], one)
        return cast("JsonValue", arguments)

    def _result(self, job_id: str, record: JobRecord | None) -> JsonValue:
        if record is None:
            raise ArgumentError(f"an argument is the result of job {job_id}, which no longer exists")
        if record.state is not State.SUCCEEDED:
            why = str(without_result(record)) if record.is_final else f"it is {record.state}"
            raise ArgumentError(
                f"an argument is the result of job {job_id} ({record.task}), which is not available: {why}"
            )
        if record.result is None:
            why = record.result_absent or "it was not stored"
            raise ArgumentError(f"job {job_id} ({record.task}) has no stored result: {why}")
        serializer = self._serializers.get(record.serializer)
        if serializer is None:
            raise ArgumentError(
                f"the result of job {job_id} was stored with the serializer {record.serializer!r}, which is "
                "not installed here"
            )
        return read_text(serializer, record.result)


_ENDS = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.DELETED: "been deleted"}


def _put(arguments: Any, path: Sequence[str | int], value: JsonValue, one: Input) -> None:  # noqa: ANN401
    """Insert the value at this path."""
    place = arguments
    try:
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    except (LookupError, TypeError) as error:
        raise ArgumentError(
            f"the arguments have no path {list(one.path)} for the result of job {one.job_id}"
        ) from error
