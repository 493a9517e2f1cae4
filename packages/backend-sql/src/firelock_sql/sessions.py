"""Sessions: begun, renewed, compared, ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import bindparam, select

from firelock.storage import (
    Held,
    NewSession,
    Reconciliation,
    Renewal,
    SessionRecord,
    State,
    Taken,
    Upkeep,
)
from firelock_sql.claim import CLAIMED_COLUMNS, claimed_job, living_server
from firelock_sql.job_row import clear_tail, load_rows, save_rows, take_back
from firelock_sql.statements import Statement, Text, insert_into
from firelock_sql.tables import jobs, pinned, sessions
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "begin_session",
    "end_expired",
    "end_session",
    "expired_sessions",
    "list_sessions",
    "reconcile",
    "renew",
]

_SECOND = 1_000_000
_LONGEST_WAIT = _SECOND // 4  # for the right to write, when nobody holds it for long
_is_alive = sessions.c.died_at.is_(None)

_BEGIN = insert_into(
    sessions, "id", "server_id", "server", "host", "pid", "started_at", "timeout_seconds", "workers",
    "queues", "version", "expires_at",
)  # fmt: skip
_KNOWN = Text("SELECT id FROM firelock_sessions WHERE id = :session")
_TIMEOUT = Text("SELECT timeout_seconds FROM firelock_sessions WHERE id = :session AND died_at IS NULL")
_RENEW = Text("""
UPDATE firelock_sessions
SET expires_at = :expires_at, busy = :busy, reported = :reported, rss_bytes = :rss_bytes,
    cpu_percent = :cpu_percent
WHERE id = :session AND died_at IS NULL
""")
_DIE = Text("UPDATE firelock_sessions SET died_at = :at WHERE id = :session AND died_at IS NULL")
_LOCK = Statement(
    select(sessions.c.server, sessions.c.expires_at)
    .where(sessions.c.id == bindparam("session"), _is_alive)
    .with_for_update()
)
_EXPIRED = Text("""
SELECT id FROM firelock_sessions WHERE died_at IS NULL AND expires_at <= :now ORDER BY expires_at LIMIT :most
""")
_LIST = Text("""
SELECT id, server_id, server, host, pid, started_at, timeout_seconds, workers, queues, version, expires_at,
    died_at, busy, reported, rss_bytes, cpu_percent
FROM firelock_sessions ORDER BY started_at, id
""")
_HELD_IDS = Statement(
    pinned(select(jobs.c.id), "holder").where(jobs.c.session == bindparam("holder")).order_by(jobs.c.seq)
)
_HELD = Statement(
    pinned(select(*CLAIMED_COLUMNS, jobs.c.state), "holder")
    .where(jobs.c.session == bindparam("holder"))
    .order_by(jobs.c.seq)
)
_START = Text("""
UPDATE firelock_jobs SET started_at = :started_at
WHERE id = :job_id AND session = :holder AND fence = :token AND state = 'processing'
""")


def begin_session(tx: Transaction, session: NewSession) -> None:
    """See `Storage.begin_session`."""
    if tx.one(_KNOWN, {"session": session.id}) is not None:
        return
    tx.run(
        _BEGIN,
        {
            "id": session.id,
            "server_id": session.server_id,
            "server": session.server,
            "host": session.host,
            "pid": session.pid,
            "started_at": session.started_at,
            "timeout_seconds": session.timeout_seconds,
            "workers": session.workers,
            "queues": session.queues,
            "version": session.version,
            "expires_at": tx.now + int(session.timeout_seconds * _SECOND),
        },
    )


def renew(tx: Transaction, renewals: Sequence[Renewal]) -> list[bool]:
    """See `Storage.renew`."""
    return [_renew(tx, renewal) for renewal in renewals]


def _renew(tx: Transaction, renewal: Renewal) -> bool:
    found: Any = tx.one(_TIMEOUT, {"session": renewal.session})
    if found is None:
        return False
    renewed = tx.run(
        _RENEW,
        {
            "session": renewal.session,
            "expires_at": tx.now + int(found[0] * _SECOND),
            "busy": renewal.busy,
            "reported": renewal.state,
            "rss_bytes": renewal.rss_bytes,
            "cpu_percent": renewal.cpu_percent,
        },
    )
    return renewed > 0


def reconcile(tx: Transaction, session: str, held: Sequence[Held]) -> Reconciliation:
    """See `Storage.reconcile`; writes only where a start is given."""
    is_lost = living_server(tx, session) is None
    rows: Sequence[Any] = tx.all(_HELD, {"holder": session})
    stored = {(row[0], row[9]): row[-1] for row in rows}  # (id, fence): state
    for one in held:
        if one.started_at is not None and stored.get((one.job_id, one.fence)) == State.PROCESSING:
            started = {"job_id": one.job_id, "holder": session, "token": one.fence}
            tx.run(_START, {**started, "started_at": one.started_at})
    named = {(one.job_id, one.fence) for one in held}
    return Reconciliation(
        is_lost,
        [one for one in held if stored.get((one.job_id, one.fence)) != State.PROCESSING],
        [claimed_job(row[:-1]) for row in rows if (row[0], row[9]) not in named],
    )


def end_session(
    tx: Transaction,
    database: Database,
    session: str,
    running: Collection[str] | None,
    *,
    reason: str,
    is_expired_only: bool = False,
) -> Taken | None:
    """See `Storage.end_session`; with `is_expired_only` one that lives on is left alone: None."""
    found: Any = tx.one(_LOCK, {"session": session})  # a claim under way has ended, none begins
    if found is None or (is_expired_only and found[1] > tx.now):
        return None
    tx.run(_DIE, {"session": session, "at": tx.now})
    ids = [str(row[0]) for row in tx.all(_HELD_IDS, {"holder": session})]
    rows = load_rows(tx, database, ids)
    crashed: list[str] = []
    returned: list[str] = []
    for id in ids:
        row = rows.get(id)
        if row is None or row.session != session:  # its end came first
            continue
        if row.state != State.PROCESSING:
            clear_tail(tx, row)
        elif running is None or id in running:
            take_back(tx, row, crash=reason)
            crashed.append(id)
        else:
            take_back(tx, row, crash=None)
            returned.append(id)
    save_rows(tx, rows.values())
    return Taken(session, str(found[0]), crashed, returned)


def expired_sessions(tx: Transaction, limit: int) -> list[str]:
    """Return the sessions that expired and that nobody has marked dead, the longest expired first."""
    return [str(row[0]) for row in tx.all(_EXPIRED, {"now": tx.now, "most": limit})]


def end_expired(tx: Transaction, database: Database, session: str, asked_at: int) -> Taken | None:
    """The session is ended if it is still expired, and could have been renewed.

    Who had to wait for the database was not the only one: those who want to renew come first, and the session
    is looked at again with the next sweep.
    """
    if tx.now - asked_at > _LONGEST_WAIT:
        return None
    reason = Upkeep.SESSION_LOST.value
    return end_session(tx, database, session, None, reason=reason, is_expired_only=True)


def list_sessions(tx: Transaction) -> list[SessionRecord]:
    """See `Storage.list_sessions`."""
    rows: Sequence[Any] = tx.all(_LIST)
    return [
        SessionRecord(NewSession(*row[:10]), row[10], row[11] is None, Renewal(row[0], *row[12:]))
        for row in rows
    ]
