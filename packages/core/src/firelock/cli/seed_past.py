"""The past of a seed: burst by burst jobs are stored, claimed and ended, each step at its own instant."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import attrs

from firelock import lifecycle
from firelock.cli.seed_failures import KILLED
from firelock.cli.seed_plan import Fate, Plan
from firelock.cli.seed_rhythm import DAY, Burst
from firelock.clock import SECOND, span_micros
from firelock.failure import failure_of_text
from firelock.job import ClaimedJob, Edge, NewJob, State
from firelock.lifecycle import Transition, awaiting_reason
from firelock.retry import DecisionKind

if TYPE_CHECKING:
    from firelock.cli.seed_notes import Notes
    from firelock.cli.seed_plan import Year
    from firelock.cli.seed_recurring import Run
    from firelock.cli.seed_rollups import Rollups
    from firelock.cli.seed_stage import Server, Stage

__all__ = ["KEPT_FOR", "Moment", "Past"]

KEPT_FOR = 5 * 365 * DAY  # nothing that was made up is pruned while it is looked at
_SERVER_WEIGHTS = (10, 2, 8)
_SOONEST = SECOND // 2  # an end lies at least so long before now
_GAP_FOR_CHILD = 2 * SECOND
_LONGEST_QUEUEING = 1.4  # seconds from claim to start
_DELETIONS = ("deleted in the dashboard", "deleted from the command line", "deleted by code")


@attrs.frozen
class Moment:
    """An instant at which jobs are stored and claimed: those of a burst, or runs of recurring jobs."""

    at: int
    burst: Burst | None = None
    runs: Sequence[Run] = ()


@attrs.define
class _Expected:
    """What earlier moments leave for a later one."""

    due: int = 0
    released: int = 0
    enqueued: int = 0


class Past:
    """Writes the moments, one after the other."""

    def __init__(
        self,
        stage: Stage,
        year: Year,
        moments: Sequence[Moment],
        *,
        rollups: Rollups,
        notes: Notes,
        random: Random,
    ) -> None:
        self.made = 0
        self.failed: list[str] = []  # ids of some, to be parents
        self._stage = stage
        self._year = year
        self._moments = moments
        self._times = [moment.at for moment in moments]
        self._rollups = rollups
        self._notes = notes
        self._random = random
        self._open: dict[str, Plan] = {}
        self._expected: dict[int, _Expected] = {}
        self._killed = failure_of_text("firelock.server.runner.ProcessDied", KILLED)

    def write(self, place: int) -> None:
        """The moment's jobs are stored, and all that is to be run at it has ended."""
        moment, stage = self._moments[place], self._stage
        expected = self._expected.pop(place, _Expected())
        stage.travel(moment.at)
        if expected.due:
            stage.promote(expected.due)
        if expected.released:
            stage.release(expected.released)
        jobs = self._new_jobs(place, moment)
        stage.insert(jobs)
        transitions = [self._deletion(job) for job in jobs if self._open[job.id].fate is Fate.DELETED]
        server = self._random.choices(stage.servers, _SERVER_WEIGHTS)[0]
        ready = sum(1 for job in jobs if job.state is State.ENQUEUED)
        wanted = ready + expected.due + expected.released + expected.enqueued
        if wanted:
            claimed = stage.claim(wanted, server, moment.at)
            transitions += [self._end(job, server, place) for job in claimed]
        stage.apply(transitions)
        self._notes.flush(stage.storage)
        self.made += len(jobs)

    # ---- new jobs ----------------------------------------------------------------------------------------

    def _new_jobs(self, place: int, moment: Moment) -> list[NewJob]:
        if moment.burst is None:
            return [self._run_of(run, moment.at) for run in moment.runs]
        plans = self._year.plans(moment.burst)
        ids = self._stage.storage.new_ids(len(plans))
        jobs: list[NewJob] = []
        for number, (plan, job_id) in enumerate(zip(plans, ids, strict=True)):
            share = (len(plans) - number - self._random.random()) / len(plans)
            created_at = moment.at - int(moment.burst.spread * share)
            job = self._new_job(plan, job_id, created_at)
            if plan.is_child:
                self._tie(place, job, plan, jobs[-1])
            elif plan.fate is Fate.DELAYED:
                self._delay(place, job)
            self._open[job.id] = plan
            jobs.append(job)
        return jobs

    def _new_job(self, plan: Plan, job_id: str, created_at: int) -> NewJob:
        look = plan.look
        drawn = look.draw(self._random, created_at)
        plan.result = drawn.result
        job = NewJob(
            job_id, look.name, drawn.arguments, "json", look.queue, look.priority, State.ENQUEUED, created_at,
            tags=drawn.tags,
        )  # fmt: skip
        if plan.fate is Fate.DELETED:
            job.state = State.SCHEDULED
            job.due_at = job.nominal_at = created_at + int((1 + 6 * self._random.random()) * DAY)
        return job

    def _tie(self, place: int, job: NewJob, plan: Plan, parent: NewJob) -> None:
        """The job waits for its parent, where the next moment is late enough for that."""
        if self._gap(place) < _GAP_FOR_CHILD:
            plan.is_child = self._open[parent.id].has_child = False
            return
        job.id = self._stage.storage.new_id(parent.id)
        job.state, job.parents = State.AWAITING, (Edge(parent.id),)
        job.reason = awaiting_reason(job.parents[0].on, parent.id)
        self._at(place + 1).released += 1

    def _gap(self, place: int) -> int:
        return self._times[place + 1] - self._times[place] if place + 1 < len(self._times) else 0

    def _delay(self, place: int, job: NewJob) -> None:
        """The job was made for one of the next moments."""
        later = min(place + 1 + int(self._random.random() * 60), len(self._times) - 1)
        job.state = State.SCHEDULED
        job.due_at = job.nominal_at = self._times[later] - 1
        self._at(later).due += 1

    def _run_of(self, run: Run, at: int) -> NewJob:
        fate = Fate.FAILS if run.fails else Fate.SUCCEEDS
        plan = Plan(run.look, fate, run.result)
        if run.fails:
            plan.failure, plan.failing = self._year.failure_of(run.look.name), 1_000
        job = run.job(at)
        self._open[job.id] = plan
        return job

    def _at(self, place: int) -> _Expected:
        return self._expected.setdefault(place, _Expected())

    # ---- ends --------------------------------------------------------------------------------------------

    def _deletion(self, job: NewJob) -> Transition:
        del self._open[job.id]
        at = min(
            job.created_at + int((20 + 3_000 * self._random.random()) * SECOND), self._stage.now - _SOONEST
        )
        return lifecycle.delete(
            job.id, at=at, reason=self._random.choice(_DELETIONS), expires_at=at + KEPT_FOR
        )

    def _end(self, job: ClaimedJob, server: Server, place: int) -> Transition:
        plan = self._open[job.id]
        started_at = job.claimed_at + int(self._random.random() ** 3 * _LONGEST_QUEUEING * SECOND)
        if plan.fate is Fate.CRASHES:
            return self._crash(job, server, place, started_at)
        if plan.failing > 0:
            return self._fail(job, plan, server, place, started_at)
        at = self._end_of(started_at, plan.look.duration(self._random), place, is_before_next=plan.has_child)
        self._ended(job, "succeeded", started_at, at)
        if plan.look.takes_context:
            self._notes.add(job, plan.look, started_at, at)
        return lifecycle.succeeded(
            job, server.holder, at=at, started_at=started_at, result=plan.result, result_absent=None,
            expires_at=at + KEPT_FOR,
        )  # fmt: skip

    def _end_of(self, started_at: int, duration: int, place: int, *, is_before_next: bool = False) -> int:
        at = min(started_at + duration, self._stage.now - _SOONEST)
        if is_before_next and place + 1 < len(self._times):
            at = min(at, self._times[place + 1] - 1)
        return max(at, started_at + 1)

    def _ended(self, job: ClaimedJob, outcome: str, started_at: int, at: int) -> None:
        del self._open[job.id]
        self._rollups.add(job, outcome, at, at - started_at)

    def _fail(self, job: ClaimedJob, plan: Plan, server: Server, place: int, started_at: int) -> Transition:
        failure, random = plan.failure, self._random
        assert failure is not None  # noqa: S101 - who fails has a failure
        error, info = failure.draw(random)
        at = self._end_of(started_at, int(failure.seconds * random.lognormvariate(0, 0.3) * SECOND), place)
        decision = plan.look.retry.decide(job, error, random=random.random)
        reason, expires_at = decision.reason or "", at + KEPT_FOR
        if decision.kind is DecisionKind.RETRY:
            wait = self._wait(job, plan, at, span_micros(decision.after or timedelta(0)))
            plan.failing -= 1
            self._rollups.add(job, "retried", at, at - started_at)
            return lifecycle.retried(
                job, server.holder, at=at, started_at=started_at, wait=wait, reason=reason, error=info
            )
        end = lifecycle.failed
        if decision.kind is DecisionKind.DELETE:
            end = lifecycle.deleted_by_policy
            self._ended(job, "deleted", started_at, at)
        else:
            self._ended(job, "failed", started_at, at)
            self.failed.append(job.id)
        return end(
            job, server.holder, at=at, started_at=started_at, reason=reason, error=info, expires_at=expires_at
        )

    def _wait(self, job: ClaimedJob, plan: Plan, at: int, wanted: int) -> int:
        """Return the wait that ends just before a moment: the first after the wait that the policy wants."""
        if plan.fate is Fate.RETRYING and plan.failing == 1:
            return self._leave(job, at)
        later = self._later(at, wanted, self._more(job, plan))
        if later == len(self._times):
            return self._leave(job, at)
        self._at(later).due += 1
        return self._times[later] - 1 - at

    def _later(self, at: int, wanted: int, more: int) -> int:
        """Return the moment of the next run, with so many moments left behind it if that can be."""
        soonest = bisect_left(self._times, at + 2)
        return max(soonest, min(bisect_left(self._times, at + wanted + 1), len(self._times) - 1 - more))

    def _leave(self, job: ClaimedJob, at: int) -> int:
        """The job goes on waiting for its retry; return the wait, which ends after now."""
        del self._open[job.id]
        return self._stage.now - at + int((60 + self._random.random() ** 2 * 11 * 3_600) * SECOND)

    def _more(self, job: ClaimedJob, plan: Plan) -> int:
        """Return how many moments the job needs after its next one."""
        return min(plan.failing - 1, plan.look.retry.attempts - job.retries)

    def _crash(self, job: ClaimedJob, server: Server, place: int, started_at: int) -> Transition:
        is_last = job.crashes + 1 >= lifecycle.CRASH_LIMIT
        at = self._end_of(
            started_at, self._open[job.id].look.duration(self._random), place, is_before_next=True
        )
        if is_last:
            self._ended(job, "crashed", started_at, at)
        else:
            self._rollups.add(job, "crashed", at, at - started_at)
            self._at(place + 1).enqueued += 1
        return lifecycle.crashed_alone(
            job, server.holder, at=at, started_at=min(started_at, at), reason=KILLED, error=self._killed,
            expires_at=at + KEPT_FOR,
        )  # fmt: skip
