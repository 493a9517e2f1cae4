"""One peer on Redis in one scenario, whichever it is: `on_storage` tells what an adapter offers."""

from __future__ import annotations

from benchmarks import redis_server
from benchmarks.entry import Figures, Load
from benchmarks.peers import on_storage
from benchmarks.peers.on_storage import Storage
from benchmarks.peers.peer import Peer
from benchmarks.peers.redis_peers import PEERS

REDIS = Storage(redis_server.running, "FIRELOCK_BENCH_REDIS")


def footprint(storage: Storage, peer: Peer, load: Load) -> Figures:
    """Count what a job costs of the wire and of the server's memory."""
    figures = on_storage.footprint(storage, peer, load)
    del figures["finished_bytes"]  # none keeps a record of it: this is the server's own growth, or a stream's
    return figures


if __name__ == "__main__":
    on_storage.main(REDIS, PEERS, footprint=footprint)
