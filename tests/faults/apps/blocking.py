"""Jobs that block the interpreter or the event loop."""

from __future__ import annotations

import ctypes
import re
import time

from firelock import JobContext
from tests.faults.apps.work import begin, end, fire


@fire.task(name="hold-in-c")
def hold_in_c(job: JobContext, seconds: float) -> int:
    """Sleep in C without releasing the interpreter, so nothing else in this process runs."""
    begin(job)
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    end(job)
    return job.fence


@fire.task(name="hold-in-regex")
def hold_in_regex(job: JobContext, seconds: float) -> int:
    """Match an expression with catastrophic backtracking against ever longer strings until it takes long."""
    begin(job)
    length, took = 20, 0.0
    while took < seconds:
        began = time.monotonic()
        assert re.fullmatch("(a|aa)+b", "a" * length) is None
        took = time.monotonic() - began
        length += 1 if took > seconds / 4 else 2
    end(job)
    return job.fence


@fire.task(name="block-event-loop")
async def block_the_loop(job: JobContext, seconds: float) -> int:
    """Sleep on the event loop like a thread, so no other coroutine runs."""
    begin(job)
    time.sleep(seconds)  # the deliberate fault
    end(job)
    return job.fence
