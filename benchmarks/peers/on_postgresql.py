"""One peer on PostgreSQL in one scenario; `on_storage` describes the adapters."""

from __future__ import annotations

from benchmarks import postgresql_server
from benchmarks.peers import on_storage
from benchmarks.peers.on_storage import Storage
from benchmarks.peers.postgresql_peers import PEERS

POSTGRESQL = Storage(postgresql_server.running, "FIRELOCK_BENCH_POSTGRESQL")

if __name__ == "__main__":
    on_storage.main(POSTGRESQL, PEERS)
