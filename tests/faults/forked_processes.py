"""Processes started by fork, for programs with hundreds of them, because starting Python takes longer."""

from __future__ import annotations

import os
import sys
import traceback


def start_fork(work):
    """Return the id of a process that does the work and exits with 0, or with 1 if it raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the error is printed and ends this process
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_of(pid):
    """Return the exit code of the process, or the negative signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_fork(work):
    """Return the exit code of a process that did the work."""
    return end_of(start_fork(work))
