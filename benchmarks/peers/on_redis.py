"""One peer on Redis in one scenario; `on_storage` describes the adapters."""

from __future__ import annotations

from benchmarks import redis_server
from benchmarks.entry import Figures, Load
from benchmarks.peers import on_storage
from benchmarks.peers.on_storage import Storage
from benchmarks.peers.peer import Peer
from benchmarks.peers.redis_peers import PEERS

REDIS = Storage(redis_server.running, "FIRELOCK_BENCH_REDIS")


def footprint(storage: Storage, peer: Peer, load: Load) -> Figures:
    """Count the traffic and the server's memory per job."""
    figures = on_storage.footprint(storage, peer, load)
    del figures["finished_bytes"]  # no peer keeps a record; this is the growth of the server or a stream
    return figures


if __name__ == "__main__":
    on_storage.main(REDIS, PEERS, footprint=footprint)
