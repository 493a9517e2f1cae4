"""`apply` in full: every kind of transition, decided on rows read in the same transaction.

An end decides about the children that wait for it: the parent is marked when it ends, its children are moved
in bounded batches by `release`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import attrs

from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Applied,
    JobRecord,
    MemoKind,
    Moved,
    On,
    State,
    Transition,
    continuation_target,
    rules,
    waiting_reason,
)
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.batch_row import MemberCounts, load_batches, save_batch, shut_among
from firelock_sql.rows.job_row import JobRow, entry_line, load_rows, save_rows
from firelock_sql.rows.memo_row import forget_memos, read_memo
from firelock_sql.schema.tables import HAS_CHILDREN
from firelock_sql.verbs.batch_change import (
    BatchesAround,
    cancel_batch,
    change_batch,
    is_forbidden,
    lets_run,
    lock_around,
)
from firelock_sql.verbs.unique import is_taken_from, lock_again, revived_key, take_again

_ERRORS_LIMIT = 20
_KEEP_ERROR = insert_into(
    "firelock_attempt_errors", "job_id", "attempt", "at", "type", "message", "fingerprint", "traceback"
)
_NEWEST_TO_DROP = Text(f"""
SELECT seq FROM firelock_attempt_errors WHERE job_id = :id ORDER BY seq DESC LIMIT 1 OFFSET {_ERRORS_LIMIT}
""")  # noqa: S608 - a number
_DROP_OLD_ERRORS = Text("DELETE FROM firelock_attempt_errors WHERE job_id = :id AND seq <= :last")


def apply_transitions(
    tx: Transaction, transitions: Sequence[Transition], *, is_sweep: bool = False
) -> list[Applied]:
    """See `Storage.apply`.

    Args:
        is_sweep: the jobs are all deleted, in whichever order, and nobody asks whose children wait.
    """
    if lock_again(tx, transitions) and len(transitions) > 1:  # each finds the keys as the former left them
        return [apply_transitions(tx, [transition])[0] for transition in transitions]
    around = lock_around(tx, transitions)
    ids = {transition.job_id for transition in transitions}
    rows = load_rows(tx, ids.union(*(_awaited(transition) for transition in transitions)))
    was_awaiting = [id for id, row in rows.items() if row.state == State.AWAITING]
    is_entangled = was_awaiting or len(ids) < len(transitions)
    is_entangled = is_entangled and any(row.has_children for row in rows.values())
    batches = load_batches(tx, [row.id for row in rows.values() if row.is_batch and row.id in ids])
    if len(transitions) > 1 and not is_sweep and (is_entangled or batches or around.batches):
        return [apply_transitions(tx, [transition])[0] for transition in transitions]
    counts = MemberCounts(tx, rows.values())
    results: list[Applied] = []
    changed: dict[int, JobRow] = {}  # by place of the result
    for place, transition in enumerate(transitions):
        row = rows.get(transition.job_id)
        if row is None:
            results.append(Applied.MISSING)
        elif row.is_batch:
            results.append(change_batch(tx, row, batches.get(row.id), transition))
        else:
            results.append(_apply(tx, rows, transition, around))
        if row is not None and results[-1] is Applied.APPLIED:
            changed[place] = row
    save_rows(tx, rows.values())
    if left := [id for id in was_awaiting if rows[id].state != State.AWAITING]:
        decide_all_of(tx, left)
    listed = follow_parents(tx, [row for row in changed.values() if row.has_children])
    listed |= {id for id, batch in batches.items() if batch.is_changed}
    told = counts.tell()
    for place, row in changed.items():
        if row.id in listed or (row.is_member and row.ties.batch_id in told):
            results[place] = Applied.RELEASING
    return results


def _apply(
    tx: Transaction, rows: Mapping[str, JobRow], transition: Transition, around: BatchesAround
) -> Applied:
    """The transition is in the row if its guards hold; return what became of it, children aside."""
    row = rows[transition.job_id]
    job = cast("JobRecord", row)  # in all that the rules look at
    if row.state not in transition.from_states or not rules.is_holder(job, transition):
        return _judge_refusal(tx, row, transition)
    key = revived_key(row, transition)
    if key is not None and is_taken_from(tx, row, key):
        return Applied.TAKEN
    is_resumed = False
    if transition.session is None:
        if not _is_allowed(tx, row, transition, around):
            return Applied.REFUSED
    elif transition.to is State.AWAITING:
        transition = _resume_if_met(tx, rows, transition)
        is_resumed = transition.to is State.ENQUEUED
    is_calming = lets_run(row, transition)
    _write(tx, row, transition, is_resumed=is_resumed)
    if key is not None:
        take_again(tx, row, key)
    if is_calming:
        around.calm(tx, row.id)
    if transition.to is State.AWAITING and transition.parents:
        _wait_for(tx, rows, transition)
    return Applied.APPLIED


def _is_allowed(tx: Transaction, row: JobRow, transition: Transition, around: BatchesAround) -> bool:
    """Tell whether what the job is tied to, or remembers, allows the change; forget what that asks to."""
    if transition.to is State.AWAITING or is_forbidden(tx, row, transition, around):
        return False
    if transition.forget_from is not None:
        since = read_memo(tx, row.id, *transition.forget_from)
        if since is None or row.state is State.PROCESSING:
            return False
        forget_memos(tx, row, since)
    return True


def _write(tx: Transaction, row: JobRow, transition: Transition, *, is_resumed: bool) -> None:
    """The row is as the transition says."""
    job = cast("JobRecord", row)
    if _is_due_sooner(row, transition):
        tx.woken.add(ANY_QUEUE)  # who sleeps until the next due instant; see the kit's life.py
    entry = None if transition.is_silent else entry_line(rules.entry_of(transition, job))
    # Where nothing comes into a queue the clock is not asked: it may be a round trip.
    is_timed = transition.to is State.ENQUEUED and not transition.gives_back
    was_held = row.session is not None
    fields = rules.written(job, transition, tx.now if is_timed else 0)
    del fields["state"]
    fields["waits_for"] = transition.waits_for
    if is_resumed:
        fields["enqueued_at"] = tx.now
    if fields.pop("error", None) is not None:
        fields |= _keep_error(tx, row, transition)
    row.change(fields)
    row.move(tx, transition.to)
    if entry is not None:
        row.added.append(entry)
    tell_if_claimable(tx, row)
    if was_held or transition.to in FINAL_STATES:
        _tell_of_keys(tx, row)


# ---- suspensions -----------------------------------------------------------------------------------------


def _awaited(transition: Transition) -> Iterable[str]:
    """Return the jobs that a suspended one waits for."""
    return [edge.parent_id for edge in transition.parents]


def _resume_if_met(tx: Transaction, rows: Mapping[str, JobRow], transition: Transition) -> Transition:
    """Return the suspension, or what becomes of it where what the job is to wait for is there."""
    reason = None
    awaited = [rows.get(id) for id in _awaited(transition)]
    if awaited and all(one is None or one.is_final for one in awaited):
        last = awaited[-1]
        reason = Moved.PARENT_GONE if last is None else Moved.PARENT_ENDED.format(state=last.state)
    kind, _, name = (transition.waits_for or "").partition(" ")
    if kind == MemoKind.SIGNAL:
        memo = read_memo(tx, transition.job_id, kind, name)
        if memo is not None and memo.is_done:
            reason = Moved.SIGNALLED.format(name=name)
    if reason is None:
        return transition
    return attrs.evolve(
        transition, to=State.ENQUEUED, reason=str(reason), due_at=None, waits_for=None, parents=()
    )


def _wait_for(tx: Transaction, rows: Mapping[str, JobRow], transition: Transition) -> None:
    """The suspended job has a tie to each of those that have not ended."""
    found = [
        (edge, parent) for edge in transition.parents if (parent := rows.get(edge.parent_id)) is not None
    ]
    waiting = [(edge, parent) for edge, parent in found if not parent.is_final]
    tx.run_many(
        _WAIT,
        [
            {
                "parent_id": edge.parent_id, "child_id": transition.job_id, "awaited": edge.on.value,
                "is_decided": 0, "is_wait": 1,
            }
            for edge, _ in waiting
        ],
    )  # fmt: skip
    tx.run(MARK_PARENTS, ids=sorted({edge.parent_id for edge, _ in waiting}))
    for _, parent in waiting:
        parent.marks |= HAS_CHILDREN


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


def _judge_refusal(tx: Transaction, row: JobRow, transition: Transition) -> Applied:
    """Tell a repeat from a stranger; the holder's late end takes its own tail away."""
    if transition.session is None or row.fence != transition.fence:
        return Applied.REFUSED
    if row.session is None:
        return Applied.ALREADY if row.state == transition.to else Applied.REFUSED
    if row.session == transition.session and row.state != State.PROCESSING:
        clear_tail(tx, row)
    return Applied.REFUSED


def tell_if_claimable(tx: Transaction, row: JobRow) -> None:
    """Servers are told of the job, if one may claim it."""
    if row.session is None and row.state == State.ENQUEUED:
        tx.woken.add(row.queue)


def clear_tail(tx: Transaction, row: JobRow) -> None:
    """The job's former holder is gone; a requeued job is claimable."""
    row.change({"session": None})
    tell_if_claimable(tx, row)
    _tell_of_keys(tx, row)


def take_back(tx: Transaction, row: JobRow, *, crash: str | None) -> None:
    """The dead session's job is at its old place, with a crash where a reason is given."""
    if crash is not None:
        row.note(State.ENQUEUED, tx.now, crash, of_attempt=True)
    row.move(
        tx, State.ENQUEUED, reason=crash or Moved.NOT_STARTED.value, changed_at=tx.now, session=None,
        attempt=row.attempt - 1, crashes=row.crashes + (crash is not None),
    )  # fmt: skip
    tell_if_claimable(tx, row)
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
_WAIT = insert_into("firelock_edges", "parent_id", "child_id", "awaited", "is_decided", "is_wait")
MARK_PARENTS = Text(f"UPDATE firelock_jobs SET marks = marks | {HAS_CHILDREN} WHERE id IN :ids")  # noqa: S608 - a number
_UNMARK = Text("""
UPDATE firelock_jobs SET marks = marks - 1 WHERE id = :parent AND (marks & 1) = 1
    AND NOT EXISTS (SELECT 1 FROM firelock_edges WHERE parent_id = :parent AND is_decided = 0)
""")


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
    tell_if_claimable(tx, row)


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
