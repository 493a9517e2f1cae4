"""The rules of batches, explored completely: safe as designed, and unsafe if any one of them is disabled."""

from __future__ import annotations

from random import Random

import attrs
import pytest

from tests.conformance.explorer import Verdict, explore, wander

from .batch_moves import BatchModel
from .batch_rules import Rules
from .batch_variants import DEEP_SCENE, SCENES, VARIANTS
from .schedules import counter_examples

pytestmark = pytest.mark.heavy("explores batches to their last state")


@pytest.mark.parametrize("name", SCENES)
def test_batch_ends_once_when_none_of_its_members_can_continue(name):
    """In every reachable state, the batch's counts match its members, and the batch can still end."""
    finding = explore(BatchModel(SCENES[name]))

    print(name, finding)  # noqa: T201 - the number is of interest to readers of the run
    assert (Verdict.SAFE, ()) == (finding.verdict, finding.trail), str(finding)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_batch_model_fails_if_any_rule_is_disabled(variant):
    """The model becomes unsafe or gets stuck after the moves that `schedules` plays on storages."""
    finding = explore(BatchModel(SCENES[variant.scene], variant.rules, checks_counts=variant.checks_counts))

    print(variant.name, finding)  # noqa: T201 - readers want the trail
    assert (variant.verdict, counter_examples("batches")[variant.name]) == (finding.verdict, finding.trail)


def test_every_batch_rule_has_a_variant_without_it():
    """At least one variant of the model disables each rule, so no rule is untested."""
    rules = {field.name for field in attrs.fields(Rules)} - {"folders"}

    changed = {
        name
        for name in rules
        for variant in VARIANTS
        if getattr(variant.rules, name) != getattr(Rules(), name)
    }

    assert rules == changed


def test_nested_batches_end():
    """The model is checked with random walks, because it has too many states to explore all of them."""
    finding = wander(BatchModel(DEEP_SCENE), Random(1), 2_000)

    print(finding)  # noqa: T201 - the number is of interest to readers of the run
    assert finding.verdict is Verdict.SAFE, str(finding)
