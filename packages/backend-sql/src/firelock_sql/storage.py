"""`SqlStorage`: the contract, each verb one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from firelock.storage import (
    Applied,
    Claim,
    ClaimRequest,
    Counts,
    DerivedStorage,
    Exchange,
    FailureGroup,
    Feature,
    Finding,
    FoundJobs,
    Held,
    Inserted,
    JobFilter,
    JobHistory,
    JobRecord,
    LogLine,
    NewJob,
    NewSession,
    Progress,
    Promotion,
    Reconciliation,
    Record,
    RecordChange,
    Renewal,
    Rollup,
    SchemaState,
    SessionRecord,
    Taken,
    Transition,
)
from firelock_sql import continuations, find, locks, logs, metrics, records, schema, sessions, upkeep
from firelock_sql.insert import insert_jobs
from firelock_sql.settle import apply_transitions

if TYPE_CHECKING:
    from firelock_sql.job_engine import JobEngine
    from firelock_sql.transaction import Database, Transaction

__all__ = ["SqlStorage"]

_PRUNED_AT_ONCE = 500
_LOCKS_EVERY = 3_600_000_000


class SqlStorage(DerivedStorage):
    """A storage in an SQL database."""

    contract = 1

    def __init__(self, database: Database, engine: JobEngine[Any], features: frozenset[Feature]) -> None:
        self._database = database
        self._engine = engine
        self._locks_looked_at: int | None = None
        self.features = features
        self.url = database.name
        self.connect_url = database.name  # an SQLite URL holds no password

    # ---- life --------------------------------------------------------------------------------------------

    @property
    def clock_offset(self) -> int:
        """Return the micros added to the database's clock."""
        return self._database.clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        self._database.clock_offset = offset

    @override
    def migrate(self) -> list[str]:
        return schema.migrate(self._database)

    def migration_sql(self) -> list[str]:
        """See `SqlSchema.migration_sql`."""
        return schema.statements(self._database)

    @override
    def schema(self) -> SchemaState:
        return schema.state(self._database)

    @override
    def clear(self) -> None:
        self._database.write(schema.clear)
        self._engine.forget()

    @override
    def close(self) -> None:
        self._database.close()

    @override
    def clock(self) -> int:
        return self._database.clock()

    @override
    def describe(self) -> Mapping[str, str]:
        return self._database.describe()

    @override
    def diagnose(self) -> list[Finding]:
        return self._database.diagnose()

    # ---- the hot path ------------------------------------------------------------------------------------

    @override
    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        if within is None and only_if is None:
            return Inserted(self._engine.insert(jobs))

        def insert(tx: Transaction) -> Inserted:
            if only_if is not None:
                return records.insert_if(tx, self._database, jobs, only_if)
            return Inserted(insert_jobs(tx, self._database, jobs))

        return self._database.write(insert) if within is None else self._database.join(within, insert)

    @override
    def claim(self, request: ClaimRequest) -> Claim:
        return self._engine.claim(request)

    @override
    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        if within is None:
            return self._engine.apply(transitions)
        return self._database.join(within, lambda tx: apply_transitions(tx, self._database, transitions))

    @override
    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        return self._engine.exchange(transitions, request)

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        return self._database.wait(queues, timeout_seconds)

    @override
    def interrupt(self) -> None:
        self._database.interrupt()

    # ---- sessions ----------------------------------------------------------------------------------------

    @override
    def begin_session(self, session: NewSession) -> None:
        self._database.write(lambda tx: sessions.begin_session(tx, session))

    @override
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return self._database.write(lambda tx: sessions.renew(tx, renewals)) if renewals else []

    @override
    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        is_writing = any(one.started_at is not None for one in held)
        transact = self._database.write if is_writing else self._database.read
        return transact(lambda tx: sessions.reconcile(tx, session, held))

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        taken = self._database.write(
            lambda tx: sessions.end_session(tx, self._database, session, running, reason=reason)
        )
        self._engine.forget(session)
        return taken or Taken(session, "", [], [])

    @override
    def orphans(self, limit: int) -> list[Taken]:
        expired = self._database.read(lambda tx: sessions.expired_sessions(tx, limit))
        ended = [self._end_expired(session) for session in expired]
        return [taken for taken in ended if taken is not None]

    def _end_expired(self, session: str) -> Taken | None:
        asked_at = self._database.clock()
        return self._database.write(lambda tx: sessions.end_expired(tx, self._database, session, asked_at))

    @override
    def list_sessions(self) -> list[SessionRecord]:
        return self._database.read(sessions.list_sessions)

    # ---- upkeep ------------------------------------------------------------------------------------------

    @override
    def promote(self, limit: int) -> Promotion:
        """Up to `limit` due jobs are enqueued; a look that finds none takes no lock."""
        self._database.tidy()
        idle = self._database.read(lambda tx: None if upkeep.has_due(tx) else upkeep.not_due(tx))
        return idle or self._database.write(lambda tx: upkeep.promote(tx, self._database, limit))

    @override
    def release(self, limit: int) -> int:
        if not self._database.read(continuations.has_releasing):
            return 0
        return self._database.write(lambda tx: continuations.release(tx, self._database, limit))

    @override
    def prune(self, limit: int) -> int:
        """Up to `limit` expired jobs are gone, some hundreds in a transaction."""
        has_news, has_locks = self._database.read(self._has_old)
        if has_news:
            self._database.write(upkeep.prune_old_news)
        if has_locks:
            self._prune_locks()
        pruned = 0
        while pruned < limit:
            wanted = min(limit - pruned, _PRUNED_AT_ONCE)
            gone = self._prune_some(wanted)
            pruned += gone
            if gone < wanted:
                break
        return pruned

    def _has_old(self, tx: Transaction) -> tuple[bool, bool]:
        """Tell whether there is old news, and whether there are old locks.

        Those are looked for once an hour: no index leads to them, since every renewal would change it.
        """
        news, last = upkeep.has_old_news(tx), self._locks_looked_at
        if last is not None and 0 <= tx.now - last < _LOCKS_EVERY:
            return news, False
        self._locks_looked_at = tx.now
        return news, locks.has_old_locks(tx)

    def _prune_locks(self) -> None:
        pruned = _PRUNED_AT_ONCE
        while pruned == _PRUNED_AT_ONCE:
            pruned = self._database.write(lambda tx: locks.prune_locks(tx, self._database, _PRUNED_AT_ONCE))

    def _prune_some(self, limit: int) -> int:
        expired = self._database.read(lambda tx: upkeep.expired_jobs(tx, limit))
        for job_id, is_parent in expired:
            if is_parent:
                upkeep.delete_all_children(self._database, job_id)
        ids = [job_id for job_id, _ in expired]
        return self._database.write(lambda tx: upkeep.prune_jobs(tx, self._database, ids)) if ids else 0

    # ---- what people read --------------------------------------------------------------------------------

    @override
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return self._database.read(lambda tx: find.get_jobs(tx, self._database, ids)) if ids else []

    @override
    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        return self._database.read(
            lambda tx: find.find_jobs(
                tx, self._database, where, limit=limit, cursor=cursor, oldest_first=oldest_first
            )
        )

    @override
    def history(self, job_id: str) -> JobHistory:
        return self._database.read(
            lambda tx: JobHistory(find.get_history(tx, job_id), find.get_errors(tx, job_id))
        )

    @override
    def counts(self) -> Counts:
        return self._database.read(find.count_jobs)

    @override
    def failure_groups(self, limit: int) -> list[FailureGroup]:
        return self._database.read(lambda tx: find.group_failures(tx, limit))

    @override
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        if rollups:
            self._database.write(lambda tx: metrics.record_metrics(tx, rollups))

    @override
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        return self._database.read(lambda tx: metrics.timeline(tx, since, until, task=task, queue=queue))

    @override
    def append_logs(self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]) -> None:
        if lines or progress:
            self._database.write(lambda tx: logs.append_logs(tx, self._database, lines, progress))

    @override
    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        return self._database.read(lambda tx: logs.read_log(tx, job_id, after=after, limit=limit))

    # ---- locks and records -------------------------------------------------------------------------------

    @override
    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        return self._database.write(lambda tx: locks.acquire_lock(tx, name, owner, ttl_seconds))

    @override
    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        return self._database.write(lambda tx: locks.renew_lock(tx, name, owner, fence, ttl_seconds))

    @override
    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        return self._database.write(lambda tx: locks.release_lock(tx, name, owner, fence))

    @override
    def put_record(
        self,
        kind: str,
        key: str,
        value: str,
        *,
        expected_version: int | None = None,
        due_at: int | None = None,
    ) -> int | None:
        return self._database.write(
            lambda tx: records.put_record(
                tx, kind, key, value, expected_version=expected_version, due_at=due_at
            )
        )

    @override
    def get_record(self, kind: str, key: str) -> Record | None:
        return self._database.read(lambda tx: records.get_record(tx, kind, key))

    @override
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        return self._database.read(lambda tx: records.list_records(tx, kind, after=after, limit=limit))

    @override
    def due_records(self, kind: str, limit: int) -> list[Record]:
        return self._database.read(lambda tx: records.due_records(tx, kind, limit))

    @override
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        return self._database.write(
            lambda tx: records.delete_record(tx, kind, key, expected_version=expected_version)
        )
