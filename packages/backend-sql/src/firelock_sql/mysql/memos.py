"""Memos on MySQL and MariaDB: one round trip stores several memos, or reads all memos of a job.

A job that waits for one of the stored memos is resumed in the same round trip. No reply is read before the
commit, so each statement that stores a memo contains the conditions for storing it. Transactions that write
memos lock the row of the job first, so the statements after the lock see the latest memos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from firelock.storage import MEMOS_BYTES, MEMOS_LIMIT, Applied, Memo, NewMemo, Remembered, State
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.mysql.connect import CLOCK
from firelock_sql.mysql.pipeline import Answer, MultiStatementCursor
from firelock_sql.rows.job_row import COMPACT_FROM
from firelock_sql.rows.marks import HAS_MEMOS
from firelock_sql.rows.memo_row import ALL_MEMOS, memo_of, memo_size
from firelock_sql.verbs.memos import HOLDS, IS_KNOWN, Wakening, find_wakening

_LOCK = Text("""
SELECT id, queue, history_lines, state, session, fence FROM firelock_jobs INDEXED BY id WHERE id IN :ids
ORDER BY id FOR UPDATE
""")
_THIS = "job_id = :job AND kind = :kind AND name = :name"
_STANDS = Text(f"""
SELECT value, is_done, at, started_at, attempt, author, place FROM firelock_memos WHERE {_THIS}
""")  # noqa: S608 - our own condition
_SUM_UP = Text(f"""
SELECT count(*), COALESCE(max(place), -1) + 1, COALESCE(sum(bytes), 0), {CLOCK} + :offset
FROM firelock_memos WHERE job_id = :job AND NOT (kind = :kind AND name = :name)
INTO @number, @place, @size, @now
""")  # noqa: S608 - the clock
_SUMMED = "SELECT @place"
_IS_HELD = "id = :job AND state = 'processing' AND session = :session AND fence = :fence"
_IS_TOLD = "id = :job AND state <> 'succeeded' AND state <> 'deleted'"  # accepts memos from outside the run
# `is_done` must be last, because the other assignments read its old value
_REPLACED = ("value", "at", "started_at", "attempt", "author", "bytes", "is_done")


def _unless_it_stands(column: str) -> str:
    stored = f"firelock_memos.{column}"
    return f"{stored} = IF(firelock_memos.is_done = 1 OR :stands = 1, {stored}, VALUES({column}))"


_PUT_WHERE = f"""
INSERT INTO firelock_memos
    (job_id, kind, name, place, value, at, started_at, attempt, author, bytes, is_done)
SELECT job.id, :kind, :name, @place, :value, :at, :started_at, :attempt, :author, :bytes, :is_done
FROM (
    SELECT id FROM firelock_jobs INDEXED BY id
    WHERE {{}} AND @number < {MEMOS_LIMIT} AND @size + :bytes <= {MEMOS_BYTES}
) AS job
ON DUPLICATE KEY UPDATE {", ".join(map(_unless_it_stands, _REPLACED))}
"""  # noqa: S608 - names of columns, and numbers
_PUT, _PUT_FROM_OUTSIDE = Text(_PUT_WHERE.format(_IS_HELD)), Text(_PUT_WHERE.format(_IS_TOLD))
_MARK_WHERE = f"UPDATE firelock_jobs SET marks = marks | {HAS_MEMOS} WHERE {{}} AND marks & {HAS_MEMOS} = 0"  # noqa: S608 - numbers
_MARK, _MARK_FROM_OUTSIDE = Text(_MARK_WHERE.format(_IS_HELD)), Text(_MARK_WHERE.format(_IS_TOLD))

# If a job waits for this memo, which now exists, one statement counts the job's change of state, and the next
# one enqueues it.
_WAITED = """job.id = :job_id AND job.state = 'awaiting' AND job.waits_for = :waits_for AND EXISTS (
    SELECT 1 FROM firelock_memos WHERE job_id = :job_id AND kind = 'signal' AND name = :name AND is_done = 1
)"""
_COUNT = Text(f"""
INSERT INTO firelock_count_deltas (state, queue, jobs)
SELECT moved.state, job.queue, moved.jobs
FROM firelock_jobs AS job INDEXED BY id,
    (SELECT 'awaiting' AS state, -1 AS jobs UNION ALL SELECT 'enqueued', 1) AS moved
WHERE {_WAITED}
""")  # noqa: S608 - our own condition
_WAKE = Text(f"""
UPDATE firelock_jobs AS job INDEXED BY id
    LEFT JOIN firelock_edges AS edge ON edge.child_id = job.id AND edge.is_decided = 0
SET job.state = 'enqueued', job.reason = :reason, job.changed_at = @now, job.enqueued_at = @now,
    job.due_at = NULL, job.waits_for = NULL,
    job.history = CONCAT(job.history, :line_before, @now, :line_after),
    job.history_lines = job.history_lines + 1, edge.is_decided = 1
WHERE {_WAITED}
""")  # noqa: S608 - our own condition
_UNWATCHED = frozenset({State.SUCCEEDED.value, State.DELETED.value})


@attrs.frozen
class _Put:
    """A memo that is being stored, with the replies to its statements."""

    new: NewMemo
    stood: Answer
    place: Answer
    put: Answer


def can_remember_in_one_round_trip(memos: Sequence[NewMemo]) -> bool:
    """Return whether all memos have different names."""
    return len({(new.job_id, new.memo.kind, new.memo.name) for new in memos}) == len(memos)


def remember_in_one_round_trip(
    tx: Transaction, cursor: MultiStatementCursor, memos: Sequence[NewMemo], offset: int, long: list[str]
) -> list[Remembered]:
    """Store the memos and commit; return the result of each.

    Args:
        tx: the transaction.
        cursor: its cursor.
        memos: the memos, which must have different names.
        offset: microseconds added to the server's clock.
        long: receives the ids of resumed jobs with a long history.
    """

    def put(statement: Text, **parameters: object) -> Answer:
        compiled = statement.compiled(tx.dialect)
        return cursor.put(compiled.text, compiled.bind(parameters))[0]

    tx.may_repeat = True  # repeating the transaction is harmless, because a stored memo is found and reported
    locked = put(_LOCK, ids=sorted({new.job_id for new in memos}))
    puts: list[_Put] = []
    for new in memos:
        of: dict[str, Any] = {"job": new.job_id, "kind": new.memo.kind.value, "name": new.memo.name}
        holder = {"session": new.session, "fence": new.fence}
        stood = put(_STANDS, **of)
        put(_SUM_UP, **of, offset=offset)
        place = cursor.put(_SUMMED)[0]
        is_outside = new.session is None
        to_put, to_mark = (_PUT_FROM_OUTSIDE, _MARK_FROM_OUTSIDE) if is_outside else (_PUT, _MARK)
        puts.append(_Put(new, stood, place, put(to_put, **of, **holder, **_values(new))))
        put(to_mark, job=new.job_id, **holder)
    wakenings = [(one.job_id, _put_wakening(put, one)) for one in map(find_wakening, memos) if one]
    cursor.put("COMMIT")
    cursor.send()
    tx.is_ended = True
    woken = {job_id for job_id, answer in wakenings if answer.rowcount > 0}
    rows: Sequence[Any] = locked.rows
    for job_id, queue, lines, *_ in rows:
        if job_id in woken:
            tx.woken.add(queue)
            long += [job_id] if lines + 1 >= COMPACT_FROM else []
    holders = {str(job_id): held for job_id, _, _, *held in rows}
    return [_answer(one, holders.get(one.new.job_id)) for one in puts]


def _put_wakening(put: Callable[..., Answer], one: Wakening) -> Answer:
    """Add the statements that enqueue a waiting job; return the future reply.

    Its row count shows whether the job was waiting.
    """
    values = attrs.asdict(one)
    put(_COUNT, **values)
    return put(_WAKE, **values)


def recall_in_one_round_trip(
    tx: Transaction, cursor: MultiStatementCursor, job_id: str, session: str | None, fence: int | None
) -> list[Memo] | None:
    """Return the memos of the job from one snapshot, and commit; return None as `Storage.recall` does."""
    held: tuple[Text, dict[str, object]] = (IS_KNOWN, {"id": job_id})
    if session is not None:
        held = (HOLDS, {"id": job_id, "session": session, "fence": fence})
    asked: list[tuple[str, Any]] = []
    for statement, parameters in (held, (ALL_MEMOS, {"id": job_id})):
        compiled = statement.compiled(tx.dialect)
        asked.append((compiled.text, compiled.bind(parameters)))
    is_held, memos, _ = cursor.each([*asked, ("COMMIT", ())])
    tx.is_ended = True
    return [memo_of(row) for row in memos] if is_held else None


def _values(new: NewMemo) -> dict[str, object]:
    memo = new.memo
    return {
        "value": memo.value, "at": memo.at, "started_at": memo.started_at, "attempt": memo.attempt,
        "author": memo.author, "bytes": memo_size(memo), "is_done": int(memo.is_done),
        "stands": int(not new.replaces),
    }  # fmt: skip


def _answer(one: _Put, held: Sequence[Any] | None) -> Remembered:
    new, memo = one.new, one.new.memo
    if held is None:
        return Remembered(Applied.MISSING)
    stands = None
    for value, is_done, *others in one.stood.rows:
        stands = Memo(memo.kind, memo.name, value, bool(is_done), *others)  # type: ignore[arg-type]
    is_there = stands is not None and attrs.evolve(stands, place=memo.place) == memo
    if new.session is None:
        may_remember = held[0] not in _UNWATCHED or is_there
    else:
        may_remember = tuple(held) == (State.PROCESSING.value, new.session, new.fence)
    if not may_remember:
        return Remembered(Applied.REFUSED, stands)
    if is_there:
        return Remembered(Applied.ALREADY, stands)
    if stands is not None and (stands.is_done or not new.replaces):
        return Remembered(Applied.TAKEN, stands)
    if one.put.rowcount < 1:
        return Remembered(Applied.REFUSED, stands)
    place: Any = one.place.rows[0][0] if stands is None else stands.place
    return Remembered(Applied.APPLIED, attrs.evolve(memo, place=int(place)))
