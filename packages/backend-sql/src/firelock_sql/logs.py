"""What running jobs say: log lines and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, select, update

from firelock.storage import LogLine, Progress
from firelock_sql.statements import Statement, among, insert_into
from firelock_sql.tables import by_id, jobs, log_lines, progress
from firelock_sql.transaction import Database, Transaction

__all__ = ["append_logs", "read_log"]

_LOG_LIMIT = 1_000

_KNOWN = Statement(
    by_id(select(jobs.c.id))
    .where(among(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
    .with_for_update(read=True, key_share=True)  # a job that is pruned meanwhile would leave its log behind
)
_LAST = Statement(select(func.max(log_lines.c.number)).where(log_lines.c.job_id == bindparam("of_job")))
_APPEND = insert_into(log_lines, "job_id", "number", "at", "level", "line", "attempt")
_TRIM = Statement(
    delete(log_lines).where(
        log_lines.c.job_id == bindparam("of_job"), log_lines.c.number <= bindparam("up_to")
    )
)
_READ = Statement(
    select(log_lines.c.number, log_lines.c.at, log_lines.c.level, log_lines.c.line, log_lines.c.attempt)
    .where(log_lines.c.job_id == bindparam("of_job"), log_lines.c.number > bindparam("after"))
    .order_by(log_lines.c.number)
    .limit(bindparam("most"))
)
_PUT_PROGRESS = insert_into(progress, "job_id", "done", "total", "at", "message")
_REPLACE_PROGRESS = Statement(
    update(progress)
    .where(progress.c.job_id == bindparam("of_job"))
    .values(
        done=bindparam("new_done"),
        total=bindparam("new_total"),
        at=bindparam("new_at"),
        message=bindparam("new_message"),
    )
)


def append_logs(
    tx: Transaction,
    database: Database,
    lines: Mapping[str, Sequence[LogLine]],
    reported: Mapping[str, Progress],
) -> None:
    """See `Storage.append_logs`."""
    ids = sorted({*lines, *reported})
    known = {row[0] for row in tx.all(_KNOWN, {"ids": database.among(ids)})}
    for job_id in ids:
        if job_id in known and lines.get(job_id):
            _append(tx, job_id, lines[job_id])
        if job_id in known and job_id in reported:
            _report(tx, job_id, reported[job_id])


def _append(tx: Transaction, job_id: str, lines: Sequence[LogLine]) -> None:
    found: Any = tx.one(_LAST, {"of_job": job_id})
    last = int(found[0] or 0)
    tx.run_many(
        _APPEND,
        [
            {
                "job_id": job_id,
                "number": number,
                "at": line.at,
                "level": line.level,
                "line": line.text,
                "attempt": line.attempt,
            }
            for number, line in enumerate(lines, start=last + 1)
        ],
    )
    tx.run(_TRIM, {"of_job": job_id, "up_to": last + len(lines) - _LOG_LIMIT})


def _report(tx: Transaction, job_id: str, one: Progress) -> None:
    row = {"new_done": one.done, "new_total": one.total, "new_at": one.at, "new_message": one.message}
    if not tx.run(_REPLACE_PROGRESS, {"of_job": job_id, **row}):
        new = {"done": one.done, "total": one.total, "at": one.at, "message": one.message}
        tx.run(_PUT_PROGRESS, {"job_id": job_id, **new})


def read_log(tx: Transaction, job_id: str, *, after: int, limit: int) -> list[LogLine]:
    """See `Storage.read_log`."""
    rows: Sequence[Any] = tx.all(_READ, {"of_job": job_id, "after": after, "most": limit})
    return [LogLine(*row) for row in rows]
