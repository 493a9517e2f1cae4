"""Working copies of jobs: read in one statement, changed in memory, written back in one.

Between reading and writing nobody comes between, since the transaction holds the rows (on SQLite the
database). Rows are locked in the order of their ids: two batches that meet wait for each other, they never
stand in each other's way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from sqlalchemy import bindparam, select, update

from firelock.storage import HistoryEntry, State
from firelock_sql.database import Database, Transaction
from firelock_sql.statements import Statement, among
from firelock_sql.tables import ZERO, by_id, jobs
from firelock_sql.text import COMPACT_FROM, STATES, compacted, entry_line, read_state

__all__ = ["JobRow", "compact", "load_rows", "save_rows"]


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
    state: str
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
        if self.state not in STATES:
            self.state = read_state(self.state).value
        if self.is_plain_end:  # what the columns say now is history with the next change
            self.note(
                HistoryEntry(
                    self.state_value,
                    self.changed_at,
                    None,
                    self.attempt,
                    self.claimed_at,
                    self.started_at,
                    self.server,
                )
            )

    @property
    def state_value(self) -> State:
        """Return the state as the enumeration's member."""
        return STATES[self.state]

    def move(self, tx: Transaction, to: str) -> None:
        """The job is in that state, and the counts will say so."""
        if to != self.state:
            tx.moved(self.queue, self.state, to)
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
_HISTORY = Statement(select(jobs.c.creation, jobs.c.history).where(jobs.c.seq == bindparam("row_seq")))
_REWRITE = Statement(
    update(jobs)
    .where(jobs.c.seq == bindparam("row_seq"))
    .values(history=bindparam("new_history"), history_lines=bindparam("new_count"))
)


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
        row.state, row.reason, row.changed_at, row.enqueued_at, row.attempt, row.retries, row.crashes,
        row.fence, row.session, row.server, row.claimed_at, row.started_at, row.due_at, row.ended_at,
        row.expires_at, row.result, row.result_absent, row.error_type, row.error_message,
        row.error_fingerprint, "".join(row.added), len(row.added), row.seq,
    )  # fmt: skip


def compact(tx: Transaction, row: JobRow) -> None:
    """The job's history is stored without its middle; what is read from it stays the same."""
    found: Any = tx.one(_HISTORY, {"row_seq": row.seq})
    creation, lines = found
    history = compacted(row.created_at, creation, lines)
    row.history_lines = history.count("\n")
    tx.run(_REWRITE, {"row_seq": row.seq, "new_history": history, "new_count": row.history_lines})
