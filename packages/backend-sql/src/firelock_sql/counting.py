"""How many jobs of each queue are in each state.

SQLite, where one transaction writes at a time, changes a row of `counts` in place. Where transactions run
side by side such a row would line them up, behind a caller's own transaction for as long as that stays open:
each adds rows of differences instead, which upkeep folds into `counts`. The sum of both in one snapshot is
right at any instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, bindparam, cast, delete, func, select, union_all, update

from firelock_sql.database import Database, Transaction
from firelock_sql.statements import Statement, among, insert_into
from firelock_sql.tables import ONE, ZERO, count_deltas, counts

__all__ = ["add_deltas", "counted", "fold", "is_worth_folding", "known_queues"]

_FOLDED_AT_ONCE = 5_000
_WORTH_FOLDING = 200

_IN_PLACE = Statement(select(counts.c.queue, counts.c.state, counts.c.jobs).where(counts.c.jobs != ZERO))
_both = union_all(
    select(counts.c.queue, counts.c.state, counts.c.jobs),
    select(count_deltas.c.queue, count_deltas.c.state, count_deltas.c.jobs),
).subquery()
_sum = cast(func.sum(_both.c.jobs), BigInteger)
_SUMMED = Statement(
    select(_both.c.queue, _both.c.state, _sum).group_by(_both.c.queue, _both.c.state).having(_sum != ZERO)
)
_QUEUES = Statement(select(counts.c.queue).distinct().order_by(counts.c.queue))
_ALL_QUEUES = Statement(select(_both.c.queue).distinct().order_by(_both.c.queue))

_ADD = insert_into(count_deltas, "state", "queue", "jobs")
_NUMBER = Statement(
    select(func.count()).select_from(
        select(ONE).select_from(count_deltas).limit(bindparam("most")).subquery()
    )
)
_TAKE = Statement(
    select(count_deltas.c.seq, count_deltas.c.state, count_deltas.c.queue, count_deltas.c.jobs)
    .order_by(count_deltas.c.seq)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_DROP = Statement(delete(count_deltas).where(among(count_deltas.c.seq, "seqs")))
_COUNT = Statement(
    update(counts)
    .where(counts.c.state == bindparam("of_state"), counts.c.queue == bindparam("of_queue"))
    .values(jobs=counts.c.jobs + bindparam("more"))
)
_FIRST = insert_into(counts, "state", "queue", "jobs")


def counted(tx: Transaction) -> Sequence[tuple[Any, ...]]:
    """Return queue, state and number of jobs, where there are any."""
    return tx.all(_SUMMED if tx.adds_deltas else _IN_PLACE)


def known_queues(tx: Transaction) -> list[str]:
    """Return every queue that has jobs, or had some."""
    return [str(row[0]) for row in tx.all(_ALL_QUEUES if tx.adds_deltas else _QUEUES)]


def add_deltas(tx: Transaction) -> None:
    """What the transaction changed of the counts is added as rows of their own."""
    rows = [
        {"state": state, "queue": queue, "jobs": number}
        for (state, queue), number in tx.deltas.items()
        if number
    ]
    tx.deltas.clear()
    tx.run_many(_ADD, rows)


def is_worth_folding(tx: Transaction) -> bool:
    """Tell whether there are so many differences that reading them all costs something."""
    found: Any = tx.one(_NUMBER, {"most": _WORTH_FOLDING})
    return bool(found[0] >= _WORTH_FOLDING)


def fold(tx: Transaction, database: Database) -> int:
    """Some differences are part of the counts; return how many. Who folds too takes others."""
    rows: Sequence[Any] = tx.all(_TAKE, {"most": _FOLDED_AT_ONCE})
    more: Counter[tuple[str, str]] = Counter()
    for _, state, queue, jobs in rows:
        more[state, queue] += jobs
    for (state, queue), number in sorted(more.items()):
        if number and not tx.run(_COUNT, {"of_state": state, "of_queue": queue, "more": number}):
            tx.run(_FIRST, {"state": state, "queue": queue, "jobs": number})
    if rows:
        tx.run(_DROP, {"seqs": database.among([row[0] for row in rows])})
    return len(rows)
