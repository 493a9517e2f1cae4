"""Log lines and progress of running jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from firelock.storage import LogLine, Progress
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import stored_among

_LOG_LIMIT = 1_000

# Without the lock, the job could be pruned at the same time, and its log would remain.
_FREE = Text(
    "SELECT id FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR KEY SHARE SKIP LOCKED"
)
_LAST = Text("SELECT max(number) FROM firelock_log_lines WHERE job_id = :job_id")
_APPEND = insert_into("firelock_log_lines", "job_id", "number", "at", "level", "line", "attempt")
_TRIM = Text("DELETE FROM firelock_log_lines WHERE job_id = :job_id AND number <= :up_to")
_READ = Text("""
SELECT number, at, level, line, attempt FROM firelock_log_lines
WHERE job_id = :job_id AND number > :after ORDER BY number LIMIT :most
""")
_PUT_PROGRESS = insert_into("firelock_progress", "job_id", "done", "total", "at", "message")
_REPLACE_PROGRESS = Text("""
UPDATE firelock_progress SET done = :done, total = :total, at = :at, message = :message WHERE job_id = :job_id
""")


class SqlLogVerbs(SqlVerbs):
    """The verbs for logs and progress."""

    @override
    def append_logs(
        self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
    ) -> Collection[str]:
        if not (lines or progress):
            return ()
        return self._database.write(lambda tx: _append_all(tx, lines, progress))

    @override
    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        rows = self._database.read(lambda tx: tx.all(_READ, job_id=job_id, after=after, most=limit))
        return [LogLine(*row) for row in rows]


def _append_all(
    tx: Transaction, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
) -> list[str]:
    """See `Storage.append_logs`."""
    wanted = {*lines, *progress}
    free = [str(row[0]) for row in tx.all(_FREE, ids=sorted(wanted))]
    for job_id in free:
        if added := lines.get(job_id):
            _append(tx, job_id, added)
        if (one := progress.get(job_id)) is not None:
            row = {"done": one.done, "total": one.total, "at": one.at, "message": one.message}
            if not tx.changed(_REPLACE_PROGRESS, job_id=job_id, **row):
                tx.run(_PUT_PROGRESS, job_id=job_id, **row)
    return sorted(stored_among(tx, wanted.difference(free))) if len(free) < len(wanted) else []


def _append(tx: Transaction, job_id: str, lines: Sequence[LogLine]) -> None:
    last = int(tx.one(_LAST, job_id=job_id)[0] or 0)
    rows = [
        {"number": number, "at": one.at, "level": one.level, "line": one.text, "attempt": one.attempt}
        for number, one in enumerate(lines, start=last + 1)
    ]
    tx.run_many(_APPEND, [{"job_id": job_id, **row} for row in rows])
    tx.run(_TRIM, job_id=job_id, up_to=last + len(lines) - _LOG_LIMIT)
