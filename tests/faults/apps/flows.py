"""Batches and jobs with steps, which write their actions to the ledger. Worker processes die at named points.

`FAULTS_POINTS` contains the names. `FAULTS_TIMES` is the number of deaths that are enough for each point.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

from firelock import Firelock, JobCancelled, JobConflict, JobContext, Retry, StorageError
from tests.faults.ledger import Ledger
from tests.faults.points import Points, aim

fire = Firelock()  # FIRELOCK_STORAGE and the FIRELOCK_… timings
folder = Path(os.environ["FAULTS_LEDGER"])
ledger = Ledger(folder)
decision = fire.signal("decision", int)
# Supervisors run no jobs, and job processes have no target.
is_child = Path(sys.argv[0]).stem == "worker_process"
points = Points(
    folder,
    aim(folder, os.environ["FAULTS_POINTS"].split(), int(os.environ["FAULTS_TIMES"])) if is_child else None,
    int(os.environ["FAULTS_EVERY"]),
)
points.watch(fire.storage)

NAP = 2.2  # seconds: the shortest sleep that suspends the job
DEADLINE = 0.4  # seconds until a racer's wait times out
_NEVER = Retry.never()
_raced: set[str] = set()


@fire.task(name="member", retry=_NEVER)
def member(job: JobContext, batch: str, seconds: float, fails: bool) -> int:
    """Run for a while; if `fails`, fail in the first attempt."""
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence, note=batch)
    time.sleep(seconds / 2)
    points.come_to("run")
    time.sleep(seconds / 2)
    is_well = not (fails and job.attempt == 1)
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence, note=batch)
    if not is_well:
        raise ValueError("once")
    return 1


@fire.task(name="total", retry=_NEVER)
def total(job: JobContext, batch: str, parts: list[int]) -> int:
    """Return the sum of other members' results."""
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence, note=batch)
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence, note=batch)
    return sum(parts)


@fire.task(name="callback", retry=_NEVER)
def callback(job: JobContext, batch: str, kind: str) -> None:
    """Record the end of a batch."""
    ledger.write("callback", job=job.id, note=f"{batch} {kind}")


@fire.task(name="called", retry=_NEVER)
def called(job: JobContext, number: int) -> int:
    """Return the number, as a separate job."""
    ledger.write("called", job=job.id, note=str(number))
    return number


@fire.task(name="order", retry=_NEVER)
def order(job: JobContext, number: int) -> list[int | None]:
    """Act, sleep, call another job, wait for a decision, act again."""
    _step(job, "first")
    job.sleep("nap", NAP)
    answer = job.run("call", called, number)
    decided = job.receive(decision, timeout=None)
    _step(job, "last")
    return [answer, decided]


def _step(job: JobContext, name: str) -> None:
    try:
        job.step(name, _act, job.id, name)
    except JobCancelled:
        ledger.write("refused", job=job.id, fence=job.fence, note=name)
        raise
    ledger.write("kept", job=job.id, fence=job.fence, note=name)


def _act(job_id: str, name: str) -> str:
    """Perform an effect that must not be repeated."""
    points.come_to("step:before")
    ledger.write("effect", job=job_id, note=name)
    return name


@fire.task(name="waiter", retry=_NEVER)
def waiter(job: JobContext) -> int | None:
    """Return the decision, without a timeout."""
    return job.receive(decision, timeout=None)


@fire.task(name="racer", retry=_NEVER)
def racer(job: JobContext) -> int | None:
    """Return the decision, which is sent at about the time of the timeout."""
    if job.id not in _raced:
        _raced.add(job.id)
        late = random.uniform(-0.05, 0.05)
        threading.Timer(DEADLINE + late, _race, (job.id, random.randrange(1_000_000))).start()
    return job.receive(decision, timeout=DEADLINE)


def _race(job_id: str, payload: int) -> None:
    ledger.write("sending", job=job_id, note=str(payload))
    try:
        is_first = decision.send(job_id, payload)
    except JobConflict:
        is_first = False
    except StorageError:  # the process ends, and its storage is closed
        return
    ledger.write("sent", job=job_id, note=f"{payload} {int(is_first)}")
