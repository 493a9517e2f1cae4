"""The number of jobs per queue and state.

On SQLite, only one transaction writes at a time, and it changes a row of `counts` in place. On database
servers, transactions run concurrently, and such a row would serialize them. They would even wait for a
caller's own transaction until it ends. So each transaction inserts rows of differences instead, which upkeep
folds into `counts`. Within one snapshot, the sum of both tables is always correct.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from firelock_sql.connections.database import Database
from firelock_sql.connections.transaction import Text, Transaction, insert_into

_FOLDED_AT_ONCE = 5_000
_FOLDS_A_RUN = 4  # maximum number of folds per run; few, because due jobs wait until the run ends
_LONGEST_SECONDS = 0.25  # maximum duration of all folds of one run
FOLD_EVERY = 1_000  # after this number of inserts, a client folds some differences itself
_WORTH_FOLDING = 200
_LONG_SECONDS = 0.05
_REST = 20  # pause after a slow fold, as a multiple of its duration

_IN_PLACE = Text("SELECT queue, state, jobs FROM firelock_counts WHERE jobs <> 0")
_SUMMED = Text("""
SELECT queue, state, sum(jobs) FROM (
    SELECT queue, state, jobs FROM firelock_counts
    UNION ALL SELECT queue, state, jobs FROM firelock_count_deltas
) AS both_kinds GROUP BY queue, state HAVING sum(jobs) <> 0
""")
_QUEUES = Text("SELECT DISTINCT queue FROM firelock_counts ORDER BY queue")
_ALL_QUEUES = Text("""
SELECT queue FROM firelock_counts UNION SELECT queue FROM firelock_count_deltas ORDER BY queue
""")

_ADD = insert_into("firelock_count_deltas", "state", "queue", "jobs")
_NUMBER = Text("""
SELECT count(*), min(seq) FROM (SELECT seq FROM firelock_count_deltas WHERE seq > :after LIMIT :most) AS few
""")
_TAKE = Text("""
SELECT seq, state, queue, jobs FROM firelock_count_deltas
WHERE seq > :after ORDER BY seq LIMIT :most FOR UPDATE SKIP LOCKED
""")
_DROP = Text("DELETE FROM firelock_count_deltas WHERE seq IN :seqs")
_COUNT = Text("""
INSERT INTO firelock_counts (state, queue, jobs) VALUES (:state, :queue, :jobs)
ON CONFLICT (state, queue) DO UPDATE SET jobs = firelock_counts.jobs + excluded.jobs
""")
_IDLE = Text("""
SELECT queue FROM firelock_counts GROUP BY queue HAVING min(jobs) = 0 AND max(jobs) = 0
ORDER BY queue LIMIT :most
""")
# A concurrent fold either adds to a row before this statement checks the row, or waits for this statement and
# inserts a new row after it.
_FORGET = Text("DELETE FROM firelock_counts WHERE jobs = 0 AND queue IN :ids")


def counted(tx: Transaction) -> Sequence[tuple[Any, ...]]:
    """Return rows of queue, state and number of jobs, where the number is not 0."""
    rows = tx.all(_SUMMED if tx.adds_deltas else _IN_PLACE)
    return [(queue, state, int(number)) for queue, state, number in rows]


def known_queues(tx: Transaction) -> list[str]:
    """Return every queue that has or has had jobs."""
    return [str(row[0]) for row in tx.all(_ALL_QUEUES if tx.adds_deltas else _QUEUES)]


def idle_queues(tx: Transaction, limit: int) -> list[str]:
    """Return queues that have had jobs but have none now."""
    return [str(row[0]) for row in tx.all(_IDLE, most=limit)]


def forget_queues(tx: Transaction, queues: Sequence[str]) -> None:
    """Delete the counts of these queues, except those that have jobs again."""
    tx.run(_FORGET, ids=list(queues))


def add_deltas(tx: Transaction) -> None:
    """Insert the transaction's changes to the counts as rows of differences."""
    rows = [
        {"state": state, "queue": queue, "jobs": number}
        for (state, queue), number in tx.deltas.items()
        if number
    ]
    tx.deltas.clear()
    tx.run_many(_ADD, rows)


class Folding:
    """The state of a process that folds differences into the counts, including where its next run begins.

    While a snapshot is open, folded rows stay in the table, and a read from its beginning reads all of them.
    For some time after a slow read, the following reads begin after the last folded row. A row that a long
    transaction inserts before that position is folded later, but is always included in the sum.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0
        self._next_full_at = clock()

    def run(self, database: Database, folds: int = _FOLDS_A_RUN) -> None:
        """Fold differences until only a few are left or the run has reached one of its limits.

        Args:
            database: the database with the differences.
            folds: the maximum number of transactions, each of which folds some thousands of rows.
        """
        begun_at = self._clock()
        is_full = begun_at >= self._next_full_at
        after = 0 if is_full else self._last
        for _ in range(folds):
            number, first = database.read(lambda tx: _some_after(tx, after))
            if number < _WORTH_FOLDING:
                self._last = max(self._last, first - 1)
                break
            last = database.write(lambda tx: _fold(tx, after))
            if not last:  # a concurrent fold has taken these rows
                break
            self._last = max(self._last, last)
            if self._clock() - begun_at > _LONGEST_SECONDS:
                break
        took = self._clock() - begun_at
        if is_full and took > _LONG_SECONDS:
            self._next_full_at = begun_at + took * _REST


def _some_after(tx: Transaction, after: int) -> tuple[int, int]:
    """Count differences, up to `_WORTH_FOLDING`; return the count, and the number of the first row or 0."""
    number, first = tx.one(_NUMBER, after=after, most=_WORTH_FOLDING)
    return int(number), int(first or 0)


def _fold(tx: Transaction, after: int) -> int:
    """Fold some differences; return the number of the last row, or 0 if all rows are locked by others."""
    rows = tx.all(_TAKE, after=after, most=_FOLDED_AT_ONCE)
    more: Counter[tuple[str, str]] = Counter()
    for _, state, queue, jobs in rows:
        more[state, queue] += jobs
    counts = sorted((key, number) for key, number in more.items() if number)
    tx.run_many(_COUNT, [{"state": state, "queue": queue, "jobs": jobs} for (state, queue), jobs in counts])
    if rows:
        tx.run(_DROP, seqs=[row[0] for row in rows])
    return int(rows[-1][0]) if rows else 0
