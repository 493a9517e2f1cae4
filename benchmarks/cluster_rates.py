"""Measure the jobs that Firelock stores and runs per second on a Redis Cluster whose nodes are all here.

`python -m benchmarks.cluster_rates` prints a row for each number of partitions on three nodes, and a row for
one server without a cluster. `--nodes 1 2 4 8` instead prints a row for each number of nodes with 64
partitions: medians of `--repeat` rounds, and how many scripts an idle server calls per second. `--core 0`
runs everything on one core. The nodes, the client and the server share the machine, so the figures do not
show the effect of more machines.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks import ours, redis_cluster, redis_server
from benchmarks.contenders import RESULTS
from benchmarks.entry import Figures, Load, exit_on_signal, timed
from benchmarks.harness import run_to_end
from benchmarks.redis_cluster import Cluster
from benchmarks.redis_server import RedisServer
from benchmarks.storage_server import with_storage

PARTITIONS = (0, 1, 4, 16)
"""The partitions of the cluster; 0 for one server without a cluster."""
PROCESSES = (1, 2)
SHARED = 64
"""The number of partitions of a cluster that can grow: see docs/scale.md."""
IDLE_SECONDS = 20.0


@attrs.frozen
class Setting:
    """The storage of the jobs, and the number of processes that run them."""

    partitions: int
    processes: int
    jobs: int
    nodes: int = redis_cluster.NODES


@contextmanager
def storage(directory: Path, setting: Setting) -> Iterator[tuple[RedisServer | Cluster, str]]:
    """Run the storage of a setting; yield it with its URL."""
    if not setting.partitions:
        with redis_server.running(directory) as server:
            yield server, server.url
    else:
        with redis_cluster.running(directory, setting.nodes) as cluster:
            yield cluster, cluster.url(setting.partitions)


def measure(setting: Setting, directory: Path) -> Figures:
    """Return the rates and the processor time of storing jobs in bulk and of running them."""
    jobs = setting.jobs
    load = Load(jobs, 0, 0, 0, 0, 0, 0, directory)
    with storage(directory, setting) as (server, url), ours.opened(url) as app:
        cpu = server.cpu_seconds()
        stored = timed(lambda: ours.enqueue_bulk_of(app, jobs=jobs, size=jobs), jobs=jobs)
        stored = with_storage(stored, server.cpu_seconds() - cpu, jobs=jobs)
        options = ("--processes", str(setting.processes))
        run = ours.drained(app, load, *options, jobs=jobs, storage=server.cpu_seconds)
        rest = at_rest(server, load) if isinstance(server, Cluster) else {}
    return {f"bulk_{name}": value for name, value in stored.items()} | run | rest


def at_rest(cluster: Cluster, load: Load) -> Figures:
    """Return how many scripts an idle server with one process calls per second, on all nodes together."""
    with ours.serving(load):
        time.sleep(ours.SETTLING_SECONDS)
        called, begun = cluster.scripts_run(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        return {"idle_calls_per_s": (cluster.scripts_run() - called) / (time.monotonic() - begun)}


def measured(setting: Setting) -> Figures:
    """Measure a setting in a separate process and folder."""
    directory = Path(tempfile.mkdtemp(prefix="cluster-", dir=RESULTS))
    try:
        arguments = [str(value) for value in attrs.astuple(setting)]
        command = [sys.executable, "-m", "benchmarks.cluster_rates", "--one", *arguments]
        printed = run_to_end([*command, "--directory", str(directory)], {})
        figures: Figures = json.loads(printed.splitlines()[-1])
        return figures
    finally:
        shutil.rmtree(directory)


def print_nodes(counts: Sequence[int], *, jobs: int, repeat: int) -> None:
    """Measure the numbers of nodes in turns, and print a row of medians for each."""
    rounds: dict[int, list[Figures]] = {count: [] for count in counts}
    for turn in range(repeat):
        for count in counts[:: 1 if turn % 2 == 0 else -1]:
            rounds[count].append(measured(Setting(SHARED, 1, jobs, count)))
    print("nodes   bulk/s  µs of all nodes   run/s  µs of all nodes  of one node's  idle calls/s")
    for count, found in rounds.items():
        medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
        pairs = zip(found, rounds[counts[0]], strict=True)
        share = statistics.median(
            one["storage_us_per_job"] / first["storage_us_per_job"] for one, first in pairs
        )
        print(
            f"{count:>5}{medians['bulk_jobs_per_s']:9,.0f}{medians['bulk_storage_us_per_job']:17.1f}"
            f"{medians['jobs_per_s']:8,.0f}{medians['storage_us_per_job']:17.1f}{share:15.2f}"
            f"{medians['idle_calls_per_s']:14.1f}",
            flush=True,
        )


def print_table(settings: list[Setting]) -> None:
    """Measure each setting in a separate process and folder, and print a row for it."""
    print("partitions  processes   bulk/s  µs (nodes)   run/s  µs (nodes)")
    for setting in settings:
        figures = measured(setting)
        print(
            f"{setting.partitions or 'no cluster':>10}  {setting.processes:>9}"
            f"{figures['bulk_jobs_per_s']:9,.0f}{figures['bulk_cpu_us_per_job']:6.1f}"
            f" ({figures['bulk_storage_us_per_job']:.1f}){figures['jobs_per_s']:9,.0f}"
            f"{figures.get('cpu_us_per_job', 0):6.1f} ({figures.get('storage_us_per_job', 0):.1f})",
            flush=True,
        )


def main() -> None:
    """Print the table, or measure a single setting."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_rates", description=__doc__)
    parser.add_argument("--core", type=int, help="core that all processes share (default: all cores)")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument(
        "--nodes", type=int, nargs="+", metavar="NUMBER", help="numbers of nodes, with 64 partitions"
    )
    parser.add_argument("--repeat", type=int, default=3, help="rounds of --nodes (default: 3)")
    parser.add_argument("--one", type=int, nargs=4, metavar="NUMBER", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    exit_on_signal()
    if options.one:
        sys.stdout.write(json.dumps(measure(Setting(*options.one), options.directory.resolve())) + "\n")
        return
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    RESULTS.mkdir(exist_ok=True)
    if options.nodes:
        print_nodes(options.nodes, jobs=options.jobs, repeat=options.repeat)
        return
    print_table([Setting(number, count, options.jobs) for count in PROCESSES for number in PARTITIONS])


if __name__ == "__main__":
    main()
