"""Every scenario in its short form; the long ones are played by hand: see docs/faults.md."""

from __future__ import annotations

import sys

import pytest

from tests.faults.scenarios import SCENARIOS
from tests.faults.servers import Place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


@pytest.mark.parametrize(
    "scenario", SCENARIOS.values(), ids=lambda scenario: f"{scenario.fault}-{scenario.name}"
)
def test_a_fault_does_no_harm(scenario, tmp_path):
    """What a scenario breaks on purpose loses nothing, blocks nobody and is recovered from in time."""
    place = Place(tmp_path, f"sqlite:///{tmp_path}/jobs.db")

    figures = scenario.play(place, scenario.short)

    assert figures != []
