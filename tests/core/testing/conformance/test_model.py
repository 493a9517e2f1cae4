"""The number of random runs in the kit's model test."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from firelock.testing.conformance.model import run_machine


class Counting(RuleBasedStateMachine):
    """A machine that counts its runs and operations; every operation is allowed."""

    runs = operations = 0

    @initialize()
    def begin(self):
        """Count another run."""
        type(self).runs += 1

    @rule()
    def go_on(self):
        """Count another operation."""
        type(self).operations += 1


@pytest.fixture
def counting():
    """Yield the machine before its first run, and restore the profile afterwards."""
    before = settings.get_current_profile_name()
    Counting.runs = Counting.operations = 0
    yield Counting
    settings.load_profile(before)


def test_number_of_runs_is_the_requested_number(counting):
    """If a profile only determines how examples are generated, it does not affect their number."""
    run_machine(counting, runs=6)

    assert 12 <= counting.runs <= 20  # each of the two stages also runs the simplest example


def test_profile_can_set_the_number_of_runs(counting):
    """A user may want many more runs overnight."""
    settings.register_profile(
        "night", max_examples=30, stateful_step_count=12, derandomize=True, database=None
    )
    settings.load_profile("night")

    run_machine(counting, runs=2)

    assert 30 <= counting.runs <= 35
