"""Suspensions on MySQL and MariaDB: the fast path, which suspends several jobs with one round trip.

Each statement handles all suspensions, because the reply to every statement must be read. A statement passes
its result to the next ones in a session variable, a number with a bit for each job. Only the first query
takes locks; at READ COMMITTED, the other statements see everything that was committed before these locks.

A statement must not depend on the number of rows that the previous one has changed. MariaDB continues to
execute the statements of a disconnected client. If MariaDB cannot send the reply to an UPDATE, ROW_COUNT() is
-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import attrs

from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.mysql.pipeline import Answer, MultiStatementCursor, derived_rows
from firelock_sql.rows.marks import HAS_CHILDREN
from firelock_sql.verbs.suspensions import Suspension, jobs_of

_LOCK = Text("""
SELECT id, seq, queue, lane FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id
FOR UPDATE NOWAIT
""")
_MOST = 60  # number of suspensions that share one number with a bit for each of them
_IS_OPEN = "parent.state <> 'succeeded' AND parent.state <> 'failed' AND parent.state <> 'deleted'"
_IS_WAITING = "(@waits >> {}.number) & 1 = 1"
_OF_RUN = ("number", "job", "session", "fence", "awaited", "jobs")
_OF_WAIT = (
    "number", "job", "state", "reason", "at", "due_at", "started_at", "server", "waits_for", "line", "added",
)  # fmt: skip
_OF_EDGE = ("number", "job", "parent", "awaited")
_WAITS = "SELECT @waits"


@attrs.frozen
class _Statements:
    """The statements for a number of suspensions and awaited jobs; their parameters are listed row by row."""

    find_waits: Text
    suspend: Text
    add_edges: Text
    mark: Text
    count: Text


@lru_cache(maxsize=64)
def _statements(runs: int, relations: int) -> _Statements:
    related = (
        f"{derived_rows(_OF_EDGE, relations)} AS edge STRAIGHT_JOIN firelock_jobs AS parent INDEXED BY id"
    )
    is_open = f"parent.id = edge.parent AND {_IS_OPEN}"
    has_open = "0"
    if relations:
        has_open = f"EXISTS (SELECT 1 FROM {related} ON {is_open} WHERE edge.number = asked.number)"  # noqa: S608 - names
    return _Statements(
        find_waits=Text(f"""
SELECT COALESCE(BIT_OR(1 << asked.number), 0)
FROM {derived_rows(_OF_RUN, runs)} AS asked STRAIGHT_JOIN firelock_jobs AS job INDEXED BY id
    ON job.id = asked.job AND job.state = 'processing' AND job.session = asked.session
        AND job.fence = asked.fence AND job.is_plain_end = 0
WHERE NOT EXISTS (
    SELECT 1 FROM firelock_memos
    WHERE job_id = asked.job AND kind = 'signal' AND name = asked.awaited AND is_done = 1
) AND (asked.jobs = 0 OR {has_open})
INTO @waits
"""),  # noqa: S608 - names
        suspend=Text(f"""
UPDATE {derived_rows(_OF_WAIT, runs)} AS asked STRAIGHT_JOIN firelock_jobs AS job INDEXED BY id
SET job.state = asked.state, job.reason = asked.reason, job.changed_at = asked.at, job.due_at = asked.due_at,
    job.started_at = COALESCE(asked.started_at, job.started_at),
    job.server = COALESCE(asked.server, job.server), job.attempt = job.attempt - 1, job.session = NULL,
    job.waits_for = asked.waits_for, job.result = NULL, job.result_absent = NULL, job.ended_at = NULL,
    job.expires_at = NULL, job.history = CONCAT(job.history, asked.line),
    job.history_lines = job.history_lines + asked.added
WHERE job.id = asked.job AND {_IS_WAITING.format("asked")}
"""),  # noqa: S608 - names
        add_edges=Text(f"""
INSERT INTO firelock_edges (parent_id, child_id, awaited, is_decided, is_wait)
SELECT parent.id, edge.job, edge.awaited, 0, 1 FROM {related} ON {is_open} WHERE {_IS_WAITING.format("edge")}
"""),  # noqa: S608 - names
        mark=Text(f"""
UPDATE {related} SET parent.marks = parent.marks | {HAS_CHILDREN}
WHERE {is_open} AND {_IS_WAITING.format("edge")}
"""),  # noqa: S608 - names
        count=Text(f"""
INSERT INTO firelock_count_deltas (state, queue, jobs)
SELECT IF(moved.is_gone, 'processing', job.state), job.queue, SUM(IF(moved.is_gone, -1, 1))
FROM {derived_rows(("number", "job"), runs)} AS asked STRAIGHT_JOIN firelock_jobs AS job INDEXED BY id
    ON job.id = asked.job
    STRAIGHT_JOIN (SELECT 0 AS is_gone UNION ALL SELECT 1) AS moved
WHERE {_IS_WAITING.format("asked")} GROUP BY 1, 2
"""),  # noqa: S608 - names
    )


def suspend_in_one_round_trip(
    tx: Transaction, cursor: MultiStatementCursor, suspensions: Sequence[Suspension]
) -> frozenset[str]:
    """Suspend the jobs and commit; return the jobs that are waiting now."""
    tx.may_repeat = True  # repeating the transaction is harmless: the run no longer holds a suspended job

    lock = _LOCK.compiled(tx.dialect)
    [locked] = cursor.put(lock.text, lock.bind({"ids": jobs_of(suspensions)}))
    groups = [suspensions[place : place + _MOST] for place in range(0, len(suspensions), _MOST)]
    answers = [_put_some(tx, cursor, some) for some in groups]
    cursor.put("COMMIT")
    cursor.send()
    tx.is_ended = True
    waiting: set[str] = set()
    for some, answer in zip(groups, answers, strict=True):
        (bits,) = cast("tuple[int]", answer.rows[0])
        waiting.update(one.job_id for number, one in enumerate(some) if int(bits) >> number & 1)
    jobs: Sequence[Any] = locked.rows
    tx.freed_keys += [tuple(keyed) for id, *keyed in jobs if id in waiting and keyed[-1] is not None]
    return frozenset(waiting)


def _put_some(tx: Transaction, cursor: MultiStatementCursor, suspensions: Sequence[Suspension]) -> Answer:
    """Add the statements; return the future reply, a number with a bit for each job that is waiting now."""
    runs: list[Any] = []
    waits: list[Any] = []
    relations: list[Any] = []
    for number, one in enumerate(suspensions):
        asked = one.transition
        runs += (number, one.job_id, asked.session, asked.fence, one.signal, len(asked.parents))
        waits += (
            number, one.job_id, asked.to.value, asked.reason, asked.at, asked.due_at, asked.started_at,
            asked.server, asked.waits_for, one.line, int(one.line != ""),
        )  # fmt: skip
        for edge in asked.parents:
            relations += (number, one.job_id, edge.parent_id, edge.on.value)
    statements = _statements(len(suspensions), len(relations) // len(_OF_EDGE))

    def put(statement: Text, values: Sequence[Any]) -> None:
        cursor.put(statement.compiled(tx.dialect).text, values)

    put(statements.find_waits, [*runs, *relations])
    put(statements.suspend, waits)
    if relations:
        put(statements.add_edges, relations)
        put(statements.mark, relations)
    jobs = [value for number, one in enumerate(suspensions) for value in (number, one.job_id)]
    put(statements.count, jobs)
    return cursor.put(_WAITS)[0]
