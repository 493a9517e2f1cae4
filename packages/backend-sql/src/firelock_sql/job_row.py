"""A job's row under change: read in one statement, changed in memory, written back in one.

Between reading and writing nobody comes between, since the transaction holds the rows (on SQLite the
database). Rows are locked in the order of their ids: two batches that meet wait for each other, they never
stand in each other's way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import attrs
from sqlalchemy import bindparam, select, update

from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Applied,
    HistoryEntry,
    JobRecord,
    State,
    Transition,
    Upkeep,
    rules,
)
from firelock_sql.history import COMPACT_FROM, compacted, entry_line, read_state
from firelock_sql.statements import Statement, Text, among
from firelock_sql.tables import ZERO, by_id, jobs
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "JobRow",
    "change",
    "clear_tail",
    "compact",
    "delete_waiting",
    "enqueue",
    "kept_until",
    "load_rows",
    "save_rows",
    "take_back",
]


@attrs.define(eq=False)
class JobRow:
    """What changes of a job, as it is in this transaction."""

    seq: int
    id: str
    queue: str
    created_at: int
    is_parent: int
    history_lines: int
    is_plain_end: int
    state: State
    reason: str | None
    changed_at: int
    enqueued_at: int | None
    attempt: int
    retries: int
    crashes: int
    fence: int
    session: str | None
    server: str | None
    claimed_at: int | None
    started_at: int | None
    due_at: int | None
    ended_at: int | None
    expires_at: int | None
    result: str | None
    result_absent: str | None
    error_type: str | None
    error_message: str | None
    error_fingerprint: str | None
    added: list[str] = attrs.field(factory=list)  # lines of history not written yet
    is_changed: bool = False

    def __attrs_post_init__(self) -> None:
        self.state = read_state(self.state)
        if self.is_plain_end:  # what the columns say now is history with the next change
            self.note(
                HistoryEntry(
                    self.state,
                    self.changed_at,
                    None,
                    self.attempt,
                    self.claimed_at,
                    self.started_at,
                    self.server,
                )
            )

    def move(self, tx: Transaction, to: State) -> None:
        """The job is in that state, and the counts will say so."""
        if to is not self.state:
            tx.moved(self.queue, self.state.value, to.value)
        self.state = to
        self.is_changed = True

    def note(self, entry: HistoryEntry) -> None:
        """The history has one entry more."""
        self.added.append(entry_line(entry))


_READ = tuple(
    jobs.c[field.name] for field in attrs.fields(JobRow) if field.name not in {"added", "is_changed"}
)
_FIRST_WRITTEN = 7  # the columns before it are not written by name
_WRITTEN = _READ[_FIRST_WRITTEN:]

_LOAD = Statement(
    by_id(select(*_READ)).where(among(jobs.c.id, "ids")).order_by(jobs.c.id).with_for_update(key_share=True)
)
_SAVE = Statement(
    update(jobs)
    .where(jobs.c.seq == bindparam("row_seq"))
    .ordered_values(
        *((column, bindparam(f"new_{column.name}")) for column in _WRITTEN),
        (jobs.c.history, jobs.c.history + bindparam("new_lines")),
        (jobs.c.history_lines, jobs.c.history_lines + bindparam("new_count")),
        (jobs.c.is_plain_end, ZERO),
    )
)
_HISTORY = Text("SELECT creation, history FROM firelock_jobs WHERE seq = :seq")
_REWRITE = Text("UPDATE firelock_jobs SET history = :history, history_lines = :number WHERE seq = :seq")


def load_rows(tx: Transaction, database: Database, ids: Sequence[str]) -> dict[str, JobRow]:
    """Return the jobs that are stored, by id; locked in order of id where a database locks rows."""
    found: Iterable[Any] = tx.all(_LOAD, {"ids": database.among(ids)})
    return {row[1]: JobRow(*row) for row in found}


def save_rows(tx: Transaction, rows: Iterable[JobRow]) -> None:
    """The rows that changed are written."""
    changed = [row for row in rows if row.is_changed]
    if not changed:
        return
    text = _SAVE.text(tx.dialect, *_SAVE_ORDER)
    tx.cursor.executemany(text, [_saved(row) for row in changed])
    for row in changed:
        row.is_changed = False
        row.history_lines += len(row.added)
        row.added.clear()
        if row.history_lines >= COMPACT_FROM:
            compact(tx, row)


_SAVE_ORDER = (*(f"new_{column.name}" for column in _WRITTEN), "new_lines", "new_count", "row_seq")


def _saved(row: JobRow) -> tuple[str | int | float | None, ...]:
    return (
        row.state.value, row.reason, row.changed_at, row.enqueued_at, row.attempt, row.retries, row.crashes,
        row.fence, row.session, row.server, row.claimed_at, row.started_at, row.due_at, row.ended_at,
        row.expires_at, row.result, row.result_absent, row.error_type, row.error_message,
        row.error_fingerprint, "".join(row.added), len(row.added), row.seq,
    )  # fmt: skip


def compact(tx: Transaction, row: JobRow) -> None:
    """The job's history is stored without its middle; what is read from it stays the same."""
    found: Any = tx.one(_HISTORY, {"seq": row.seq})
    creation, lines = found
    history = compacted(row.created_at, creation, lines)
    row.history_lines = history.count("\n")
    tx.run(_REWRITE, {"seq": row.seq, "history": history, "number": row.history_lines})


def change(tx: Transaction, row: JobRow, transition: Transition) -> Applied:
    """The transition is in the row if its guards hold; return what became of it, children aside."""
    if row.state not in transition.from_states or not _is_holder(row, transition):
        return _refused(tx, row, transition)
    to = transition.to
    is_final, is_success = to in FINAL_STATES, to is State.SUCCEEDED
    if _is_due_sooner(row, transition):
        tx.woken.add(ANY_QUEUE)  # who sleeps until the next due instant; see the kit's life.py
    entry = None if transition.is_silent else rules.entry_of(transition, cast("JobRecord", row))
    row.move(tx, to)
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
    row.move(tx, State.ENQUEUED)
    row.reason = crash or Upkeep.NOT_STARTED.value
    row.changed_at = tx.now
    row.session = None
    row.attempt -= 1
    _tell_if_claimable(tx, row)


def enqueue(tx: Transaction, row: JobRow, reason: str) -> None:
    """The storage itself moved the job to its queue: it was due, or its last parent has ended."""
    row.move(tx, State.ENQUEUED)
    row.reason, row.changed_at, row.enqueued_at, row.due_at = reason, tx.now, tx.now, None
    row.note(HistoryEntry(State.ENQUEUED, tx.now, reason))
    _tell_if_claimable(tx, row)


def delete_waiting(tx: Transaction, row: JobRow, parent: JobRow, reason: str) -> None:
    """The waiting job is deleted, and kept as long after its end as its parent after its own."""
    row.move(tx, State.DELETED)
    row.reason, row.changed_at, row.ended_at = reason, tx.now, tx.now
    row.expires_at = kept_until(tx.now, parent.ended_at, parent.expires_at)
    row.note(HistoryEntry(State.DELETED, tx.now, reason))


def kept_until(at: int, ended_at: int | None, expires_at: int | None) -> int | None:
    """Return when a child that ends at `at` may be pruned, from its parent's end and expiry."""
    return None if ended_at is None or expires_at is None else at + expires_at - ended_at
