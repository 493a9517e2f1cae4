"""A Redis Cluster that a run starts on loopback and stops at its end."""

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
LONGEST_SECONDS = 30.0
OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "30000", "--loglevel", "warning")


@attrs.frozen
class Cluster:
    """Running nodes that agree on the distribution of slots."""

    nodes: Sequence[RedisServer]

    def url(self, partitions: int) -> str:
        """Return the cluster's URL for Firelock."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}?partitions={partitions}"

    def cpu_seconds(self) -> float:
        """Return the processor time of all nodes."""
        return sum(node.cpu_seconds() for node in self.nodes)

    def scripts_run(self) -> int:
        """Return the number of script calls by clients on all nodes."""
        return sum(calls_of(node, "evalsha") + calls_of(node, "eval") for node in self.nodes)


@contextmanager
def running(directory: Path, count: int = NODES) -> Iterator[Cluster]:
    """Run an empty cluster with this number of nodes within the block.

    Raises:
        NoRedis: If Redis is not installed, or the nodes do not find each other.
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
    """Return how many times the node has received the command."""
    statistics = node.read_info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(statistics.split(",")[0].removeprefix("calls="))


def await_agreement(nodes: Sequence[RedisServer]) -> None:
    """Wait until every node knows all others and considers the cluster complete.

    Raises:
        NoRedis: If this does not happen in time.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    while not all(is_in(node, len(nodes)) for node in nodes):
        if time.monotonic() > deadline:
            message = f"The nodes do not find each other: {nodes[0].call('CLUSTER', 'INFO')}"
            raise NoRedis(message)
        time.sleep(0.05)


def is_in(node: RedisServer, count: int) -> bool:
    """Return whether all slots are served and all nodes are known, according to this node."""
    lines = node.call("CLUSTER", "INFO").splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return facts["cluster_state"] == "ok" and facts["cluster_size"] == str(count)
