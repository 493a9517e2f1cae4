"""Changes that jobs make to their process are undone for later jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from firelock.server.run import ProcessState


@pytest.fixture
def recursion():
    """The current recursion limit, which is restored after the test."""
    limit = sys.getrecursionlimit()
    yield limit
    sys.setrecursionlimit(limit)


def test_standard_stream_stays_open_if_a_job_closes_it():
    """A job that closes a standard stream does not affect other jobs."""
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


def test_forked_copy_of_the_process_ends():
    """If a task forks and returns in the copy as well, the copy does not become a second server."""
    program = """
import os, sys
from firelock.server.run import ProcessState
surroundings = ProcessState()
os.fork()
surroundings.repair()
os.write(1, b"one")
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "one" == done.stdout


def test_lowered_recursion_limit_is_restored(recursion):
    """A job that lowers the limit must not restrict other jobs."""
    surroundings = ProcessState()
    sys.setrecursionlimit(recursion - 100)

    surroundings.repair()

    assert recursion == sys.getrecursionlimit()


def test_raised_recursion_limit_is_kept(recursion):
    """Another job may need the higher limit at this moment."""
    surroundings = ProcessState()
    sys.setrecursionlimit(recursion + 100)

    surroundings.repair()

    assert recursion + 100 == sys.getrecursionlimit()


def test_job_process_returns_to_its_working_folder(monkeypatch, tmp_path):
    """If a process runs one job at a time, each job begins in the folder in which the server was started."""
    monkeypatch.chdir(tmp_path)
    surroundings = ProcessState()
    os.chdir("/")

    surroundings.restore()

    assert tmp_path == Path.cwd()


def test_removed_working_folder_does_not_cause_an_error(monkeypatch, tmp_path):
    """A server whose folder was deleted has no folder to return to."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    surroundings = ProcessState()

    assert surroundings.folder is None
    surroundings.restore()


LIVES = (
    "import sys; from firelock.server.process_state import die_with_parent; "
    "die_with_parent(int(sys.argv[1])); "
)
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
sys.stdin.read()
"""


def test_process_continues_while_its_parent_is_alive():
    """`die_with_parent` has no effect while the parent is alive."""
    program = LIVES + "print('on')"

    done = subprocess.run(
        [sys.executable, "-c", program, str(os.getpid())], capture_output=True, text=True, check=False
    )

    assert (0, "on\n") == (done.returncode, done.stdout)


def test_process_ends_if_its_parent_has_already_died():
    """The process that started this one has died in the meantime, so this process now has another parent."""
    program = LIVES + "print('on')"

    done = subprocess.run(
        [sys.executable, "-c", program, str(os.getppid())], capture_output=True, text=True, check=False
    )

    assert (1, "") == (done.returncode, done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of a pipe has to do")
def test_process_dies_with_its_parent():
    """The kernel ends the process, however busy it is and whatever killed the parent."""
    busy = LIVES + "print('busy', flush=True)\nwhile True: pass"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout.readline() == "busy\n"

        parent.kill()

        # reading ends when no process, not even the worker process, still has the pipe open
        rest, _ = parent.communicate(timeout=10)
        assert (-signal.SIGKILL, "") == (parent.returncode, rest)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
