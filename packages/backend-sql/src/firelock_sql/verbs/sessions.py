"""The start, renewal, reconciliation and end of sessions."""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import attrs
from typing_extensions import override

from firelock.storage import (
    Finding,
    HeldClaim,
    LostClaim,
    Moved,
    NewSession,
    Reconciliation,
    Renewal,
    SessionRecord,
    Severity,
    State,
    Taken,
    rules,
)
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.full_reads import HeldReadSchedule
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.batch_row import MemberCounts
from firelock_sql.rows.job_row import (
    CLAIMED_COLUMNS,
    IS_HELD,
    claimed_job,
    load_rows,
    lock_free,
    read_state,
    save_rows,
)
from firelock_sql.verbs.claim import SERVER
from firelock_sql.verbs.settle import clear_tail, return_to_queue

_SECOND = 1_000_000
_LONGEST_WAIT = _SECOND // 4  # a longer wait for the database may have delayed renewals as well
_MOMENT = 0.05  # seconds; long enough for a short transaction of Firelock to end
_LONG_CLOSING = 60 * _SECOND  # the time after which `firelock doctor` lists the locked jobs
_CLOSING_SHOWN, _LOCKED_SHOWN = 10, 3  # maximum number of sessions in the findings, and of jobs per session
_TAKEN_AT_ONCE = 500  # maximum number of jobs per transaction, if the database locks rows

_FIELDS = tuple(field.name for field in attrs.fields(NewSession))
_OF_RENEWAL = tuple(field.name for field in attrs.fields(Renewal) if field.name != "session")
_REPORTED = tuple({"state": "reported"}.get(name, name) for name in _OF_RENEWAL)  # their columns
_BEGIN = insert_into("firelock_sessions", *_FIELDS, "expires_at")
_KNOWN = Text("SELECT id FROM firelock_sessions WHERE id = :session")
_TIMEOUT = Text("SELECT timeout_seconds FROM firelock_sessions WHERE id = :session AND died_at IS NULL")
_RENEW = Text(f"""
UPDATE firelock_sessions
SET expires_at = :expires_at, {", ".join(f"{name} = :{name}" for name in _REPORTED)}
WHERE id = :session AND died_at IS NULL
""")  # noqa: S608 - names of columns
# A closing session is kept until it holds no jobs.
_DIE = Text("""
UPDATE firelock_sessions
SET died_at = :at, forget_at = :forget_at, closing_since = :closing_since, blame = :blame WHERE id = :session
""")
# For `begin_session`: marks the dead sessions of a server as followed by another session.
_FOLLOW = Text("""
UPDATE firelock_sessions SET is_followed = 1, forget_at = forget_at - :earlier
WHERE server_id = :server_id AND died_at IS NOT NULL AND is_followed = 0
""")
_EARLIER = rules.forget_at(0, is_followed=False) - rules.forget_at(0, is_followed=True)
_LOCK_COLUMNS = """
SELECT server, expires_at, timeout_seconds FROM firelock_sessions
WHERE id = :session AND died_at IS NULL FOR UPDATE
"""
_LOCK, _LOCK_FREE = Text(_LOCK_COLUMNS), Text(f"{_LOCK_COLUMNS} SKIP LOCKED")
# For `orphans`: the same condition as `rules.has_expired`.
_EXPIRED = Text("""
SELECT id FROM firelock_sessions
WHERE died_at IS NULL AND (expires_at <= :earliest OR expires_at - 2000000 * timeout_seconds > :latest)
ORDER BY expires_at LIMIT :most
""")
_CLOSING = Text("""
SELECT id FROM firelock_sessions INDEXED BY firelock_closing WHERE closing_since IS NOT NULL
""")
_LONG = Text("""
SELECT id, server, closing_since FROM firelock_sessions INDEXED BY firelock_closing
WHERE closing_since <= :before ORDER BY closing_since LIMIT :most
""")
_BLAME = Text("""
SELECT server, blame FROM firelock_sessions WHERE id = :session AND closing_since IS NOT NULL
""")
_LOCK_CLOSING = Text("SELECT id FROM firelock_sessions WHERE id = :session FOR UPDATE SKIP LOCKED")
_CLOSED = Text("""
UPDATE firelock_sessions
SET closing_since = NULL, blame = NULL, forget_at = died_at + :stays - is_followed * :earlier
WHERE id = :session
""")
_STAYS = {"stays": rules.forget_at(0, is_followed=False), "earlier": _EARLIER}
_SESSIONS = f"""
SELECT {", ".join(_FIELDS)}, expires_at, died_at, closing_since IS NOT NULL, {", ".join(_REPORTED)}
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
# The current state of jobs that a session no longer holds; sent only if there are such jobs.
_NAMED = Text("SELECT id, state, fence, session FROM firelock_jobs WHERE id IN :ids")
# The jobs of a session that its worker process has not reported; sent only if there are such jobs.
_UNKNOWN = Text(f"""
SELECT {CLAIMED_COLUMNS}, marks, session FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY seq
""")  # noqa: S608 - names of columns
_START = Text(f"UPDATE firelock_jobs SET started_at = :started_at WHERE {IS_HELD}")  # noqa: S608 - ours


class SqlSessionVerbs(SqlVerbs):
    """The verbs for the sessions of worker processes."""

    _held_reads: HeldReadSchedule | None = None  # if None, all jobs of a session are always read
    _continued_last = ""  # the last closing session whose jobs a sweep of this process tried to return

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
    def reconcile(self, session: str, held: Sequence[HeldClaim]) -> Reconciliation:
        is_writing = any(one.started_at is not None for one in held)
        transact = self._database.write if is_writing else self._database.read
        return transact(lambda tx: _reconcile(tx, session, held, self._held_reads))

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """See `Storage.end_session`. This verb waits for an uncommitted claim of the session.

        If rows are locked, retry them once after 50 ms. By then, a short transaction, for example one that
        stores the last memo of a dead process, has ended, so its job does not have to wait for the next
        sweep.
        """
        blame = _Blame(reason, None if running is None else frozenset(running))
        taken = self._end(lambda tx: _mark_dead(tx, session, blame))
        if taken is None:
            return self._continue_closing(session)[0]
        if not taken.left:
            return taken
        time.sleep(_MOMENT)
        more, _ = self._continue_closing(session)
        return attrs.evolve(
            taken,
            crashed=[*taken.crashed, *more.crashed],
            returned=[*taken.returned, *more.returned],
            left=more.left,
        )

    @override
    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        """See `Storage.orphans`. This verb also returns unlocked jobs of up to `limit` closing sessions.

        Later calls continue with the other closing sessions. A session that is locked by an uncommitted claim
        is left for the next call.
        """
        expired, closing = self._database.read(
            lambda tx: (_find_expired(tx, limit, as_of), _find_closing(tx))
        )
        ended = [self._end_expired(session, as_of) for session in expired]
        first = bisect_right(closing, self._continued_last)
        for session in [*closing[first:], *closing[:first]][:limit]:
            # this is set first, so that a session that causes an error cannot block others in the next sweep
            self._continued_last = session
            taken, number = self._continue_closing(session)
            ended.append(taken if number else None)
        return [one for one in ended if one is not None]

    def _end_expired(self, session: str, as_of: int | None) -> Taken | None:
        asked_at = self._database.clock()
        return self._end(lambda tx: mark_expired_dead(tx, session, asked_at, as_of=as_of))

    def _end(self, mark_dead: Callable[[Transaction], _Dead | None]) -> Taken | None:
        """Mark a session as dead and return its jobs to their queues; return None if it was not marked.

        If the database locks rows, commit the mark first. Otherwise do both in one transaction.
        """
        if self._database.locks_rows:
            dead = self._database.write(mark_dead)
            return None if dead is None else self._take_all(dead)[0]

        def end(tx: Transaction) -> Taken | None:
            dead = mark_dead(tx)
            if dead is None or not dead.is_closing:
                return None if dead is None else Taken(dead.session, dead.server, [], [])
            return _take_last(tx, dead, dead.held).taken

        return self._database.write(end)

    def _continue_closing(self, session: str) -> tuple[Taken, int]:
        """Run `_take_all` for a closing session; return its result, or an empty one for any other session."""
        dead = self._database.read(lambda tx: _find_dead(tx, session))
        return (Taken(session, "", [], []), 0) if dead is None else self._take_all(dead)

    def _take_all(self, dead: _Dead) -> tuple[Taken, int]:
        """Return the unlocked jobs of a dead session to their queues; return the result and the row count."""
        taken, number = Taken(dead.session, dead.server, [], []), 0
        if not dead.is_closing:
            return taken, number
        last = max(0, len(dead.held) - 1) // _TAKEN_AT_ONCE * _TAKEN_AT_ONCE
        for at in range(0, last + 1, _TAKEN_AT_ONCE):
            ids, take = dead.held[at : at + _TAKEN_AT_ONCE], _take_last if at == last else _take
            part = self._database.write(lambda tx: take(tx, dead, ids))  # noqa: B023 - runs now
            taken.crashed.extend(part.taken.crashed)
            taken.returned.extend(part.taken.returned)
            taken = attrs.evolve(taken, left=part.taken.left)
            number += part.number
        return taken, number

    @override
    def oldest_session(self) -> SessionRecord | None:
        """See `Storage.oldest_session`. This verb reads one row, regardless of the number of sessions."""
        row = self._database.read(lambda tx: tx.one(_OLDEST))
        return None if row is None else _record(row)

    @override
    def list_sessions(self) -> list[SessionRecord]:
        return [_record(row) for row in self._database.read(lambda tx: tx.all(_LIST))]

    def _diagnose_sessions(self) -> list[Finding]:
        """Return a finding for each session that has been closing for more than a minute, oldest first."""
        schema = self._database.schema_state()
        if not self._database.locks_rows or schema.found != schema.wanted:
            return []
        return self._database.read(_find_long_closing)


def _record(row: Any) -> SessionRecord:  # noqa: ANN401 - a driver's row
    """Return a row of `_SESSIONS` as a session."""
    fields, (expires_at, died_at, is_closing), reported = _parts(row)
    session = NewSession(**dict(zip(_FIELDS, fields, strict=True)))
    renewal = Renewal(session.id, **dict(zip(_OF_RENEWAL, reported, strict=True)))
    return SessionRecord(
        session=session,
        expires_at=expires_at,
        is_alive=died_at is None,
        renewal=renewal,
        is_closing=bool(is_closing),
    )


def _parts(row: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    end = len(_FIELDS)
    return row[:end], row[end : -len(_REPORTED)], row[-len(_REPORTED) :]


def _renew(tx: Transaction, renewal: Renewal) -> bool:
    found = tx.one(_TIMEOUT, session=renewal.session)
    if found is None:
        return False
    expires_at = tx.now + int(found[0] * _SECOND)
    session, *reported = attrs.astuple(renewal)
    values = dict(zip(_REPORTED, reported, strict=True))
    return tx.changed(_RENEW, session=session, expires_at=expires_at, **values) > 0


def _reconcile(
    tx: Transaction, session: str, held: Sequence[HeldClaim], schedule: HeldReadSchedule | None
) -> Reconciliation:
    """See `Storage.reconcile`. This function writes only if `held` contains start times.

    A session may hold many large jobs, so only a few columns are read, and all columns only for unknown jobs.
    """
    is_lost = tx.one(SERVER, session=session) is None
    left = {(row.id, row.fence): row for row in _held_rows(tx, session, held, schedule)}
    not_held, started = [], []
    for one in held:
        row = left.pop((one.job_id, one.fence), None)
        if row is None or row.state != State.PROCESSING:
            not_held.append(one)
        elif one.started_at is not None:
            started.append(one)
    lost = _lost(tx, not_held) if not_held else []
    busy = _start(tx, session, started) if started else []
    unknown = tx.all(_UNKNOWN, ids=[id for id, _ in left]) if left else []
    found = [claimed_job(row, marks) for *row, marks, holder in unknown if holder == session]
    return Reconciliation(is_lost, lost, found, busy)


def _start(tx: Transaction, session: str, started: Sequence[HeldClaim]) -> list[str]:
    """Store the start times of jobs; return the jobs that other transactions have locked."""
    free = lock_free(tx, [one.job_id for one in started])
    for one in started:
        if one.job_id in free:
            tx.run(_START, id=one.job_id, session=session, fence=one.fence, started_at=one.started_at)
    return [one.job_id for one in started if one.job_id not in free]


class _HeldRow(NamedTuple):
    id: str
    state: str
    fence: int
    session: str | None


def _held_rows(
    tx: Transaction, session: str, held: Sequence[HeldClaim], schedule: HeldReadSchedule | None
) -> list[_HeldRow]:
    """Return the jobs that the session holds: all of them, or only those that the caller names."""
    if schedule is None:
        return list(map(_HeldRow._make, tx.all(_HELD, session=session)))
    if not schedule.is_due:
        return [row for row in _named_rows(tx, held) if row.session == session]
    begun = schedule.clock()
    rows = tx.all(_HELD, session=session)
    schedule.record(schedule.clock() - begun)
    return list(map(_HeldRow._make, rows))


def _named_rows(tx: Transaction, held: Sequence[HeldClaim]) -> list[_HeldRow]:
    rows = tx.all(_NAMED, ids=[one.job_id for one in held]) if held else []
    return list(map(_HeldRow._make, rows))


def _lost(tx: Transaction, not_held: Sequence[HeldClaim]) -> list[LostClaim]:
    rows = {row.id: row for row in _named_rows(tx, not_held)}
    lost = []
    for one in not_held:
        if (row := rows.get(one.job_id)) is None:
            lost.append(LostClaim(one))
        else:
            state = read_state(row.state)
            has_tail = row.session is not None and state is not State.PROCESSING
            lost.append(LostClaim(one, state, row.fence, has_tail))
    return lost


# ---- ending ----------------------------------------------------------------------------------------------


@attrs.frozen
class _Blame:
    """The jobs for which a crash is counted when their session ends, and the reason in their history."""

    reason: str
    running: frozenset[str] | None  # ids of the jobs; None for all jobs

    def is_for(self, job_id: str) -> bool:
        return self.running is None or job_id in self.running

    def text(self, held: Sequence[str]) -> str:
        """Return the blame as JSON that is stored with a session that holds these jobs."""
        running = None if self.running is None else [id for id in held if id in self.running]
        return json.dumps({"reason": self.reason, "running": running})

    @classmethod
    def read(cls, text: str) -> _Blame:
        """Return a stored blame; an unreadable blame applies to all jobs of the session."""
        try:
            stored = json.loads(text)
            running = stored["running"]
        except (KeyError, TypeError, ValueError):
            return cls(Moved.SESSION_LOST.value, None)
        return cls(stored["reason"], None if running is None else frozenset(running))


@attrs.frozen
class _Dead:
    """A session that is marked as dead, and the ids of the jobs that it holds."""

    session: str
    server: str
    blame: _Blame
    held: list[str]
    is_closing: bool  # whether the session is stored as closing, until it holds no jobs


@attrs.frozen
class _Part:
    """The result of one transaction that returns jobs of a dead session."""

    taken: Taken
    number: int  # number of jobs and tails


def _find_expired(tx: Transaction, limit: int, as_of: int | None) -> list[str]:
    """Return up to `limit` expired sessions, in the order in which they expired."""
    earliest, latest = rules.clocks(tx.now, as_of)
    return [str(row[0]) for row in tx.all(_EXPIRED, earliest=earliest, latest=latest, most=limit)]


def _find_closing(tx: Transaction) -> list[str]:
    """Return all closing sessions, in order of id."""
    return sorted(str(row[0]) for row in tx.all(_CLOSING))


def _find_dead(tx: Transaction, session: str) -> _Dead | None:
    """Return a closing session with its remaining jobs and its blame; None if the session is not closing."""
    found = tx.one(_BLAME, session=session)
    if found is None:
        return None
    server, blame = found
    return _Dead(session, server, _Blame.read(blame), _held_ids(tx, session), is_closing=True)


def _held_ids(tx: Transaction, session: str) -> list[str]:
    return [str(row[0]) for row in tx.all(_HELD_IDS, session=session)]


def _mark_dead(tx: Transaction, session: str, blame: _Blame) -> _Dead | None:
    """Mark a living session as dead, and store the blame if it holds jobs; return None if it is not alive."""
    found = tx.one(_LOCK, session=session)  # waits for an open claim; no other claim can start
    return None if found is None else _die(tx, session, str(found[0]), blame)


def mark_expired_dead(
    tx: Transaction, session: str, asked_at: int, *, as_of: int | None = None
) -> _Dead | None:
    """Mark a session as dead if it is still expired and is not locked.

    If this transaction had to wait for the database, renewals may have waited too. In this case, the session
    is left for the next sweep, so that the renewals can still be stored.
    """
    if tx.now - asked_at > _LONGEST_WAIT:
        return None
    found = tx.one(_LOCK_FREE, session=session)
    if found is None or not rules.has_expired(*found[1:], now=tx.now, as_of=as_of):
        return None
    return _die(tx, session, str(found[0]), _Blame(Moved.SESSION_LOST.value, None))


def _die(tx: Transaction, session: str, server: str, blame: _Blame) -> _Dead:
    """Mark a session that this transaction has locked as dead, and as closing if it holds jobs."""
    held = _held_ids(tx, session)
    closing_since, text = (tx.now, blame.text(held)) if held else (None, None)
    forget_at = None if held else rules.forget_at(tx.now, is_followed=False)
    tx.run(
        _DIE, session=session, at=tx.now, forget_at=forget_at, closing_since=closing_since, blame=text
    )  # fmt: skip
    return _Dead(session, server, blame, held, is_closing=bool(held))


def _take(tx: Transaction, dead: _Dead, ids: Sequence[str]) -> _Part:
    """Return these jobs of a dead session to their queues, and clear its tails; skip locked rows."""
    taken, number = Taken(dead.session, dead.server, [], []), 0
    rows = load_rows(tx, ids, is_patient=False) if ids else {}
    counts = MemberCounts(tx, rows.values())
    for id in ids:
        row = rows.get(id)
        # another transaction has locked the job or stored its result
        if row is None or row.session != dead.session:
            continue
        number += 1
        if row.state != State.PROCESSING:
            clear_tail(tx, row)
            continue
        is_crash = dead.blame.is_for(id)
        return_to_queue(tx, row, crash=dead.blame.reason if is_crash else None)
        (taken.crashed if is_crash else taken.returned).append(id)
    save_rows(tx, rows.values())
    counts.store()
    return _Part(taken, number)


def _take_last(tx: Transaction, dead: _Dead, ids: Sequence[str]) -> _Part:
    """Return the last jobs of a dead session to their queues; it stays closing only if it still holds jobs.

    A dead session cannot claim jobs, so a session without jobs does not get any new ones.
    """
    part = _take(tx, dead, ids)
    left = len(_held_ids(tx, dead.session))
    # if the session is locked, the next sweep deletes the mark
    if not left and tx.one(_LOCK_CLOSING, session=dead.session) is not None:
        tx.run(_CLOSED, session=dead.session, **_STAYS)
    return attrs.evolve(part, taken=attrs.evolve(part.taken, left=left))


# ---- findings --------------------------------------------------------------------------------------------

_LISTS_TRANSACTIONS = {"postgresql": "pg_stat_activity"}


def _find_long_closing(tx: Transaction) -> list[Finding]:
    long = tx.all(_LONG, before=tx.now - _LONG_CLOSING, most=_CLOSING_SHOWN)
    return [
        _long_closing(tx, str(server), int(since), held)
        for session, server, since in long
        if (held := _held_ids(tx, str(session)))
    ]


def _long_closing(tx: Transaction, server: str, since: int, held: Sequence[str]) -> Finding:
    minutes = (tx.now - since) // (60 * _SECOND)
    jobs = "1 of its jobs is" if len(held) == 1 else f"{len(held)} of its jobs are"
    more = ", …" if len(held) > _LOCKED_SHOWN else ""
    table = _LISTS_TRANSACTIONS.get(tx.dialect.name, "information_schema.innodb_trx")
    return Finding(
        Severity.ERROR,
        "closing_session",
        f"Server {server} ended {minutes} min ago, but {jobs} not back in a queue, because other "
        f"transactions have locked the rows: {', '.join(held[:_LOCKED_SHOWN])}{more}.",
        f"End the transaction that holds the rows ({table} lists open transactions). Then the next sweep of "
        "a server returns the jobs to their queues.",
        subject=f"server {server}",
        values={"server": server, "jobs": tuple(held[:_LOCKED_SHOWN]), "count": len(held)},
        since=since,
    )
