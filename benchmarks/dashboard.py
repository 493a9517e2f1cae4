"""Measure the dashboard's response times with a million jobs: all pages, live regions, filters and lists.

The requests are made in this process, without a network. Each round requests every address once, so cached
data expires as often as with real users.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import attrs

from benchmarks import dashboard_requeue, dashboard_stage, machine
from benchmarks.contenders import RESULTS
from benchmarks.dashboard_addresses import Address, addresses
from benchmarks.dashboard_visitor import Visitor
from benchmarks.entry import exit_on_signal
from firelock import Firelock
from firelock_dashboard import Dashboard

GOAL_MS = 100.0
WARM = 3


@attrs.frozen
class Timed:
    """An address and the durations of its responses, in milliseconds."""

    address: Address
    first: float
    """The first response of a dashboard that has just been started."""
    times: Sequence[float]
    cpu: float
    """The median processor time of a response in this process."""

    @property
    def p50(self) -> float:
        """The median duration."""
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        """The 95th percentile of the durations."""
        ordered = sorted(self.times)
        return ordered[math.ceil(0.95 * len(ordered)) - 1]

    @property
    def is_met(self) -> bool:
        """Whether the goal is met."""
        return self.p95 <= GOAL_MS


def request_all(fire: Firelock, *, rounds: int) -> tuple[list[Timed], int]:
    """Return the durations of each address, and the size of the first page on the wire, in bytes."""
    with closing(Dashboard(fire)) as dashboard, closing(Visitor(dashboard)) as visitor:
        requested = list(dict.fromkeys(addresses(fire, visitor)))
        weight = visitor.weigh("/")
    with closing(Dashboard(fire)) as dashboard, closing(Visitor(dashboard)) as visitor:
        taken = [[_request(visitor, address) for address in requested] for _ in range(WARM + rounds)]
    found = []
    for place, address in enumerate(requested):
        times, cpu = zip(*(turn[place] for turn in taken[WARM:]), strict=True)
        found.append(Timed(address, taken[0][place][0], times, statistics.median(cpu)))
    return found, weight


def _request(visitor: Visitor, address: Address) -> tuple[float, float]:
    cpu, begun = time.process_time(), time.perf_counter()
    visitor.get(address.target)
    return (time.perf_counter() - begun) * 1000, (time.process_time() - cpu) * 1000


def table(found: Sequence[Timed]) -> str:
    """Return the addresses as a table, slowest first."""
    lines = ["   p50    p95    max  first    cpu  kind      address"]
    for one in sorted(found, key=lambda each: -each.p95):
        times = f"{one.p50:6.1f} {one.p95:6.1f} {max(one.times):6.1f} {one.first:6.1f} {one.cpu:6.1f}"
        verdict = "" if one.is_met else "  MISSED"
        lines.append(f"{times}  {one.address.kind:8}  {one.address.target}{verdict}")
    return "\n".join(lines)


def summary(found: Sequence[Timed]) -> str:
    """Return a line for each kind of address, with its slowest address."""
    lines = []
    for kind in dict.fromkeys(one.address.kind for one in found):
        of_kind = [one for one in found if one.address.kind == kind]
        worst = max(of_kind, key=lambda one: one.p95)
        missed = sum(not one.is_met for one in of_kind)
        lines.append(
            f"{kind:8}  {len(of_kind):4} addresses, median p50 "
            f"{statistics.median(one.p50 for one in of_kind):5.1f} ms, worst p95 {worst.p95:6.1f} ms "
            f"({worst.address.target}), {missed} over {GOAL_MS:g} ms"
        )
    return "\n".join(lines)


def record(found: Sequence[Timed], weight: int) -> dict[str, object]:
    """Return the measurements in the form that is written to a file."""
    answers = [
        {
            **attrs.asdict(one.address),
            "first": one.first,
            "p50": one.p50,
            "p95": one.p95,
            "max": max(one.times),
            "cpu": one.cpu,
            "times": [round(each, 1) for each in one.times],
        }
        for one in found
    ]
    return {"answers_ms": answers, "first_page_bytes": weight}


def measure(storage: str, options: argparse.Namespace) -> dict[str, object]:
    """Print and return the selected measurements of one storage."""
    found: dict[str, object] = {"load_average_before": os.getloadavg()}
    if "pages" in options.part:
        with dashboard_stage.filled(storage, options.jobs, options.seed) as (url, _):
            timed, weight = request_all(shop(url), rounds=options.rounds)
        print(f"\n{storage}: {options.jobs:,} jobs, {options.rounds} responses each, ms\n{table(timed)}\n")
        print(f"{summary(timed)}\nfirst page with its files, packed: {weight / 1024:.1f} KiB", flush=True)
        found |= record(timed, weight)
    if "requeue" in options.part:
        with dashboard_stage.filled(storage, options.jobs, options.seed) as (url, directory):
            requeued = dashboard_requeue.run(url, directory, jobs=options.requeued)
        print(f"\n{storage}: {dashboard_requeue.text(requeued)}", flush=True)
        found["requeue"] = attrs.asdict(requeued)
    return found | {"load_average_after": os.getloadavg()}


def shop(url: str) -> Firelock:
    """Return the app of the stored jobs."""
    from benchmarks.seed import shop

    fire = Firelock(url)
    for info in shop.fire.tasks():
        fire.registry.register(info)
    return fire


def main() -> None:
    """Print the tables and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--storage", action="append", choices=dashboard_stage.STORAGES, help="default: all")
    parser.add_argument("--part", action="append", choices=("pages", "requeue"), help="part (default: both)")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="jobs of the shop (default: 1,000,000)")
    parser.add_argument("--requeued", type=int, default=100_000, help="requeued jobs (default: 100,000)")
    parser.add_argument("--rounds", type=int, default=40, help="responses per address (default: 40)")
    parser.add_argument("--seed", type=Path, help="existing seed (default: the one next to the results)")
    parser.add_argument("--out", type=Path, help="JSON file for all results")
    options = parser.parse_args()
    options.part = options.part or ["pages", "requeue"]
    exit_on_signal()
    RESULTS.mkdir(exist_ok=True)
    about: Mapping[str, object] = machine.describe(RESULTS, core=None)
    storages = options.storage or dashboard_stage.STORAGES
    found = {storage: measure(storage, options) for storage in storages}
    if options.out:
        options.out.write_text(json.dumps({"machine": about, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
