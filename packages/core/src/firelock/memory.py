"""The storage that lives in this process: the reference model, and what tests and demos open.

`MemoryStorage` has the verbs, over a `Store` that the handles of one name share: a `Table` of jobs with an
`Order` for each way in which they are looked for, `Sessions` and `Records`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import ClassVar, Self, cast
from weakref import WeakValueDictionary

import attrs

from firelock.clock import SECOND
from firelock.errors import StorageError
from firelock.lifecycle import Moved
from firelock.storage import DerivedStorage, StoredJob, Waiting, rules, with_progress
from firelock.values import (
    Applied,
    Claim,
    ClaimRequest,
    Counts,
    Exchange,
    Feature,
    FoundJobs,
    Held,
    Inserted,
    JobFilter,
    JobHistory,
    JobRecord,
    NewJob,
    NewSession,
    Promotion,
    Reconciliation,
    Record,
    RecordChange,
    Renewal,
    SessionRecord,
    State,
    Taken,
    Transition,
)

__all__ = ["MemoryStorage"]

_DAY = 86_400 * SECOND
_SPARE = 64  # dead entries of an order that are never worth sweeping out

Key = tuple[int, ...]
Entry = tuple[Key, str]


class MemoryStorage(DerivedStorage):
    """Jobs in this process's memory: gone with the process, unseen by any other.

    Handles of one name share a store for as long as one of them is open; a handle without a name has a store
    of its own. One lock makes each verb one step.
    """

    contract = 1
    features = frozenset({Feature.NOTIFY})

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.url = f"memory://{name}"
        self._store = Store.named(name)
        self._is_closed = False
        self.clock_offset = 0  # micros, moved by tests
        self._waiters = _Waiters(self._store.changed, self._may_work)
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

    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """See `Storage.insert`."""
        self.refuse_within(within)
        with self._open() as store:
            if only_if is not None:
                answer = rules.checked(store.records.get(only_if.kind, only_if.key), only_if)
                if answer is not Applied.APPLIED:
                    return Inserted([False] * len(jobs), answer)
            now, rows = self.clock(), store.table.rows
            new: dict[str, StoredJob] = {}
            is_new = []
            for job in jobs:
                is_new.append(job.id not in new and job.id not in store.table.rows)
                if is_new[-1]:
                    parents = rules.parents_of(job, lambda id: new.get(id) or rows.get(id))
                    sequence = store.table.inserted + len(new)
                    new[job.id] = rules.stored(job, parents, sequence=sequence, now=now)
            for row in new.values():
                store.table.add(row)
            if only_if is not None:
                store.put_record(only_if)
            store.changed.notify_all()
        return Inserted(is_new)

    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`."""
        with self._open() as store:
            living = store.sessions.living(request.session)
            if living is None:
                return Claim([], self._next_due_at(store), is_session_lost=True)
            rows = [
                rules.claimed_by(row, request.session, living.session.server, now=request.now)
                for row in store.next_ready(request.queues, request.limit)
            ]
            for row in rows:
                store.table.put(row)
            return Claim([row.claimed() for row in rows], self._next_due_at(store))

    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """See `Storage.apply`."""
        self.refuse_within(within)
        with self._open() as store:
            now = self.clock()
            results = [store.table.apply(transition, now) for transition in transitions]
            store.changed.notify_all()
        return results

    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """See `Storage.exchange`."""
        with self._open():
            return super().exchange(transitions, request)

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`."""
        self._open()
        is_news = self._waiters.wait(queues, timeout_seconds)
        if is_news:
            with self._store as store:
                self._next_due_at(store)
        return is_news

    def interrupt(self) -> None:
        """See `Storage.interrupt`."""
        self._waiters.interrupt()

    def _may_work(self, queues: Sequence[str] | None) -> bool:
        """Tell whether a claim of these queues would take something, or is to learn of an earlier instant."""
        if self._is_closed:
            return False
        if self._store.has_ready(queues):
            return True
        due_at, told = self._earliest(self._store), self._told_due_at
        return due_at is not None and (told is None or due_at < told)

    def _next_due_at(self, store: Store) -> int | None:
        """Return the earliest instant of a scheduled or recurring job; the caller is told."""
        self._told_due_at = self._earliest(store)
        return self._told_due_at

    def _earliest(self, store: Store) -> int | None:
        firsts = store.table.due.first(), store.records.of("recurring").due.first()
        return rules.earliest(*(first[0][0] for first in firsts if first))

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
            answer, started = rules.reconciled(rows, held, is_session_lost=is_lost)
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
                store.table.put(rules.taken_back(row, crash=reason if has_crashed else None, now=now))
                if row.record.state is State.PROCESSING:
                    (taken.crashed if has_crashed else taken.returned).append(row.record.id)
            store.changed.notify_all()
        return taken

    def orphans(self, limit: int) -> list[Taken]:
        """See `Storage.orphans`."""
        with self._open() as store:
            expired = store.sessions.expired(self.clock())[:limit]
            return [self.end_session(id, None, reason=Moved.SESSION_LOST.value) for id in expired]

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
                store.table.put(rules.promoted(store.table.rows[id], now=now))
            store.changed.notify_all()
            return Promotion(len(due), self._next_due_at(store))

    def release(self, limit: int) -> int:
        """See `Storage.release`."""
        with self._open() as store:
            looked_at = store.table.release(limit, self.clock())
            store.changed.notify_all()
        return looked_at

    def prune(self, limit: int) -> int:
        """See `Storage.prune`."""
        with self._open() as store:
            now = self.clock()
            expired = (id for id in store.table.expiring.up_to(now) if id not in store.table.releasing)
            ids = list(islice(expired, limit))
            for id in ids:
                store.table.prune(id, now)
            store.sessions.prune(now - _DAY)
            self.prune_derived(ids, now, limit)
        return len(ids)

    # ---- what people read --------------------------------------------------------------------------------

    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """See `Storage.get`."""
        with self._open() as store:
            rows = [store.table.rows.get(id) for id in ids]
            said = (store.records.get("progress", id) for id in ids)
            return [
                with_progress(row.record, one) if row else None for row, one in zip(rows, said, strict=True)
            ]

    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """See `Storage.find`."""
        with self._open() as store:
            return store.table.find(where, limit=limit, cursor=cursor, oldest_first=oldest_first)

    def history(self, job_id: str) -> JobHistory:
        """See `Storage.history`."""
        with self._open() as store:
            row = store.table.rows.get(job_id)
            return JobHistory(list(row.history), list(row.attempts)) if row else JobHistory([], [])

    def counts(self) -> Counts:
        """See `Storage.counts`."""
        with self._open() as store:
            return store.table.counts()

    # ---- small records -----------------------------------------------------------------------------------

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
        with self._open() as store:
            if expected_version is None:
                stored = store.records.get(kind, key)
                expected_version = stored.version if stored else 0
            return store.put_record(RecordChange(kind, key, value, expected_version, due_at))

    def get_record(self, kind: str, key: str) -> Record | None:
        """See `Storage.get_record`."""
        with self._open() as store:
            return store.records.get(kind, key)

    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """See `Storage.list_records`."""
        with self._open() as store:
            return store.records.page(kind, after, limit)

    def due_records(self, kind: str, limit: int) -> list[Record]:
        """See `Storage.due_records`."""
        with self._open() as store:
            return store.records.due(kind, self.clock(), limit)

    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`."""
        with self._open() as store:
            is_deleted = store.records.delete(kind, key, expected_version)
            store.note_queue(kind, key)
            return is_deleted


class _Waiters(Waiting):
    """The waits of one handle: whatever changes the store may be news."""

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
    """The jobs, sessions and records of one name; whoever touches them holds `changed`."""

    _named: ClassVar[WeakValueDictionary[str, Store]] = WeakValueDictionary()
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.clear()

    @classmethod
    def named(cls, name: str) -> Store:
        """Return the store that every open handle of this name shares, a new one for no name."""
        if not name:
            return cls()
        with cls._naming:
            return cls._named.setdefault(name, cls())

    def clear(self) -> None:
        """Nothing is stored."""
        self.table = Table()
        self.sessions = Sessions()
        self.records = Records()
        self._paused: set[str] = set()
        self._served = ""  # the queue that served last where a claim named none

    def __enter__(self) -> Self:
        self.changed.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.changed.release()

    def put_record(self, change: RecordChange) -> int | None:
        """See `Storage.put_record`."""
        version = self.records.put(change)
        self.note_queue(change.kind, change.key)
        if change.due_at is not None:
            self.changed.notify_all()
        return version

    def note_queue(self, kind: str, key: str) -> None:
        """Where the record is a queue's, what it says holds, and those who wait look again."""
        if kind == "queue":
            pauses = rules.is_pausing(self.records.get(kind, key))
            (self._paused.add if pauses else self._paused.discard)(key)
            self.changed.notify_all()

    def has_ready(self, queues: Sequence[str] | None) -> bool:
        """Tell whether a claim of these queues would take something."""
        ready = self.table.ready
        wanted = ready if queues is None else queues
        return any(queue in ready and queue not in self._paused for queue in wanted)

    def next_ready(self, queues: Sequence[str] | None, limit: int) -> list[StoredJob]:
        """Return up to `limit` jobs that a claim of these queues takes, in its order."""
        ready = self.table.ready
        names = ready if queues is None else queues
        lines = {name: ready[name].after() for name in names if name in ready and name not in self._paused}
        entries = rules.next_in_line(lines, queues, limit, served=self._served)
        rows = [self.table.rows[id] for _, id in entries]
        if rows and queues is None:
            self._served = rows[-1].record.queue
        return rows


class Table:
    """Every job by id, and the ids in the orders that the verbs need."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredJob] = {}
        self.by_time = Order()  # created_at
        self.by_state: dict[State, Order] = {state: Order() for state in State}  # changed_at
        self.ready: dict[str, Order] = {}  # by queue: its place there
        self.due = Order()  # due_at of scheduled jobs
        self.expiring = Order()  # expires_at
        self.held: defaultdict[str, dict[str, None]] = defaultdict(dict)  # by session: its jobs and tails
        self.children: defaultdict[str, dict[str, None]] = defaultdict(dict)  # by parent, ended ones too
        self.waiting: defaultdict[str, dict[str, None]] = defaultdict(dict)  # by parent: edges not decided
        self.releasing: dict[str, list[str]] = {}  # by ended parent: children to look at, the last one first
        self.inserted = 0  # how many ever were: the sequence of the next one
        self._counts: dict[str, Counter[State]] = {}

    def add(self, row: StoredJob) -> None:
        """The new job is stored."""
        record = row.record
        self.inserted = row.sequence + 1
        self.rows[record.id] = row
        self.by_time.put(record.id, record.created_at)
        for edge in record.parents:
            self.children[edge.parent_id][record.id] = None
        for edge in row.pending:
            self.waiting[edge.parent_id][record.id] = None
        self._index(row)

    def put(self, row: StoredJob) -> None:
        """The job that was stored before is this one now; every index knows."""
        id = row.record.id
        before = self.rows[id]
        self._unindex(before)
        self.rows[id] = row
        self._index(row)
        for edge in before.pending:
            if edge.parent_id not in {other.parent_id for other in row.pending}:
                _discard(self.waiting, edge.parent_id, id)
        if before.record.state is not row.record.state:
            self._follow_state(row.record)

    def _follow_state(self, job: JobRecord) -> None:
        self.releasing.pop(job.id, None)
        if job.is_final and job.id in self.waiting:
            self.releasing[job.id] = list(reversed(self.waiting[job.id]))

    def apply(self, transition: Transition, now: int) -> Applied:
        """The transition is written if its guards hold; return what became of it."""
        row = self.rows.get(transition.job_id)
        if row is None:
            return Applied.MISSING
        after, result = rules.applied(row, transition, now=now)
        if after is not row:
            self.put(after)
        if result is Applied.APPLIED and transition.job_id in self.releasing:
            return Applied.RELEASING
        return result

    def release(self, limit: int, now: int) -> int:
        """Up to `limit` children of ended parents were looked at; return how many."""
        looked_at = 0
        while self.releasing and looked_at < limit:
            parent_id = next(iter(self.releasing))
            children = self.releasing[parent_id]
            while children and looked_at < limit:
                child = self.rows.get(children.pop())
                looked_at += 1
                if child is not None:  # deleted and pruned in the meantime
                    self.put(rules.followed(child, self.rows[parent_id].record, at=now, now=now))
            if not children:
                del self.releasing[parent_id]
        return looked_at

    def prune(self, id: str, now: int) -> None:
        """The job, which has ended, is gone; children that waited for another end of it are deleted."""
        row = self.rows[id]
        for child in list(self.waiting.get(id, ())):
            reason = Moved.PARENT_GONE.value
            self.put(rules.ended_with(self.rows[child], row.record, reason=reason, at=now))
        self._unindex(row)
        self.by_time.drop(id)
        for edge in row.record.parents:
            _discard(self.children, edge.parent_id, id)
        del self.rows[id]

    def find(self, where: JobFilter, *, limit: int, cursor: str | None, oldest_first: bool) -> FoundJobs:
        """See `Storage.find`."""
        start = None
        if cursor is not None:
            at, id = rules.read_cursor(cursor, where, oldest_first=oldest_first)
            start = (at,), id
        entries = self._in_order(where, start, oldest_first=oldest_first)
        matching = (entry for entry in entries if rules.matches(self.rows[entry[1]].record, where))
        found = list(islice(matching, limit + 1))
        following = None
        if found and len(found) > limit > 0:
            (at,), id = found[limit - 1]
            following = rules.write_cursor((at, id), where, oldest_first=oldest_first)
        return FoundJobs([self.rows[id].record for _, id in found[:limit]], following)

    def _in_order(self, where: JobFilter, start: Entry | None, *, oldest_first: bool) -> Iterator[Entry]:
        """Yield the entries of the filter's time window behind `start`; its other fields are not read."""
        order, since, until = self._order_of(where), where.since, where.until
        if oldest_first:
            begin = start if start or since is None else ((since,), "")
            return takewhile(lambda entry: until is None or entry[0][0] < until, order.after(begin))
        begin = start if start or until is None else ((until,), "")
        return takewhile(lambda entry: since is None or entry[0][0] >= since, order.before(begin))

    def _order_of(self, where: JobFilter) -> Order:
        if where.by_due:
            return self.due
        if where.parent_id is None:
            return self.by_time if where.state is None else self.by_state[where.state]
        order = Order()
        for id in self.children.get(where.parent_id, ()):
            child = self.rows[id].record
            order.put(id, child.created_at if where.state is None else child.changed_at)
        return order

    def counts(self) -> Counts:
        """See `Storage.counts`."""
        by_state: Counter[State] = Counter()
        for states in self._counts.values():
            by_state.update(states)
        return Counts(dict(by_state), {queue: dict(states) for queue, states in self._counts.items()})

    def _index(self, row: StoredJob) -> None:
        job = row.record
        self._counts.setdefault(job.queue, Counter())[job.state] += 1
        self.by_state[job.state].put(job.id, job.changed_at)
        if row.is_ready:
            self.ready.setdefault(job.queue, Order()).put(job.id, *row.place)
        if job.state is State.SCHEDULED:
            self.due.put(job.id, cast("int", job.due_at))
        if job.expires_at is not None:
            self.expiring.put(job.id, job.expires_at)
        if job.session is not None:
            self.held[job.session][job.id] = None

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
            ready = self.ready[job.queue]
            ready.drop(job.id)
            if not ready:
                del self.ready[job.queue]
        if job.state is State.SCHEDULED:
            self.due.drop(job.id)
        if job.expires_at is not None:
            self.expiring.drop(job.id)
        if job.session is not None:
            _discard(self.held, job.session, job.id)


def _discard(groups: dict[str, dict[str, None]], name: str, id: str) -> None:
    """The id is not in that group; an empty group is gone."""
    group = groups.get(name, {})
    group.pop(id, None)
    if not group:
        groups.pop(name, None)


class Order:
    """Ids sorted by key, then id; each is in it at most once.

    What is dropped stays in the list as a dead entry and is swept out when the dead outnumber the living, so
    that dropping costs nothing and looking at the first one costs little.
    """

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._living: dict[str, Entry] = {}
        self._head = 0  # everything before it is dead

    def __len__(self) -> int:
        """Return how many ids there are."""
        return len(self._living)

    def put(self, id: str, *key: int) -> None:
        """The id stands at this key, and nowhere else."""
        if id in self._living:
            self.drop(id)
        entry: Entry = (key, id)
        place = bisect_left(self._entries, entry)
        if place < len(self._entries) and self._entries[place] == entry:
            entry = self._entries[
                place
            ]  # dropped from here before: it lives again, since a twin would be two
        else:
            self._entries.insert(place, entry)
        self._living[id] = entry
        self._head = min(self._head, place)

    def drop(self, id: str) -> None:
        """The id is not in it."""
        if self._living.pop(id, None) is None:
            return
        if len(self._entries) > 2 * len(self._living) + _SPARE:
            self._entries = [entry for entry in self._entries if self._is_living(entry)]
            self._head = 0

    def first(self) -> Entry | None:
        """Return the first entry, None where there is none."""
        while self._head < len(self._entries):
            entry = self._entries[self._head]
            if self._is_living(entry):
                return entry
            self._head += 1
        return None

    def after(self, start: Entry | None = None) -> Iterator[Entry]:
        """Yield the entries behind this one, ascending; nothing may be put while it runs."""
        self.first()  # nobody walks over the dead at the head twice
        entries = self._entries
        begin = self._head if start is None else bisect_right(entries, start)
        return (entry for place in range(begin, len(entries)) if self._is_living(entry := entries[place]))

    def before(self, start: Entry | None = None) -> Iterator[Entry]:
        """Yield the entries in front of this one, descending; nothing may be put while it runs."""
        entries = self._entries
        end = len(entries) if start is None else bisect_left(entries, start)
        return (entry for place in range(end - 1, -1, -1) if self._is_living(entry := entries[place]))

    def up_to(self, limit: int) -> Iterator[str]:
        """Yield the ids whose key begins with at most this number, ascending."""
        for key, id in self.after():
            if key[0] > limit:
                return
            yield id

    def _is_living(self, entry: Entry) -> bool:
        return self._living.get(entry[1]) is entry


class Sessions:
    """Every session by id; a dead one stays until it is pruned."""

    def __init__(self) -> None:
        self._records: dict[str, SessionRecord] = {}
        self._ended_at: dict[str, int] = {}

    def begin(self, session: NewSession, now: int) -> None:
        """See `Storage.begin_session`."""
        if session.id not in self._records:
            self._records[session.id] = rules.begun(session, now=now)

    def renew(self, renewal: Renewal, now: int) -> bool:
        """See `Storage.renew`."""
        record = self.living(renewal.session)
        if record is None:
            return False
        self._records[renewal.session] = rules.renewed(record, renewal, now=now)
        return True

    def living(self, id: str) -> SessionRecord | None:
        """Return the session, None where it is dead or unknown."""
        record = self._records.get(id)
        return record if record and record.is_alive else None

    def end(self, id: str, now: int) -> SessionRecord | None:
        """The session is dead for ever; return it, None where it was so before or is unknown."""
        record = self.living(id)
        if record is not None:
            self._records[id] = attrs.evolve(record, is_alive=False)
            self._ended_at[id] = now
        return record

    def expired(self, now: int) -> list[str]:
        """Return the ids of those that are not marked dead and have expired, the longest expired first."""
        expired = [one for one in self._records.values() if one.is_alive and one.expires_at <= now]
        return [one.session.id for one in sorted(expired, key=lambda one: one.expires_at)]

    def list(self) -> list[SessionRecord]:
        """Return all, oldest first."""
        return sorted(self._records.values(), key=lambda one: (one.session.started_at, one.session.id))

    def prune(self, ended_before: int) -> None:
        """Those that died before this instant are gone."""
        for id in [id for id, at in self._ended_at.items() if at < ended_before]:
            del self._records[id], self._ended_at[id]


class Records:
    """The records of every kind."""

    def __init__(self) -> None:
        self._kinds: defaultdict[str, RecordKind] = defaultdict(RecordKind)

    def of(self, kind: str) -> RecordKind:
        """Return those of a kind."""
        return self._kinds[kind]

    def put(self, change: RecordChange) -> int | None:
        """See `Storage.put_record`."""
        of, key = self.of(change.kind), change.key
        stored = of.records.get(key)
        if change.expected_version != (stored.version if stored else 0):
            return None
        if stored is None:
            insort(of.keys, key)
        version = 1 + (stored.version if stored else of.floor)
        of.records[key] = Record(change.kind, key, change.value, version, change.due_at)
        of.due.drop(key)
        if change.due_at is not None:
            of.due.put(key, change.due_at)
        return version

    def get(self, kind: str, key: str) -> Record | None:
        """See `Storage.get_record`."""
        return self.of(kind).records.get(key)

    def page(self, kind: str, after: str, limit: int) -> list[Record]:
        """See `Storage.list_records`."""
        of = self.of(kind)
        begin = bisect_right(of.keys, after)
        return [of.records[key] for key in of.keys[begin : begin + limit]]

    def due(self, kind: str, now: int, limit: int) -> list[Record]:
        """See `Storage.due_records`."""
        of = self.of(kind)
        return [of.records[key] for key in islice(of.due.up_to(now), limit)]

    def delete(self, kind: str, key: str, expected_version: int | None) -> bool:
        """See `Storage.delete_record`."""
        of, stored = self.of(kind), self.get(kind, key)
        if stored is None or expected_version not in (None, stored.version):
            return False
        del of.records[key], of.keys[bisect_left(of.keys, key)]
        of.due.drop(key)
        of.floor = max(of.floor, stored.version)
        return True


class RecordKind:
    """The records of one kind; the largest version of those that are gone outlives them."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.keys: list[str] = []  # sorted
        self.due = Order()  # due_at
        self.floor = 0
