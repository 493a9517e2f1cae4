"""The memos of a job as rows. A transaction must lock the job before it changes memos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from firelock.storage import Memo, MemoKind
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import JobRow
from firelock_sql.rows.marks import HAS_MEMOS

_KEY = ("kind", "name")
_VALUES = ("value", "is_done", "at", "started_at", "attempt", "author", "place")
_FIELDS = (*_KEY, *_VALUES)
_COLUMNS = f"SELECT {', '.join(_FIELDS)} FROM firelock_memos WHERE job_id = :id"  # noqa: S608 - names
ALL_MEMOS = Text(f"{_COLUMNS} ORDER BY place")
_ONE = Text(f"{_COLUMNS} AND kind = :kind AND name = :name")
_SUM = Text("""
SELECT count(*), coalesce(sum(bytes), 0), coalesce(max(place), -1) FROM firelock_memos WHERE job_id = :id
""")
_PUT = insert_into("firelock_memos", "job_id", *_FIELDS, "bytes")
_REPLACE = Text(f"""
UPDATE firelock_memos SET {", ".join(f"{name} = :{name}" for name in _VALUES)}, bytes = :bytes
WHERE job_id = :job_id AND kind = :kind AND name = :name
""")  # noqa: S608 - names
_FORGET = Text("DELETE FROM firelock_memos WHERE job_id = :id AND place >= :place")
_MARK = Text(f"UPDATE firelock_jobs SET marks = marks | {HAS_MEMOS} WHERE seq = :seq")  # noqa: S608 - marks
_UNMARK = Text(f"UPDATE firelock_jobs SET marks = marks - {HAS_MEMOS} WHERE seq = :seq")  # noqa: S608 - marks


@attrs.frozen
class MemoTotal:
    """The total size of a job's memos."""

    count: int
    size: int  # the size of the values in bytes of UTF-8
    last: int  # the largest place of a memo; -1 if there are no memos


def memo_of(row: Sequence[Any]) -> Memo:
    """Return a row of `ALL_MEMOS` as a memo."""
    kind, name, value, is_done, *rest = row
    return Memo(MemoKind(kind), name, value, bool(is_done), *rest)


def read_memos(tx: Transaction, job_id: str) -> list[Memo]:
    """Return all memos of the job, in order of place."""
    return [memo_of(row) for row in tx.all(ALL_MEMOS, id=job_id)]


def read_memo(tx: Transaction, job_id: str, kind: str, name: str) -> Memo | None:
    """Return the memo of this kind and name."""
    of = {"id": job_id, "kind": str(kind), "name": name}
    found = tx.all_known(_ONE, **of)
    if len(found) and tx.newer is not None:
        # the memo exists, so this query does not lock a gap into which other transactions could insert rows
        found = tx.all_now(_ONE, **of)
    return memo_of(found[0]) if found else None


def memo_total(tx: Transaction, job_id: str) -> MemoTotal:
    """Return the number and size of the job's memos."""
    totals = [map(int, row) for row in tx.all_known(_SUM, id=job_id)]
    return MemoTotal(*map(max, zip(*totals, strict=True)))


def memo_size(memo: Memo | None) -> int:
    """Return the size of the memo's value in bytes of UTF-8."""
    return 0 if memo is None or memo.value is None else len(memo.value.encode(errors="surrogatepass"))


def put_memo(tx: Transaction, row: JobRow, memo: Memo, *, is_new: bool) -> None:
    """Store the memo at its place."""
    values = {name: getattr(memo, name) for name in _FIELDS}
    values |= {"kind": memo.kind.value, "is_done": int(memo.is_done), "bytes": memo_size(memo)}
    tx.run(_PUT if is_new else _REPLACE, job_id=row.id, **values)
    if not row.marks & HAS_MEMOS:
        tx.run(_MARK, seq=row.seq)
        row.marks |= HAS_MEMOS


def forget_memos(tx: Transaction, row: JobRow, since: Memo) -> None:
    """Delete this memo and all memos that were recorded after it."""
    tx.run(_FORGET, id=row.id, place=since.place)
    if row.marks & HAS_MEMOS and not memo_total(tx, row.id).count:
        tx.run(_UNMARK, seq=row.seq)
        row.marks -= HAS_MEMOS
