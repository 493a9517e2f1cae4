"""Which jobs a claim takes: the queues it looks at, and each one's share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

from sqlalchemy import bindparam, select

from firelock.storage import ClaimedJob, State
from firelock_sql.database import Transaction
from firelock_sql.statements import Statement
from firelock_sql.tables import (
    ONE,
    ZERO,
    counts,
    is_firing,
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
from firelock_sql.text import read_list

__all__ = [
    "CLAIMED_COLUMNS",
    "DUE",
    "FIRING",
    "IS_READY",
    "NEXT_WITH_WORK",
    "PAUSED",
    "READY",
    "SERVER",
    "SERVING",
    "ReadyRow",
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
FIRING = Statement(select(recurring.c.next_at).where(is_firing).order_by(recurring.c.next_at).limit(ONE))

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
