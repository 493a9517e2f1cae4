"""Real servers: how late due jobs start while expired ones are removed, and whether removal keeps pace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from benchmarks import places
from benchmarks.pairs import Row
from benchmarks.plan import Plan
from benchmarks.retention import tasks
from benchmarks.retention.costs import CHUNK, store_expired
from firelock import Firelock, Job, State

APP = "benchmarks.retention.app:fire"
EXPIRED = 20_000
TICKS, GAP = 200, 0.1  # due jobs, and seconds between two of them
RATE = 3_000  # jobs enqueued a second
SECONDS = 80  # that they are


def of_due_jobs(plan: Plan) -> Iterator[Row]:
    """Yield how late due jobs start beside a backlog of expired jobs, and beside none; in seconds."""
    late = {expired: _lateness(plan, expired) for expired in (0, plan.scaled(EXPIRED))}
    free, busy = late.values()
    for name, place in (("p50", 0.5), ("p90", 0.9), ("latest", 1.0)):
        figures = {"median": _quantile(busy, place), "beside": _quantile(free, place)}
        quotient = figures["median"] / figures["beside"]
        what = f"due jobs beside {plan.scaled(EXPIRED):,} expired ones, {name}, s late"
        yield {"what": what, "ratio": quotient, **figures}


def _quantile(values: list[float], place: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * place))]


def _lateness(plan: Plan, expired: int) -> list[float]:
    """Return by how many seconds each due job started late."""
    ticks = max(20, plan.scaled(TICKS))
    with (
        places.opened(plan.storage, plan.folder / f"late-{expired}") as place,
        places.client(place.url, keep_deleted=0) as fire,
    ):
        declared = tasks.declare(fire)
        if expired:
            store_expired(fire, declared.noop, expired, is_rich=True)
        begins = datetime.now(UTC) + timedelta(seconds=3)
        due = [begins + timedelta(seconds=GAP * number) for number in range(ticks)]
        jobs = [declared.tick.using(at=at).enqueue(number) for number, at in enumerate(due)]
        with places.serving(place, APP, FIRELOCK_KEEP_DELETED="0") as (server,):
            server.wait_until(lambda: _have_succeeded(fire, ticks), what="all due jobs had run")
        return [_started_at(job) - at.timestamp() for job, at in zip(jobs, due, strict=True)]


def _have_succeeded(fire: Firelock, number: int) -> bool:
    return fire.jobs.counts()[State.SUCCEEDED] >= number


def _started_at(job: Job[None]) -> float:
    started_at = job.refresh().record().started_at
    if started_at is None:
        message = f"job {job.id} has not started"
        raise RuntimeError(message)
    return started_at / 1e6


def of_removal(plan: Plan) -> Iterator[Row]:
    """Yield how many succeeded jobs are stored in the end beside half-time; removal that keeps pace has 1."""
    seconds = max(8.0, SECONDS * min(1.0, plan.scale))
    rate = RATE if plan.storage in {"sqlite", "redis"} else RATE // 3
    stored: list[int] = []
    with places.opened(plan.storage, plan.folder / "pace") as place, places.client(place.url) as fire:
        noop = tasks.declare(fire).noop
        with places.serving(place, APP, FIRELOCK_KEEP_SUCCEEDED="1"):
            begun, sent = time.monotonic(), 0
            while (passed := time.monotonic() - begun) < seconds:
                if sent <= rate * passed:
                    noop.enqueue_many([()] * CHUNK)
                    sent += CHUNK
                else:
                    time.sleep((sent - rate * passed) / rate)
                if passed > seconds * (len(stored) + 1) / 4:
                    stored.append(fire.jobs.counts()[State.SUCCEEDED])
            stored.append(fire.jobs.counts()[State.SUCCEEDED])
    what = (
        f"succeeded jobs stored after {seconds:.0f} s beside half of that time, {sent / seconds:,.0f} jobs/s"
    )
    yield {"what": what, "ratio": stored[-1] / max(1, stored[1]), "median": stored[-1], "beside": stored[1]}
