from __future__ import annotations

from random import Random

import attrs
import pytest

from tests.conformance.explorer import Verdict

from .moves import first_world, moves
from .rules import Bounds, Rules
from .session_model import check, described
from .state import normalised
from .variants import CALM, DEEP, PROTOCOL, REFUSALS, VARIANTS

pytestmark = pytest.mark.heavy("explores the protocol to its last state")

BROKEN = [variant for variant in VARIANTS if variant.expected is not Verdict.SAFE]


def named(variant):
    return variant.name


@pytest.mark.parametrize("variant", VARIANTS, ids=named)
def test_variant_has_the_expected_verdict(variant):
    """The protocol is safe and never gets stuck; broken variants fail after the expected number of moves."""
    finding = check(variant)

    print(described(variant, finding))  # noqa: T201 - readers of the run want the counter-example
    assert (variant.expected, variant.length) == (finding.verdict, len(finding.trail))


def test_every_rule_is_necessary():
    """For each rule of the protocol, a variant that changes this rule is unsafe or gets stuck."""
    rules = {field.name for field in attrs.fields(Rules)}

    changed = {
        name for variant in BROKEN for name in rules if getattr(variant.rules, name) != getattr(Rules(), name)
    }

    assert rules == changed


def test_every_kind_of_failure_is_explored():
    """The protocol is explored with each kind of failure, and in one case with all kinds together."""
    luck = {name for name, bound in attrs.asdict(CALM).items() if bound is False}

    met = {name for variant in PROTOCOL for name in luck if getattr(variant.bounds, name)}

    assert luck == met
    assert {True} == {getattr(DEEP[0].bounds, name) for name in luck}


@pytest.mark.parametrize("shared_session", [False, True])
def test_normalized_state_has_the_same_next_states(shared_session):
    """A state of the model and its normalized form lead to the same next states."""
    rules, bounds = Rules(shared_session=shared_session), Bounds(slots=2, wire=3)
    choice = Random(7)
    world = first_world(rules)

    for _ in range(600):
        normal = normalised(world)
        assert normal == normalised(normal)
        assert _next_worlds(world, rules, bounds) == _next_worlds(normal, rules, bounds)
        world = choice.choice(list(moves(world, rules, bounds)))[2]


def _next_worlds(world, rules, bounds):
    """Return the next worlds that differ, which excludes the end of an unused session, for example."""
    return {normalised(after) for _, _, after in moves(world, rules, bounds)} - {normalised(world)}


def test_every_broken_variant_is_listed_in_refusals():
    assert [variant.name for variant in BROKEN] == list(REFUSALS)
