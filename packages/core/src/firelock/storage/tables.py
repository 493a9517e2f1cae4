"""Jobs, sessions, records and keys as tables: what a storage offers to get every verb by `TableStorage`."""

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
    """A session; since when it is dead, and when it may be forgotten."""

    record: SessionRecord
    ended_at: int | None = None
    forget_at: int | None = None  # empty while it lives
    is_followed: bool = False  # another session of its server began after its death


@attrs.frozen
class MemoSum:
    """How much a job remembers."""

    count: int = 0
    size: int = 0  # of the values, in bytes of UTF-8
    next_place: int = 0  # also after what was forgotten


class Tables(ABC):
    """Jobs, sessions, records and counts as one step finds and leaves them."""

    @abstractmethod
    def job(self, id: str) -> StoredJob | None:
        """Return the job, None where unknown."""

    @abstractmethod
    def put(self, row: StoredJob) -> None:
        """The job is stored; one that has just ended is on the releasing list if any wait for it."""

    @abstractmethod
    def remove(self, row: StoredJob) -> None:
        """The job is not stored any more."""

    @abstractmethod
    def next_sequence(self) -> int:
        """Return the number of the next job in the order of insertion."""

    @abstractmethod
    def ready(self, queue: str, limit: int) -> Iterable[StoredJob]:
        """Return the first of those who wait in the queue itself, in no lane."""

    @abstractmethod
    def queues(self) -> Iterable[str]:
        """Return the queues with enqueued jobs."""

    @abstractmethod
    def has_lanes(self, queue: str) -> bool:
        """Tell whether jobs with limits wait in the queue."""

    @abstractmethod
    def lanes(self, queue: str, after: str, until: str, limit: int) -> list[str]:
        """Return lanes with ready jobs, in a fixed order: see `KeyedLanes.look`."""

    @abstractmethod
    def in_lane(self, queue: str, lane: str, behind: int, limit: int) -> list[StoredJob]:
        """Return the first of those who wait in the lane, without so many that are in front."""

    @abstractmethod
    def lane_counts(self) -> Iterable[tuple[str, int]]:
        """Return how many wait in each lane of each queue."""

    @abstractmethod
    def key_row(self, key: str) -> KeyRow | None:
        """Return what is stored of a limit's key."""

    @abstractmethod
    def put_key_row(self, key: str, row: KeyRow | None) -> None:
        """This is stored of the key; None for nothing."""

    @abstractmethod
    def key_rows(self, prefix: str) -> Iterable[tuple[str, KeyRow]]:
        """Return the rows of the keys that begin so, in order of key."""

    @abstractmethod
    def unique_row(self, key: str) -> UniqueRow | None:
        """Return what is stored of a unique key."""

    @abstractmethod
    def put_unique_row(self, key: str, row: UniqueRow | None) -> None:
        """This is stored of the key; None for nothing."""

    @abstractmethod
    def unique_rows(self, prefix: str, after: str, limit: int) -> list[tuple[str, UniqueRow]]:
        """Return the rows of the keys that begin so, above `after`, in order of key."""

    @abstractmethod
    def batch_counts(self, batch: str) -> BatchCounts | None:
        """Return what is counted of the batch, its flags aside but `is_stopping`; None for what is none."""

    @abstractmethod
    def put_batch_counts(self, batch: str, counts: BatchCounts | None) -> None:
        """This is counted of the batch; None for one that is gone."""

    @abstractmethod
    def note_changed(self, batch: str) -> None:
        """The batch is on the list of those to look at; it may have been before."""

    @abstractmethod
    def is_changed(self, batch: str) -> bool:
        """Tell whether the batch is on that list."""

    @abstractmethod
    def next_changed(self) -> str | None:
        """Return a batch of the list, on which it is no more."""

    @abstractmethod
    def unswept(self, batch: str, limit: int) -> list[StoredJob]:
        """Return members that have not ended, without batches that are cancelled."""

    @abstractmethod
    def shut_out(self, batch: str, limit: int) -> list[StoredJob]:
        """Return members that wait for the opening of the batch."""

    @abstractmethod
    def memos(self, job: str) -> list[Memo]:
        """Return what the job remembers, in order of place."""

    @abstractmethod
    def memo(self, job: str, kind: MemoKind, name: str) -> Memo | None:
        """Return what the job remembers under this name."""

    @abstractmethod
    def put_memo(self, job: str, memo: Memo) -> None:
        """The job remembers this, over what stood under its name."""

    @abstractmethod
    def remove_memo(self, job: str, memo: Memo) -> None:
        """The job does not remember this any more."""

    @abstractmethod
    def memo_sum(self, job: str) -> MemoSum:
        """Return how much the job remembers."""

    @abstractmethod
    def put_memo_sum(self, job: str, total: MemoSum | None) -> None:
        """The job remembers so much; None where it is gone."""

    @abstractmethod
    def due(self, now: int, limit: int) -> list[StoredJob]:
        """Return the scheduled and awaiting jobs that are due, longest due first."""

    @abstractmethod
    def next_due_at(self) -> int | None:
        """Return the instant of what is due first, a scheduled or awaiting job or a recurring one."""

    @abstractmethod
    def expired(self, now: int, limit: int) -> list[StoredJob]:
        """Return the jobs that have expired and are not on the releasing list."""

    @abstractmethod
    def held(self, session: str) -> list[StoredJob]:
        """Return what the session holds, with its tails."""

    @abstractmethod
    def waiting(self, parent: str) -> list[StoredJob]:
        """Return those whose tie to this parent is not decided."""

    @abstractmethod
    def children(self, parent: str) -> list[StoredJob]:
        """Return the parent's continuations, ended ones too."""

    @abstractmethod
    def is_releasing(self, id: str) -> bool:
        """Tell whether the job is on the releasing list."""

    @abstractmethod
    def next_releasing(self, limit: int) -> tuple[JobRecord, list[StoredJob]] | None:
        """Return an ended parent and some who wait for it; they are not given out for this end again."""

    @abstractmethod
    def find(
        self, where: JobFilter, place: rules.Place | None, limit: int, *, oldest_first: bool
    ) -> list[JobRecord]:
        """Return up to `limit` jobs behind the place, in order of time; the filter names no parent."""

    @abstractmethod
    def counts(self) -> Iterable[tuple[str, State, int]]:
        """Return how many jobs are in each queue and state."""

    @abstractmethod
    def session(self, id: str) -> StoredSession | None:
        """Return the session, None where unknown."""

    @abstractmethod
    def put_session(self, session: StoredSession) -> None:
        """The session is stored."""

    @abstractmethod
    def remove_session(self, id: str) -> None:
        """The session is not stored any more."""

    @abstractmethod
    def sessions(self) -> Iterable[StoredSession]:
        """Return all, dead ones too."""

    @abstractmethod
    def living_sessions(self, limit: int | None = None) -> Iterable[StoredSession]:
        """Return the living ones, or the first of them, in order of `started_at` and id."""

    @abstractmethod
    def unfollowed(self, server_id: str) -> list[StoredSession]:
        """Return the dead sessions of the server that no other one has followed."""

    @abstractmethod
    def forgettable(self, now: int, limit: int) -> list[StoredSession]:
        """Return the first of those that may be forgotten by now."""

    def living(self, id: str) -> SessionRecord | None:
        """Return the session, None where it is dead or unknown."""
        session = self.session(id)
        return session.record if session and session.record.is_alive else None

    @abstractmethod
    def record(self, kind: str, key: str) -> Record | None:
        """Return the record, None where there is none."""

    @abstractmethod
    def records(self, kind: str, after: str, limit: int) -> list[Record]:
        """Return those of a kind above `after`, in order of key."""

    @abstractmethod
    def due_records(self, kind: str, now: int, limit: int) -> list[Record]:
        """Return those of a kind that are due, longest due first."""

    @abstractmethod
    def put_record(self, change: RecordChange) -> int:
        """The record, which has the expected version, is replaced; return its new version."""

    @abstractmethod
    def remove_record(self, record: Record) -> None:
        """The record is gone, its version is not: those that are put anew go on from it."""

    def is_paused(self, queue: str) -> bool:
        """Tell whether claims pass over the queue."""
        return rules.is_pausing(self.record("queue", queue))
