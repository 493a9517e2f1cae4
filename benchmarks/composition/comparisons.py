"""Comparisons of plain jobs with those of another checkout, and of batches with plain jobs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.composition.rounds import PLAIN, Load, compare, single, take
from benchmarks.pairs import Row
from benchmarks.plan import Plan

MANY, FAN = 100_000, 10_000
RATES = {
    "run_per_s": "run: jobs/s",
    "stored_per_s": "stored: jobs/s",
    "whole_per_s": "stored and run: jobs/s",
    "run_cpu_us": "run: µs of CPU time per job",
    "stored_cpu_us": "stored: µs of CPU time per job",
}


def baseline(plan: Plan) -> Iterator[Row]:
    """Yield rates of plain jobs compared with those of the other checkout, if one is given."""
    if not plan.baseline:
        return
    jobs = plan.scaled(PLAIN[plan.storage])
    loads = {
        f"{kind}{' of the baseline' if is_baseline else ''}": Load(kind, jobs, servers, is_baseline)
        for kind, servers in (("plain", 1), ("bare", 0))
        for is_baseline in (True, False)
    }
    taken = take(plan, loads, rounds=plan.pairs, shown="run_per_s")
    for kind, where in (("plain", "a server"), ("bare", "bare storage")):
        what = f"plain jobs compared with the baseline's, {where}"
        yield from compare(what, taken, kind, f"{kind} of the baseline", RATES)


def members(plan: Plan) -> Iterator[Row]:
    """Yield rates of members compared with those of plain jobs, in the same storages."""
    jobs = plan.scaled(PLAIN[plan.storage])
    loads = {
        "members": Load("members", jobs),
        "plain": Load("plain", jobs),
        "bare-members": Load("bare-members", jobs, 0),
        "bare": Load("bare", jobs, 0),
    }
    taken = take(plan, loads, rounds=plan.pairs, shown="run_per_s")
    yield from compare("members compared with plain jobs, a server", taken, "members", "plain", RATES)
    yield from compare("members compared with plain jobs, bare storage", taken, "bare-members", "bare", RATES)


def batch(plan: Plan) -> Iterator[Row]:
    """Yield the duration of a batch of 100,000, stored while servers run it, compared with plain jobs."""
    jobs = plan.scaled(MANY)
    loads = {"batch": Load("batch-at-once", jobs), "plain": Load("at-once", jobs)}
    taken = take(plan, loads, rounds=max(1, plan.pairs // 4), shown="ended_s")
    figures = {"ended_s": "created, run and ended: s", "stored_s": "created: s"}
    yield from compare(
        f"a batch of {jobs:,} compared with as many plain jobs", taken, "batch", "plain", figures
    )


def fan_in(plan: Plan) -> Iterator[Row]:
    """Yield the delay from the last member's end to the end of a batch of 10,000, and to its callback."""
    jobs = plan.scaled(FAN)
    loads = {"fan-in": Load("fan-in", jobs)}
    taken = take(plan, loads, rounds=plan.pairs, shown="callback_enqueued_ms")["fan-in"]
    for figure, values in taken.items():
        yield single(f"a fan-in of {jobs:,}, after its last member's end: {figure}", values)
