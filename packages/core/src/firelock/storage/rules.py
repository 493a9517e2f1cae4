"""The rules of the contract as pure functions of stored values, without a clock or I/O.

They are for storages that read and write whole jobs, such as `MemoryStorage`. A storage that changes columns
with its own statements uses only the functions for transitions, lists and queues, and implements the other
rules itself, as described in the contract.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nlargest, nsmallest
from itertools import chain, islice
from typing import TypeVar, cast
from zlib import crc32

import attrs

from firelock.errors import JobNotFound, StorageError
from firelock.limits.admission import lane_of
from firelock.model.answers import Applied
from firelock.model.batch import BatchCounts, BatchRules
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, Relations, read_relations
from firelock.model.job import (
    ClaimedJob,
    FailedAttempt,
    FoundJobs,
    HistoryEntry,
    JobFilter,
    JobRecord,
    Move,
    NewJob,
    Transition,
)
from firelock.model.lifecycle import (
    Moved,
    batch_failure_reason,
    bounded_history,
    continuation_target,
    waiting_reason,
)
from firelock.model.record import Record, RecordChange
from firelock.model.session import (
    HeldClaim,
    LostClaim,
    NewSession,
    Reconciliation,
    Renewal,
    SessionRecord,
)
from firelock.model.state import FINAL_STATES, State

Place = tuple[int, str]
"""The position of a job in a list: its time and its id."""

_T = TypeVar("_T")
# Matches every time that a `datetime` can represent, but no number that is too large for a database.
_TIMESTAMP = re.compile(r"-?[0-9]{1,18}")
_ERRORS_LIMIT = 20
_HOUR = 3_600 * SECOND
_FOLLOWED_STAYS, _DEAD_STAYS = _HOUR, 24 * _HOUR  # how long ended sessions are kept


@attrs.frozen
class StoredJob:
    """The stored data of one job, except its log and its progress."""

    record: JobRecord
    sequence: int  # number in the order of insertion; orders jobs of a queue that are otherwise equal
    pending: tuple[Edge, ...] = ()  # undecided edges to parents
    history: tuple[HistoryEntry, ...] = ()
    attempts: tuple[FailedAttempt, ...] = ()  # failed attempts, with their tracebacks
    has_memos: bool = False
    waits_for_batch: bool = False  # whether the job waits only for its batch to open
    is_cancelled: bool = False  # whether the job is a cancelled batch; a cancellation is final

    @property
    def batch_id(self) -> str | None:
        """The id of the batch of which the job is a member; None if it is not a member of a batch."""
        return (
            None
            if self.record.relations_json is None
            else read_relations(self.record.relations_json).batch_id
        )

    @property
    def is_unopened(self) -> bool:
        """Whether the job is a batch that has not opened, so that its members must wait."""
        return self.waits_for_batch or (self.record.state is State.AWAITING and bool(self.pending))

    @property
    def is_ready(self) -> bool:
        """Whether a claim may take the job: it is enqueued and has no tail."""
        return self.record.state is State.ENQUEUED and self.record.session is None

    @property
    def place(self) -> tuple[int, int, int]:
        """The job's place in its queue; the smallest place comes first."""
        return -self.record.priority, cast("int", self.record.enqueued_at), self.sequence

    @property
    def lane(self) -> str | None:
        """The lane in which the job waits; None if it waits in the queue itself."""
        return None if self.record.admission_json is None else lane_of(self.record.admission)

    def claimed(self) -> ClaimedJob:
        """Return the claimed job in the form in which its session receives it."""
        fields = {name: getattr(self.record, name) for name in _CLAIMED}
        return ClaimedJob(**fields, has_memos=self.has_memos)


_CLAIMED = [field.name for field in attrs.fields(ClaimedJob) if field.name != "has_memos"]


def _changed(row: StoredJob, entry: HistoryEntry | None = None, **fields: object) -> StoredJob:
    """Return the job with these fields and this history entry; only awaiting jobs keep pending edges."""
    job = attrs.evolve(row.record, **fields)  # type: ignore[arg-type]  # only this module chooses the fields
    is_awaiting = job.state is State.AWAITING
    history = row.history if entry is None else tuple(bounded_history(row.history, entry))
    return StoredJob(
        job, row.sequence, row.pending if is_awaiting else (), history, row.attempts, row.has_memos,
        row.waits_for_batch and is_awaiting, row.is_cancelled,
    )  # fmt: skip


# ---- new jobs, and jobs that wait for others -------------------------------------------------------------


def parents_of(job: NewJob, find: Callable[[str], StoredJob | None]) -> list[JobRecord]:
    """Return the records of the job's parents.

    Raises:
        JobNotFound: If one of the parents is not stored.
    """
    parents = []
    for edge in job.parents:
        parent = find(edge.parent_id)
        if parent is None:
            raise JobNotFound(
                f"Job {job.id} cannot wait for job {edge.parent_id}, because that job is not stored. Nothing "
                "was stored."
            )
        parents.append(parent.record)
    return parents


# The fields that a client supplies.
_GIVEN = attrs.fields_dict(JobRecord).keys() & attrs.fields_dict(NewJob).keys()


def stored(job: NewJob, parents: Iterable[JobRecord], *, sequence: int, now: int) -> StoredJob:
    """Return a new job in the state that its parents require, with its first history entry."""
    new = StoredJob(
        JobRecord(
            **{name: getattr(job, name) for name in _GIVEN},
            enqueued_at=now if job.state is State.ENQUEUED else None, changed_at=job.created_at,
        ),
        sequence,
        job.parents if job.state is State.AWAITING else (),
    )  # fmt: skip
    for parent in parents:
        new = followed(new, parent, at=job.created_at, now=now)
    if new.history:
        return new
    return _changed(new, HistoryEntry(new.record.state, job.created_at, new.record.reason))


def followed(child: StoredJob, parent: JobRecord, *, at: int, now: int) -> StoredJob:
    """Return the child after its edges to this parent were decided; `at` is the timestamp of the change.

    The child is enqueued when its last edge is decided, or deleted as soon as an edge is decided whose target
    is deleted. If the child keeps waiting although the parent has ended, its reason explains why. If the
    parent has not ended, the child does not change. A child that is a batch is opened or cancelled instead.
    """
    for edge in [edge for edge in child.pending if edge.parent_id == parent.id]:
        target = continuation_target(edge.on, parent.state)
        if target is State.DELETED:
            return ended_with(child, parent, reason=_parent_ended(parent), at=at)
        if target is State.ENQUEUED:
            child = _decided(child, edge, parent, at=at, now=now)
        elif parent.is_final:
            child = _changed(child, reason=waiting_reason(edge.on, parent.state))
    return child


def _decided(child: StoredJob, edge: Edge, parent: JobRecord, *, at: int, now: int) -> StoredJob:
    place = child.pending.index(edge)
    pending = child.pending[:place] + child.pending[place + 1 :]
    if pending:
        return attrs.evolve(child, pending=pending)
    reason = _parent_ended(parent)
    if child.record.is_batch:
        child = attrs.evolve(child, pending=())
        return _changed(child, HistoryEntry(State.AWAITING, at, reason), reason=reason, changed_at=at)
    return resumed(child, reason, at=at, now=now)


def resumed(row: StoredJob, reason: str, *, at: int, now: int) -> StoredJob:
    """Return a waiting job after enqueueing it."""
    entry = HistoryEntry(State.ENQUEUED, at, reason)
    return _changed(
        row, entry, state=State.ENQUEUED, reason=reason, changed_at=at, due_at=None, waits_for=None,
        enqueued_at=now,
    )  # fmt: skip


def ended_with(child: StoredJob, parent: JobRecord, *, reason: str, at: int) -> StoredJob:
    """Return a waiting child after deleting it, with the same retention as its parent."""
    if child.record.is_batch:
        return cancelled(child, reason, at=at)
    expires_at = None
    if parent.expires_at is not None and parent.ended_at is not None:
        expires_at = at + parent.expires_at - parent.ended_at
    return _changed(
        child, HistoryEntry(State.DELETED, at, reason),
        state=State.DELETED, reason=reason, changed_at=at, ended_at=at, expires_at=expires_at,
    )  # fmt: skip


def _parent_ended(parent: JobRecord) -> str:
    return Moved.PARENT_ENDED.format(state=parent.state)


def promoted(row: StoredJob, *, now: int) -> StoredJob:
    """Return a due job after enqueueing it; a batch whose hold has ended is cancelled instead."""
    if row.record.is_batch:
        return cancelled(row, Moved.HOLD_EXPIRED.value, at=now)
    return resumed(row, Moved.DUE.value, at=now, now=now)


# ---- batches ---------------------------------------------------------------------------------------------


def cancelled(row: StoredJob, reason: str | None, *, at: int) -> StoredJob:
    """Return the batch, cancelled and without a hold; it stays open until no member runs or waits."""
    gone = _changed(
        row, HistoryEntry(State.AWAITING, at, reason), state=State.AWAITING, reason=reason, changed_at=at,
        due_at=None, ended_at=None, expires_at=None,
    )  # fmt: skip
    return attrs.evolve(gone, is_cancelled=True, waits_for_batch=False)


def held(row: StoredJob, until: int | None) -> StoredJob:
    """Return the batch with a hold that lasts until this time; None ends the hold."""
    return _changed(row, due_at=until)


def batch_ended(row: StoredJob, counts: BatchCounts, state: State, *, now: int) -> StoredJob:
    """Return the batch in the state that follows from its counts.

    If the batch had ended in another state, an entry that it was reopened is also added to its history.
    """
    if row.record.is_final:
        row = _changed(
            row, HistoryEntry(State.AWAITING, now, Moved.REOPENED.value), state=State.AWAITING,
            reason=Moved.REOPENED.value, changed_at=now, ended_at=None, expires_at=None,
        )  # fmt: skip
    if state is State.AWAITING:
        return row
    of = cast("BatchRules", cast("Relations", row.record.relations).batch)
    reason = row.record.reason if state is State.DELETED else None
    if state is State.FAILED:
        reason = batch_failure_reason(failed=counts.failed, total=counts.total, waiting=counts.waiting)
    return _changed(
        row, HistoryEntry(state, now, reason), state=state, reason=reason, changed_at=now, ended_at=now,
        due_at=None, expires_at=of.expiry(state, now),
    )  # fmt: skip


def waiting_for_batch(row: StoredJob) -> StoredJob:
    """Return a member that has no undecided parents and waits for its batch to open.

    The last history entry is replaced.
    """
    job, reason = row.record, Moved.WAITS_FOR_BATCH.value
    entry = HistoryEntry(State.AWAITING, row.history[-1].at, reason)
    job = attrs.evolve(
        job,
        state=State.AWAITING,
        reason=reason,
        enqueued_at=None,
        due_at=job.due_at if job.is_batch else None,
    )
    return attrs.evolve(row, record=job, history=(*row.history[:-1], entry), waits_for_batch=True)


def resumed_member(row: StoredJob, *, now: int) -> StoredJob:
    """Return a member that waited for its batch, in the state that it has after the batch has opened."""
    job, reason = row.record, Moved.BATCH_OPENED.value
    fields: dict[str, object] = {"state": State.ENQUEUED, "enqueued_at": now}
    if job.is_batch:
        fields = {"state": State.AWAITING}
    elif job.nominal_at is not None and job.nominal_at > now:
        fields = {"state": State.SCHEDULED, "due_at": job.nominal_at}
    entry = HistoryEntry(cast("State", fields["state"]), now, reason)
    return attrs.evolve(_changed(row, entry, reason=reason, changed_at=now, **fields), waits_for_batch=False)


# ---- attempts --------------------------------------------------------------------------------------------


def claimed_by(row: StoredJob, session: str, server: str, *, now: int) -> StoredJob:
    """Return the job after it was claimed by this session."""
    job = row.record
    return _changed(
        row, state=State.PROCESSING, reason=None, changed_at=now, attempt=job.attempt + 1,
        fence=job.fence + 1, session=session, server=server, claimed_at=now, started_at=None,
    )  # fmt: skip


def applied(row: StoredJob, transition: Transition, *, now: int) -> tuple[StoredJob, Applied]:
    """Return the job after the transition, and the result: applied, already or refused.

    The storage determines whether the result is `RELEASE_NEEDED` instead of `APPLIED`. A refused transition
    can still clear a tail.
    """
    job = row.record
    if job.state not in transition.from_states or not is_holder(job, transition):
        return _refused(row, transition)
    if transition.error is not None:
        failure = FailedAttempt(transition.attempt or job.attempt, transition.at, transition.error)
        row = attrs.evolve(row, attempts=(*row.attempts, failure)[-_ERRORS_LIMIT:])
    entry = None if transition.is_silent else entry_of(transition, job)
    fields = written(job, transition, now)
    return _changed(row, entry, waits_for=transition.waits_for, **fields), Applied.APPLIED


def entry_of(transition: Transition, job: JobRecord) -> HistoryEntry:
    """Return the transition's history entry; an operator's also has the previous attempt or due time."""
    entry = transition.entry()
    if transition.session is not None:
        return entry
    if job.state is State.PROCESSING:
        return attrs.evolve(
            entry,
            attempt=job.attempt,
            claimed_at=job.claimed_at,
            started_at=job.started_at,
            server=job.server,
        )
    return attrs.evolve(entry, due_at=job.due_at) if job.state is State.SCHEDULED else entry


def is_holder(job: JobRecord, transition: Transition) -> bool:
    """Return whether the job has the transition's session and fence, or the transition needs no session."""
    return transition.session is None or (transition.session, transition.fence) == (job.session, job.fence)


def written(job: JobRecord, transition: Transition, now: int) -> dict[str, object]:
    """Return the fields that an applied transition writes to the job."""
    is_success = transition.to is State.SUCCEEDED
    fields: dict[str, object] = {
        "state": transition.to,
        "reason": transition.reason,
        "changed_at": transition.at,
        "due_at": transition.due_at,
        "result": transition.result if is_success else None,
        "result_absent": transition.result_absent if is_success else None,
        "ended_at": None,
        "expires_at": None,
    }
    for name in ("retries", "crashes", "started_at", "server"):
        if (value := getattr(transition, name)) is not None:
            fields[name] = value
    if transition.to in FINAL_STATES:
        fields |= {"ended_at": transition.at, "expires_at": transition.expires_at}
    if transition.error is not None:
        fields["error"] = attrs.evolve(transition.error, traceback=None)
    if transition.session is not None:
        fields["session"] = None
    if transition.gives_back:
        fields["attempt"] = job.attempt - 1
    elif transition.to is State.ENQUEUED:
        fields["enqueued_at"] = now
    return fields


def moved(row: StoredJob, move: Move) -> tuple[StoredJob, Applied]:
    """Return the job in its new queue, and the result of the move: applied, already or refused.

    The job keeps its `enqueued_at`, so it gets the same place as if it had always been in the new queue. A
    batch is never in a queue.
    """
    job = row.record
    if job.is_batch or job.state not in move.from_states:
        return row, Applied.REFUSED
    queue = job.queue if move.queue is None else move.queue
    priority = job.priority if move.priority is None else move.priority
    if (queue, priority) == (job.queue, job.priority):
        return row, Applied.ALREADY
    entry = HistoryEntry(job.state, move.at, moved_reason(move, job.queue, job.priority))
    return _changed(row, entry, queue=queue, priority=priority), Applied.APPLIED


def moved_reason(move: Move, queue: str, priority: int) -> str:
    """Return the reason that the history records for a move from this queue."""
    what = Moved.TO_QUEUE.format(
        before=queue,
        priority_before=priority,
        after=queue if move.queue is None else move.queue,
        priority=priority if move.priority is None else move.priority,
    )
    return f"{what}: {move.reason}"


def _refused(row: StoredJob, transition: Transition) -> tuple[StoredJob, Applied]:
    """Return the job and the result of a transition whose guards do not hold.

    The result of a repeated transition is ALREADY, and that of any other transition is REFUSED. A late
    outcome from the tail's session clears the tail.
    """
    job = row.record
    if transition.session is None or job.fence != transition.fence:
        return row, Applied.REFUSED
    if job.session is None:
        return row, Applied.ALREADY if job.state is transition.to else Applied.REFUSED
    if job.is_stopping and job.session == transition.session:
        return _changed(row, session=None), Applied.REFUSED
    return row, Applied.REFUSED


def taken_back(row: StoredJob, *, crash: str | None, now: int) -> StoredJob:
    """Return the job without its ended session, at its previous place in the queue.

    If `crash` is given, a crash is counted, and `crash` is the reason. If a job is not processing, only its
    tail is removed.
    """
    job, entry = row.record, None
    if job.state is not State.PROCESSING:
        return _changed(row, session=None)
    if crash is not None:
        entry = HistoryEntry(
            State.ENQUEUED, now, crash, job.attempt, job.claimed_at, job.started_at, job.server
        )
    return _changed(
        row, entry, state=State.ENQUEUED, reason=crash or Moved.NOT_STARTED.value, changed_at=now,
        session=None, attempt=job.attempt - 1, crashes=job.crashes + (crash is not None),
    )  # fmt: skip


def reconciled(
    rows: Iterable[StoredJob],
    held: Sequence[HeldClaim],
    find: Callable[[str], StoredJob | None],
    *,
    is_session_lost: bool,
) -> tuple[Reconciliation, list[StoredJob]]:
    """Return the differences between claims and storage, and the jobs whose start must be stored.

    Args:
        rows: the session's processing jobs and tails, as stored.
        held: the claims that its worker process believes it holds.
        find: a function that returns the stored job with this id; it is called only for lost claims.
        is_session_lost: whether the session has ended or is unknown.
    """
    left = {(row.record.id, row.record.fence): row for row in rows}
    lost, started = [], []
    for one in held:
        row = left.pop((one.job_id, one.fence), None)
        if row is None or row.record.state is not State.PROCESSING:
            lost.append(_lost(one, row or find(one.job_id)))
        elif one.started_at is not None:
            started.append(_changed(row, started_at=one.started_at))
    unknown = [row.claimed() for row in left.values()]
    return Reconciliation(is_session_lost, lost, unknown), started


def _lost(held: HeldClaim, row: StoredJob | None) -> LostClaim:
    if row is None:
        return LostClaim(held)
    job = row.record
    return LostClaim(held, job.state, job.fence, job.is_stopping)


# ---- sessions --------------------------------------------------------------------------------------------


def begun(session: NewSession, *, now: int) -> SessionRecord:
    """Return a new session, which expires after its timeout."""
    return SessionRecord(session, _lives_until(session, now), True, Renewal(session.id))


def renewed(record: SessionRecord, renewal: Renewal, *, now: int) -> SessionRecord:
    """Return the living session after renewing it, with the report of its worker process."""
    return SessionRecord(record.session, _lives_until(record.session, now), True, renewal)


def has_expired(expires_at: int, timeout_seconds: float, *, now: int, as_of: int | None) -> bool:
    """Return whether a session has expired by the storage's clock and by `as_of`; see `Storage.orphans`."""
    earliest, latest = clocks(now, as_of)
    return expires_at <= earliest or expires_at > latest + int(2 * timeout_seconds * SECOND)


def clocks(now: int, as_of: int | None) -> tuple[int, int]:
    """Return the storage's time and the caller's last reading of it, with the earlier time first."""
    return (now, now) if as_of is None else (min(now, as_of), max(now, as_of))


def forget_at(died_at: int, *, is_followed: bool) -> int:
    """Return the time from which an ended session may be deleted; see `Storage.prune`."""
    return died_at + (_FOLLOWED_STAYS if is_followed else _DEAD_STAYS)


def _lives_until(session: NewSession, now: int) -> int:
    return now + int(session.timeout_seconds * SECOND)


# ---- lists -----------------------------------------------------------------------------------------------


def matches(job: JobRecord, where: JobFilter) -> bool:
    """Return whether the job matches every filter field that is set, except the time window."""
    return (
        where.state in (None, job.state)
        and where.task in (None, job.task)
        and where.queue in (None, job.queue)
        and (where.tag is None or where.tag in job.tags)
        and where.server in (None, job.server)
        and (where.fingerprint is None or where.fingerprint == (job.error and job.error.fingerprint))
        and where.recurring_id in (None, job.recurring_id)
        and (where.id_prefix is None or job.id.startswith(where.id_prefix))
        and (where.parent_id is None or any(where.parent_id == edge.parent_id for edge in job.parents))
        and where.is_retrying in (None, job.is_retrying)
        and (not where.by_due or job.state is State.SCHEDULED)
        and (where.batch_id is None or where.batch_id == (job.relations and job.relations.batch_id))
    )


def is_in_window(job: JobRecord, where: JobFilter) -> bool:
    """Return whether the job is in the filter's time window."""
    at = listed_at(job, where)
    return (where.since is None or where.since <= at) and (where.until is None or at < where.until)


def listed_at(job: JobRecord, where: JobFilter) -> int:
    """Return the time that determines the position of a matching job in the list."""
    if where.by_due and job.due_at is not None:
        return job.due_at
    return job.created_at if where.state is None else job.changed_at


def write_cursor(place: Place, where: JobFilter, *, oldest_first: bool) -> str:
    """Return the cursor of the page after this place, for one filter and direction."""
    return f"{_seal(where, oldest_first)}.{place[0]}.{place[1]}"


def read_cursor(cursor: str, where: JobFilter, *, oldest_first: bool) -> Place:
    """Return the place in the list at which a page ended.

    Raises:
        StorageError: If the cursor does not belong to a page of this filter and direction.
    """
    owner, _, place = cursor.partition(".")
    time, _, id = place.partition(".")
    if owner != _seal(where, oldest_first) or not _TIMESTAMP.fullmatch(time) or not id:
        raise StorageError(
            f"Cursor {cursor!r} does not belong to a page of this filter and direction. Start without a "
            "cursor."
        )
    return int(time), id


def _seal(where: JobFilter, oldest_first: bool) -> str:
    return f"{crc32(repr((where, oldest_first)).encode(errors='backslashreplace')):08x}"


def paged(
    jobs: Iterable[JobRecord], where: JobFilter, *, limit: int, cursor: str | None, oldest_first: bool
) -> FoundJobs:
    """Return the page that `Storage.find` must return; reads all jobs, which can be in any order."""
    after = None if cursor is None else read_cursor(cursor, where, oldest_first=oldest_first)
    wanted = (job for job in jobs if matches(job, where) and is_in_window(job, where))
    places = ((listed_at(job, where), job.id, job) for job in wanted)
    if oldest_first:
        rest = (place for place in places if after is None or place[:2] > after)
        found = nsmallest(limit + 1, rest, key=lambda place: place[:2])
    else:
        rest = (place for place in places if after is None or place[:2] < after)
        found = nlargest(limit + 1, rest, key=lambda place: place[:2])
    shown = found[:limit]
    has_more = bool(shown) and len(found) > limit
    following = write_cursor(shown[-1][:2], where, oldest_first=oldest_first) if has_more else None
    return FoundJobs([job for _, _, job in shown], following)


# ---- records ---------------------------------------------------------------------------------------------


def earliest(*times: int | None) -> int | None:
    """Return the earliest of the times that are not None; None if all are None."""
    return min((time for time in times if time is not None), default=None)


def checked(stored: Record | None, change: RecordChange) -> Applied:
    """Return the result for a record on which an insert depends; only APPLIED permits the insert."""
    if (stored.version if stored else 0) == change.expected_version:
        return Applied.APPLIED
    wanted = Record(change.kind, change.key, change.value, change.expected_version + 1, change.due_at)
    return Applied.ALREADY if stored == wanted else Applied.REFUSED


# ---- queues ----------------------------------------------------------------------------------------------


def is_pausing(settings: Record | None) -> bool:
    """Return whether the record of a queue (kind "queue", key its name) pauses the queue."""
    value = json.loads(settings.value) if settings else None
    return isinstance(value, dict) and value.get("paused") is True


def next_in_line(
    lines: Mapping[str, Iterable[_T]], queues: Sequence[str] | None, limit: int, *, served: str = ""
) -> list[_T]:
    """Return up to `limit` waiting items in the order in which `Storage.claim` takes them.

    Args:
        lines: the waiting items of each queue, in order; paused queues are omitted.
        queues: queues to take from, one after another; None takes one item of each queue in turn.
        limit: the maximum number of items.
        served: if `queues` is None, the queue that was served last; the next queue comes first.
    """
    if queues is not None:
        return list(islice(chain.from_iterable(lines.get(name, ()) for name in dict.fromkeys(queues)), limit))
    names = sorted(lines, key=lambda name: (name <= served, name))
    turns = [iter(lines[name]) for name in names]
    taken: list[_T] = []
    while turns and len(taken) < limit:
        in_turn = [(turn, one) for turn in turns if (one := next(turn, _NO_ITEM)) is not _NO_ITEM]
        turns = [turn for turn, _ in in_turn]
        taken += [one for _, one in in_turn]  # type: ignore[misc]  # _NO_ITEM was filtered out above
    return taken[:limit]


_NO_ITEM = object()
