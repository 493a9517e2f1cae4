"""The jobs and everything that finds them again; each change goes through `Table`, so that no index lags."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import cast

from firelock.memory.order import Order
from firelock.storage import Counts, StoredJob
from firelock.values import JobRecord, State


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

    def remove(self, row: StoredJob) -> None:
        """The job is not stored any more; it has ended, and no child waits for it."""
        record = row.record
        self._unindex(row)
        self.by_time.drop(record.id)
        for edge in record.parents:
            _discard(self.children, edge.parent_id, record.id)
        del self.rows[record.id]

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
