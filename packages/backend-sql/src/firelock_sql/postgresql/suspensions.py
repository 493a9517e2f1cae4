"""Suspensions on PostgreSQL: the fast path, which suspends several jobs with one round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import Pipeline

from firelock_sql.connections.database import BRIEF_SECONDS
from firelock_sql.connections.transaction import Text
from firelock_sql.postgresql.connect import number_array, text_array
from firelock_sql.verbs.suspensions import Suspension, jobs_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

# This statement waits briefly for locks of other transactions.
_LOCK = Text("""
WITH brief AS MATERIALIZED (SELECT set_config('lock_timeout', :lock_timeout, true))
SELECT FROM firelock_jobs WHERE id IN :ids AND (SELECT count(*) FROM brief) = 1 ORDER BY id FOR NO KEY UPDATE
""")
# Each result row is a job that is waiting now, with the keys that it held. The lock was a separate statement,
# so this statement sees everything that others committed before the job was locked.
SUSPEND = Text("""
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(
        :ids::text[], :sessions::text[], :fences::integer[], :states::text[], :ats::bigint[],
        :starts::bigint[], :servers::text[], :reasons::text[], :dues::bigint[], :waits::text[],
        :signals::text[], :lines::text[]
    ) AS asked (
        id, session, fence, state, at, started_at, server, reason, due_at, waits_for, signal, line
    )
), open AS MATERIALIZED (
    SELECT edge.child_id, edge.parent_id, edge.awaited
    FROM unnest(:children::text[], :parents::text[], :awaited::text[]) AS edge (child_id, parent_id, awaited),
        LATERAL (
            SELECT FROM firelock_jobs
            WHERE id = edge.parent_id AND state NOT IN ('succeeded', 'failed', 'deleted')
        ) AS parent
), suspended AS (
    UPDATE firelock_jobs AS job
    SET state = asked.state, reason = asked.reason, changed_at = asked.at, due_at = asked.due_at,
        started_at = coalesce(asked.started_at, job.started_at),
        server = coalesce(asked.server, job.server), attempt = job.attempt - 1, session = NULL,
        waits_for = asked.waits_for, result = NULL, result_absent = NULL, ended_at = NULL, expires_at = NULL,
        history = job.history || asked.line,
        history_lines = job.history_lines + CASE WHEN asked.line = '' THEN 0 ELSE 1 END
    FROM asked
    WHERE job.id = asked.id AND coalesce(job.session, '') = asked.session AND job.fence = asked.fence
        AND job.state = 'processing' AND job.is_plain_end = 0
        AND NOT EXISTS (
            SELECT FROM firelock_memos AS memo
            WHERE memo.job_id = asked.id AND memo.kind = 'signal' AND memo.name = asked.signal
                AND memo.is_done = 1
        )
        AND (asked.id <> ALL (:children::text[]) OR EXISTS (SELECT FROM open WHERE child_id = asked.id))
    RETURNING job.id, job.queue, job.state, job.lane
), waiting_for AS MATERIALIZED (
    SELECT open.* FROM open JOIN suspended ON suspended.id = open.child_id
), noted AS (
    INSERT INTO firelock_edges (parent_id, child_id, awaited, is_decided, is_wait)
    SELECT parent_id, child_id, awaited, 0, 1 FROM waiting_for
), marked AS (
    UPDATE firelock_jobs SET marks = marks | 1
    WHERE id = ANY (ARRAY (SELECT parent_id FROM waiting_for)) AND marks & 1 = 0
), counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'processing', queue, -count(*) FROM suspended GROUP BY queue
    UNION ALL SELECT state, queue, count(*) FROM suspended GROUP BY state, queue
)
SELECT id, lane FROM suspended
""")


def can_suspend_in_one_round_trip() -> bool:
    """Return whether the driver can send two statements in one round trip."""
    return Pipeline.is_supported()


def suspend_in_one_round_trip(
    cursor: Any,  # noqa: ANN401 - psycopg's
    dialect: Dialect,
    suspensions: Sequence[Suspension],
) -> Mapping[str, str | None]:
    """Suspend jobs in one transaction and round trip; return the jobs that are waiting now and their keys."""
    answer = cursor.connection.cursor()
    ids = text_array(jobs_of(suspensions))
    with cursor.connection.pipeline():
        locks = {"ids": ids, "lock_timeout": f"{BRIEF_SECONDS * 1_000:.0f}ms"}
        cursor.execute(_LOCK.compiled(dialect).text, locks, prepare=True)
        answer.execute(SUSPEND.compiled(dialect).text, _values(suspensions), prepare=True)
    return dict(answer.fetchall())


def _values(suspensions: Sequence[Suspension]) -> Mapping[str, object]:
    asked = [one.transition for one in suspensions]
    edges = [(one.job_id, edge) for one in asked for edge in one.parents]
    return {
        "ids": text_array([one.job_id for one in asked]),
        "sessions": text_array([one.session for one in asked]),
        "fences": number_array([one.fence for one in asked]),
        "states": text_array([one.to.value for one in asked]),
        "ats": number_array([one.at for one in asked]),
        "starts": number_array([one.started_at for one in asked]),
        "servers": text_array([one.server for one in asked]),
        "reasons": text_array([one.reason for one in asked]),
        "dues": number_array([one.due_at for one in asked]),
        "waits": text_array([one.waits_for for one in asked]),
        "signals": text_array([one.signal for one in suspensions]),
        "lines": text_array([one.line for one in suspensions]),
        "children": text_array([job_id for job_id, _ in edges]),
        "parents": text_array([edge.parent_id for _, edge in edges]),
        "awaited": text_array([edge.on.value for _, edge in edges]),
    }
