"""Ties between jobs: marked when one ends, decided in bounded batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select, update

from firelock.storage import FINAL_STATES, Moved, On, State, continuation_target, waiting_reason
from firelock_sql.job_row import JobRow, delete_waiting, enqueue, load_rows, save_rows
from firelock_sql.statements import Statement, Text, among, insert_into
from firelock_sql.tables import ONE, ZERO, edges, releasing
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "delete_children",
    "follow_parents",
    "forget_awaited",
    "has_releasing",
    "release",
]

_is_open = edges.c.is_decided == ZERO

_WITH_OPEN_EDGES = Statement(
    select(edges.c.parent_id).where(among(edges.c.parent_id, "ids"), _is_open).distinct()
)
_OFF_THE_LIST = Statement(delete(releasing).where(among(releasing.c.parent_id, "ids")))
_PUT_ON_THE_LIST = insert_into(releasing, "parent_id", "after")
_first = select(releasing.c.parent_id, releasing.c.after).limit(ONE)
_FIRST_ON_THE_LIST, _TAKE_FIRST = Statement(_first), Statement(_first.with_for_update(skip_locked=True))
_MOVE_ON = Text("UPDATE firelock_releasing SET after = :looked_at WHERE parent_id = :parent")
_OPEN_EDGES = Text("""
SELECT seq, child_id, awaited FROM firelock_edges
WHERE parent_id = :parent AND is_decided = 0 AND seq > :looked_at ORDER BY seq LIMIT :most
""")
_DECIDE = Statement(update(edges).where(among(edges.c.seq, "edges")).values(is_decided=ONE))
_DECIDE_ALL_OF = Statement(
    update(edges).where(among(edges.c.child_id, "ids"), _is_open).values(is_decided=ONE)
)
_STILL_WAITING = Statement(
    select(edges.c.child_id).where(among(edges.c.child_id, "ids"), _is_open).distinct()
)
_UNMARK = Text("""
UPDATE firelock_jobs SET is_parent = 0 WHERE id = :parent
    AND NOT EXISTS (SELECT 1 FROM firelock_edges WHERE parent_id = :parent AND is_decided = 0)
""")


def forget_awaited(tx: Transaction, database: Database, ids: Sequence[str]) -> None:
    """The jobs are no longer awaiting: no end of a parent moves them any more."""
    tx.run(_DECIDE_ALL_OF, {"ids": database.among(ids)})


def follow_parents(tx: Transaction, database: Database, parents: Iterable[JobRow]) -> set[str]:
    """Those that ended while children wait are on the releasing list, others off it; return who is on it."""
    by_id = {row.id: row for row in parents}
    if not by_id:
        return set()
    tx.run(_OFF_THE_LIST, {"ids": database.among(list(by_id))})
    ended = [row.id for row in by_id.values() if row.state in FINAL_STATES]
    waited_for = [str(row[0]) for row in tx.all(_WITH_OPEN_EDGES, {"ids": database.among(ended)})]
    tx.run_many(_PUT_ON_THE_LIST, [{"parent_id": id, "after": 0} for id in waited_for])
    return set(waited_for)


def has_releasing(tx: Transaction) -> bool:
    """Tell whether a parent is on the releasing list."""
    return tx.one(_FIRST_ON_THE_LIST) is not None


def release(tx: Transaction, database: Database, limit: int) -> int:
    """See `Storage.release`; one transaction, at most `limit` children."""
    looked_at = 0
    while looked_at < limit and (found := tx.one(_TAKE_FIRST)) is not None:
        parent_id, after = str(found[0]), int(found[1] or 0)
        looked_at += _release_parent(tx, database, parent_id, after=after, limit=limit - looked_at)
    return looked_at


def _release_parent(tx: Transaction, database: Database, parent_id: str, *, after: int, limit: int) -> int:
    """Up to `limit` children behind that edge are moved, the list says how far it got; return how many."""
    found: Sequence[Any] = tx.all(_OPEN_EDGES, {"parent": parent_id, "looked_at": after, "most": limit})
    rows = load_rows(tx, database, [parent_id, *{child for _, child, _ in found}])
    parent = rows.pop(parent_id, None)
    if parent is not None and parent.state in FINAL_STATES:
        _decide_edges(tx, database, parent, found, rows)
    if len(found) < limit or parent is None:
        tx.run(_OFF_THE_LIST, {"ids": database.among([parent_id])})
        tx.run(_UNMARK, {"parent": parent_id})
    else:
        tx.run(_MOVE_ON, {"parent": parent_id, "looked_at": found[-1][0]})
    return len(found)


def _decide_edges(
    tx: Transaction,
    database: Database,
    parent: JobRow,
    found: Sequence[tuple[int, str, str]],
    children: dict[str, JobRow],
) -> None:
    """Each edge of an ended parent is decided, or its child says why not; a child moves with its last one."""
    ended = parent.state
    deleted: dict[str, str] = {}  # child: reason
    decided: list[int] = []
    satisfied: set[str] = set()
    for edge, child_id, awaited in found:
        target = continuation_target(On(awaited), ended)
        child = children.get(child_id)
        if child is None or child.state != State.AWAITING or target is not None:
            decided.append(edge)
        else:
            child.reason, child.is_changed = waiting_reason(On(awaited), ended), True
        if target is State.DELETED:
            deleted[child_id] = Moved.PARENT_ENDED.format(state=ended)
        elif target is State.ENQUEUED:
            satisfied.add(child_id)
    if decided:
        tx.run(_DECIDE, {"edges": database.among(decided)})
    _move_children(tx, database, parent, children, deleted=deleted, satisfied=satisfied)


def _move_children(
    tx: Transaction,
    database: Database,
    parent: JobRow,
    children: dict[str, JobRow],
    *,
    deleted: dict[str, str],
    satisfied: set[str],
) -> None:
    awaiting = {id: row for id, row in children.items() if row.state == State.AWAITING}
    gone = [awaiting[id] for id in deleted if id in awaiting]
    for row in gone:
        delete_waiting(tx, row, parent, deleted[row.id])
    if gone:
        forget_awaited(tx, database, [row.id for row in gone])
    ready = [id for id in awaiting if id in satisfied and id not in deleted]
    if ready:
        waiting = {row[0] for row in tx.all(_STILL_WAITING, {"ids": database.among(ready)})}
        reason = Moved.PARENT_ENDED.format(state=parent.state)
        for id in ready:
            if id not in waiting:
                enqueue(tx, awaiting[id], reason)
    save_rows(tx, children.values())
    follow_parents(tx, database, [row for row in gone if row.is_parent])


def delete_children(tx: Transaction, database: Database, parent_id: str, limit: int) -> int:
    """Up to `limit` children that wait for a job about to be pruned are deleted; return how many."""
    found: Sequence[Any] = tx.all(_OPEN_EDGES, {"parent": parent_id, "looked_at": 0, "most": limit})
    if not found:
        return 0
    rows = load_rows(tx, database, [parent_id, *{child for _, child, _ in found}])
    parent = rows.pop(parent_id, None)
    if parent is None or parent.expires_at is None or parent.expires_at > tx.now:
        return 0  # somebody requeued it, or has pruned it already
    tx.run(_DECIDE, {"edges": database.among([edge for edge, _, _ in found])})
    gone = dict.fromkeys(rows, Moved.PARENT_GONE.value)
    _move_children(tx, database, parent, rows, deleted=gone, satisfied=set())
    return len(found)
