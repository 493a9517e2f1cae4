"""A year of a shop's jobs, written to a storage only through the verbs of the storage contract."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import timedelta
from itertools import groupby, islice
from random import Random
from typing import TYPE_CHECKING

import attrs

from benchmarks.seed.failures import KILLED
from benchmarks.seed.recurring import Definitions
from benchmarks.seed.stage import Stage
from benchmarks.seed.templates import JobTemplates
from benchmarks.seed.year import DAY, HOUR, MINUTE, Fate, Plan, Rhythm, Sizes, Year
from firelock.model import lifecycle
from firelock.model.clock import SECOND, span_micros
from firelock.model.dependencies import Edge, On
from firelock.model.job import ClaimedJob, LogLine, NewJob, Progress, Transition
from firelock.model.lifecycle import awaiting_reason, waiting_reason
from firelock.model.state import State
from firelock.retry import DecisionKind
from firelock.server.failure import failure_of_text
from firelock.storage import DURATION_BUCKETS, HeldClaim, Rollup, Storage

if TYPE_CHECKING:
    from benchmarks.seed.recurring import Run
    from benchmarks.seed.stage import Server
    from benchmarks.seed.templates import JobTemplate
    from benchmarks.seed.year import Burst
    from firelock.options import TaskInfo

__all__ = ["RANDOM_SEED", "Seeded", "seed"]

RANDOM_SEED = 20_261_124
_AT_MOST = 500  # jobs or rollups per call
_BURSTS = 16_000  # approximate number per year; more would take minutes
_SMALLEST, _LARGEST = 12, 250  # jobs per burst; fewer if there are few jobs in total
_FEW = 6_000
_LOGGED_FOR = 3 * DAY  # maximum age of the end of a job with a log
_FULLY_LOGGED = 100_000  # with more jobs, the maximum age is lower, so that some hundred jobs have a log


@attrs.frozen
class Seeded:
    """The progress of a seed."""

    jobs: int
    rollups: int = 0
    recurring: int = 0


def seed(
    storage: Storage,
    infos: list[TaskInfo],
    jobs: int,
    *,
    random_seed: int = RANDOM_SEED,
    now: int | None = None,
) -> Generator[Seeded]:
    """Store this number of jobs of a year; yield the progress.

    No other process may use the storage during this time. If the generator is closed early, the jobs stored
    until then are complete, and no server holds them. The same number, seed and `now` create the same jobs,
    except for the ids and the timestamps that the storage sets.
    """
    stage = Stage(storage, now)
    with stage.opened():
        yield from _Story(stage, infos, Sizes.of(jobs), Random(random_seed)).write()


class _Story:
    def __init__(self, stage: Stage, infos: list[TaskInfo], sizes: Sizes, random: Random) -> None:
        self._stage = stage
        self._sizes = sizes
        templates = JobTemplates(infos)
        self._definitions = Definitions(templates, stage.now, sizes.runs, random)
        self._rollups = Rollups(stage.now)
        notes = Notes(stage.now, _LOGGED_FOR * _FULLY_LOGGED // max(_FULLY_LOGGED, sizes.jobs))
        rhythm = Rhythm(stage.now, sizes.jobs - sizes.present - len(self._definitions.runs))
        bursts = list(rhythm.bursts(random, _burst_size(sizes.jobs)))
        year = Year(rhythm, bursts, templates, sizes, random)
        runs = sorted(self._definitions.runs, key=lambda run: run.due_at)
        moments = [Moment(burst.at, burst) for burst in bursts]
        moments += [
            Moment(at + 20_000, runs=tuple(same)) for at, same in groupby(runs, key=lambda run: run.due_at)
        ]
        moments.sort(key=lambda moment: moment.at)
        agenda = Agenda(moments)
        self._moments = len(agenda)
        self._ends = Ends(stage.now, agenda, rollups=self._rollups, notes=notes, random=random)
        self._past = Past(stage, year, agenda, self._ends, random=random)
        self._present = Present(stage, templates, sizes, notes, random)

    def write(self) -> Iterator[Seeded]:
        """Store the ended jobs, then the others, then the definitions and the metrics; yield the progress."""
        for place in range(self._moments):
            self._past.write(place)
            yield Seeded(self._past.made)
        made = self._past.made
        for step in (self._present.run, self._present.enqueue, self._present.schedule, self._wait):
            made += step()
            yield Seeded(made)
        self._definitions.write(self._stage.storage)
        self._present.pause()
        for rows in self._rollups.write(self._stage.storage):
            yield Seeded(made, rows, len(self._definitions))
        self._stage.renew()

    def _wait(self) -> int:
        return self._present.wait(self._ends.failed)


def _burst_size(jobs: int) -> int:
    smallest = max(2, _SMALLEST * min(jobs, _FEW) // _FEW)
    return min(_LARGEST, max(smallest, jobs // _BURSTS))


# ---- moments, and the jobs that are ready at each moment -----------------------------------------------


@attrs.frozen
class Moment:
    """A time at which jobs are stored and claimed: those of a burst, or runs of recurring jobs."""

    at: int
    burst: Burst | None = None
    runs: Sequence[Run] = ()


@attrs.define
class Expected:
    """The numbers of jobs of each kind that earlier moments leave for a later one."""

    due: int = 0
    released: int = 0
    enqueued: int = 0


class Agenda:
    """The moments in order of time, identified by their positions."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self.moments = moments
        self._times = [moment.at for moment in moments]
        self._expected: dict[int, Expected] = {}

    def __len__(self) -> int:
        """Return the number of moments."""
        return len(self._times)

    def at(self, place: int) -> int:
        """Return the time of the moment."""
        return self._times[place]

    def expected(self, place: int) -> Expected:
        """Return the jobs that are left for the moment, for adding others."""
        return self._expected.setdefault(place, Expected())

    def take(self, place: int) -> Expected:
        """Return the jobs that are left for the moment; may be called once."""
        return self._expected.pop(place, Expected())

    def gap(self, place: int) -> int:
        """Return the time from this moment to the next; 0 for the last."""
        return self._times[place + 1] - self._times[place] if place + 1 < len(self._times) else 0

    def next_run(self, at: int, wait: int, *, more: int) -> int | None:
        """Return the moment at which a job that ended at this time runs again; None if no moment is left.

        If possible, `more` moments follow it.
        """
        soonest = bisect_left(self._times, at + 2)
        wanted = min(bisect_left(self._times, at + wait + 1), len(self._times) - 1 - more)
        place = max(soonest, wanted)
        return place if place < len(self._times) else None


# ---- the past: jobs are stored, claimed and ended moment by moment -------------------------------------

_SERVER_WEIGHTS = (10, 2, 8)
_GAP_FOR_CHILD = 2 * SECOND
_FARTHEST = 60  # maximum number of moments until a delayed job is due


class Past:
    """A writer of the moments, one after another."""

    def __init__(self, stage: Stage, year: Year, agenda: Agenda, ends: Ends, *, random: Random) -> None:
        self.made = 0
        self._stage = stage
        self._year = year
        self._agenda = agenda
        self._ends = ends
        self._random = random

    def write(self, place: int) -> None:
        """Store the moment's jobs, and end all jobs that run at this moment."""
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
            # In a fixed order, so that the random values of each job are the same on every storage.
            claimed.sort(key=lambda job: (job.created_at, job.task, job.arguments))
            transitions += [ends.end(job, server, place) for job in claimed]
        stage.apply(transitions)
        ends.notes.flush(stage.storage)
        self.made += len(jobs)

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
                self._add_dependency(place, job, plan, jobs[-1])
            elif plan.fate is Fate.DELAYED:
                self._delay(place, job)
            self._ends.open[job.id] = plan
            jobs.append(job)
        return jobs

    def _new_job(self, plan: Plan, job_id: str, created_at: int) -> NewJob:
        template = plan.template
        drawn = template.draw(self._random, created_at)
        plan.result = drawn.result
        job = NewJob(
            job_id, template.name, drawn.arguments, "json", template.queue, template.priority,
            State.ENQUEUED, created_at, tags=drawn.tags,
        )  # fmt: skip
        if plan.fate is Fate.DELETED:
            job.state = State.SCHEDULED
            job.due_at = job.nominal_at = created_at + int((1 + 6 * self._random.random()) * DAY)
        return job

    def _add_dependency(self, place: int, job: NewJob, plan: Plan, parent: NewJob) -> None:
        """Make the job wait for its parent if the next moment is late enough."""
        if self._agenda.gap(place) < _GAP_FOR_CHILD:
            plan.is_child = self._ends.open[parent.id].has_child = False
            return
        job.id = self._stage.storage.new_ids(1, parent.id)[0]
        job.state, job.parents = State.AWAITING, (Edge(parent.id),)
        job.reason = awaiting_reason(job.parents[0].on, parent.id)
        self._agenda.expected(place + 1).released += 1

    def _delay(self, place: int, job: NewJob) -> None:
        """Schedule the job for one of the next moments."""
        later = min(place + 1 + int(self._random.random() * _FARTHEST), len(self._agenda) - 1)
        job.state = State.SCHEDULED
        job.due_at = job.nominal_at = self._agenda.at(later) - 1
        self._agenda.expected(later).due += 1

    def _run_of(self, run: Run, at: int) -> NewJob:
        fate = Fate.FAILS if run.fails else Fate.SUCCEEDS
        plan = Plan(run.template, fate, run.result)
        if run.fails:
            plan.failure, plan.failing = self._year.failure_of(run.template.name), 1_000
        job = run.job(at)
        self._ends.open[job.id] = plan
        return job


# ---- ends of runs, according to the plans of the jobs --------------------------------------------------

_KEPT_FOR = 5 * 365 * DAY  # so that fictional jobs are not pruned
_SOONEST = SECOND // 2  # minimum age of an end
_LONGEST_QUEUEING = 1.4  # seconds from claim to start
_DELETIONS = ("deleted in the dashboard", "deleted from the command line", "deleted by code")


class Ends:
    """A builder of the transitions that end runs; it counts them and plans those that follow."""

    def __init__(self, now: int, agenda: Agenda, *, rollups: Rollups, notes: Notes, random: Random) -> None:
        self.open: dict[str, Plan] = {}  # by id: jobs that have not ended
        self.failed: list[str] = []  # ids, for children whose dependency cannot be met
        self.notes = notes
        self._now = now
        self._agenda = agenda
        self._rollups = rollups
        self._random = random
        self._killed = failure_of_text("firelock.server.run.ProcessDied", KILLED)

    def delete(self, job: NewJob) -> Transition:
        """Delete the job before it runs."""
        del self.open[job.id]
        at = min(job.created_at + int((20 + 3_000 * self._random.random()) * SECOND), self._now - _SOONEST)
        return lifecycle.delete(
            job.id, at=at, reason=self._random.choice(_DELETIONS), expires_at=at + _KEPT_FOR
        )

    def end(self, job: ClaimedJob, server: Server, place: int) -> Transition:
        """End the run that begins at this moment."""
        plan = self.open[job.id]
        started_at = job.claimed_at + int(self._random.random() ** 3 * _LONGEST_QUEUEING * SECOND)
        if plan.fate is Fate.CRASHES:
            return self._crash(job, server, place, started_at)
        if plan.failing > 0:
            return self._fail(job, plan, server, place, started_at)
        at = self._end_of(
            started_at, plan.template.duration(self._random), place, is_before_next=plan.has_child
        )
        self._ended(job, "succeeded", started_at, at)
        if plan.template.takes_context:
            self.notes.add(job, plan.template, started_at, at)
        return lifecycle.succeeded(
            job, server.holder, at=at, started_at=started_at, result=plan.result, result_absent=None,
            expires_at=at + _KEPT_FOR,
        )  # fmt: skip

    def _end_of(self, started_at: int, duration: int, place: int, *, is_before_next: bool = False) -> int:
        at = min(started_at + duration, self._now - _SOONEST)
        if is_before_next and place + 1 < len(self._agenda):
            at = min(at, self._agenda.at(place + 1) - 1)
        return max(at, started_at + 1)

    def _ended(self, job: ClaimedJob, outcome: str, started_at: int, at: int) -> None:
        del self.open[job.id]
        self._rollups.add(job, outcome, at, at - started_at)

    def _fail(self, job: ClaimedJob, plan: Plan, server: Server, place: int, started_at: int) -> Transition:
        failure, random = plan.failure, self._random
        assert failure is not None
        error, info = failure.draw(random)
        at = self._end_of(started_at, int(failure.seconds * random.lognormvariate(0, 0.3) * SECOND), place)
        decision = plan.template.retry.decide(job, error, random=random.random)
        reason, expires_at = decision.reason or "", at + _KEPT_FOR
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
        """Return a wait that ends just before the first moment after the wait that the policy requires."""
        if plan.fate is Fate.RETRYING and plan.failing == 1:
            return self._leave(job, at)
        later = self._agenda.next_run(at, wanted, more=_more(job, plan))
        if later is None:
            return self._leave(job, at)
        self._agenda.expected(later).due += 1
        return self._agenda.at(later) - 1 - at

    def _leave(self, job: ClaimedJob, at: int) -> int:
        """Let the job wait for its retry; return the wait, which ends after now."""
        del self.open[job.id]
        return self._now - at + int((60 + self._random.random() ** 2 * 11 * 3_600) * SECOND)

    def _crash(self, job: ClaimedJob, server: Server, place: int, started_at: int) -> Transition:
        is_last = job.crashes + 1 >= lifecycle.CRASH_LIMIT
        at = self._end_of(
            started_at, self.open[job.id].template.duration(self._random), place, is_before_next=True
        )
        if is_last:
            self._ended(job, "crashed", started_at, at)
        else:
            self._rollups.add(job, "crashed", at, at - started_at)
            self._agenda.expected(place + 1).enqueued += 1
        return lifecycle.crashed_alone(
            job, server.holder, at=at, started_at=min(started_at, at), reason=KILLED, error=self._killed,
            expires_at=at + _KEPT_FOR,
        )  # fmt: skip


def _more(job: ClaimedJob, plan: Plan) -> int:
    """Return the number of moments that the job needs after its next one."""
    return min(plan.failing - 1, plan.template.retry.attempts - job.retries)


# ---- the present: running, enqueued, scheduled and awaiting jobs ---------------------------------------

_AT_ONCE = 25  # enqueued jobs that share a timestamp
_PAUSED, _NOTE = "webhooks", "partners move to new servers until Thursday; paused by ops"
# Shares of the enqueued jobs, their tasks, and the age of the oldest job.
_WAITING = (
    (0.44, ("webhooks.deliver", "webhooks.notify_partner"), 3 * HOUR),
    (0.38, ("mail.send_newsletter", "mail.send_receipt", "mail.send_shipped"), 25 * MINUTE),
    (0.09, ("media.resize_image", "media.make_thumbnail"), 4 * MINUTE),
    (0.05, ("catalog.reindex_product", "crm.sync_customer"), MINUTE),
    (0.03, ("imports.import_prices", "imports.geocode_addresses"), 6 * MINUTE),
    (0.01, ("reports.export_orders",), 8 * MINUTE),
)  # fmt: skip
_RUNNING = (
    "media.transcode_video", "imports.import_products", "reports.nightly_sales", "reports.export_orders",
    "reports.weekly_margin", "billing.reconcile_payouts", "media.transcode_video", "imports.import_prices",
    "billing.charge_card", "mail.send_newsletter", "catalog.reindex_product", "shipping.create_label",
)  # fmt: skip
_LATER = (
    "mail.remind_cart", "billing.remind_debtor", "billing.renew_subscription", "mail.send_newsletter",
    "reports.export_orders", "webhooks.post_to_chat",
)  # fmt: skip
_NEXT = ("mail.send_receipt", "webhooks.post_to_chat", "webhooks.notify_partner", "crm.sync_customer")
_ONS = (On.SUCCEEDED, On.SUCCEEDED, On.SUCCEEDED, On.FINISHED, On.FAILED)


class Present:
    """A writer of jobs that have not ended."""

    def __init__(
        self, stage: Stage, templates: JobTemplates, sizes: Sizes, notes: Notes, random: Random
    ) -> None:
        self._stage = stage
        self._templates = templates
        self._sizes = sizes
        self._notes = notes
        self._random = random
        self._parents: list[str] = []  # ids of jobs that have not ended

    def run(self) -> int:
        """Claim jobs for each server, which seem to run; return their number."""
        share = {"worker-1": 0.4, "web-1": 0.2}
        left = self._sizes.processing
        for server in self._stage.servers:
            count = min(left, round(share.get(server.session.host, 1.0) * self._sizes.processing))
            left -= count
            self._hold(server, count)
        return self._sizes.processing

    def _hold(self, server: Server, count: int) -> None:
        ago = 11 * MINUTE if server.is_stale else 7 * MINUTE
        for number in range(count):
            template = self._templates.by_name[f"shop.{_RUNNING[number % len(_RUNNING)]}"]
            longest = ago if template.takes_context or server.is_stale else 3 * SECOND
            at = self._stage.now - int(longest * (0.85 + 0.15 * self._random.random()))
            job = self._job(template, at)
            self._stage.insert([job], at)
            (claimed,) = self._stage.claim(1, server, at)
            started_at = claimed.claimed_at + int(self._random.random() * SECOND / 2)
            held = HeldClaim(claimed.id, claimed.fence, started_at)
            self._stage.storage.reconcile(server.session.id, [held])
            self._log(claimed, template, started_at)
            self._parents.append(job.id)

    def _log(self, job: ClaimedJob, template: JobTemplate, started_at: int) -> None:
        if template.takes_context:
            share = 0.15 + 0.75 * self._random.random()
            self._notes.add(job, template, started_at, self._stage.now, share=share)
            self._notes.flush(self._stage.storage)

    def enqueue(self) -> int:
        """Enqueue jobs in several queues, two of them long; return their number."""
        created, share = 0, 0.0
        for part, tasks, oldest in _WAITING:
            share += part
            count = round(share * self._sizes.enqueued) - created
            self._enqueue(count, tasks, oldest)
            created += count
        return created

    def _enqueue(self, count: int, tasks: Sequence[str], oldest: int) -> None:
        for first in range(0, count, _AT_ONCE):
            at = self._stage.now - int(oldest * (1 - first / count)) - SECOND // 5
            jobs = [self._job(self._one_of(tasks), at) for _ in range(min(_AT_ONCE, count - first))]
            self._stage.insert(jobs, at)
            self._parents.append(jobs[0].id)

    def schedule(self) -> int:
        """Schedule jobs for the next days; return their number."""

        def scheduled() -> NewJob:
            job = self._job(self._one_of(_LATER), self._stage.now - int(self._random.random() * 2 * DAY))
            job.state = State.SCHEDULED
            job.due_at = job.nominal_at = (
                self._stage.now + int(self._random.random() ** 2 * 6 * DAY) + 5 * MINUTE
            )
            return job

        return self._insert_all(self._sizes.scheduled, scheduled)

    def wait(self, failed: Sequence[str]) -> int:
        """Store jobs that wait for unfinished or failed parents; return their number."""
        parents = [*self._parents, *failed[-max(1, self._sizes.awaiting // 6) :]]
        hopeless = set(failed)

        def awaiting() -> NewJob:
            parent = self._random.choice(parents)
            job = self._job(self._one_of(_NEXT), self._stage.now - int(self._random.random() * 2 * MINUTE))
            job.id = self._stage.storage.new_ids(1, parent)[0]
            is_failed = parent in hopeless
            on = On.SUCCEEDED if is_failed else self._random.choice(_ONS)
            job.state, job.parents = State.AWAITING, (Edge(parent, on),)
            job.reason = waiting_reason(on, State.FAILED) if is_failed else awaiting_reason(on, parent)
            return job

        return self._insert_all(self._sizes.awaiting, awaiting)

    def _insert_all(self, count: int, make: Callable[[], NewJob]) -> int:
        for first in range(0, count, _AT_MOST):
            self._stage.insert([make() for _ in range(min(_AT_MOST, count - first))], self._stage.now)
        return count

    def pause(self) -> None:
        """Pause a queue with a note."""
        value = json.dumps({"paused": True, "note": _NOTE})
        self._stage.storage.put_record("queue", _PAUSED, value)

    def _one_of(self, tasks: Sequence[str]) -> JobTemplate:
        return self._templates.by_name[f"shop.{self._random.choice(tasks)}"]

    def _job(self, template: JobTemplate, created_at: int) -> NewJob:
        drawn = template.draw(self._random, created_at)
        return NewJob(
            self._stage.storage.new_ids(1)[0], template.name, drawn.arguments, "json", template.queue,
            template.priority, State.ENQUEUED, created_at, tags=drawn.tags,
        )  # fmt: skip


# ---- logs ----------------------------------------------------------------------------------------------

_STEPS = 6


class Notes:
    """A writer of the log lines and progress of jobs that ended within a period before now."""

    def __init__(self, now: int, period: int) -> None:
        self._since = now - period
        self._lines: dict[str, list[LogLine]] = {}
        self._progress: dict[str, Progress] = {}

    def add(
        self, job: ClaimedJob, template: JobTemplate, started_at: int, at: int, *, share: float = 1.0
    ) -> None:
        """Add log lines for this share of the run's steps, unless the run ended before the period."""
        if at < self._since:
            return
        total = 12 + job.created_at % 49
        gap = (at - started_at) / (_STEPS + 1)
        steps = max(1, int(_STEPS * share))
        done = [total * step * (share if share < 1 else 1) / steps for step in range(1, steps + 1)]
        lines = [
            LogLine(
                0, started_at, "info", f"{template.name} starts with {total} {template.noun}", job.attempt
            )
        ]
        lines += [
            LogLine(
                0,
                int(started_at + gap * step),
                "info",
                f"{int(part)} of {total} {template.noun}",
                job.attempt,
            )
            for step, part in enumerate(done, start=1)
        ]
        if total % 5 == 0:
            warning = f"{template.noun} {total // 3} took 4.1 s, which is longer than usual"
            lines.insert(2, LogLine(0, lines[1].at, "warning", warning, job.attempt))
        if share >= 1:
            lines.append(LogLine(0, at, "info", f"{total} {template.noun} done", job.attempt))
        self._lines[job.id] = lines
        self._progress[job.id] = Progress(
            int(done[-1]), total, lines[-1].at, f"{template.noun} {int(done[-1])} of {total}"
        )

    def flush(self, storage: Storage) -> None:
        """Store the collected lines and progress."""
        if self._lines:
            storage.append_logs(self._lines, self._progress)
            self._lines, self._progress = {}, {}


# ---- rollups of 30 days: per minute for the last day, and per longer period before ---------------------

_BUCKETS = tuple(int(bound * SECOND) for bound in DURATION_BUCKETS)
_KEPT = 30 * DAY
# The length of the periods by age in days. Older counts are added up for longer periods to save rows.
_SLOTS = ((1, MINUTE), (2, 5 * MINUTE), (30, 30 * MINUTE))


class Rollups:
    """A counter of ended attempts, as in servers."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._sums: dict[tuple[int, str, str, str], list[int]] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._sums)

    def add(self, job: ClaimedJob, outcome: str, at: int, duration: int) -> None:
        """Count an ended attempt."""
        age = self._now - at
        if age >= _KEPT - DAY // 24:
            return
        slot = next(slot for days, slot in _SLOTS if age < days * DAY)
        key = (at - at % slot, job.task, job.queue, outcome)
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [0] * (len(_BUCKETS) + 3)
        sums[0] += 1
        sums[1] += duration
        sums[2 + bisect_left(_BUCKETS, duration)] += 1

    def write(self, storage: Storage) -> Iterator[int]:
        """Store the rows; yield the number of stored rows after each batch."""
        rows = (
            Rollup(minute, task, queue, outcome, count, duration, tuple(histogram))
            for (minute, task, queue, outcome), (count, duration, *histogram) in sorted(self._sums.items())
        )
        done = 0
        while batch := list(islice(rows, _AT_MOST)):
            storage.record_metrics(batch)
            done += len(batch)
            yield done
