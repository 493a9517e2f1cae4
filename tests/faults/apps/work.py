"""Ordinary jobs: they take a while, check for cancellation, and record their start and end."""

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
    """Record the start of an attempt in the ledger."""
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence)


def end(job: JobContext) -> None:
    """Record the end of an attempt in the ledger."""
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence)


def end_if_cancelled(job: JobContext) -> None:
    """If the job is cancelled, record this in the ledger and raise the error."""
    if job.cancelled:
        ledger.write("cancelled", job=job.id, fence=job.fence, note=job.cancel_reason)
        job.raise_if_cancelled()


@fire.task(name="work", retry=_SOON)
def work(job: JobContext, seconds: float) -> int:
    """Sleep for a while unless cancelled; return the fence of the claim.

    The ordinary job of every scenario.
    """
    begin(job)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        end_if_cancelled(job)
        time.sleep(min(left, 0.02))
    end(job)
    return job.fence


@fire.task(name="awork", retry=_SOON)
async def awork(job: JobContext, seconds: float) -> int:
    """Sleep for a while on the event loop."""
    begin(job)
    await asyncio.sleep(seconds)
    end(job)
    return job.fence


@fire.task(name="apart", retry=_SOON, executor="process")
def apart(job: JobContext, seconds: float) -> int:
    """Sleep for a while in a job process."""
    begin(job)
    time.sleep(seconds)
    end(job)
    return job.fence


# ---- jobs that run until the scenario releases them ------------------------------------------------------


def is_released() -> bool:
    """Return whether the scenario has released the jobs."""
    return (Path(os.environ["FAULTS_LEDGER"]) / "released").exists()


def hold(job: JobContext, seconds: float) -> int:
    """Run until released, unless cancelled."""
    begin(job)
    while not is_released():
        end_if_cancelled(job)
        time.sleep(seconds)
    end(job)
    return job.fence


fire.task(name="held", retry=_SOON)(hold)
# The server cancels such a job when it may have lost its claim.
fire.task(name="careful", retry=_SOON, on_risk="cancel")(hold)


@fire.task(name="aheld", retry=_SOON)
async def aheld(job: JobContext, seconds: float) -> int:
    """Run until released, on the event loop."""
    begin(job)
    while not is_released():
        await asyncio.sleep(seconds)
    end(job)
    return job.fence


def hold_on(job: JobContext, seconds: float) -> int:
    """Run until released, ignoring every cancellation."""
    begin(job)
    while not is_released():
        time.sleep(seconds)
    end(job)
    return job.fence


fire.task(name="pheld", retry=_SOON, executor="process")(hold_on)
fire.task(name="unstoppable", retry=_SOON)(hold_on)


# ---- other jobs --------------------------------------------------------------------------------------------


@fire.task(name="fail", retry=Retry.never())
def fail(job: JobContext, seconds: float) -> None:
    """Fail after a while."""
    begin(job)
    time.sleep(seconds)
    raise ValueError(job.id)


@fire.task(name="echo", retry=Retry.never())
def echo(job: JobContext, seconds: float) -> float:
    """Return the number immediately."""
    begin(job)
    end(job)
    return seconds
