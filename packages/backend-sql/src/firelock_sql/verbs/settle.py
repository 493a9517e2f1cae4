"""The general form of `apply`, for every kind of transition; it reads the rows in the same transaction.

The storage of each dialect settles most plain outcomes without this module. The others are those in a
caller's transaction, those of jobs that another process has claimed, and those that turn out not to be plain.
The children of ended jobs are handled later, by `release`: see `children`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Applied,
    JobRecord,
    Moved,
    State,
    Transition,
    rules,
    taken_from,
)
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.batch_row import MemberCounts, load_batches
from firelock_sql.rows.job_row import JobRow, entry_line, load_briefly, load_rows, save_rows, stored_among
from firelock_sql.rows.memo_row import forget_memos, read_memo
from firelock_sql.verbs.batch_change import (
    BatchesAround,
    change_batch,
    is_forbidden,
    lets_run,
    lock_around,
)
from firelock_sql.verbs.children import decide_all_of, follow_parents
from firelock_sql.verbs.suspensions import awaited_jobs, resume_if_met, wait_for
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
        tx: the transaction.
        transitions: the transitions.
        is_sweep: whether all transitions only delete jobs, in any order, and their results are not used.
    """
    # each transition must see the changes that the previous one made to the unique keys
    if lock_again(tx, transitions) and len(transitions) > 1:
        return [apply_transitions(tx, [transition])[0] for transition in transitions]
    around = lock_around(tx, transitions)
    ids = {transition.job_id for transition in transitions}
    rows, busy = _load(tx, transitions, ids)
    was_awaiting = [id for id, row in rows.items() if row.state == State.AWAITING]
    is_entangled = was_awaiting or len(ids) < len(transitions)
    is_entangled = is_entangled and any(row.has_children for row in rows.values())
    batches = load_batches(tx, [row.id for row in rows.values() if row.is_batch and row.id in ids])
    if len(transitions) > 1 and not is_sweep and (is_entangled or batches or around.batches):
        return [apply_transitions(tx, [transition])[0] for transition in transitions]
    counts = MemberCounts(tx, rows.values())
    results: list[Applied] = []
    changed: dict[int, JobRow] = {}  # changed rows by the positions of their results
    for place, transition in enumerate(transitions):
        row = rows.get(transition.job_id)
        if transition.job_id in busy:
            results.append(Applied.BUSY)
        elif row is None:
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
    changed_batches = counts.store()
    for place, row in changed.items():
        if row.id in listed or (row.is_member and row.relations.batch_id in changed_batches):
            results[place] = Applied.RELEASE_NEEDED
    return results


def _load(
    tx: Transaction, transitions: Sequence[Transition], ids: Collection[str]
) -> tuple[dict[str, JobRow], set[str]]:
    """Return the rows of these jobs and of the jobs that suspensions wait for, and the ids of busy jobs.

    Only a read without a lock can distinguish a row that another transaction has locked from a missing row.
    """
    awaited = {id for one in transitions for id in awaited_jobs(one)}
    if not tx.skips_own:
        return load_rows(tx, awaited.union(ids)), set()
    rows = load_rows(tx, ids, is_patient=False)
    if others := awaited.difference(ids):
        rows |= load_rows(tx, others, is_patient=False) if tx.skips_all else load_briefly(tx, others)
    if len(rows) == len(others) + len(ids):
        return rows, set()
    locked = stored_among(tx, awaited.union(ids).difference(rows))
    return rows, {
        one.job_id for one in transitions if one.job_id in locked or not locked.isdisjoint(awaited_jobs(one))
    }


def _apply(
    tx: Transaction, rows: Mapping[str, JobRow], transition: Transition, around: BatchesAround
) -> Applied:
    """Apply the transition if its conditions are met; return the result, without regard to child jobs."""
    row = rows[transition.job_id]
    job = cast("JobRecord", row)  # the rules read only fields that a row and a record share
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
        transition = resume_if_met(tx, rows, transition)
        is_resumed = transition.to is State.ENQUEUED
    is_calming = lets_run(row, transition)
    _write(tx, row, transition, is_resumed=is_resumed)
    if key is not None:
        take_again(tx, row, key)
    if is_calming:
        around.calm(tx, row.id)
    if transition.to is State.AWAITING and transition.parents:
        wait_for(tx, rows, transition)
    return Applied.APPLIED


def _is_allowed(tx: Transaction, row: JobRow, transition: Transition, around: BatchesAround) -> bool:
    """Return whether the job's relations and memos allow the change; delete the memos that it discards."""
    if transition.to is State.AWAITING or is_forbidden(tx, row, transition, around):
        return False
    if transition.forget_from is not None:
        since = read_memo(tx, row.id, *transition.forget_from)
        if since is None or row.state is State.PROCESSING:
            return False
        forget_memos(tx, row, since)
    return True


def _write(tx: Transaction, row: JobRow, transition: Transition, *, is_resumed: bool) -> None:
    """Change the row according to the transition."""
    job = cast("JobRecord", row)
    if _is_due_sooner(row, transition):
        tx.woken.add(ANY_QUEUE)  # wakes servers that sleep until the next due time; see life.py in the kit
    entry = None if transition.is_silent else entry_line(rules.entry_of(transition, job))
    # If this is false, the job does not enter a queue. In that case, do not read the clock, because that
    # might take a round trip.
    is_timed = transition.to is State.ENQUEUED and not transition.gives_back
    was_held = row.session is not None
    if transition.session is None and row.session is not None and row.state is State.PROCESSING:
        tx.woken.add(taken_from(row.session))
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
    row.notify_if_claimable(tx)
    if was_held or transition.to in FINAL_STATES:
        _note_freed_key(tx, row)


def _note_freed_key(tx: Transaction, row: JobRow) -> None:
    """Record that the job has freed its limit keys, if it no longer holds them."""
    if row.lane is not None and row.session is None:
        tx.freed_keys.append((row.seq, row.queue, row.lane))


def _keep_error(tx: Transaction, row: JobRow, transition: Transition) -> dict[str, object]:
    """Store the error of the failed attempt; return the job's columns that describe it."""
    error = transition.error
    assert error is not None  # noqa: S101 - the caller has checked it
    shown = {"type": error.type, "message": error.message, "fingerprint": error.fingerprint}
    kept = {"job_id": row.id, "attempt": transition.attempt or row.attempt, "at": transition.at}
    tx.run(_KEEP_ERROR, **kept, **shown, traceback=error.traceback)
    if (last := tx.one(_NEWEST_TO_DROP, id=row.id)) is not None:
        tx.run(_DROP_OLD_ERRORS, id=row.id, last=last[0])
    return {f"error_{name}": value for name, value in shown.items()}


def _is_due_sooner(row: JobRow, transition: Transition) -> bool:
    """Return whether an operator's change makes the job due earlier than before."""
    if transition.session is not None or transition.due_at is None:
        return False
    return row.due_at is None or transition.due_at < row.due_at


def _judge_refusal(tx: Transaction, row: JobRow, transition: Transition) -> Applied:
    """Return ALREADY for a repeated transition, otherwise REFUSED.

    Clear the tail of the job if the transition is a late end from the session that holds the tail.
    """
    if transition.session is None or row.fence != transition.fence:
        return Applied.REFUSED
    if row.session is None:
        return Applied.ALREADY if row.state == transition.to else Applied.REFUSED
    if row.session == transition.session and row.state != State.PROCESSING:
        clear_tail(tx, row)
    return Applied.REFUSED


def clear_tail(tx: Transaction, row: JobRow) -> None:
    """Clear the tail of a job whose previous run has stopped; a requeued job becomes claimable."""
    row.change({"session": None})
    row.notify_if_claimable(tx)
    _note_freed_key(tx, row)


def return_to_queue(tx: Transaction, row: JobRow, *, crash: str | None) -> None:
    """Return a dead session's job to its place in the queue; count a crash if a reason is given."""
    if crash is not None:
        row.note(State.ENQUEUED, tx.now, crash, of_attempt=True)
    row.move(
        tx, State.ENQUEUED, reason=crash or Moved.NOT_STARTED.value, changed_at=tx.now, session=None,
        attempt=row.attempt - 1, crashes=row.crashes + (crash is not None),
    )  # fmt: skip
    row.notify_if_claimable(tx)
    _note_freed_key(tx, row)
