"""Deltas of batches on MySQL and MariaDB: the server adds up the deltas; they are deleted by number.

The sum and the deletion must cover the same rows. The query without a lock reads a snapshot, but a later
DELETE also sees newer rows, even with lower numbers. So the query returns the numbers of the added rows as
bits, 60 per result row: 1,700 result rows for 100,000 rows of the table. If the rows with all numbers of a
range were added up, the whole range is deleted, because no row that is stored in the meantime can have a
number in this range.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from firelock.storage.batches import Share
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.batch_row import summed

if TYPE_CHECKING:
    from firelock_sql.mysql.pipeline import MultiStatementCursor

_WIDTH = 60  # numbers per result row, as bits of an integer that every driver can read
_ALL = (1 << _WIDTH) - 1
_TAKE = Text(f"""
SELECT seq DIV {_WIDTH} AS part, BIT_OR(1 << MOD(seq, {_WIDTH})),
    {", ".join(f"sum({name})" for name in Share._fields)}
FROM firelock_batch_deltas WHERE batch_id = :id GROUP BY part ORDER BY part
""")  # noqa: S608 - numbers and names
_DROP = Text("DELETE FROM firelock_batch_deltas WHERE seq IN :seqs")
# InnoDB also locks the row after a range, so that row must not be in use by another transaction.
_DROP_RUN = Text("""
DELETE firelock_batch_deltas FROM firelock_batch_deltas INDEXED BY seq WHERE seq >= :first AND seq < :last
""")


def take_deltas(tx: Transaction, id: str) -> Share:
    """Delete all deltas that have been committed; return their sum. The batch must be locked."""
    found = tx.all(_TAKE, id=id)
    runs, loose = _numbers((int(part), int(there)) for part, there, *_ in found)
    cursor = cast("MultiStatementCursor", tx.cursor)
    for first, last in runs:
        dropped = _DROP_RUN.compiled(tx.dialect)
        cursor.put(dropped.text, dropped.bind({"first": first, "last": last}))
        loose.append(last)
    if loose:
        tx.run(_DROP, seqs=loose)
    return summed(sums for _, _, *sums in found)


def _numbers(parts: Iterable[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the numbers as ranges without gaps (first and last number), and the remaining numbers."""
    runs: list[tuple[int, int]] = []
    loose: list[int] = []
    for part, there in parts:
        first = part * _WIDTH
        if there != _ALL:
            loose += [first + place for place in range(_WIDTH) if there >> place & 1]
        elif runs and runs[-1][1] == first - 1:
            runs[-1] = (runs[-1][0], first + _WIDTH - 1)
        else:
            runs.append((first, first + _WIDTH - 1))
    return runs, loose
