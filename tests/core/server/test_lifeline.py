"""A process that runs jobs ends with the one that keeps its session alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

LIVES = (
    "import sys; from firelock.server.process_state import die_with_parent; "
    "die_with_parent(int(sys.argv[1])); "
)
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
sys.stdin.read()
"""


def test_a_process_whose_parent_lives_goes_on():
    """Being tied to somebody changes nothing as long as he is there."""
    program = LIVES + "print('on')"

    done = subprocess.run(
        [sys.executable, "-c", program, str(os.getpid())], capture_output=True, text=True, check=False
    )

    assert (0, "on\n") == (done.returncode, done.stdout)


def test_a_process_whose_parent_is_gone_already_ends():
    """It was started by a process that died meanwhile: it belongs to somebody else now."""
    program = LIVES + "print('on')"

    done = subprocess.run(
        [sys.executable, "-c", program, str(os.getppid())], capture_output=True, text=True, check=False
    )

    assert (1, "") == (done.returncode, done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the end of a pipe has to do")
def test_a_process_dies_with_its_parent():
    """The kernel sees to it, however busy the process is and whatever killed the parent."""
    busy = LIVES + "print('busy', flush=True)\nwhile True: pass"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert parent.stdout.readline() == "busy\n"

        parent.kill()

        rest, _ = parent.communicate(timeout=10)  # ends when nobody has the pipe any more, nor the child
        assert (-signal.SIGKILL, "") == (parent.returncode, rest)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
