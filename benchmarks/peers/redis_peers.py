"""The peers on Redis: who they are, what is noted of them, and how much each is given to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A job system on Redis."""

    module: str
    """Its adapter, below `benchmarks.peers`."""
    language: str
    packages: tuple[str, ...]
    """Those whose versions are written down."""
    is_acknowledging: bool
    """Whether a job in hand outlives the crash of its worker."""
    settings: str
    share: int
    """It is given one job of so many: the slower, the fewer."""
    has_bulk: bool = False
    environment: str = "redis"
    """Of requirements-ENVIRONMENT.txt: one where nothing conflicts."""


PEERS = {
    "celery": Peer(
        "celery_redis",
        "Python",
        ("celery", "kombu", "redis"),
        is_acknowledging=True,
        settings="10 threads, late acks, prefetch 64, results ignored, no gossip, mingle, heartbeat, events",
        share=20,
    ),
    "rq": Peer(
        "rq_redis",
        "Python",
        ("rq", "redis"),
        is_acknowledging=True,
        settings="SimpleWorker (the default one forks for each job), result_ttl=0; bulk: enqueue_many of 500",
        share=50,
        has_bulk=True,
    ),
    "dramatiq": Peer(
        "dramatiq_redis",
        "Python",
        ("dramatiq", "redis"),
        is_acknowledging=True,
        settings="one process, 8 threads (its default), default middleware, no results",
        share=20,
    ),
    "huey": Peer(
        "huey_redis",
        "Python",
        ("huey", "redis"),
        is_acknowledging=False,
        settings="10 threads, blocking reads, results=False; a job is gone from Redis when a worker has it",
        share=5,
    ),
    "saq": Peer(
        "saq_redis",
        "Python",
        ("saq", "redis"),
        is_acknowledging=True,
        settings="concurrency 20, no results kept (ttl=-1), uvloop",
        share=20,
        environment="saq",
    ),
    "taskiq": Peer(
        "taskiq_redis_streams",
        "Python",
        ("taskiq", "taskiq-redis", "redis"),
        is_acknowledging=True,
        settings="streams read 100 at once, one worker of 100 tasks (its default), no results, uvloop",
        share=10,
    ),
    "streaq": Peer(
        "streaq_redis",
        "Python",
        ("streaq", "coredis"),
        is_acknowledging=True,
        settings="concurrency 16 (its default), ttl=0, uvloop; bulk: enqueue_many of 500",
        share=50,
        has_bulk=True,
    ),
    "sidekiq": Peer(
        "sidekiq_redis",
        "Ruby",
        (),
        is_acknowledging=False,
        settings="5 threads (its default); a crash loses what is in hand; bulk: perform_bulk of 500",
        share=2,
        has_bulk=True,
    ),
    "bullmq": Peer(
        "bullmq_redis",
        "JavaScript",
        (),
        is_acknowledging=True,
        settings="concurrency 20, removeOnComplete, ioredis; bulk: addBulk of 500",
        share=5,
        has_bulk=True,
    ),
}
