"""Suspensions on MySQL and MariaDB, of runs that wait without a worker: one round trip for one or several.

What one statement finds the next ones are told by variables of the session. No query takes a lock but the
first: at READ COMMITTED each sees what others have left behind it.

A statement may not go by the number of rows that the one before has changed: MariaDB goes on with the
statements of a client that is gone, and where the answer to an UPDATE cannot be sent, ROW_COUNT() is -1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from firelock.storage import Edge, On
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.mysql.pipeline import Answer, TogetherCursor
from firelock_sql.schema.tables import HAS_CHILDREN
from firelock_sql.verbs.suspensions import Suspension, jobs_of

_LOCK = Text("""
SELECT id, seq, queue, held_by FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id
FOR UPDATE NOWAIT
""")
_IS_OPEN = "state <> 'succeeded' AND state <> 'failed' AND state <> 'deleted'"
_LOOK_FOR_SIGNAL = Text("""
SELECT count(*) FROM firelock_memos
WHERE job_id = :job AND kind = 'signal' AND name = :signal AND is_done = 1 INTO @told
""")
_LOOK_FOR_JOBS = Text(f"""
SELECT count(*) FROM firelock_jobs INDEXED BY id WHERE {_IS_OPEN} AND id IN :ids INTO @open
""")  # noqa: S608 - a condition of ours
_LOOK_WHETHER_IT_WAITS = Text("""
SELECT count(*) FROM firelock_jobs INDEXED BY id
WHERE id = :job AND state = 'processing' AND session = :session AND fence = :fence AND is_plain_end = 0
    AND @told = 0 AND (@open > 0 OR :jobs = 0)
INTO @waits
""")
_SUSPEND = Text("""
UPDATE firelock_jobs
SET state = :state, reason = :reason, changed_at = :at, due_at = :due_at,
    started_at = COALESCE(:started_at, started_at), server = COALESCE(:server, server),
    attempt = attempt - 1, session = NULL, waits_for = :waits_for, result = NULL, result_absent = NULL,
    ended_at = NULL, expires_at = NULL, history = history || :line, history_lines = history_lines + :number
WHERE id = :job AND @waits = 1
""")
_TIE = Text(f"""
INSERT INTO firelock_edges (parent_id, child_id, awaited, is_decided, is_wait)
SELECT id, :job, :awaited, 0, 1 FROM firelock_jobs INDEXED BY id
WHERE @waits = 1 AND {_IS_OPEN} AND id IN :ids
""")  # noqa: S608 - a condition of ours
_MARK = Text(f"""
UPDATE firelock_jobs SET marks = marks | {HAS_CHILDREN} WHERE @waits = 1 AND {_IS_OPEN} AND id IN :ids
""")  # noqa: S608 - a number, and a condition of ours
_COUNT = Text("""
INSERT INTO firelock_count_deltas (state, queue, jobs)
SELECT moved.state, job.queue, moved.jobs
FROM firelock_jobs AS job, (SELECT 'processing' AS state, -1 AS jobs UNION ALL SELECT :state, 1) AS moved
WHERE @waits = 1 AND job.id = :job
""")


def suspend_at_once(
    tx: Transaction, cursor: TogetherCursor, suspensions: Sequence[Suspension]
) -> frozenset[str]:
    """Return the jobs that wait now; the transaction is committed."""
    tx.may_repeat = True  # a job that waits already is not held, which the long way tells

    def put(statement: Text, **parameters: object) -> Answer:
        compiled = statement.compiled(tx.dialect)
        return cursor.put(compiled.text, compiled.bind(parameters))[0]

    locked = put(_LOCK, ids=jobs_of(suspensions))
    answers = [_put_one(put, one) for one in suspensions]
    cursor.put("COMMIT")
    cursor.send()
    tx.is_ended = True
    pairs = zip(suspensions, answers, strict=True)
    waiting = frozenset(one.job_id for one, answer in pairs if answer.rowcount == 1)
    jobs: Sequence[Any] = locked.rows
    tx.let_go += [tuple(keyed) for id, *keyed in jobs if id in waiting and keyed[-1] is not None]
    return waiting


def _put_one(put: Callable[..., Answer], one: Suspension) -> Answer:
    """Return what will be the answer: a row is changed where the job waits."""
    asked, line = one.transition, one.line
    put(_LOOK_FOR_SIGNAL, job=one.job_id, signal=one.signal)
    put(_LOOK_FOR_JOBS, ids=one.parents)
    put(
        _LOOK_WHETHER_IT_WAITS, job=one.job_id, session=asked.session, fence=asked.fence,
        jobs=len(one.parents),
    )  # fmt: skip
    answer = put(
        _SUSPEND, state=asked.to.value, reason=asked.reason, at=asked.at, due_at=asked.due_at,
        started_at=asked.started_at, server=asked.server, waits_for=asked.waits_for, line=line,
        number=int(line != ""), job=one.job_id,
    )  # fmt: skip
    for on, parents in _by_end(asked.parents).items():
        put(_TIE, job=one.job_id, awaited=on.value, ids=parents)
    if asked.parents:
        put(_MARK, ids=one.parents)
    put(_COUNT, state=asked.to.value, job=one.job_id)
    return answer


def _by_end(edges: Sequence[Edge]) -> dict[On, list[str]]:
    """Return the parents, by the end of theirs that is waited for."""
    found: defaultdict[On, list[str]] = defaultdict(list)
    for edge in edges:
        found[edge.on].append(edge.parent_id)
    return found
