"""The start, renewal, reconciliation and end of sessions.

The first partition stores a session, including whether it is alive. The other partitions store the data that
claims need: whether the session is alive, and the name of its server. A session is first marked as dead in
the first partition, permanently. The script that returns the jobs of another partition to their queues also
marks the session as dead there. If a process dies while it is ending a session, a sweep completes this work.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from typing_extensions import override

from firelock.storage import (
    ClaimedJob,
    HeldClaim,
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
from firelock_redis.layout.encoding import (
    RENEWAL,
    SESSION,
    claim_of,
    claimed_at_of,
    claimed_job,
    number_word,
    quoted,
    state_of,
    text_of,
)
from firelock_redis.layout.partitions import EVERYWHERE
from firelock_redis.layout.wire import encode
from firelock_redis.layout.words import Ended, HeldJob, LostJob, RenewedSession, SessionReply, UnknownJob

_SECOND = 1_000_000
_JOBS_AT_ONCE = 400  # maximum number of jobs that one script call returns to their queues
# A process that needs more than this many microseconds to end a session is considered dead.
_GIVEN_UP = 10 * _SECOND
_MARK_MILLISECONDS = 2 * 86_400_000  # one day longer than the first partition keeps any dead session
_EXPIRED = 1  # only the clock of Redis decides whether a session has expired
_NOT_STARTED = quoted(Moved.NOT_STARTED.value)


# ---- verbs -----------------------------------------------------------------------------------------------


class SessionVerbs(RedisVerbs):
    """The verbs of sessions."""

    @override
    def begin_session(self, session: NewSession) -> None:
        """See `Storage.begin_session`. This takes one round trip per partition, beginning with the first."""
        server = quoted(session.server)
        timeout = int(session.timeout_seconds * _SECOND)
        info = SESSION.write_of(session)
        is_alive = self._run(
            "sessions.begin",
            0,
            session.id,
            server,
            info,
            session.started_at,
            timeout,
            session.server_id,
        )
        if is_alive:
            for partition in range(1, self._partitions.number):
                self._run("sessions.admit", partition, session.id, server)

    @override
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `Storage.renew`. This takes one round trip."""
        arguments: list[str] = []
        for renewal in renewals:
            arguments += RenewedSession(session=renewal.session, renewal=RENEWAL.write_of(renewal))
        replies = self._run("leases.renew", 0, *arguments) if renewals else []
        return list(map(bool, replies))

    @override
    def oldest_session(self) -> SessionRecord | None:
        """See `Storage.oldest_session`. This takes one round trip for any number of sessions."""
        found = self._run("leases.oldest", 0)
        return None if found is None else _record(found)

    @override
    def list_sessions(self) -> list[SessionRecord]:
        """See `Storage.list_sessions`. This takes one round trip per 500 sessions."""
        return [_record(reply) for reply in self._run_on("leases.list", 0)]

    @override
    def reconcile(self, session: str, held: Sequence[HeldClaim]) -> Reconciliation:
        """See `Storage.reconcile`. This takes one round trip per partition.

        The session is lost if at least one partition does not store it.
        """
        is_lost = False
        lost: dict[int, LostClaim] = {}  # lost jobs, by their position in `held`
        unknown: list[ClaimedJob] = []
        by_partition = self._partitions.by_partition(range(len(held)), lambda place: held[place].job_id)
        for partition in range(self._partitions.number):
            places = by_partition.get(partition, [])
            arguments: list[str | int] = []
            for place in places:
                one = held[place]
                arguments += HeldJob(id=one.job_id, fence=one.fence, started=number_word(one.started_at))
            is_alive, not_held, others = self._run("sessions.reconcile", partition, session, *arguments)
            is_lost = is_lost or not is_alive
            for values in not_held:
                job = LostJob(*values)
                lost[places[job.number]] = _lost(held[places[job.number]], job)
            unknown += (_unknown(UnknownJob(*values)) for values in others)
        return Reconciliation(is_lost, [lost[place] for place in sorted(lost)], unknown)

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """See `Storage.end_session`.

        The first script call returns up to 400 jobs of the first partition to their queues. More script calls
        return the other jobs of this partition and the jobs in other partitions. The session is dead from the
        first script call on, so it gets no more jobs; it is closing until the last call. If this verb was
        interrupted, a repeated call completes its work with the `running` jobs of the first call.
        """
        taken = _end(self.database, session, running, reason)
        self._turns.note(EVERYWHERE)
        return taken or Taken(session, "", [], [])

    @override
    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        """See `Storage.orphans`; also end sessions that a process has begun to end but not finished.

        If one session cannot be ended now, the others are still ended. That session is dead from its first
        script call on, and the next sweep completes the work.
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


def _record(reply: Sequence[Any]) -> SessionRecord:
    of = SessionReply(*reply)
    session = NewSession(**SESSION.read(of.info))
    renewed = RENEWAL.read(of.renewal) if of.renewal else {}
    return SessionRecord(
        session=session,
        expires_at=int(of.expires_at),
        is_alive=of.alive == "1",
        renewal=Renewal(session.id, **renewed),
        is_closing=of.alive != "1" and of.running is not None,
    )


# ---- reconciliation --------------------------------------------------------------------------------------


def _lost(held: HeldClaim, job: LostJob) -> LostClaim:
    if not job.state:
        return LostClaim(held)
    return LostClaim(held, state_of(job.state), int(job.fence), bool(job.tail))


def _unknown(job: UnknownJob) -> ClaimedJob:
    """Return a job of the session.

    A job that cannot be read has only the fields that a hand-back needs. Its next claim settles it as failed.
    """
    claimed_at = claimed_at_of(job.record)
    try:
        return claimed_job(job.id, job.record, job.payload, claimed_at)
    except (ValueError, TypeError):
        attempt, fence = claim_of(job.record)
        return ClaimedJob(
            id=job.id,
            task="",
            arguments="",
            serializer="",
            queue="",
            priority=0,
            attempt=attempt,
            retries=0,
            crashes=0,
            fence=fence,
            created_at=0,
            enqueued_at=0,
            claimed_at=claimed_at,
        )


# ---- end -------------------------------------------------------------------------------------------------


def _end(
    database: RedisDatabase,
    session: str,
    running: Collection[str] | None,
    reason: str,
    *,
    expired_by: int = 0,
) -> Taken | None:
    """End a session; return the jobs that it held, or None if it was dead, is unknown, or is still alive.

    Args:
        database: the database that stores the session.
        session: the id of the session.
        running: see `Storage.end_session`.
        reason: see `Storage.end_session`.
        expired_by: 0 to end the session in any case, `_EXPIRED` to end it only if it has expired, or the
            `as_of` of `Storage.orphans`.
    """
    partitions = database.partitions.number
    blamed = "null" if running is None else encode(list(running))
    reply = database.run(
        "sessions.finish", 0, session, blamed, quoted(reason), _NOT_STARTED, _JOBS_AT_ONCE,
        int(partitions > 1), expired_by,
    )  # fmt: skip
    if reply is None:
        return None
    of = Ended(*reply)
    taken = Taken(session, text_of(of.server) or "", of.crashed, of.returned)
    if of.more:
        _take_everywhere(database, taken, of.running, of.reason)
        database.run("sessions.finished", 0, session)
    return taken


def _take_everywhere(database: RedisDatabase, taken: Taken, blamed: str, reason: str) -> None:
    """Return all jobs of a dead session to their queues in every partition, and add them to `taken`."""
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
    """Delete up to `limit` dead sessions that need not be kept any longer.

    Sessions that are alive in another partition but not in the first one are ended as lost. A failover has
    lost either the start of such a session in the first partition or its death in the other one, and no other
    verb would find the session's jobs.
    """
    living = {
        session
        for partition in range(1, database.partitions.number)
        for session in database.run("leases.living", partition)
    }
    for session in database.run("sessions.prune", 0, limit, *living):
        reason = quoted(Moved.SESSION_LOST.value)
        _take_everywhere(database, Taken(session, "", [], []), "null", reason)
