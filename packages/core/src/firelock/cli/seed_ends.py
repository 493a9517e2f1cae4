"""How the runs of a seed end: what becomes of each claimed job, as its plan wants it."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

from firelock import lifecycle
from firelock.cli.seed_failures import KILLED
from firelock.cli.seed_plan import Fate, Plan
from firelock.cli.seed_rhythm import DAY
from firelock.clock import SECOND, span_micros
from firelock.failure import failure_of_text
from firelock.retry import DecisionKind
from firelock.values import ClaimedJob, NewJob, Transition

if TYPE_CHECKING:
    from firelock.cli.seed_agenda import Agenda
    from firelock.cli.seed_notes import Notes
    from firelock.cli.seed_rollups import Rollups
    from firelock.cli.seed_stage import Server

__all__ = ["Ends"]

_KEPT_FOR = 5 * 365 * DAY  # nothing that was made up is pruned while it is looked at
_SOONEST = SECOND // 2  # an end lies at least so long before now
_LONGEST_QUEUEING = 1.4  # seconds from claim to start
_DELETIONS = ("deleted in the dashboard", "deleted from the command line", "deleted by code")


class Ends:
    """Makes the transitions that end runs, counts them, and asks for those that follow."""

    def __init__(self, now: int, agenda: Agenda, *, rollups: Rollups, notes: Notes, random: Random) -> None:
        self.open: dict[str, Plan] = {}  # by id: jobs that are still to end
        self.failed: list[str] = []  # ids, for children that wait in vain
        self.notes = notes
        self._now = now
        self._agenda = agenda
        self._rollups = rollups
        self._random = random
        self._killed = failure_of_text("firelock.server.runner.ProcessDied", KILLED)

    def delete(self, job: NewJob) -> Transition:
        """Somebody deletes the job before it is run."""
        del self.open[job.id]
        at = min(job.created_at + int((20 + 3_000 * self._random.random()) * SECOND), self._now - _SOONEST)
        return lifecycle.delete(
            job.id, at=at, reason=self._random.choice(_DELETIONS), expires_at=at + _KEPT_FOR
        )

    def end(self, job: ClaimedJob, server: Server, place: int) -> Transition:
        """The run that begins at this moment ends."""
        plan = self.open[job.id]
        started_at = job.claimed_at + int(self._random.random() ** 3 * _LONGEST_QUEUEING * SECOND)
        if plan.fate is Fate.CRASHES:
            return self._crash(job, server, place, started_at)
        if plan.failing > 0:
            return self._fail(job, plan, server, place, started_at)
        at = self._end_of(started_at, plan.look.duration(self._random), place, is_before_next=plan.has_child)
        self._ended(job, "succeeded", started_at, at)
        if plan.look.takes_context:
            self.notes.add(job, plan.look, started_at, at)
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
        assert failure is not None  # noqa: S101 - who fails has a failure
        error, info = failure.draw(random)
        at = self._end_of(started_at, int(failure.seconds * random.lognormvariate(0, 0.3) * SECOND), place)
        decision = plan.look.retry.decide(job, error, random=random.random)
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
        """Return the wait that ends just before a moment: the first after the wait that the policy wants."""
        if plan.fate is Fate.RETRYING and plan.failing == 1:
            return self._leave(job, at)
        later = self._agenda.next_run(at, wanted, more=_more(job, plan))
        if later is None:
            return self._leave(job, at)
        self._agenda.expected(later).due += 1
        return self._agenda.at(later) - 1 - at

    def _leave(self, job: ClaimedJob, at: int) -> int:
        """The job goes on waiting for its retry; return the wait, which ends after now."""
        del self.open[job.id]
        return self._now - at + int((60 + self._random.random() ** 2 * 11 * 3_600) * SECOND)

    def _crash(self, job: ClaimedJob, server: Server, place: int, started_at: int) -> Transition:
        is_last = job.crashes + 1 >= lifecycle.CRASH_LIMIT
        at = self._end_of(
            started_at, self.open[job.id].look.duration(self._random), place, is_before_next=True
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
    """Return how many moments the job needs after its next one."""
    return min(plan.failing - 1, plan.look.retry.attempts - job.retries)
