"""The jobs and everything that finds them again; each change goes through `Table`, so that no index lags."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import cast

import attrs

from firelock.job import Attempt, ClaimedJob, Edge, HistoryEntry, JobRecord, State
from firelock.lifecycle import bounded_history
from firelock.memory.order import Order
from firelock.storage import Counts


@attrs.define
class Row:
    """A job with what belongs to it."""

    record: JobRecord
    sequence: int  # of its insertion: order among equals of a queue
    pending: list[Edge]  # ties to parents that nothing has been decided for yet
    history: list[HistoryEntry] = attrs.field(factory=list)
    attempts: list[Attempt] = attrs.field(factory=list)

    def note(self, entry: HistoryEntry) -> None:
        """The history has one entry more."""
        self.history = bounded_history(self.history, entry)

    def claimed(self) -> ClaimedJob:
        """Return the job as its session sees it; it has been claimed."""
        job = self.record
        return ClaimedJob(
            job.id, job.task, job.arguments, job.serializer, job.queue, job.priority, job.attempt,
            job.retries, job.crashes, job.fence, job.created_at, cast("int", job.enqueued_at),
            cast("int", job.claimed_at), job.nominal_at, job.tags, job.timeout_seconds, job.retry,
            job.recurring_id,
        )  # fmt: skip


class Table:
    """Every job by id, and the ids in the orders that the verbs need."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.by_time = Order()  # created_at
        self.by_state: dict[State, Order] = {state: Order() for state in State}  # changed_at
        self.ready: dict[str, Order] = {}  # by queue: −priority, enqueued_at, sequence; none with a tail
        self.due = Order()  # due_at of scheduled jobs
        self.expiring = Order()  # expires_at
        self.held: defaultdict[str, dict[str, None]] = defaultdict(dict)  # by session: its jobs and tails
        self.children: defaultdict[str, dict[str, None]] = defaultdict(dict)  # by parent, ended ones too
        self.waiting: defaultdict[str, dict[str, None]] = defaultdict(dict)  # by parent: edges not decided
        self.releasing: dict[str, list[str]] = {}  # by ended parent: children to look at, the last one first
        self._counts: dict[str, Counter[State]] = {}
        self._inserted = 0

    def add(self, record: JobRecord) -> Row:
        """The job is stored, without a history; return its row."""
        pending = list(record.parents) if record.state is State.AWAITING else []
        row = Row(record, self._inserted, pending)
        self._inserted += 1
        self.rows[record.id] = row
        self.by_time.put(record.id, record.created_at)
        for edge in record.parents:
            self.children[edge.parent_id][record.id] = None
        for edge in pending:
            self.waiting[edge.parent_id][record.id] = None
        self._index(row)
        return row

    def change(self, row: Row, **fields: object) -> None:
        """The job has these fields; every index knows."""
        before = row.record
        self._unindex(row)
        row.record = attrs.evolve(before, **fields)  # type: ignore[arg-type]  # fields are the caller's care
        self._index(row)
        if before.state is not row.record.state:
            self._follow_state(row)

    def _follow_state(self, row: Row) -> None:
        id = row.record.id
        if row.record.state is not State.AWAITING:
            for edge in list(row.pending):
                self.decide(row, edge)
        self.releasing.pop(id, None)
        if row.record.is_final and id in self.waiting:
            self.releasing[id] = list(reversed(self.waiting[id]))

    def decide(self, row: Row, edge: Edge) -> None:
        """The edge is decided: its parent's end no longer moves this job."""
        row.pending.remove(edge)
        parent = edge.parent_id
        if parent not in {other.parent_id for other in row.pending}:
            _discard(self.waiting, parent, row.record.id)

    def remove(self, row: Row) -> None:
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

    def _index(self, row: Row) -> None:
        job = row.record
        self._counts.setdefault(job.queue, Counter())[job.state] += 1
        self.by_state[job.state].put(job.id, job.changed_at)
        if job.state is State.ENQUEUED and job.session is None:
            ready = self.ready.setdefault(job.queue, Order())
            ready.put(job.id, -job.priority, cast("int", job.enqueued_at), row.sequence)
        if job.state is State.SCHEDULED:
            self.due.put(job.id, cast("int", job.due_at))
        if job.expires_at is not None:
            self.expiring.put(job.id, job.expires_at)
        if job.session is not None:
            self.held[job.session][job.id] = None

    def _unindex(self, row: Row) -> None:
        job = row.record
        states = self._counts[job.queue]
        states[job.state] -= 1
        if not states[job.state]:
            del states[job.state]
        if not states:
            del self._counts[job.queue]
        self.by_state[job.state].drop(job.id)
        if job.state is State.ENQUEUED and job.session is None:
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
