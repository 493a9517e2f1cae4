"""Limits of other job systems beside ours: what one costs, whether it holds, and what a killed worker leaves.

Two workers of ten jobs at once. All watch their workers as they ship; of Dramatiq alone a setting is changed,
as its waits between tries would be 15 s and more.
"""

from __future__ import annotations

import bisect
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks import contenders, places, servers
from benchmarks.pairs import Row
from benchmarks.peers import spans
from benchmarks.peers.postgresql_peers import PEERS as ON_POSTGRESQL
from benchmarks.peers.redis_peers import PEERS as ON_REDIS
from benchmarks.plan import Plan
from benchmarks.servers import ROOT

LIMIT, RATE, NEVER = 8, 200, 1_000
JOB_SECONDS = 0.02
QUIET_SECONDS = 150.0
Spans = Sequence[tuple[str, int, int, float]]


@attrs.frozen
class Contestant:
    """One with limits, where it is measured and by what Python."""

    name: str
    jobs: int  # that do nothing
    has_number: bool = True
    has_rate: bool = True
    python: str = sys.executable
    environment: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def module(self) -> str:
        """Return its adapter."""
        return f"benchmarks.peers.limited_{self.name}"


def _contestants(storage: str) -> Iterator[Contestant]:
    """Yield those of a storage that can be here; peers are installed where they are not yet."""
    jobs = {"redis": 20_000, "postgresql": 10_000}.get(storage, 10_000)
    yield Contestant("firelock", jobs)
    others = {
        "redis": {
            "bullmq": (10_000, True, True),
            "dramatiq": (3_000, True, True),
            "huey": (5_000, False, True),
        },
        "postgresql": {"pgqueuer": (5_000, True, False)},
    }
    known = ON_REDIS if storage == "redis" else ON_POSTGRESQL
    for name, (number, has_number, has_rate) in others.get(storage, {}).items():
        readied = contenders.ready(known[name])
        if readied is None:
            print(f"{name} is left out: it is not installed", file=sys.stderr)
            continue
        python, environment = str(readied.python), readied.environment
        yield Contestant(name, number, has_number, has_rate, python, environment)


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the rows of every contestant on the storage."""
    for one in _contestants(plan.storage):
        jobs = plan.scaled(one.jobs)
        if one.has_number:
            free, never = [], []
            for _ in range(max(1, min(3, plan.pairs))):
                free.append(_rate(_run(plan, one, jobs)[0]))
                never.append(_rate(_run(plan, one, jobs, limit=NEVER)[0]))
            ratios = [limited / other for limited, other in zip(never, free, strict=True)]
            row: Row = {"what": f"{one.name}, a number never reached", "ratio": statistics.median(ratios)}
            yield row | {"jobs_per_s": statistics.median(never), "without": statistics.median(free)}
            yield _killed(plan, one)
        if one.has_rate:
            yield _rated(plan, one)


def _run(
    plan: Plan,
    one: Contestant,
    jobs: int,
    *,
    limit: int = 0,
    rate: int = 0,
    seconds: float = 0.0,
    kills: bool = False,
) -> tuple[Spans, float, set[int]]:
    """Return what jobs wrote down until all or no more ended, when a worker was killed, its processes."""
    folder = plan.folder / f"{one.name}-{time.monotonic_ns()}"
    with places.opened(plan.storage, folder) as place:
        path = folder / "spans"
        values = {
            spans.SPANS: path, spans.LIMIT: limit, spans.RATE: rate, spans.SECONDS: seconds,
            spans.URL: place.url, "FIRELOCK_STORAGE": place.url, "PYTHONPATH": ROOT, **one.environment,
        }  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in values.items()}}
        told = f"import {one.module} as one; print(*one.COMMAND, sep='\\n')"
        options: dict[str, Any] = {"cwd": ROOT, "env": environment}
        said = subprocess.run([one.python, "-c", told], check=True, capture_output=True, text=True, **options)
        subprocess.run([one.python, "-m", one.module, str(jobs)], check=True, **options)
        with (folder / "workers.log").open("wb") as log:
            start = partial(servers.start, said.stdout.split(), stdout=log, stderr=log, **options)
            workers = [start(), start()]
            killed_at, killed = 0.0, set[int]()
            try:
                for done in _progress(path, jobs):
                    if kills and not killed_at and done >= jobs // 3:
                        victims = set(servers.Server(workers[0], folder / "workers.log").pids())
                        if victims & set(_open(spans.read(path))):  # it has some in hand at the moment
                            killed_at, killed = time.time(), victims
                            _kill(workers[0], victims)
                            workers[0] = start()
                return spans.read(path), killed_at, killed
            finally:
                for worker in workers:
                    servers.end(worker, grace=5)


def _progress(path: Path, jobs: int) -> Iterator[int]:
    """Yield about how many jobs have ended, every 50 ms, until all have, or none has for long."""
    last, seen = time.monotonic(), 0
    while time.monotonic() - last < QUIET_SECONDS:
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        if lines > seen:
            last, seen = time.monotonic(), lines
        if (
            lines >= 2 * jobs
            and len({number for what, number, *_ in spans.read(path) if what == "end"}) >= jobs
        ):
            return
        yield lines // 2
        time.sleep(0.05)


def _kill(worker: subprocess.Popen[bytes], pids: set[int]) -> None:
    """Kill a worker with all its processes."""
    os.killpg(worker.pid, signal.SIGKILL)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.wait()


def _open(found: Spans) -> Counter[int]:
    """Return how many jobs each process has begun and not ended."""
    counts = Counter[int]()
    for what, _, pid, _ in found:
        counts[pid] += 1 if what == "start" else -1
    return +counts


def _rate(found: Spans) -> float:
    ends = sorted(at for what, _, _, at in found if what == "end")
    return (len(ends) - 1) / (ends[-1] - ends[0])


def _killed(plan: Plan, one: Contestant) -> Row:
    """Return what became of a limit of 8 when one of two workers was killed, a third of the jobs done."""
    jobs = max(200, int(2_000 * plan.scale))
    found, killed_at, killed = _run(plan, one, jobs, limit=LIMIT, seconds=JOB_SECONDS, kills=True)
    ends = {(number, pid): at for what, number, pid, at in found if what == "end"}
    starts = [(number, pid, at) for what, number, pid, at in found if what == "start"]
    changes = []
    for number, pid, at in starts:
        until = ends.get((number, pid), killed_at if pid in killed else found[-1][3])
        changes += [(at, 1), (until, -1)]
    held, most, full_again = 0, 0, None
    for at, change in sorted(changes):
        held += change
        most = max(most, held)
        if full_again is None and at > killed_at and held >= LIMIT:
            full_again = at - killed_at
    done = {number for number, _ in ends}
    return {
        "what": f"{one.name}, {jobs} jobs of {JOB_SECONDS:g} s, limit {LIMIT}, a worker killed",
        "most_at_once": most,
        "killed_runs": sum(pid in killed and (number, pid) not in ends for number, pid, _ in starts),
        "lost": jobs - len(done),
        "started_twice": len(starts) - len({number for number, *_ in starts}),
        "all_slots_again_s": "never" if full_again is None else full_again,
        "took_s": found[-1][3] - found[0][3],
        "least_possible_s": jobs * JOB_SECONDS / LIMIT,
    }


def _rated(plan: Plan, one: Contestant) -> Row:
    """Return what came of 200 starts a second."""
    jobs = RATE * (6 if plan.scale >= 1 else 3)
    found, _, _ = _run(plan, one, jobs, rate=RATE)
    starts = sorted(at for what, _, _, at in found if what == "start")
    most = max(bisect.bisect_left(starts, at + 1) - index for index, at in enumerate(starts))
    steady = [at for at in starts if at >= starts[0] + 1]  # behind what may start at once
    reached = (len(steady) - 1) / (steady[-1] - steady[0])
    return {
        "what": f"{one.name}, {RATE} a second",
        "reached_per_s": reached,
        "most_in_1_s": most,
        "lost": jobs - len({number for what, number, *_ in found if what == "end"}),
    }
