"""Batches and steps of other job systems compared with ours: their speed, and the effect of a killed worker.

Speed is measured with one worker that runs ten jobs concurrently, and kills with two such workers. All
systems use their default detection of dead workers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks import crew
from benchmarks.crew import Contestant, Outcome
from benchmarks.pairs import Row
from benchmarks.peers import records
from benchmarks.peers.postgresql_peers import STEPPED
from benchmarks.peers.redis_peers import PEERS as ON_REDIS
from benchmarks.plan import Plan

BATCH = {"firelock": 20_000, "celery": 4_000, "dramatiq": 4_000, "rq": 2_000}
"""The numbers of members of the batches in a run; slower systems get smaller batches."""
FLOWS = {"firelock": 500, "dbos": 100, "absurd": 200}
STEPS = 20
KILLED_BATCH, KILLED_FLOWS = 1_000, 100
JOB_SECONDS, STEP_SECONDS = 0.02, 0.01
QUIET_SECONDS = 150.0
ROUNDS = 3


def batches(plan: Plan) -> Iterator[Row]:
    """Yield the speed of a batch and the effect of a kill, for each contestant on Redis and for ours."""
    for one in _contestants("grouped", ["celery", "rq", "dramatiq"] if plan.storage == "redis" else []):
        jobs = plan.scaled(BATCH[one.name])
        whole, run, stored = [], [], []
        for _ in range(max(1, min(ROUNDS, plan.pairs))):
            outcome = _batch(plan, one, jobs, workers=1)
            if not (called := outcome.times("callback")):
                break
            ran = called[0] - outcome.times("start")[0]
            run.append(jobs / ran)
            stored.append(jobs / outcome.client_seconds)
            whole.append(jobs / (ran + outcome.client_seconds))
        if whole:
            row: Row = {"what": f"{one.name}, a batch of {jobs:,} with a callback"}
            rates = {"run_per_s": run, "stored_per_s": stored, "whole_per_s": whole}
            yield row | {name: statistics.median(values) for name, values in rates.items()}
        yield _killed_batch(plan, one)


def steps(plan: Plan) -> Iterator[Row]:
    """Yield the number of steps per second and the effect of a kill, for each contestant."""
    for one in _contestants("stepped", list(STEPPED) if plan.storage == "postgresql" else []):
        jobs = plan.scaled(FLOWS[one.name]) if plan.scale >= 1 else 20
        rates = []
        for _ in range(max(1, min(ROUNDS, plan.pairs))):
            outcome = _flows(plan, one, jobs, workers=1)
            ran = outcome.times("end")[-1] - outcome.times("start")[0]
            rates.append(len(outcome.times("step")) / ran)
        yield {"what": f"{one.name}, {jobs} jobs of {STEPS} steps", "steps_per_s": statistics.median(rates)}
        yield _killed_flows(plan, one)


def _contestants(kind: str, others: list[str]) -> Iterator[Contestant]:
    """Yield ours and the available peers, which are installed if necessary."""
    yield Contestant("firelock", f"benchmarks.peers.{kind}_firelock")
    for name in others:
        known = ON_REDIS | STEPPED
        if one := crew.ready(name, f"benchmarks.peers.{kind}_{name}", known[name]):
            yield one


def _batch(
    plan: Plan, one: Contestant, jobs: int, *, workers: int, seconds: float = 0.0, kill_from: int = 0
) -> Outcome:
    def is_done(path: Path, lines: int) -> bool:
        return lines > 2 * jobs and any(what == "callback" for what, *_ in records.read(path))

    values = {records.SECONDS: seconds}
    return crew.run(
        plan, one, (jobs,), is_done, quiet=QUIET_SECONDS, workers=workers, kill_from=kill_from, values=values
    )


def _killed_batch(plan: Plan, one: Contestant) -> Row:
    """Return the fate of a batch if one of two workers is killed after a third of the members has run."""
    jobs = KILLED_BATCH if plan.scale >= 1 else 300
    outcome = _batch(plan, one, jobs, workers=2, seconds=JOB_SECONDS, kill_from=2 * jobs // 3)
    called = outcome.times("callback")
    ended = [number for what, number, *_ in outcome.records if what == "end"]
    return {
        "what": f"{one.name}, a batch of {jobs} of {JOB_SECONDS:g} s, a worker killed",
        "callbacks": len(called),
        "callback_after_kill_s": _after_kill(outcome, called[0]) if called else f"not in {QUIET_SECONDS:.0f}",
        "killed_runs": _killed_runs(outcome),
        "never_ended": jobs - len(set(ended)),
        "ended_twice": len(ended) - len(set(ended)),
    }


def _flows(
    plan: Plan, one: Contestant, jobs: int, *, workers: int, seconds: float = 0.0, kill_from: int = 0
) -> Outcome:
    def is_done(path: Path, lines: int) -> bool:
        if lines < jobs * (STEPS + 2):
            return False
        return len({number for what, number, *_ in records.read(path) if what == "end"}) >= jobs

    values = {records.SECONDS: seconds}
    arguments = (jobs, STEPS)
    return crew.run(
        plan,
        one,
        arguments,
        is_done,
        quiet=QUIET_SECONDS,
        workers=workers,
        kill_from=kill_from,
        values=values,
    )


def _killed_flows(plan: Plan, one: Contestant) -> Row:
    """Return the fate of steps if one of two workers is killed after a third of the steps has run."""
    jobs = KILLED_FLOWS if plan.scale >= 1 else 40
    kill_from = jobs * (STEPS + 2) // 3
    outcome = _flows(plan, one, jobs, workers=2, seconds=STEP_SECONDS, kill_from=kill_from)
    ran = [number for what, number, *_ in outcome.records if what == "step"]
    ended = {number for what, number, *_ in outcome.records if what == "end"}
    return {
        "what": f"{one.name}, {jobs} jobs of {STEPS} steps of {STEP_SECONDS:g} s, a worker killed",
        "killed_runs": _killed_runs(outcome),
        "never_ended": jobs - len(ended),
        "all_ended_after_kill_s": _after_kill(outcome, outcome.times("end")[-1]),
        "steps_run_again": len(ran) - len(set(ran)),
    }


def _after_kill(outcome: Outcome, at: float) -> float | str:
    return at - outcome.killed_at if outcome.killed_at else "nothing was killed"


def _killed_runs(outcome: Outcome) -> int:
    """Return the number of jobs that the killed worker was running."""
    of_killed = [one for one in outcome.records if one[2] in outcome.killed]
    return sum(crew.open_in(of_killed).values())
