"""The state machine: its rules, the invariants that hold after each operation, and how it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import chain, count, pairwise
from typing import ClassVar, TypeVar

import attrs
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from firelock.model import lifecycle
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On
from firelock.model.ids import derived_id
from firelock.model.job import (
    ClaimedJob,
    HistoryEntry,
    JobRecord,
    LogLine,
    NewJob,
    Progress,
    Transition,
)
from firelock.model.lifecycle import ALLOWED, continuation_target, is_legal
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import (
    DURATION_BUCKETS,
    Applied,
    ClaimRequest,
    HeldClaim,
    JobFilter,
    NewSession,
    RecordChange,
    Renewal,
    Rollup,
    Storage,
    Taken,
)
from firelock.storage.memory import MemoryStorage
from firelock.testing.conformance import scene as ends
from firelock.testing.conformance.model.twin import Pair, Twin
from firelock.testing.conformance.scene import HOUR, STAMP, Running, pages

_Thing = TypeVar("_Thing")
LockJob = Callable[[str], AbstractContextManager[object]]

PICK = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 5, 8))
"""How far back the chosen object is among those created so far: mostly one of the newest."""

SOME = st.lists(PICK, min_size=1, max_size=3)

QUEUES = ("default", "mail")
# All jobs are in the partition of recurring jobs, because a queue is ordered only within a partition.
_COLOCATED_WITH = derived_id("model")


class Ground:
    """The state of one run of the machine."""

    twin: Twin
    has_locks: ClassVar[bool] = False  # whether `lock_job` can be called

    @staticmethod
    def lock_job(job_id: str) -> AbstractContextManager[object]:
        """Lock the row of a job within a block, as an independent transaction would."""
        raise NotImplementedError(job_id)

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, NewJob] = {}  # jobs that were stored and not pruned, in the order of insertion
        self.joins: set[str] = (
            set()
        )  # jobs with several parents; the storage may process the parents' ends in any order
        self.holders: list[ClaimHolder] = []
        self.claims: list[Pair] = []
        self.fences: dict[tuple[str, str], int] = {}  # the newest fence of each job, per storage
        self.tokens: list[tuple[str, int, int]] = []  # owner, token in the model, token in the storage
        self.records: dict[str, JobRecord] = {}  # all records after the previous operation
        self._stamps = count(STAMP, SECOND)
        self._made = count()

    def stamp(self) -> int:
        """Return the next time of the callers' clock."""
        return next(self._stamps)

    def due_time(self, hours: int) -> int:
        """Return a unique time some hours from now, so that no two jobs have the same due time."""
        return self.twin.half_past(hours) + (self.stamp() - STAMP) // SECOND

    @staticmethod
    def pick(things: Sequence[_Thing], number: int) -> _Thing | None:
        """Return one of the objects; None if there are none."""
        return things[-1 - number % len(things)] if things else None

    def picked_ids(self, numbers: Sequence[int]) -> list[str]:
        """Return ids of stored jobs, without duplicates."""
        ids = list(self.jobs)
        return list(dict.fromkeys(one for number in numbers if (one := self.pick(ids, number))))

    def new_job(self, queue: int = 0, **fields: object) -> NewJob:
        """Return a job with a unique priority, so that the order of each queue is unambiguous."""
        number = next(self._made)
        parents = fields.get("parents", ())
        assert isinstance(parents, tuple)
        id = self.twin.real.new_ids(1, _COLOCATED_WITH)[0]
        if recurring_id := fields.get("recurring_id"):  # the job's id is derived from the recurring job's id
            id = derived_id(str(recurring_id), id)
        job = NewJob(
            id, f"task{number % 3}", f"[{number}]",
            "json", QUEUES[queue % len(QUEUES)], _priority(number), State.ENQUEUED, self.stamp(),
        )  # fmt: skip
        for name, value in fields.items():
            setattr(job, name, value)
        return job

    def store(self, jobs: list[NewJob]) -> None:
        """Insert the jobs into both storages, which must both store or both refuse them."""
        if self.twin.call("insert", jobs) is not None:
            self.jobs.update({job.id: job for job in jobs})


def _priority(number: int) -> int:
    """Return a priority that is unique within any 201 consecutive numbers."""
    return number * 37 % 201 - 100


# All ended jobs can be pruned from the twentieth hour on, because the callers' clocks hardly move.
_KEPT = 3_653 * 24 * HOUR + 20 * HOUR + HOUR // 2
_ENDS = sorted(ends.ENDS)
_CHANGES = ("deletes", "requeues", "deletes for good", "requeues", "reschedules", "restores")
_LIMIT = 1_000

_Ends = list[tuple[int, str, bool]]  # the claim, its result, and whether another session sends the result

_ends = st.lists(st.tuples(PICK, st.sampled_from(_ENDS), st.sampled_from((False,) * 7 + (True,))), max_size=3)
_changes = st.lists(st.tuples(PICK, st.sampled_from(_CHANGES)), max_size=2)
_queues = st.sampled_from([["default"], ["mail"], ["mail", "default"], None])


class JobRules(Ground):
    """The actions of clients, worker processes, supervisors, operators and upkeep."""

    # ---- clients -----------------------------------------------------------------------------------------

    @rule(queue=PICK, number=st.integers(1, 3))
    def enqueue(self, queue: int, number: int) -> None:
        """Store some jobs in one call."""
        self.store([self.new_job(queue) for _ in range(number)])

    @rule(queue=PICK, hours=st.integers(-1, 6))
    def schedule(self, queue: int, hours: int) -> None:
        """Store a job for a later time, or for a time that has passed."""
        self.store([self.new_job(queue, state=State.SCHEDULED, due_at=self.due_time(hours))])

    @rule(parents=SOME, on=st.lists(st.sampled_from(On), min_size=3, max_size=3))
    def continue_with(self, parents: list[int], on: list[On]) -> None:
        """Store a job that waits for other jobs, mostly for some that are running or have ended."""
        ids = [*self.jobs, *(pair.id for pair in self.claims if pair.id in self.jobs)]
        chosen = list(dict.fromkeys(one for number in parents if (one := self.pick(ids, number))))
        edges = tuple(Edge(parent, how) for parent, how in zip(chosen, on, strict=False))
        job = self.new_job(state=State.AWAITING, parents=edges)
        if len(edges) > 1:
            self.joins.add(job.id)
        if edges:
            self.store([job])

    continue_again = continue_with

    @rule(pick=PICK)
    def insert_again(self, pick: int) -> None:
        """Send a job again, together with a new one."""
        job = self.pick(list(self.jobs.values()), pick)
        if job is not None:
            self.store([job, self.new_job()])

    enqueue_again = enqueue

    # ---- worker processes --------------------------------------------------------------------------------

    @rule(hours=st.integers(1, 40))
    def begin_session(self, hours: int) -> None:
        """Begin the session of a worker process."""
        number = len(self.holders)
        session = NewSession(
            f"session-{number}", "server", f"host:{number}", "host", number, self.stamp(),
            (hours + 0.5) * 3_600.0,
        )  # fmt: skip
        self.twin.call("begin_session", session)
        self.holders.append(ClaimHolder(session.id, session.server))

    @rule(limit=st.integers(1, 3), settles=_ends, queues=_queues)
    def work(self, limit: int, settles: _Ends, queues: list[str] | None) -> None:
        """Let the newest worker process settle claims, mostly its own, and claim new jobs."""
        self._exchange(self.holders[-1], queues, limit, settles)

    @rule(limit=st.integers(1, 3), name=st.sampled_from(_ENDS))
    def work_on(self, limit: int, name: str) -> None:
        """Let the newest worker process settle its newest claim and claim new jobs."""
        self._exchange(self.holders[-1], ["mail", "default"], limit, [(0, name, False)])

    @rule(pick=PICK, queues=_queues, limit=st.integers(0, 3), settles=_ends)
    def exchange(self, pick: int, queues: list[str] | None, limit: int, settles: _Ends) -> None:
        """Let any worker process, alive or not, settle any claims ever made, and claim new jobs."""
        holder = self.pick(self.holders, pick)
        if holder is not None:
            self._exchange(holder, queues, limit, settles)

    def _exchange(self, holder: ClaimHolder, queues: list[str] | None, limit: int, settles: _Ends) -> None:
        # If no queues are named, the storage chooses which jobs a small claim takes.
        limit = limit if queues else _LIMIT
        model_ends, real_ends = self._ends_of(settles)
        now = self.stamp()
        model, real = (
            storage.exchange(transitions, ClaimRequest(queues, limit, holder.session, now))
            for storage, transitions in ((self.twin.model, model_ends), (self.twin.real, real_ends))
        )
        self.twin.compare(model.results, real.results)
        self._take(holder, model.claim.jobs, real.claim.jobs, is_ordered=queues is not None)
        self.twin.compare(attrs.evolve(model.claim, jobs=[]), attrs.evolve(real.claim, jobs=[]))

    def _take(
        self, holder: ClaimHolder, model: list[ClaimedJob], real: list[ClaimedJob], *, is_ordered: bool
    ) -> None:
        if not is_ordered:
            model, real = (sorted(jobs, key=lambda job: job.id) for jobs in (model, real))
        self.twin.compare(model, real)
        for one, other in zip(model, real, strict=True):
            for side, job in (("model", one), ("real", other)):
                assert job.fence > self.fences.get((side, job.id), 0), "the fence of a job did not grow"
                self.fences[side, job.id] = job.fence
            self.claims.append(Pair(Running(one, holder), Running(other, holder)))

    def _ends_of(self, settles: _Ends) -> tuple[list[Transition], list[Transition]]:
        model: list[Transition] = []
        real: list[Transition] = []
        for pick, name, is_foreign in settles:
            pair = self.pick(self.claims, pick)
            if pair is not None:
                model.append(self._end(pair.model, name))
                if is_foreign:
                    model[-1].session = self.holders[0].session
                real.append(attrs.evolve(model[-1], fence=pair.real.job.fence))
        return model, real

    def _end(self, running: Running, name: str) -> Transition:
        end = ends.ENDS[name](running)
        end.at = self.stamp()
        if end.due_at is not None:
            end.due_at = self.due_time(2)
        if end.to in (State.SUCCEEDED, State.FAILED, State.DELETED):
            end.expires_at = end.at + _KEPT
        return end

    # A rule with several names is chosen more often, because most operations must be those of
    # worker processes.
    work_again = work_longer = work
    work_on_and_on = work_on_again = work_on_longer = work_on

    @rule(pick=PICK, names=st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=3))
    def operate(self, pick: int, names: list[str]) -> None:
        """Change a recently claimed job as an operator, perhaps several times."""
        pair = self.pick(self.claims, pick)
        if pair is not None:
            changes = [self._change(pair.id, name) for name in names]
            self.twin.call("apply", changes)

    operate_again = operate

    @rule(settles=_ends, changes=_changes)
    def apply(self, settles: _Ends, changes: list[tuple[int, str]]) -> None:
        """Settle claims and apply operators' changes in one call, and release the waiting jobs."""
        model, real = self._ends_of(settles)
        for pick, name in changes:
            for job_id in self.picked_ids([pick]):
                change = self._change(job_id, name)
                model.append(change)
                real.append(change)
        expected, actual = self.twin.model.apply(model), self.twin.real.apply(real)
        assert expected == actual
        if Applied.RELEASE_NEEDED in actual:
            self.release()

    @rule(picks=SOME, queue=PICK, has_priority=st.booleans(), has_queue=st.booleans())
    def move(self, picks: list[int], queue: int, has_priority: bool, has_queue: bool) -> None:
        """Move some jobs to a queue as an operator, or give each of them a unique priority."""
        moves = [
            ends.moves(
                job_id,
                queue=QUEUES[queue % len(QUEUES)] if has_queue else None,
                priority=_priority(next(self._made)) if has_priority else None,
                at=self.stamp(),
            )
            for job_id in self.picked_ids(picks)
        ]
        self.twin.call("move", moves)

    def _change(self, job_id: str, name: str) -> Transition:
        at = self.stamp()
        if name == "requeues":
            return ends.requeues(job_id, at=at)
        if name == "restores":
            return self._restore(job_id, at)
        if name == "reschedules":
            return ends.reschedules(job_id, at=at, due_at=self.due_time(at // SECOND % 5 - 1))
        return ends.deletes(job_id, at=at, expires_at=None if name == "deletes for good" else at + _KEPT)

    def _restore(self, job_id: str, at: int) -> Transition:
        """Undo a deletion using the history, if possible; otherwise try to restore the job to its queue."""
        previous = lifecycle.previous_state(self.twin.model.history(job_id).entries)
        if previous is None or previous.state not in lifecycle.RESTORABLE:
            return ends.restores(job_id, State.ENQUEUED, at=at)
        return ends.restores(job_id, previous.state, due_at=previous.due_at, at=at, expires_at=at + _KEPT)

    @rule(pick=PICK, held=st.lists(st.tuples(PICK, st.booleans()), max_size=3))
    def reconcile(self, pick: int, held: list[tuple[int, bool]]) -> None:
        """Reconcile the claims that a worker process believes it holds, rightly or not."""
        holder = self.pick(self.holders, pick)
        pairs = {
            pair.id: (pair, starts) for number, starts in held if (pair := self.pick(self.claims, number))
        }
        if holder is None:
            return
        at = self.stamp()
        sides = [
            [HeldClaim(run.id, run.job.fence, at if starts else None) for run, starts in runs]
            for runs in (
                [(pair.model, starts) for pair, starts in pairs.values()],
                [(pair.real, starts) for pair, starts in pairs.values()],
            )
        ]
        model = self.twin.model.reconcile(holder.session, sides[0])
        real = self.twin.real.reconcile(holder.session, sides[1])
        for found in (model, real):
            found.unknown.sort(key=lambda job: job.id)
        self.twin.compare(model, real)
        assert [one.has_ended for one in model.lost] == [one.has_ended for one in real.lost]  # fences differ

    # ---- other transactions ------------------------------------------------------------------------------

    @precondition(lambda self: self.has_locks)
    @rule(
        pick=PICK, names=st.lists(st.sampled_from(_ENDS), max_size=2), settles=_ends, limit=st.integers(0, 3)
    )
    def work_with_locked_row(self, pick: int, names: list[str], settles: _Ends, limit: int) -> None:
        """Let the newest worker process work while a claimed job is locked, and then do the delayed work.

        The model has no locks. It first gets the same calls without the locked job, and afterwards the calls
        for this job.
        """
        pair = self.pick([pair for pair in self.claims if pair.id in self.jobs], pick)
        if pair is None:
            return
        model_ends, real_ends = self._ends_of(settles)
        for name in names:
            model_ends.insert(0, self._end(pair.model, name))
            real_ends.insert(0, attrs.evolve(model_ends[0], fence=pair.real.job.fence))
        holder, now = self.holders[-1], self.stamp()
        held = HeldClaim(pair.id, pair.real.job.fence, now)
        lines = {pair.id: [LogLine(0, now, "info", "said")]}
        is_enqueued = self.twin.real.get([pair.id])[0].state is State.ENQUEUED  # type: ignore[union-attr]  # stored
        request = ClaimRequest(["mail", "default"], 0 if is_enqueued else limit, holder.session, now)

        with self.lock_job(pair.id):
            real = self.twin.real.exchange(real_ends, request)
            found = self.twin.real.reconcile(pair.real.holder.session, [held])
            assert [pair.id] == list(self.twin.real.append_logs(lines, {}))
            for _ in range(_LIMIT):
                if not self.twin.real.release(_LIMIT):
                    break
        free = [one for one in model_ends if one.job_id != pair.id]
        model = self.twin.model.exchange(free, request)

        both = list(zip(real_ends, real.results, strict=True))
        assert {Applied.BUSY} >= {result for one, result in both if one.job_id == pair.id}
        self.twin.compare(model.results, [result for one, result in both if one.job_id != pair.id])
        self._take(holder, model.claim.jobs, real.claim.jobs, is_ordered=True)
        assert (found.busy == [pair.id]) != bool(found.lost)
        later = [[one for one in ends if one.job_id == pair.id] for ends in (model_ends, real_ends)]
        self.twin.compare(self.twin.model.apply(later[0]), self.twin.real.apply(later[1]))
        self.twin.call("append_logs", lines, {})
        self.release()

    # ---- supervisors and upkeep --------------------------------------------------------------------------

    @rule(picks=SOME)
    def renew(self, picks: list[int]) -> None:
        """Renew some sessions, which may have ended, as a supervisor."""
        sessions = {holder.session for pick in picks if (holder := self.pick(self.holders, pick))}
        renewals = [
            Renewal(session, pick % 5, "quiet")
            for session, pick in zip(sorted(sessions), picks, strict=False)
        ]
        self.twin.call("renew", renewals)

    @rule(pick=PICK, running=st.none() | st.lists(PICK, max_size=3))
    def end_session(self, pick: int, running: list[int] | None) -> None:
        """End a session, alive or not, as a supervisor, with some jobs known to be running."""
        holder = self.pick(self.holders, pick)
        if holder is not None:
            blamed = None if running is None else self.picked_ids(running)
            self.twin.call(
                lambda storage: _sorted([storage.end_session(holder.session, blamed, reason="killed")])
            )

    @rule(limit=st.integers(1, 4))
    def upkeep(self, limit: int) -> None:
        """End expired sessions, and enqueue due jobs."""
        self.twin.call(lambda storage: _sorted(storage.orphans(_LIMIT)))
        self.twin.call("promote", limit)

    @rule()
    def release(self) -> None:
        """Release jobs whose parents have ended, until no such job is left."""
        for storage in (self.twin.model, self.twin.real):
            for _ in range(_LIMIT):
                if not storage.release(_LIMIT):
                    break
        self.twin.call("release", _LIMIT)
        self._those_who_wait_have_a_reason()

    def _those_who_wait_have_a_reason(self) -> None:
        """Check that every awaiting job has a stored parent that has not ended as required."""
        stored = {record.id: record for record in self.twin.real.get(list(self.jobs)) if record is not None}
        for record in stored.values():
            if record.state is State.AWAITING:
                parents = [
                    (edge, stored[edge.parent_id]) for edge in record.parents if edge.parent_id in stored
                ]
                assert any(continuation_target(edge.on, parent.state) is None for edge, parent in parents)

    @rule()
    def prune(self) -> None:
        """Delete the jobs whose retention has ended."""
        self.twin.call("prune", _LIMIT)
        kept = self.twin.real.get(list(self.jobs))
        self.jobs = {record.id: self.jobs[record.id] for record in kept if record is not None}

    @rule(hours=st.sampled_from((1, 1, 2, 3, 6, 25)))
    def advance(self, hours: int) -> None:
        """Move the clock forward by some hours."""
        self.twin.advance(hours)


def _sorted(taken: list[Taken]) -> list[Taken]:
    return sorted(
        (attrs.evolve(one, crashed=sorted(one.crashed), returned=sorted(one.returned)) for one in taken),
        key=lambda one: one.session,
    )


_NAMES = st.sampled_from("ab")
_MINUTE = 60 * SECOND
_TTL = 1.5 * 3_600.0


class SmallRules(Ground):
    """The actions of people and servers on everything except the states of jobs."""

    # ---- records -----------------------------------------------------------------------------------------

    @rule(key=_NAMES, expected=st.none() | st.integers(0, 3), deletes=st.booleans())
    def record(self, key: str, expected: int | None, deletes: bool) -> None:
        """Store or delete a record, with or without an expected version."""
        if deletes:
            self.twin.call("delete_record", "kind", key, expected_version=expected)
        else:
            value = str(self.stamp())
            self.twin.call("put_record", "kind", key, value, expected_version=expected)
        self.twin.call("list_records", "kind", after="a", limit=1)

    @rule(queue=st.sampled_from(QUEUES), is_paused=st.booleans())
    def pause(self, queue: str, is_paused: bool) -> None:
        """Pause or resume a queue as an operator."""
        settings = '{"paused": true}' if is_paused else '{"note": "open"}'
        self.twin.call("put_record", "queue", queue, settings)

    # ---- recurring jobs ----------------------------------------------------------------------------------

    @rule(name=_NAMES, hours=st.none() | st.integers(-2, 3), deletes=st.booleans())
    def define(self, name: str, hours: int | None, deletes: bool) -> None:
        """Store, edit, pause or delete a definition."""
        if deletes and hours is None:
            self.twin.call("delete_record", "recurring", name)
            return
        due_at = None if hours is None else self.due_time(hours)
        value = str(self.stamp())
        self.twin.call("put_record", "recurring", name, value, due_at=due_at)

    @rule(hours=st.none() | st.integers(1, 3), how=st.sampled_from(["as read", "late", "twice"]))
    def fire(self, hours: int | None, how: str) -> None:
        """Fire the first due definition as a server does: with the current version, an old one, or twice."""
        due = self.twin.call("due_records", "recurring", 2)
        if not due:
            return
        first = due[0]
        job = self.new_job(recurring_id=first.key, nominal_at=first.due_at)
        moved = RecordChange(
            "recurring", first.key, str(self.stamp()), first.version - (how == "late"),
            None if hours is None else self.due_time(hours),
        )  # fmt: skip
        answer = self.twin.call("insert", [job], only_if=moved)
        if how == "twice":
            self.twin.call("insert", [job], only_if=moved)
        if answer is not None and answer.record is Applied.APPLIED:
            self.jobs[job.id] = job

    # ---- locks -------------------------------------------------------------------------------------------

    @rule(owner=_NAMES, verb=st.sampled_from(["acquire", "renew", "release"]), is_stale=st.booleans())
    def lock(self, owner: str, verb: str, is_stale: bool) -> None:
        """Acquire, renew or release the lock, with a token that this or another owner has received."""
        if verb == "acquire":
            self._acquire(owner)
            return
        tokens = self.tokens[:-1] if is_stale else self.tokens
        holder, model, real = tokens[-1] if tokens else (owner, 0, 0)  # a token that no owner has received
        who = owner if is_stale else holder
        if verb == "renew":
            self.twin.call_each(
                lambda storage: storage.renew_lock("lock", who, model, _TTL),
                lambda storage: storage.renew_lock("lock", who, real, _TTL),
            )
        else:
            self.twin.call_each(
                lambda storage: storage.release_lock("lock", who, model),
                lambda storage: storage.release_lock("lock", who, real),
            )

    def _acquire(self, owner: str) -> None:
        model = self.twin.model.acquire_lock("lock", owner, _TTL)
        real = self.twin.real.acquire_lock("lock", owner, _TTL)
        assert (model is None) == (real is None), f"the model returned {model}, the storage returned {real}"
        if model is not None and real is not None:
            holder, old_model, old_real = self.tokens[-1] if self.tokens else (owner, 0, 0)
            assert (model > old_model) == (real > old_real), (
                "only one of model and storage returned a new token"
            )
            assert real > old_real or (real == old_real and holder == owner), (
                "a new token is not larger than the previous one"
            )
            self.tokens.append((owner, model, real))

    # ---- reading -----------------------------------------------------------------------------------------

    @rule(pick=PICK, number=st.integers(1, 3))
    def report(self, pick: int, number: int) -> None:
        """Store log lines, progress and metrics, including some for a job that does not exist."""
        lines = [LogLine(0, self.stamp(), "INFO", f"line {one}", number) for one in range(number)]
        for job_id in [*self.picked_ids([pick]), "gone"]:
            self._log(job_id, lines, Progress(float(number), 10.0, self.stamp()))
        histogram = tuple(int(place == number) for place in range(len(DURATION_BUCKETS) + 1))
        rollup = Rollup(STAMP + number * _MINUTE, "task", "default", "succeeded", 1, SECOND, histogram)
        self.twin.call("record_metrics", [rollup, rollup])
        self.twin.call("timeline", STAMP + _MINUTE, STAMP + 3 * _MINUTE)

    def _log(self, job_id: str, lines: list[LogLine], progress: Progress) -> None:
        self.twin.call("append_logs", {job_id: lines}, {job_id: progress})
        self.twin.call(lambda storage: [attrs.evolve(one, number=0) for one in storage.read_log(job_id)])
        self.twin.call(lambda storage: [one and one.progress for one in storage.get([job_id])])
        numbers = [line.number for line in self.twin.real.read_log(job_id)]
        assert sorted(set(numbers)) == numbers, "log lines are not ordered by number"

    @rule(
        where=st.builds(
            JobFilter, state=st.none() | st.sampled_from(State), queue=st.none() | st.sampled_from(QUEUES),
            is_retrying=st.none() | st.booleans(), by_due=st.sampled_from([None, True]),
        ),
        limit=st.integers(1, 4), oldest_first=st.booleans(),
    )  # fmt: skip
    def find(self, where: JobFilter, limit: int, oldest_first: bool) -> None:
        """Read all pages of a list. The storages must return the same jobs, but the order may differ."""
        self.twin.call(lambda storage: sorted(_walked(storage, where, limit, oldest_first=oldest_first)))
        self.twin.call(
            lambda storage: [(one.fingerprint, one.count, one.newest_at) for one in storage.failure_groups(5)]
        )


def _walked(storage: Storage, where: JobFilter, limit: int, *, oldest_first: bool) -> list[str]:
    """Return the ids of all pages, after checking that they are ordered by time and id."""
    jobs = list(chain.from_iterable(pages(storage, where, limit, oldest_first=oldest_first)))
    name = "due_at" if where.by_due else "created_at" if where.state is None else "changed_at"
    keys = [(getattr(job, name), job.id) for job in jobs]
    assert sorted(keys, reverse=not oldest_first) == keys, "a list is not ordered by time"
    return [job.id for job in jobs]


_STAGES = ((8, True), (30, False))  # number of operations of a run, and whether the run counts as short


class StorageMachine(JobRules, SmallRules, RuleBasedStateMachine):
    """A state machine that applies the same operations to a storage and to the model."""

    @staticmethod
    def open_handle() -> Storage:
        """Return the storage under test; `machine_for` defines this."""
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        """Create two sessions and two jobs in both storages."""
        real = self.open_handle()
        real.clear()
        self.twin = Twin(MemoryStorage(), real)
        self.begin_session(9)
        self.enqueue(0, 2)
        self.begin_session(40)

    def teardown(self) -> None:
        """Compare every history once more after the last operation."""
        if hasattr(self, "twin"):
            try:
                self._compare_pasts(list(self.jobs))
            finally:
                self.twin.real.close()

    # ---- comparison --------------------------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        """Compare the contents of both storages, and check that they are consistent."""
        self._both_hold_the_same()
        self._counts_are_a_recount()
        self._only_the_living_hold()
        self._fields_fit_their_state()

    def _both_hold_the_same(self) -> None:
        """Compare jobs, counts, sessions, records and definitions with the model's."""
        ids = sorted({*self.jobs, *self.records})
        model, real = (
            [self._free(one) for one in storage.get(ids)] for storage in (self.twin.model, self.twin.real)
        )
        self.twin.compare(model, real)
        self.twin.call("counts")
        self.twin.call("list_sessions")
        self.twin.call("oldest_session")
        self.twin.call("list_records", "kind")
        self.twin.call("list_records", "recurring")
        records = {record.id: record for record in self.twin.real.get(ids) if record is not None}
        self._compare_pasts([one for one, record in records.items() if self.records.get(one) != record])
        self.records = records

    def _free(self, record: JobRecord | None) -> JobRecord | None:
        if record is None or record.id not in self.joins:
            return record
        return attrs.evolve(record, reason=None, expires_at=None)

    def _compare_pasts(self, ids: list[str]) -> None:
        for job_id in ids:
            model, real = (storage.history(job_id).entries for storage in (self.twin.model, self.twin.real))
            self.twin.compare(
                [self._free_entry(job_id, one) for one in model],
                [self._free_entry(job_id, one) for one in real],
            )
            self.twin.call(lambda storage, job_id=job_id: storage.history(job_id).errors)  # type: ignore[misc]
            for before, after in pairwise(real):
                assert _may_follow(before.state, after.state), f"from {before.state} to {after.state}"

    def _free_entry(self, job_id: str, entry: HistoryEntry) -> HistoryEntry:
        return attrs.evolve(entry, reason=None) if job_id in self.joins else entry

    # ---- consistency of the storage ----------------------------------------------------------------------

    def _counts_are_a_recount(self) -> None:
        """Check that the counts match the jobs."""
        recount = Counter((record.queue, record.state) for record in self.records.values())
        counts = {
            (queue, state): number
            for queue, states in self.twin.real.counts().by_queue.items()
            for state, number in states.items()
            if number
        }
        assert dict(recount) == counts

    def _only_the_living_hold(self) -> None:
        """Check that living sessions hold all processing jobs and tails, and that no session is closing."""
        sessions = self.twin.real.list_sessions()
        living = {one.session.id for one in sessions if one.is_alive}
        held = {record.session for record in self.records.values() if record.session is not None}
        assert held <= living
        assert not any(one.is_closing for one in sessions), (
            "a session is still closing after a sweep without locks"
        )
        assert all(record.session for record in self.records.values() if record.state is State.PROCESSING)

    def _fields_fit_their_state(self) -> None:
        """Check that times and results are set only in the states to which they belong."""
        for record in self.records.values():
            assert (record.ended_at is not None) == record.is_final
            assert record.expires_at is None or record.is_final
            assert (record.due_at is not None) == (record.state is State.SCHEDULED)
            assert record.enqueued_at is not None or record.state not in (State.ENQUEUED, State.PROCESSING)
            assert record.result is None or record.state is State.SUCCEEDED


def _may_follow(before: State, after: State) -> bool:
    """Return whether a history entry may follow the previous one; claims do not write entries."""
    return is_legal(before, after) or (before is State.ENQUEUED and after in ALLOWED[State.PROCESSING])


class LockingMachine(StorageMachine):
    """A machine that also ends sessions while another transaction has locked the row of a job.

    The model has no locks and ends a session in one operation. The storage must reach the same result in two
    operations: first without the locked job, then with a sweep after the lock is released.
    """

    @rule(
        pick=PICK, running=st.none() | st.lists(PICK, max_size=3), locked=st.sets(PICK, min_size=1),
        meanwhile=st.sampled_from(["nothing", *_CHANGES[:2], *_ENDS]), again=st.booleans(),
    )  # fmt: skip
    def end_session_with_locked_jobs(
        self, pick: int, running: list[int] | None, locked: set[int], meanwhile: str, again: bool
    ) -> None:
        """End a session while some of its jobs are locked, and change one of these jobs before a sweep."""
        if not self._held():
            self.enqueue(0, 2)
            self.begin_session(40)
            self.work(3, [], ["mail", "default"])
        held = self._held()
        session = self.pick(sorted(held), pick)
        if session is None:  # the queues are paused
            return
        blamed = None if running is None else [*self.picked_ids(running), *held[session][:1]]
        busy = sorted({held[session][number % len(held[session])] for number in locked})
        taken = self._end_without(session, busy, blamed)
        self._change_both(busy[0], meanwhile)
        if again:
            taken += [self.twin.real.end_session(session, [], reason="ended again")]
        taken += [one for one in self.twin.real.orphans(_LIMIT) if one.session == session]
        model = self.twin.model.end_session(session, blamed, reason="killed")
        self.twin.model.orphans(_LIMIT)  # the sweeps have also ended expired sessions
        for name in ("crashed", "returned"):
            found = [job_id for one in taken for job_id in getattr(one, name)]
            assert sorted(getattr(model, name)) == sorted(found), (
                f"the {name} jobs differ from those of the model"
            )

    end_session_with_locked_jobs_again = end_session_with_locked_jobs

    def _held(self) -> dict[str, list[str]]:
        """Return, for each session, the ids of the jobs that it holds, including jobs with a tail."""
        held: dict[str, list[str]] = {}
        for record in self.twin.real.get(list(self.jobs)):
            if record is not None and record.session is not None:
                held.setdefault(record.session, []).append(record.id)
        return held

    def _end_without(self, session: str, busy: list[str], blamed: list[str] | None) -> list[Taken]:
        """End the session while these jobs are locked, and check that the storage leaves them unchanged."""
        real = self.twin.real
        before = real.get(busy)
        with ExitStack() as locks:
            for job_id in busy:
                locks.enter_context(self.lock_job(job_id))
            taken = [real.end_session(session, blamed, reason="killed")]
            swept = [one for one in real.orphans(_LIMIT) if one.session == session]
        assert (len(busy), []) == (taken[0].left, swept)
        assert before == real.get(busy), "the end of a session changed a locked job"
        (listed,) = [one for one in real.list_sessions() if one.session.id == session]
        assert (False, True) == (listed.is_alive, listed.is_closing)
        assert [False] == real.renew([Renewal(session)])
        assert real.claim(ClaimRequest(None, _LIMIT, session, self.stamp())).is_session_lost
        left = [one for one in real.get(list(self.jobs)) if one is not None and one.session == session]
        assert busy == sorted(one.id for one in left), "a closing session holds more than the locked jobs"
        return taken

    def _change_both(self, job_id: str, how: str) -> None:
        """Change the job as an operator, or send its holder's late result, in both storages."""
        if how in _CHANGES:
            self.twin.call("apply", [self._change(job_id, how)])
        elif how in _ENDS:
            pairs = [pair for pair in self.claims if pair.id == job_id]
            model = self._end(pairs[-1].model, how)
            real = attrs.evolve(model, fence=pairs[-1].real.job.fence)
            self.twin.compare(self.twin.model.apply([model]), self.twin.real.apply([real]))


def machine_for(open_handle: Callable[[], Storage], lock_job: LockJob | None = None) -> type[StorageMachine]:
    """Return the machine for a storage; each run opens the storage with this function.

    If `lock_job`, which locks the row of a job, is given, some operations run while rows are locked.
    """
    own: dict[str, object] = {"open_handle": staticmethod(open_handle)}
    if lock_job is None:
        return type("StorageMachine", (StorageMachine,), own)
    own |= {"lock_job": staticmethod(lock_job), "has_locks": True}
    return type("LockingMachine", (LockingMachine,), own)


def run_machine(machine: type[StorageMachine], *, shrinks: bool = True, runs: int = 100) -> None:
    """Make this number of short and of long runs, the same runs each time; fail if one finds a difference.

    A failing short run is shrunk. A failing long run is reported unchanged, because shrinking takes minutes.
    If the Hypothesis profile sets the number of examples or operations, the whole profile applies instead.
    """
    if _numbers(settings()) != _numbers(settings.get_profile("default")):
        _run(machine, settings())
        return
    for number, is_short in _STAGES:
        phases = [Phase.generate, Phase.shrink] if is_short and shrinks else [Phase.generate]
        fixed = settings(
            max_examples=runs, stateful_step_count=number, phases=phases, derandomize=True, database=None
        )
        _run(machine, fixed)


def _numbers(profile: settings) -> tuple[int, int]:
    return profile.max_examples, profile.stateful_step_count


def _run(machine: type[StorageMachine], wanted: settings) -> None:
    run_state_machine_as_test(
        machine, settings=settings(wanted, deadline=None, suppress_health_check=list(HealthCheck))
    )
