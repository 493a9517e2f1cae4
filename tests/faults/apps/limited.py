"""Jobs with limits, a rate and unique keys, which write the keys that they hold to the ledger."""

from __future__ import annotations

import os
import time
from pathlib import Path

from firelock import Firelock, JobContext, Limit, Retry, Unique
from tests.faults.ledger import Ledger

fire = Firelock()  # FIRELOCK_STORAGE and the FIRELOCK_… timings
ledger = Ledger(Path(os.environ["FAULTS_LEDGER"]))

ALL = Limit("shop", concurrent=5)
TENANT = Limit("shop/tenant:{tenant}", concurrent=2)
RATE = Limit("api", rate=200, per=1, burst=20)
ONCE = Unique("doc:{doc}")

_SOON = Retry.fixed(0.05, attempts=3, jitter=0)


def _run(job: JobContext, seconds: float, *keys: str) -> None:
    """Write the start, with the keys and the times of the claim and the start; wait; write the end."""
    times = int(job.claimed_at.timestamp() * 1_000_000), time.time_ns() // 1_000
    note = " ".join([*map(str, times), *keys])
    ledger.write("start", job=job.id, attempt=job.attempt, fence=job.fence, note=note)
    time.sleep(seconds)
    ledger.write("end", job=job.id, attempt=job.attempt, fence=job.fence, note=note)


@fire.task(name="limited", limits=[ALL, TENANT], retry=_SOON)
def limited(job: JobContext, tenant: int, seconds: float) -> None:
    """Hold the keys of the shop and of a tenant for a while."""
    _run(job, seconds, "shop", f"shop/tenant:{tenant}")


@fire.task(name="rated", limits=[RATE], retry=_SOON)
def rated(job: JobContext) -> None:
    """Call the API once."""
    _run(job, 0.0, "api")


@fire.task(name="once", unique=ONCE, retry=_SOON)
def once(job: JobContext, doc: int, seconds: float) -> None:
    """Run as the only job for a document."""
    _run(job, seconds, f"doc:{doc}")
