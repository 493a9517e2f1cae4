"""Whatever clients, servers and operators do to the storage in memory, in any order, its indexes agree."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from firelock import lifecycle
from firelock.clock import SECOND
from firelock.memory import MemoryStorage
from firelock.storage import JobFilter, NewSession
from firelock.values import FINAL_STATES, Edge, ErrorInfo, Holder, NewJob, On, State

DAY = 86_400 * SECOND
ERROR = ErrorInfo("builtins.ValueError", "boom", "f00d")


class AnyLife(RuleBasedStateMachine):
    """One store, one session at a time, and everything that may happen to a job."""

    jobs = Bundle("jobs")
    running = Bundle("running")

    def __init__(self):
        super().__init__()
        self.storage = MemoryStorage()
        self.sessions = 0
        self.at = 1_000
        self.begin()

    def teardown(self):
        self.storage.close()

    @property
    def holder(self):
        """The session that lives now."""
        return Holder(f"session-{self.sessions}", "host:a")

    def begin(self):
        """A new session lives; the former one has ended."""
        self.sessions += 1
        self.storage.begin_session(
            NewSession(self.holder.session, "server-a", "host:a", "host", 7, self.stamp(), 1e9)
        )

    def insert(self, **fields):
        """The id of a job that is stored now."""
        given = {"queue": "default", "priority": 0, "state": State.ENQUEUED, **fields}
        job = NewJob(self.storage.new_id(), "tasks.run", "[]", "json", created_at=self.stamp(), **given)
        self.storage.insert([job])
        return job.id

    def stamp(self):
        """The next instant of a caller's clock."""
        self.at += 1
        return self.at

    @rule(target=jobs, queue=st.sampled_from(["a", "b"]), priority=st.integers(-1, 1))
    def enqueue(self, queue, priority):
        return self.insert(queue=queue, priority=priority)

    @rule(target=jobs, is_due=st.booleans())
    def schedule(self, is_due):
        due_at = self.storage.clock() + (-1 if is_due else DAY)
        return self.insert(state=State.SCHEDULED, due_at=due_at)

    @rule(target=jobs, parents=st.lists(st.tuples(jobs, st.sampled_from(On)), min_size=1, max_size=2))
    def then(self, parents):
        if None in self.storage.get([parent for parent, _ in parents]):
            return multiple()
        edges = tuple(Edge(parent, on) for parent, on in parents)
        return self.insert(state=State.AWAITING, parents=edges)

    @rule(target=running, limit=st.integers(1, 3), queues=st.sampled_from([None, ("a", "default"), ("b",)]))
    def claim(self, limit, queues):
        before = self.claimable(queues)
        taken = self.storage.claim(queues, limit, self.holder.session, self.stamp()).jobs
        assert min(limit, len(before)) == len(taken)
        assert before >= {job.id for job in taken}
        return multiple(*[(job, self.holder) for job in taken])

    @rule(held=consumes(running), end=st.sampled_from(["succeed", "fail", "snooze", "hand back"]))
    def settle(self, held, end):
        job, holder = held
        at = self.stamp()
        match end:
            case "succeed":
                transition = lifecycle.succeeded(
                    job, holder, at=at, started_at=at, result="1", result_absent=None, expires_at=at
                )
            case "fail":
                transition = lifecycle.undecodable(job, holder, at=at, error=ERROR, expires_at=at + DAY**2)
            case "snooze":
                transition = lifecycle.snoozed(job, holder, at=at, started_at=at, wait=DAY, reason="later")
            case _:
                transition = lifecycle.handed_back(job, holder, at=at, started_at=None, reason="stop")
        self.storage.apply([transition])

    @rule(id=jobs)
    def delete(self, id):
        self.storage.apply([lifecycle.delete(id, at=self.stamp(), reason="deleted", expires_at=None)])

    @rule(id=jobs)
    def requeue(self, id):
        self.storage.apply([lifecycle.requeue(id, at=self.stamp(), reason="requeued")])

    @rule(limit=st.integers(1, 3))
    def promote(self, limit):
        self.storage.promote(limit)

    @rule(limit=st.integers(1, 3))
    def release(self, limit):
        assert self.storage.release(limit) <= limit

    @rule()
    def release_all(self):
        while self.storage.release(2):
            pass
        waiting = [job for job in self.stored(State.AWAITING) if len(job.parents) == 1]
        for edge in (edge for job in waiting for edge in job.parents):
            (parent,) = self.storage.get([edge.parent_id])
            assert parent is not None, "a child waits for a parent that is gone"
            assert lifecycle.continuation_target(edge.on, parent.state) is None

    @rule(limit=st.integers(1, 3))
    def prune(self, limit):
        self.storage.prune(limit)

    @rule(running_ids=st.lists(jobs, max_size=3))
    def lose_the_session(self, running_ids):
        self.storage.end_session(self.holder.session, running_ids, reason="lost")
        self.begin()

    def stored(self, state=None):
        """Every job, or those of a state, page by page."""
        jobs, cursor = [], None
        while True:
            page = self.storage.find(JobFilter(state=state), limit=7, cursor=cursor)
            jobs += page.jobs
            cursor = page.cursor
            if cursor is None:
                return jobs

    def claimable(self, queues):
        """The ids that a claim of these queues may take, looked up the long way."""
        enqueued = self.stored(State.ENQUEUED)
        return {job.id for job in enqueued if job.session is None and (queues is None or job.queue in queues)}

    @invariant()
    def counts_are_exact(self):
        jobs = self.stored()
        by_queue = {}
        for job in jobs:
            by_queue.setdefault(job.queue, Counter())[job.state] += 1
        assert by_queue == self.storage.counts().by_queue
        assert Counter(job.state for job in jobs) == self.storage.counts().by_state

    @invariant()
    def lists_of_states_hold_every_job_once(self):
        listed = [job.id for state in State for job in self.stored(state)]
        assert sorted(job.id for job in self.stored()) == sorted(listed)

    @invariant()
    def records_are_consistent(self):
        for job in self.stored():
            assert (job.state in FINAL_STATES) == (job.ended_at is not None)
            assert (job.state is State.SCHEDULED) == (job.due_at is not None)
            assert job.state is not State.PROCESSING or job.session == self.holder.session
            assert job.attempt <= job.fence

    @invariant()
    def histories_are_legal(self):
        for job in self.stored():
            states = [entry.state for entry in self.storage.history(job.id)]
            assert all(is_told(before, after) for before, after in pairwise(states)), states


def is_told(before, after):
    """True where a history may go from one state to the other: claims are not told, so a run is left out."""
    is_run = before is State.ENQUEUED and after in lifecycle.ALLOWED[State.PROCESSING]
    return is_run or after in lifecycle.ALLOWED[before]


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=60, stateful_step_count=40)
