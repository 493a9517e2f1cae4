"""A Redis Cluster of a run's own: nodes on loopback that share the slots, ended with the run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks import redis_server
from benchmarks.redis_server import NoRedis, RedisServer

NODES = 3
SLOTS = 16_384
PATIENCE_SECONDS = 30.0
OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "30000", "--loglevel", "warning")


@attrs.frozen
class Cluster:
    """Running nodes that agree on who has which slot."""

    nodes: Sequence[RedisServer]

    def url(self, partitions: int) -> str:
        """Return Firelock's URL of it."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}?partitions={partitions}"

    def cpu_seconds(self) -> float:
        """Return what all nodes have used of the processors."""
        return sum(node.cpu_seconds() for node in self.nodes)

    def scripts_run(self) -> int:
        """Return how many scripts clients have called, on all nodes."""
        return sum(calls_of(node, "evalsha") + calls_of(node, "eval") for node in self.nodes)


@contextmanager
def running(directory: Path, count: int = NODES) -> Iterator[Cluster]:
    """Run an empty cluster of so many nodes for as long as the block lasts.

    Raises:
        NoRedis: there is none, or its nodes do not find one another.
    """
    with ExitStack() as stack:
        nodes = []
        for number in range(count):
            place = directory / f"node-{number}"
            place.mkdir()
            nodes.append(stack.enter_context(redis_server.running(place, *OPTIONS)))
        for number, node in enumerate(nodes):
            first, last = SLOTS * number // count, SLOTS * (number + 1) // count - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            node.call("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for node in nodes[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port))
        await_agreement(nodes)
        yield Cluster(nodes)


def calls_of(node: RedisServer, command: str) -> int:
    """Return how many times the node was asked for the command."""
    said = node.read_info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(said.split(",")[0].removeprefix("calls="))


def await_agreement(nodes: Sequence[RedisServer]) -> None:
    """Every node knows all others and has the cluster for whole.

    Raises:
        NoRedis: they never do.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(is_in(node, len(nodes)) for node in nodes):
        if time.monotonic() > deadline:
            message = f"The nodes do not find one another: {nodes[0].call('CLUSTER', 'INFO')}"
            raise NoRedis(message)
        time.sleep(0.05)


def is_in(node: RedisServer, count: int) -> bool:
    """Tell whether the node finds every slot served, by as many nodes as there are."""
    lines = node.call("CLUSTER", "INFO").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return facts["cluster_state"] == "ok" and facts["cluster_size"] == str(count)
