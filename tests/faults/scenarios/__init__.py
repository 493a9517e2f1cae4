"""The scenarios by name, one module a family."""

from __future__ import annotations

from tests.faults.scenarios import (
    corrupt,
    crash_points,
    forked,
    holding,
    hostile,
    kills,
    locks,
    poison,
    racing,
    recurring,
    sqlite,
    stops,
)
from tests.faults.scenarios.base import SCENARIOS, Scenario, Size

__all__ = ["SCENARIOS", "Scenario", "Size"]

_FAMILIES = (
    corrupt,
    crash_points,
    forked,
    holding,
    hostile,
    kills,
    locks,
    poison,
    racing,
    recurring,
    sqlite,
    stops,
)  # each registers its own
