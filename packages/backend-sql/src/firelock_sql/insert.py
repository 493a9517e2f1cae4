"""`insert`: jobs with what belongs to them, decided against their parents in the same transaction."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from sqlalchemy import select, update

from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Edge,
    HistoryEntry,
    JobNotFound,
    NewJob,
    State,
    Upkeep,
    continuation_target,
    waiting_reason,
)
from firelock_sql.history import edges_text, entry_line, list_text
from firelock_sql.job_row import kept_until
from firelock_sql.statements import Statement, Value, among, insert_into
from firelock_sql.tables import ONE, by_id, edges, is_scheduled, job_tags, jobs, pinned
from firelock_sql.transaction import Database, Transaction

__all__ = ["insert_jobs"]

_COLUMNS = (
    "id", "state", "queue", "priority", "enqueued_at", "changed_at", "due_at", "ended_at", "expires_at",
    "reason", "task", "arguments", "serializer", "created_at", "nominal_at", "tags", "timeout_seconds",
    "retry", "recurring_id", "parents", "creation",
)  # fmt: skip
_INSERT = insert_into(jobs, *_COLUMNS)
_TAG = insert_into(job_tags, "tag", "created_at", "job_id")
_EDGE = insert_into(edges, "parent_id", "child_id", "awaited", "is_decided")
_KNOWN = Statement(select(jobs.c.id).where(among(jobs.c.id, "ids")))
_PARENTS = Statement(
    by_id(select(jobs.c.id, jobs.c.state, jobs.c.ended_at, jobs.c.expires_at))
    .where(among(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)
_MARK_PARENTS = Statement(update(jobs).where(among(jobs.c.id, "ids")).values(is_parent=ONE))
_NEXT_DUE = Statement(
    pinned(select(jobs.c.due_at), "due")
    .where(is_scheduled, jobs.c.due_at.is_not(None))
    .order_by(jobs.c.due_at)
    .limit(ONE)
)


@attrs.define
class _Start:
    """How a job begins, and what its children need to know of it."""

    state: State
    reason: str | None
    ended_at: int | None = None
    expires_at: int | None = None
    open_edges: list[Edge] = attrs.field(factory=list)


def insert_jobs(tx: Transaction, database: Database, batch: Sequence[NewJob]) -> list[bool]:
    """See `Storage.insert`."""
    known = {row[0] for row in tx.all(_KNOWN, {"ids": database.among([job.id for job in batch])})}
    answers: list[bool] = []
    new: list[NewJob] = []
    for job in batch:
        answers.append(job.id not in known)
        if job.id not in known:
            known.add(job.id)
            new.append(job)
    if new:
        insert_new(tx, database, new)
    return answers


def insert_new(tx: Transaction, database: Database, new: Sequence[NewJob]) -> None:
    """The jobs, none of which is stored yet, are stored."""
    starts = _decide_starts(tx, database, new)
    if any(job.state is State.SCHEDULED for job in new):
        _tell_of_due(tx, new)
    tx.run_many(_INSERT, [_values(job, start, tx.now) for job, start in zip(new, starts, strict=True)])
    for (state, queue), number in Counter(
        (start.state.value, job.queue) for job, start in zip(new, starts, strict=True)
    ).items():
        tx.deltas[state, queue] += number
        if state == State.ENQUEUED:
            tx.woken.add(queue)
    tx.run_many(
        _TAG,
        [
            {"tag": tag, "created_at": job.created_at, "job_id": job.id}
            for job in new
            if job.tags
            for tag in dict.fromkeys(job.tags)
        ],
    )
    _tie(tx, database, new, starts)


def _values(job: NewJob, start: _Start, now: int) -> dict[str, Value]:
    is_plain = start.state is State.ENQUEUED and start.reason is None
    creation = None if is_plain else entry_line(HistoryEntry(start.state, job.created_at, start.reason))
    return {
        "id": job.id,
        "state": start.state.value,
        "queue": job.queue,
        "priority": job.priority,
        "enqueued_at": now if start.state is State.ENQUEUED else None,
        "changed_at": job.created_at,
        "due_at": job.due_at,
        "ended_at": start.ended_at,
        "expires_at": start.expires_at,
        "reason": start.reason,
        "task": job.task,
        "arguments": job.arguments,
        "serializer": job.serializer,
        "created_at": job.created_at,
        "nominal_at": job.nominal_at,
        "tags": list_text(job.tags),
        "timeout_seconds": job.timeout_seconds,
        "retry": job.retry,
        "recurring_id": job.recurring_id,
        "parents": edges_text(job.parents),
        "creation": creation,
    }


def _tell_of_due(tx: Transaction, new: Sequence[NewJob]) -> None:
    """Servers that sleep until the next due instant are told where it has become an earlier one."""
    found: Any = tx.one(_NEXT_DUE)
    first = min((job.due_at for job in new if job.due_at is not None), default=None)
    if first is not None and (found is None or found[0] is None or first < found[0]):
        tx.woken.add(ANY_QUEUE)


# ---- parents ---------------------------------------------------------------------------------------------


def _decide_starts(tx: Transaction, database: Database, new: Sequence[NewJob]) -> list[_Start]:
    starts: list[_Start] = []
    in_batch: dict[str, _Start] = {}
    stored = _load_parents(tx, database, new) if any(job.parents for job in new) else {}
    known = ChainMap(in_batch, stored)
    for job in new:
        start = _Start(job.state, job.reason)
        if job.state is State.AWAITING and job.parents:
            _decide(job, start, known)
        starts.append(start)
        in_batch[job.id] = start
    return starts


def _load_parents(tx: Transaction, database: Database, new: Sequence[NewJob]) -> dict[str, _Start]:
    ids = sorted({edge.parent_id for job in new if job.state is State.AWAITING for edge in job.parents})
    found: Sequence[Any] = tx.all(_PARENTS, {"ids": database.among(ids)})
    return {id: _Start(State(state), None, ended_at, expires_at) for id, state, ended_at, expires_at in found}


def _decide(job: NewJob, start: _Start, known: Mapping[str, _Start]) -> None:
    """The job begins as its parents leave it; what is not decided stays in `open_edges`."""
    for edge in job.parents:
        if edge.parent_id not in known:
            message = f"Job {job.id} waits for {edge.parent_id}, which is not stored; nothing was stored."
            raise JobNotFound(message)
    start.open_edges = list(job.parents)
    reason = job.reason
    for edge in job.parents:
        parent = known[edge.parent_id]
        target = continuation_target(edge.on, parent.state)
        if target is not None:
            reason = Upkeep.PARENT_ENDED.format(state=parent.state)
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


def _tie(tx: Transaction, database: Database, new: Sequence[NewJob], starts: Sequence[_Start]) -> None:
    ties: list[dict[str, Value]] = []
    waited_for: set[str] = set()
    for job, start in zip(new, starts, strict=True):
        for edge in job.parents:
            is_open = edge in start.open_edges
            if is_open:
                waited_for.add(edge.parent_id)
            ties.append(
                {
                    "parent_id": edge.parent_id,
                    "child_id": job.id,
                    "awaited": edge.on.value,
                    "is_decided": int(not is_open),
                }
            )
    if ties:
        tx.run_many(_EDGE, ties)
    if waited_for:
        tx.run(_MARK_PARENTS, {"ids": database.among(sorted(waited_for))})
