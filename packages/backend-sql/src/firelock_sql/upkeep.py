"""What keeps a storage in order: due jobs, jobs nobody needs any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, exists, null, select, update

from firelock.storage import HistoryEntry, Promotion, State, Upkeep
from firelock_sql.claim import next_due_at
from firelock_sql.continuations import delete_children
from firelock_sql.history import COMPACT_FROM, entry_line, read_list
from firelock_sql.job_row import compact, load_rows
from firelock_sql.statements import Statement, among
from firelock_sql.tables import (
    ONE,
    ZERO,
    attempt_errors,
    by_id,
    edges,
    is_scheduled,
    job_tags,
    jobs,
    log_lines,
    pinned,
    progress,
    releasing,
    rollups,
    sessions,
    text_literal,
)
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "delete_all_children",
    "expired_jobs",
    "has_due",
    "has_old_news",
    "not_due",
    "promote",
    "prune_jobs",
    "prune_old_news",
]

_DAY = 86_400_000_000
_CHILDREN_AT_ONCE = 1_000

_due = (
    pinned(select(jobs.c.seq, jobs.c.id, jobs.c.queue, jobs.c.history_lines), "due")
    .where(is_scheduled, jobs.c.due_at <= bindparam("now"))
    .order_by(jobs.c.due_at, jobs.c.id)
    .limit(bindparam("most"))
)
_DUE, _TAKE_DUE = Statement(_due), Statement(_due.with_for_update(skip_locked=True, key_share=True))
_PROMOTE = Statement(
    update(jobs)
    .where(among(jobs.c.seq, "seqs"))
    .ordered_values(
        (jobs.c.state, text_literal(State.ENQUEUED)),
        (jobs.c.reason, bindparam("new_reason")),
        (jobs.c.changed_at, bindparam("now")),
        (jobs.c.enqueued_at, bindparam("now_again")),
        (jobs.c.due_at, null()),
        (jobs.c.history, jobs.c.history + bindparam("line")),
        (jobs.c.history_lines, jobs.c.history_lines + ONE),
    )
)
_EXPIRED = Statement(
    pinned(select(jobs.c.id, jobs.c.is_parent), "expires")
    .where(
        jobs.c.expires_at.is_not(None),
        jobs.c.expires_at <= bindparam("now"),
        ~exists(ONE).where(releasing.c.parent_id == jobs.c.id),
    )
    .order_by(jobs.c.expires_at)
    .limit(bindparam("most"))
)
_LOCK = Statement(
    by_id(select(jobs.c.id))
    .where(among(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
    .with_for_update(skip_locked=True)
)
_BELONGINGS = Statement(
    select(jobs.c.id, jobs.c.state, jobs.c.queue, jobs.c.tags, jobs.c.created_at).where(
        among(jobs.c.id, "ids"),
        jobs.c.expires_at <= bindparam("now"),
        ~exists(ONE).where(edges.c.parent_id == jobs.c.id, edges.c.is_decided == ZERO),
    )
)
_UNTAG = Statement(
    delete(job_tags).where(
        job_tags.c.tag == bindparam("tag"),
        job_tags.c.created_at == bindparam("created"),
        job_tags.c.job_id == bindparam("job"),
    )
)
_DELETE = [
    Statement(delete(table).where(among(column, "ids")))
    for table, column in (
        (attempt_errors, attempt_errors.c.job_id),
        (log_lines, log_lines.c.job_id),
        (progress, progress.c.job_id),
        (edges, edges.c.child_id),
        (edges, edges.c.parent_id),
        (jobs, jobs.c.id),
    )
]
_OLD_SESSIONS = Statement(delete(sessions).where(sessions.c.died_at < bindparam("before")))
_HAS_OLD_SESSIONS = Statement(
    select(ONE).select_from(sessions).where(sessions.c.died_at < bindparam("before")).limit(ONE)
)
_OLD_ROLLUPS = Statement(delete(rollups).where(rollups.c.minute < bindparam("before")))
_HAS_OLD_ROLLUPS = Statement(
    select(ONE).select_from(rollups).where(rollups.c.minute < bindparam("before")).limit(ONE)
)


def has_due(tx: Transaction) -> bool:
    """Tell whether a scheduled job is due."""
    return bool(tx.all(_DUE, {"now": tx.now, "most": 1}))


def not_due(tx: Transaction) -> Promotion:
    """Return the promotion that moved nothing."""
    return Promotion(0, next_due_at(tx))


def promote(tx: Transaction, database: Database, limit: int) -> Promotion:
    """See `Storage.promote`."""
    due: Sequence[Any] = tx.all(_TAKE_DUE, {"now": tx.now, "most": limit})
    if due:
        line = entry_line(HistoryEntry(State.ENQUEUED, tx.now, Upkeep.DUE.value))
        seqs = database.among([row[0] for row in due])
        parameters = {"now": tx.now, "now_again": tx.now, "new_reason": Upkeep.DUE.value, "line": line}
        tx.run(_PROMOTE, {**parameters, "seqs": seqs})
        for queue, number in Counter(row[2] for row in due).items():
            tx.deltas[State.SCHEDULED.value, queue] -= number
            tx.deltas[State.ENQUEUED.value, queue] += number
            tx.woken.add(queue)
        _bound_histories(tx, database, [row[1] for row in due if row[3] + 1 >= COMPACT_FROM])
    return Promotion(len(due), next_due_at(tx))


def _bound_histories(tx: Transaction, database: Database, ids: Sequence[str]) -> None:
    if ids:
        for row in load_rows(tx, database, ids).values():
            compact(tx, row)


def expired_jobs(tx: Transaction, limit: int) -> list[tuple[str, bool]]:
    """Return jobs that may be pruned, the longest expired first, and whether children may wait for each."""
    found: Sequence[Any] = tx.all(_EXPIRED, {"now": tx.now, "most": limit})
    return [(id, bool(is_parent)) for id, is_parent in found]


def delete_all_children(database: Database, parent_id: str) -> None:
    """No child waits for the job any more; a bounded number of them at a time."""
    while database.write(lambda tx: delete_children(tx, database, parent_id, _CHILDREN_AT_ONCE)):
        continue


def prune_jobs(tx: Transaction, database: Database, ids: Sequence[str]) -> int:
    """Return how many of the jobs are gone; one that was changed meanwhile, or is just being, stays."""
    held = [str(row[0]) for row in tx.all(_LOCK, {"ids": database.among(ids)})]
    found: Sequence[Any] = tx.all(_BELONGINGS, {"ids": database.among(held), "now": tx.now})
    gone = database.among([row[0] for row in found])
    for statement in _DELETE:
        tx.run(statement, {"ids": gone})
    tags = [
        {"tag": tag, "created": created_at, "job": id}
        for id, _, _, tags, created_at in found
        if tags
        for tag in read_list(tags)
    ]
    tx.run_many(_UNTAG, tags)
    for _, state, queue, _, _ in found:
        tx.moved(queue, state, None)
    return len(found)


def has_old_news(tx: Transaction) -> bool:
    """Tell whether a dead session or a rollup may be pruned."""
    sessions_before, rollups_before = _limits(tx)
    return bool(
        tx.one(_HAS_OLD_SESSIONS, {"before": sessions_before})
        or tx.one(_HAS_OLD_ROLLUPS, {"before": rollups_before})
    )


def prune_old_news(tx: Transaction) -> None:
    """Dead sessions older than a day and rollups older than 30 days are gone."""
    sessions_before, rollups_before = _limits(tx)
    tx.run(_OLD_SESSIONS, {"before": sessions_before})
    tx.run(_OLD_ROLLUPS, {"before": rollups_before})


def _limits(tx: Transaction) -> tuple[int, int]:
    return tx.now - _DAY, tx.now - 30 * _DAY
