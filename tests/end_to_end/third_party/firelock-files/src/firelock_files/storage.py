"""`FileStorage`: each verb is one step of the journal; how a job changes is for `firelock.storage.steps`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from heapq import nsmallest
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from firelock.storage import (
    FINAL_STATES,
    Applied,
    Attempt,
    Claim,
    Counts,
    Feature,
    Held,
    HistoryEntry,
    JobFilter,
    JobRecord,
    NewJob,
    NewSession,
    Page,
    Promotion,
    Reconciliation,
    Record,
    Renewal,
    SessionRecord,
    State,
    Storage,
    StorageError,
    Taken,
    Transition,
    UnsupportedFeature,
    Upkeep,
    forget_job,
    next_recurring_at,
    prune_locks,
    prune_rollups,
    selection,
    steps,
)
from firelock_files.journal import Journal
from firelock_files.tables import Session, Tables, Versioned

_DAY = 86_400 * 1_000_000
_NEVER_AGAIN = {"log", "progress", "rollup"}  # jobs and minutes do not come back: no version to remember


class FileStorage(Storage):
    """Jobs in a folder: `files:///path/to/folder`; `?sync=off` gives up durability for speed."""

    contract = 1
    features = frozenset({Feature.SHARED, Feature.DURABLE})

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        sync = options.pop("sync", "on")
        if parts.netloc or not parts.path.strip("/") or options or sync not in ("on", "off"):
            message = (
                f"{url!r} names no folder. Write files:///path/to/folder or files:///path/to/folder?sync=off."
            )
            raise StorageError(message)
        self.url = self.connect_url = url
        self._is_synced = sync == "on"
        self._journal = Journal(Path(unquote(parts.path)), is_synced=self._is_synced)
        self._is_closed = False
        self._served = ""  # the queue whose turn it was last

    def one_step(self) -> AbstractContextManager[Tables]:
        self._require_open()
        return self._journal.step()

    def _require_open(self) -> None:
        if self._is_closed:
            message = f"Storage {self.url} is closed; open a new handle."
            raise StorageError(message)

    # ---- life --------------------------------------------------------------------------------------------

    def migrate(self) -> list[str]:
        is_there = self._journal.path.exists()
        with self.one_step():  # the first step makes the folder
            return [] if is_there else [f"Made {self._journal.path}."]

    def clear(self) -> None:
        with self.one_step() as tables:
            tables.clear()

    def close(self) -> None:
        self._is_closed = True
        self._journal.close()
        self.interrupt()

    def clock(self) -> int:
        self._require_open()
        return time.time_ns() // 1_000 + self.clock_offset

    def describe(self) -> Mapping[str, str]:
        durability = "fsync with each step" if self._is_synced else "none after a power cut (sync=off)"
        return {"storage": self.url, "durability": durability}

    # ---- the hot path ------------------------------------------------------------------------------------

    def insert(self, jobs: Sequence[NewJob], *, within: object | None = None) -> list[bool]:
        if within is not None:
            message = f"Storage {self.url} has no transactions to join; enqueue without within=."
            raise UnsupportedFeature(message)
        with self.one_step() as tables:
            now = self.clock()
            return [self._insert(tables, job, now) for job in jobs]

    def _insert(self, tables: Tables, job: NewJob, now: int) -> bool:
        if job.id in tables.jobs.rows:
            return False
        parents = steps.parents_of(job, tables.jobs.rows.get)
        tables.put_job(steps.stored(job, parents, sequence=tables.next_sequence, now=now))
        return True

    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        with self.one_step() as tables:
            living, next_due_at = tables.living(session), self._next_due_at(tables)
            if living is None:
                return Claim([], next_due_at, is_session_lost=True)
            names = tables.jobs.sizes("ready") if queues is None else queues
            lines = {
                name: nsmallest(limit, tables.jobs.of("ready", name), key=lambda job: job.place)
                for name in names
                if not selection.is_pausing(self.get_record("queue", name))
            }
            jobs = [
                steps.claimed_by(job, session, living.session.server, now=now)
                for job in selection.next_in_line(lines, queues, limit, served=self._served)
            ]
            for job in jobs:
                tables.put_job(job)
                self._served = job.record.queue
            return Claim([job.claimed() for job in jobs], next_due_at)

    def _next_due_at(self, tables: Tables) -> int | None:
        due = [job.record.due_at for job in tables.in_state(State.SCHEDULED)]
        return min((at for at in [*due, next_recurring_at(self)] if at is not None), default=None)

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        with self.one_step() as tables:
            now = self.clock()
            return [self._apply(tables, transition, now) for transition in transitions]

    def _apply(self, tables: Tables, transition: Transition, now: int) -> Applied:
        job = tables.jobs.rows.get(transition.job_id)
        if job is None:
            return Applied.MISSING
        after, result = steps.applied(job, transition, now=now)
        if after is not job:
            tables.put_job(after)
        is_releasing = result is Applied.APPLIED and job.record.id in tables.releasing.rows
        return Applied.RELEASING if is_releasing else result

    # ---- sessions ----------------------------------------------------------------------------------------

    def begin_session(self, session: NewSession) -> None:
        with self.one_step() as tables:
            if session.id not in tables.sessions.rows:
                tables.sessions.put(session.id, Session(steps.begun(session, now=self.clock())))

    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        with self.one_step() as tables:
            living = [tables.living(renewal.session) for renewal in renewals]
            for record, renewal in zip(living, renewals, strict=True):
                if record is not None:
                    renewed = steps.renewed(record, renewal, now=self.clock())
                    tables.sessions.put(renewal.session, Session(renewed))
            return [record is not None for record in living]

    def reconcile(self, session: str, held: Sequence[Held]) -> Reconciliation:
        with self.one_step() as tables:
            is_lost = tables.living(session) is None
            answer, started = steps.reconciled(tables.jobs.of("held", session), held, is_session_lost=is_lost)
            for job in started:
                tables.put_job(job)
            return answer

    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        with self.one_step() as tables:
            now, living = self.clock(), tables.living(session)
            if living is None:
                return Taken(session, "", [], [])
            tables.sessions.put(session, Session(attrs.evolve(living, is_alive=False), now))
            taken = Taken(session, living.session.server, [], [])
            for job in tables.jobs.of("held", session):
                has_crashed = running is None or job.record.id in running
                tables.put_job(steps.taken_back(job, crash=reason if has_crashed else None, now=now))
                if job.record.state is State.PROCESSING:
                    (taken.crashed if has_crashed else taken.returned).append(job.record.id)
            return taken

    def orphans(self, limit: int) -> list[Taken]:
        with self.one_step() as tables:
            now, records = self.clock(), [row.record for row in tables.sessions.rows.values()]
            expired = [record for record in records if record.is_alive and record.expires_at <= now]
            first = nsmallest(limit, expired, key=lambda record: record.expires_at)
            return [self.end_session(one.session.id, None, reason=Upkeep.SESSION_LOST.value) for one in first]

    def list_sessions(self) -> list[SessionRecord]:
        with self.one_step() as tables:
            records = [row.record for row in tables.sessions.rows.values()]
            return sorted(records, key=lambda one: (one.session.started_at, one.session.id))

    # ---- upkeep ------------------------------------------------------------------------------------------

    def promote(self, limit: int) -> Promotion:
        with self.one_step() as tables:
            now = self.clock()
            due = [job for job in tables.in_state(State.SCHEDULED) if (job.record.due_at or 0) <= now]
            first = nsmallest(limit, due, key=lambda job: (job.record.due_at, job.record.id))
            for job in first:
                tables.put_job(steps.promoted(job, now=now))
            return Promotion(len(first), self._next_due_at(tables))

    def release(self, limit: int) -> int:
        with self.one_step() as tables:
            now, looked_at = self.clock(), 0
            for parent_id, children in list(tables.releasing.rows.items()):
                if looked_at == limit:
                    break
                turn, rest = children[: limit - looked_at], children[limit - looked_at :]
                parent = tables.jobs.rows[parent_id].record
                for child in filter(None, map(tables.jobs.rows.get, turn)):
                    tables.put_job(steps.followed(child, parent, at=now, now=now))
                tables.releasing.put(parent_id, rest or None)
                looked_at += len(turn)
            return looked_at

    def prune(self, limit: int) -> int:
        with self.one_step() as tables:
            now = self.clock()
            ended = [job.record for job in tables.in_state(*FINAL_STATES)]
            expired = [job for job in ended if job.expires_at is not None and job.expires_at <= now]
            settled = [job for job in expired if job.id not in tables.releasing.rows]
            first = nsmallest(limit, settled, key=lambda job: (job.expires_at, job.id))
            for job in first:
                for child in tables.jobs.of("waiting", job.id):
                    tables.put_job(steps.ended_with(child, job, reason=Upkeep.PARENT_GONE.value, at=now))
                tables.jobs.put(job.id, None)
                forget_job(self, job.id)
            for key, row in list(tables.sessions.rows.items()):
                if row.ended_at is not None and row.ended_at < now - _DAY:
                    tables.sessions.put(key, None)
            prune_rollups(self, now - 30 * _DAY, limit)
            prune_locks(self, now - _DAY)
            return len(first)

    # ---- what people read --------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        with self.one_step() as tables:
            jobs = [tables.jobs.rows.get(job_id) for job_id in ids]
            return [job.record if job else None for job in jobs]

    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> Page:
        with self.one_step() as tables:
            jobs = tables.in_state(*([where.state] if where.state else State))
            records = (job.record for job in jobs)
            return selection.paged(records, where, limit=limit, cursor=cursor, oldest_first=oldest_first)

    def history(self, job_id: str) -> list[HistoryEntry]:
        with self.one_step() as tables:
            job = tables.jobs.rows.get(job_id)
            return list(job.history) if job else []

    def errors(self, job_id: str) -> list[Attempt]:
        with self.one_step() as tables:
            job = tables.jobs.rows.get(job_id)
            return list(job.attempts) if job else []

    def counts(self) -> Counts:
        with self.one_step() as tables:
            by_queue: dict[str, dict[State, int]] = {}
            for name, number in tables.jobs.sizes("counted").items():
                state, _, queue = name.partition(" ")
                by_queue.setdefault(queue, {})[State(state)] = number
            by_state = {State(state): number for state, number in tables.jobs.sizes("state").items()}
            return Counts(by_state, by_queue)

    # ---- small records -----------------------------------------------------------------------------------

    def put_record(
        self, kind: str, key: str, value: str, *, expected_version: int | None = None
    ) -> int | None:
        with self.one_step() as tables:
            row = tables.records.rows.get(_place(kind, key))
            current = row.record.version if row and not row.is_deleted else 0
            if expected_version not in (None, current):
                return None
            version = row.record.version + 1 if row else 1
            tables.records.put(_place(kind, key), Versioned(Record(kind, key, value, version)))
            return version

    def get_record(self, kind: str, key: str) -> Record | None:
        with self.one_step() as tables:
            row = tables.records.rows.get(_place(kind, key))
            return row.record if row and not row.is_deleted else None

    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        with self.one_step() as tables:
            records = [row.record for row in tables.records.of("kind", kind) if not row.is_deleted]
            rest = (record for record in records if record.key > after)
            return nsmallest(limit, rest, key=lambda record: record.key)

    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        with self.one_step() as tables:
            record = self.get_record(kind, key)
            if record is None or expected_version not in (None, record.version):
                return False
            left = None if kind in _NEVER_AGAIN else Versioned(record, is_deleted=True)
            tables.records.put(_place(kind, key), left)
            return True


def _place(kind: str, key: str) -> str:
    return f"{kind}\0{key}"
