"""What a transition does to a job's row: pure decisions, no statement."""

from __future__ import annotations

import attrs

from firelock.storage import FINAL_STATES, Applied, HistoryEntry, State, Transition, Upkeep
from firelock_sql.database import ANY_QUEUE, Transaction
from firelock_sql.rows import JobRow

__all__ = ["change", "clear_tail", "delete_waiting", "enqueue", "kept_until", "take_back"]


def change(tx: Transaction, row: JobRow, transition: Transition) -> Applied:
    """The transition is in the row if its guards hold; return what became of it, children aside."""
    if row.state not in transition.from_states or not _is_holder(row, transition):
        return _refused(tx, row, transition)
    to = transition.to
    is_final, is_success = to in FINAL_STATES, to is State.SUCCEEDED
    if _is_due_sooner(row, transition):
        tx.woken.add(ANY_QUEUE)  # who sleeps until the next due instant; see the kit's life.py
    entry = None if transition.is_silent else _entry(row, transition)
    row.move(tx, to.value)
    row.reason = transition.reason
    row.changed_at = transition.at
    row.ended_at = transition.at if is_final else None
    row.expires_at = transition.expires_at if is_final else None
    row.due_at = transition.due_at
    row.result = transition.result if is_success else None
    row.result_absent = transition.result_absent if is_success else None
    _write_what_is_given(row, transition)
    if transition.session is not None:
        row.session = None
    if transition.gives_back:
        row.attempt -= 1
    elif to is State.ENQUEUED:
        row.enqueued_at = tx.now
    if entry is not None:
        row.note(entry)
    _tell_if_claimable(tx, row)
    return Applied.APPLIED


def _write_what_is_given(row: JobRow, transition: Transition) -> None:
    if transition.retries is not None:
        row.retries = transition.retries
    if transition.crashes is not None:
        row.crashes = transition.crashes
    if transition.started_at is not None:
        row.started_at = transition.started_at
    if transition.server is not None:
        row.server = transition.server
    if (error := transition.error) is not None:
        row.error_type, row.error_message = error.type, error.message
        row.error_fingerprint = error.fingerprint


def _is_holder(row: JobRow, transition: Transition) -> bool:
    return transition.session is None or (row.session == transition.session and row.fence == transition.fence)


def _is_due_sooner(row: JobRow, transition: Transition) -> bool:
    """Tell whether somebody moved a scheduled job to an earlier instant, or restored one."""
    if transition.session is not None or transition.due_at is None:
        return False
    return row.due_at is None or transition.due_at < row.due_at


def _entry(row: JobRow, transition: Transition) -> HistoryEntry:
    """Return the history's entry; an operator's says what it ended."""
    entry = transition.entry()
    if transition.session is not None:
        return entry
    if row.state == State.PROCESSING:
        return attrs.evolve(
            entry,
            attempt=row.attempt,
            claimed_at=row.claimed_at,
            started_at=row.started_at,
            server=row.server,
        )
    return attrs.evolve(entry, due_at=row.due_at) if row.state == State.SCHEDULED else entry


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
    row.session = None
    row.is_changed = True
    _tell_if_claimable(tx, row)


def take_back(tx: Transaction, row: JobRow, *, crash: str | None) -> None:
    """The dead session's job is at its old place, with a crash where a reason is given."""
    if crash is not None:
        row.note(
            HistoryEntry(
                State.ENQUEUED, tx.now, crash, row.attempt, row.claimed_at, row.started_at, row.server
            )
        )
        row.crashes += 1
    row.move(tx, State.ENQUEUED.value)
    row.reason = crash or Upkeep.NOT_STARTED.value
    row.changed_at = tx.now
    row.session = None
    row.attempt -= 1
    _tell_if_claimable(tx, row)


def enqueue(tx: Transaction, row: JobRow, reason: str) -> None:
    """The storage itself moved the job to its queue: it was due, or its last parent has ended."""
    row.move(tx, State.ENQUEUED.value)
    row.reason, row.changed_at, row.enqueued_at, row.due_at = reason, tx.now, tx.now, None
    row.note(HistoryEntry(State.ENQUEUED, tx.now, reason))
    _tell_if_claimable(tx, row)


def delete_waiting(tx: Transaction, row: JobRow, parent: JobRow, reason: str) -> None:
    """The waiting job is deleted, and kept as long after its end as its parent after its own."""
    row.move(tx, State.DELETED.value)
    row.reason, row.changed_at, row.ended_at = reason, tx.now, tx.now
    row.expires_at = kept_until(tx.now, parent.ended_at, parent.expires_at)
    row.note(HistoryEntry(State.DELETED, tx.now, reason))


def kept_until(at: int, ended_at: int | None, expires_at: int | None) -> int | None:
    """Return when a child that ends at `at` may be pruned, from its parent's end and expiry."""
    return None if ended_at is None or expires_at is None else at + expires_at - ended_at
