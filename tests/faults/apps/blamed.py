"""Jobs that kill the process of their server, and jobs that leave programs running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from firelock import JobContext, Retry
from tests.faults.apps.work import begin, end, fire, hold_on, ledger

_NEVER = Retry.never()


def _die_with(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)  # this process ends together with the killed one


@fire.task(name="kill-parent", retry=_NEVER, executor="process")
def kill_parent(job: JobContext, seconds: float) -> None:
    """Kill the parent of this process."""
    begin(job)
    _die_with(os.getppid())


@fire.task(name="kill-anywhere", retry=_NEVER)
def kill_anywhere(job: JobContext, seconds: float) -> None:
    """Kill the process that holds the session, whether or not the job runs in it."""
    begin(job)
    is_session_holder = b"firelock.server.worker_process" in Path("/proc/self/cmdline").read_bytes()
    _die_with(os.getpid() if is_session_holder else os.getppid())


def _start_program(job: JobContext) -> None:
    program = subprocess.Popen(["/bin/sleep", "600"])
    ledger.write("program", job=job.id, note=str(program.pid))


@fire.task(name="program-and-hold", retry=_NEVER, executor="process")
def program_and_hold(job: JobContext, seconds: float) -> None:
    """Start a program, and run until released."""
    _start_program(job)
    hold_on(job, seconds)


@fire.task(name="program-and-end", retry=_NEVER, executor="process")
def program_and_end(job: JobContext, seconds: float) -> None:
    """Start a program, and end without waiting for it."""
    begin(job)
    _start_program(job)
    end(job)
