"""Sessions: begun, renewed, compared, ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import attrs
from typing_extensions import override

from firelock.storage import (
    Held,
    LostClaim,
    Moved,
    NewSession,
    Reconciliation,
    Renewal,
    SessionRecord,
    State,
    Taken,
    rules,
)
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.connections.whole_looks import HeldLooks
from firelock_sql.rows.batch_row import MemberCounts
from firelock_sql.rows.job_row import (
    CLAIMED_COLUMNS,
    IS_HELD,
    claimed_job,
    load_rows,
    read_state,
    save_rows,
)
from firelock_sql.verbs.claim import SERVER
from firelock_sql.verbs.settle import clear_tail, take_back

_SECOND = 1_000_000
_LONGEST_WAIT = _SECOND // 4  # for the right to write, when nobody holds it for long

_FIELDS = (
    "id", "server_id", "server", "host", "pid", "started_at", "timeout_seconds", "workers", "queues",
    "version",
)  # fmt: skip
# Of a renewal, in its order, behind its session.
_REPORTED = (
    "busy", "reported", "rss_bytes", "cpu_percent", "stuck_threads", "stuck_coroutines", "parked",
)  # fmt: skip
_BEGIN = insert_into("firelock_sessions", *_FIELDS, "expires_at")
_KNOWN = Text("SELECT id FROM firelock_sessions WHERE id = :session")
_TIMEOUT = Text("SELECT timeout_seconds FROM firelock_sessions WHERE id = :session AND died_at IS NULL")
_RENEW = Text(f"""
UPDATE firelock_sessions
SET expires_at = :expires_at, {", ".join(f"{name} = :{name}" for name in _REPORTED)}
WHERE id = :session AND died_at IS NULL
""")  # noqa: S608 - names of columns
_DIE = Text("""
UPDATE firelock_sessions SET died_at = :at, forget_at = :forget_at WHERE id = :session AND died_at IS NULL
""")
# For `begin_session`: the dead sessions of a server have been followed by another one.
_FOLLOW = Text("""
UPDATE firelock_sessions SET is_followed = 1, forget_at = forget_at - :earlier
WHERE server_id = :server_id AND died_at IS NOT NULL AND is_followed = 0
""")
_EARLIER = rules.forget_at(0, is_followed=False) - rules.forget_at(0, is_followed=True)
_LOCK = Text("""
SELECT server, expires_at, timeout_seconds FROM firelock_sessions
WHERE id = :session AND died_at IS NULL FOR UPDATE
""")
# For `orphans`: as `rules.has_expired` says.
_EXPIRED = Text("""
SELECT id FROM firelock_sessions
WHERE died_at IS NULL AND (expires_at <= :earliest OR expires_at - 2000000 * timeout_seconds > :latest)
ORDER BY expires_at LIMIT :most
""")
_SESSIONS = f"""
SELECT {", ".join(_FIELDS)}, expires_at, died_at, {", ".join(_REPORTED)}
FROM firelock_sessions
"""  # noqa: S608 - names of columns
_LIST = Text(f"{_SESSIONS} ORDER BY started_at, id")
_OLDEST = Text(f"{_SESSIONS} WHERE died_at IS NULL ORDER BY started_at, id LIMIT 1")
_HELD_IDS = Text("""
SELECT id FROM firelock_jobs INDEXED BY firelock_holder WHERE session = :session ORDER BY seq
""")
_HELD = Text("""
SELECT id, state, fence, session FROM firelock_jobs INDEXED BY firelock_holder
WHERE session = :session
""")
# What became of jobs that a session does not hold any more; sent only if there are any.
_NAMED = Text("SELECT id, state, fence, session FROM firelock_jobs WHERE id IN :ids")
# What a session holds without knowing it; sent only if there is any.
_UNKNOWN = Text(f"""
SELECT {CLAIMED_COLUMNS}, marks, session FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY seq
""")  # noqa: S608 - names of columns
_START = Text(f"UPDATE firelock_jobs SET started_at = :started_at WHERE {IS_HELD}")  # noqa: S608 - ours


class SqlSessionVerbs(SqlVerbs):
    """What servers say of their children."""

    _held_looks: HeldLooks | None = None  # None: reads of what a session holds are always whole

    @override
    def begin_session(self, session: NewSession) -> None:
        fields = {name: getattr(session, name) for name in _FIELDS}

        def begin(tx: Transaction) -> None:
            if tx.one(_KNOWN, session=session.id) is None:
                tx.run(_FOLLOW, server_id=session.server_id, earlier=_EARLIER)
                tx.run(_BEGIN, **fields, expires_at=tx.now + int(session.timeout_seconds * _SECOND))

        self._database.write(begin)

    @override
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return self._database.write(lambda tx: [_renew(tx, one) for one in renewals]) if renewals else []

    @override
    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        is_writing = any(one.started_at is not None for one in held)
        transact = self._database.write if is_writing else self._database.read
        return transact(lambda tx: _reconcile(tx, session, held, self._held_looks))

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        taken = self._database.write(lambda tx: _end(tx, session, running, reason))
        return taken or Taken(session, "", [], [])

    @override
    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        def expired(tx: Transaction) -> list[str]:
            earliest, latest = rules.clocks(tx.now, as_of)
            return [row[0] for row in tx.all(_EXPIRED, earliest=earliest, latest=latest, most=limit)]

        ended = [self._end_expired(session, as_of) for session in self._database.read(expired)]
        return [taken for taken in ended if taken is not None]

    def _end_expired(self, session: str, as_of: int | None) -> Taken | None:
        asked_at = self._database.clock()
        return self._database.write(lambda tx: end_expired(tx, session, asked_at, as_of=as_of))

    @override
    def oldest_session(self) -> SessionRecord | None:
        """One index entry and its row, however many sessions are stored."""
        row = self._database.read(lambda tx: tx.one(_OLDEST))
        return None if row is None else _record(row)

    @override
    def list_sessions(self) -> list[SessionRecord]:
        return [_record(row) for row in self._database.read(lambda tx: tx.all(_LIST))]


def _record(row: Any) -> SessionRecord:  # noqa: ANN401 - a driver's row
    return SessionRecord(NewSession(*row[:10]), row[10], row[11] is None, Renewal(row[0], *row[12:]))


def _renew(tx: Transaction, renewal: Renewal) -> bool:
    found = tx.one(_TIMEOUT, session=renewal.session)
    if found is None:
        return False
    expires_at = tx.now + int(found[0] * _SECOND)
    session, *reported = attrs.astuple(renewal)
    told = dict(zip(_REPORTED, reported, strict=True))
    return tx.changed(_RENEW, session=session, expires_at=expires_at, **told) > 0


def _reconcile(
    tx: Transaction, session: str, held: Sequence[Held], looks: HeldLooks | None
) -> Reconciliation:
    """See `Storage.reconcile`; writes only where a start is given.

    It reads few columns, and only of unknown jobs the whole row: what a session holds may be large.
    """
    is_lost = tx.one(SERVER, session=session) is None
    left = {(row[0], row[2]): row for row in _held_rows(tx, session, held, looks)}  # by id and fence
    not_held = []
    for one in held:
        row = left.pop((one.job_id, one.fence), None)
        if row is None or row[1] != State.PROCESSING:
            not_held.append(one)
        elif one.started_at is not None:
            tx.run(_START, id=one.job_id, session=session, fence=one.fence, started_at=one.started_at)
    lost = _lost(tx, not_held) if not_held else []
    unknown = tx.all(_UNKNOWN, ids=[id for id, _ in left]) if left else []
    return Reconciliation(
        is_lost, lost, [claimed_job(row[:-2], row[-2]) for row in unknown if row[-1] == session]
    )


def _held_rows(
    tx: Transaction, session: str, held: Sequence[Held], looks: HeldLooks | None
) -> Sequence[Sequence[Any]]:
    """Return id, state, fence and session of what the session holds, or of those that the caller names."""
    if looks is None:
        return tx.all(_HELD, session=session)
    if not looks.is_time:
        rows = tx.all(_NAMED, ids=[one.job_id for one in held]) if held else []
        return [row for row in rows if row[3] == session]
    begun = looks.clock()
    rows = tx.all(_HELD, session=session)
    looks.looked(looks.clock() - begun)
    return rows


def _lost(tx: Transaction, not_held: Sequence[Held]) -> list[LostClaim]:
    rows = {row[0]: row for row in tx.all(_NAMED, ids=[one.job_id for one in not_held])}
    lost = []
    for one in not_held:
        if (row := rows.get(one.job_id)) is None:
            lost.append(LostClaim(one))
        else:
            state = read_state(row[1])
            has_tail = row[3] is not None and state is not State.PROCESSING
            lost.append(LostClaim(one, state, row[2], has_tail))
    return lost


def _end(
    tx: Transaction,
    session: str,
    running: Collection[str] | None,
    reason: str,
    *,
    is_expired_only: bool = False,
    as_of: int | None = None,
) -> Taken | None:
    """See `Storage.end_session`; with `is_expired_only` one that lives on is left alone: None."""
    found = tx.one(_LOCK, session=session)  # a claim under way has ended, none begins
    if found is None or (is_expired_only and not rules.has_expired(*found[1:], now=tx.now, as_of=as_of)):
        return None
    tx.run(_DIE, session=session, at=tx.now, forget_at=rules.forget_at(tx.now, is_followed=False))
    ids = [row[0] for row in tx.all(_HELD_IDS, session=session)]
    taken = Taken(session, str(found[0]), [], [])
    if not ids:
        return taken
    rows = load_rows(tx, ids)
    counts = MemberCounts(tx, rows.values())
    for id in ids:
        row = rows.get(id)
        if row is None or row.session != session:  # its end came first
            continue
        if row.state != State.PROCESSING:
            clear_tail(tx, row)
            continue
        is_crash = running is None or id in running
        take_back(tx, row, crash=reason if is_crash else None)
        (taken.crashed if is_crash else taken.returned).append(id)
    save_rows(tx, rows.values())
    counts.tell()
    return taken


def end_expired(tx: Transaction, session: str, asked_at: int, *, as_of: int | None = None) -> Taken | None:
    """The session is ended if it is still expired, and could have been renewed.

    Who had to wait for the database was not the only one: those who want to renew come first, and the session
    is looked at again with the next sweep.
    """
    if tx.now - asked_at > _LONGEST_WAIT:
        return None
    return _end(tx, session, None, Moved.SESSION_LOST.value, is_expired_only=True, as_of=as_of)
