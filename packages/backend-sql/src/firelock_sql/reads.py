"""What people read of single jobs, and the numbers over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, literal_column, select

from firelock.storage import (
    Attempt,
    Counts,
    ErrorInfo,
    FailureGroup,
    HistoryEntry,
    JobRecord,
    State,
    bounded_history,
)
from firelock_sql.counting import counted
from firelock_sql.database import Database, Transaction
from firelock_sql.statements import Statement, among
from firelock_sql.tables import attempt_errors, jobs, pinned, text_literal
from firelock_sql.text import read_edges, read_history, read_list, read_state

__all__ = [
    "RECORD_COLUMNS",
    "count_jobs",
    "get_errors",
    "get_history",
    "get_jobs",
    "group_failures",
    "read_record",
]

_ERRORS_LIMIT = 20
_GROUPED_LIMIT = 10_000

RECORD_COLUMNS = (
    jobs.c.id, jobs.c.task, jobs.c.arguments, jobs.c.serializer, jobs.c.state, jobs.c.queue, jobs.c.priority,
    jobs.c.created_at, jobs.c.tags, jobs.c.due_at, jobs.c.nominal_at, jobs.c.reason, jobs.c.enqueued_at,
    jobs.c.attempt, jobs.c.retries, jobs.c.crashes, jobs.c.fence, jobs.c.session, jobs.c.server,
    jobs.c.claimed_at, jobs.c.started_at, jobs.c.ended_at, jobs.c.changed_at, jobs.c.expires_at,
    jobs.c.timeout_seconds, jobs.c.retry, jobs.c.recurring_id, jobs.c.error_type, jobs.c.error_message,
    jobs.c.error_fingerprint, jobs.c.result, jobs.c.result_absent, jobs.c.parents,
)  # fmt: skip
_STATE, _TAGS, _ERROR = 4, 8, 27

_GET = Statement(select(*RECORD_COLUMNS).where(among(jobs.c.id, "ids")))
_HISTORY = Statement(
    select(
        jobs.c.created_at, jobs.c.creation, jobs.c.history, jobs.c.is_plain_end, jobs.c.state,
        jobs.c.changed_at, jobs.c.attempt, jobs.c.claimed_at, jobs.c.started_at, jobs.c.server,
    ).where(jobs.c.id == bindparam("job_id"))
)  # fmt: skip
_ERRORS = Statement(
    select(
        attempt_errors.c.attempt, attempt_errors.c.at, attempt_errors.c.type, attempt_errors.c.message,
        attempt_errors.c.fingerprint, attempt_errors.c.traceback,
    )
    .where(attempt_errors.c.job_id == bindparam("owner"))
    .order_by(attempt_errors.c.seq.desc())
    .limit(literal_column(str(_ERRORS_LIMIT)))
)  # fmt: skip
_FAILED = Statement(
    pinned(
        select(
            jobs.c.error_fingerprint, jobs.c.error_type, jobs.c.error_message, jobs.c.task, jobs.c.changed_at,
            jobs.c.id,
        ),
        "listed",
    )
    .where(jobs.c.state == text_literal(State.FAILED), jobs.c.state != text_literal(State.PROCESSING))
    .order_by(jobs.c.changed_at.desc(), jobs.c.id.desc())
    .limit(literal_column(str(_GROUPED_LIMIT)))
)  # fmt: skip


def read_record(row: Sequence[Any]) -> JobRecord:
    """Return a row of `RECORD_COLUMNS` as people see it."""
    type_, message, fingerprint, result, absent, parents = row[_ERROR:]
    fields: list[Any] = list(row[:_ERROR])
    fields[_STATE], fields[_TAGS] = read_state(fields[_STATE]), read_list(fields[_TAGS])
    error = None if type_ is None else ErrorInfo(type_, message, fingerprint)
    fields += [error, result, absent, read_edges(parents)]
    return JobRecord(*fields)


def get_jobs(tx: Transaction, database: Database, ids: Sequence[str]) -> list[JobRecord | None]:
    """See `Storage.get`."""
    found = {row[0]: read_record(row) for row in tx.all(_GET, {"ids": database.among(ids)})}
    return [found.get(id) for id in ids]


def get_history(tx: Transaction, job_id: str) -> list[HistoryEntry]:
    """See `Storage.history`."""
    found: Any = tx.one(_HISTORY, {"job_id": job_id})
    if found is None:
        return []
    created_at, creation, lines, is_plain_end, state, changed_at, *attempt = found
    history = read_history(created_at, creation, lines)
    if is_plain_end:
        history = bounded_history(history, HistoryEntry(read_state(state), changed_at, None, *attempt))
    return history


def get_errors(tx: Transaction, job_id: str) -> list[Attempt]:
    """See `Storage.errors`."""
    rows: Sequence[Any] = tx.all(_ERRORS, {"owner": job_id})
    return [Attempt(row[0], row[1], ErrorInfo(*row[2:])) for row in reversed(rows)]


def count_jobs(tx: Transaction) -> Counts:
    """See `Storage.counts`."""
    by_state: dict[State, int] = {}
    by_queue: dict[str, dict[State, int]] = {}
    for queue, name, number in counted(tx):
        state = read_state(name)
        by_state[state] = by_state.get(state, 0) + number
        by_queue.setdefault(queue, {})[state] = number
    return Counts(by_state, by_queue)


def group_failures(tx: Transaction, limit: int) -> list[FailureGroup]:
    """See `Storage.failure_groups`."""
    groups: dict[str, list[Any]] = {}
    for row in tx.all(_FAILED):
        if row[0] is not None:
            groups.setdefault(str(row[0]), []).append(row)
    largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [
        FailureGroup(fingerprint, rows[0][1], rows[0][2], rows[0][3], len(rows), rows[0][4], rows[0][5])
        for fingerprint, rows in largest[:limit]
    ]
