"""Limits of other job systems and ours: their cost, their correctness, and the effect of a killed worker.

Two workers run ten concurrent jobs each. All systems use their default detection of dead workers. Only for
Dramatiq one setting is changed, because its waits between tries would be 15 s or more.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks import crew
from benchmarks.crew import Contestant, Outcome, Records
from benchmarks.pairs import Row
from benchmarks.peers import records
from benchmarks.peers.postgresql_peers import PEERS as ON_POSTGRESQL
from benchmarks.peers.redis_peers import PEERS as ON_REDIS
from benchmarks.plan import Plan

LIMIT, RATE, NEVER = 8, 200, 1_000
JOB_SECONDS = 0.02
QUIET_SECONDS = 150.0
ADAPTERS = "benchmarks.peers.limited_"


@attrs.frozen
class Limited:
    """A job system with limits, and its possible measurements."""

    one: Contestant
    jobs: int  # jobs that do nothing
    has_number: bool = True
    has_rate: bool = True


def _contestants(storage: str) -> Iterator[Limited]:
    """Yield the available job systems on a storage; peers are installed if necessary."""
    jobs = {"redis": 20_000, "postgresql": 10_000}.get(storage, 10_000)
    yield Limited(Contestant("firelock", f"{ADAPTERS}firelock"), jobs)
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
        if one := crew.ready(name, f"{ADAPTERS}{name}", known[name]):
            yield Limited(one, number, has_number, has_rate)


def measure(plan: Plan) -> Iterator[Row]:
    """Yield the rows of every contestant on the storage."""
    for one in _contestants(plan.storage):
        jobs = plan.scaled(one.jobs)
        if one.has_number:
            free, never = [], []
            for _ in range(max(1, min(3, plan.pairs))):
                free.append(_rate(_run(plan, one, jobs).records))
                never.append(_rate(_run(plan, one, jobs, limit=NEVER).records))
            ratios = [limited / other for limited, other in zip(never, free, strict=True)]
            row: Row = {
                "what": f"{one.one.name}, a limit that is never reached",
                "ratio": statistics.median(ratios),
            }
            yield row | {"jobs_per_s": statistics.median(never), "without": statistics.median(free)}
            yield _killed(plan, one)
        if one.has_rate:
            yield _rated(plan, one)


def _run(
    plan: Plan,
    limited: Limited,
    jobs: int,
    *,
    limit: int = 0,
    rate: int = 0,
    seconds: float = 0.0,
    kills: bool = False,
) -> Outcome:
    """Return the records of jobs until all have ended or no more end, and the time of a worker's death."""

    def is_done(path: Path, lines: int) -> bool:
        if lines < 2 * jobs:
            return False
        return len({number for what, number, *_ in records.read(path) if what == "end"}) >= jobs

    values = {records.LIMIT: limit, records.RATE: rate, records.SECONDS: seconds}
    kill_from = 2 * jobs // 3 if kills else 0
    return crew.run(
        plan, limited.one, (jobs,), is_done, quiet=QUIET_SECONDS, kill_from=kill_from, values=values
    )


def _rate(found: Records) -> float:
    ends = sorted(at for what, _, _, at in found if what == "end")
    return (len(ends) - 1) / (ends[-1] - ends[0])


def _killed(plan: Plan, one: Limited) -> Row:
    """Return the effect on a limit of 8 if one of two workers is killed after a third of the jobs."""
    jobs = max(200, int(2_000 * plan.scale))
    outcome = _run(plan, one, jobs, limit=LIMIT, seconds=JOB_SECONDS, kills=True)
    found, killed_at, killed = outcome.records, outcome.killed_at, outcome.killed
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
        "what": f"{one.one.name}, {jobs} jobs of {JOB_SECONDS:g} s, limit {LIMIT}, a worker killed",
        "most_at_once": most,
        "killed_runs": sum(pid in killed and (number, pid) not in ends for number, pid, _ in starts),
        "lost": jobs - len(done),
        "started_twice": len(starts) - len({number for number, *_ in starts}),
        "all_slots_again_s": "never" if full_again is None else full_again,
        "took_s": found[-1][3] - found[0][3],
        "least_possible_s": jobs * JOB_SECONDS / LIMIT,
    }


def _rated(plan: Plan, one: Limited) -> Row:
    """Return the results of a limit of 200 starts per second."""
    jobs = RATE * (6 if plan.scale >= 1 else 3)
    found = _run(plan, one, jobs, rate=RATE).records
    starts = sorted(at for what, _, _, at in found if what == "start")
    most = max(bisect.bisect_left(starts, at + 1) - index for index, at in enumerate(starts))
    steady = [at for at in starts if at >= starts[0] + 1]  # without the initial burst
    reached = (len(steady) - 1) / (steady[-1] - steady[0])
    return {
        "what": f"{one.one.name}, {RATE} per second",
        "reached_per_s": reached,
        "most_in_1_s": most,
        "lost": jobs - len({number for what, number, *_ in found if what == "end"}),
    }
