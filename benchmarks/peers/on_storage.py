"""One peer in one scenario, on a storage with a server.

An adapter has COMMAND, `enqueue(jobs)` and `stamp(number)`, and can have `enqueue_bulk(jobs, size)` and
`open_client()`. A client that is a separate program returns its own figures. The adapter, like its worker,
reads the server's URL from the environment when it is imported.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import counting, latency, servers, timestamps
from benchmarks.entry import Figures, Load, ScenarioFunction, run, timed
from benchmarks.peers import ends
from benchmarks.peers.peer import Peer
from benchmarks.servers import Server
from benchmarks.storage_server import StorageServer, with_storage

CHUNK = 500


@dataclass(frozen=True)
class Storage:
    """A storage for the jobs of peers."""

    running: Callable[[Path], AbstractContextManager[StorageServer]]
    """A context manager that runs an empty server in a folder."""
    variable: str
    """The environment variable with the server's URL for adapters and their workers."""

    def open_adapter(self, peer: Peer, load: Load, url: str, *, last: int = 0) -> Any:  # noqa: ANN401 - a module
        """Import the adapter, after setting the environment variables for it and its worker."""
        os.environ[self.variable] = url
        os.environ[ends.VARIABLE] = str(last)
        os.environ[timestamps.VARIABLE] = str(load.directory / "timestamps")
        adapter = importlib.import_module(f"benchmarks.peers.{peer.module}")
        if hasattr(adapter, "open_client"):
            adapter.open_client()
        return adapter


PeerScenario = Callable[[Storage, Peer, Load], Figures]


@contextmanager
def working(adapter: Any, load: Load) -> Iterator[Server]:  # noqa: ANN401 - a module
    """Run the peer's worker during the block."""
    environment = getattr(adapter, "ENVIRONMENT", {})
    with servers.running(
        adapter.COMMAND, environment=environment, log=load.directory / "worker.log"
    ) as server:
        yield server


def measured(action: Callable[[], Figures | None], server: StorageServer, *, jobs: int) -> Figures:
    """Return the figures of the client or, if it has none, of this process, including the server's share."""
    own: list[Figures | None] = []
    cpu = server.cpu_seconds()
    here = timed(lambda: own.append(action()), jobs=jobs)
    return with_storage(own[0] or here, server.cpu_seconds() - cpu, jobs=jobs)


def enqueue_one(storage: Storage, peer: Peer, load: Load) -> Figures:
    """Measure enqueueing single jobs."""
    jobs = peer.singles(load)
    with storage.running(load.directory) as server:
        adapter = storage.open_adapter(peer, load, server.url)
        return measured(lambda: adapter.enqueue(jobs), server, jobs=jobs)


def enqueue_bulk(storage: Storage, peer: Peer, load: Load) -> Figures:
    """Measure the peer's bulk call, with 500 jobs per call."""
    jobs = peer.amount(load)
    with storage.running(load.directory) as server:
        adapter = storage.open_adapter(peer, load, server.url)
        return measured(lambda: adapter.enqueue_bulk(jobs, CHUNK), server, jobs=jobs)


def fill(adapter: Any, jobs: int) -> None:  # noqa: ANN401 - a module
    """Enqueue jobs in the fastest way."""
    if hasattr(adapter, "enqueue_bulk"):
        adapter.enqueue_bulk(jobs, CHUNK)
    else:
        adapter.enqueue(jobs)


def process(storage: Storage, peer: Peer, load: Load) -> Figures:
    """Measure running jobs that were all stored before, from the first end to the last."""
    jobs = peer.amount(load)
    path = load.directory / "timestamps"
    with storage.running(load.directory) as server:
        adapter = storage.open_adapter(peer, load, server.url, last=jobs)
        fill(adapter, jobs)
        with working(adapter, load) as worker:
            reached = partial(ends.read_reached, path)
            cpu = servers.watch_drain(worker, reached, jobs=jobs, storage=server.cpu_seconds)
    ended = timestamps.read(path)
    return {"jobs_per_s": (jobs - 1) / (ended[jobs] - ended[1]) * 1e9, **cpu}


def footprint(storage: Storage, peer: Peer, load: Load) -> Figures:
    """Count the traffic, the server's work and the stored bytes per job.

    The round trips of processing include the worker's own, from its start to its end.
    """
    jobs = peer.singles(load)
    stored = 2 * jobs if peer.has_bulk else jobs
    path = load.directory / "timestamps"
    with storage.running(load.directory) as server, counting.counting(server.port) as wire:
        adapter = storage.open_adapter(peer, load, server.url_at(wire.port), last=stored)

        def work() -> None:
            with working(adapter, load) as worker:
                worker.wait_until(lambda: ends.read_reached(path) >= stored, what=f"{stored} jobs had ended")

        steps: dict[str, counting.Step] = {"one": (jobs, lambda: adapter.enqueue(jobs))}
        if peer.has_bulk:
            steps["bulk"] = (jobs, lambda: adapter.enqueue_bulk(jobs, CHUNK))
        steps["process"] = (stored, work)
        return counting.measure(steps, server, wire)


def start_to_start(storage: Storage, peer: Peer, load: Load, *, gaps: latency.Gaps) -> Figures:
    """Measure the time from the call to the start of the task."""
    with storage.running(load.directory) as server:
        adapter = storage.open_adapter(peer, load, server.url)
        with working(adapter, load) as worker:
            path = load.directory / "timestamps"
            return latency.measure(worker, adapter.stamp, path, samples=load.samples, gaps=gaps)


SCENARIOS: Mapping[str, PeerScenario] = {
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "footprint": footprint,
    "latency": partial(start_to_start, gaps=latency.even),
    "latency_busy": partial(start_to_start, gaps=latency.busy),
}


def scenarios(peer: Peer) -> frozenset[str]:
    """Return the names of a peer's scenarios."""
    return frozenset(name for name in SCENARIOS if peer.has_bulk or name != "enqueue_bulk")


def main(storage: Storage, peers: Mapping[str, Peer], **others: PeerScenario) -> None:
    """Run the scenario of the peer on the command line; `others` replace scenarios of this module."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--peer", choices=sorted(peers), required=True)
    options, sys.argv[1:] = parser.parse_known_args()
    functions: dict[str, ScenarioFunction] = {
        name: partial(scenario, storage, peers[options.peer])
        for name, scenario in {**SCENARIOS, **others}.items()
    }
    run(functions)
