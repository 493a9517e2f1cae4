"""`apply` in full: every kind of transition, decided on rows read in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, delete, literal_column, select

from firelock.storage import Applied, ErrorInfo, State, Transition
from firelock_sql.continuations import follow_parents, forget_awaited
from firelock_sql.job_row import JobRow, change, load_rows, save_rows
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import ONE, attempt_errors
from firelock_sql.transaction import Database, Transaction

__all__ = ["apply_transitions"]

_ERRORS_LIMIT = 20
_KEEP_ERROR = insert_into(
    attempt_errors, "job_id", "attempt", "at", "type", "message", "fingerprint", "traceback"
)
_NEWEST_TO_DROP = Statement(
    select(attempt_errors.c.seq)
    .where(attempt_errors.c.job_id == bindparam("owner"))
    .order_by(attempt_errors.c.seq.desc())
    .limit(ONE)
    .offset(literal_column(str(_ERRORS_LIMIT)))
)
_DROP_OLD_ERRORS = Statement(
    delete(attempt_errors).where(
        attempt_errors.c.job_id == bindparam("owner"), attempt_errors.c.seq <= bindparam("last")
    )
)


def apply_transitions(
    tx: Transaction, database: Database, transitions: Sequence[Transition]
) -> list[Applied]:
    """See `Storage.apply`."""
    rows = load_rows(tx, database, list({transition.job_id for transition in transitions}))
    was_awaiting = [id for id, row in rows.items() if row.state == State.AWAITING]
    is_entangled = was_awaiting or len(rows) < len(transitions)
    if is_entangled and len(transitions) > 1 and any(row.is_parent for row in rows.values()):
        return [apply_transitions(tx, database, [transition])[0] for transition in transitions]
    results: list[Applied] = []
    parents: dict[int, JobRow] = {}  # by place of the result
    for place, transition in enumerate(transitions):
        row = rows.get(transition.job_id)
        if row is None:
            results.append(Applied.MISSING)
            continue
        attempt = row.attempt
        result = change(tx, row, transition)
        results.append(result)
        if result is not Applied.APPLIED:
            continue
        if transition.error is not None:
            _keep_error(tx, row, transition.error, transition.attempt or attempt, transition.at)
        if row.is_parent:
            parents[place] = row
    save_rows(tx, rows.values())
    if left := [id for id in was_awaiting if rows[id].state != State.AWAITING]:
        forget_awaited(tx, database, left)
    listed = follow_parents(tx, database, parents.values())
    for place, row in parents.items():
        if row.id in listed:
            results[place] = Applied.RELEASING
    return results


def _keep_error(tx: Transaction, row: JobRow, error: ErrorInfo, attempt: int, at: int) -> None:
    fields = {"type": error.type, "message": error.message, "fingerprint": error.fingerprint}
    tx.run(
        _KEEP_ERROR, {"job_id": row.id, "attempt": attempt, "at": at, "traceback": error.traceback, **fields}
    )
    if (last := tx.one(_NEWEST_TO_DROP, {"owner": row.id})) is not None:
        tx.run(_DROP_OLD_ERRORS, {"owner": row.id, "last": last[0]})
