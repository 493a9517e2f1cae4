"""`firelock demo`: it shows every kind of job, and leaves nothing behind unless it is asked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from firelock.plugins import open_storage
from firelock.storage import JobFilter

DEMO = [sys.executable, "-m", "firelock", "demo", "--seconds", "3"]
DEADLINE = 90.0


@pytest.fixture
def folder():
    """A folder for the demo's files, its path short enough for the sockets beside a database."""
    with tempfile.TemporaryDirectory(prefix="fl-") as folder:
        yield Path(folder)


@pytest.fixture
def environment(folder):
    """The demo makes its files below a folder that the test can look into."""
    return {**os.environ, "TMPDIR": str(folder)}


@pytest.fixture
def interruptible():
    """Programs started now heed SIGINT, also where the tests were told to ignore it, as by a shell's `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def demonstrate(environment, *words):
    return subprocess.run(
        [*DEMO, *words], env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_the_demo_shows_all_kinds_of_jobs(environment, folder):
    """Fire-and-forget, delayed, recurring, continuation; one recovers, one fails; then the file is gone."""
    ran = demonstrate(environment)

    assert (ran.returncode, ran.stderr) == (0, "")
    rows = {line.partition("  ")[0]: line.split()[-1] for line in ran.stdout.splitlines() if line}
    for kind in ("fire-and-forget", "bulk, one round trip", "delayed", "continuation of it", "recurring"):
        assert rows[kind] == "succeeded"
    assert rows["fails, then recovers"] == "succeeded"
    assert rows["fails for good"] == "failed"
    assert "retry 2 of 3: CardDeclined" in ran.stdout
    assert "report sent to owner@shop.example" in ran.stdout
    assert "firelock jobs requeue " in ran.stdout
    assert list(folder.iterdir()) == []


def test_a_kept_demo_can_be_looked_at(environment, folder):
    """--keep leaves the file with what --json told about it; no server is left alive."""
    ran = demonstrate(environment, "--keep", "--json")

    answer = json.loads(ran.stdout)
    storage = open_storage(f"sqlite:///{answer['file']}")
    stored = storage.find(JobFilter(), limit=500).jobs
    alive = [record for record in storage.list_sessions() if record.is_alive]
    definitions = storage.list_recurring()
    storage.close()
    assert {job["id"]: job["state"] for job in answer["jobs"]} == {job.id: str(job.state) for job in stored}
    assert Counter(job.state for job in stored)["failed"] == 1
    assert (alive, definitions) == ([], [])
    assert Path(answer["file"]).is_relative_to(folder)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_cleans_up(environment, folder, number, code):
    """Ctrl-C and SIGTERM stop the server and remove the file."""
    demo = subprocess.Popen(
        [*DEMO[:-1], "60"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in demo.stdout:
        if "succeeded" in line:
            break

    demo.send_signal(number)
    _, error = demo.communicate(timeout=DEADLINE)

    assert (demo.returncode, error) == (code, "")
    assert list(folder.iterdir()) == []


def test_without_its_storage_the_demo_says_what_to_install(environment):
    """One sentence names the extra."""
    ran = demonstrate({**environment, "FIRELOCK_PLUGINS": "-sql"})

    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == (
        "firelock: The demo keeps its jobs in an SQLite file; "
        'pip install "firelock[sql]" brings that storage.\n'
    )
