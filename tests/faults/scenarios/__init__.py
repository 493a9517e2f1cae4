"""The scenarios by name, one module a family."""

from __future__ import annotations

from tests.faults.scenarios import (
    cancelling,
    clocks,
    contention,
    corrupt,
    crash_points,
    databases,
    disks,
    effects,
    failover,
    forked,
    holding,
    hostile,
    kills,
    locks,
    network,
    outages,
    poison,
    racing,
    recurring,
    resets,
    sqlite,
    stops,
)
from tests.faults.scenarios.base import SCENARIOS, NotHere, Scenario, Size

__all__ = ["SCENARIOS", "NotHere", "Scenario", "Size"]

_FAMILIES = (
    cancelling,
    clocks,
    contention,
    corrupt,
    crash_points,
    databases,
    disks,
    effects,
    failover,
    forked,
    holding,
    hostile,
    kills,
    locks,
    network,
    outages,
    poison,
    racing,
    recurring,
    resets,
    sqlite,
    stops,
)  # each registers its own
