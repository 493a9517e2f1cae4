"""Batches: their counts, and the work of `release` on batches whose counts have changed.

A transaction locks the batch, and then determines its state from all counts that it reads under the lock. It
also holds the lock while it moves members in their listed order, a limited number at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    BatchCounts,
    BatchRules,
    Moved,
    Relations,
    State,
    Transition,
    batch_failure_reason,
)
from firelock.storage.batches import end_of
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.batch_row import (
    SWEEP,
    BatchRow,
    MemberCounts,
    fold,
    load_batches,
    peek_batches,
    save_batch,
    waiting_for_parents,
    with_unfolded,
)
from firelock_sql.rows.job_row import JobRow, load_rows, read_state, relations_in, save_rows
from firelock_sql.verbs.batch_change import cancel_batch
from firelock_sql.verbs.children import decide_all_of, delete_with, follow_parents, keep_waiting, resume
from firelock_sql.verbs.settle import apply_transitions

_UNENDED = frozenset(State) - FINAL_STATES
_NO_RULES = BatchRules("")
_OF_BATCHES = Text("SELECT id, state, due_at, relations_json FROM firelock_jobs WHERE id IN :ids")
_CHANGED = Text("SELECT id FROM firelock_batches WHERE is_changed = 1 LIMIT :most")
_CHANGED_OR_WITH_DELTAS = Text("""
SELECT id FROM (SELECT id FROM firelock_batches WHERE is_changed = 1 LIMIT :most) AS changed
UNION SELECT batch_id FROM (SELECT DISTINCT batch_id FROM firelock_batch_deltas LIMIT :most) AS with_deltas
""")
_FREE_JOBS = Text("""
SELECT id, (SELECT count(*) FROM firelock_batches AS inner_one WHERE inner_one.id = firelock_jobs.id)
FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
""")
_NEXT_MEMBERS = Text("""
SELECT listed.created_at, listed.job_id, job.state
FROM firelock_members AS listed JOIN firelock_jobs AS job ON job.id = listed.job_id
WHERE listed.batch_id = :batch AND listed.created_at >= :at
    AND (listed.created_at > :at OR listed.job_id > :id)
ORDER BY listed.created_at, listed.job_id LIMIT :most
""")
_WALKED = Text("""
UPDATE firelock_batches SET walk = :walk, walked_at = :at, walked_id = :last WHERE id = :id
""")
_AGAIN = Text("UPDATE firelock_batches SET is_changed = 1 WHERE id = :id")
_GONE = [
    Text("DELETE FROM firelock_batches WHERE id = :id"),
    Text("DELETE FROM firelock_batch_deltas WHERE batch_id = :id"),
]


class SqlBatchVerbs(SqlVerbs):
    """The verb that reads the counts of batches."""

    @override
    def batch_counts(self, ids: Sequence[str]) -> list[BatchCounts | None]:
        if not ids:
            return []
        found = self._database.read(lambda tx: read_batch_counts(tx, ids))
        return [found.get(id) for id in ids]


def read_batch_counts(tx: Transaction, ids: Sequence[str]) -> dict[str, BatchCounts]:
    """Return the counts of each batch, from one snapshot."""
    jobs = {row[0]: row for row in tx.all(_OF_BATCHES, ids=list(ids))}
    all_counts = {}
    for id, batch in peek_batches(tx, jobs).items():
        _, state, due_at, relations = jobs[id]
        rules = relations_in(relations).batch
        if rules is not None:
            batch.is_stopping = int(batch.is_stopping or (rules.fails_fast and batch.failures > 0))
            all_counts[id] = (batch.batch_counts(read_state(state), due_at), rules.fails_fast)
    return with_unfolded(tx, all_counts)


# ---- release ---------------------------------------------------------------------------------------------


def release_batches(tx: Transaction, limit: int) -> int:
    """Check batches whose counts have changed, and move their members; return the number checked."""
    found = tx.all(_CHANGED_OR_WITH_DELTAS if tx.adds_deltas else _CHANGED, most=limit)
    checked = 0
    for id in sorted(str(row[0]) for row in found):
        if checked >= limit:
            break
        checked += _release_batch(tx, id, limit - checked)
    return checked


def _release_batch(tx: Transaction, id: str, room: int) -> int:
    """Update the batch from its counts, and move some of its members; return the number checked."""
    row = load_rows(tx, [id], is_patient=False).get(id)
    if row is None and tx.adds_deltas and tx.all(_OF_BATCHES, ids=[id]):
        return 0  # another transaction has locked the batch
    batch = load_batches(tx, [id], is_patient=False).get(id)
    if row is None:
        for statement in _GONE:
            tx.run(statement, id=id)
        return 1
    if batch is None:
        return 0
    rules = row.relations.batch or _NO_RULES
    counts = MemberCounts(tx, [row])
    flags = batch.flags
    fold(tx, batch, fails_fast=rules.fails_fast)
    state = row.state if row.state is State.DELETED else end_of(batch.batch_counts(row.state, row.due_at))
    if state is not row.state:
        _end_or_reopen(tx, row, batch, rules, state)
    _plan_walk(row, batch)
    if batch.flags != flags:
        save_batch(tx, batch)
    save_rows(tx, [row])
    if row.has_children:
        follow_parents(tx, [row])
    counts.store()
    return _walk_members(tx, batch, rules, room) if batch.walk is not None else 1


def _plan_walk(row: JobRow, batch: BatchRow) -> None:
    """Choose the pass over the members based on the flags; restart a sweep if members remain."""
    if row.is_final:
        batch.is_unopened, batch.is_stopping, batch.walk = 0, 0, None
    elif batch.is_cancelled or batch.is_stopping:
        if batch.walk != SWEEP and batch.batch_counts(row.state, None).ended < batch.total:
            batch.begin(SWEEP)
    elif batch.is_unopened or batch.walk == SWEEP:
        batch.walk = None
    batch.is_changed = 0


def _end_or_reopen(tx: Transaction, row: JobRow, batch: BatchRow, rules: BatchRules, state: State) -> None:
    """End or reopen the batch; to change the state in which it ended, reopen it first."""
    reason = row.reason if state is State.DELETED else None
    if row.is_final:
        opened = Moved.REOPENED.value
        row.move(tx, State.AWAITING, reason=opened, changed_at=tx.now, ended_at=None, expires_at=None)
        row.note(State.AWAITING, tx.now, opened)
    if state is State.AWAITING:
        return
    if state is State.FAILED:
        reason = batch_failure_reason(failed=batch.failed, total=batch.total, waiting=batch.waiting)
    row.move(
        tx, state, reason=reason, changed_at=tx.now, ended_at=tx.now, due_at=None,
        expires_at=rules.expiry(state, tx.now),
    )  # fmt: skip
    row.note(state, tx.now, reason)
    decide_all_of(tx, [row.id])


def _walk_members(tx: Transaction, batch: BatchRow, rules: BatchRules, room: int) -> int:
    """Sweep the next members of an open batch, or let them start; return the number checked.

    Stop at the first locked member; the next pass continues with it.
    """
    found = tx.all(_NEXT_MEMBERS, batch=batch.id, at=batch.walked_at, id=batch.walked_id, most=room)
    movable = _UNENDED if batch.walk == SWEEP else {State.AWAITING}
    wanted = [id for _, id, state in found if read_state(state) in movable]
    free = _lock_free(tx, wanted)
    if batch.walk == SWEEP:
        _sweep(tx, batch, rules, [id for id in wanted if id in free])
    else:
        _resume_members(tx, [id for id in wanted if id in free])
    held = [place for place, (_, id, _) in enumerate(found) if id in wanted and id not in free]
    done = found[: held[0]] if held else found
    is_over = len(found) < room and not held
    at, last = done[-1][:2] if done else (batch.walked_at, batch.walked_id)
    tx.run(_WALKED, id=batch.id, walk=None if is_over else batch.walk, at=at, last=last)
    if not is_over:
        tx.run(_AGAIN, id=batch.id)
    return len(free) if held else max(1, len(found))


def _lock_free(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Lock the jobs that are not locked, including the rows of batches among them; return their ids."""
    if not tx.adds_deltas or not ids:
        return set(ids)
    free = {str(id): bool(is_batch) for id, is_batch in tx.all(_FREE_JOBS, ids=sorted(ids))}
    inner = {id for id, is_batch in free.items() if is_batch}
    return set(free) - inner.difference(load_batches(tx, inner, is_patient=False))


def _sweep(tx: Transaction, batch: BatchRow, rules: BatchRules, ids: Sequence[str]) -> None:
    reason = Moved.SWEPT.value if batch.is_cancelled else Moved.STOPPED.value
    expires_at = rules.expiry(State.DELETED, tx.now)
    apply_transitions(
        tx,
        [
            Transition(id, _UNENDED, None, None, State.DELETED, tx.now, reason, expires_at=expires_at)
            for id in ids
        ],
        is_sweep=True,
    )


def _resume_members(tx: Transaction, ids: Sequence[str]) -> None:
    rows = load_rows(tx, ids) if ids else {}
    related = waiting_for_parents(tx, list(rows))
    waiting = [
        row
        for row in rows.values()
        if row.state is State.AWAITING and row.waits_for is None and row.id not in related
    ]
    inner = load_batches(tx, [row.id for row in waiting if row.is_batch])
    reason = Moved.BATCH_OPENED.value
    for row in waiting:
        if row.is_batch:
            if row.id in inner and inner[row.id].is_unopened and not inner[row.id].is_cancelled:
                keep_waiting(row, reason, tx.now)
                inner[row.id].open()
                save_batch(tx, inner[row.id])
            continue
        nominal_at = row.nominal_at
        if nominal_at is not None and nominal_at > tx.now:
            row.move(tx, State.SCHEDULED, reason=reason, changed_at=tx.now, due_at=nominal_at)
            tx.woken.add(ANY_QUEUE)  # wakes servers that sleep until the next due time
        else:
            row.move(tx, State.ENQUEUED, reason=reason, changed_at=tx.now, enqueued_at=tx.now)
            row.notify_if_claimable(tx)
        row.note(row.state, tx.now, reason)
    save_rows(tx, rows.values())


# ---- timeouts and pruning --------------------------------------------------------------------------------

_HOUR = 3_600_000_000
_WAITING_AT_ONCE = 1_000
_WAITING = Text("""
SELECT listed.job_id
FROM firelock_members AS listed JOIN firelock_jobs AS job ON job.id = listed.job_id
WHERE listed.batch_id = :batch AND job.state = 'awaiting' ORDER BY listed.created_at LIMIT :most
""")
_AROUND = Text("SELECT id, state, expires_at, relations_json FROM firelock_jobs WHERE id IN :ids")
_REFERRED = Text("""
SELECT DISTINCT edge.parent_id
FROM firelock_edges AS edge JOIN firelock_jobs AS job ON job.id = edge.child_id
WHERE edge.parent_id IN :ids AND edge.carries = 1
    AND job.state IN ('awaiting', 'scheduled', 'enqueued', 'processing')
""")
_RELEASING = Text("SELECT parent_id FROM firelock_releasing WHERE parent_id IN :ids")
_KEEP = Text("UPDATE firelock_jobs SET expires_at = :until WHERE id = :id AND expires_at IS NOT NULL")
_TOLD_AMONG = Text("SELECT DISTINCT batch_id FROM firelock_batch_deltas WHERE batch_id IN :ids")
_UNLIST = Text(
    "DELETE FROM firelock_members WHERE batch_id = :batch_id AND created_at = :at AND job_id = :id"
)


def time_out(tx: Transaction, ids: Sequence[str]) -> int:
    """Resume jobs whose wait has timed out; cancel batches whose hold has expired.

    Skip batches to which another transaction is adding members. Return the number of handled jobs and
    batches.
    """
    rows = {id: row for id, row in load_rows(tx, ids).items() if row.state is State.AWAITING}
    counts = MemberCounts(tx, rows.values())
    batches = load_batches(tx, [row.id for row in rows.values() if row.is_batch], is_patient=False)
    rows = {id: row for id, row in rows.items() if id in batches or not row.is_batch}
    for row in rows.values():
        if row.id in batches:
            cancel_batch(tx, row, batches[row.id], Moved.HOLD_EXPIRED.value, tx.now)
        else:
            resume(tx, row, Moved.DUE.value)
    save_rows(tx, rows.values())
    decide_all_of(tx, [id for id in rows if id not in batches])
    follow_parents(tx, [row for row in rows.values() if row.has_children])
    counts.store()
    return len(rows)


def _around(tx: Transaction, ids: set[str]) -> dict[str, tuple[str, int | None, Relations]]:
    """Return the state, expiry and relations of these jobs and of all batches that contain them, by id."""
    found: dict[str, tuple[str, int | None, Relations]] = {}
    while ids:
        level = {
            id: (state, at, relations_in(text)) for id, state, at, text in tx.all(_AROUND, ids=sorted(ids))
        }
        found |= level
        ids = {
            relations.batch_id for *_, relations in level.values() if relations.batch_id is not None
        } - found.keys()
    return found


def keep_related(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Return the expired jobs that must be kept because of related jobs, and store their new expiry times.

    The result includes jobs that another transaction has locked.
    """
    rows = load_rows(tx, ids, is_patient=False)
    until: dict[str, int] = {}
    relations = {id: row.relations for id, row in rows.items()}
    named = {id for one in relations.values() for id in (one.batch_id, one.caller_id) if id is not None}
    around = _around(tx, named)
    releasing = {row[0] for row in tx.all(_RELEASING, ids=sorted(around))} if around else set()
    for id, one in relations.items():
        batch_id = one.batch_id  # members of an inner batch are also kept as long as its outer batches
        while batch_id is not None and batch_id in around:
            state, expires_at, outer = around[batch_id]
            is_open = read_state(state) not in FINAL_STATES or batch_id in releasing
            until[id] = max(until.get(id, 0), (not is_open and expires_at) or tx.now + _HOUR)
            batch_id = outer.batch_id
        if one.caller_id in around and read_state(around[one.caller_id][0]) not in FINAL_STATES:
            until[id] = max(until.get(id, 0), tx.now + _HOUR)
    for (id,) in tx.all(_REFERRED, ids=sorted(rows)):
        until[id] = max(until.get(id, 0), tx.now + _HOUR)
    kept = {id: instant for id, instant in until.items() if instant > tx.now}
    tx.run_many(_KEEP, [{"id": id, "until": instant} for id, instant in sorted(kept.items())])
    batches = peek_batches(tx, [row.id for row in rows.values() if row.is_batch])
    changed = {id for id, batch in batches.items() if batch.is_changed}
    if tx.adds_deltas and batches:
        changed |= {row[0] for row in tx.all(_TOLD_AMONG, ids=sorted(batches))}
    # Counts that were not folded yet may reopen a batch in `changed`.
    return {*kept, *changed, *(id for id in ids if id not in rows)}


def delete_waiting(tx: Transaction, id: str) -> int:
    """Delete some waiting members of a batch that is about to be pruned; return how many were deleted."""
    rows = load_rows(tx, [id], is_patient=False)
    expires_at = rows[id].expires_at if id in rows and rows[id].is_batch else None
    if expires_at is None or expires_at > tx.now:
        return 0
    found = [row[0] for row in tx.all(_WAITING, batch=id, most=_WAITING_AT_ONCE)]
    return delete_with(tx, rows[id], found, Moved.PARENT_GONE.value) if found else 0


def forget_relations(tx: Transaction, gone: Sequence[tuple[str, int, Relations]]) -> None:
    """Remove pruned jobs from the lists of members; delete the rows of pruned batches."""
    tx.run_many(
        _UNLIST,
        [
            {"batch_id": relations.batch_id, "at": created_at, "id": id}
            for id, created_at, relations in gone
            if relations.batch_id is not None
        ],
    )
    for statement in _GONE:
        tx.run_many(statement, [{"id": id} for id, _, relations in gone if relations.batch is not None])
