"""What Firelock stores and runs on a Cluster of three nodes on loopback, beside one server of its own.

`python -m benchmarks.cluster_rates` prints a row a setting, `--core 0` puts everything on one core. The
nodes, the client and the server share the machine: what a second machine would add is not in these figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks import ours, redis_cluster, redis_server
from benchmarks.contenders import RESULTS
from benchmarks.entry import Figures, Load, exit_when_told, timed
from benchmarks.harness import run_to_end
from benchmarks.redis_cluster import Cluster
from benchmarks.redis_server import RedisServer
from benchmarks.storage_server import with_storage

PARTITIONS = (0, 1, 4, 16)
"""Those of the cluster; 0 for one server without a cluster."""
PROCESSES = (1, 2)


@attrs.frozen
class Setting:
    """Where jobs are stored, and how many processes run them."""

    partitions: int
    processes: int
    jobs: int


@contextmanager
def storage(directory: Path, partitions: int) -> Iterator[tuple[RedisServer | Cluster, str]]:
    """Run what the jobs are stored in; yield it with its URL."""
    if not partitions:
        with redis_server.running(directory) as server:
            yield server, server.url
    else:
        with redis_cluster.running(directory) as cluster:
            yield cluster, cluster.url(partitions)


def measure(setting: Setting, directory: Path) -> Figures:
    """Return the rates of storing jobs in bulk and of running them, and what each costs of the processor."""
    jobs = setting.jobs
    load = Load(jobs, 0, 0, 0, 0, 0, 0, directory)
    with storage(directory, setting.partitions) as (server, url), ours.opened(url) as app:
        cpu = server.cpu_seconds()
        stored = timed(lambda: ours.enqueue_bulk_of(app, jobs=jobs, size=jobs), jobs=jobs)
        stored = with_storage(stored, server.cpu_seconds() - cpu, jobs=jobs)
        options = ("--processes", str(setting.processes))
        run = ours.drained(app, load, *options, jobs=jobs, storage=server.cpu_seconds)
    return {f"bulk_{name}": value for name, value in stored.items()} | run


def print_table(settings: list[Setting]) -> None:
    """Measure each setting in a process and a folder of its own, and print a row for it."""
    print("partitions  processes   bulk/s  µs (nodes)   run/s  µs (nodes)")
    for setting in settings:
        directory = Path(tempfile.mkdtemp(prefix="cluster-", dir=RESULTS))
        try:
            asked = [str(value) for value in attrs.astuple(setting)]
            command = [sys.executable, "-m", "benchmarks.cluster_rates", "--one", *asked]
            figures = json.loads(run_to_end([*command, "--directory", str(directory)], {}).splitlines()[-1])
        finally:
            shutil.rmtree(directory)
        print(
            f"{setting.partitions or 'no cluster':>10}  {setting.processes:>9}"
            f"{figures['bulk_jobs_per_s']:9,.0f}{figures['bulk_cpu_us_per_job']:6.1f}"
            f" ({figures['bulk_storage_us_per_job']:.1f}){figures['jobs_per_s']:9,.0f}"
            f"{figures.get('cpu_us_per_job', 0):6.1f} ({figures.get('storage_us_per_job', 0):.1f})",
            flush=True,
        )


def main() -> None:
    """Print the table, or measure the one setting that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_rates", description=__doc__)
    parser.add_argument("--core", type=int, help="the core that everything shares (default: every core)")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--one", type=int, nargs=3, metavar="NUMBER", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    exit_when_told()
    if options.one:
        sys.stdout.write(json.dumps(measure(Setting(*options.one), options.directory.resolve())) + "\n")
        return
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    RESULTS.mkdir(exist_ok=True)
    print_table([Setting(number, count, options.jobs) for count in PROCESSES for number in PARTITIONS])


if __name__ == "__main__":
    main()
