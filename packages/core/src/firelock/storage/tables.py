"""The interface of the tables of jobs, sessions, records and keys, on which `TableStorage` is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import attrs

from firelock.limits.admission import KeyRow
from firelock.limits.unique_rules import UniqueRow
from firelock.model.batch import BatchCounts
from firelock.model.job import JobFilter, JobRecord
from firelock.model.memo import Memo, MemoKind
from firelock.model.record import Record, RecordChange
from firelock.model.session import SessionRecord
from firelock.model.state import State
from firelock.storage import rules
from firelock.storage.rules import StoredJob


@attrs.frozen
class StoredSession:
    """A session, with the time of its end and the time at which it may be deleted."""

    record: SessionRecord
    ended_at: int | None = None
    forget_at: int | None = None  # None while the session is alive
    is_followed: bool = False  # whether its server began another session after this one had ended


@attrs.frozen
class MemoSum:
    """The number and the size of a job's memos."""

    count: int = 0
    size: int = 0  # total size of the values, in bytes of UTF-8
    next_place: int = 0  # the place of the next memo; not reduced when memos are deleted


class Tables(ABC):
    """The jobs, sessions, records and counts within one transaction."""

    @abstractmethod
    def job(self, id: str) -> StoredJob | None:
        """Return the job; None if it is unknown."""

    @abstractmethod
    def put(self, row: StoredJob) -> None:
        """Store the job; if it has just ended and other jobs wait for it, put it on the releasing list."""

    @abstractmethod
    def remove(self, row: StoredJob) -> None:
        """Delete the job."""

    @abstractmethod
    def next_sequence(self) -> int:
        """Return the sequence number of the next inserted job."""

    @abstractmethod
    def ready(self, queue: str, limit: int) -> Iterable[StoredJob]:
        """Return the first jobs that wait in the queue itself, not in a lane."""

    @abstractmethod
    def queues(self) -> Iterable[str]:
        """Return the queues with enqueued jobs."""

    @abstractmethod
    def has_lanes(self, queue: str) -> bool:
        """Return whether jobs with limits wait in the queue."""

    @abstractmethod
    def lanes(self, queue: str, after: str, until: str, limit: int) -> list[str]:
        """Return lanes with ready jobs, in a fixed order: see `KeyedLanes.read_lanes`."""

    @abstractmethod
    def in_lane(self, queue: str, lane: str, behind: int, limit: int) -> list[StoredJob]:
        """Return the first jobs that wait in the lane, after skipping `behind` jobs."""

    @abstractmethod
    def lane_counts(self) -> Iterable[tuple[str, int]]:
        """Return the number of waiting jobs of each lane of each queue."""

    @abstractmethod
    def key_row(self, key: str) -> KeyRow | None:
        """Return the row of a limit key; None if no row is stored."""

    @abstractmethod
    def put_key_row(self, key: str, row: KeyRow | None) -> None:
        """Store the row of the key; None deletes it."""

    @abstractmethod
    def key_rows(self, prefix: str) -> Iterable[tuple[str, KeyRow]]:
        """Return the rows of the keys with this prefix, ordered by key."""

    @abstractmethod
    def unique_row(self, key: str) -> UniqueRow | None:
        """Return the row of a unique key; None if no row is stored."""

    @abstractmethod
    def put_unique_row(self, key: str, row: UniqueRow | None) -> None:
        """Store the row of the key; None deletes it."""

    @abstractmethod
    def unique_rows(self, prefix: str, after: str, limit: int) -> list[tuple[str, UniqueRow]]:
        """Return the rows whose keys have this prefix and follow `after`, ordered by key."""

    @abstractmethod
    def batch_counts(self, batch: str) -> BatchCounts | None:
        """Return the stored counts of a batch, with `is_stopping` as the only flag; None for other jobs."""

    @abstractmethod
    def put_batch_counts(self, batch: str, counts: BatchCounts | None) -> None:
        """Store the counts of the batch; None if the batch is deleted."""

    @abstractmethod
    def note_changed(self, batch: str) -> None:
        """Put the batch on the list of changed batches, unless it is already on the list."""

    @abstractmethod
    def is_changed(self, batch: str) -> bool:
        """Return whether the batch is on the list of changed batches."""

    @abstractmethod
    def next_changed(self) -> str | None:
        """Remove a batch from the list of changed batches, and return it; None if the list is empty."""

    @abstractmethod
    def unswept(self, batch: str, limit: int) -> list[StoredJob]:
        """Return members that have not ended, except cancelled batches."""

    @abstractmethod
    def waiting_for_batch(self, batch: str, limit: int) -> list[StoredJob]:
        """Return members that wait until the batch opens."""

    @abstractmethod
    def memos(self, job: str) -> list[Memo]:
        """Return the memos of the job, ordered by place."""

    @abstractmethod
    def memo(self, job: str, kind: MemoKind, name: str) -> Memo | None:
        """Return the job's memo with this kind and name; None if no such memo is stored."""

    @abstractmethod
    def put_memo(self, job: str, memo: Memo) -> None:
        """Store the memo; an earlier memo of the same kind and name is replaced."""

    @abstractmethod
    def remove_memo(self, job: str, memo: Memo) -> None:
        """Delete the memo."""

    @abstractmethod
    def memo_sum(self, job: str) -> MemoSum:
        """Return the number and the size of the job's memos."""

    @abstractmethod
    def put_memo_sum(self, job: str, total: MemoSum | None) -> None:
        """Store the number and the size of the job's memos; None if the job is deleted."""

    @abstractmethod
    def due(self, now: int, limit: int) -> list[StoredJob]:
        """Return the scheduled and awaiting jobs that are due, ordered by due time."""

    @abstractmethod
    def next_due_at(self) -> int | None:
        """Return the earliest due time of a scheduled, awaiting or recurring job."""

    @abstractmethod
    def expired(self, now: int, limit: int) -> list[StoredJob]:
        """Return the jobs whose `expires_at` has passed and that are not on the releasing list."""

    @abstractmethod
    def held(self, session: str) -> list[StoredJob]:
        """Return the jobs that the session holds, including its tails."""

    @abstractmethod
    def waiting(self, parent: str) -> list[StoredJob]:
        """Return the jobs whose dependency on this parent is not yet decided."""

    @abstractmethod
    def children(self, parent: str) -> list[StoredJob]:
        """Return the parent's continuations, including ended ones."""

    @abstractmethod
    def is_releasing(self, id: str) -> bool:
        """Return whether the job is on the releasing list."""

    @abstractmethod
    def next_releasing(self, limit: int) -> tuple[JobRecord, list[StoredJob]] | None:
        """Return an ended parent and some waiting children; no child twice unless the parent ends again."""

    @abstractmethod
    def find(
        self, where: JobFilter, place: rules.Place | None, limit: int, *, oldest_first: bool
    ) -> list[JobRecord]:
        """Return up to `limit` jobs after the place, ordered by time; the filter has no `parent_id`."""

    @abstractmethod
    def counts(self) -> Iterable[tuple[str, State, int]]:
        """Return the number of jobs in each queue and state."""

    @abstractmethod
    def session(self, id: str) -> StoredSession | None:
        """Return the session; None if it is unknown."""

    @abstractmethod
    def put_session(self, session: StoredSession) -> None:
        """Store the session."""

    @abstractmethod
    def remove_session(self, id: str) -> None:
        """Delete the session."""

    @abstractmethod
    def sessions(self) -> Iterable[StoredSession]:
        """Return all sessions, including ended ones."""

    @abstractmethod
    def living_sessions(self, limit: int | None = None) -> Iterable[StoredSession]:
        """Return the living sessions, or only the first ones, ordered by `started_at` and id."""

    @abstractmethod
    def unfollowed(self, server_id: str) -> list[StoredSession]:
        """Return the server's ended sessions after which no other session of the server has begun."""

    @abstractmethod
    def forgettable(self, now: int, limit: int) -> list[StoredSession]:
        """Return the first ended sessions that may be deleted at this time."""

    def living(self, id: str) -> SessionRecord | None:
        """Return the session; None if it has ended or is unknown."""
        session = self.session(id)
        return session.record if session and session.record.is_alive else None

    @abstractmethod
    def record(self, kind: str, key: str) -> Record | None:
        """Return the record; None if it does not exist."""

    @abstractmethod
    def records(self, kind: str, after: str, limit: int) -> list[Record]:
        """Return the records of a kind whose keys follow `after`, ordered by key."""

    @abstractmethod
    def due_records(self, kind: str, now: int, limit: int) -> list[Record]:
        """Return the records of a kind that are due, ordered by due time."""

    @abstractmethod
    def put_record(self, change: RecordChange) -> int:
        """Replace the record, which has the expected version; return its new version."""

    @abstractmethod
    def remove_record(self, record: Record) -> None:
        """Delete the record but keep its version, from which later records must continue."""

    def is_paused(self, queue: str) -> bool:
        """Return whether claims skip the queue."""
        return rules.is_pausing(self.record("queue", queue))
