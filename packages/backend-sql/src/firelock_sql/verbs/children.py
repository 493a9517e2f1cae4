"""Continuations: jobs that wait for the end of another one, their parent.

When a marked parent ends, `follow_parents` puts it on a list; `release` then decides its children in bounded
batches. Before a parent is pruned, `delete_children` deletes those that still wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from firelock.storage import (
    FINAL_STATES,
    Moved,
    On,
    State,
    continuation_target,
    waiting_reason,
)
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.batch_row import MemberCounts, load_batches, save_batch, shut_among
from firelock_sql.rows.job_row import JobRow, load_rows, save_rows
from firelock_sql.schema.tables import HAS_CHILDREN
from firelock_sql.verbs.batch_change import (
    cancel_batch,
)

_WITH_OPEN_EDGES = Text(
    "SELECT DISTINCT parent_id FROM firelock_edges WHERE parent_id IN :ids AND is_decided = 0"
)
_OFF_THE_LIST = Text("DELETE FROM firelock_releasing WHERE parent_id IN :ids")
_PUT_ON_THE_LIST = insert_into("firelock_releasing", "parent_id", "after")
_TAKE_FIRST = Text("SELECT parent_id, after FROM firelock_releasing LIMIT 1 FOR UPDATE SKIP LOCKED")
_MOVE_ON = Text("UPDATE firelock_releasing SET after = :looked_at WHERE parent_id = :parent")
_OPEN_EDGES = Text("""
SELECT seq, child_id, awaited FROM firelock_edges
WHERE parent_id = :parent AND is_decided = 0 AND seq > :looked_at ORDER BY seq LIMIT :most
""")
_DECIDE = Text("UPDATE firelock_edges SET is_decided = 1 WHERE seq IN :seqs")
_DECIDE_ALL_OF = Text("UPDATE firelock_edges SET is_decided = 1 WHERE is_decided = 0 AND child_id IN :ids")
_STILL_WAITING = Text(
    "SELECT DISTINCT child_id FROM firelock_edges WHERE child_id IN :ids AND is_decided = 0"
)
MARK_PARENTS = Text(f"UPDATE firelock_jobs SET marks = marks | {HAS_CHILDREN} WHERE id IN :ids")  # noqa: S608 - a number
_UNMARK = Text("""
UPDATE firelock_jobs SET marks = marks - 1 WHERE id = :parent AND (marks & 1) = 1
    AND NOT EXISTS (SELECT 1 FROM firelock_edges WHERE parent_id = :parent AND is_decided = 0)
""")


def kept_until(at: int, ended_at: int | None, expires_at: int | None) -> int | None:
    """Return when a child that ends at `at` may be pruned, from its parent's end and expiry."""
    return None if ended_at is None or expires_at is None else at + expires_at - ended_at


def decide_all_of(tx: Transaction, ids: Sequence[str]) -> None:
    """The jobs wait for no other job any more."""
    tx.run(_DECIDE_ALL_OF, ids=list(ids))


def follow_parents(tx: Transaction, parents: Iterable[JobRow]) -> set[str]:
    """Those that ended while children wait are on the releasing list, others off it; return who is on it."""
    by_id = {row.id: row for row in parents}
    if not by_id:
        return set()
    tx.run(_OFF_THE_LIST, ids=list(by_id))
    ended = [row.id for row in by_id.values() if row.state in FINAL_STATES]
    waited_for = {str(row[0]) for row in tx.all_now(_WITH_OPEN_EDGES, ids=ended)}
    tx.run_many(_PUT_ON_THE_LIST, [{"parent_id": id, "after": 0} for id in sorted(waited_for)])
    return waited_for


def release_children(tx: Transaction, limit: int) -> int:
    """See `Storage.release`; one transaction, at most `limit` children."""
    looked_at = 0
    while looked_at < limit and (found := tx.one(_TAKE_FIRST)) is not None:
        looked_at += _release_parent(tx, str(found[0]), after=int(found[1] or 0), limit=limit - looked_at)
    return looked_at


def _release_parent(tx: Transaction, parent_id: str, *, after: int, limit: int) -> int:
    """Up to `limit` children behind that edge are moved, the list says how far it got; return how many."""
    found = tx.all(_OPEN_EDGES, parent=parent_id, looked_at=after, most=limit)
    rows = load_rows(tx, [parent_id, *{child for _, child, _ in found}])
    counts = MemberCounts(tx, rows.values())
    parent = rows.pop(parent_id, None)
    if parent is not None and parent.state in FINAL_STATES:
        _decide_edges(tx, parent, found, rows)
    if len(found) < limit or parent is None:
        tx.run(_OFF_THE_LIST, ids=[parent_id])
        tx.run(_UNMARK, parent=parent_id)
    else:
        tx.run(_MOVE_ON, parent=parent_id, looked_at=found[-1][0])
    counts.tell()
    return len(found)


def _decide_edges(
    tx: Transaction, parent: JobRow, found: Sequence[tuple[int, str, str]], children: dict[str, JobRow]
) -> None:
    """Each edge of an ended parent is decided, or its child says why not; a child moves with its last one."""
    reason = Moved.PARENT_ENDED.format(state=parent.state)
    deleted: dict[str, str] = {}  # child: reason
    satisfied: set[str] = set()
    decided: list[int] = []
    for edge, child_id, awaited in found:
        target = continuation_target(On(awaited), parent.state)
        child = children.get(child_id)
        if child is None or child.state != State.AWAITING or target is not None:
            decided.append(edge)
        else:
            child.change({"reason": waiting_reason(On(awaited), parent.state)})
        if target is State.DELETED:
            deleted[child_id] = reason
        elif target is State.ENQUEUED:
            satisfied.add(child_id)
    if decided:
        tx.run(_DECIDE, seqs=decided)
    _move_children(tx, parent, children, deleted, satisfied)


def _move_children(
    tx: Transaction,
    parent: JobRow,
    children: dict[str, JobRow],
    deleted: dict[str, str],
    satisfied: Iterable[str] = (),
) -> None:
    awaiting = {id: row for id, row in children.items() if row.state == State.AWAITING}
    batches = load_batches(tx, [row.id for row in awaiting.values() if row.is_batch])
    for id, reason in deleted.items():
        if id in batches:
            cancel_batch(tx, awaiting[id], batches[id], reason, tx.now)
    gone = [awaiting[id] for id in deleted if id in awaiting and id not in batches]
    for row in gone:
        ends = {"ended_at": tx.now, "expires_at": kept_until(tx.now, parent.ended_at, parent.expires_at)}
        row.move(tx, State.DELETED, reason=deleted[row.id], changed_at=tx.now, **ends)
        row.note(State.DELETED, tx.now, deleted[row.id])
    if gone:
        decide_all_of(tx, [row.id for row in gone])
    ready = [id for id in awaiting if id in satisfied and id not in deleted]
    waiting = {row[0] for row in tx.all(_STILL_WAITING, ids=ready)} if ready else set()
    reason = Moved.PARENT_ENDED.format(state=parent.state)
    moving = [awaiting[id] for id in ready if id not in waiting]
    shut = shut_among(tx, {row.ties.batch_id for row in moving if row.is_member})
    for row in moving:
        if row.is_member and row.ties.batch_id in shut:
            keep_waiting(row, Moved.SHUT_OUT.value, tx.now)
        elif row.id in batches:
            keep_waiting(row, reason, tx.now)
            batches[row.id].open()
            save_batch(tx, batches[row.id])
        else:
            resume(tx, row, reason)
    save_rows(tx, children.values())
    follow_parents(tx, [row for row in gone if row.has_children])


def resume(tx: Transaction, row: JobRow, reason: str) -> None:
    """The job, which waited for something, is enqueued."""
    row.move(
        tx, State.ENQUEUED, reason=reason, changed_at=tx.now, enqueued_at=tx.now, due_at=None, waits_for=None
    )
    row.note(State.ENQUEUED, tx.now, reason)
    row.tell_if_claimable(tx)


def keep_waiting(row: JobRow, reason: str, at: int) -> None:
    """The job goes on waiting, for something else."""
    row.change({"reason": reason, "changed_at": at})
    row.note(State.AWAITING, at, reason)


def delete_children(tx: Transaction, parent_id: str, limit: int) -> int:
    """Up to `limit` children that wait for a job about to be pruned are deleted; return how many."""
    found = tx.all(_OPEN_EDGES, parent=parent_id, looked_at=0, most=limit)
    if not found:
        return 0
    rows = load_rows(tx, [parent_id, *{child for _, child, _ in found}])
    counts = MemberCounts(tx, rows.values())
    parent = rows.pop(parent_id, None)
    if parent is None or parent.expires_at is None or parent.expires_at > tx.now:
        return 0  # somebody requeued it, or has pruned it already
    tx.run(_DECIDE, seqs=[edge for edge, _, _ in found])
    _move_children(tx, parent, rows, dict.fromkeys(rows, Moved.PARENT_GONE.value))
    counts.tell()
    return len(found)


def delete_with(tx: Transaction, owner: JobRow, ids: Sequence[str], reason: str) -> None:
    """Jobs that wait are deleted, and kept as long after their end as their owner after its own."""
    rows = load_rows(tx, ids)
    counts = MemberCounts(tx, rows.values())
    _move_children(tx, owner, rows, dict.fromkeys(rows, reason))
    counts.tell()
