"""All jobs in order of creation, merged from the parts of one index: each queue and task is one.

Parts are few where jobs are many, so one index serves lists of all jobs, of a queue, of a task and of both.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, func, select

from firelock_sql.counting import known_queues
from firelock_sql.database import Transaction
from firelock_sql.statements import Statement
from firelock_sql.tables import ONE, jobs, pinned

__all__ = ["Part", "find_parts", "size_of"]

Part = tuple[str, str]
"""A queue and a task."""

_NEXT_TASK = Statement(
    pinned(select(jobs.c.task), "by_task")
    .where(jobs.c.queue == bindparam("part_queue"), jobs.c.task > bindparam("former"))
    .order_by(jobs.c.task)
    .limit(ONE)
)
_SIZE = Statement(
    select(func.count()).select_from(
        pinned(select(ONE).select_from(jobs), "by_task")
        .where(jobs.c.queue == bindparam("part_queue"), jobs.c.task == bindparam("part_task"))
        .limit(bindparam("most"))
        .subquery()
    )
)


def find_parts(tx: Transaction, queue: str | None, task: str | None) -> list[Part]:
    """Return the parts that may hold jobs of this queue and task, of all of them where none is given."""
    queues = [queue] if queue is not None else known_queues(tx)
    if task is not None:
        return [(name, task) for name in queues]
    return [(name, found) for name in queues for found in _tasks(tx, name)]


def _tasks(tx: Transaction, queue: str) -> list[str]:
    """Return the tasks of a queue, by one short step along the index for each."""
    tasks: list[str] = []
    while found := tx.one(_NEXT_TASK, {"part_queue": queue, "former": tasks[-1] if tasks else ""}):
        if not isinstance(found[0], str):  # bytes that somebody put there come behind every text, for ever
            break
        tasks.append(found[0])
    return tasks


def size_of(tx: Transaction, parts: list[Part], most: int) -> int:
    """Return how many jobs the parts hold, at most about `most`."""
    size = 0
    for queue, task in parts:
        found: Any = tx.one(_SIZE, {"part_queue": queue, "part_task": task, "most": most})
        size += int(found[0])
        if size >= most:
            break
    return size
