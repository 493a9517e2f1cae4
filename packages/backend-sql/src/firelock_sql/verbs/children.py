"""Children: jobs that wait for another job, their parent, to end.

A child is a continuation or a suspended job. When a parent with the mark `HAS_CHILDREN` ends,
`follow_parents` puts it on the releasing list. Each call of `release` then handles a limited number of its
children. Before a parent is pruned, `delete_children` deletes the children that still wait for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import attrs

from firelock.storage import (
    FINAL_STATES,
    Moved,
    On,
    State,
    continuation_target,
    waiting_reason,
)
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.batch_row import BatchRow, MemberCounts, load_batches, save_batch, unopened_among
from firelock_sql.rows.job_row import (
    JobRow,
    load_briefly,
    load_rows,
    lock_free,
    save_rows,
    stored_among,
)
from firelock_sql.rows.marks import HAS_CHILDREN
from firelock_sql.verbs.batch_change import (
    cancel_batch,
)

_WITH_OPEN_EDGES = Text(
    "SELECT DISTINCT parent_id FROM firelock_edges WHERE parent_id IN :ids AND is_decided = 0"
)
_OFF_THE_LIST = Text("DELETE FROM firelock_releasing WHERE parent_id IN :ids")
_PUT_ON_THE_LIST = insert_into("firelock_releasing", "parent_id", "after")
_PARENTS_AT_ONCE = 100
_TAKE_NEXT = Text("""
SELECT parent_id, after FROM firelock_releasing WHERE parent_id > :passed AND skipped = 0
ORDER BY parent_id LIMIT :most FOR UPDATE SKIP LOCKED
""")
_MOVE_ON = Text("UPDATE firelock_releasing SET after = :after WHERE parent_id = :parent AND skipped = 0")
_ALL_CHECKED = Text("DELETE FROM firelock_releasing WHERE parent_id IN :ids AND skipped = 0")
_SKIP = insert_into("firelock_releasing", "parent_id", "skipped")
_SKIPPED = Text("""
SELECT listed.parent_id, listed.skipped, edge.child_id, edge.awaited
FROM firelock_releasing AS listed LEFT JOIN firelock_edges AS edge ON edge.seq = listed.skipped
WHERE listed.skipped > 0 ORDER BY listed.parent_id, listed.skipped LIMIT :most
""")
_STILL_OPEN = Text("SELECT seq FROM firelock_edges WHERE seq IN :seqs AND is_decided = 0")
_SKIPPED_NO_MORE = Text("DELETE FROM firelock_releasing WHERE parent_id = :parent AND skipped = :edge")
_OPEN_EDGES = Text("""
SELECT parent_id, seq, child_id, awaited FROM firelock_edges
WHERE parent_id IN :ids AND is_decided = 0 AND seq > :after ORDER BY parent_id, seq LIMIT :most
""")
_DECIDE = Text("UPDATE firelock_edges SET is_decided = 1 WHERE seq IN :seqs")
_DECIDE_ALL_OF = Text("UPDATE firelock_edges SET is_decided = 1 WHERE is_decided = 0 AND child_id IN :ids")
_STILL_WAITING = Text(
    "SELECT DISTINCT child_id FROM firelock_edges WHERE child_id IN :ids AND is_decided = 0"
)
MARK_PARENTS = Text(f"UPDATE firelock_jobs SET marks = marks | {HAS_CHILDREN} WHERE id IN :ids")  # noqa: S608 - a number
# A job on the releasing list keeps its mark: it counts as active in its batch until it leaves the list.
_UNMARK = Text("""
UPDATE firelock_jobs SET marks = marks - 1 WHERE id IN :ids AND (marks & 1) = 1
    AND NOT EXISTS (SELECT 1 FROM firelock_edges WHERE parent_id = firelock_jobs.id AND is_decided = 0)
    AND NOT EXISTS (SELECT 1 FROM firelock_releasing WHERE parent_id = firelock_jobs.id)
""")


def kept_until(at: int, ended_at: int | None, expires_at: int | None) -> int | None:
    """Return when a child that ends at `at` may be pruned; it is kept for the same duration as its parent."""
    return None if ended_at is None or expires_at is None else at + expires_at - ended_at


def decide_all_of(tx: Transaction, ids: Sequence[str]) -> None:
    """Mark all edges of these jobs as decided, because the jobs no longer wait for other jobs."""
    tx.run(_DECIDE_ALL_OF, ids=list(ids))


def follow_parents(tx: Transaction, parents: Iterable[JobRow]) -> set[str]:
    """Update the releasing list: add ended parents with waiting children, and remove the others.

    Return the ids of the parents on the list.
    """
    by_id = {row.id: row for row in parents}
    if not by_id:
        return set()
    tx.run(_OFF_THE_LIST, ids=list(by_id))
    ended = [row.id for row in by_id.values() if row.state in FINAL_STATES]
    waited_for = {str(row[0]) for row in tx.all_now(_WITH_OPEN_EDGES, ids=ended)}
    tx.run_many(_PUT_ON_THE_LIST, [{"parent_id": id, "after": 0} for id in sorted(waited_for)])
    return waited_for


Edges = Sequence[tuple[int, str, str]]
"""Edges of a parent to its children: number, child, and the end for which the child waits."""


@attrs.define
class Release:
    """The progress of one `release` call that handles the children of ended parents."""

    checked: int = 0
    skipped: set[str] = attrs.field(factory=set)  # jobs that another transaction has locked


def release_children(tx: Transaction, limit: int, awaited: Collection[str] = ()) -> Release:
    """Release at most `limit` children in one transaction: see `Storage.release`.

    Args:
        tx: the transaction.
        limit: the maximum number of children to check.
        awaited: jobs that were locked a moment ago; instead of skipping them, wait for their locks.
    """
    done, passed = Release(), ""  # this call does not read parents up to `passed` again
    first = {"passed": passed, "most": _PARENTS_AT_ONCE}
    skipped, listed = tx.each([(_SKIPPED, {"most": limit}), (_TAKE_NEXT, first)])
    if skipped:
        _release_skipped(tx, done, skipped, awaited)
    while listed and done.checked < limit:
        passed = _release_parents(tx, done, listed, limit=limit, awaited=awaited) or passed
        has_more = len(listed) == _PARENTS_AT_ONCE or passed < str(listed[-1][0])
        listed = tx.all(_TAKE_NEXT, passed=passed, most=_PARENTS_AT_ONCE) if has_more else []
    return done


def _release_skipped(
    tx: Transaction, done: Release, found: Sequence[Sequence[Any]], awaited: Collection[str]
) -> None:
    """Move the children that were skipped because they were locked, if they are no longer locked.

    A child that was pruned is None in `found`, because its edges were pruned with it.
    """
    children = {child for _, _, child, _ in found if child is not None}
    free = lock_free(tx, children.difference(awaited)).union(children.intersection(awaited))
    locked = stored_among(tx, children - free)
    done.skipped |= locked
    by_parent: dict[str, list[tuple[int, str, str]]] = {}
    for parent_id, seq, child, awaited_end in found:
        if child not in locked:
            by_parent.setdefault(str(parent_id), []).append((seq, child, awaited_end))
    for parent_id, edges in by_parent.items():
        rows = _load_free(tx, {parent_id, *(child for _, child, _ in edges if child is not None)}, awaited)
        counts = MemberCounts(tx, rows.values())
        if parent_id not in rows:
            done.skipped.add(parent_id)
            continue
        still_open = _still_open(tx, {parent_id: edges})
        left = set(_decide_edges(tx, still_open, rows, done)[parent_id])
        settled = [seq for seq, _, _ in edges if seq not in left]
        tx.run_many(_SKIPPED_NO_MORE, [{"parent": parent_id, "edge": seq} for seq in settled])
        if settled:
            tx.run(_UNMARK, ids=[parent_id])
        counts.store()


def _release_parents(
    tx: Transaction,
    done: Release,
    listed: Sequence[tuple[str, int]],
    *,
    limit: int,
    awaited: Collection[str],
) -> str | None:
    """Move children of the first parents together, and store the progress on the list.

    Return the last parent that is finished or locked; None if there is none.
    """
    room = limit - done.checked
    after = int(listed[0][1] or 0)
    ids = [str(parent_id) for parent_id, _ in (listed[:1] if after else takewhile(_is_new, listed))]
    found = tx.all(_OPEN_EDGES, ids=ids, after=after, most=room)
    partly = str(found[-1][0]) if len(found) == room else None  # the parent may have more children
    edges: dict[str, list[tuple[int, str, str]]] = {id: [] for id in ids if partly is None or id <= partly}
    for parent_id, *edge in found:
        edges[parent_id].append(tuple(edge))
    tx.send_clock_query()
    rows = _load_free(tx, {*edges, *(child for _, _, child, _ in found)}, awaited)
    missing = set(edges).difference(rows)
    locked = stored_among(tx, missing)
    done.skipped |= locked
    counts = MemberCounts(tx, rows.values())
    still_open = _still_open(tx, {id: some for id, some in edges.items() if id not in missing})
    left = _decide_edges(tx, still_open, rows, done)
    tx.run_many(_SKIP, [{"parent_id": id, "skipped": seq} for id, seqs in left.items() for seq in seqs])
    all_checked = [id for id in edges if id not in locked and (id != partly or id in missing)]
    if all_checked:
        tx.run(_ALL_CHECKED, ids=all_checked)
        tx.run(_UNMARK, ids=all_checked)
    if partly is not None and partly not in missing:
        tx.run(_MOVE_ON, parent=partly, after=found[-1][1])
    counts.store()
    return max((id for id in edges if id != partly or id in missing), default=None)


def _still_open(tx: Transaction, edges: Mapping[str, Edges]) -> dict[str, Edges]:
    """Return the edges of each parent that are still undecided, now that the rows of the children are locked.

    A child may have stopped waiting for its parents since its edges were read, and may be waiting again.
    """
    seqs = [seq for some in edges.values() for seq, _, _ in some]
    still_open = {row[0] for row in tx.all_now(_STILL_OPEN, seqs=seqs)} if seqs else set()
    return {id: [edge for edge in some if edge[0] in still_open] for id, some in edges.items()}


def _is_new(listed: tuple[str, int]) -> bool:
    """Return whether none of the parent's children has been checked yet."""
    return not listed[1]


def _load_free(tx: Transaction, ids: Iterable[str], awaited: Collection[str]) -> dict[str, JobRow]:
    """Return the rows of the jobs that no other transaction has locked; wait for the jobs in `awaited`."""
    wanted = set(ids)
    waited_for = wanted.intersection(awaited)
    rows = load_rows(tx, sorted(wanted - waited_for), is_patient=False)
    return rows | load_briefly(tx, sorted(waited_for)) if waited_for else rows


def _decide_edges(
    tx: Transaction, edges: Mapping[str, Edges], rows: Mapping[str, JobRow], done: Release
) -> dict[str, list[int]]:
    """Mark the edges of ended parents as decided, or store in the child the reason why it still waits.

    The state of a child changes when its last edge is decided. Return, by parent, the edges whose children
    other transactions have locked.
    """
    ended = {id: some for id, some in edges.items() if rows[id].is_final}
    wanted = {child for some in ended.values() for _, child, _ in some}
    children = {id: rows[id] for id in wanted if id in rows}
    locked, batches, unopened = _locked_among(tx, wanted, children)
    done.skipped |= locked
    moves = _Moves(children, batches, unopened)
    decided: list[int] = []
    left: dict[str, list[int]] = {id: [] for id in edges}
    for parent_id, some in ended.items():
        parent = rows[parent_id]
        reason = Moved.PARENT_ENDED.format(state=parent.state)
        for edge, child_id, awaited in some:
            if child_id in locked:
                left[parent_id].append(edge)
                continue
            target = continuation_target(On(awaited), parent.state)
            if target is not None or not moves.is_waiting(child_id):
                decided.append(edge)
            else:
                children[child_id].change({"reason": waiting_reason(On(awaited), parent.state)})
            if target is State.DELETED:
                moves.deleted.setdefault(child_id, (parent, reason))
            elif target is State.ENQUEUED:
                moves.satisfied[child_id] = reason
            done.checked += 1
    if decided:
        tx.run(_DECIDE, seqs=decided)
    _move_children(tx, moves)
    return left


def _locked_among(
    tx: Transaction, wanted: Collection[str], rows: Mapping[str, JobRow]
) -> tuple[set[str], dict[str, BatchRow], set[str]]:
    """Return the children that cannot be moved now, because they or their batch are locked.

    Also return the rows of the children that are batches, and the unopened batches that have children as
    members.
    """
    locked = stored_among(tx, set(wanted).difference(rows)) if len(rows) < len(wanted) else set()
    awaiting = [row for row in rows.values() if row.state == State.AWAITING]
    batches = load_batches(tx, [row.id for row in awaiting if row.is_batch], is_patient=False)
    locked |= {row.id for row in awaiting if row.is_batch and row.id not in batches}
    around = {row.id: row.relations.batch_id for row in awaiting if row.is_member}
    unopened, held = unopened_among(tx, around.values())
    locked |= {id for id, batch_id in around.items() if batch_id in held}
    return locked, batches, unopened


@attrs.define
class _Moves:
    """The decisions about waiting children."""

    children: Mapping[str, JobRow]
    batches: Mapping[str, BatchRow]  # children that are batches
    unopened: Collection[str] = ()  # unopened batches, whose members therefore keep waiting
    deleted: dict[str, tuple[JobRow, str]] = attrs.field(factory=dict)  # the parent and the reason, by child
    satisfied: dict[str, str] = attrs.field(factory=dict)  # the reason, by child

    def is_waiting(self, id: str) -> bool:
        """Return whether the child waits and is not about to be deleted."""
        child = self.children.get(id)
        is_gone = id in self.deleted and id not in self.batches
        return child is not None and child.state == State.AWAITING and not is_gone


def _move_children(tx: Transaction, moves: _Moves) -> None:
    batches, deleted = moves.batches, moves.deleted
    awaiting = {id: row for id, row in moves.children.items() if row.state == State.AWAITING}
    for id, (_, reason) in deleted.items():
        if id in batches and id in awaiting:
            cancel_batch(tx, awaiting[id], batches[id], reason, tx.now)
    gone = [awaiting[id] for id in deleted if id in awaiting and id not in batches]
    for row in gone:
        owner, reason = deleted[row.id]
        ends = {"ended_at": tx.now, "expires_at": kept_until(tx.now, owner.ended_at, owner.expires_at)}
        row.move(tx, State.DELETED, reason=reason, changed_at=tx.now, **ends)
        row.note(State.DELETED, tx.now, reason)
    if gone:
        decide_all_of(tx, [row.id for row in gone])
    ready = [id for id in awaiting if id in moves.satisfied and id not in deleted]
    waiting = {row[0] for row in tx.all(_STILL_WAITING, ids=ready)} if ready else set()
    for row in [awaiting[id] for id in ready if id not in waiting]:
        reason = moves.satisfied[row.id]
        if row.is_member and row.relations.batch_id in moves.unopened:
            keep_waiting(row, Moved.WAITS_FOR_BATCH.value, tx.now)
        elif row.id in batches:
            keep_waiting(row, reason, tx.now)
            batches[row.id].open()
            save_batch(tx, batches[row.id])
        else:
            resume(tx, row, reason)
    save_rows(tx, moves.children.values())
    follow_parents(tx, [row for row in gone if row.has_children])


def resume(tx: Transaction, row: JobRow, reason: str) -> None:
    """Enqueue a job that no longer needs to wait."""
    row.move(
        tx, State.ENQUEUED, reason=reason, changed_at=tx.now, enqueued_at=tx.now, due_at=None, waits_for=None
    )
    row.note(State.ENQUEUED, tx.now, reason)
    row.notify_if_claimable(tx)


def keep_waiting(row: JobRow, reason: str, at: int) -> None:
    """Let the job continue to wait, but for another reason."""
    row.change({"reason": reason, "changed_at": at})
    row.note(State.AWAITING, at, reason)


def delete_children(tx: Transaction, parent_id: str, limit: int) -> int:
    """Delete up to `limit` children that wait for a job that is about to be pruned; return how many.

    Children that other transactions have locked are not deleted, and therefore the job is not deleted either.
    """
    found = tx.all(_OPEN_EDGES, ids=[parent_id], after=0, most=limit)
    if not found:
        return 0
    wanted = {child for _, _, child, _ in found}
    rows = load_rows(tx, [parent_id, *wanted], is_patient=False)
    counts = MemberCounts(tx, rows.values())
    parent = rows.pop(parent_id, None)
    if parent is None or parent.expires_at is None or parent.expires_at > tx.now:
        return 0  # another transaction has requeued, locked or pruned the job
    edges = [(seq, child, awaited) for _, seq, child, awaited in found]
    still_open = _still_open(tx, {parent_id: edges})[parent_id]
    waiting = {child for _, child, _ in still_open}
    rows = {id: row for id, row in rows.items() if id in waiting}
    free = _delete_free(tx, parent, waiting, rows, Moved.PARENT_GONE.value)
    decided = [seq for seq, child, _ in still_open if child in free]
    if decided:
        tx.run(_DECIDE, seqs=decided)
    counts.store()
    return len(decided)


def _delete_free(
    tx: Transaction, owner: JobRow, wanted: Collection[str], rows: dict[str, JobRow], reason: str
) -> set[str]:
    """Delete the waiting jobs that are not locked; return their ids and the ids of missing jobs."""
    locked, batches, _ = _locked_among(tx, wanted, rows)
    free = {id: row for id, row in rows.items() if id not in locked}
    _move_children(tx, _Moves(free, batches, deleted=dict.fromkeys(free, (owner, reason))))
    return set(wanted) - locked


def delete_with(tx: Transaction, owner: JobRow, ids: Sequence[str], reason: str) -> int:
    """Delete waiting jobs; their rows are kept as long after their end as the owner's row after its end.

    Jobs that other transactions have locked are skipped. Return the number of all other jobs.
    """
    rows = load_rows(tx, ids, is_patient=False)
    counts = MemberCounts(tx, rows.values())
    free = _delete_free(tx, owner, ids, rows, reason)
    counts.store()
    return len(free)
