"""The storage in the memory of this process: the reference model, used by tests and demos.

`TableStorage` implements the verbs, and this module contains the tables. They belong to a `Store`, which all
handles with the same name share. A `Table` contains jobs, sessions and records, with one `Order` for each way
to search for jobs.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice, takewhile
from typing import ClassVar, Self, TypeVar
from weakref import WeakValueDictionary

from firelock.errors import StorageError
from firelock.limits.admission import KeyRow
from firelock.limits.unique_rules import UniqueRow
from firelock.model.batch import BatchCounts
from firelock.model.job import JobFilter, JobRecord
from firelock.model.memo import Memo, MemoKind
from firelock.model.record import Record, RecordChange
from firelock.model.session import Claim, ClaimRequest
from firelock.model.state import State
from firelock.model.storage import Feature
from firelock.storage import rules
from firelock.storage.rules import StoredJob
from firelock.storage.table_storage import TableStorage
from firelock.storage.tables import MemoSum, StoredSession, Tables
from firelock.storage.waiting import Waiting, is_of_taken, taken_from

_WAITS_FOR_TIME = (State.SCHEDULED, State.AWAITING)
_SPARE = 64  # up to this number of dead entries, removing them is not worthwhile

_T = TypeVar("_T")
_QUEUE_LISTS = 1_000  # maximum number of sets of queues for which the last claim is remembered
Key = tuple[int, ...]
Entry = tuple[Key, str]


class MemoryStorage(TableStorage):
    """A storage in the memory of this process. Its jobs are lost when the process ends.

    Other processes cannot access the jobs. Handles with the same name share a store as long as one of them is
    open. A handle without a name has its own store. A lock makes each verb atomic.
    """

    contract = 1
    features = frozenset({Feature.NOTIFY, Feature.LIMITS, Feature.UNIQUE})

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.url = f"memory://{name}"
        self._store = Store.named(name)
        self._is_closed = False
        self.clock_offset = 0  # in microseconds; changed by tests
        self._waiters = _Waiters(self._store.changed, self._may_work)
        self._lane_news: dict[frozenset[str] | None, int] = {}  # `lane_news` at the last claim, by queues
        self._taken_seen: dict[str, int] = {}  # `taken` number at the last wait, by `taken_from` name
        # The store's `ready_news` at the last claim of these queues, if that claim excluded tasks.
        self._passed_over: dict[frozenset[str] | None, int] = {}

    # ---- handle ------------------------------------------------------------------------------------------

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
            self._waiters.end()
            self._store = Store()  # the shared store is deleted after its last handle was closed

    def clock(self) -> int:
        """See `Storage.clock`."""
        self._open()
        return time.time_ns() // 1_000 + self.clock_offset

    def describe(self) -> Mapping[str, str]:
        """See `Storage.describe`."""
        return {"storage": self.url, "durability": "none: jobs are lost when this process ends"}

    def _open(self) -> Store:
        if self._is_closed:
            raise StorageError(f"Storage {self.url} is closed; open a new handle.")
        return self._store

    def _transact(self, body: Callable[[Tables], _T]) -> _T:
        with self._open() as store:
            try:
                return body(store.table)
            finally:
                if store.table.has_news:
                    store.table.has_news = False
                    store.changed.notify_all()

    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`."""
        with self._open() as store:
            answer = super().claim(request)
            if len(self._lane_news) > _QUEUE_LISTS:
                self._lane_news.clear()
                self._passed_over.clear()
            key = _as_key(request.queues)
            self._lane_news[key] = store.table.lane_news
            if request.left_out:
                self._passed_over[key] = store.table.ready_news
            else:
                self._passed_over.pop(key, None)
        return answer

    # ---- waiting for work --------------------------------------------------------------------------------

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`."""
        self._open()
        is_news = self._waiters.wait(queues, timeout_seconds)
        if is_news and not _are_of_taken(queues):
            with self._store as store:
                self._reported_due_at = store.table.next_due_at()
        return is_news

    def interrupt(self) -> None:
        """See `Storage.interrupt`."""
        self._waiters.interrupt()

    def _may_work(self, queues: Sequence[str] | None) -> bool:
        """Return whether a claim from these queues would take a job or return an earlier due time."""
        if self._is_closed:
            return False
        table = self._store.table
        if queues is not None and _are_of_taken(queues):
            return self._were_taken(queues)
        key = _as_key(queues)
        if table.has_ready(queues) and table.ready_news != self._passed_over.get(key):
            return True
        if table.lane_news != self._lane_news.get(key, 0):
            return True
        due_at, reported = table.next_due_at(), self._reported_due_at
        return due_at is not None and (reported is None or due_at < reported)

    def _were_taken(self, names: Sequence[str]) -> bool:
        """Return whether jobs were taken from these sessions since the last call."""
        table, news = self._store.table, False
        if len(self._taken_seen) > _QUEUE_LISTS:
            self._taken_seen.clear()
        for name in names:
            taken = table.taken.get(name, 0)
            news |= taken > self._taken_seen.get(name, 0)
            self._taken_seen[name] = taken
        return news


def _are_of_taken(queues: Sequence[str] | None) -> bool:
    return bool(queues) and all(map(is_of_taken, queues or ()))


def _as_key(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)


class _Waiters(Waiting):
    """The waits of a handle; any change of the store can end one of them."""

    def __init__(
        self, changed: threading.Condition, may_work: Callable[[Sequence[str] | None], bool]
    ) -> None:
        self._of_store, self._may_work = changed, may_work
        super().__init__()

    def _begin(self) -> None:
        super()._begin()
        self.changed = self._of_store

    def is_news(self, queues: Sequence[str] | None) -> bool:
        """See `Waiting.is_news`."""
        return self._may_work(queues)


class Store:
    """The jobs, sessions and records of one name; acquire `changed` before using them."""

    _named: ClassVar[WeakValueDictionary[str, Store]] = WeakValueDictionary()
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.clear()

    @classmethod
    def named(cls, name: str) -> Store:
        """Return the store that all open handles with this name share; for an empty name, a new store."""
        if not name:
            return cls()
        with cls._naming:
            return cls._named.setdefault(name, cls())

    def clear(self) -> None:
        """Delete everything."""
        self.table = Table()

    def __enter__(self) -> Self:
        self.changed.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.changed.release()


class Table(Tables):
    """The jobs by id, with the orders that the verbs need, the sessions, and the records by kind."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredJob] = {}
        self.by_time = Order()  # jobs by created_at
        self.by_state: dict[State, Order] = {state: Order() for state in State}  # jobs by changed_at
        self._ready: dict[str, Order] = {}  # jobs without a lane, by queue, in the order of their places
        self._lanes: dict[str, dict[str, Order]] = {}  # jobs by queue and lane, in the order of places
        self._lane_names: dict[str, list[str]] = {}  # sorted lanes by queue
        self._key_rows: dict[str, KeyRow] = {}
        self._unique_rows: dict[str, UniqueRow] = {}
        self.taken_number = 0  # how many jobs other callers have taken from sessions
        self.taken: dict[str, int] = {}  # `taken_number` when a session last lost a job, by `taken_from` name
        self.ready_news = 0  # grows whenever a job without limits might have become able to start
        self.lane_news = 0  # grows whenever a job in a lane might have become able to start
        self._due = Order()  # scheduled and awaiting jobs by due_at
        self._expiring = Order()  # jobs by expires_at
        self._held: defaultdict[str, dict[str, None]] = defaultdict(dict)  # jobs and tails by session
        # All children, including ended ones, by parent.
        self._children: defaultdict[str, dict[str, None]] = defaultdict(dict)
        # Children with undecided edges, by parent.
        self._waiting: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._releasing: dict[str, list[str]] = {}  # children to move, by ended parent, in reverse order
        self._members: defaultdict[str, Members] = defaultdict(Members)  # members by batch
        self._batch_counts: dict[str, BatchCounts] = {}  # counts by batch
        self._changed: dict[str, None] = {}  # batches whose state may need to change
        self._memos: dict[str, dict[tuple[MemoKind, str], Memo]] = {}  # by job
        self._memo_sums: dict[str, MemoSum] = {}
        self._inserted = 0  # number of jobs inserted so far, which is the sequence number of the next job
        self._counts: dict[str, Counter[State]] = {}
        self._sessions: dict[str, StoredSession] = {}
        self._living = Order()  # sessions by started_at
        self._forgettable = Order()  # ended sessions by forget_at
        self._unfollowed: defaultdict[str, dict[str, None]] = defaultdict(dict)  # ended sessions by server
        self._kinds: defaultdict[str, RecordKind] = defaultdict(RecordKind)
        self.has_news = False  # whether waiting servers must be woken

    def job(self, id: str) -> StoredJob | None:
        """See `Tables.job`."""
        return self.rows.get(id)

    def _jobs(self, ids: Iterable[str]) -> list[StoredJob]:
        return [self.rows[id] for id in ids]

    def put(self, row: StoredJob) -> None:
        """See `Tables.put`."""
        record = row.record
        id, before = record.id, self.rows.get(record.id)
        if before is None:
            self.by_time.put(id, record.created_at)
            for edge in record.parents:
                self._children[edge.parent_id][id] = None
            if (batch := row.batch_id) is not None:
                self._members[batch].by_time.put(id, record.created_at)
        else:
            self._unindex(before)
            for edge in before.pending:
                if edge.parent_id not in {other.parent_id for other in row.pending}:
                    _discard(self._waiting, edge.parent_id, id)
        for edge in row.pending:
            self._waiting[edge.parent_id][id] = None
        self.rows[id] = row
        self._index(row)
        if not record.session:
            self._note_freed(before)
        if before is not None and before.record.state is not record.state:
            self._follow_state(record)
            if record.session and before.record.state is State.PROCESSING:
                self._note_taken(record.session)

    def _note_taken(self, session: str) -> None:
        """Record that another caller took a job from the session, so that only the job's tail is left."""
        if len(self.taken) > _QUEUE_LISTS:
            self.taken.clear()
        self.taken_number += 1
        self.taken[taken_from(session)] = self.taken_number
        self.has_news = True

    def _note_freed(self, before: StoredJob | None) -> None:
        """Wake waiting servers if the job belonged to a session and therefore used limit keys."""
        if before is not None and before.record.session and before.lane is not None:
            self.lane_news += 1
            self.has_news = True

    def _follow_state(self, job: JobRecord) -> None:
        self._releasing.pop(job.id, None)
        if job.is_final and job.id in self._waiting:
            self._releasing[job.id] = list(reversed(self._waiting[job.id]))

    def remove(self, row: StoredJob) -> None:
        """See `Tables.remove`."""
        id = row.record.id
        self._unindex(row)
        self.by_time.drop(id)
        for edge in row.record.parents:
            _discard(self._children, edge.parent_id, id)
        for edge in row.pending:
            _discard(self._waiting, edge.parent_id, id)
        if (batch := row.batch_id) is not None:
            self._members[batch].by_time.drop(id)
            if not self._members[batch].by_time:
                del self._members[batch]
        del self.rows[id]
        self._note_freed(row)

    def next_sequence(self) -> int:
        """See `Tables.next_sequence`."""
        self._inserted += 1
        return self._inserted

    def ready(self, queue: str, limit: int) -> Iterable[StoredJob]:
        """See `Tables.ready`."""
        waiting = self._ready[queue].after() if queue in self._ready else ()
        return (self.rows[id] for _, id in islice(waiting, limit))

    def queues(self) -> Iterable[str]:
        """See `Tables.queues`."""
        return dict.fromkeys([*self._ready, *self._lanes]) if self._lanes else self._ready

    def has_lanes(self, queue: str) -> bool:
        """See `Tables.has_lanes`."""
        return queue in self._lanes

    def lanes(self, queue: str, after: str, until: str, limit: int) -> list[str]:
        """See `Tables.lanes`."""
        names = self._lane_names.get(queue, [])
        begin = bisect_right(names, after)
        end = bisect_right(names, until) if until else len(names)
        return names[begin : min(end, begin + limit)]

    def in_lane(self, queue: str, lane: str, behind: int, limit: int) -> list[StoredJob]:
        """See `Tables.in_lane`."""
        order = self._lanes.get(queue, {}).get(lane)
        found = () if order is None else islice(order.after(), behind, behind + limit)
        return self._jobs(id for _, id in found)

    def lane_counts(self) -> Iterable[tuple[str, int]]:
        """See `Tables.lane_counts`."""
        return ((lane, len(order)) for lanes in self._lanes.values() for lane, order in lanes.items())

    def key_row(self, key: str) -> KeyRow | None:
        """See `Tables.key_row`."""
        return self._key_rows.get(key)

    def put_key_row(self, key: str, row: KeyRow | None) -> None:
        """See `Tables.put_key_row`."""
        if row is None:
            del self._key_rows[key]
        else:
            self._key_rows[key] = row

    def key_rows(self, prefix: str) -> Iterable[tuple[str, KeyRow]]:
        """See `Tables.key_rows`."""
        return ((key, self._key_rows[key]) for key in sorted(self._key_rows) if key.startswith(prefix))

    def unique_row(self, key: str) -> UniqueRow | None:
        """See `Tables.unique_row`."""
        return self._unique_rows.get(key)

    def put_unique_row(self, key: str, row: UniqueRow | None) -> None:
        """See `Tables.put_unique_row`."""
        if row is None:
            del self._unique_rows[key]
        else:
            self._unique_rows[key] = row

    def unique_rows(self, prefix: str, after: str, limit: int) -> list[tuple[str, UniqueRow]]:
        """See `Tables.unique_rows`."""
        wanted = (key for key in self._unique_rows if key.startswith(prefix) and key > after)
        return [(key, self._unique_rows[key]) for key in nsmallest(limit, wanted)]

    # ---- batches and memos ---------------------------------------------------------------------------------

    def batch_counts(self, batch: str) -> BatchCounts | None:
        """See `Tables.batch_counts`."""
        return self._batch_counts.get(batch)

    def put_batch_counts(self, batch: str, counts: BatchCounts | None) -> None:
        """See `Tables.put_batch_counts`."""
        if counts is None:
            self._batch_counts.pop(batch, None)
            self._changed.pop(batch, None)
        else:
            self._batch_counts[batch] = counts

    def note_changed(self, batch: str) -> None:
        """See `Tables.note_changed`."""
        self._changed[batch] = None

    def is_changed(self, batch: str) -> bool:
        """See `Tables.is_changed`."""
        return batch in self._changed

    def next_changed(self) -> str | None:
        """See `Tables.next_changed`."""
        batch = next(iter(self._changed), None)
        if batch is not None:
            del self._changed[batch]
        return batch

    def unswept(self, batch: str, limit: int) -> list[StoredJob]:
        """See `Tables.unswept`."""
        members = self._members.get(batch)
        return [] if members is None else self._jobs(islice(members.unswept, limit))

    def waiting_for_batch(self, batch: str, limit: int) -> list[StoredJob]:
        """See `Tables.waiting_for_batch`."""
        members = self._members.get(batch)
        return [] if members is None else self._jobs(islice(members.waiting_for_batch, limit))

    def memos(self, job: str) -> list[Memo]:
        """See `Tables.memos`."""
        return sorted(self._memos.get(job, {}).values(), key=lambda memo: memo.place)

    def memo(self, job: str, kind: MemoKind, name: str) -> Memo | None:
        """See `Tables.memo`."""
        return self._memos.get(job, {}).get((kind, name))

    def put_memo(self, job: str, memo: Memo) -> None:
        """See `Tables.put_memo`."""
        self._memos.setdefault(job, {})[memo.kind, memo.name] = memo

    def remove_memo(self, job: str, memo: Memo) -> None:
        """See `Tables.remove_memo`."""
        del self._memos[job][memo.kind, memo.name]

    def memo_sum(self, job: str) -> MemoSum:
        """See `Tables.memo_sum`."""
        return self._memo_sums.get(job, MemoSum())

    def put_memo_sum(self, job: str, total: MemoSum | None) -> None:
        """See `Tables.put_memo_sum`."""
        if total is None:
            del self._memo_sums[job]
            self._memos.pop(job, None)
        else:
            self._memo_sums[job] = total

    # ---- orders --------------------------------------------------------------------------------------------

    def has_ready(self, queues: Sequence[str] | None) -> bool:
        """Return whether a claim from these queues would take a job without limits."""
        wanted = self._ready if queues is None else queues
        return any(queue in self._ready and not self.is_paused(queue) for queue in wanted)

    def due(self, now: int, limit: int) -> list[StoredJob]:
        """See `Tables.due`."""
        return self._jobs(islice(self._due.up_to(now), limit))

    def next_due_at(self) -> int | None:
        """See `Tables.next_due_at`."""
        firsts = self._due.first(), self._kinds["recurring"].due.first()
        return rules.earliest(*(first[0][0] for first in firsts if first))

    def expired(self, now: int, limit: int) -> list[StoredJob]:
        """See `Tables.expired`."""
        expired = (id for id in self._expiring.up_to(now) if id not in self._releasing)
        return self._jobs(islice(expired, limit))

    def held(self, session: str) -> list[StoredJob]:
        """See `Tables.held`."""
        return self._jobs(self._held.get(session, ()))

    def waiting(self, parent: str) -> list[StoredJob]:
        """See `Tables.waiting`."""
        return self._jobs(self._waiting.get(parent, ()))

    def children(self, parent: str) -> list[StoredJob]:
        """See `Tables.children`."""
        return self._jobs(self._children.get(parent, ()))

    def is_releasing(self, id: str) -> bool:
        """See `Tables.is_releasing`."""
        return id in self._releasing

    def next_releasing(self, limit: int) -> tuple[JobRecord, list[StoredJob]] | None:
        """See `Tables.next_releasing`."""
        parent = next(iter(self._releasing), None)
        if parent is None:
            return None
        children = self._releasing[parent]
        taken = [children.pop() for _ in range(min(limit, len(children)))]
        if not children:
            del self._releasing[parent]
        return self.rows[parent].record, [self.rows[id] for id in taken if id in self.rows]

    def find(
        self, where: JobFilter, place: rules.Place | None, limit: int, *, oldest_first: bool
    ) -> list[JobRecord]:
        """See `Tables.find`."""
        start = None if place is None else ((place[0],), place[1])
        jobs = (self.rows[id].record for _, id in self._in_order(where, start, oldest_first=oldest_first))
        return list(islice((job for job in jobs if rules.matches(job, where)), limit))

    def _in_order(self, where: JobFilter, start: Entry | None, *, oldest_first: bool) -> Iterator[Entry]:
        """Yield the entries after `start` in the filter's time window; other filter fields are ignored."""
        since, until = where.since, where.until
        of = self if where.batch_id is None else self._members.get(where.batch_id) or Members()
        order = of.by_time if where.state is None else of.by_state[where.state]
        if where.by_due:
            order = self._due
        if oldest_first:
            begin = start if start or since is None else ((since,), "")
            return takewhile(lambda entry: until is None or entry[0][0] < until, order.after(begin))
        begin = start if start or until is None else ((until,), "")
        return takewhile(lambda entry: since is None or entry[0][0] >= since, order.before(begin))

    def counts(self) -> Iterable[tuple[str, State, int]]:
        """See `Tables.counts`."""
        for queue, states in self._counts.items():
            for state, number in states.items():
                yield queue, state, number

    def session(self, id: str) -> StoredSession | None:
        """See `Tables.session`."""
        return self._sessions.get(id)

    def put_session(self, session: StoredSession) -> None:
        """See `Tables.put_session`."""
        id, stored = session.record.session.id, session.record.session
        if id in self._sessions:
            self._unlist_session(id)
        self._sessions[id] = session
        if session.forget_at is None:
            self._living.put(id, stored.started_at)
            return
        self._forgettable.put(id, session.forget_at)
        if not session.is_followed:
            self._unfollowed[stored.server_id][id] = None

    def _unlist_session(self, id: str) -> None:
        """Remove the session from all orders in which it is listed."""
        before = self._sessions[id]
        if before.forget_at is None:
            self._living.drop(id)
            return
        self._forgettable.drop(id)
        if not before.is_followed:
            _discard(self._unfollowed, before.record.session.server_id, id)

    def remove_session(self, id: str) -> None:
        """See `Tables.remove_session`."""
        self._unlist_session(id)
        del self._sessions[id]

    def living_sessions(self, limit: int | None = None) -> list[StoredSession]:
        """See `Tables.living_sessions`."""
        return [self._sessions[id] for _, id in islice(self._living.after(), limit)]

    def unfollowed(self, server_id: str) -> list[StoredSession]:
        """See `Tables.unfollowed`."""
        return [self._sessions[id] for id in self._unfollowed.get(server_id, ())]

    def forgettable(self, now: int, limit: int) -> list[StoredSession]:
        """See `Tables.forgettable`."""
        return [self._sessions[id] for id in islice(self._forgettable.up_to(now), limit)]

    def sessions(self) -> Iterable[StoredSession]:
        """See `Tables.sessions`."""
        return self._sessions.values()

    def record(self, kind: str, key: str) -> Record | None:
        """See `Tables.record`."""
        return self._kinds[kind].records.get(key)

    def records(self, kind: str, after: str, limit: int) -> list[Record]:
        """See `Tables.records`."""
        of = self._kinds[kind]
        begin = bisect_right(of.keys, after)
        return [of.records[key] for key in of.keys[begin : begin + limit]]

    def due_records(self, kind: str, now: int, limit: int) -> list[Record]:
        """See `Tables.due_records`."""
        of = self._kinds[kind]
        return [of.records[key] for key in islice(of.due.up_to(now), limit)]

    def put_record(self, change: RecordChange) -> int:
        """See `Tables.put_record`."""
        of, key = self._kinds[change.kind], change.key
        stored = of.records.get(key)
        if stored is None:
            insort(of.keys, key)
        version = 1 + (stored.version if stored else of.floor)
        of.records[key] = Record(
            kind=change.kind, key=key, value=change.value, version=version, due_at=change.due_at
        )
        of.due.drop(key)
        if change.due_at is not None:
            of.due.put(key, change.due_at)
        self._note_record(change.kind)
        self.has_news |= change.due_at is not None
        return version

    def _note_record(self, kind: str) -> None:
        self.has_news |= kind in ("queue", "limit")
        self.ready_news += kind == "queue"
        self.lane_news += kind == "limit" or (kind == "queue" and bool(self._lanes))

    def remove_record(self, record: Record) -> None:
        """See `Tables.remove_record`."""
        of, key = self._kinds[record.kind], record.key
        del of.records[key], of.keys[bisect_left(of.keys, key)]
        of.due.drop(key)
        of.floor = max(of.floor, record.version)
        self._note_record(record.kind)

    def _index(self, row: StoredJob) -> None:
        job = row.record
        self._counts.setdefault(job.queue, Counter())[job.state] += 1
        self.by_state[job.state].put(job.id, job.changed_at)
        if row.is_ready:
            self._line(row).put(job.id, *row.place)
            self.has_news = True
        if job.due_at is not None and job.state in _WAITS_FOR_TIME:
            self._due.put(job.id, job.due_at)
            self.has_news = True
        if job.expires_at is not None:
            self._expiring.put(job.id, job.expires_at)
        if job.session is not None:
            self._held[job.session][job.id] = None
        if job.relations_json is not None and (batch := row.batch_id) is not None:
            self._members[batch].put(row)

    def _unindex(self, row: StoredJob) -> None:
        job = row.record
        states = self._counts[job.queue]
        states[job.state] -= 1
        if not states[job.state]:
            del states[job.state]
        if not states:
            del self._counts[job.queue]
        self.by_state[job.state].drop(job.id)
        if row.is_ready:
            self._leave_line(row)
        if job.due_at is not None:
            self._due.drop(job.id)
        if job.expires_at is not None:
            self._expiring.drop(job.id)
        if job.session is not None:
            _discard(self._held, job.session, job.id)
        if job.relations_json is not None and (batch := row.batch_id) is not None:
            self._members[batch].drop(row)

    def _line(self, row: StoredJob) -> Order:
        """Return the `Order` in which the ready job waits."""
        queue, lane = row.record.queue, row.lane
        if lane is None:
            self.ready_news += 1
            return self._ready.setdefault(queue, Order())
        self.lane_news += 1
        lanes = self._lanes.setdefault(queue, {})
        if lane not in lanes:
            lanes[lane] = Order()
            insort(self._lane_names.setdefault(queue, []), lane)
        return lanes[lane]

    def _leave_line(self, row: StoredJob) -> None:
        """Remove a job that was ready from its `Order`, and delete the `Order` if it is empty."""
        queue, lane = row.record.queue, row.lane
        line = self._ready[queue] if lane is None else self._lanes[queue][lane]
        line.drop(row.record.id)
        if line:
            return
        if lane is None:
            del self._ready[queue]
            return
        names = self._lane_names[queue]
        del self._lanes[queue][lane], names[bisect_left(names, lane)]
        if not names:
            del self._lanes[queue], self._lane_names[queue]


def _discard(groups: dict[str, dict[str, None]], name: str, id: str) -> None:
    """Remove the id from the group; if the group is then empty, delete it."""
    group = groups.get(name, {})
    group.pop(id, None)
    if not group:
        groups.pop(name, None)


class Order:
    """A list of ids, sorted by key and then by id, in which each id occurs at most once.

    A dropped id leaves a dead entry in the list. Dead entries are removed when they outnumber the living
    ones. Therefore, dropping an id costs almost nothing, and the first living entry is found quickly.

    All entries before `_head` are dead, in any order, and are never read again. A new first entry replaces
    the last of these entries, so that readers do not have to skip the others.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._living: dict[str, Entry] = {}
        self._head = 0  # the entries from here on are sorted

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self._living)

    def put(self, id: str, *key: int) -> None:
        """Add the id with this key; an id that already has a key is moved."""
        if id in self._living:
            self.drop(id)
        entry: Entry = (key, id)
        place = bisect_left(self._entries, entry, self._head)
        if place < len(self._entries) and self._entries[place] == entry:
            entry = self._entries[
                place
            ]  # reuse the dead entry with this key and id, instead of adding an equal one
        elif 0 < place == self._head:
            self._head -= 1
            self._entries[self._head] = entry
        else:
            self._entries.insert(place, entry)
        self._living[id] = entry

    def drop(self, id: str) -> None:
        """Remove the id."""
        if self._living.pop(id, None) is None:
            return
        if len(self._entries) > 2 * len(self._living) + _SPARE:
            self._entries = [entry for entry in self._entries if self._is_living(entry)]
            self._head = 0

    def first(self) -> Entry | None:
        """Return the first entry; None if there are no entries."""
        while self._head < len(self._entries):
            entry = self._entries[self._head]
            if self._is_living(entry):
                return entry
            self._head += 1
        return None

    def after(self, start: Entry | None = None) -> Iterator[Entry]:
        """Yield the entries after this one, ascending; entries must not change during the iteration."""
        self.first()  # skips the dead entries at the head only once
        entries = self._entries
        begin = self._head if start is None else bisect_right(entries, start, self._head)
        return (entry for place in range(begin, len(entries)) if self._is_living(entry := entries[place]))

    def before(self, start: Entry | None = None) -> Iterator[Entry]:
        """Yield the entries before this one, descending; entries must not change during the iteration."""
        entries = self._entries
        head = self._head
        end = len(entries) if start is None else bisect_left(entries, start, head)
        return (entry for place in range(end - 1, head - 1, -1) if self._is_living(entry := entries[place]))

    def up_to(self, limit: int) -> Iterator[str]:
        """Yield, in ascending order, the ids whose key begins with a number up to `limit`."""
        for key, id in self.after():
            if key[0] > limit:
                return
            yield id

    def _is_living(self, entry: Entry) -> bool:
        return self._living.get(entry[1]) is entry


class Members:
    """The members of one batch, in the orders that the verbs need."""

    def __init__(self) -> None:
        self.by_time = Order()
        self.by_state: defaultdict[State, Order] = defaultdict(Order)
        self.unswept: dict[str, None] = {}
        self.waiting_for_batch: dict[str, None] = {}

    def put(self, row: StoredJob) -> None:
        """Add the member to its orders."""
        job = row.record
        self.by_state[job.state].put(job.id, job.changed_at)
        if not job.is_final and not row.is_cancelled:
            self.unswept[job.id] = None
        if row.waits_for_batch:
            self.waiting_for_batch[job.id] = None

    def drop(self, row: StoredJob) -> None:
        """Remove the member from its orders."""
        job = row.record
        self.by_state[job.state].drop(job.id)
        self.unswept.pop(job.id, None)
        self.waiting_for_batch.pop(job.id, None)


class RecordKind:
    """The records of one kind, and the largest version of its deleted records."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.keys: list[str] = []  # sorted
        self.due = Order()  # by due_at
        self.floor = 0
