"""`RedisStorage`: the contract, each verb one script in the partition that is concerned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from firelock.storage import (
    Applied,
    Attempt,
    Claim,
    Counts,
    Exchange,
    FailureGroup,
    Feature,
    Finding,
    Held,
    HistoryEntry,
    JobFilter,
    JobRecord,
    LogLine,
    NewJob,
    NewSession,
    Page,
    Progress,
    Promotion,
    Reconciliation,
    Record,
    RecurringRecord,
    Renewal,
    Rollup,
    SchemaState,
    SessionRecord,
    Storage,
    Taken,
    Transition,
    UnsupportedFeature,
)
from firelock_redis import find, health, insert, locks, logs, metrics, records, sessions, upkeep
from firelock_redis.database import RedisDatabase
from firelock_redis.engine import RedisHot
from firelock_redis.notify import RedisWaiting
from firelock_redis.partitions import EVERYWHERE, FIRST, PartitionTurns
from firelock_redis.url import RedisUrl

__all__ = ["RedisStorage"]


class RedisStorage(Storage):
    """A storage in Redis or Valkey: one server, a primary with Sentinels, or a cluster."""

    contract = 1
    features = frozenset({Feature.NOTIFY, Feature.SHARED, Feature.DURABLE})

    def __init__(self, url: RedisUrl) -> None:
        self._database = RedisDatabase(url)
        self._turns = PartitionTurns(url.partitions)
        self._hot = RedisHot(self._database, self._turns)
        self._waiting = RedisWaiting(self._database, self._turns.note)
        self.url = str(url)
        self.connect_url = url.text

    # ---- life --------------------------------------------------------------------------------------------

    @property
    def clock_offset(self) -> int:
        """Return the micros added to the server's clock."""
        return self._database.clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        self._database.clock_offset = offset

    @override
    def migrate(self) -> list[str]:
        return self._database.migrate()

    @override
    def schema(self) -> SchemaState:
        return self._database.schema()

    @override
    def clear(self) -> None:
        self._database.clear()
        self._hot.forget()
        self._turns.note(EVERYWHERE)

    @override
    def close(self) -> None:
        self._waiting.close()
        self._database.close()

    @override
    def clock(self) -> int:
        return int(self._database.run("time", 0, self._database.clock_offset))

    @override
    def new_id(self, parent: str | None = None) -> str:
        return self._database.partitions.new_id(parent)

    @override
    def new_ids(self, count: int) -> list[str]:
        return self._database.partitions.new_ids(count)

    @override
    def describe(self) -> Mapping[str, str]:
        return health.describe(self._database)

    @override
    def diagnose(self) -> list[Finding]:
        return health.diagnose(self._database)

    # ---- the hot path ------------------------------------------------------------------------------------

    @override
    def insert(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[bool]:
        if within is not None:
            message = f"Storage {self.url} has no transactions to join; enqueue without within=."
            raise UnsupportedFeature(message)
        if not jobs:
            return []
        is_new = insert.insert_jobs(self._database, jobs)
        for job in jobs if self._database.partitions.number > 1 else ():
            self._turns.note(self._database.partitions.of(job.id), job.queue)
        return is_new

    @override
    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        self._waiting.mark(queues)
        return self._hot.claim(queues, limit, session, now)

    @override
    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        return self._hot.apply(transitions)

    @override
    def exchange(
        self,
        transitions: Sequence[Transition],
        queues: Sequence[str] | None,
        limit: int,
        session: str,
        now: int,
    ) -> Exchange:
        self._waiting.mark(queues)
        return self._hot.exchange(transitions, queues, limit, session, now)

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        return self._waiting.wait(queues, timeout_seconds)

    @override
    def interrupt(self) -> None:
        self._waiting.interrupt()

    # ---- sessions ----------------------------------------------------------------------------------------

    @override
    def begin_session(self, session: NewSession) -> None:
        sessions.begin_session(self._database, session)

    @override
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        return sessions.renew(self._database, renewals) if renewals else []

    @override
    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        return sessions.reconcile(self._database, session, held)

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        taken = sessions.end_session(self._database, session, running, reason=reason)
        self._hot.forget(session)
        self._turns.note(EVERYWHERE)
        return taken

    @override
    def orphans(self, limit: int) -> list[Taken]:
        taken = sessions.orphans(self._database, limit)
        if taken:
            self._turns.note(EVERYWHERE)
        return taken

    @override
    def list_sessions(self) -> list[SessionRecord]:
        return sessions.list_sessions(self._database)

    # ---- upkeep ------------------------------------------------------------------------------------------

    @override
    def promote(self, limit: int) -> Promotion:
        promotion = upkeep.promote(self._database, limit)
        if promotion.promoted:
            self._turns.note(EVERYWHERE)
        return promotion

    @override
    def release(self, limit: int) -> int:
        looked_at = upkeep.release(self._database, limit)
        if looked_at:
            self._turns.note(EVERYWHERE)
        return looked_at

    @override
    def prune(self, limit: int) -> int:
        return upkeep.prune(self._database, limit)

    # ---- what people read --------------------------------------------------------------------------------

    @override
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return find.get(self._database, ids)

    @override
    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> Page:
        return find.find_jobs(self._database, where, limit=limit, cursor=cursor, oldest_first=oldest_first)

    @override
    def history(self, job_id: str) -> list[HistoryEntry]:
        return find.history(self._database, job_id)

    @override
    def errors(self, job_id: str) -> list[Attempt]:
        return find.errors(self._database, job_id)

    @override
    def counts(self) -> Counts:
        return find.counts(self._database)

    @override
    def failure_groups(self, limit: int) -> list[FailureGroup]:
        return find.failure_groups(self._database, limit)

    @override
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        if rollups:
            metrics.record_metrics(self._database, rollups)

    @override
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        return metrics.timeline(self._database, since, until, task=task, queue=queue)

    @override
    def append_logs(self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]) -> None:
        logs.append_logs(self._database, lines, progress)

    @override
    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        return logs.read_log(self._database, job_id, after=after, limit=limit)

    @override
    def get_progress(self, ids: Sequence[str]) -> list[Progress | None]:
        return logs.get_progress(self._database, ids)

    # ---- recurring ---------------------------------------------------------------------------------------

    @override
    def put_recurring(self, recurring: RecurringRecord, *, keep_progress: bool) -> RecurringRecord | None:
        stored = records.put_recurring(self._database, recurring, keep_progress=keep_progress)
        self._turns.note(FIRST)
        return stored

    @override
    def get_recurring(self, recurring_id: str) -> RecurringRecord | None:
        return records.get_recurring(self._database, recurring_id)

    @override
    def list_recurring(self, *, after: str = "", limit: int = 100) -> list[RecurringRecord]:
        return records.list_recurring(self._database, after=after, limit=limit)

    @override
    def remove_recurring(self, recurring_id: str) -> bool:
        is_removed = records.remove_recurring(self._database, recurring_id)
        self._turns.note(FIRST)
        return is_removed

    @override
    def due_recurring(self, limit: int) -> list[RecurringRecord]:
        return records.due_recurring(self._database, limit)

    @override
    def fire_recurring(
        self, recurring: RecurringRecord, expected_next_at: int, jobs: Sequence[NewJob]
    ) -> bool:
        is_fired = insert.fire_recurring(self._database, recurring, expected_next_at, jobs)
        self._turns.note(FIRST)
        return is_fired

    # ---- locks and records -------------------------------------------------------------------------------

    @override
    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        return locks.acquire_lock(self._database, name, owner, ttl_seconds)

    @override
    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        return locks.renew_lock(self._database, name, owner, fence, ttl_seconds)

    @override
    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        return locks.release_lock(self._database, name, owner, fence)

    @override
    def put_record(
        self, kind: str, key: str, value: str, *, expected_version: int | None = None
    ) -> int | None:
        version = records.put_record(self._database, kind, key, value, expected_version=expected_version)
        if kind == records.QUEUES:
            self._turns.note(EVERYWHERE)
        return version

    @override
    def get_record(self, kind: str, key: str) -> Record | None:
        return records.get_record(self._database, kind, key)

    @override
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        return records.list_records(self._database, kind, after=after, limit=limit)

    @override
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        is_deleted = records.delete_record(self._database, kind, key, expected_version=expected_version)
        if kind == records.QUEUES:
            self._turns.note(EVERYWHERE)
        return is_deleted
