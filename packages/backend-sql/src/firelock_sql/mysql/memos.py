"""Memos on MySQL and MariaDB: runs remember some, or recall all, in one round trip.

Whether a memo may be put is said within the statement that puts it, since nobody answers before the commit.
Who writes memos of a job has locked its row; so what the statements behind that find is what there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from firelock.storage import MEMOS_BYTES, MEMOS_LIMIT, Applied, Memo, NewMemo, Remembered, State
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.mysql.pipeline import Answer, TogetherCursor
from firelock_sql.rows.memo_row import ALL_MEMOS, memo_of, memo_size
from firelock_sql.schema.tables import HAS_MEMOS
from firelock_sql.verbs.memos import HOLDS, IS_KNOWN

_LOCK = Text("""
SELECT id, state, session, fence FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR UPDATE
""")
_THIS = "job_id = :job AND kind = :kind AND name = :name"
_STANDS = Text(f"""
SELECT value, is_done, at, started_at, attempt, author, place FROM firelock_memos WHERE {_THIS}
""")  # noqa: S608 - a condition of ours
_SUM_UP = Text("""
SELECT count(*), COALESCE(max(place), -1) + 1, COALESCE(sum(bytes), 0) FROM firelock_memos
WHERE job_id = :job AND NOT (kind = :kind AND name = :name) INTO @number, @place, @size
""")
_SUMMED = "SELECT @place"
_IS_HELD = "id = :job AND state = 'processing' AND session = :session AND fence = :fence"
_REPLACED = ("value", "at", "started_at", "attempt", "author", "bytes", "is_done")  # the last one decides


def _unless_it_stands(column: str) -> str:
    stored = f"firelock_memos.{column}"
    return f"{stored} = IF(firelock_memos.is_done = 1 OR :stands = 1, {stored}, VALUES({column}))"


_PUT = Text(f"""
INSERT INTO firelock_memos
    (job_id, kind, name, place, value, at, started_at, attempt, author, bytes, is_done)
SELECT job.id, :kind, :name, @place, :value, :at, :started_at, :attempt, :author, :bytes, :is_done
FROM (
    SELECT id FROM firelock_jobs INDEXED BY id
    WHERE {_IS_HELD} AND @number < {MEMOS_LIMIT} AND @size + :bytes <= {MEMOS_BYTES}
) AS job
ON DUPLICATE KEY UPDATE {", ".join(map(_unless_it_stands, _REPLACED))}
""")  # noqa: S608 - names of columns, and numbers
_MARK = Text(f"""
UPDATE firelock_jobs SET marks = marks | {HAS_MEMOS} WHERE {_IS_HELD} AND marks & {HAS_MEMOS} = 0
""")  # noqa: S608 - a number, and a condition of ours


@attrs.frozen
class _Put:
    """A memo on its way, and what will be known of it."""

    new: NewMemo
    stood: Answer
    place: Answer
    put: Answer


def can_remember_at_once(memos: Sequence[NewMemo]) -> bool:
    """Tell whether all come from runs, and each has a name of its own: nobody is woken by them."""
    names = {(new.job_id, new.memo.kind, new.memo.name) for new in memos}
    return len(names) == len(memos) and all(new.session is not None for new in memos)


def remember_at_once(tx: Transaction, cursor: TogetherCursor, memos: Sequence[NewMemo]) -> list[Remembered]:
    """Return what became of the memos of runs; the transaction is committed."""

    def put(statement: Text, **parameters: object) -> Answer:
        compiled = statement.compiled(tx.dialect)
        return cursor.put(compiled.text, compiled.bind(parameters))[0]

    tx.may_repeat = True  # what was remembered stands, and says so
    locked = put(_LOCK, ids=sorted({new.job_id for new in memos}))
    puts: list[_Put] = []
    for new in memos:
        of: dict[str, Any] = {"job": new.job_id, "kind": new.memo.kind.value, "name": new.memo.name}
        holder = {"session": new.session, "fence": new.fence}
        stood = put(_STANDS, **of)
        put(_SUM_UP, **of)
        place = cursor.put(_SUMMED)[0]
        puts.append(_Put(new, stood, place, put(_PUT, **of, **holder, **_values(new))))
        put(_MARK, job=new.job_id, **holder)
    cursor.put("COMMIT")
    cursor.send()
    tx.is_ended = True
    holders = {str(id): held for id, *held in locked.rows}
    return [_answer(one, holders.get(one.new.job_id)) for one in puts]


def recall_at_once(
    tx: Transaction, cursor: TogetherCursor, job_id: str, session: str | None, fence: int | None
) -> list[Memo] | None:
    """Return what the job remembers, of one snapshot; the transaction is over. None: see `Storage.recall`."""
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
    if tuple(held) != (State.PROCESSING.value, new.session, new.fence):
        return Remembered(Applied.REFUSED, stands)
    if stands is not None and attrs.evolve(stands, place=memo.place) == memo:
        return Remembered(Applied.ALREADY, stands)
    if stands is not None and (stands.is_done or not new.replaces):
        return Remembered(Applied.TAKEN, stands)
    if one.put.rowcount < 1:
        return Remembered(Applied.REFUSED, stands)
    place: Any = one.place.rows[0][0] if stands is None else stands.place
    return Remembered(Applied.APPLIED, attrs.evolve(memo, place=int(place)))
