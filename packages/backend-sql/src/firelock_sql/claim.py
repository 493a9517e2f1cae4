"""A claim: the queues it looks at, each one's share, and how rows become a session's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import attrs
from sqlalchemy import bindparam, null, select, update

from firelock.storage import Claim, ClaimedJob, ClaimRequest, ErrorInfo, State, Transition
from firelock_sql.history import read_list
from firelock_sql.settle import apply_transitions
from firelock_sql.statements import Statement, among
from firelock_sql.tables import (
    ONE,
    RECURRING,
    ZERO,
    counts,
    is_paused_queue,
    is_ready,
    is_scheduled,
    jobs,
    pinned,
    records,
    recurring,
    sessions,
    text_literal,
)
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "CLAIMED_COLUMNS",
    "DUE",
    "FIRING",
    "IS_READY",
    "NEXT_WITH_WORK",
    "PAUSED",
    "PLACE_IS_PARENT",
    "PLACE_SEQ",
    "READY",
    "SERVER",
    "SERVING",
    "ReadyRow",
    "ReadyRows",
    "TakenRows",
    "Turns",
    "claimed_job",
    "has_ready",
    "living_server",
    "next_due_at",
    "queues_along_the_ready",
    "ready_of",
    "ready_rows",
    "rows_in_turn",
    "serving",
    "take_jobs",
    "take_rows",
]

_server = select(sessions.c.server).where(sessions.c.id == bindparam("session"), sessions.c.died_at.is_(None))
SERVER = Statement(_server)
SERVING = Statement(_server.with_for_update(read=True, key_share=True))
PAUSED = Statement(select(records.c.key).where(is_paused_queue))
NEXT_WITH_WORK = Statement(
    pinned(select(jobs.c.queue), "ready")
    .where(is_ready, jobs.c.queue > bindparam("former"))
    .order_by(jobs.c.queue)
    .limit(ONE)
)
_WITH_WORK = Statement(
    select(counts.c.queue).where(counts.c.state == text_literal(State.ENQUEUED), counts.c.jobs > ZERO)
)
DUE = Statement(
    pinned(select(jobs.c.due_at), "due")
    .where(is_scheduled, jobs.c.due_at.is_not(None))
    .order_by(jobs.c.due_at)
    .limit(ONE)
)
FIRING = Statement(
    select(recurring.c.due_at)
    .where(recurring.c.kind == text_literal(RECURRING), recurring.c.due_at.is_not(None))
    .order_by(recurring.c.due_at)
    .limit(ONE)
)

# In the order of ClaimedJob's fields, `tags` still as text, then what the storage needs itself.
CLAIMED_COLUMNS = (
    jobs.c.id, jobs.c.task, jobs.c.arguments, jobs.c.serializer, jobs.c.queue, jobs.c.priority,
    jobs.c.attempt, jobs.c.retries, jobs.c.crashes, jobs.c.fence, jobs.c.created_at, jobs.c.enqueued_at,
    jobs.c.claimed_at, jobs.c.nominal_at, jobs.c.tags, jobs.c.timeout_seconds, jobs.c.retry,
    jobs.c.recurring_id,
)  # fmt: skip
READY = Statement(
    pinned(select(*CLAIMED_COLUMNS, jobs.c.seq, jobs.c.is_parent), "ready")
    .where(is_ready, jobs.c.queue == bindparam("queue"))
    .order_by(jobs.c.priority.desc(), jobs.c.enqueued_at, jobs.c.seq)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True, key_share=True)
)
IS_READY = Statement(
    pinned(select(ONE).select_from(jobs), "ready")
    .where(is_ready, jobs.c.queue == bindparam("queue"))
    .limit(ONE)
)

ReadyRow = tuple[Any, ...]


class Turns:
    """Which queue comes first where a claim names none; each process begins somewhere else."""

    def __init__(self) -> None:
        self._served = random.choice("0abcdefghijklmnopqrstuvwxyz")  # noqa: S311 - no secret

    @property
    def last(self) -> str:
        """The queue that was served last."""
        return self._served

    def of(self, names: Sequence[str]) -> list[str]:
        """Return the names, beginning behind the one that was served last."""
        start = next((place for place, name in enumerate(names) if name > self._served), 0)
        return [*names[start:], *names[:start]]

    def served(self, name: str) -> None:
        """The next claim begins behind this queue."""
        self._served = name


def living_server(tx: Transaction, session: str) -> str | None:
    """Return the name of the session's server; None where the session is dead or unknown."""
    found = tx.one(SERVER, {"session": session})
    return None if found is None else str(found[0])


def serving(tx: Transaction, session: str) -> str | None:
    """Return what `living_server` does; the session cannot end before this transaction."""
    found = tx.one(SERVING, {"session": session})
    return None if found is None else str(found[0])


def next_due_at(tx: Transaction) -> int | None:
    """Return the earliest instant of a scheduled or recurring job."""
    found: list[Any] = [row[0] for row in (tx.one(DUE), tx.one(FIRING)) if row is not None]
    return min(found, default=None)


def has_ready(tx: Transaction, queues: Sequence[str] | None) -> bool:
    """Tell whether a claim would take anything."""
    return any(tx.one(IS_READY, {"queue": queue}) for queue in _open_queues(tx, queues))


def ready_rows(tx: Transaction, queues: Sequence[str] | None, limit: int, turns: Turns) -> list[ReadyRow]:
    """Return the rows to claim, in the order to run them."""
    names = _open_queues(tx, queues)
    if queues is None and len(names) > 1:
        return rows_in_turn(tx, turns.of(names), limit, turns)
    rows: list[ReadyRow] = []
    for name in names:
        rows += ready_of(tx, name, limit - len(rows))
        if len(rows) >= limit:
            break
    return rows


def _open_queues(tx: Transaction, queues: Sequence[str] | None) -> list[str]:
    paused = {row[0] for row in tx.all(PAUSED)}
    names = dict.fromkeys(queues) if queues is not None else _queues_with_work(tx)
    return [name for name in names if name not in paused]


def _queues_with_work(tx: Transaction) -> list[str]:
    """Return every queue with enqueued jobs, those of this transaction too, whose counts are written last."""
    if tx.adds_deltas:
        return queues_along_the_ready(tx)
    stored = {str(row[0]) for row in tx.all(_WITH_WORK)}
    added = {queue for (state, queue), number in tx.deltas.items() if number > 0 and state == State.ENQUEUED}
    return sorted(stored | added)


def queues_along_the_ready(tx: Transaction) -> list[str]:
    """Return every queue with ready jobs, by one short step along their index for each."""
    names: list[str] = []
    while found := tx.one(NEXT_WITH_WORK, {"former": names[-1] if names else ""}):
        names.append(str(found[0]))
    return names


def ready_of(tx: Transaction, queue: str, limit: int) -> list[ReadyRow]:
    """Return the first rows of one queue, which nobody else can claim now."""
    return tx.all(READY, {"queue": queue, "most": limit})


def rows_in_turn(tx: Transaction, names: Sequence[str], limit: int, turns: Turns) -> list[ReadyRow]:
    """Return an equal share of each queue; what one does not need is shared among the others."""
    taken: dict[str, list[ReadyRow]] = {name: [] for name in names}
    hungry, left = list(names), limit
    while hungry and left > 0:
        share = max(1, left // len(hungry))
        for name in list(hungry):
            wanted = min(share, left)
            if not wanted:
                break
            known = {row[0] for row in taken[name]}
            rows = ready_of(tx, name, len(known) + wanted)  # others may have let go of some before those
            new = [row for row in rows if row[0] not in known][:wanted]
            taken[name] += new
            left -= len(new)
            if len(rows) < len(known) + wanted:
                hungry.remove(name)
    rounds = chain.from_iterable(zip_longest(*taken.values()))
    rows = [row for row in rounds if row is not None]
    if rows:
        turns.served(rows[-1][4])
    return rows


def claimed_job(row: Sequence[Any]) -> ClaimedJob:
    """Return a row of `CLAIMED_COLUMNS` as its session sees it."""
    job = ClaimedJob(*row)
    job.tags = read_list(row[14])
    return job


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
class ReadyRows:
    """What a session may take: rows that are ready, and locked."""

    server: str | None  # the session's; None where that is dead or unknown
    rows: Sequence[Any]
    next_due_at: int | None


@attrs.frozen
class TakenRows:
    """What a claim has taken, and the rows as they were before."""

    claim: Claim
    rows: Sequence[Any]
    server: str


def take_jobs(tx: Transaction, database: Database, request: ClaimRequest, turns: Turns) -> TakenRows:
    """See `Storage.claim`."""
    server = serving(tx, request.session)
    is_claiming = server is not None and request.limit > 0
    rows = ready_rows(tx, request.queues, request.limit, turns) if is_claiming else []
    return take_rows(tx, database, request, ReadyRows(server, rows, next_due_at(tx)))


def take_rows(tx: Transaction, database: Database, request: ClaimRequest, found: ReadyRows) -> TakenRows:
    """The rows become the session's; return the claim."""
    if found.server is None:
        return TakenRows(Claim([], found.next_due_at, is_session_lost=True), [], "")
    now, rows = request.now, found.rows
    claimed, unreadable = _claimed_of(rows, now)
    if unreadable:
        rows = [row for row in rows if row[0] not in unreadable]
        apply_transitions(tx, database, [_quarantine(id, now) for id in unreadable])
    if rows:
        seqs = database.among([row[PLACE_SEQ] for row in rows])
        taken = {"holder": request.session, "new_server": found.server, "now": now, "now_again": now}
        tx.run_many(_TAKE, [{**taken, "seqs": seqs}])
        for queue, number in Counter(row[4] for row in rows).items():
            tx.deltas[_ENQUEUED, queue] -= number
            tx.deltas[_PROCESSING, queue] += number
    return TakenRows(Claim(claimed, found.next_due_at), rows, found.server)


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
