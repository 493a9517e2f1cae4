"""Memos: named values of a job, each stored once, and the resumption of jobs that wait for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from typing_extensions import override

from firelock.storage import (
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Applied,
    HistoryEntry,
    Memo,
    MemoKind,
    Moved,
    NewMemo,
    Remembered,
    State,
    memo_words,
)
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.job_row import (
    COMPACT_FROM,
    IS_HELD,
    JobRow,
    compact,
    entry_line,
    load_rows,
    save_rows,
    visible,
)
from firelock_sql.rows.memo_row import memo_size, memo_total, put_memo, read_memo, read_memos
from firelock_sql.verbs.children import decide_all_of, resume

# states in which jobs accept no signals from outside
_UNWATCHED = frozenset({State.SUCCEEDED, State.DELETED})
IS_KNOWN = Text("SELECT 1 FROM firelock_jobs WHERE id = :id")
HOLDS = Text(f"SELECT 1 FROM firelock_jobs WHERE {IS_HELD}")  # noqa: S608 - ours


class SqlMemoVerbs(SqlVerbs):
    """The verbs for memos."""

    @override
    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        if within is not None:
            return self._database.join(within, lambda tx: remember_memos(tx, memos))
        return self._database.write(lambda tx: remember_memos(tx, memos)) if memos else []

    @override
    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        def recall(tx: Transaction) -> list[Memo] | None:
            if session is None:
                found = tx.one(IS_KNOWN, id=job_id)
            else:
                found = tx.one(HOLDS, id=job_id, session=session, fence=fence)
            return None if found is None else read_memos(tx, job_id)

        return self._database.read(recall)


@attrs.frozen
class Wakening:
    """The resumption of a job that waits for a signal, when the signal is sent from outside the job.

    On the fast path of a database server, the round trip that stores the memo also resumes the job. If the
    job's history becomes long, a separate transaction rewrites it.
    """

    job_id: str
    name: str  # the name of the signal
    waits_for: str
    reason: str
    line_before: str  # the line of the history up to the time, which the storage inserts
    line_after: str


_INSTANT = 1_234_567_890_123_456  # a placeholder for the time that the storage inserts


def find_wakening(new: NewMemo) -> Wakening | None:
    """Return the resumption that this memo may cause; None if it is not a signal from outside the job."""
    memo = new.memo
    if new.session is not None or memo.kind is not MemoKind.SIGNAL or not memo.is_done:
        return None
    reason = Moved.SIGNALLED.format(name=memo.name)
    line = entry_line(HistoryEntry(State.ENQUEUED, _INSTANT, reason))
    before, _, after = line.partition(str(_INSTANT))
    words = memo_words(memo.kind, memo.name)
    return Wakening(new.job_id, memo.name, words, reason, before, after)


def compact_long(tx: Transaction, ids: Sequence[str]) -> None:
    """Remove the middle entries from the long histories of these jobs."""
    for row in load_rows(tx, ids).values():
        if row.history_lines >= COMPACT_FROM:
            compact(tx, row)


def remember_memos(tx: Transaction, memos: Sequence[NewMemo]) -> list[Remembered]:
    """See `Storage.remember`."""
    outside = visible(tx, {one.job_id for one in memos if one.session is None})
    rows = load_rows(tx, {*outside, *(one.job_id for one in memos if one.session is not None)})
    answers = [_remember(tx, rows, one) for one in memos]
    woken = [row for row in rows.values() if row.is_changed]
    save_rows(tx, woken)
    if woken:
        decide_all_of(tx, [row.id for row in woken])
    return answers


def _remember(tx: Transaction, rows: Mapping[str, JobRow], new: NewMemo) -> Remembered:
    row, memo = rows.get(new.job_id), new.memo
    if row is None:
        return Remembered(Applied.MISSING)
    stands = read_memo(tx, row.id, memo.kind, memo.name)
    is_there = stands is not None and attrs.evolve(stands, place=memo.place) == memo
    if not _may_remember(row, new) and not (new.session is None and is_there):
        return Remembered(Applied.REFUSED, stands)
    if stands is not None and (is_there or stands.is_done or not new.replaces):
        return Remembered(Applied.ALREADY if is_there else Applied.TAKEN, stands)
    total = memo_total(tx, row.id)
    size = total.size + memo_size(memo) - memo_size(stands)
    if total.count + (stands is None) > MEMOS_LIMIT or size > MEMOS_BYTES:
        return Remembered(Applied.REFUSED, stands)
    placed = attrs.evolve(memo, place=total.last + 1 if stands is None else stands.place)
    put_memo(tx, row, placed, is_new=stands is None)
    if memo.is_done and memo.kind is MemoKind.SIGNAL and _awaits(row, memo):
        resume(tx, row, Moved.SIGNALLED.format(name=memo.name))
    return Remembered(Applied.APPLIED, placed)


def _may_remember(row: JobRow, new: NewMemo) -> bool:
    if new.session is None:
        return row.state not in _UNWATCHED
    return row.state is State.PROCESSING and (row.session, row.fence) == (new.session, new.fence)


def _awaits(row: JobRow, memo: Memo) -> bool:
    return row.state is State.AWAITING and row.waits_for == memo_words(memo.kind, memo.name)
