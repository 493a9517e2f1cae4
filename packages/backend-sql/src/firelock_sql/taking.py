"""Taking jobs: a claim's rows become this session's, and what cannot be read is put aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
from sqlalchemy import bindparam, null, update

from firelock.storage import Claim, ClaimedJob, ErrorInfo, State, Transition
from firelock_sql.apply import apply_transitions
from firelock_sql.claiming import Turns, next_due_at, ready_rows, serving
from firelock_sql.database import Database, Transaction
from firelock_sql.statements import Statement, among
from firelock_sql.tables import ONE, jobs, text_literal
from firelock_sql.text import read_list

__all__ = ["PLACE_IS_PARENT", "PLACE_SEQ", "Asked", "Found", "Taken", "lost", "take_jobs", "take_rows"]

PLACE_SEQ, PLACE_IS_PARENT = 18, 19
_PROCESSING, _ENQUEUED = State.PROCESSING.value, State.ENQUEUED.value

_TAKE = Statement(
    update(jobs)
    .where(among(jobs.c.seq, "seqs"))
    .ordered_values(
        (jobs.c.state, text_literal(_PROCESSING)),
        (jobs.c.attempt, jobs.c.attempt + ONE),
        (jobs.c.fence, jobs.c.fence + ONE),
        (jobs.c.session, bindparam("holder")),
        (jobs.c.server, bindparam("new_server")),
        (jobs.c.claimed_at, bindparam("now")),
        (jobs.c.changed_at, bindparam("now_again")),
        (jobs.c.started_at, null()),
        (jobs.c.reason, null()),
    )
)


@attrs.frozen
class Asked:
    """What a claim asks for."""

    queues: Sequence[str] | None
    limit: int
    session: str
    now: int


@attrs.frozen
class Found:
    """What a living session of this server may take: rows that are ready, and locked."""

    server: str
    rows: Sequence[Any]
    next_due_at: int | None


@attrs.frozen
class Taken:
    """What a claim has taken, and the rows as they were before."""

    claim: Claim
    rows: Sequence[Any]
    server: str


def take_jobs(tx: Transaction, database: Database, asked: Asked, turns: Turns) -> Taken:
    """See `Storage.claim`."""
    server = serving(tx, asked.session)
    if server is None:
        return lost(next_due_at(tx))
    rows = ready_rows(tx, asked.queues, asked.limit, turns) if asked.limit > 0 else []
    return take_rows(tx, database, asked, Found(server, rows, next_due_at(tx)))


def lost(next_due_at: int | None) -> Taken:
    """Return the claim of a session that is dead or unknown."""
    return Taken(Claim([], next_due_at, is_session_lost=True), [], "")


def take_rows(tx: Transaction, database: Database, asked: Asked, found: Found) -> Taken:
    """The rows become the session's; return the claim."""
    now, rows = asked.now, found.rows
    claimed, unreadable = _claimed_of(rows, now)
    if unreadable:
        rows = [row for row in rows if row[0] not in unreadable]
        apply_transitions(tx, database, [_quarantine(id, now) for id in unreadable])
    if rows:
        seqs = database.among([row[PLACE_SEQ] for row in rows])
        taken = {"holder": asked.session, "new_server": found.server, "now": now, "now_again": now}
        tx.run_many(_TAKE, [{**taken, "seqs": seqs}])
        for queue, number in Counter(row[4] for row in rows).items():
            tx.deltas[_ENQUEUED, queue] -= number
            tx.deltas[_PROCESSING, queue] += number
    return Taken(Claim(claimed, found.next_due_at), rows, found.server)


def _claimed_of(rows: Sequence[Any], now: int) -> tuple[list[ClaimedJob], list[str]]:
    """Return the rows as jobs, and the ids of those that are none: the columns of SQLite hold anything."""
    try:
        return [_claimed(row, now) for row in rows], []
    except (TypeError, ValueError):
        if len(rows) == 1:
            return [], [rows[0][0]]
    parts = [_claimed_of([row], now) for row in rows]
    return [job for jobs, _ in parts for job in jobs], [id for _, ids in parts for id in ids]


def _quarantine(id: str, now: int) -> Transition:
    """Return the end of a job whose row cannot be read: failed, kept until a person deletes it."""
    error = ErrorInfo("firelock.StorageError", "a column holds what nobody wrote there", "unreadable row")
    reason = f"the stored row cannot be read: {error.message}"
    return Transition(id, frozenset({State.ENQUEUED}), None, None, State.FAILED, now, reason, error=error)


def _claimed(row: Sequence[Any], now: int) -> ClaimedJob:
    (
        id, task, arguments, serializer, queue, priority, attempt, retries, crashes, fence, created_at,
        enqueued_at, _, nominal_at, tags, timeout_seconds, retry, recurring_id, *_,
    ) = row  # fmt: skip
    return ClaimedJob(
        id, task, arguments, serializer, queue, priority, attempt + 1, retries + 0, crashes + 0, fence + 1,
        created_at + 0, enqueued_at, now, nominal_at, () if tags is None else read_list(tags),
        None if timeout_seconds is None else float(timeout_seconds), retry, recurring_id,
    )  # fmt: skip  # a sum is the cheapest look at whether it is a number
