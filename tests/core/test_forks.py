"""Across modules: a forked process starts its own threads and shares no locks with its parent."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, os, sys, threading
from firelock import Firelock

fire = Firelock("memory://forks")

@fire.task(name="add")
def add(a: int, b: int) -> int: return a + b

def use(fire):
    job = asyncio.run(one(fire))
    with fire.lock("once", timeout=60, ttl=3600) as lock:
        with fire.server(workers=1, async_workers=1):
            renews = "firelock-locks" in [thread.name for thread in threading.enumerate()]
            return job.result(timeout=60), lock.lost, renews

async def one(fire):
    return await add.aenqueue(20, 22)

with fire.lock("the parent's", ttl=3600):
    print(use(fire), flush=True)
    child = os.fork()
    if child == 0:
        print(use(fire), flush=True)
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), len(fire.jobs.find()), flush=True)
"""


def test_forked_process_works_independently_of_its_parent():
    """Awaiting, locks, servers and results work after a fork.

    Storage in memory is a copy that belongs to the child. The test holds the lock for an hour, so that it
    does not expire on a busy machine. The name of the renewing thread shows that it belongs to the child.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=180, check=False
    )

    assert ["(42, False, True)", "(42, False, True)", "0 1"] == done.stdout.splitlines(), done.stderr


WHILE_SHOWING = """
import os, signal, sys
from firelock import Firelock
from firelock.jobs import job as handle

fire = Firelock("memory://forks")
job = fire.task(name="noop")(lambda: None).enqueue()

with handle._showing:
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        print(job.refresh().state, flush=True)
        os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_fork_during_a_handle_update_leaves_handles_unlocked():
    """The updating thread does not exist in the child, so it cannot release the lock there."""
    done = subprocess.run(
        [sys.executable, "-c", WHILE_SHOWING], capture_output=True, text=True, timeout=60, check=False
    )

    assert ["enqueued", "0"] == done.stdout.splitlines(), done.stderr
