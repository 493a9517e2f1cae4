"""Deltas of batches on MySQL and MariaDB: a fold has them summed by the server, and deletes them by numbers.

Both have to be of one snapshot, which only a query without a lock is; a DELETE sees later rows than the query
before it, with lower numbers too. So the query tells which numbers it has summed, as bits, 60 to a row:
100,000 rows of the table are 1,700 of the answer. Where it has summed every number from one to another, these
are deleted by their range, whatever else is stored meanwhile: none of it can lie between.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from firelock.storage.batches import Share
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.batch_row import summed

if TYPE_CHECKING:
    from firelock_sql.mysql.pipeline import MultiStatementCursor

_WIDTH = 60  # numbers told by one row: bits of a number that every driver reads
_ALL = (1 << _WIDTH) - 1
_TAKE = Text(f"""
SELECT seq DIV {_WIDTH} AS part, BIT_OR(1 << MOD(seq, {_WIDTH})),
    {", ".join(f"sum({name})" for name in Share._fields)}
FROM firelock_batch_deltas WHERE batch_id = :id GROUP BY part ORDER BY part
""")  # noqa: S608 - numbers and names
_DROP = Text("DELETE FROM firelock_batch_deltas WHERE seq IN :seqs")
# InnoDB locks the row behind a range as well: it has to be one that nobody else has.
_DROP_RUN = Text("""
DELETE firelock_batch_deltas FROM firelock_batch_deltas INDEXED BY seq WHERE seq >= :first AND seq < :last
""")


def take_deltas(tx: Transaction, id: str) -> Share:
    """Return the sum of what is taken: all that was committed before this, behind the lock of the batch."""
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
    """Return the numbers that are told: first and last of some without a gap, and single ones."""
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
