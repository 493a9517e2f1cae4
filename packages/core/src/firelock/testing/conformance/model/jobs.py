"""The machine's rules for jobs and sessions."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import rule

from firelock import lifecycle
from firelock.lifecycle import continuation_target
from firelock.storage import Applied, ClaimRequest, Held, NewSession, Renewal, Taken
from firelock.testing.conformance import ends
from firelock.testing.conformance.handles import HOUR, SECOND
from firelock.testing.conformance.model.ground import PICK, SOME, Ground
from firelock.testing.conformance.model.twin import Pair
from firelock.testing.conformance.scene import Running
from firelock.values import ClaimedJob, Edge, Holder, On, State, Transition

__all__ = ["JobRules"]

# Ended jobs may be pruned from the twentieth hour on, whenever they ended: callers' clocks hardly move.
_KEPT = 3_653 * 24 * HOUR + 20 * HOUR + HOUR // 2
_ENDS = sorted(ends.ENDS)
_CHANGES = ("deletes", "requeues", "deletes for good", "requeues", "reschedules", "restores")
_LIMIT = 1_000

_Ends = list[tuple[int, str, bool]]  # which claim, how it ends, whether somebody else says so

_ends = st.lists(st.tuples(PICK, st.sampled_from(_ENDS), st.sampled_from((False,) * 7 + (True,))), max_size=3)
_changes = st.lists(st.tuples(PICK, st.sampled_from(_CHANGES)), max_size=2)
_queues = st.sampled_from([["default"], ["mail"], ["mail", "default"], None])


class JobRules(Ground):
    """What clients, children, supervisors, operators and upkeep do."""

    # ---- clients -----------------------------------------------------------------------------------------

    @rule(queue=PICK, number=st.integers(1, 3))
    def enqueue(self, queue: int, number: int) -> None:
        """Some jobs are stored in one batch."""
        self.store([self.new_job(queue) for _ in range(number)])

    @rule(queue=PICK, hours=st.integers(-1, 6))
    def schedule(self, queue: int, hours: int) -> None:
        """A job is stored for a later instant, or for one that has passed."""
        self.store([self.new_job(queue, state=State.SCHEDULED, due_at=self.instant(hours))])

    @rule(parents=SOME, on=st.lists(st.sampled_from(On), min_size=3, max_size=3))
    def continue_with(self, parents: list[int], on: list[On]) -> None:
        """A job is stored that waits for others, mostly for some that run or have ended."""
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
        """A job is sent once more, beside a new one."""
        job = self.pick(list(self.jobs.values()), pick)
        if job is not None:
            self.store([job, self.new_job()])

    enqueue_again = enqueue

    # ---- children ----------------------------------------------------------------------------------------

    @rule(hours=st.integers(1, 40))
    def begin_session(self, hours: int) -> None:
        """A child begins its session."""
        number = len(self.holders)
        session = NewSession(
            f"session-{number}", "server", f"host:{number}", "host", number, self.stamp(),
            (hours + 0.5) * 3_600.0,
        )  # fmt: skip
        self.twin.ask(lambda storage: storage.begin_session(session))
        self.holders.append(Holder(session.id, session.server))

    @rule(limit=st.integers(1, 3), settles=_ends, queues=_queues)
    def work(self, limit: int, settles: _Ends, queues: list[str] | None) -> None:
        """The newest child does its work: it ends claims, mostly its own, and takes new jobs."""
        self._exchange(self.holders[-1], queues, limit, settles)

    @rule(limit=st.integers(1, 3), name=st.sampled_from(_ENDS))
    def work_on(self, limit: int, name: str) -> None:
        """The newest child ends its newest claim and takes new jobs."""
        self._exchange(self.holders[-1], ["mail", "default"], limit, [(0, name, False)])

    @rule(pick=PICK, queues=_queues, limit=st.integers(0, 3), settles=_ends)
    def exchange(self, pick: int, queues: list[str] | None, limit: int, settles: _Ends) -> None:
        """Any child, alive or not, ends whatever claims were ever made, and takes new jobs."""
        holder = self.pick(self.holders, pick)
        if holder is not None:
            self._exchange(holder, queues, limit, settles)

    def _exchange(self, holder: Holder, queues: list[str] | None, limit: int, settles: _Ends) -> None:
        # Which jobs of several queues a small claim takes is the storage's choice.
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
        self, holder: Holder, model: list[ClaimedJob], real: list[ClaimedJob], *, is_ordered: bool
    ) -> None:
        if not is_ordered:
            model, real = (sorted(jobs, key=lambda job: job.id) for jobs in (model, real))
        self.twin.compare(model, real)
        for one, other in zip(model, real, strict=True):
            for side, job in (("model", one), ("real", other)):
                assert job.fence > self.fences.get((side, job.id), 0), "a fence did not grow"
                self.fences[side, job.id] = job.fence
            self.claims.append(Pair(Running(one, holder), Running(other, holder)))

    def _ends_of(self, settles: _Ends) -> tuple[list[Transition], list[Transition]]:
        model: list[Transition] = []
        real: list[Transition] = []
        for pick, name, is_strange in settles:
            pair = self.pick(self.claims, pick)
            if pair is not None:
                model.append(self._end(pair.model, name))
                if is_strange:
                    model[-1].session = self.holders[0].session
                real.append(attrs.evolve(model[-1], fence=pair.real.job.fence))
        return model, real

    def _end(self, running: Running, name: str) -> Transition:
        end = ends.ENDS[name](running)
        end.at = self.stamp()
        if end.due_at is not None:
            end.due_at = self.instant(2)
        if end.to in (State.SUCCEEDED, State.FAILED, State.DELETED):
            end.expires_at = end.at + _KEPT
        return end

    # A rule that has several names is chosen that much more often: most of what happens is work.
    work_again = work_longer = work
    work_on_and_on = work_on_again = work_on_longer = work_on

    @rule(pick=PICK, names=st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=3))
    def operate(self, pick: int, names: list[str]) -> None:
        """An operator changes a job that was claimed of late, and changes it again."""
        pair = self.pick(self.claims, pick)
        if pair is not None:
            changes = [self._change(pair.id, name) for name in names]
            self.twin.ask(lambda storage: storage.apply(changes))

    operate_again = operate

    @rule(settles=_ends, changes=_changes)
    def apply(self, settles: _Ends, changes: list[tuple[int, str]]) -> None:
        """Ends and operators' changes come in one batch, and a settler releases what waited for them."""
        model, real = self._ends_of(settles)
        for pick, name in changes:
            for job_id in self.picked_ids([pick]):
                change = self._change(job_id, name)
                model.append(change)
                real.append(change)
        expected, actual = self.twin.model.apply(model), self.twin.real.apply(real)
        assert expected == actual
        if Applied.RELEASING in actual:
            self.release()

    def _change(self, job_id: str, name: str) -> Transition:
        at = self.stamp()
        if name == "requeues":
            return ends.requeues(job_id, at=at)
        if name == "restores":
            return self._restore(job_id, at)
        if name == "reschedules":
            return ends.reschedules(job_id, at=at, due_at=self.instant(at // SECOND % 5 - 1))
        return ends.deletes(job_id, at=at, expires_at=None if name == "deletes for good" else at + _KEPT)

    def _restore(self, job_id: str, at: int) -> Transition:
        """A delete is taken back as the history tells, where that can be; else it is tried for a queue."""
        former = lifecycle.former(self.twin.model.history(job_id).entries)
        if former is None or former.state not in lifecycle.RESTORABLE:
            return ends.restores(job_id, State.ENQUEUED, at=at)
        return ends.restores(job_id, former.state, due_at=former.due_at, at=at, expires_at=at + _KEPT)

    @rule(pick=PICK, held=st.lists(st.tuples(PICK, st.booleans()), max_size=3))
    def reconcile(self, pick: int, held: list[tuple[int, bool]]) -> None:
        """A child compares what it believes to hold, rightly or not."""
        holder = self.pick(self.holders, pick)
        pairs = {
            pair.id: (pair, starts) for number, starts in held if (pair := self.pick(self.claims, number))
        }
        if holder is None:
            return
        at = self.stamp()
        sides = [
            [Held(run.id, run.job.fence, at if starts else None) for run, starts in runs]
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

    # ---- supervisors and upkeep --------------------------------------------------------------------------

    @rule(picks=SOME)
    def renew(self, picks: list[int]) -> None:
        """A supervisor renews some sessions, dead ones among them."""
        sessions = {holder.session for pick in picks if (holder := self.pick(self.holders, pick))}
        renewals = [
            Renewal(session, pick % 5, "quiet")
            for session, pick in zip(sorted(sessions), picks, strict=False)
        ]
        self.twin.ask(lambda storage: storage.renew(renewals))

    @rule(pick=PICK, running=st.none() | st.lists(PICK, max_size=3))
    def end_session(self, pick: int, running: list[int] | None) -> None:
        """A supervisor ends a session, alive or not, and blames some jobs."""
        holder = self.pick(self.holders, pick)
        if holder is not None:
            blamed = None if running is None else self.picked_ids(running)
            self.twin.ask(
                lambda storage: _sorted([storage.end_session(holder.session, blamed, reason="killed")])
            )

    @rule(limit=st.integers(1, 4))
    def upkeep(self, limit: int) -> None:
        """Upkeep takes what expired and enqueues what is due."""
        self.twin.ask(lambda storage: _sorted(storage.orphans(_LIMIT)))
        self.twin.ask(lambda storage: storage.promote(limit))

    @rule()
    def release(self) -> None:
        """A settler or upkeep releases what waits for ends, until nothing is left to look at."""
        for storage in (self.twin.model, self.twin.real):
            for _ in range(_LIMIT):
                if not storage.release(_LIMIT):
                    break
        self.twin.ask(lambda storage: storage.release(_LIMIT))
        self._those_who_wait_have_a_reason()

    def _those_who_wait_have_a_reason(self) -> None:
        """Every awaiting job has a stored parent that has not ended as wanted."""
        stored = {record.id: record for record in self.twin.real.get(list(self.jobs)) if record is not None}
        for record in stored.values():
            if record.state is State.AWAITING:
                parents = [
                    (edge, stored[edge.parent_id]) for edge in record.parents if edge.parent_id in stored
                ]
                assert any(continuation_target(edge.on, parent.state) is None for edge, parent in parents)

    @rule()
    def prune(self) -> None:
        """Upkeep removes what had its time."""
        self.twin.ask(lambda storage: storage.prune(_LIMIT))
        kept = self.twin.real.get(list(self.jobs))
        self.jobs = {record.id: self.jobs[record.id] for record in kept if record is not None}

    @rule(hours=st.sampled_from((1, 1, 2, 3, 6, 25)))
    def advance(self, hours: int) -> None:
        """It is some hours later."""
        self.twin.advance(hours)


def _sorted(taken: list[Taken]) -> list[Taken]:
    return sorted(
        (attrs.evolve(one, crashed=sorted(one.crashed), returned=sorted(one.returned)) for one in taken),
        key=lambda one: one.session,
    )
