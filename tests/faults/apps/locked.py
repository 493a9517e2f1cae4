"""Jobs with limits, members of batches, jobs with steps, and jobs that are removed after they have ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

from firelock import Firelock, JobContext, Limit, Retry
from tests.faults.ledger import Ledger

fire = Firelock()  # FIRELOCK_STORAGE and the FIRELOCK_… timings
ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))

_SOON = Retry.fixed(0.05, attempts=3, jitter=0)
_TENANT = Limit("tenant:{tenant}", concurrent=2)


def _run(job: JobContext, seconds: float, note: str = "") -> None:
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence, note=note)
    time.sleep(seconds)
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence, note=note)


@fire.task(name="limited", limits=[_TENANT], retry=_SOON)
def limited(job: JobContext, tenant: int, seconds: float) -> None:
    """Hold a tenant's key for a while."""
    _run(job, seconds, f"tenant:{tenant}")


@fire.task(name="member", retry=_SOON)
def member(job: JobContext, seconds: float) -> None:
    """Run as a member of a batch, or after one."""
    job.log("at work")
    _run(job, seconds)


@fire.task(name="stepped", retry=_SOON)
def stepped(job: JobContext, seconds: float) -> None:
    """Store two steps."""
    for name in ("one", "two"):
        job.step(name, time.sleep, seconds)
    _run(job, seconds)


@fire.task(name="filler", keep=1)
def filler() -> None:
    """Do nothing; the job is removed a second after it has ended."""
