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


def end_if_cancelled(job: JobContext) -> None:
    """The job goes on unless it is cancelled, which is in the ledger then."""
    if job.cancelled:
        ledger.write("cancelled", job=job.id, fence=job.fence, note=job.cancel_reason)
        job.raise_if_cancelled()


@fire.task(name="work", retry=_SOON)
def work(job: JobContext, seconds: float) -> int:
    """Sleep a while, unless cancelled; the ordinary job of every scenario. Returns the claim's fence."""
    begin(job)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        end_if_cancelled(job)
        time.sleep(min(left, 0.02))
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


# ---- jobs that are there until the scenario lets them go -------------------------------------------------


def is_released() -> bool:
    """Tell whether the scenario has let the jobs go."""
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
# What its server cancels when it cannot be sure of the job.
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
    """Run until released, deaf to every cancellation."""
    begin(job)
    while not is_released():
        time.sleep(seconds)
    end(job)
    return job.fence


fire.task(name="pheld", retry=_SOON, executor="process")(hold_on)
fire.task(name="deaf", retry=_SOON)(hold_on)


# ---- jobs that end one way or the other --------------------------------------------------------------------


@fire.task(name="fail", retry=Retry.never())
def fail(job: JobContext, seconds: float) -> None:
    """Fail after a while."""
    begin(job)
    time.sleep(seconds)
    raise ValueError(job.id)


@fire.task(name="echo", retry=Retry.never())
def echo(job: JobContext, seconds: float) -> float:
    """Return the number that was given, at once."""
    begin(job)
    end(job)
    return seconds
