"""A storage with batches, members and suspended jobs, as tests of this folder need it."""

from __future__ import annotations

import time

from firelock.model import lifecycle
from firelock.model.batch import BATCH_TASK, BatchRules
from firelock.model.dependencies import Edge, On, Relations, write_relations
from firelock.model.job import ErrorInfo, NewJob
from firelock.model.memo import Memo, MemoKind, NewMemo
from firelock.model.session import ClaimHolder, ClaimRequest, NewSession
from firelock.model.state import State
from firelock.storage.row_storage import RowStorage

SESSION = "session-a"
ERROR = ErrorInfo("Boom", "boom", "fingerprint")
DAY = 86_400_000_000


class DictRows(dict):
    """Rows in memory."""

    put = dict.__setitem__

    def delete(self, key):
        self.pop(key, None)

    def scan(self, prefix, *, start=None, reverse=False, limit):
        keys = sorted((key for key in self if key.startswith(prefix)), reverse=reverse)
        behind = [key for key in keys if start is None or (key < start if reverse else key > start)]
        return [(key, self[key]) for key in behind[:limit]]


class DictStorage(RowStorage):
    """A storage on such rows."""

    contract = 1

    def __init__(self):
        super().__init__()
        self.rows, self.clock_offset = DictRows(), 0

    def transact(self, body):
        return body(self.rows)

    def clock(self):
        return time.time_ns() // 1_000 + self.clock_offset

    def close(self):
        pass


class RelationScene:
    """A storage in which one session claims the jobs."""

    def __init__(self, storage):
        self.storage = storage
        self.begin(SESSION)

    def begin(self, session):
        """Start a session that claims the jobs from now on."""
        self.storage.begin_session(NewSession(session, "server-a", "host:a", "host", 7, 0, 1e9))
        self.holder = ClaimHolder(session, "host:a")

    def lose(self):
        """End the session as lost, and start another one."""
        previous = self.holder.session
        self.storage.end_session(previous, None, reason="lost")
        self.begin(f"{previous}+")

    # ---- storing jobs ------------------------------------------------------------------------------------

    def job(self, *, batch=None, after=(), on=On.SUCCEEDED, at=None, **relations):
        """Return a job that is not stored yet: a member of this batch, a continuation of these jobs."""
        edges = tuple(Edge(parent, on) for parent in after)
        state = State.AWAITING if edges else State.ENQUEUED if at is None else State.SCHEDULED
        return NewJob(
            self.storage.new_ids(1)[0], "tasks.run", "[]", "json", "default", 0, state, 1_000, due_at=at,
            nominal_at=at, parents=edges, relations_json=write_relations(Relations(batch, **relations)),
        )  # fmt: skip

    def batch(self, *, batch=None, after=(), on=On.SUCCEEDED, hold=None, fails_fast=False, keeps=(None,) * 3):
        """Return a batch that is not stored yet."""
        rules = BatchRules("a batch", fails_fast, keeps)
        return NewJob(
            self.storage.new_ids(1)[0], BATCH_TASK, "{}", "json", "default", 0, State.AWAITING, 1_000,
            due_at=hold, parents=tuple(Edge(parent, on) for parent in after),
            relations_json=write_relations(Relations(batch, batch=rules)),
        )  # fmt: skip

    def put(self, *jobs):
        """Store the jobs and return their ids, or the only id."""
        self.storage.insert(jobs)
        ids = [job.id for job in jobs]
        return ids if len(ids) > 1 else ids[0]

    # ---- actions -----------------------------------------------------------------------------------------

    def claim(self, limit=1_000):
        """Return the jobs that the session has claimed, by id."""
        return {
            job.id: job
            for job in self.storage.claim(ClaimRequest(None, limit, self.holder.session, 2_000)).jobs
        }

    def apply(self, transition):
        return self.storage.apply([transition])[0]

    def succeed(self, job):
        return self.apply(
            lifecycle.succeeded(
                job, self.holder, at=3_000, started_at=2_500, result="1", result_absent=None, expires_at=None
            )
        )

    def fail(self, job):
        return self.apply(
            lifecycle.failed(
                job, self.holder, at=3_000, started_at=2_500, reason="boom", error=ERROR, expires_at=None
            )
        )

    def suspend(self, job, waits_for="signal approval", parents=(), due_at=None):
        edges = tuple(Edge(parent, On.FINISHED) for parent in parents)
        return self.apply(
            lifecycle.suspended(
                job, self.holder, at=3_000, started_at=2_500, waits_for=waits_for, reason="it waits",
                parents=edges, due_at=due_at,
            )
        )  # fmt: skip

    def delete(self, id):
        return self.apply(lifecycle.delete(id, at=4_000, reason="deleted by ann", expires_at=None))

    def requeue(self, id, forget_from=None):
        return self.apply(lifecycle.requeue(id, at=4_000, reason="by ann", forget_from=forget_from))

    def hold(self, id, until):
        return self.apply(lifecycle.hold(id, at=4_000, until=until))

    def settle(self, limit=100):
        """Run `release` until nothing is left, and return the number of examined entries."""
        checked = 0
        while done := self.storage.release(limit):
            checked += done
        return checked

    # ---- memos ---------------------------------------------------------------------------------------------

    def signal(self, id, name="approval", value='"yes"', author="ann"):
        memo = Memo(MemoKind.SIGNAL, name, value, True, 5_000, author=author)
        return self.storage.remember([NewMemo(id, memo)])[0]

    def step(self, job, name, value="1", *, is_done=True, kind=MemoKind.STEP, replaces=True):
        memo = Memo(kind, name, value, is_done, 5_000, attempt=job.attempt)
        return self.storage.remember([NewMemo(job.id, memo, self.holder.session, job.fence, replaces)])[0]

    # ---- reading -----------------------------------------------------------------------------------------

    def record(self, id):
        return self.storage.get([id])[0]

    def state(self, id):
        return self.record(id).state

    def batch_counts(self, id):
        return self.storage.batch_counts([id])[0]
