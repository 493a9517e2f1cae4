"""The peers on PostgreSQL, with their descriptions and numbers of jobs.

Those in `STEPPED` store steps; they are used only for the measurements of steps.
"""

from __future__ import annotations

from benchmarks.peers.peer import Peer

_PGQUEUER = ("pgqueuer", "asyncpg")
_OBAN = ("oban", "psycopg", "uvloop")
_CELERY = "10 threads, late acks, prefetch 64, results ignored, no gossip, mingle, heartbeat, events"

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
    "oban": Peer(
        "oban_postgresql",
        "Python",
        _OBAN,
        is_acknowledging=True,
        settings="queue limit 10 (its documentation's), pool of 1 to 10, uvloop; bulk: enqueue_many of 500",
        share=20,
        environment="oban",
        has_bulk=True,
        python=(3, 12),
    ),
    "oban of 100": Peer(
        "oban_postgresql_100",
        "Python",
        _OBAN,
        is_acknowledging=True,
        settings="queue limit 100, pool of 1 to 10, uvloop; bulk: enqueue_many of 500",
        share=20,
        environment="oban",
        has_bulk=True,
        python=(3, 12),
    ),
    "celery on pgmq": Peer(
        "celery_pgmq",
        "Python",
        ("celery", "kombu", "pgmq", "psycopg"),
        is_acknowledging=True,
        settings=f"{_CELERY}; notifications, no long polls, visibility timeout 1,800 s (its default)",
        share=50,
        environment="celery",
    ),
    "celery on sqlalchemy": Peer(
        "celery_postgresql",
        "Python",
        ("celery", "kombu", "SQLAlchemy", "psycopg"),
        is_acknowledging=False,
        settings=f"{_CELERY}; psycopg; idle workers poll every second, which no setting changes; "
        "jobs that a killed worker had fetched stay hidden in the table forever",
        share=50,
        environment="celery",
    ),
    "dramatiq": Peer(
        "dramatiq_postgresql",
        "Python",
        ("dramatiq", "dramatiq-pg", "psycopg2-binary"),
        is_acknowledging=True,
        settings="dramatiq-pg; one process, 8 threads (its default), default middleware, no results",
        share=50,
        environment="dramatiq-pg",
    ),
}

STEPPED = {
    "dbos": Peer(
        "stepped_dbos",
        "Python",
        ("dbos", "psycopg"),
        is_acknowledging=True,
        settings="10 threads, at most 20 running workflows, polls every 0.1 s; each worker has its own "
        "executor name, because only an executor with the same name recovers its workflows",
        share=1,
        environment="durable",
    ),
    "absurd": Peer(
        "stepped_absurd",
        "Python",
        ("absurd-sdk", "absurdctl", "psycopg"),
        is_acknowledging=True,
        settings="10 threads; claims time out after 120 s and idle workers poll every 0.25 s (its defaults)",
        share=1,
        environment="durable",
    ),
}
