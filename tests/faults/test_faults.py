"""Every scenario in its short form; the long ones are played by hand: see docs/faults.md."""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.scenarios import SCENARIOS, NotHere
from tests.faults.storages import is_played_on, opened
from tests.redis.programs import chosen_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

# Other tests run beside these; by hand a scenario is held to its bounds as they are.
_SLACK = 2.0

# What every storage has to stand is played on SQLite; on Redis as well where all is to be tested.
_ON_EVERY_STORAGE = os.environ.get("CI") == "true" or "FIRELOCK_TEST_REDIS" in os.environ


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS.values() if is_played_on(scenario.schemes, "sqlite")],
    ids=lambda scenario: f"{scenario.fault}-{scenario.name}",
)
def test_a_fault_does_no_harm(scenario, tmp_path):
    """What a scenario breaks on purpose loses nothing, blocks nobody and is recovered from in time."""
    with opened(None, tmp_path, _SLACK) as place:
        figures = scenario.play(place, scenario.short)

    assert figures != []


@pytest.mark.parametrize(
    "scenario",
    [
        scenario
        for scenario in SCENARIOS.values()
        if is_played_on(scenario.schemes, "redis") and (scenario.schemes or _ON_EVERY_STORAGE)
    ],
    ids=lambda scenario: f"{scenario.fault}-{scenario.name}",
)
@pytest.mark.parametrize("program", chosen_programs())
def test_a_fault_does_no_harm_on_redis(scenario, program, tmp_path):
    """As above, on a Redis of the test's own; what befalls a Redis is tried on nothing else."""
    with opened(str(program), tmp_path, _SLACK) as place:
        try:
            figures = scenario.play(place, scenario.short)
        except NotHere as reason:
            pytest.skip(str(reason))

    assert figures != []
