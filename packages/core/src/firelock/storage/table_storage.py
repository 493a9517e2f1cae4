"""All storage verbs, implemented on tables. A storage that implements `Tables` gets each as one transaction.

The parts for limits, unique keys, batches and memos are in `keyed_tables` and `relation_tables`. They are not
called for jobs that use none of these.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import attrs

from firelock.limits.admission import LaneCursors, examined_share
from firelock.model.answers import Applied, Duplicate, Inserted
from firelock.model.batch import BatchCounts
from firelock.model.job import FoundJobs, JobFilter, JobHistory, JobRecord, Move, NewJob, Transition
from firelock.model.lifecycle import Moved
from firelock.model.limit import KeyState, UniqueState, WaitingJobs
from firelock.model.memo import Memo, NewMemo, Remembered
from firelock.model.record import Record, RecordChange
from firelock.model.report import Counts
from firelock.model.session import (
    Claim,
    ClaimRequest,
    HeldClaim,
    NewSession,
    Promotion,
    Reconciliation,
    Renewal,
    SessionRecord,
    Taken,
)
from firelock.model.state import FINAL_STATES, State
from firelock.storage import relation_tables, rules
from firelock.storage.derived import DerivedStorage, with_progress
from firelock.storage.keyed_tables import (
    UniqueKeys,
    find_keys,
    find_waiting,
    forget_idle,
    forget_unique,
    is_taken,
    ready_of,
    spend,
    take_again,
    take_keyed,
)
from firelock.storage.rules import StoredJob
from firelock.storage.tables import StoredSession, Tables

_FREED_QUEUES = 1_000

_T = TypeVar("_T")


class TableStorage(DerivedStorage):
    """A storage whose verbs work on tables, each as one transaction."""

    _is_initialized = False  # set by __init__, to detect a subclass whose __init__ does not call it

    def __init__(self) -> None:
        super().__init__()
        self._is_initialized = True
        self._served = ""  # the queue that was served last
        self._reported_due_at: int | None = None  # the next due time that `claim` or `promote` returned last
        self._cursors = LaneCursors()
        self._freed: dict[str, dict[str, None]] = {}  # for each queue, lanes of jobs settled by this handle
        self._idle_after = self._unique_after = ""  # the keys after which the next `prune` continues

    @abstractmethod
    def _transact(self, body: Callable[[Tables], _T]) -> _T:
        """Run the body on the tables as one transaction, and return its result."""

    # ---- main path ---------------------------------------------------------------------------------------

    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """See `Storage.insert`."""
        self.refuse_within(within)
        now = self.clock()

        def insert(tables: Tables) -> Inserted:
            if only_if is not None:
                answer = rules.checked(tables.record(only_if.kind, only_if.key), only_if)
                if answer is not Applied.APPLIED:
                    return Inserted([False] * len(jobs), answer)
            is_new: list[bool | Duplicate] = []
            new: dict[str, StoredJob] = {}
            keys = None if all(job.admission_json is None for job in jobs) else UniqueKeys(tables, now)
            for job in jobs:
                if job.id in new or tables.job(job.id) is not None:
                    is_new.append(False)
                    continue
                duplicate = None if keys is None else keys.answer(job, new)
                is_new.append(True if duplicate is None else duplicate)
                if duplicate is None:
                    new[job.id] = _stored(tables, job, new, now=now)
            for row in new.values():
                _put(tables, row)
            if keys is not None:
                keys.store()
            if only_if is not None:
                tables.put_record(only_if)
            return Inserted(is_new)

        return self._transact(insert)

    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`."""
        served = self._served
        freed, self._freed = {queue: list(lanes) for queue, lanes in self._freed.items()}, {}

        def claim(tables: Tables) -> Claim:
            living = tables.living(request.session)
            next_due_at = self._reported_due_at = tables.next_due_at()
            if living is None:
                return Claim([], next_due_at, is_session_lost=True)
            known = tables.queues() if request.queues is None else request.queues
            names = [name for name in dict.fromkeys(known) if not tables.is_paused(name)]
            next_claim_at = None
            if any(map(tables.has_lanes, names)):
                if request.queues is None:
                    names.sort(key=lambda name: (name <= served, name))
                rows, next_claim_at = take_keyed(
                    tables, request, names, self._cursors, now=self.clock(), freed=freed
                )
            else:
                share = examined_share(len(names))
                lines = {name: ready_of(tables, request, name, request.limit, share) for name in names}
                rows = rules.next_in_line(lines, request.queues, request.limit, served=served)
            claimed = [
                rules.claimed_by(row, request.session, living.session.server, now=request.now) for row in rows
            ]
            for row in claimed:
                tables.put(row)
            return Claim([row.claimed() for row in claimed], next_due_at, next_claim_at=next_claim_at)

        answer = self._transact(claim)
        if answer.jobs:
            self._served = answer.jobs[-1].queue
        return answer

    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`."""
        self.refuse_within(within)
        now = self.clock()
        return self._transact(lambda tables: [self._apply(tables, one, now) for one in transitions])

    def _apply(self, tables: Tables, transition: Transition, now: int) -> Applied:
        row = tables.job(transition.job_id)
        if row is None:
            return Applied.MISSING
        if row.record.relations_json is not None and row.record.is_batch:
            return relation_tables.change_batch(tables, row, transition)
        is_reviving = transition.session is None and row.record.is_final
        is_reviving = is_reviving and row.record.admission_json is not None
        if is_reviving and transition.to not in FINAL_STATES and is_taken(tables, row.record, now):
            return Applied.TAKEN if row.record.state in transition.from_states else Applied.REFUSED
        is_end = transition.session is not None and transition.to is not State.AWAITING
        if is_end:
            after, result = rules.applied(row, transition, now=now)
        else:
            after, result = relation_tables.changed(tables, row, transition, now=now)
        if after is not row:
            _put(tables, after)
        if is_reviving and result is Applied.APPLIED and not after.record.is_final:
            take_again(tables, after.record)
        if row.lane is not None and row.record.session is not None and after.record.session is None:
            # The session no longer has the job, so the next claim must check its lane.
            if len(self._freed) > _FREED_QUEUES:
                self._freed.clear()
            self._freed.setdefault(row.record.queue, {})[row.lane] = None
        if result is not Applied.APPLIED:
            return result
        batch_id = after.batch_id
        is_releasing = tables.is_releasing(after.record.id) or (
            batch_id is not None and tables.is_changed(batch_id)
        )
        return Applied.RELEASE_NEEDED if is_releasing else result

    def move(self, moves: Sequence[Move]) -> list[Applied]:
        """See `Storage.move`."""

        def move_one(tables: Tables, move: Move) -> Applied:
            row = tables.job(move.job_id)
            if row is None:
                return Applied.MISSING
            after, result = rules.moved(row, move)
            if after is not row:
                tables.put(after)
            return result

        return self._transact(lambda tables: [move_one(tables, one) for one in moves])

    # ---- memos, batches ------------------------------------------------------------------------------------

    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """See `Storage.remember`."""
        self.refuse_within(within)
        now = self.clock()
        return self._transact(
            lambda tables: [relation_tables.remember(tables, one, now=now) for one in memos]
        )

    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        """See `Storage.recall`."""
        return self._transact(lambda tables: relation_tables.recall(tables, job_id, session, fence))

    def batch_counts(self, ids: Sequence[str]) -> list[BatchCounts | None]:
        """See `Storage.batch_counts`."""
        return self._transact(lambda tables: [relation_tables.find_counts(tables, id) for id in ids])

    # ---- limits and unique keys --------------------------------------------------------------------------

    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """See `Storage.spend`."""
        now = self.clock()
        return self._transact(lambda tables: spend(tables, key, cost=cost, until=until, now=now))

    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """See `Storage.find_keys`."""
        now = self.clock()
        return self._transact(lambda tables: find_keys(tables, prefix, after, limit, now=now))

    def find_waiting(
        self, key: str, *, after: int = 0, limit: int = 100, job_id: str | None = None
    ) -> WaitingJobs:
        """See `Storage.find_waiting`."""
        return self._transact(lambda tables: find_waiting(tables, key, after, limit, job_id))

    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """See `Storage.find_unique`."""
        found = self._transact(lambda tables: tables.unique_rows(prefix, after, limit))
        return [UniqueState(key, row.job_id, row.free_at) for key, row in found]

    # ---- sessions ----------------------------------------------------------------------------------------

    def begin_session(self, session: NewSession) -> None:
        """See `Storage.begin_session`."""
        now = self.clock()

        def begin(tables: Tables) -> None:
            if tables.session(session.id) is None:
                for dead in list(tables.unfollowed(session.server_id)):
                    forget_at = rules.forget_at(dead.ended_at or now, is_followed=True)
                    tables.put_session(attrs.evolve(dead, forget_at=forget_at, is_followed=True))
                tables.put_session(StoredSession(rules.begun(session, now=now)))

        self._transact(begin)

    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """See `Storage.renew`."""
        now = self.clock()

        def renew(tables: Tables) -> list[bool]:
            living = [tables.living(renewal.session) for renewal in renewals]
            for record, renewal in zip(living, renewals, strict=True):
                if record is not None:
                    tables.put_session(StoredSession(rules.renewed(record, renewal, now=now)))
            return [record is not None for record in living]

        return self._transact(renew)

    def reconcile(self, session: str, held: Sequence[HeldClaim]) -> Reconciliation:
        """See `Storage.reconcile`."""

        def reconcile(tables: Tables) -> Reconciliation:
            is_lost = tables.living(session) is None
            rows = tables.held(session)
            answer, started = rules.reconciled(rows, held, tables.job, is_session_lost=is_lost)
            for row in started:
                tables.put(row)
            return answer

        return self._transact(reconcile)

    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """See `Storage.end_session`."""
        now = self.clock()
        return self._transact(lambda tables: _end_session(tables, session, running, reason=reason, now=now))

    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        """See `Storage.orphans`."""
        now, reason = self.clock(), Moved.SESSION_LOST.value

        def end_first(tables: Tables) -> Taken | None:
            living = [one.record for one in tables.living_sessions()]
            expired = [
                one
                for one in living
                if rules.has_expired(one.expires_at, one.session.timeout_seconds, now=now, as_of=as_of)
            ]
            if not expired:
                return None
            first = min(expired, key=lambda one: one.expires_at)
            return _end_session(tables, first.session.id, None, reason=reason, now=now)

        taken: list[Taken] = []
        while len(taken) < limit and (one := self._transact(end_first)) is not None:
            taken.append(one)
        return taken

    def oldest_session(self) -> SessionRecord | None:
        """See `Storage.oldest_session`."""
        return next(
            (one.record for one in self._transact(lambda tables: list(tables.living_sessions(1)))), None
        )

    def list_sessions(self) -> list[SessionRecord]:
        """See `Storage.list_sessions`."""
        records = [one.record for one in self._transact(lambda tables: list(tables.sessions()))]
        return sorted(records, key=lambda one: (one.session.started_at, one.session.id))

    # ---- upkeep ------------------------------------------------------------------------------------------

    def promote(self, limit: int) -> Promotion:
        """See `Storage.promote`."""
        now = self.clock()

        def promote(tables: Tables) -> Promotion:
            due = tables.due(now, limit)
            for row in due:
                _put(tables, rules.promoted(row, now=now))
            self._reported_due_at = tables.next_due_at()
            return Promotion(len(due), self._reported_due_at)

        return self._transact(promote)

    def release(self, limit: int) -> int:
        """See `Storage.release`."""
        now = self.clock()

        def release(tables: Tables) -> int:
            examined = 0
            while examined < limit:
                if (found := tables.next_releasing(limit - examined)) is not None:
                    examined += relation_tables.decide_children(tables, *found, now=now)
                elif (batch := tables.next_changed()) is not None:
                    examined += relation_tables.examine(tables, batch, limit - examined, now=now)
                else:
                    break
            return examined

        return self._transact(release)

    def prune(self, limit: int) -> int:
        """See `Storage.prune`."""
        now = self.clock()

        def prune(tables: Tables) -> list[str]:
            expired = [
                row for row in tables.expired(now, limit) if relation_tables.prune(tables, row, now=now)
            ]
            for session in tables.forgettable(now, limit):
                tables.remove_session(session.record.session.id)
            keys = list(tables.key_rows(""))
            self._idle_after = forget_idle(tables, keys, self._idle_after, limit, now=now) if keys else ""
            unique = tables.unique_rows("", self._unique_after, limit)
            self._unique_after = forget_unique(tables, unique, limit, now=now) if unique else ""
            return [row.record.id for row in expired]

        pruned = self._transact(prune)
        self.prune_derived(pruned, now, limit)
        return len(pruned)

    # ---- reading -----------------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`."""

        def get(tables: Tables) -> list[JobRecord | None]:
            # Progress is read only for known jobs, because any string may be passed as an id.
            rows = [tables.job(id) for id in ids]
            return [
                with_progress(row.record, tables.record("progress", row.record.id)) if row else None
                for row in rows
            ]

        return self._transact(get)

    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """See `Storage.find`."""
        place = None if cursor is None else rules.read_cursor(cursor, where, oldest_first=oldest_first)

        def find(tables: Tables) -> list[JobRecord]:
            return tables.find(where, place, limit + 1, oldest_first=oldest_first)

        if where.parent_id is not None:
            children = self._transact(
                lambda tables: [row.record for row in tables.children(where.parent_id or "")]
            )
            return rules.paged(children, where, limit=limit, cursor=cursor, oldest_first=oldest_first)
        found = self._transact(find)
        following = None
        if found and len(found) > limit > 0:
            last = found[limit - 1]
            place = rules.listed_at(last, where), last.id
            following = rules.write_cursor(place, where, oldest_first=oldest_first)
        return FoundJobs(found[:limit], following)

    def history(self, job_id: str) -> JobHistory:
        """See `Storage.history`."""
        row = self._transact(lambda tables: tables.job(job_id))
        return JobHistory(list(row.history), list(row.attempts)) if row else JobHistory([], [])

    def counts(self) -> Counts:
        """See `Storage.counts`."""
        by_state: dict[State, int] = {}
        by_queue: dict[str, dict[State, int]] = {}
        for queue, state, number in self._transact(lambda tables: list(tables.counts())):
            by_state[state] = by_state.get(state, 0) + number
            by_queue.setdefault(queue, {})[state] = number
        return Counts(by_state, by_queue)

    # ---- records -----------------------------------------------------------------------------------------

    def put_record(
        self,
        kind: str,
        key: str,
        value: str,
        *,
        expected_version: int | None = None,
        due_at: int | None = None,
    ) -> int | None:
        """See `Storage.put_record`."""

        def put(tables: Tables) -> int | None:
            stored = tables.record(kind, key)
            version = stored.version if stored else 0
            if expected_version not in (None, version):
                return None
            return tables.put_record(RecordChange(kind, key, value, version, due_at))

        return self._transact(put)

    def get_record(self, kind: str, key: str) -> Record | None:
        """See `Storage.get_record`."""
        return self._transact(lambda tables: tables.record(kind, key))

    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """See `Storage.list_records`."""
        return self._transact(lambda tables: tables.records(kind, after, limit))

    def due_records(self, kind: str, limit: int) -> list[Record]:
        """See `Storage.due_records`."""
        now = self.clock()
        return self._transact(lambda tables: tables.due_records(kind, now, limit))

    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`."""

        def delete(tables: Tables) -> bool:
            stored = tables.record(kind, key)
            if stored is None or expected_version not in (None, stored.version):
                return False
            tables.remove_record(stored)
            return True

        return self._transact(delete)


def _stored(tables: Tables, job: NewJob, new: Mapping[str, StoredJob], *, now: int) -> StoredJob:
    """Return a new job in the state that its parents and its batch require.

    `new` contains the earlier jobs of the same call.
    """

    def find(id: str) -> StoredJob | None:
        return new.get(id) or tables.job(id)

    parents = rules.parents_of(job, find)
    row = rules.stored(job, parents, sequence=tables.next_sequence(), now=now)
    return row if job.relations_json is None else relation_tables.in_batch(tables, job, row, new)


def _put(tables: Tables, row: StoredJob) -> None:
    """Store the job, and update the counts of its batch if it has one."""
    if row.record.relations_json is None:
        tables.put(row)
    else:
        relation_tables.put(tables, row)


def _end_session(tables: Tables, id: str, running: Collection[str] | None, *, reason: str, now: int) -> Taken:
    living = tables.living(id)
    if living is None:
        return Taken(id, "", [], [])
    dead = attrs.evolve(living, is_alive=False)
    tables.put_session(StoredSession(dead, now, rules.forget_at(now, is_followed=False)))
    taken = Taken(id, living.session.server, [], [])
    for row in tables.held(id):
        has_crashed = running is None or row.record.id in running
        _put(tables, rules.taken_back(row, crash=reason if has_crashed else None, now=now))
        if row.record.state is State.PROCESSING:
            (taken.crashed if has_crashed else taken.returned).append(row.record.id)
    return taken
