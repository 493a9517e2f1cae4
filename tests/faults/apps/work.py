"""Ordinary jobs: they take a while, look whether they are cancelled, and write when they start and end."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from firelock import Firelock, JobContext, Retry
from tests.faults.ledger import Ledger

fire = Firelock()  # FIRELOCK_STORAGE and the FIRELOCK_… timings
ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))

_SOON = Retry.fixed(0.05, attempts=3, jitter=0)


def begin(job: JobContext) -> None:
    """The start of an attempt is in the ledger."""
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence)


def end(job: JobContext) -> None:
    """The end of an attempt is in the ledger."""
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence)


@fire.task(name="work", retry=_SOON)
def work(job: JobContext, seconds: float) -> int:
    """Sleep a while, unless cancelled; the ordinary job of every scenario. Returns the claim's fence."""
    begin(job)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if job.cancelled:
            ledger.write("cancelled", job=job.id, fence=job.fence, note=job.cancel_reason)
            job.raise_if_cancelled()
        time.sleep(min(left, 0.02))
    end(job)
    return job.fence


@fire.task(name="stubborn", retry=_SOON)
def stubborn(job: JobContext, seconds: float) -> int:
    """Sleep a while, deaf to every cancellation."""
    begin(job)
    time.sleep(seconds)
    end(job)
    return job.fence


@fire.task(name="awork", retry=_SOON)
async def awork(job: JobContext, seconds: float) -> int:
    """Sleep a while on the event loop."""
    begin(job)
    await asyncio.sleep(seconds)
    end(job)
    return job.fence


@fire.task(name="apart", retry=_SOON, executor="process")
def apart(job: JobContext, seconds: float) -> int:
    """Sleep a while in a process of its own."""
    begin(job)
    time.sleep(seconds)
    end(job)
    return job.fence
