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
    """The protocol is safe and can always end; each variant fails after its expected number of moves."""
    finding = check(variant)

    print(described(variant, finding))  # noqa: T201 - readers of the run want the counter-example
    assert (variant.expected, variant.length) == (finding.verdict, len(finding.trail))


def test_every_rule_is_necessary():
    """No rule of the protocol is untested: a variant that changes it is unsafe or gets stuck."""
    rules = {field.name for field in attrs.fields(Rules)}

    changed = {
        name for variant in BROKEN for name in rules if getattr(variant.rules, name) != getattr(Rules(), name)
    }

    assert rules == changed


def test_every_kind_of_failure_occurs_in_a_world():
    """Each kind of failure occurs in one of the protocol's own worlds. All kinds occur in the deep world."""
    luck = {name for name, bound in attrs.asdict(CALM).items() if bound is False}

    met = {name for variant in PROTOCOL for name in luck if getattr(variant.bounds, name)}

    assert luck == met
    assert {True} == {getattr(DEEP[0].bounds, name) for name in luck}


@pytest.mark.parametrize("shared_session", [False, True])
def test_normal_form_of_a_world_has_the_same_steps(shared_session):
    """From a world and from its normal form, the same moves lead to the same worlds."""
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


def test_every_broken_variant_has_a_refusal():
    assert [variant.name for variant in BROKEN] == list(REFUSALS)
