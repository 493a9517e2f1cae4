"""One peer on PostgreSQL in one scenario, whichever it is.

An adapter offers COMMAND, `enqueue(jobs)` and `stamp(number)`, perhaps `enqueue_bulk(jobs, size)` and
`open_client()`. A client that is a program of its own returns the figures that it measured itself. The
adapter reads the server's place from the environment when it is imported, as its worker does.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks import latency, postgresql_server, servers, stamps
from benchmarks.entry import Figures, Load, ScenarioFunction, run, timed
from benchmarks.peers import ends
from benchmarks.peers.postgresql_peers import PEERS
from benchmarks.peers.redis_peers import Peer
from benchmarks.postgresql_server import PostgresqlServer
from benchmarks.servers import Server

VARIABLE = "FIRELOCK_BENCH_POSTGRESQL"
CHUNK = 500
LEAST = 200


def open_adapter(peer: Peer, load: Load, url: str, *, last: int = 0) -> Any:  # noqa: ANN401 - a module
    """Import the adapter, with what it and its worker read from the environment in place."""
    os.environ[VARIABLE] = url
    os.environ[ends.VARIABLE] = str(last)
    os.environ[stamps.VARIABLE] = str(load.directory / "stamps")
    adapter = importlib.import_module(f"benchmarks.peers.{peer.module}")
    if hasattr(adapter, "open_client"):
        adapter.open_client()
    return adapter


@contextmanager
def working(adapter: Any, load: Load) -> Iterator[Server]:  # noqa: ANN401 - a module
    """Run the peer's worker beside the block."""
    environment = getattr(adapter, "ENVIRONMENT", {})
    with servers.running(
        adapter.COMMAND, environment=environment, log=load.directory / "worker.log"
    ) as server:
        yield server


def amount(peer: Peer, load: Load) -> int:
    """Return how many jobs this peer is given."""
    return max(load.jobs // peer.share, LEAST)


def singles(peer: Peer, load: Load) -> int:
    """Return how many jobs this peer is given one by one."""
    return max(min(load.singles, load.jobs // peer.share), LEAST)


def measured(action: Callable[[], Figures | None], server: PostgresqlServer, *, jobs: int) -> Figures:
    """Return what the client measured itself, else what is measured here; the server's share is in it."""
    own: list[Figures | None] = []
    cpu = server.cpu_seconds()
    here = timed(lambda: own.append(action()), jobs=jobs)
    return postgresql_server.with_storage(own[0] or here, server.cpu_seconds() - cpu, jobs=jobs)


def enqueue_one(peer: Peer, load: Load) -> Figures:
    """Measure enqueuing one by one."""
    jobs = singles(peer, load)
    with postgresql_server.running(load.directory) as server:
        adapter = open_adapter(peer, load, server.url)
        return measured(lambda: adapter.enqueue(jobs), server, jobs=jobs)


def enqueue_bulk(peer: Peer, load: Load) -> Figures:
    """Measure the peer's call for many, 500 at a time."""
    jobs = amount(peer, load)
    with postgresql_server.running(load.directory) as server:
        adapter = open_adapter(peer, load, server.url)
        return measured(lambda: adapter.enqueue_bulk(jobs, CHUNK), server, jobs=jobs)


def fill(adapter: Any, jobs: int) -> None:  # noqa: ANN401 - a module
    """Enqueue so many jobs in the fastest way."""
    if hasattr(adapter, "enqueue_bulk"):
        adapter.enqueue_bulk(jobs, CHUNK)
    else:
        adapter.enqueue(jobs)


def process(peer: Peer, load: Load) -> Figures:
    """Measure running jobs that were all stored before, from the first end of one to the last."""
    jobs = amount(peer, load)
    path = load.directory / "stamps"
    with postgresql_server.running(load.directory) as server:
        adapter = open_adapter(peer, load, server.url, last=jobs)
        fill(adapter, jobs)
        with working(adapter, load) as worker:
            reached = partial(ends.read_reached, path)
            cpu = servers.watch_drain(worker, reached, jobs=jobs, storage=server.cpu_seconds)
    instants = stamps.read(path)
    return {"jobs_per_s": (jobs - 1) / (instants[jobs] - instants[1]) * 1e9, **cpu}


def start_to_start(peer: Peer, load: Load, *, gaps: latency.Gaps) -> Figures:
    """Measure the time from the call to the start of the task."""
    with postgresql_server.running(load.directory) as server:
        adapter = open_adapter(peer, load, server.url)
        with working(adapter, load) as worker:
            path = load.directory / "stamps"
            return latency.measure(worker, adapter.stamp, path, samples=load.samples, gaps=gaps)


SCENARIOS: dict[str, Callable[[Peer, Load], Figures]] = {
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "latency": partial(start_to_start, gaps=latency.even),
    "latency_busy": partial(start_to_start, gaps=latency.busy),
}


def scenarios(peer: Peer) -> frozenset[str]:
    """Return the names of the scenarios that a peer takes part in."""
    return frozenset(name for name in SCENARIOS if peer.has_bulk or name != "enqueue_bulk")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--peer", choices=sorted(PEERS), required=True)
    options, sys.argv[1:] = parser.parse_known_args()
    functions: dict[str, ScenarioFunction] = {
        name: partial(scenario, PEERS[options.peer]) for name, scenario in SCENARIOS.items()
    }
    run(functions)
