"""What jobs break in their process is mended for those that come after them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from firelock.server.attempt import ProcessState


@pytest.fixture
def recursion():
    """The recursion limit is as it was when the test is over."""
    limit = sys.getrecursionlimit()
    yield limit
    sys.setrecursionlimit(limit)


def test_a_stream_of_the_process_stays_open():
    """A job that closes what everybody prints to harms nobody else."""
    program = """
import sys
from pathlib import Path
from firelock.server.process_state import keep_streams_open
keep_streams_open()
for stream in (sys.stdout, sys.stderr, sys.__stdout__):
    stream.close()
print("still here")
sys.stderr.write("so am I")
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ("still here\n", "so am I") == (done.stdout, done.stderr)


def test_a_copy_of_the_process_ends():
    """A task that forks and lets the copy return does not make a second server."""
    program = """
import os, sys
from firelock.server.attempt import ProcessState
surroundings = ProcessState()
os.fork()
surroundings.mend()
os.write(1, b"one")
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "one" == done.stdout


def test_a_lowered_recursion_limit_is_raised_again(recursion):
    """A job that lets nobody call deeply does so to itself alone."""
    surroundings = ProcessState()
    sys.setrecursionlimit(recursion - 100)

    surroundings.mend()

    assert recursion == sys.getrecursionlimit()


def test_a_raised_recursion_limit_is_left_alone(recursion):
    """Another job may need it at this moment."""
    surroundings = ProcessState()
    sys.setrecursionlimit(recursion + 100)

    surroundings.mend()

    assert recursion + 100 == sys.getrecursionlimit()


def test_a_process_of_its_own_goes_back_to_its_folder(monkeypatch, tmp_path):
    """Where one job runs at a time, the next one begins in the folder that the server was started in."""
    monkeypatch.chdir(tmp_path)
    surroundings = ProcessState()
    os.chdir("/")

    surroundings.restore()

    assert tmp_path == Path.cwd()


def test_a_folder_that_was_removed_is_no_obstacle(monkeypatch, tmp_path):
    """A server whose folder is gone has none to go back to."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    surroundings = ProcessState()

    assert surroundings.folder is None
    surroundings.restore()
