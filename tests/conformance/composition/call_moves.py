"""A job that calls another one and waits for it: `job.run("c", child)`.

First the child's id and the attempt that calls it are stored in a memo. Then the child is stored with this
id, the caller waits for it with an edge, and finally its result is stored. A failed child is reported to the
attempt that called it, and a later attempt calls a new one. After a crash or a suspension, the next run
belongs to the same attempt.
"""

from __future__ import annotations

from typing import NamedTuple

import attrs

ENQUEUED, PROCESSING, AWAITING, SUCCEEDED, FAILED = "E", "P", "W", "S", "F"
NAMED, PRUNED = "-", "x"  # a child whose id is stored although the child is not, and a child that was pruned
MOST_CLAIMS, MOST_CHILDREN = 7, 4


class Budget(NamedTuple):
    """The number of times that each failure and each human action may occur."""

    kill: int = 2
    lose: int = 1
    fail: int = 1
    requeue: int = 1


class Run(NamedTuple):
    """The run of a worker."""

    fence: int
    attempt: int
    at: str = "look"
    child: int | None = None


class World(NamedTuple):
    """The whole state at one time; children are numbered in the order of their names."""

    state: str
    fence: int
    attempt: int
    awaited: int | None
    memo: tuple[str, int, int] | None  # "begun" or "done", the child, and the calling attempt
    children: tuple[str, ...]
    called_for: tuple[int, ...]
    runs: tuple[Run | None, ...]
    went_on_with: frozenset[int]
    budget: Budget
    releasing: frozenset[int]  # children that have ended, but whose caller has not been released
    raised: int  # failures that were reported to a run
    broken: str = ""


@attrs.frozen
class Rules:
    """The rules that hold; each variant disables one of them."""

    name_comes_first: bool = True
    suspension_checks: bool = True  # checks in its own move whether the child has ended
    later_attempts_call_again: bool = True  # only later attempts call another child
    result_is_kept: bool = True  # a child whose result its caller has not read is not pruned
    attempt_is_given_back: bool = True


class CallModel:
    """The call with one set of rules."""

    def __init__(self, rules=Rules()):
        self.rules = rules
        nobody = (None, None)
        self.first = World(ENQUEUED, 0, 0, None, None, (), (), nobody, frozenset(), Budget(), frozenset(), 0)

    @staticmethod
    def _with_run(world, worker, run):
        runs = list(world.runs)
        runs[worker] = run
        return world._replace(runs=tuple(runs))

    @staticmethod
    def _with_child(world, child, state):
        children = list(world.children)
        children[child] = state
        return world._replace(children=tuple(children))

    @staticmethod
    def _spent(world, what):
        return world._replace(budget=world.budget._replace(**{what: getattr(world.budget, what) - 1}))

    def moves(self, world):
        """Yield every move: its name, whether it is a regular move, and the world after it."""
        yield from self._children(world)
        if world.state == FAILED and world.budget.requeue:
            yield "requeue", False, self._spent(world._replace(state=ENQUEUED), "requeue")
        for worker, run in enumerate(world.runs):
            if run is not None:
                yield from self._goes_wrong(world, worker, run)
                yield from self._works(world, worker, run)
            elif world.state == ENQUEUED and world.fence < MOST_CLAIMS:
                fresh = Run(world.fence + 1, world.attempt + 1)
                claimed = world._replace(state=PROCESSING, fence=fresh.fence, attempt=fresh.attempt)
                yield f"claim {worker}", True, self._with_run(claimed, worker, fresh)

    def _children(self, world):
        for child, state in enumerate(world.children):
            if state == ENQUEUED:
                released = world._replace(releasing=world.releasing | {child})
                yield f"child {child} succeeds", True, self._with_child(released, child, SUCCEEDED)
                if world.budget.fail:
                    failed = self._spent(self._with_child(released, child, FAILED), "fail")
                    yield f"child {child} fails", False, failed
            may_go = world.state in (SUCCEEDED, FAILED) or not self.rules.result_is_kept
            if state == SUCCEEDED and may_go and child not in world.releasing:
                yield f"prune {child}", False, self._with_child(world, child, PRUNED)
        for child in world.releasing:
            released = world._replace(releasing=world.releasing - {child})
            if world.state == AWAITING and world.awaited == child:
                released = released._replace(state=ENQUEUED, awaited=None)
            yield f"release {child}", True, released

    def _goes_wrong(self, world, worker, run):
        back = world
        is_mine = world.state == PROCESSING and world.fence == run.fence
        if is_mine:
            back = world._replace(state=ENQUEUED, attempt=self._given_back(run))
        if world.budget.kill:
            yield f"kill {worker}", False, self._spent(self._with_run(back, worker, None), "kill")
        if world.budget.lose and is_mine:
            yield f"lose {worker}", False, self._spent(back, "lose")

    def _given_back(self, run):
        return run.attempt - 1 if self.rules.attempt_is_given_back else run.attempt

    def _works(self, world, worker, run):
        is_mine = world.state == PROCESSING and world.fence == run.fence
        without_run = self._with_run(world, worker, None)
        match run.at:
            case "look":
                yield from self._looks(world, worker, run, is_mine=is_mine)
            case "name":  # in a variant, the child was stored before
                named = self._with_run(world, worker, run._replace(at="make"))
                memo = ("begun", run.child, run.attempt)
                yield f"name {worker}", True, named._replace(memo=memo) if is_mine else without_run
            case "make":  # the child has a known id, so a repeated insert by any run is harmless
                made = self._with_run(world, worker, run._replace(at="read"))
                is_there = world.children[run.child] != NAMED
                yield (
                    f"make {worker}",
                    True,
                    made if is_there else self._with_child(made, run.child, ENQUEUED),
                )
            case "read":
                yield self._reads(world, worker, run, is_mine=is_mine)
            case "suspend" if not is_mine:
                yield f"suspend {worker} refused", True, without_run
            case "suspend":
                back = without_run._replace(attempt=self._given_back(run))
                is_over = world.children[run.child] in (SUCCEEDED, FAILED, PRUNED)
                if self.rules.suspension_checks and is_over:
                    yield f"suspend {worker}, it is over", True, back._replace(state=ENQUEUED)
                else:
                    yield f"suspend {worker}", True, back._replace(state=AWAITING, awaited=run.child)
            case _:
                ended = without_run._replace(state=SUCCEEDED) if is_mine else without_run
                went_on = world.went_on_with | {run.child}
                yield f"end {worker}", True, ended._replace(went_on_with=went_on)

    def _looks(self, world, worker, run, *, is_mine):
        if world.memo is not None and world.memo[0] == "done":
            yield (
                f"{worker} has it",
                True,
                self._with_run(world, worker, run._replace(at="end", child=world.memo[1])),
            )
            return
        if not is_mine:
            yield f"{worker} lost", True, self._with_run(world, worker, None)
            return
        if world.memo is not None and not self._must_call_again(world, run):
            knows = run._replace(at="make", child=world.memo[1])
            yield f"{worker} knows it", True, self._with_run(world, worker, knows)
            return
        child = len(world.children)
        if child >= MOST_CHILDREN:
            return
        called = world._replace(called_for=(*world.called_for, run.attempt))
        if self.rules.name_comes_first:
            named = called._replace(memo=("begun", child, run.attempt), children=(*world.children, NAMED))
            yield f"name {worker}", True, self._with_run(named, worker, run._replace(at="make", child=child))
        else:
            made = called._replace(children=(*world.children, ENQUEUED))
            yield (
                f"make {worker} first",
                True,
                self._with_run(made, worker, run._replace(at="name", child=child)),
            )

    def _must_call_again(self, world, run):
        _, child, attempt = world.memo
        is_later = attempt < run.attempt or not self.rules.later_attempts_call_again
        return world.children[child] == FAILED and is_later

    def _reads(self, world, worker, run, *, is_mine):
        without_run = self._with_run(world, worker, None)
        match world.children[run.child]:
            case "S" if is_mine:
                kept = self._with_run(world, worker, run._replace(at="end"))
                return f"keep {worker}", True, kept._replace(memo=("done", run.child, run.attempt))
            case "S":
                return f"{worker} lost", True, without_run
            case "x":
                lost = "the result was pruned before its caller had it"
                return (
                    f"{worker} finds nothing",
                    True,
                    world._replace(broken=lost) if is_mine else without_run,
                )
            case "F":
                failed = without_run._replace(state=FAILED, raised=world.raised + 1)
                return f"{worker} gets the failure", True, failed if is_mine else without_run
            case _:
                return f"{worker} waits", True, self._with_run(world, worker, run._replace(at="suspend"))

    def broken(self, world):
        """Return a description of the condition that is broken in this world, or an empty string."""
        if world.broken:
            return world.broken
        if len(world.went_on_with) > 1:
            return "two runs went on with results of different children"
        made = [
            attempt for attempt, state in zip(world.called_for, world.children, strict=True) if state != NAMED
        ]
        if len(set(made)) < len(made):
            return "two children were made for one attempt"
        if len(made) > world.raised + 1:
            return "a child was called again although its failure was never reported"
        return ""

    def is_done(self, world):
        """Return whether the caller has ended with no run left, or can no longer be claimed."""
        if world.fence >= MOST_CLAIMS or len(world.children) >= MOST_CHILDREN:
            return True
        return world.state in (SUCCEEDED, FAILED) and not any(world.runs)
