"""`insert`: stores jobs and their related rows; the parents of a job determine its initial state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile

import attrs

from firelock.limits import lane_of
from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    BatchFinished,
    Duplicate,
    Edge,
    HistoryEntry,
    JobNotFound,
    Moved,
    NewJob,
    Relations,
    State,
    continuation_target,
    further_fields,
    waiting_reason,
)
from firelock.storage.batches import NOTHING, Share
from firelock_sql.connections.full_reads import LATE
from firelock_sql.connections.transaction import Text, Transaction, Value, insert_into
from firelock_sql.rows.batch_row import (
    SWEEP,
    BatchRow,
    new_batch,
    put_batches,
    share_batches,
    store_batch_changes,
)
from firelock_sql.rows.job_row import KNOWN, edges_text, entry_line, list_text, relations_in, visible
from firelock_sql.rows.marks import IS_MEMBER
from firelock_sql.verbs.children import MARK_PARENTS, kept_until
from firelock_sql.verbs.unique import UniqueCalls, unique_use

_CONVERTED = ("state", "due_at", "reason", "tags", "parents")
_AS_GIVEN = [field.name for field in attrs.fields(NewJob) if field.name not in _CONVERTED]
_INSERT = insert_into(
    "firelock_jobs", *_AS_GIVEN, *_CONVERTED, "marks", "lane", "enqueued_at", "changed_at", "ended_at",
    "expires_at", "creation",
)  # fmt: skip
further, NO_FURTHER = further_fields("admission_json", "relations_json")
"""The fields that a job does not have on the fast paths, which store limits and membership at most."""

_TIMED = frozenset({State.AWAITING, State.SCHEDULED})
_TAG = insert_into("firelock_job_tags", "tag", "created_at", "job_id")
_EDGE = insert_into("firelock_edges", "parent_id", "child_id", "awaited", "is_decided", "carries")
_MEMBER = insert_into("firelock_members", "batch_id", "created_at", "job_id")
_PARENTS = Text("""
SELECT id, state, ended_at, expires_at FROM firelock_jobs INDEXED BY id
WHERE id IN :ids ORDER BY id FOR NO KEY UPDATE
""")
_STATES = Text("SELECT id, state FROM firelock_jobs WHERE id IN :ids")
# Searches backwards from the latest due time, because jobs that were due earlier may have left many index
# entries: see `DueFloor`.
_IS_DUE_BEFORE = Text("""
SELECT 1 FROM firelock_jobs INDEXED BY firelock_due
WHERE due_at IS NOT NULL AND due_at >= :due_from AND due_at <= :due_at ORDER BY due_at DESC LIMIT 1
""")


@attrs.define
class _Start:
    """The initial state of a job, with the facts that its children need."""

    state: State
    reason: str | None
    ended_at: int | None = None
    expires_at: int | None = None
    open_edges: list[Edge] = attrs.field(factory=list)
    due_at: int | None = None
    batch: BatchRow | None = None  # the row of the job itself, if it is a batch
    is_stored: bool = False  # the job was stored before this call


def needs_only_limits(job: NewJob, *, but_relations: bool = False) -> bool:
    """Return whether the job needs only a queue, a priority, limits and a start deadline.

    Args:
        job: the new job.
        but_relations: ignore its relations to other jobs.
    """
    has_relations = job.relations_json is not None and not but_relations
    return further(job) == NO_FURTHER and not has_relations and unique_use(job) is None


def is_called(relations_json: str) -> bool:
    """Return whether the only relation of the job is that another job has called it."""
    relations = relations_in(relations_json)
    return relations.caller_id is not None and relations == Relations(caller_id=relations.caller_id)


def count_first_members(jobs: Sequence[NewJob]) -> int:
    """Return how many jobs directly after the first one are its members and need only limits.

    Return 0 if the first job is not a batch, or if it has parents: if they can no longer end as required, its
    members must be stored and then swept. Also return 0 if a later job has a unique key, because keys must be
    locked before everything else.
    """
    relations = jobs[1].relations_json if len(jobs) > 1 and not jobs[0].parents else None
    if relations is None or relations_in(relations) != Relations(jobs[0].id):
        return 0
    members = takewhile(
        lambda job: job.relations_json == relations and needs_only_limits(job, but_relations=True), jobs[1:]
    )
    number = sum(1 for _ in members)
    return 0 if any(unique_use(job) is not None for job in jobs[number + 1 :]) else number


def insert_jobs(tx: Transaction, jobs: Sequence[NewJob]) -> list[bool | Duplicate]:
    """See `Storage.insert`."""
    if not jobs:
        return []
    tx.send_clock_query()
    known = {row[0] for row in tx.all(KNOWN, ids=[job.id for job in jobs])}
    answers: list[bool | Duplicate] = []
    new: list[NewJob] = []
    for job in jobs:
        answers.append(job.id not in known)
        if job.id not in known:
            known.add(job.id)
            new.append(job)
    if any(unique_use(job) is not None for job in new):
        given = iter(_insert_unique(tx, new))
        return [next(given) if is_new else False for is_new in answers]
    if new:
        insert_new(tx, new)
    return answers


def _insert_unique(tx: Transaction, calls: Sequence[NewJob]) -> list[bool | Duplicate]:
    """Store new jobs one after another, because a unique key can depend on an earlier job of the same call.

    Return for each job whether it is new, or its duplicate. None of the jobs has been stored yet.
    """
    new: list[tuple[NewJob, _Start]] = []

    def flush() -> None:
        _store(tx, [job for job, _ in new], [start for _, start in new])
        new.clear()

    unique = UniqueCalls(tx, calls, flush)  # keys are locked before batches, and batches before parents
    known = _load_known(tx, calls)
    answers: list[bool | Duplicate] = []
    for job in calls:
        duplicate = unique.answer(job)
        answers.append(True if duplicate is None else duplicate)
        if duplicate is None:
            start = _start_of(job, known)
            unique.began(job, start.state)
            new.append((job, start))
    flush()
    unique.store()
    return answers


def insert_new(tx: Transaction, new: Sequence[NewJob]) -> None:
    """Store jobs that are new and have no unique keys."""
    known = _load_known(tx, new)
    _store(tx, new, [_start_of(job, known) for job in new])


def _store(tx: Transaction, new: Sequence[NewJob], starts: Sequence[_Start]) -> None:
    if any(start.due_at is not None for start in starts):
        _wake_if_due_sooner(tx, starts)
    tx.run_many(_INSERT, [_values(job, start, tx.now) for job, start in zip(new, starts, strict=True)])
    for (state, queue), number in Counter(
        (start.state.value, job.queue) for job, start in zip(new, starts, strict=True)
    ).items():
        tx.moved(queue, None, state, number)
        if state == State.ENQUEUED:
            tx.woken.add(queue)
    if any(job.relations_json is not None for job in new):
        _store_members(tx, new, starts)
    tags = ((tag, job) for job in new for tag in dict.fromkeys(job.tags))
    tx.run_many(_TAG, [{"tag": tag, "created_at": job.created_at, "job_id": job.id} for tag, job in tags])
    _store_edges(tx, new, starts)


def _store_members(tx: Transaction, new: Sequence[NewJob], starts: Sequence[_Start]) -> None:
    """Store the counts of new batches; list and count the new members."""
    batches = {job.id: start.batch for job, start in zip(new, starts, strict=True) if start.batch is not None}
    changes: dict[str, Share] = {}
    rows = []
    for job, start in zip(new, starts, strict=True):
        batch_id = relations_in(job.relations_json).batch_id
        if batch_id is None:
            continue
        rows.append({"batch_id": batch_id, "created_at": job.created_at, "job_id": job.id})
        share = _share(start)
        if (batch := batches.get(batch_id)) is None:
            changes[batch_id] = changes.get(batch_id, NOTHING).plus(share)
        else:  # other transactions do not see the new batch yet
            batch.total, batch.active, batch.waiting, batch.deleted, batch.batches = (
                batch.total + 1, batch.active + share.active, batch.waiting + share.waiting,
                batch.deleted + share.deleted, batch.batches + share.batches,
            )  # fmt: skip
    for id, batch in batches.items():
        due_at = next(start.due_at for job, start in zip(new, starts, strict=True) if job.id == id)
        batch.is_changed = int(bool(batch.is_cancelled) or (not batch.active and due_at is None))
    put_batches(tx, list(batches.values()))
    tx.run_many(_MEMBER, rows)
    store_batch_changes(tx, changes)


def _share(start: _Start) -> Share:
    """Return what a new member adds to the counts of its batch."""
    batches = int(start.batch is not None)
    if start.state is State.DELETED:
        return Share(1, deleted=1, batches=batches)
    is_cancelled = start.batch is not None and start.batch.is_cancelled
    waits = start.state is State.AWAITING and bool(start.open_edges) and not is_cancelled
    return Share(1, active=int(not waits), waiting=int(waits), batches=batches)


def _values(job: NewJob, start: _Start, now: int) -> dict[str, Value]:
    is_plain = start.state is State.ENQUEUED and start.reason is None
    creation = None if is_plain else entry_line(HistoryEntry(start.state, job.created_at, start.reason))
    return {
        **{name: getattr(job, name) for name in _AS_GIVEN},
        "due_at": start.due_at,
        "marks": IS_MEMBER if relations_in(job.relations_json).batch_id is not None else 0,
        "lane": None if job.admission_json is None else lane_of(job.admission),
        "state": start.state.value,
        "enqueued_at": now if start.state is State.ENQUEUED else None,
        "changed_at": job.created_at,
        "ended_at": start.ended_at,
        "expires_at": start.expires_at,
        "reason": start.reason,
        "tags": list_text(job.tags),
        "parents": edges_text(job.parents),
        "creation": creation,
    }


def _wake_if_due_sooner(tx: Transaction, starts: Sequence[_Start]) -> None:
    """Wake servers that sleep until the next due time, if a new job is due earlier.

    Stored jobs that have been due for some seconds are ignored, because servers have found them already.
    """
    first = min((start.due_at for start in starts if start.due_at is not None), default=None)
    if first is not None and not tx.one(_IS_DUE_BEFORE, due_at=first, due_from=tx.now - LATE):
        tx.woken.add(ANY_QUEUE)


# ---- parents ---------------------------------------------------------------------------------------------


def _load_known(tx: Transaction, new: Sequence[NewJob]) -> dict[str, _Start]:
    """Return the stored batches and parents of new jobs, to which `_start_of` adds the new jobs."""
    batches = {id for job in new if (id := relations_in(job.relations_json).batch_id) is not None}
    batches -= {job.id for job in new}
    shared = share_batches(tx, visible(tx, batches))  # before the parents
    known: dict[str, _Start] = {}
    if any(job.parents for job in new):
        ids = {edge.parent_id for job in new if job.state is State.AWAITING for edge in job.parents}
        found = tx.all(_PARENTS, ids=visible(tx, ids))
        known = {id: _Start(State(state), None, ended, expires) for id, state, ended, expires in found}
    if shared:
        for id, state in dict(tx.all_known(_STATES, ids=sorted(shared))).items():
            start = known.setdefault(id, _Start(State(state), None))
            start.batch, start.is_stored = shared[id], True
    return known


def _start_of(job: NewJob, known: dict[str, _Start]) -> _Start:
    """Return the initial state of the job, based on its parents in `known`, and add the job to `known`."""
    start = _Start(job.state, job.reason, due_at=job.due_at)
    if job.state is State.AWAITING and job.parents:
        _decide_by_parents(job, start, known)
    if job.relations_json is not None:
        relations = relations_in(job.relations_json)
        if relations.batch is not None:
            _begin_batch(job, start)
        if relations.batch_id is not None:
            _begin_member(job, relations.batch_id, start, known)
    if start.state not in _TIMED:
        start.due_at = None
    known[job.id] = start
    return start


def _begin_batch(job: NewJob, start: _Start) -> None:
    """Make the batch awaiting, regardless of its parents' states; cancel it if they require its deletion."""
    is_cancelled = start.state is State.DELETED
    if is_cancelled:
        start.due_at = start.ended_at = start.expires_at = None
    start.state = State.AWAITING
    start.batch = new_batch(job.id, is_unopened=bool(start.open_edges), is_cancelled=is_cancelled)
    if is_cancelled:
        start.batch.begin(SWEEP)


def _begin_member(job: NewJob, batch_id: str, start: _Start, known: Mapping[str, _Start]) -> None:
    """Let a member wait until its batch opens, unless the member waits for another member.

    If a batch is cancelled when it is stored, its first members are stored and later swept.

    Raises:
        JobNotFound: If the batch is not stored.
        BatchFinished: If the batch accepts no more members.
    """
    found = known.get(batch_id)
    if found is None or found.batch is None:
        raise JobNotFound(
            f"Batch {batch_id} of job {job.id} was not found in the storage; nothing was stored."
        )
    if found.is_stored and (found.batch.is_cancelled or found.state in FINAL_STATES):
        how = "is cancelled" if found.batch.is_cancelled else f"has ended ({found.state})"
        raise BatchFinished(f"Batch {batch_id} of job {job.id} {how}; nothing was stored.")
    is_free = start.state not in FINAL_STATES and not start.open_edges
    if start.batch is not None and start.batch.is_cancelled:
        return
    if found.batch.is_unopened and is_free:
        start.state, start.reason = State.AWAITING, Moved.WAITS_FOR_BATCH.value
        if start.batch is None:
            start.due_at = None
        else:
            start.batch.is_unopened = 1


def _decide_by_parents(job: NewJob, start: _Start, known: Mapping[str, _Start]) -> None:
    """Set the initial state based on the parents' states; undecided edges stay in `open_edges`."""
    for edge in job.parents:
        if edge.parent_id not in known:
            raise JobNotFound(
                f"Parent {edge.parent_id} of job {job.id} was not found in the storage; nothing was stored."
            )
    start.open_edges = list(job.parents)
    reason = job.reason
    for edge in job.parents:
        parent = known[edge.parent_id]
        target = continuation_target(edge.on, parent.state)
        if target is not None:
            reason = Moved.PARENT_ENDED.format(state=parent.state)
            start.open_edges.remove(edge)
        elif parent.state in FINAL_STATES:
            start.reason = waiting_reason(edge.on, parent.state)
        if target is State.DELETED:
            start.state, start.reason, start.open_edges = State.DELETED, reason, []
            start.ended_at = job.created_at
            start.expires_at = kept_until(job.created_at, parent.ended_at, parent.expires_at)
            return
    if not start.open_edges:
        start.state, start.reason = State.ENQUEUED, reason


def _store_edges(tx: Transaction, new: Sequence[NewJob], starts: Sequence[_Start]) -> None:
    relations = [
        (job, edge, edge in start.open_edges)
        for job, start in zip(new, starts, strict=True)
        for edge in job.parents
    ]
    tx.run_many(
        _EDGE,
        [
            {
                "parent_id": edge.parent_id,
                "child_id": job.id,
                "awaited": edge.on.value,
                "is_decided": int(not is_open),
                "carries": int(edge.carries),
            }
            for job, edge, is_open in relations
        ],
    )
    if waited_for := {edge.parent_id for _, edge, is_open in relations if is_open}:
        tx.run(MARK_PARENTS, ids=sorted(waited_for))
