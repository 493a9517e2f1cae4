"""Across modules: if a rule of locked rows is broken, the test that is named for the rule fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.mutants import mutations
from tests.mutating import VARIABLE
from tests.repository.sources import ROOT

pytestmark = pytest.mark.heavy("each of some faults runs a test on a server of its own")

FAULTS = mutations(Path(__file__).with_name("locked_mutations.txt"))
PLACES = {
    "postgresql": "tests/conformance/test_postgresql.py::TestPostgresql",
    "mariadb": "tests/conformance/test_mariadb.py::TestMariadb",
    "costs": "tests/sql/test_locked_rows.py",
    "children": "tests/sql/verbs/test_children.py",
    "memos": "tests/sql/verbs/test_memos.py",
    "suspensions": "tests/sql/verbs/test_suspensions.py",
}


def run(*tests, fault=None):
    """Run these tests in a separate process, with the fault."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    if fault is not None:
        environment[VARIABLE] = json.dumps([[f"firelock_sql.{fault.module}", fault.old, fault.new]])
    options = ("-q", "-x", "-p", "tests.mutating", "-p", "no:cacheprovider")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def place_of(fault):
    """Return the test that must fail with the fault, in pytest's notation."""
    where, test = fault.detected_by.split(" ")
    return f"{PLACES[where]}::{test}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_every_mutation_is_detected(fault):
    """The test that is named for the mutation fails, and it fails because of the mutation."""
    ended = run(place_of(fault), fault=fault)

    assert 1 == ended.returncode, ended.stdout[-4_000:]
    assert f"::{fault.detected_by.split(' ')[1]}" in ended.stdout.partition("short test summary info")[2]
    assert "times in the source" not in ended.stdout


def test_unchanged_storages_pass_all_tests():
    """Without a fault, all of these tests pass, so only the fault can cause the failures above."""
    ended = run(*dict.fromkeys(map(place_of, FAULTS)))

    assert 0 == ended.returncode, ended.stdout[-4_000:]
