"""The app that servers under test run. Storage, timings and ledger come from the environment."""

from __future__ import annotations

import os
import time
from pathlib import Path

from firelock import Firelock, JobContext, Retry
from tests.faults.ledger import Ledger

fire = Firelock()  # FIRELOCK_STORAGE and the FIRELOCK_… timings
ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))

_SOON = Retry.fixed(0.05, attempts=3, jitter=0)


@fire.task(retry=_SOON)
def work(job: JobContext, number: int, seconds: float) -> int:
    """Sleep a while; the ordinary job of every scenario."""
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if job.cancelled:
            ledger.write("cancelled", job=job.id, fence=job.fence, note=job.cancel_reason)
            job.raise_if_cancelled()
        time.sleep(min(left, 0.02))
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence)
    return number


@fire.task(retry=_SOON)
async def awork(job: JobContext, number: int, seconds: float) -> int:
    """Sleep a while on the event loop."""
    import asyncio

    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence)
    await asyncio.sleep(seconds)
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence)
    return number
