"""The past of a seed: moment by moment jobs are stored, claimed and ended, each at its own instant."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from firelock.cli.seed_plan import Fate, Plan
from firelock.cli.seed_rhythm import DAY
from firelock.clock import SECOND
from firelock.lifecycle import awaiting_reason
from firelock.values import Edge, NewJob, State

if TYPE_CHECKING:
    from firelock.cli.seed_agenda import Agenda, Moment
    from firelock.cli.seed_ends import Ends
    from firelock.cli.seed_plan import Year
    from firelock.cli.seed_recurring import Run
    from firelock.cli.seed_stage import Stage

__all__ = ["Past"]

_SERVER_WEIGHTS = (10, 2, 8)
_GAP_FOR_CHILD = 2 * SECOND
_FARTHEST = 60  # so many moments ahead a delayed job may be due


class Past:
    """Writes the moments, one after the other."""

    def __init__(self, stage: Stage, year: Year, agenda: Agenda, ends: Ends, *, random: Random) -> None:
        self.made = 0
        self._stage = stage
        self._year = year
        self._agenda = agenda
        self._ends = ends
        self._random = random

    def write(self, place: int) -> None:
        """The moment's jobs are stored, and all that is to be run at it has ended."""
        moment, stage, ends = self._agenda.moments[place], self._stage, self._ends
        expected = self._agenda.take(place)
        jobs = self._new_jobs(place, moment)
        if expected.due:
            stage.promote(expected.due, moment.at)
        if expected.released:
            stage.release(expected.released, moment.at)
        stage.insert(jobs, moment.at)
        transitions = [ends.delete(job) for job in jobs if ends.open[job.id].fate is Fate.DELETED]
        server = self._random.choices(stage.servers, _SERVER_WEIGHTS)[0]
        ready = sum(1 for job in jobs if job.state is State.ENQUEUED)
        wanted = ready + expected.due + expected.released + expected.enqueued
        if wanted:
            claimed = stage.claim(wanted, server, moment.at)
            # In an order of our own: what is drawn for each job is then the same on every storage.
            claimed.sort(key=lambda job: (job.created_at, job.task, job.arguments))
            transitions += [ends.end(job, server, place) for job in claimed]
        stage.apply(transitions)
        ends.notes.flush(stage.storage)
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
            self._ends.open[job.id] = plan
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
        if self._agenda.gap(place) < _GAP_FOR_CHILD:
            plan.is_child = self._ends.open[parent.id].has_child = False
            return
        job.id = self._stage.storage.new_id(parent.id)
        job.state, job.parents = State.AWAITING, (Edge(parent.id),)
        job.reason = awaiting_reason(job.parents[0].on, parent.id)
        self._agenda.expected(place + 1).released += 1

    def _delay(self, place: int, job: NewJob) -> None:
        """The job was made for one of the next moments."""
        later = min(place + 1 + int(self._random.random() * _FARTHEST), len(self._agenda) - 1)
        job.state = State.SCHEDULED
        job.due_at = job.nominal_at = self._agenda.at(later) - 1
        self._agenda.expected(later).due += 1

    def _run_of(self, run: Run, at: int) -> NewJob:
        fate = Fate.FAILS if run.fails else Fate.SUCCEEDS
        plan = Plan(run.look, fate, run.result)
        if run.fails:
            plan.failure, plan.failing = self._year.failure_of(run.look.name), 1_000
        job = run.job(at)
        self._ends.open[job.id] = plan
        return job
