"""`apply` in full: every kind of transition, decided on rows read in the same transaction.

An end decides about the children that wait for it: the parent is marked when it ends, its children are moved
in bounded batches by `release`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Applied,
    JobRecord,
    Moved,
    On,
    State,
    Transition,
    continuation_target,
    rules,
    waiting_reason,
)
from firelock_sql.job_row import JobRow, entry_line, load_rows, save_rows
from firelock_sql.transaction import Text, Transaction, insert_into
from firelock_sql.unique import is_taken_from, lock_again, revived_key, take_again

_ERRORS_LIMIT = 20
_KEEP_ERROR = insert_into(
    "firelock_attempt_errors", "job_id", "attempt", "at", "type", "message", "fingerprint", "traceback"
)
_NEWEST_TO_DROP = Text(f"""
SELECT seq FROM firelock_attempt_errors WHERE job_id = :id ORDER BY seq DESC LIMIT 1 OFFSET {_ERRORS_LIMIT}
""")  # noqa: S608 - a number
_DROP_OLD_ERRORS = Text("DELETE FROM firelock_attempt_errors WHERE job_id = :id AND seq <= :last")


def apply_transitions(tx: Transaction, transitions: Sequence[Transition]) -> list[Applied]:
    """See `Storage.apply`."""
    if lock_again(tx, transitions) and len(transitions) > 1:  # each finds the keys as the former left them
        return [apply_transitions(tx, [transition])[0] for transition in transitions]
    rows = load_rows(tx, {transition.job_id for transition in transitions})
    was_awaiting = [id for id, row in rows.items() if row.state == State.AWAITING]
    is_entangled = was_awaiting or len(rows) < len(transitions)
    if is_entangled and len(transitions) > 1 and any(row.has_children for row in rows.values()):
        return [apply_transitions(tx, [transition])[0] for transition in transitions]
    results: list[Applied] = []
    parents: dict[int, JobRow] = {}  # by place of the result
    for place, transition in enumerate(transitions):
        row = rows.get(transition.job_id)
        results.append(Applied.MISSING if row is None else _apply(tx, row, transition))
        if row is not None and row.has_children and results[-1] is Applied.APPLIED:
            parents[place] = row
    save_rows(tx, rows.values())
    if left := [id for id in was_awaiting if rows[id].state != State.AWAITING]:
        tx.run(_DECIDE_ALL_OF, ids=left)
    listed = _follow_parents(tx, parents.values())
    for place, row in parents.items():
        if row.id in listed:
            results[place] = Applied.RELEASING
    return results


def _apply(tx: Transaction, row: JobRow, transition: Transition) -> Applied:
    """The transition is in the row if its guards hold; return what became of it, children aside."""
    job = cast("JobRecord", row)  # in all that the rules look at
    if row.state not in transition.from_states or not rules.is_holder(job, transition):
        return _refused(tx, row, transition)
    key = revived_key(row, transition)
    if key is not None and is_taken_from(tx, row, key):
        return Applied.TAKEN
    if _is_due_sooner(row, transition):
        tx.woken.add(ANY_QUEUE)  # who sleeps until the next due instant; see the kit's life.py
    entry = None if transition.is_silent else entry_line(rules.entry_of(transition, job))
    # Where nothing comes into a queue the clock is not asked: it may be a round trip.
    is_timed = transition.to is State.ENQUEUED and not transition.gives_back
    was_held = row.session is not None
    fields = rules.written(job, transition, tx.now if is_timed else 0)
    del fields["state"]
    if fields.pop("error", None) is not None:
        fields |= _keep_error(tx, row, transition)
    row.change(fields)
    row.move(tx, transition.to)
    if entry is not None:
        row.added.append(entry)
    _tell_if_claimable(tx, row)
    if was_held or transition.to in FINAL_STATES:
        _tell_of_keys(tx, row)
    if key is not None:
        take_again(tx, row, key)
    return Applied.APPLIED


def _tell_of_keys(tx: Transaction, row: JobRow) -> None:
    """Jobs that wait for the same keys may start, if this one holds them no more."""
    if row.held_by is not None and row.session is None:
        tx.let_go.append((row.seq, row.queue, row.held_by))


def _keep_error(tx: Transaction, row: JobRow, transition: Transition) -> dict[str, object]:
    """The failed attempt is stored beside the others; return what the job itself shows of it."""
    error = transition.error
    assert error is not None  # noqa: S101 - asked before
    shown = {"type": error.type, "message": error.message, "fingerprint": error.fingerprint}
    kept = {"job_id": row.id, "attempt": transition.attempt or row.attempt, "at": transition.at}
    tx.run(_KEEP_ERROR, **kept, **shown, traceback=error.traceback)
    if (last := tx.one(_NEWEST_TO_DROP, id=row.id)) is not None:
        tx.run(_DROP_OLD_ERRORS, id=row.id, last=last[0])
    return {f"error_{name}": value for name, value in shown.items()}


def _is_due_sooner(row: JobRow, transition: Transition) -> bool:
    """Tell whether somebody moved a scheduled job to an earlier instant, or restored one."""
    if transition.session is not None or transition.due_at is None:
        return False
    return row.due_at is None or transition.due_at < row.due_at


def _refused(tx: Transaction, row: JobRow, transition: Transition) -> Applied:
    """Tell a repeat from a stranger; the holder's late end takes its own tail away."""
    if transition.session is None or row.fence != transition.fence:
        return Applied.REFUSED
    if row.session is None:
        return Applied.ALREADY if row.state == transition.to else Applied.REFUSED
    if row.session == transition.session and row.state != State.PROCESSING:
        clear_tail(tx, row)
    return Applied.REFUSED


def _tell_if_claimable(tx: Transaction, row: JobRow) -> None:
    if row.session is None and row.state == State.ENQUEUED:
        tx.woken.add(row.queue)


def clear_tail(tx: Transaction, row: JobRow) -> None:
    """The job's former holder is gone; a requeued job is claimable."""
    row.change({"session": None})
    _tell_if_claimable(tx, row)
    _tell_of_keys(tx, row)


def take_back(tx: Transaction, row: JobRow, *, crash: str | None) -> None:
    """The dead session's job is at its old place, with a crash where a reason is given."""
    if crash is not None:
        row.note(State.ENQUEUED, tx.now, crash, of_attempt=True)
    row.move(
        tx, State.ENQUEUED, reason=crash or Moved.NOT_STARTED.value, changed_at=tx.now, session=None,
        attempt=row.attempt - 1, crashes=row.crashes + (crash is not None),
    )  # fmt: skip
    _tell_if_claimable(tx, row)
    _tell_of_keys(tx, row)


def kept_until(at: int, ended_at: int | None, expires_at: int | None) -> int | None:
    """Return when a child that ends at `at` may be pruned, from its parent's end and expiry."""
    return None if ended_at is None or expires_at is None else at + expires_at - ended_at


# ---- children --------------------------------------------------------------------------------------------

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
_UNMARK = Text("""
UPDATE firelock_jobs SET marks = marks - 1 WHERE id = :parent AND (marks & 1) = 1
    AND NOT EXISTS (SELECT 1 FROM firelock_edges WHERE parent_id = :parent AND is_decided = 0)
""")


def _follow_parents(tx: Transaction, parents: Iterable[JobRow]) -> set[str]:
    """Those that ended while children wait are on the releasing list, others off it; return who is on it."""
    by_id = {row.id: row for row in parents}
    if not by_id:
        return set()
    tx.run(_OFF_THE_LIST, ids=list(by_id))
    ended = [row.id for row in by_id.values() if row.state in FINAL_STATES]
    waited_for = {str(row[0]) for row in tx.all(_WITH_OPEN_EDGES, ids=ended)}
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
    parent = rows.pop(parent_id, None)
    if parent is not None and parent.state in FINAL_STATES:
        _decide_edges(tx, parent, found, rows)
    if len(found) < limit or parent is None:
        tx.run(_OFF_THE_LIST, ids=[parent_id])
        tx.run(_UNMARK, parent=parent_id)
    else:
        tx.run(_MOVE_ON, parent=parent_id, looked_at=found[-1][0])
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
    gone = [awaiting[id] for id in deleted if id in awaiting]
    for row in gone:
        ends = {"ended_at": tx.now, "expires_at": kept_until(tx.now, parent.ended_at, parent.expires_at)}
        row.move(tx, State.DELETED, reason=deleted[row.id], changed_at=tx.now, **ends)
        row.note(State.DELETED, tx.now, deleted[row.id])
    if gone:
        tx.run(_DECIDE_ALL_OF, ids=[row.id for row in gone])
    ready = [id for id in awaiting if id in satisfied and id not in deleted]
    waiting = {row[0] for row in tx.all(_STILL_WAITING, ids=ready)} if ready else set()
    reason = Moved.PARENT_ENDED.format(state=parent.state)
    for row in (awaiting[id] for id in ready if id not in waiting):
        row.move(tx, State.ENQUEUED, reason=reason, changed_at=tx.now, enqueued_at=tx.now, due_at=None)
        row.note(State.ENQUEUED, tx.now, reason)
        _tell_if_claimable(tx, row)
    save_rows(tx, children.values())
    _follow_parents(tx, [row for row in gone if row.has_children])


def delete_children(tx: Transaction, parent_id: str, limit: int) -> int:
    """Up to `limit` children that wait for a job about to be pruned are deleted; return how many."""
    found = tx.all(_OPEN_EDGES, parent=parent_id, looked_at=0, most=limit)
    if not found:
        return 0
    rows = load_rows(tx, [parent_id, *{child for _, child, _ in found}])
    parent = rows.pop(parent_id, None)
    if parent is None or parent.expires_at is None or parent.expires_at > tx.now:
        return 0  # somebody requeued it, or has pruned it already
    tx.run(_DECIDE, seqs=[edge for edge, _, _ in found])
    _move_children(tx, parent, rows, dict.fromkeys(rows, Moved.PARENT_GONE.value))
    return len(found)
