"""Measure with real servers: delays of due jobs while expired ones are removed; pace of the removal."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from benchmarks import places
from benchmarks.pairs import Row
from benchmarks.plan import Plan
from benchmarks.retention import tasks
from benchmarks.retention.costs import CHUNK, store_expired
from benchmarks.servers import Server
from firelock import Every, Firelock, Job, State
from firelock.server.retention import LEASE

APP = "benchmarks.retention.app:fire"
EXPIRED = 100_000
DUE, GAP = 1_000, 0.02  # due jobs, and seconds between two of them
BEATS = 50  # recurring jobs, each of them once a second
SWEEP, JITTER = 0.5, 1.2  # seconds between two sweeps; the longest interval is at most this many times that
LONG = 3_600.0  # seconds
RATE = 3_000  # jobs enqueued a second
SECONDS = 600  # duration of the enqueueing
MOST = 15_000  # maximum number of stored jobs if retention keeps pace
FULL = 2_000  # waiting jobs that keep servers busy


# ---- delays ----------------------------------------------------------------------------------------------


@attrs.frozen
class Late:
    """The delays that retention caused, in seconds, each in order."""

    due: list[float]
    recurring: list[float]
    sweeps: list[float]
    left: int  # expired jobs when the last due job had run
    seconds: float  # until no expired job was left, or until the last due job had run


def of_due_jobs(plan: Plan) -> Iterator[Row]:
    """Yield the delays of due and recurring jobs and of sweeps, with and without a backlog of expired jobs.

    The due jobs begin with the retention. Also yield how many expired jobs are left when they have run.
    """
    expired = plan.scaled(EXPIRED)
    free, busy = _lateness(plan, 0), _lateness(plan, expired)
    yield {
        "what": f"seconds until {expired:,} expired jobs were removed; left when the last due job had run",
        "ratio": busy.left / expired, "median": busy.seconds, "base": busy.left,
    }  # fmt: skip
    for name in ("due", "recurring", "sweeps"):
        values, others = getattr(busy, name), getattr(free, name)
        for place in (0.5, 0.99, 1.0):
            figures = {"median": _quantile(values, place), "base": _quantile(others, place)}
            what = f"{name} with {expired:,} expired jobs, {place:.0%} of {len(values):,}, s late"
            yield {"what": what, "ratio": figures["median"] / max(0.001, figures["base"]), **figures}


def _quantile(values: list[float], place: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * place))]


def _lateness(plan: Plan, expired: int) -> Late:
    number = max(20, plan.scaled(DUE))
    with (
        places.opened(plan.storage, plan.folder / f"late-{expired}") as place,
        places.client(place.url, keep_deleted=0) as fire,
    ):
        declared = tasks.declare(fire)
        if expired:
            store_expired(fire, declared.noop, expired, is_rich=True)
        token = fire.storage.acquire_lock(LEASE, "benchmark", LONG) or 0  # until the due jobs begin
        sweeps = place.folder / "sweeps"
        with places.serving(
            place, APP, FIRELOCK_KEEP_DELETED="0", FIRELOCK_SWEEP=str(SWEEP), BENCHMARK_SWEEPS=str(sweeps)
        ) as (server,):
            _await_server(server, fire, declared.noop)
            begins = datetime.now(UTC) + timedelta(seconds=2)
            due = [begins + timedelta(seconds=GAP * place) for place in range(number)]
            jobs = [declared.tick.using(at=at).enqueue(place) for place, at in enumerate(due)]
            for beat in range(BEATS):
                declared.beat.recur(f"beat-{beat}", Every(timedelta(seconds=1)), beat)
            began, ends = time.monotonic(), None
            fire.storage.release_lock(LEASE, "benchmark", token)
            while jobs[-1].refresh().state is not State.SUCCEEDED:
                if ends is None and fire.jobs.counts()[State.DELETED] == 0:
                    ends = time.monotonic()
                time.sleep(0.2)
            left, seconds = fire.jobs.counts()[State.DELETED], (ends or time.monotonic()) - began
            server.wait_until(lambda: _have_run(jobs), what="all due jobs had run")
        beats = [job for job in fire.jobs.iterate(task="beat") if job.record().started_at is not None]
        sweep_times = [float(line) for line in sweeps.read_text(encoding="ascii").split()]
        sweep_times = [swept_at for swept_at in sweep_times if swept_at > began]
        return Late(
            [_started_at(job) - at.timestamp() for job, at in zip(jobs, due, strict=True)],
            [_started_at(job) - (job.record().nominal_at or 0) / 1e6 for job in beats],
            [
                max(0.0, later - earlier - JITTER * SWEEP)
                for earlier, later in itertools.pairwise(sweep_times)
            ],
            left, seconds,
        )  # fmt: skip


def _await_server(server: Server, fire: Firelock, noop: Any) -> None:  # noqa: ANN401 - any task
    """Wait until the server has run a job."""
    noop.enqueue()
    server.wait_until(lambda: _waiting(fire) == 0, what="the server had begun")


def _have_run(jobs: list[Job[None]]) -> bool:
    return all(job.refresh().state is State.SUCCEEDED for job in jobs)


def _started_at(job: Job[None]) -> float:
    started_at = job.record().started_at
    if started_at is None:
        message = f"job {job.id} has not started"
        raise RuntimeError(message)
    return started_at / 1e6


# ---- pace ------------------------------------------------------------------------------------------------


def of_removal(plan: Plan) -> Iterator[Row]:
    """Yield the maximum number of stored succeeded jobs if they are kept for a second, and the throughput.

    The throughput is compared with that of a run that removes nothing. On MariaDB the rate is what a run
    without retention reached before.
    """
    seconds = max(8.0, SECONDS * min(1.0, plan.scale))
    rate = None if plan.storage == "mariadb" else RATE
    if rate is None:
        rate = int(_ended(plan, "found", min(60.0, seconds), None, keep="86400")[0])
    free, _ = _ended(plan, "kept", seconds, rate, keep="86400")
    busy, most = _ended(plan, "removed", seconds, rate, keep="1")
    what = f"jobs/s ended of {rate:,} enqueued for {seconds:.0f} s, with retention compared with none"
    yield {"what": what, "ratio": busy / free, "median": busy, "base": free}
    yield {
        "what": f"succeeded jobs stored at most, {rate:,} jobs/s, compared with the maximum",
        "ratio": most / MOST, "median": most, "base": MOST,
    }  # fmt: skip


def _ended(plan: Plan, name: str, seconds: float, rate: int | None, *, keep: str) -> tuple[float, int]:
    """Return the number of ended jobs per second, and the maximum number of stored succeeded jobs.

    Jobs are enqueued at the rate or, if it is None, fast enough that the server always has jobs.
    """
    most = sent = 0
    with places.opened(plan.storage, plan.folder / name) as place, places.client(place.url) as fire:
        noop = tasks.declare(fire).noop
        with places.serving(place, APP, FIRELOCK_KEEP_SUCCEEDED=keep) as (server,):
            _await_server(server, fire, noop)
            begun, next_check = time.monotonic(), 0.0
            while (passed := time.monotonic() - begun) < seconds:
                if passed > next_check:
                    most, next_check = max(most, fire.jobs.counts()[State.SUCCEEDED]), passed + 0.5
                if _is_time(fire, rate, sent, passed):
                    noop.enqueue_many([()] * CHUNK)
                    sent += CHUNK
                else:
                    time.sleep(0.01)
            return (sent - _waiting(fire)) / passed, most


def _is_time(fire: Firelock, rate: int | None, sent: int, passed: float) -> bool:
    return _waiting(fire) < FULL if rate is None else sent <= rate * passed


def _waiting(fire: Firelock) -> int:
    counts = fire.jobs.counts()
    return counts[State.ENQUEUED] + counts[State.PROCESSING]
