"""`fire.operations`: changes of all jobs that match a filter, stored first and then carried out in chunks."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, cast

import attrs

from firelock.errors import ConfigurationError, LockLost, LockTimeout, StorageError, StorageUnavailable
from firelock.jobs.administration import (
    MoveTarget,
    release_continuations,
    to_move_target,
    why_not_moved,
)
from firelock.jobs.pagination import Paged, newest_records
from firelock.model import lifecycle
from firelock.model.aio import twin
from firelock.model.clock import from_micros, micros
from firelock.model.ids import is_newest_first_key, newest_first_key
from firelock.model.job import JobRecord
from firelock.model.state import FINAL_STATES, State
from firelock.model.text import shown
from firelock.options import to_choice
from firelock.storage import Applied, JobFilter, Record
from firelock.storage.derived import every_record

if TYPE_CHECKING:
    from firelock.jobs.client import Client
    from firelock.model.job import Move, Transition
    from firelock.storage.locks import Lock

FIRST_IDS = 10
_INSTANTS = ("started_at", "updated_at", "ended_at")


class Verb(StrEnum):
    """The kind of change."""

    REQUEUE = "requeue"
    DELETE = "delete"
    MOVE = "move"

    @property
    def past(self) -> str:
        """The past participle of the verb, for example "requeued"."""
        return f"{self.value}d"


class Status(StrEnum):
    """The progress of an operation."""

    RUNNING = "running"  # jobs remain to be changed, whether or not a process is currently changing them
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@attrs.frozen
class ChunkDone:
    """The result of one chunk of jobs."""

    seen: int
    changed: int
    skipped: int
    missing: int
    ids: tuple[str, ...]  # the ids of the changed jobs


@attrs.frozen
class Outcome:
    """The states of the jobs that an operation requeued: a snapshot, stored after all of them have ended."""

    checked: int  # number of jobs whose state was read; if there are very many, only the first ones are read
    by_state: Mapping[State, int]  # number of jobs by current state, without states that have no jobs
    missing: int = 0  # number of jobs that were pruned in the meantime

    @property
    def unended(self) -> int:
        """The number of jobs that wait or run."""
        return sum(number for state, number in self.by_state.items() if state not in FINAL_STATES)


@attrs.frozen
class Operation:
    """A change of all jobs that match a filter, with its progress; a snapshot."""

    id: str  # ids of later operations are smaller
    verb: Verb
    where: JobFilter  # its `until` is the start time of the operation, or earlier
    contains: Mapping[str, str]  # strings to find in "argument" and "error"; empty if there are none
    by: str  # the user who started the operation
    reason: str  # the reason that is stored in the jobs' histories
    started_at: datetime
    updated_at: datetime  # the time of the last chunk, or of the operation's end
    state: Status = Status.RUNNING
    ended_at: datetime | None = None
    cancelled_by: str | None = None
    error: str | None = None  # reason for the failure
    queue: str | None = None  # the new queue, for a move
    priority: int | None = None  # the new priority, for a move
    expected: int | None = None  # number of matching jobs at the start; None if counting requires a search
    total_seen: int = 0  # number of jobs that were read; with `contains`, not all of them match
    changed: int = 0
    skipped: int = 0  # number of jobs that were in an unsuitable state or changed in the meantime
    missing: int = 0  # number of jobs that have been pruned in the meantime
    first_ids: tuple[str, ...] = ()  # the ids of the first ten changed jobs
    cursor: str | None = None  # the cursor of the next page
    outcome: Outcome | None = None  # outcome of a requeue, set by the first query after all jobs have ended
    fence: int = 0  # lock fence of the last process that ran the operation
    more: str | None = None  # fields of a newer release, as JSON; kept unchanged

    @property
    def is_running(self) -> bool:
        """Whether jobs remain to be changed."""
        return self.state is Status.RUNNING

    @property
    def is_for_any_state(self) -> bool:
        """Whether a job is changed even if its state has changed in the meantime.

        This is the case for a deletion or move whose filter has no state.
        """
        return self.verb is not Verb.REQUEUE and self.where.state is None and self.where.is_retrying is None

    def is_run_by(self, fence: int) -> bool:
        """Return whether the operation has not ended and the holder of the lock with this fence runs it."""
        return self.is_running and self.fence == fence

    def taken_over(self, fence: int) -> Operation:
        """Return the operation after the holder of the lock with this fence has taken it over."""
        return attrs.evolve(self, fence=fence) if self.is_running else self

    def is_meant(self, job: JobRecord) -> bool:
        """Return whether the job contains the strings to find; the filter has already been applied."""
        wanted = {name: text.casefold() for name, text in self.contains.items()}
        if "argument" in wanted and wanted["argument"] not in job.arguments.casefold():
            return False
        if "error" not in wanted:
            return True
        return (
            job.error is not None and wanted["error"] in f"{job.error.type}: {job.error.message}".casefold()
        )

    def advanced(self, done: ChunkDone, cursor: str | None, at: datetime) -> Operation:
        """Return the operation with a page counted; a cancelled operation stays cancelled."""
        return attrs.evolve(
            self,
            updated_at=at,
            total_seen=self.total_seen + done.seen,
            changed=self.changed + done.changed,
            skipped=self.skipped + done.skipped,
            missing=self.missing + done.missing,
            first_ids=(*self.first_ids, *done.ids)[:FIRST_IDS],
            cursor=cursor,
        )

    def concluded(self, outcome: Outcome) -> Operation:
        """Return the operation with the outcome of its jobs; an existing outcome stays unchanged."""
        return self if self.outcome is not None else attrs.evolve(self, outcome=outcome)

    def ended(
        self, state: Status, at: datetime, *, error: str | None = None, cancelled_by: str | None = None
    ) -> Operation:
        """Return the operation after it has ended; an operation that had already ended stays unchanged."""
        if not self.is_running:
            return self
        return attrs.evolve(
            self, state=state, updated_at=at, ended_at=at, error=error, cancelled_by=cancelled_by
        )


def write_operation(operation: Operation) -> str:
    """Return the JSON of the operation's record."""
    value = attrs.asdict(operation, recurse=False)
    del value["id"], value["more"]
    value["where"] = {
        name: field for name, field in attrs.asdict(operation.where).items() if field is not None
    }
    for name in _INSTANTS:
        value[name] = None if value[name] is None else micros(value[name])
    if operation.outcome is not None:
        value["outcome"] = attrs.asdict(operation.outcome)
    return json.dumps(value | json.loads(operation.more or "{}"))


def read_operation(record: Record) -> Operation:
    """Return the operation of a record.

    Fields that this release does not know are kept in `more`. Unknown fields of `where` would change which
    jobs match. Therefore an operation with such fields is shown as failed for this reason, but its record
    stays unchanged.
    """
    value = json.loads(record.value)
    unknown = [f"where.{name}" for name in value["where"].keys() - _names(JobFilter)]
    more = {name: field for name, field in value.items() if name not in _names(Operation) - _OWN}
    for name in _INSTANTS:
        value[name] = None if value[name] is None else from_micros(value[name])
    fields = {name: value[name] for name in (_names(Operation) - _OWN) & value.keys()}
    where = {name: field for name, field in value["where"].items() if name in _names(JobFilter)}
    if where.get("state") is not None:
        where["state"] = State(where["state"])
    outcome = value.get("outcome")
    if outcome is not None:
        by_state = {State(state): number for state, number in outcome["by_state"].items()}
        outcome = Outcome(outcome["checked"], by_state, outcome["missing"])
    fields |= {
        "id": record.key,
        "verb": Verb(value["verb"]),
        "where": JobFilter(**where),
        "state": Status(value["state"]),
        "first_ids": tuple(value["first_ids"]),
        "outcome": outcome,
        "more": json.dumps(more) if more else None,
    }
    operation = Operation(**fields)
    if not unknown:
        return operation
    error = (
        f"A newer version of Firelock stored this operation: {', '.join(sorted(unknown))} is unknown here. "
        "Upgrade this process, or start the operation again."
    )
    return operation.ended(Status.FAILED, operation.updated_at, error=error)


_OWN = {"id", "more"}  # fields that are not part of the stored value


def _names(kind: type[attrs.AttrsInstance]) -> frozenset[str]:
    return frozenset(cast("Mapping[str, object]", attrs.fields_dict(kind)))


KEPT = 200  # number of ended operations that are kept
PACE = 3.0  # pause as a multiple of a chunk's duration, so that workers on a busy SQLite file keep their rate
JOBS_A_SECOND = 2_500  # upper bound for fast chunks, which share processors and Redis with the workers
_KIND = "operation"
_IDS_KIND = "operation_ids"  # ids of requeued jobs, one record per chunk; the outcome is read with them
_IDS_KEPT = 2_000  # maximum number of ids per operation; the outcome covers only these jobs
_CHUNK = 500
_CHUNKS = 200  # maximum number of chunks that are read for an outcome
_TEXT_LIMIT = 500
_CONTAINS = ("argument", "error")
_LOCK_LIFE = 30.0


@attrs.frozen
class OperationPage(Paged[Operation]):
    """A page of operations, newest first; `cursor` selects the next page, and is None on the last page."""

    operations: list[Operation]
    cursor: str | None


def _never() -> bool:
    return False


def _always(_job: JobRecord) -> bool:
    return True


class Operations:
    """Changes of all jobs that match a filter: `fire.operations`.

    Its methods act immediately and do not join the caller's transaction.
    """

    def __init__(self, client: Client, lock: Callable[..., Lock]) -> None:
        self._client = client
        self._lock = lock

    # ---- starting and cancelling -------------------------------------------------------------------------

    def start(
        self,
        verb: str,
        where: JobFilter,
        *,
        by: str,
        reason: str | None = None,
        contains: Mapping[str, str] | None = None,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Operation:
        """Store an operation and make it `resumable`; no job is changed until `run` is called.

        Args:
            verb: "requeue", "delete" or "move".
            where: the filter. Its `until` becomes the current time unless it is earlier, so that later jobs
                are not changed and the operation ends.
            by: the name of the user who starts the operation.
            reason: the reason in the jobs' histories; built from the verb and `by` if it is omitted.
            contains: strings that must be found in a job's stored "argument" string or its last "error" (type
                and message), ignoring case.
            queue: for a move: the new queue; without it, jobs stay in their queues.
            priority: for a move: the new priority; without it, jobs keep their priorities.

        Raises:
            ConfigurationError: If the verb or a name in `contains` is unknown, if all jobs would be deleted
                or moved, if a requeue has no state, if a move has no target or a state in which jobs cannot
                be moved, or if a target is given with another verb.
        """
        chosen, meant = to_choice(Verb, "verb", verb), _check_filter(where)
        wanted = _contains(contains)
        if chosen is Verb.DELETE and meant == JobFilter() and not wanted:
            raise ConfigurationError(
                "An empty filter would delete every job. Use a filter such as JobFilter(state=State.FAILED)."
            )
        if chosen is Verb.REQUEUE and meant.state is None and not meant.is_retrying:
            raise ConfigurationError(
                "A requeue without a state would run succeeded jobs again. Use a filter with a state, for "
                "example JobFilter(state=State.FAILED)."
            )
        if chosen is Verb.MOVE:
            target = _move_target(meant, wanted, queue, priority)
        elif queue is not None or priority is not None:
            raise ConfigurationError(f'queue= and priority= need the verb "move", got {str(chosen)!r}.')
        else:
            target = MoveTarget(None, None)
        who = _text("by", by)
        why = f"{chosen.past} by {who}" if reason is None else _text("reason", reason)
        now = self._client.storage.clock()
        until = now + 1 if meant.until is None else min(meant.until, now + 1)
        operation = Operation(
            newest_first_key(now), chosen, attrs.evolve(meant, until=until), wanted, who, why,
            started_at=from_micros(now), updated_at=from_micros(now),
            queue=target.queue, priority=target.priority,
            expected=None if wanted else self._expected(chosen, meant),
        )  # fmt: skip
        self._client.storage.put_record(_KIND, operation.id, write_operation(operation), expected_version=0)
        self._prune()
        return operation

    astart = twin(start)

    def cancel(self, operation_id: str, by: str) -> Operation:
        """Stop before the next chunk of jobs; an operation that has ended stays unchanged.

        Raises:
            ConfigurationError: If no such operation is stored.
        """
        who = _text("by", by)

        def cancelled(operation: Operation) -> Operation:
            return operation.ended(Status.CANCELLED, self._now(), cancelled_by=who)

        return self._change(operation_id, cancelled)

    acancel = twin(cancel)

    # ---- queries -----------------------------------------------------------------------------------------

    def get(self, operation_id: str) -> Operation | None:
        """Return the current state of the operation; None if it is not stored."""
        record = self._record(operation_id)
        return None if record is None else read_operation(record)

    aget = twin(get)

    def list(self, limit: int = 50, cursor: str | None = None) -> OperationPage:
        """Return a page of operations, newest first.

        Raises:
            ConfigurationError: If the limit is not from 1 to 500.
            StorageError: If the cursor does not come from a page.
        """
        records, following = newest_records(
            self._client.storage, _KIND, "operations", limit=limit, cursor=cursor
        )
        return OperationPage([read_operation(record) for record in records], following)

    alist = twin(list)  # noqa: A003 - the method above

    def outcome(self, operation_id: str) -> Outcome | None:
        """Return the outcome of the requeued jobs; None if no job was requeued, or for another verb.

        The first 2,000 of these jobs are read by their ids, 500 per read, until all have ended. After that,
        the outcome no longer changes.

        Raises:
            ConfigurationError: If no such operation is stored.
        """
        operation = self._stored(operation_id)
        if operation.outcome is not None or operation.verb is not Verb.REQUEUE or not operation.changed:
            return operation.outcome
        chunks = self._chunks(operation_id)
        ids = [job_id for record in chunks for job_id in json.loads(record.value)]
        if not ids:
            return None
        records = [
            job
            for start in range(0, len(ids), _CHUNK)
            for job in self._client.storage.get(ids[start : start + _CHUNK])
        ]
        outcome = Outcome(
            len(ids), dict(Counter(job.state for job in records if job is not None)), records.count(None)
        )
        if operation.is_running or outcome.unended:
            return outcome
        return self._change(operation_id, lambda stored: stored.concluded(outcome)).outcome

    aoutcome = twin(outcome)

    def _chunks(self, operation_id: str) -> Sequence[Record]:
        """Return the records with the ids that an operation changed, in order."""
        found = self._client.storage.list_records(_IDS_KIND, after=f"{operation_id}:", limit=_CHUNKS)
        return [record for record in found if record.key.startswith(f"{operation_id}:")]

    def resumable(self) -> Sequence[Operation]:
        """Return the operations that have not ended, oldest first."""
        return [operation for operation in reversed([*self._all()]) if operation.is_running]

    aresumable = twin(resumable)

    # ---- running -----------------------------------------------------------------------------------------

    def run(
        self,
        operation_id: str,
        *,
        pace: float = PACE,
        jobs_a_second: float = JOBS_A_SECOND,
        is_meant: Callable[[JobRecord], bool] = _always,
        should_stop: Callable[[], bool] = _never,
        wait: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Operation:
        """Carry out as much of the operation as possible, and return its new state.

        The operation continues after the last chunk of 500 jobs whose progress is stored. The method returns
        before the operation has ended if `should_stop` returns true, or if another process runs the
        operation. Repeating a chunk after a crash does no harm.

        Args:
            operation_id: the id of a stored operation; an ended one is returned unchanged.
            pace: the pause after a chunk, as a multiple of the duration of the chunk, so that workers can
                continue.
            jobs_a_second: the maximum number of jobs to change per second; the pause is longer if necessary.
            is_meant: called for each job that matches; if it returns false, the job is not changed. Use it
                for strings that are masked for the user who searches.
            should_stop: called before each chunk.
            wait: waits for this number of seconds.
            monotonic: returns a monotonic time in seconds.

        Raises:
            ConfigurationError: If no such operation is stored.
            StorageUnavailable: If the storage is unreachable; run the operation again.
        """
        operation = self._stored(operation_id)
        if not operation.is_running:
            return operation
        try:
            with self._lock(f"operation:{operation_id}", timeout=0, ttl=_LOCK_LIFE) as lock:
                operation = self._change(operation_id, lambda stored: stored.taken_over(lock.fence))
                while operation.is_run_by(lock.fence) and not lock.lost and not should_stop():
                    began, before = monotonic(), operation.changed
                    operation = self._run_chunk(operation, is_meant)
                    if operation.is_run_by(lock.fence):
                        took = monotonic() - began
                        wait(max(took * pace, (operation.changed - before) / jobs_a_second - took))
                        # the operation might have been cancelled or taken over
                        operation = self._stored(operation_id)
        except (LockTimeout, LockLost):  # another process runs the operation, or might run it
            return self._stored(operation_id)
        return operation

    arun = twin(run)

    def _run_chunk(self, operation: Operation, is_meant: Callable[[JobRecord], bool]) -> Operation:
        """Change one chunk of jobs and store the progress; end the operation if no retry can help."""
        storage = self._client.storage
        try:
            page = storage.find(operation.where, limit=_CHUNK, cursor=operation.cursor, oldest_first=True)
            matching = [job for job in page.jobs if operation.is_meant(job) and is_meant(job)]
            wanted, results = self._change_jobs(operation, matching)
            if Applied.RELEASE_NEEDED in results:
                release_continuations(storage)  # the progress is stored even if this fails
            changed = [one.job_id for one, result in zip(wanted, results, strict=True) if result.is_applied]
            if operation.verb is Verb.REQUEUE and changed and operation.changed < _IDS_KEPT:
                key = f"{operation.id}:{operation.total_seen:012d}"  # a repeated chunk changes no jobs
                storage.put_record(_IDS_KIND, key, json.dumps(changed[: _IDS_KEPT - operation.changed]))
        except StorageUnavailable:
            raise
        except StorageError as error:
            text = f"{type(error).__name__}: {error}"
            return self._change(
                operation.id, lambda stored: stored.ended(Status.FAILED, self._now(), error=text)
            )
        missing = results.count(Applied.MISSING)
        skipped = len(matching) - len(changed) - missing
        done = ChunkDone(len(page.jobs), len(changed), skipped, missing, tuple(changed))

        def advanced(stored: Operation) -> Operation:
            if stored.fence != operation.fence:  # another process took over, so only its progress counts
                return stored
            after = stored.advanced(done, page.cursor, self._now())
            return after.ended(Status.DONE, self._now()) if page.cursor is None else after

        return self._change(operation.id, advanced)

    def _change_jobs(
        self, operation: Operation, jobs: Sequence[JobRecord]
    ) -> tuple[Sequence[Transition | Move], Sequence[Applied]]:
        """Change the jobs; return the applicable changes and their results."""
        if operation.verb is Verb.MOVE:
            moves = [move for job in jobs if (move := self._move(operation, job)).from_states]
            return moves, self._client.storage.move(moves) if moves else []
        transitions = [self._transition(operation, job) for job in jobs]
        wanted = [one for one in transitions if one.from_states]
        return wanted, self._client.storage.apply(wanted) if wanted else []

    def _move(self, operation: Operation, job: JobRecord) -> Move:
        """Return the move of a job, without source states if it must not be applied; see `_transition`."""
        is_moved = operation.queue in {None, job.queue} and operation.priority in {None, job.priority}
        seen = lifecycle.WAITING if operation.is_for_any_state else frozenset({job.state})
        return lifecycle.move(
            job.id, at=self._client.clock.now(), queue=operation.queue, priority=operation.priority,
            reason=operation.reason,
            from_states=frozenset() if is_moved or why_not_moved(job) is not None else seen,
        )  # fmt: skip

    def _transition(self, operation: Operation, job: JobRecord) -> Transition:
        """Return the change of a job, without source states if it must not be applied.

        A job that has left the state in which it was read is not changed, unless it is deleted regardless of
        its state.
        """
        now = self._client.clock.now()
        if operation.verb is Verb.REQUEUE:
            change = lifecycle.requeue(job.id, at=now, reason=operation.reason)
        else:
            expires_at = self._client.retention.until(State.DELETED, now)
            change = lifecycle.delete(job.id, at=now, reason=operation.reason, expires_at=expires_at)
        if operation.is_for_any_state and job.state in change.from_states:
            return change
        change.from_states &= {job.state}
        return change

    # ---- records -----------------------------------------------------------------------------------------

    def _record(self, operation_id: str) -> Record | None:
        if not is_newest_first_key(operation_id):
            return None
        return self._client.storage.get_record(_KIND, operation_id)

    def _stored(self, operation_id: str) -> Operation:
        return read_operation(_known(operation_id, self._record(operation_id)))

    def _change(self, operation_id: str, change: Callable[[Operation], Operation]) -> Operation:
        """Apply the change to the stored operation and return the result."""
        while True:
            record = _known(operation_id, self._record(operation_id))
            before = read_operation(record)
            after = change(before)
            if after == before:
                return after
            text = write_operation(after)
            if self._client.storage.put_record(_KIND, record.key, text, expected_version=record.version):
                return after

    def _all(self) -> Iterator[Operation]:
        return map(read_operation, every_record(self._client.storage, _KIND))

    def _prune(self) -> None:
        ended = [operation.id for operation in self._all() if not operation.is_running]
        for operation_id in ended[KEPT:]:
            while chunks := self._chunks(operation_id):
                for record in chunks:
                    self._client.storage.delete_record(_IDS_KIND, record.key)
            self._client.storage.delete_record(_KIND, operation_id)

    def _expected(self, verb: Verb, where: JobFilter) -> int | None:
        """Return the number of matching jobs from the counts; None if the filter has other conditions."""
        if where != JobFilter(state=where.state, queue=where.queue):
            return None
        counts = self._client.storage.counts()
        states = counts.by_state if where.queue is None else counts.by_queue.get(where.queue, {})
        if where.state is not None:
            return states.get(where.state, 0)
        return sum(
            number for state, number in states.items() if verb is not Verb.MOVE or state in lifecycle.WAITING
        )

    def _now(self) -> datetime:
        return from_micros(self._client.clock.now())


def _known(operation_id: str, record: Record | None) -> Record:
    if record is None:
        raise ConfigurationError(
            f"Operation {shown(operation_id)} was not found: the id is wrong, or it ended long ago."
        )
    return record


def _check_filter(where: JobFilter) -> JobFilter:
    """Return the filter in the form in which it is read later; a cursor depends on the exact fields."""
    if not isinstance(where, JobFilter):
        raise ConfigurationError(
            f"where must be a filter such as JobFilter(state=State.FAILED), got {shown(where)}."
        )
    if where.by_due:
        if where.since is not None or where.until is not None:
            raise ConfigurationError(
                "A filter with by_due must not have since or until: in an operation, they compare the last "
                "change of jobs. Remove by_due, or since and until."
            )
        if where.state not in {None, State.SCHEDULED}:
            raise ConfigurationError(
                f"A filter with by_due must have the state scheduled, got {where.state}. Remove by_due or "
                "the state."
            )
        where = attrs.evolve(where, by_due=None, state=State.SCHEDULED)
    return where if where.state is None else attrs.evolve(where, state=to_choice(State, "state", where.state))


def _move_target(
    where: JobFilter, contains: Mapping[str, str], queue: str | None, priority: int | None
) -> MoveTarget:
    """Return the target of a move.

    Raises:
        ConfigurationError: If no target is given, all jobs match, or the state's jobs cannot be moved.
    """
    if where == JobFilter() and not contains:
        raise ConfigurationError(
            'An empty filter would move every waiting job. Use a filter such as JobFilter(queue="default").'
        )
    if where.state is not None and where.state not in lifecycle.WAITING:
        raise ConfigurationError(
            f"A move needs the state awaiting, scheduled or enqueued, got {where.state}. Remove the state "
            "from the filter to move the jobs of all three."
        )
    return to_move_target(queue, priority)


def _contains(contains: Mapping[str, str] | None) -> dict[str, str]:
    given = dict(contains or {})
    for name, text in given.items():
        if name not in _CONTAINS:
            raise ConfigurationError(
                f"contains={shown(given)}: {shown(name)} is unknown; use {' or '.join(_CONTAINS)}."
            )
        _text(f"contains[{name!r}]", text)
    return {name: text for name, text in given.items() if text}


def _text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} must be a string, got {shown(text)}.")
    if len(text) > _TEXT_LIMIT:
        raise ConfigurationError(f"{name} has {len(text):,} characters; use at most {_TEXT_LIMIT}.")
    return text
