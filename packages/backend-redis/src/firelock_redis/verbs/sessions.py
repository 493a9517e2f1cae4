"""Sessions: begun, renewed, compared, ended.

The first partition holds a session and judges whether it lives. The others know of it what a claim there
asks: whether it is alive, and its server's name. An end is marked in the first one, for ever, then told to
each of the others in the step that takes the jobs there; what its maker did not live to finish, a sweep does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from string import ascii_letters

import attrs
from typing_extensions import override

from firelock.storage import (
    ClaimedJob,
    Held,
    LostClaim,
    Moved,
    NewSession,
    Reconciliation,
    Renewal,
    SessionRecord,
    StorageUnavailable,
    Taken,
)
from firelock_redis.connections.database import RedisDatabase, RedisVerbs
from firelock_redis.layout.encoding import claimed_job, number_word, quoted, state_of, text_of
from firelock_redis.layout.partitions import EVERYWHERE

_SECOND = 1_000_000
_JOBS_AT_ONCE = 400  # that one step of an end takes back
_GIVEN_UP = 10 * _SECOND  # after which the maker of an unfinished end is taken for dead
_MARK_MILLISECONDS = 2 * 86_400_000  # a day beyond the longest for which the first partition keeps a dead one
_EXPIRED = 1  # by the clock of Redis alone
_NO_DIGITS = ascii_letters + "+"  # the state and the flags of a record, in front of its attempt
_NOT_STARTED = quoted(Moved.NOT_STARTED.value)


# ---- life ------------------------------------------------------------------------------------------------


class SessionVerbs(RedisVerbs):
    """The verbs of sessions."""

    @override
    def begin_session(self, session: NewSession) -> None:
        """One round trip a partition, the first one first."""
        token = quoted(session.server)
        timeout = int(session.timeout_seconds * _SECOND)
        info = _json(attrs.astuple(session))
        lives = self._run(
            "sessions.begin",
            0,
            session.id,
            token,
            info,
            session.started_at,
            timeout,
            session.server_id,
        )
        if lives:
            for partition in range(1, self._partitions.number):
                self._run("sessions.admit", partition, session.id, token)

    @override
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """One round trip."""
        arguments: list[str] = []
        for renewal in renewals:
            session, *reported = attrs.astuple(renewal)
            arguments += (session, _json(reported))
        replies = self._run("leases.renew", 0, *arguments) if renewals else []
        return list(map(bool, replies))

    @override
    def oldest_session(self) -> SessionRecord | None:
        """One round trip, however many sessions are stored."""
        found = self._run("leases.oldest", 0)
        return None if found is None else _record(*found)

    @override
    def list_sessions(self) -> list[SessionRecord]:
        """One round trip for 500 of them."""
        return [_record(*fields) for fields in self._run_on("leases.list", 0)]

    @override
    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        """One round trip a partition, and lost where one of them does not know it."""
        is_lost = False
        lost: dict[int, LostClaim] = {}  # by the place among what is held
        unknown: list[ClaimedJob] = []
        parted = self._partitions.parted(range(len(held)), lambda place: held[place].job_id)
        for partition in range(self._partitions.number):
            places = parted.get(partition, [])
            arguments: list[str | int] = []
            for place in places:
                one = held[place]
                arguments += (one.job_id, one.fence, number_word(one.started_at))
            lives, not_held, others = self._run("sessions.reconcile", partition, session, *arguments)
            is_lost = is_lost or not lives
            for number, *stored in not_held:
                lost[places[number]] = _lost(held[places[number]], *stored)
            unknown += (_unknown(*three) for three in others)
        return Reconciliation(is_lost, [lost[place] for place in sorted(lost)], unknown)

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """With one partition one step, which takes 400 jobs; further ones take what is held beyond that.

        Also what is held in other partitions. The session is dead from the first step on, so nothing comes to
        it between them, and closing until the last. Asked again, it finishes what it had to break off,
        blaming those that it was told of at first.
        """
        taken = _end(self.database, session, running, reason)
        self._turns.note(EVERYWHERE)
        return taken or Taken(session, "", [], [])

    @override
    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        """Also finishes ends whose makers did not live to do so.

        A session that cannot be ended now does not hinder the others: it is dead from its first step on, and
        the next sweep finishes it.
        """
        by = _EXPIRED if as_of is None else as_of
        expired, ending = self._run("leases.orphans", 0, limit, _GIVEN_UP, by)
        found: list[Taken] = []
        failed: StorageUnavailable | None = None
        reason = Moved.SESSION_LOST.value
        for session in (*expired, *ending)[:limit]:
            try:
                taken = _end(self.database, session, None, reason, expired_by=by)
            except StorageUnavailable as error:
                failed = error
                continue
            if taken is not None:
                found.append(taken)
        if failed is not None and not found:
            raise failed
        if found:
            self._turns.note(EVERYWHERE)
        return found


def _record(
    info: str, expires_at: str, alive: str, renewal: str, running: str | None = None
) -> SessionRecord:
    session = NewSession(*json.loads(info)[:_SESSION_FIELDS])
    said = json.loads(renewal)[: _RENEWAL_FIELDS - 1] if renewal else ()
    is_closing = alive != "1" and running is not None
    return SessionRecord(session, int(expires_at), alive == "1", Renewal(session.id, *said), is_closing)


_SESSION_FIELDS, _RENEWAL_FIELDS = len(attrs.fields(NewSession)), len(attrs.fields(Renewal))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ---- beliefs ---------------------------------------------------------------------------------------------


def _lost(held: Held, letter: str = "", fence: str = "0", has_tail: int = 0) -> LostClaim:
    return LostClaim(held, state_of(letter), int(fence), bool(has_tail)) if letter else LostClaim(held)


def _unknown(id: str, record: str, payload: str) -> ClaimedJob:
    """Return a job of the session; of one that cannot be read as much as handing it back takes.

    Its next claim puts it aside with the reason.
    """
    _, claimed_at, _ = record.rpartition("\n")[2].split("\t", 2)
    try:
        return claimed_job(id, record, payload, int(claimed_at))
    except (ValueError, TypeError):
        state, fence, _ = record.split(" ", 2)
        attempt = int(state.lstrip(_NO_DIGITS))
        return ClaimedJob(id, "", "", "", "", 0, attempt, 0, 0, int(fence), 0, 0, int(claimed_at))


# ---- the end ---------------------------------------------------------------------------------------------


def _end(
    database: RedisDatabase,
    session: str,
    running: Collection[str] | None,
    reason: str,
    *,
    expired_by: int = 0,
) -> Taken | None:
    """The session is ended; return what it held, None where it was dead, is unknown, or may live on.

    Args:
        database: that holds it.
        session: its id.
        running: see `Storage.end_session`.
        reason: see `Storage.end_session`.
        expired_by: 0 to end it in any case; `_EXPIRED` to end it if it has expired; otherwise the `as_of` of
            `Storage.orphans`.
    """
    partitions = database.partitions.number
    blamed = "null" if running is None else _json(list(running))
    reply = database.run(
        "sessions.finish", 0, session, blamed, quoted(reason), _NOT_STARTED, _JOBS_AT_ONCE,
        int(partitions > 1), expired_by,
    )  # fmt: skip
    if reply is None:
        return None
    server, more, blamed, because, crashed, returned = reply
    taken = Taken(session, text_of(server) or "", crashed, returned)
    if more:
        _take_everywhere(database, taken, blamed, because)
        database.run("sessions.finished", 0, session)
    return taken


def _take_everywhere(database: RedisDatabase, taken: Taken, blamed: str, reason: str) -> None:
    """The dead session holds nothing any more, in no partition; what it held is added to `taken`."""
    for partition in range(database.partitions.number):
        more = True
        while more:
            more, crashed, returned = database.run(
                "sessions.take", partition, taken.session, blamed, reason, _NOT_STARTED,
                _JOBS_AT_ONCE, _MARK_MILLISECONDS if partition else 0,
            )  # fmt: skip
            taken.crashed.extend(crashed)
            taken.returned.extend(returned)


def prune_sessions(database: RedisDatabase, limit: int) -> None:
    """Up to `limit` dead sessions that may be forgotten are gone.

    Those that live in some partition and not in the first one are ended there as lost: a failover has made
    the one forget their begin, or the other their end, and nobody else would look for their jobs.
    """
    living = {
        session
        for partition in range(1, database.partitions.number)
        for session in database.run("leases.living", partition)
    }
    for session in database.run("sessions.prune", 0, limit, *living):
        reason = quoted(Moved.SESSION_LOST.value)
        _take_everywhere(database, Taken(session, "", [], []), "null", reason)
