"""Memos on PostgreSQL: one round trip stores several memos, or reads all memos of a job.

A job that waits for one of the stored memos is resumed in the same round trip. One statement locks the jobs
before the statements that write, so the latter see everything that previous lock holders have committed. All
statements are sent together; they are one transaction, which ends with the Sync message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from psycopg import Pipeline

from firelock.storage import MEMOS_BYTES, MEMOS_LIMIT, Applied, Memo, MemoKind, NewMemo, Remembered
from firelock_sql.connections.transaction import Text
from firelock_sql.postgresql.connect import text_array
from firelock_sql.rows.job_row import COMPACT_FROM
from firelock_sql.verbs.memos import find_wakening

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

_LOCK = Text("SELECT FROM firelock_jobs WHERE id IN :ids ORDER BY id FOR NO KEY UPDATE")
_COLUMNS = ("kind", "name", "value", "is_done", "at", "started_at", "attempt", "author", "place")
_MEMO = ", ".join(_COLUMNS)
# The result row contains: whether the job exists, whether the memo may be stored (the run holds the job, or
# the job accepts memos from outside), the place of the memo if it was stored, and the previous memo with this
# name, or NULLs.
_PUT = Text(f"""
WITH job AS MATERIALIZED (
    SELECT CASE WHEN :session::text IS NULL THEN state NOT IN ('succeeded', 'deleted')
        ELSE state = 'processing' AND coalesce(session, '') = :session AND fence = :fence::integer
        END AS is_held
    FROM firelock_jobs WHERE id = :job
), old AS MATERIALIZED (
    SELECT {_MEMO}, bytes FROM firelock_memos WHERE job_id = :job AND kind = :kind AND name = :name
), kept AS MATERIALIZED (
    SELECT count(*) AS number, coalesce(sum(bytes), 0) AS bytes, coalesce(max(place), 0) AS place
    FROM firelock_memos WHERE job_id = :job
), put AS (
    INSERT INTO firelock_memos (job_id, {_MEMO}, bytes)
    SELECT :job, :kind, :name, :value::text, :is_done::integer, :at::bigint, :started_at::bigint,
        :attempt::integer, :author, kept.place + 1, :bytes::integer
    FROM job, kept
    WHERE is_held AND NOT EXISTS (SELECT FROM old WHERE is_done = 1 OR NOT :replaces)
        AND kept.number + (SELECT 1 - count(*) FROM old) <= {MEMOS_LIMIT}
        AND kept.bytes + :bytes::integer - coalesce((SELECT bytes FROM old), 0) <= {MEMOS_BYTES}
    ON CONFLICT (job_id, kind, name) DO UPDATE
    SET value = excluded.value, is_done = excluded.is_done, at = excluded.at,
        started_at = excluded.started_at, attempt = excluded.attempt, author = excluded.author,
        bytes = excluded.bytes
    RETURNING place
), marked AS (
    UPDATE firelock_jobs SET marks = marks | 4
    WHERE id = :job AND marks & 4 = 0 AND (SELECT count(*) FROM put) = 1
)
SELECT job.is_held IS NOT NULL, job.is_held, put.place, {", ".join(f"old.{name}" for name in _COLUMNS)}
FROM (SELECT) AS one LEFT JOIN job ON true LEFT JOIN put ON true LEFT JOIN old ON true
""")  # noqa: S608 - names and numbers
# Each result row is a job that was waiting for this memo, which now exists. The expression on the state keeps
# the planner from using the index of states: if few jobs are awaiting when the statement is planned, the plan
# would be to read all awaiting jobs to find this one.
_WAKE = Text("""
WITH woken AS (
    UPDATE firelock_jobs AS job
    SET state = 'enqueued', reason = :reason, changed_at = clock.now, enqueued_at = clock.now, due_at = NULL,
        waits_for = NULL, history = history || :line_before::text || clock.now || :line_after::text,
        history_lines = history_lines + 1
    FROM (
        SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + :offset AS now OFFSET 0
    ) AS clock
    WHERE id = :job_id AND state || '' = 'awaiting' AND waits_for = :waits_for AND EXISTS (
        SELECT FROM firelock_memos
        WHERE job_id = :job_id AND kind = 'signal' AND name = :name AND is_done = 1
    )
    RETURNING id, queue, history_lines
), decided AS (
    UPDATE firelock_edges SET is_decided = 1
    WHERE is_decided = 0 AND child_id = ANY (ARRAY (SELECT id FROM woken))
), counted AS (
    INSERT INTO firelock_count_deltas (state, queue, jobs)
    SELECT 'awaiting', queue, -1 FROM woken UNION ALL SELECT 'enqueued', queue, 1 FROM woken
)
SELECT id, queue, history_lines FROM woken
""")
# Each result row contains a memo, or only NULLs if there are no memos. No row is returned if the run does not
# hold the job.
RECALL = Text(f"""
SELECT {", ".join(f"memo.{name}" for name in _COLUMNS)}
FROM (
    SELECT id FROM firelock_jobs
    WHERE id = :job AND (:session::text IS NULL OR (
        state = 'processing' AND coalesce(session, '') = :session AND fence = :fence::integer
    ))
) AS job LEFT JOIN firelock_memos AS memo ON memo.job_id = job.id ORDER BY memo.place
""")  # noqa: S608 - names


@attrs.define
class StoredMemos:
    """The results of storing memos, and the jobs that were resumed."""

    results: list[Remembered]
    queues: set[str] = attrs.field(factory=set)  # the queues of the resumed jobs
    long: list[str] = attrs.field(factory=list)  # ids of resumed jobs with a long history


def can_remember_in_one_round_trip() -> bool:
    """Return whether the driver can send several statements in one round trip."""
    return Pipeline.is_supported()


def remember_in_one_round_trip(
    cursor: Any,  # noqa: ANN401 - psycopg's
    dialect: Dialect,
    memos: Sequence[NewMemo],
    offset: int,
) -> StoredMemos:
    """Store the memos in one transaction and one round trip; return the result of each."""
    connection = cursor.connection
    answers = [connection.cursor() for _ in memos]
    wakenings = [one for one in map(find_wakening, memos) if one is not None]
    woken = [connection.cursor() for _ in wakenings]
    jobs = text_array(sorted({one.job_id for one in memos}))
    with connection.pipeline():
        cursor.execute(_LOCK.compiled(dialect).text, {"ids": jobs}, prepare=True)
        for one, answer in zip(memos, answers, strict=True):
            answer.execute(_PUT.compiled(dialect).text, _values(one), prepare=True)
        for each, answer in zip(wakenings, woken, strict=True):
            answer.execute(
                _WAKE.compiled(dialect).text, {**attrs.asdict(each), "offset": offset}, prepare=True
            )
    stored = StoredMemos(
        [_remembered(one, answer.fetchone()) for one, answer in zip(memos, answers, strict=True)]
    )
    for job_id, queue, lines in (row for answer in woken for row in answer.fetchall()):
        stored.queues.add(queue)
        if lines >= COMPACT_FROM:
            stored.long.append(job_id)
    return stored


def _values(new: NewMemo) -> Mapping[str, object]:
    memo = new.memo
    size = 0 if memo.value is None else len(memo.value.encode(errors="surrogatepass"))
    return {
        **attrs.asdict(memo), "kind": memo.kind.value, "is_done": int(memo.is_done), "bytes": size,
        "job": new.job_id, "session": new.session, "fence": new.fence, "replaces": new.replaces,
    }  # fmt: skip


def _remembered(new: NewMemo, row: Sequence[Any]) -> Remembered:
    is_stored, is_held, place, *found = row
    old = None if found[0] is None else _memo(found)
    is_same = old is not None and attrs.evolve(old, place=new.memo.place) == new.memo
    if not is_stored:
        return Remembered(Applied.MISSING)
    if not is_held and (not is_same or new.session is not None):
        return Remembered(Applied.REFUSED, old)
    if is_same:
        return Remembered(Applied.ALREADY, old)
    if place is not None:
        return Remembered(Applied.APPLIED, attrs.evolve(new.memo, place=place))
    is_taken = old is not None and (old.is_done or not new.replaces)
    return Remembered(Applied.TAKEN if is_taken else Applied.REFUSED, old)


def recalled(rows: Sequence[Sequence[Any]]) -> list[Memo] | None:
    """Return the memos in the rows of `RECALL`."""
    return [_memo(row) for row in rows if row[0] is not None] if rows else None


def _memo(row: Sequence[Any]) -> Memo:
    kind, name, value, is_done, *rest = row
    return Memo(MemoKind(kind), name, value, bool(is_done), *rest)
