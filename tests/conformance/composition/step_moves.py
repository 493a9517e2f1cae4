"""A job that waits for a signal and then runs a step, both stored as memos by name.

The task is `answer = job.receive(signal, timeout=…)`, then `job.step("b", …)`. Two workers can have a run,
one of which is old. Two people send the signal, and one operator changes the job. A call of the storage and
its reply are separate moves, so a worker can be killed or lose its session between them. The signal and the
timeout are memos that another party writes. The first memo of a name is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import attrs

ENQUEUED, PROCESSING, AWAITING, SUCCEEDED, DELETED = "E", "P", "W", "S", "D"
ENDED = (SUCCEEDED, DELETED)
TIMED_OUT, BEGUN = "time-out", "begun"
NO, YES = "no", "yes"
MOST_CLAIMS = 6


class Job(NamedTuple):
    """The stored job."""

    state: str = ENQUEUED
    fence: int = 0
    waits: bool = False  # for the signal
    is_due: bool = False  # at its deadline, by the storage's clock
    has_tail: bool = False


class Run(NamedTuple):
    """The state of a worker's run."""

    fence: int
    generation: int  # grows with each requeue "again from here"
    at: str
    answer: str | None = None
    value: tuple[int, int] | None = None
    reply: object = None  # not received yet


class Budget(NamedTuple):
    """The number of times that each failure and each human action may occur."""

    kill: int = 1
    lose: int = 1
    requeue: int = 0
    again: int = 1
    delete: int = 1


class World(NamedTuple):
    """The whole state at one time."""

    job: Job
    answer: str | None  # the memo of the signal: None, begun, or the name of the first sender
    value: tuple[int, int] | None  # the memo of the step
    runs: tuple[Run | None, ...]
    is_late: bool  # the deadline has passed
    replies: tuple[str, ...]  # the reply to each sender, or what the sender has read
    generation: int
    answers: frozenset[tuple[int, str]]  # the answers that runs continued with, by generation
    values: frozenset[tuple[int, tuple[int, int]]]
    forgets: bool  # in a variant: the memos have not been deleted yet
    budget: Budget
    broken: str = ""


@attrs.frozen
class Rules:
    """The rules that hold; each variant disables one of them."""

    suspension_checks: bool = True  # checks in its own move whether the answer exists
    sender_is_one_move: bool = True  # reads the memo and wakes the job under the job's lock
    mail_is_kept: bool = True  # a signal is kept even if no run waits yet
    time_out_is_kept: bool = True  # as a memo
    woken_reads: bool = True  # reads the memo, regardless of what has woken the job
    first_stands: bool = True
    suspension_is_fenced: bool = True
    memo_is_fenced: bool = True
    recall_is_fenced: bool = True
    memo_is_once: bool = True
    requeue_forgets: bool = True  # in its own move
    has_time_out: bool = True


class StepModel:
    """The job with one set of rules."""

    def __init__(self, rules=Rules(), budget=Budget()):  # noqa: B008 - frozen
        self.rules = rules
        self.first = World(
            Job(), None, None, (None, None), False, ("", ""), 0, frozenset(), frozenset(), False, budget
        )

    # ---- changes -----------------------------------------------------------------------------------------

    @staticmethod
    def _woken(world):
        return world._replace(job=world.job._replace(state=ENQUEUED, waits=False, is_due=False))

    @staticmethod
    def _spent(world, what):
        left = world.budget._replace(**{what: getattr(world.budget, what) - 1})
        return world._replace(budget=left)

    @staticmethod
    def _with_run(world, worker, run):
        runs = list(world.runs)
        runs[worker] = run
        return world._replace(runs=tuple(runs))

    @staticmethod
    def _is_mine(world, run):
        return world.job.state == PROCESSING and world.job.fence == run.fence

    @staticmethod
    def _is_open(answer):
        return answer in (None, BEGUN)

    # ---- moves -------------------------------------------------------------------------------------------

    def moves(self, world):
        """Yield every move: its name, whether it is a regular move, and the world after it."""
        job = world.job
        if self.rules.has_time_out and not world.is_late:
            yield "it is late", True, world._replace(is_late=True)
        if job.state == AWAITING and job.is_due and world.is_late:
            yield "promote", True, self._woken(world)
        for sender in range(len(world.replies)):
            yield from self._sends(world, sender)
        yield from self._operates(world)
        for worker, run in enumerate(world.runs):
            if run is not None:
                yield from self._goes_wrong(world, worker, run)
                yield from self._works(world, worker, run)
            elif job.state == ENQUEUED and not job.has_tail and job.fence < MOST_CLAIMS:
                claimed = world._replace(job=job._replace(state=PROCESSING, fence=job.fence + 1))
                fresh = Run(job.fence + 1, world.generation, "recall")
                yield f"claim {worker}", True, self._with_run(claimed, worker, fresh)

    def _with_reply(self, world, sender, words):
        replies = list(world.replies)
        replies[sender] = words
        return world._replace(replies=tuple(replies))

    def _sends(self, world, sender):
        job, reply, me = world.job, world.replies[sender], f"signal {sender}"
        if not self.rules.sender_is_one_move:
            if not reply:
                seen = "saw it waiting" if job.waits else "saw it busy"
                yield f"{me} reads", True, self._with_reply(world, sender, seen)
            elif reply.startswith("saw"):
                if not self._is_open(world.answer):
                    yield f"{me} refused", True, self._with_reply(world, sender, NO)
                    return
                sent = self._with_reply(world._replace(answer=me), sender, YES)
                wakes = reply == "saw it waiting" and job.state == AWAITING
                yield f"{me} writes", True, self._woken(sent) if wakes else sent
        elif not reply:
            if job.state in ENDED or (not self._is_open(world.answer) and self.rules.first_stands):
                yield f"{me} refused", True, self._with_reply(world, sender, NO)
                return
            sent = self._with_reply(world, sender, YES)
            if self.rules.mail_is_kept or job.waits:
                sent = sent._replace(answer=me)
            yield me, True, self._woken(sent) if job.state == AWAITING and job.waits else sent

    def _operates(self, world):
        job, budget = world.job, world.budget
        if budget.requeue and job.state in (AWAITING, *ENDED):
            again = self._spent(self._woken(world), "requeue")
            # A sender that was refused because the job had ended may send again.
            replies = tuple("" if one == NO and self._is_open(world.answer) else one for one in again.replies)
            yield "requeue", False, again._replace(replies=replies)
        if budget.again and job.state in (AWAITING, *ENDED) and not world.forgets:
            again = self._spent(self._woken(world), "again")._replace(generation=world.generation + 1)
            if self.rules.requeue_forgets:
                again = again._replace(answer=None, value=None)
            else:
                again = again._replace(forgets=True)
            # the replies belonged to another generation
            yield "again from here", False, again._replace(replies=("", ""))
        if world.forgets:
            yield "forget", True, world._replace(answer=None, value=None, forgets=False)
        if budget.delete and job.state in (ENQUEUED, PROCESSING, AWAITING):
            deleted = job._replace(state=DELETED, waits=False, is_due=False, has_tail=job.state == PROCESSING)
            yield "delete", False, self._spent(world._replace(job=deleted), "delete")
        if job.has_tail and not any(run is not None and run.fence == job.fence for run in world.runs):
            yield "tail over", True, world._replace(job=job._replace(has_tail=False))

    def _goes_wrong(self, world, worker, run):
        is_mine = self._is_mine(world, run)
        back = world._replace(job=world.job._replace(state=ENQUEUED)) if is_mine else world
        if world.budget.kill:
            yield f"kill {worker}", False, self._spent(self._with_run(back, worker, None), "kill")
        if world.budget.lose and is_mine:
            yield f"lose {worker}", False, self._spent(back, "lose")

    def _works(self, world, worker, run):
        without_run, is_mine = self._with_run(world, worker, None), self._is_mine(world, run)
        if run.at in ("receive", "late"):
            yield from self._receives(world, worker, run)
        elif run.at in ("step", "kept"):
            yield self._steps(world, worker, run)
        elif run.at == "waiting":
            yield from self._is_answered(world, worker, run)
        elif run.at == "suspend":
            yield self._suspends(world, worker, run)
        elif run.at == "end":
            ended = without_run._replace(job=world.job._replace(state=SUCCEEDED)) if is_mine else without_run
            yield f"end {worker}" + ("" if is_mine else " refused"), True, ended
        elif is_mine or not self.rules.recall_is_fenced:
            knows = run._replace(at="receive", answer=world.answer, value=world.value)
            yield f"recall {worker}", True, self._with_run(world, worker, knows)
        else:
            yield f"recall {worker} refused", True, without_run

    def _may_write(self, world, run):
        return self._is_mine(world, run) or not self.rules.memo_is_fenced

    def _receives(self, world, worker, run):
        """Yield the move that begins the wait or writes the timeout; the first memo is kept and returned."""
        if run.at == "receive" and not self._is_open(run.answer):
            yield f"{worker} has it", True, self._received(world, worker, run, run.answer)
        elif run.at == "late" and not self.rules.time_out_is_kept:
            yield f"time-out {worker}", True, self._received(world, worker, run, TIMED_OUT)
        elif not self._may_write(world, run):
            yield f"{worker} lost", True, self._with_run(world, worker, None)
        else:
            written = world
            if run.at == "late" and self._is_open(world.answer):
                written = world._replace(answer=TIMED_OUT)
            elif world.answer is None:
                written = world._replace(answer=BEGUN)
            waiting = run._replace(at="waiting", reply=written.answer)
            name = "begin" if run.at == "receive" else "time-out"
            yield f"{name} {worker}", True, self._with_run(written, worker, waiting)

    def _steps(self, world, worker, run):
        if run.at == "kept":
            return f"{worker} did it", True, self._stepped(world, worker, run, run.reply)
        if run.value is not None:
            return f"{worker} skips", True, self._stepped(world, worker, run, run.value)
        if not self._may_write(world, run):
            return f"{worker} lost", True, self._with_run(world, worker, None)
        mine = (run.fence, run.generation)
        is_first = world.value is None or not self.rules.memo_is_once
        kept = world._replace(value=mine) if is_first else world
        reply = kept.value if self.rules.memo_is_once else mine
        done = run._replace(at="kept", reply=reply)
        return f"remember {worker}", True, self._with_run(kept, worker, done)

    def _is_answered(self, world, worker, run):
        if run.reply != BEGUN:
            yield f"{worker} is notified", True, self._received(world, worker, run, run.reply)
        elif world.is_late and self.rules.has_time_out:
            yield (
                f"{worker} sees that it is late",
                True,
                self._with_run(world, worker, run._replace(at="late")),
            )
        else:
            yield f"{worker} gives up", True, self._with_run(world, worker, run._replace(at="suspend"))
        is_woken_late = world.is_late and self.rules.has_time_out and world.job.fence > 1
        if is_woken_late and not self.rules.woken_reads:
            yield f"{worker} takes it for the time-out", True, self._received(world, worker, run, TIMED_OUT)

    def _suspends(self, world, worker, run):
        without_run, is_mine = self._with_run(world, worker, None), self._is_mine(world, run)
        if not is_mine and (self.rules.suspension_is_fenced or world.job.state != PROCESSING):
            return f"suspend {worker} refused", True, without_run
        if not is_mine:
            without_run = without_run._replace(broken="an old run suspended the job under the new one")
        if self.rules.suspension_checks and not self._is_open(world.answer):
            return f"suspend {worker}, it is there", True, self._woken(without_run)
        waits = world.job._replace(state=AWAITING, waits=True, is_due=self.rules.has_time_out)
        return f"suspend {worker}", True, without_run._replace(job=waits)

    def _received(self, world, worker, run, answer):
        broken, is_mine = world.broken, self._is_mine(world, run)
        if answer == TIMED_OUT and run.generation == world.generation and YES in world.replies:
            broken = broken or "timed out although a signal was accepted"
        if is_mine and run.generation != world.generation:
            broken = broken or "a current run of an old generation"
        went_on = (world.generation if is_mine else run.generation, answer)
        after = self._with_run(world, worker, run._replace(at="step", reply=None))
        return after._replace(answers=world.answers | {went_on}, broken=broken)

    def _stepped(self, world, worker, run, value):
        broken, is_mine = world.broken, self._is_mine(world, run)
        if is_mine and value[1] != world.generation:
            broken = broken or "what was to be forgotten came back"
        went_on = (world.generation if is_mine else run.generation, value)
        after = self._with_run(world, worker, run._replace(at="end", reply=None))
        return after._replace(values=world.values | {went_on}, broken=broken)

    # ---- conditions --------------------------------------------------------------------------------------

    def broken(self, world):
        """Return a description of the condition that is broken in this world, or an empty string."""
        if world.broken:
            return world.broken
        for went_on, what in ((world.answers, "answers"), (world.values, "values of the step")):
            if len({generation for generation, _ in went_on}) < len(went_on):
                return f"runs of one generation went on with different {what}"
        if world.replies.count(YES) > 1:
            return "two signals were both accepted"
        used = [answer for generation, answer in world.answers if generation == world.generation]
        if any(answer.startswith("signal") and world.replies[int(answer[-1])] == NO for answer in used):
            return "a refused signal was used"
        return ""

    def is_done(self, world):
        """Return whether the job has ended with no run left, or can no longer be claimed."""
        if world.job.fence >= MOST_CLAIMS:
            return True
        return world.job.state in ENDED and not any(world.runs) and not world.forgets
