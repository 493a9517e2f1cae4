"""`move`: changes the queue or the priority of waiting jobs."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from typing_extensions import override

from firelock.storage import Applied, HistoryEntry, Move, State, rules
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.job_row import COMPACT_FROM, compact_history, entry_line, read_state, relations_in

# Locks the rows in the order of their ids, like all other statements.
_LOOK = Text("""
SELECT id, seq, state, queue, priority, session, relations_json, created_at, history_lines
FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR NO KEY UPDATE
""")
_MOVE = Text("""
UPDATE firelock_jobs
SET queue = :queue, priority = :priority, history = history || :line, history_lines = history_lines + 1
WHERE seq = :seq
""")


@attrs.define(eq=False)
class _Row:
    id: str
    seq: int
    state: State = attrs.field(converter=read_state)
    queue: str
    priority: int
    session: str | None
    relations_json: str | None
    created_at: int
    history_lines: int

    @property
    def is_batch(self) -> bool:
        return self.relations_json is not None and relations_in(self.relations_json).batch is not None


class SqlMoveVerbs(SqlVerbs):
    """The verb that moves waiting jobs."""

    @override
    def move(self, moves: Sequence[Move]) -> list[Applied]:
        return self._database.write(lambda tx: _move_jobs(tx, moves)) if moves else []


def _move_jobs(tx: Transaction, moves: Sequence[Move]) -> list[Applied]:
    rows = {row[0]: _Row(*row) for row in tx.all(_LOOK, ids=[move.job_id for move in moves])}
    return [_move(tx, rows.get(move.job_id), move) for move in moves]


def _move(tx: Transaction, row: _Row | None, move: Move) -> Applied:
    if row is None:
        return Applied.MISSING
    if row.is_batch or row.state not in move.from_states:
        return Applied.REFUSED
    queue = row.queue if move.queue is None else move.queue
    priority = row.priority if move.priority is None else move.priority
    if (queue, priority) == (row.queue, row.priority):
        return Applied.ALREADY
    entry = HistoryEntry(row.state, move.at, rules.moved_reason(move, row.queue, row.priority))
    tx.run(_MOVE, seq=row.seq, queue=queue, priority=priority, line=entry_line(entry))
    tx.moved(row.queue, row.state.value, None)
    tx.moved(queue, None, row.state.value)
    if row.state is State.ENQUEUED and row.session is None:
        tx.woken.add(queue)
    row.queue, row.priority = queue, priority
    row.history_lines += 1
    if row.history_lines >= COMPACT_FROM:
        row.history_lines = compact_history(tx, row.seq, row.created_at)
    return Applied.APPLIED
