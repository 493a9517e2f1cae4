"""The rules of steps, signals and called jobs, explored completely, then again with each of them disabled."""

from __future__ import annotations

import attrs
import pytest

from tests.conformance.explorer import Verdict, explore

from . import call_moves, step_moves
from .call_moves import CallModel
from .schedules import counter_examples
from .step_moves import StepModel

pytestmark = pytest.mark.heavy("explores steps to their last state")

CALM = step_moves.Budget(kill=1, lose=1, again=0, delete=0)
STEPS, CALLS = step_moves.Rules, call_moves.Rules
WITHOUT = {  # by the disabled rule: the rules, and the expected verdict
    "a suspension that does not look": (STEPS(suspension_checks=False, has_time_out=False), Verdict.STUCK),
    "a sender in two moves": (STEPS(sender_is_one_move=False, has_time_out=False), Verdict.STUCK),
    "mail that is kept for who waits alone": (STEPS(mail_is_kept=False), Verdict.UNSAFE),
    "a time-out that nobody keeps": (STEPS(time_out_is_kept=False), Verdict.UNSAFE),
    "who is woken late takes it for the time-out": (STEPS(woken_reads=False), Verdict.UNSAFE),
    "the last signal stands": (STEPS(first_stands=False), Verdict.UNSAFE),
    "a suspension without the fence": (STEPS(suspension_is_fenced=False), Verdict.UNSAFE),
    "a memo without the fence": (STEPS(memo_is_fenced=False), Verdict.UNSAFE),
    "a memo without the fence, the last stands": (
        STEPS(memo_is_fenced=False, memo_is_once=False),
        Verdict.UNSAFE,
    ),
    "an old run recalls": (STEPS(recall_is_fenced=False), Verdict.UNSAFE),
    "forgetting behind the requeue": (STEPS(requeue_forgets=False), Verdict.UNSAFE),
    "the child before its name": (CALLS(name_comes_first=False), Verdict.UNSAFE),
    "a suspension that does not look at the child": (CALLS(suspension_checks=False), Verdict.STUCK),
    "any later run calls anew": (CALLS(later_attempts_call_again=False), Verdict.UNSAFE),
    "a suspension counts as an attempt": (CALLS(attempt_is_given_back=False), Verdict.UNSAFE),
    "a child pruned unread": (CALLS(result_is_kept=False), Verdict.UNSAFE),
}


def model_of(rules, budget=step_moves.Budget()):  # noqa: B008 - frozen
    """Return the model for these rules."""
    return CallModel(rules) if isinstance(rules, CALLS) else StepModel(rules, budget)


@pytest.mark.parametrize(
    "model",
    [
        StepModel(budget=step_moves.Budget(again=0)),
        StepModel(budget=step_moves.Budget(kill=0)),
        StepModel(STEPS(has_time_out=False), step_moves.Budget(lose=0)),
        CallModel(),
    ],
    ids=["steps, kills and losses", "steps, again from here", "steps without a time-out", "calls"],
)
def test_runs_agree_and_every_wait_continues(model):
    """All runs of a job get the same value for a memo, every accepted signal is used, and every wait ends."""
    finding = explore(model)

    print(finding)  # noqa: T201 - the number is of interest to readers of the run
    assert (Verdict.SAFE, ()) == (finding.verdict, finding.trail), str(finding)


@pytest.mark.parametrize("name", WITHOUT)
def test_step_model_fails_if_any_rule_is_disabled(name):
    """The model becomes unsafe, or a job waits forever, after the moves that `schedules` plays."""
    rules, verdict = WITHOUT[name]
    budget = CALM if verdict is Verdict.STUCK else step_moves.Budget()

    finding = explore(model_of(rules, budget))

    print(name, finding)  # noqa: T201 - readers want the trail
    trail = counter_examples("calls" if isinstance(rules, CALLS) else "steps")[name]
    assert (verdict, trail) == (finding.verdict, finding.trail)


@pytest.mark.parametrize("kind", [STEPS, CALLS])
def test_every_step_rule_has_a_variant_without_it(kind):
    """At least one variant of the models disables each rule, so no rule is untested."""
    changed = {
        field.name
        for field in attrs.fields(kind)
        for rules, _ in WITHOUT.values()
        if isinstance(rules, kind) and getattr(rules, field.name) != getattr(kind(), field.name)
    }

    assert {field.name for field in attrs.fields(kind)} == changed
