"""`MemoryStorage`: the model that every other storage is compared with."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from firelock.clock import SECOND
from firelock.errors import StorageError, UnsupportedFeature
from firelock.lifecycle import Upkeep
from firelock.memory import changes, pages
from firelock.memory.store import Store
from firelock.storage import (
    Applied,
    Claim,
    Counts,
    Exchange,
    Feature,
    Held,
    JobFilter,
    NewSession,
    Page,
    Promotion,
    Reconciliation,
    Record,
    Renewal,
    SessionRecord,
    Storage,
    StoredJob,
    Taken,
    next_recurring_at,
    prune_locks,
    prune_rollups,
    steps,
)
from firelock.values import Attempt, HistoryEntry, JobRecord, NewJob, State, Transition

__all__ = ["MemoryStorage"]

_DAY = 86_400 * SECOND
_ROLLUPS_STAY = 30 * _DAY


class MemoryStorage(Storage):
    """Jobs in this process's memory: gone with the process, unseen by any other.

    Handles of one name share a store for as long as one of them is open; a handle without a name has a store
    of its own. One lock makes each verb one step.
    """

    contract = 1
    features = frozenset({Feature.NOTIFY})

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        self._store = Store.named(name)
        self._is_closed = False
        self._interrupts = 0
        self._told_due_at: int | None = None  # the next due instant as `claim` or `promote` said last

    # ---- life --------------------------------------------------------------------------------------------

    def migrate(self) -> list[str]:
        """See `Storage.migrate`."""
        self._open()
        return []

    def clear(self) -> None:
        """See `Storage.clear`."""
        with self._open() as store:
            store.clear()

    def close(self) -> None:
        """See `Storage.close`."""
        if not self._is_closed:
            self._is_closed = True
            self.interrupt()
            self._store = Store()  # the shared one goes with its last handle

    def clock(self) -> int:
        """See `Storage.clock`."""
        self._open()
        return time.time_ns() // 1_000 + self.clock_offset

    def describe(self) -> Mapping[str, str]:
        """See `Storage.describe`."""
        return {"storage": self.url, "durability": "none: jobs are gone when this process ends"}

    def _open(self) -> Store:
        if self._is_closed:
            message = f"Storage {self.url} is closed; open a new handle."
            raise StorageError(message)
        return self._store

    # ---- the hot path ------------------------------------------------------------------------------------

    def insert(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[bool]:
        """See `Storage.insert`."""
        if within is not None:
            message = f"Storage {self.url} has no transactions to join; enqueue without within=."
            raise UnsupportedFeature(message)
        with self._open() as store:
            now, rows = self.clock(), store.table.rows
            new: dict[str, StoredJob] = {}
            is_new = []
            for job in jobs:
                is_new.append(job.id not in new and job.id not in store.table.rows)
                if is_new[-1]:
                    parents = steps.parents_of(job, lambda id: new.get(id) or rows.get(id))
                    sequence = store.table.inserted + len(new)
                    new[job.id] = steps.stored(job, parents, sequence=sequence, now=now)
            for row in new.values():
                store.table.add(row)
            store.changed.notify_all()
        return is_new

    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`."""
        with self._open() as store:
            living = store.sessions.living(session)
            if living is None:
                return Claim([], self._next_due_at(store), is_session_lost=True)
            rows = [
                changes.claim(store.table, row, session=session, server=living.session.server, now=now)
                for row in store.next_ready(queues, limit)
            ]
            return Claim([row.claimed() for row in rows], self._next_due_at(store))

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """See `Storage.apply`."""
        with self._open() as store:
            now = self.clock()
            results = [changes.apply(store.table, transition, now) for transition in transitions]
            store.changed.notify_all()
        return results

    def exchange(
        self,
        transitions: Sequence[Transition],
        queues: Sequence[str] | None,
        limit: int,
        session: str,
        now: int,
    ) -> Exchange:
        """See `Storage.exchange`."""
        with self._open():
            return super().exchange(transitions, queues, limit, session, now)

    def one_step(self) -> Store:
        """See `Storage.one_step`."""
        return self._open()

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`."""
        with self._open() as store:
            interrupts = self._interrupts

            def may_work() -> bool:
                return store.has_ready(queues) or self._is_due_earlier(store)

            store.changed.wait_for(
                lambda: self._is_closed or interrupts != self._interrupts or may_work(), timeout_seconds
            )
            if self._is_closed or not may_work():
                return False
            self._next_due_at(store)
            return True

    def interrupt(self) -> None:
        """See `Storage.interrupt`."""
        with self._store as store:
            self._interrupts += 1
            store.changed.notify_all()

    def _next_due_at(self, store: Store) -> int | None:
        """Return the earliest instant of a scheduled or recurring job; the caller is told."""
        self._told_due_at = self._earliest(store)
        return self._told_due_at

    def _is_due_earlier(self, store: Store) -> bool:
        due_at, told = self._earliest(store), self._told_due_at
        return due_at is not None and (told is None or due_at < told)

    def _earliest(self, store: Store) -> int | None:
        if store.is_recurring_stale:
            store.recurring_due_at = next_recurring_at(self)
            store.is_recurring_stale = False
        first = store.table.due.first()
        instants = (first[0][0] if first else None, store.recurring_due_at)
        return min((instant for instant in instants if instant is not None), default=None)

    # ---- sessions ----------------------------------------------------------------------------------------

    def begin_session(self, session: NewSession) -> None:
        """See `Storage.begin_session`."""
        with self._open() as store:
            store.sessions.begin(session, self.clock())

    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `Storage.renew`."""
        with self._open() as store:
            now = self.clock()
            return [store.sessions.renew(renewal, now) for renewal in renewals]

    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        """See `Storage.reconcile`."""
        with self._open() as store:
            rows = [store.table.rows[id] for id in store.table.held.get(session, ())]
            is_lost = store.sessions.living(session) is None
            answer, started = steps.reconciled(rows, held, is_session_lost=is_lost)
            for row in started:
                store.table.put(row)
            return answer

    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """See `Storage.end_session`."""
        with self._open() as store:
            now = self.clock()
            ended = store.sessions.end(session, now)
            if ended is None:
                return Taken(session, "", [], [])
            taken = Taken(session, ended.session.server, [], [])
            for row in [store.table.rows[id] for id in store.table.held.get(session, ())]:
                has_crashed = running is None or row.record.id in running
                store.table.put(steps.taken_back(row, crash=reason if has_crashed else None, now=now))
                if row.record.state is State.PROCESSING:
                    (taken.crashed if has_crashed else taken.returned).append(row.record.id)
            store.changed.notify_all()
        return taken

    def orphans(self, limit: int) -> list[Taken]:
        """See `Storage.orphans`."""
        with self._open() as store:
            expired = store.sessions.expired(self.clock())[:limit]
            return [self.end_session(id, None, reason=Upkeep.SESSION_LOST.value) for id in expired]

    def list_sessions(self) -> list[SessionRecord]:
        """See `Storage.list_sessions`."""
        with self._open() as store:
            return store.sessions.list()

    # ---- upkeep ------------------------------------------------------------------------------------------

    def promote(self, limit: int) -> Promotion:
        """See `Storage.promote`."""
        with self._open() as store:
            now = self.clock()
            due = list(islice(store.table.due.up_to(now), limit))
            for id in due:
                store.table.put(steps.promoted(store.table.rows[id], now=now))
            store.changed.notify_all()
            return Promotion(len(due), self._next_due_at(store))

    def release(self, limit: int) -> int:
        """See `Storage.release`."""
        with self._open() as store:
            looked_at = changes.release(store.table, limit, self.clock())
            store.changed.notify_all()
        return looked_at

    def prune(self, limit: int) -> int:
        """See `Storage.prune`."""
        with self._open() as store:
            now = self.clock()
            expired = (id for id in store.table.expiring.up_to(now) if id not in store.table.releasing)
            ids = list(islice(expired, limit))
            for id in ids:
                changes.prune(store.table, store.table.rows[id], now)
                store.records.forget("log", id)
                store.records.forget("progress", id)
            store.sessions.prune(now - _DAY)
            prune_rollups(self, now - _ROLLUPS_STAY, limit)
            prune_locks(self, now - _DAY)
        return len(ids)

    # ---- what people read --------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`."""
        with self._open() as store:
            rows = [store.table.rows.get(id) for id in ids]
            return [row.record if row else None for row in rows]

    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> Page:
        """See `Storage.find`."""
        with self._open() as store:
            return pages.find(store.table, where, limit=limit, cursor=cursor, oldest_first=oldest_first)

    def history(self, job_id: str) -> list[HistoryEntry]:
        """See `Storage.history`."""
        with self._open() as store:
            row = store.table.rows.get(job_id)
            return list(row.history) if row else []

    def errors(self, job_id: str) -> list[Attempt]:
        """See `Storage.errors`."""
        with self._open() as store:
            row = store.table.rows.get(job_id)
            return list(row.attempts) if row else []

    def counts(self) -> Counts:
        """See `Storage.counts`."""
        with self._open() as store:
            return store.table.counts()

    # ---- small records -----------------------------------------------------------------------------------

    def put_record(
        self, kind: str, key: str, value: str, *, expected_version: int | None = None
    ) -> int | None:
        """See `Storage.put_record`."""
        with self._open() as store:
            version = store.records.put(kind, key, value, expected_version)
            store.note_record(kind, key)
            return version

    def get_record(self, kind: str, key: str) -> Record | None:
        """See `Storage.get_record`."""
        with self._open() as store:
            return store.records.get(kind, key)

    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """See `Storage.list_records`."""
        with self._open() as store:
            return store.records.list(kind, after, limit)

    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`."""
        with self._open() as store:
            is_deleted = store.records.delete(kind, key, expected_version)
            store.note_record(kind, key)
            return is_deleted
