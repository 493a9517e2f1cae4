"""How many jobs of each queue are in each state.

SQLite, where one transaction writes at a time, changes a row of `counts` in place. Where transactions run
side by side such a row would line them up, behind a caller's own transaction for as long as that stays open:
each adds rows of differences instead, which upkeep folds into `counts`. The sum of both in one snapshot is
right at any instant.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from firelock_sql.connections.database import Database
from firelock_sql.connections.transaction import Text, Transaction, insert_into

_FOLDED_AT_ONCE = 5_000
_FOLDS_A_RUN = 4  # due jobs wait for the run
_LONGEST_SECONDS = 0.25  # of the folds of a run, where they take long
FOLD_EVERY = 1_000  # calls that add differences until their client folds some
_WORTH_FOLDING = 200
_LONG_SECONDS = 0.05
_REST = 20  # times as long as a long fold took

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
_COUNT = Text("UPDATE firelock_counts SET jobs = jobs + :more WHERE state = :state AND queue = :queue")
_FIRST = insert_into("firelock_counts", "state", "queue", "jobs")
_IDLE = Text("""
SELECT queue FROM firelock_counts GROUP BY queue HAVING min(jobs) = 0 AND max(jobs) = 0
ORDER BY queue LIMIT :most
""")
# Whoever folds beside this waits, and either adds to a row before it is looked at, or makes a new one.
_FORGET = Text("DELETE FROM firelock_counts WHERE jobs = 0 AND queue IN :ids")


def counted(tx: Transaction) -> Sequence[tuple[Any, ...]]:
    """Return queue, state and number of jobs, where there are any."""
    rows = tx.all(_SUMMED if tx.adds_deltas else _IN_PLACE)
    return [(queue, state, int(number)) for queue, state, number in rows]


def known_queues(tx: Transaction) -> list[str]:
    """Return every queue that has jobs, or had some."""
    return [str(row[0]) for row in tx.all(_ALL_QUEUES if tx.adds_deltas else _QUEUES)]


def idle_queues(tx: Transaction, limit: int) -> list[str]:
    """Return queues that had jobs and have none."""
    return [str(row[0]) for row in tx.all(_IDLE, most=limit)]


def forget_queues(tx: Transaction, queues: Sequence[str]) -> None:
    """Delete what is counted of queues, unless they have jobs again."""
    tx.run(_FORGET, ids=list(queues))


def add_deltas(tx: Transaction) -> None:
    """What the transaction changed of the counts is added as rows of their own."""
    rows = [
        {"state": state, "queue": queue, "jobs": number}
        for (state, queue), number in tx.deltas.items()
        if number
    ]
    tx.deltas.clear()
    tx.run_many(_ADD, rows)


class Folding:
    """Folds differences into the counts, and knows where to begin.

    While a snapshot is held open, those that were folded since stay in the table, and a look from its
    beginning steps over all of them. After a long one the next ones begin behind the last that was folded,
    for a rest; one that a long transaction adds before it waits, and is part of the sum all the same.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = 0
        self._whole_at = clock()

    def run(self, database: Database, folds: int = _FOLDS_A_RUN) -> None:
        """Fold until no more differences are left than cost nothing to read, or the next run has to go on.

        Args:
            database: theirs.
            folds: the most transactions, each of which takes some thousands of them.
        """
        begun_at = self._clock()
        is_whole = begun_at >= self._whole_at
        after = 0 if is_whole else self._last
        for _ in range(folds):
            number, first = database.read(lambda tx: _some_after(tx, after))
            if number < _WORTH_FOLDING:
                self._last = max(self._last, first - 1)
                break
            last = database.write(lambda tx: _fold(tx, after))
            if not last:  # who folds beside has taken them
                break
            self._last = max(self._last, last)
            if self._clock() - begun_at > _LONGEST_SECONDS:
                break
        took = self._clock() - begun_at
        if is_whole and took > _LONG_SECONDS:
            self._whole_at = begun_at + took * _REST


def _some_after(tx: Transaction, after: int) -> tuple[int, int]:
    """Return how many differences there are, up to those worth folding, and the number of the first, or 0."""
    number, first = tx.one(_NUMBER, after=after, most=_WORTH_FOLDING)
    return int(number), int(first or 0)


def _fold(tx: Transaction, after: int) -> int:
    """Some differences are part of the counts; return the last one's number, 0 where others take all."""
    rows = tx.all(_TAKE, after=after, most=_FOLDED_AT_ONCE)
    more: Counter[tuple[str, str]] = Counter()
    for _, state, queue, jobs in rows:
        more[state, queue] += jobs
    for (state, queue), number in sorted(more.items()):
        if number and not tx.changed(_COUNT, state=state, queue=queue, more=number):
            tx.run(_FIRST, state=state, queue=queue, jobs=number)
    if rows:
        tx.run(_DROP, seqs=[row[0] for row in rows])
    return int(rows[-1][0]) if rows else 0
