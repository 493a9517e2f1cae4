"""The pytest plugin in the tests of a user."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

APP = """
from firelock import Firelock

fire = Firelock("memory://")

@fire.task
def greet(name: str) -> str:
    return f"Hello {name}"
"""

TESTS = """
import pytest
from app import fire, greet

OWN = fire.storage

@pytest.fixture
def tester(firelock_tester):
    return firelock_tester(fire)

def test_drain(tester):
    job = greet.enqueue("you")
    assert tester.drain().succeeded == 1
    assert job.result() == "Hello you"

def test_each_test_begins_empty(tester):
    tester.refute_enqueued()

def test_without_it_the_app_has_its_own_storage():
    assert fire.storage is OWN

def test_failure(tester):
    greet.enqueue("me")
    tester.assert_enqueued(greet, args=("you",))
"""


def run(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_pytest_finds_the_plugin():
    """The plugin is installed with the core."""
    (entry,) = [one for one in entry_points(group="pytest11") if one.name == "firelock"]

    assert "firelock.testing.plugin" == entry.value


def test_fixture_creates_testers_that_end_with_their_test(tmp_path):
    """Jobs run, the next test starts empty, and a failed assertion points to the user's test."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "test_app.py").write_text(TESTS)

    outcome = run(tmp_path)

    assert "1 failed, 3 passed" in outcome.stdout
    assert "E       AssertionError: Expected at least 1 job, found 0:" in outcome.stdout
    assert "E         app.greet('me')  queue=default  state=enqueued" in outcome.stdout
    assert "tester.py" not in outcome.stdout


def test_unused_plugin_does_not_load_the_app(tmp_path):
    """The plugin does not load the app, the storage contract or attrs."""
    (tmp_path / "test_cheap.py").write_text(
        "import sys\n"
        "def test_cheap():\n"
        "    loaded = set(sys.modules)\n"
        "    assert 'firelock.testing.plugin' in loaded\n"
        "    assert not loaded & {'attr', 'firelock.app', 'firelock.storage', 'firelock.model.job'}\n"
    )

    outcome = run(tmp_path, "-p", "no:hypothesispytest", "-p", "no:pytest_cov")

    assert 0 == outcome.returncode, outcome.stdout
