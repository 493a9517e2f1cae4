"""The peers on PostgreSQL: who they are, what is noted of them, and how much each is given to do."""

from __future__ import annotations

from benchmarks.peers.peer import Peer

_PGQUEUER = ("pgqueuer", "asyncpg")

PEERS = {
    "pgqueuer": Peer(
        "pgqueuer_postgresql",
        "Python",
        _PGQUEUER,
        is_acknowledging=True,
        settings="asyncpg, batches of 10 (its default), uvloop; bulk: enqueue of 500",
        share=10,
        environment="postgresql",
        has_bulk=True,
    ),
    "pgqueuer of 100": Peer(
        "pgqueuer_postgresql_100",
        "Python",
        _PGQUEUER,
        is_acknowledging=True,
        settings="asyncpg, batches of 100, uvloop; bulk: enqueue of 500",
        share=10,
        environment="postgresql",
        has_bulk=True,
    ),
    "procrastinate": Peer(
        "procrastinate_postgresql",
        "Python",
        ("procrastinate", "psycopg"),
        is_acknowledging=True,
        settings="concurrency 10, psycopg pool, successful jobs kept; bulk: batch_defer of 500",
        share=50,
        environment="postgresql",
        has_bulk=True,
    ),
}
