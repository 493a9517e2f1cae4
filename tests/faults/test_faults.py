"""Every scenario in its short form. The long forms are run manually: see docs/faults.md."""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.scenarios import SCENARIOS, NotHere
from tests.faults.storages import is_played_on, opened
from tests.redis.programs import programs_of_groups
from tests.sql.servers.programs import Missing, chosen_mysqls, chosen_postgresqls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

# Other tests run at the same time, so a bound here detects hanging rather than a busy machine. In a manual
# run, the bounds of a scenario apply unchanged.
_SLACK = 10.0

# Scenarios for every storage run on SQLite, and also on the others if everything is tested.
_ON_EVERY_STORAGE = os.environ.get("CI") == "true" or "FIRELOCK_TEST_REDIS" in os.environ
_ON_EVERY_DATABASE = os.environ.get("FIRELOCK_TEST_SQL") == "all"
# The behaviour of servers does not depend on the storage. On Redis it is tested only if Redis is requested.
_OF_SERVERS = {
    "block-event-loop", "block-interpreter", "exceed-grace-time", "expiring-parents", "forks",
    "host-failure", "hostile-python", "ignored-stop", "kill-servers-in-turn", "kill-supervisors",
    "kill-worker-processes", "paused-servers", "repeated-stop-signals", "rolling-restart", "scheduler-down",
    "stop-then-kill", "unreadable-jobs",
}  # fmt: skip
_ON_ONE_PROGRAM = {"kill-flows"}  # only on the first program of a scheme


def _on(scheme, programs):
    """Parametrize with each scenario for the storages of a scheme, on each of its programs.

    On databases, only the scenario that shows that effects happen once runs, unless everything is tested. The
    others start and kill dozens of servers, and their bounds require a machine without other load.
    """
    scenarios = [
        one
        for one in SCENARIOS.values()
        if is_played_on(one.schemes, scheme)
        and {"sqlite": True, "redis": one.schemes or _is_for_redis(one)}.get(
            scheme, _ON_EVERY_DATABASE or one.name == "complete-within"
        )
    ]
    named = [one if hasattr(one, "marks") else pytest.param(one, id=str(one)) for one in programs]
    played = [
        pytest.param(*program.values, one, marks=program.marks, id=f"{program.id}-{one.fault}-{one.name}")
        for program in named
        for one in scenarios
        if one.name not in _ON_ONE_PROGRAM or program is named[0]
    ]
    return pytest.mark.parametrize(("program", "scenario"), played)


def _is_for_redis(scenario):
    return _ON_EVERY_STORAGE and (scenario.name not in _OF_SERVERS or "FIRELOCK_TEST_REDIS" in os.environ)


def _play(scenario, program, folder):
    if isinstance(program, Missing):
        program.skip_or_fail()
    with opened(program and str(program), folder, _SLACK) as place:
        try:
            figures = scenario.play(place, scenario.short)
        except NotHere as reason:
            pytest.skip(str(reason))

    assert figures != []


@_on("sqlite", [None])
def test_scenario_passes(scenario, program, tmp_path):
    """After a deliberate fault, nothing is lost, no other process is blocked, and the recovery is in time."""
    _play(scenario, program, tmp_path)


@_on("redis", programs_of_groups())  # the kit runs on each program, but faults take minutes
def test_scenario_passes_on_redis(scenario, program, tmp_path):
    """The scenarios run on a new Redis server. Scenarios with failures of Redis run only here."""
    _play(scenario, program, tmp_path)


@_on("postgresql", chosen_postgresqls()[:1])  # the kit runs on each program, but faults take minutes
def test_scenario_passes_on_postgresql(scenario, program, tmp_path):
    """The scenarios run on a new PostgreSQL server."""
    _play(scenario, program, tmp_path)


@_on("mysql", chosen_mysqls())
def test_scenario_passes_on_mysql(scenario, program, tmp_path):
    """The scenarios run on a new MariaDB or MySQL server."""
    _play(scenario, program, tmp_path)
