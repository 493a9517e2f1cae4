"""RQ limits how many jobs of a key run, Huey how many run in a period, Dramatiq both from within a job."""

from __future__ import annotations

import os

import dramatiq.rate_limits as limits
import huey
import redis
import rq
from dramatiq.rate_limits.backends import StubBackend
from huey.exceptions import RateLimitExceeded

queue = rq.Queue(connection=redis.Redis.from_url(os.environ["CLAIMS_REDIS"]))
jobs = [queue.enqueue("builtins.print", rate_limit=rq.RateLimit("shop-7", 1)) for _ in range(3)]
assert len(queue) == 1
print("RQ let one of three of a key into the queue")

memory = huey.MemoryHuey(immediate=True)
limit = memory.rate_limit("mail", limit=1, per=60, retry=False)
with limit:
    pass
try:
    with limit:
        raise AssertionError("Huey let a second one through")
except RateLimitExceeded:
    print("Huey let one a minute through")

concurrent = limits.ConcurrentRateLimiter(StubBackend(), "shop-7", limit=1)
with concurrent.acquire(), concurrent.acquire(raise_on_failure=False) as second:
    assert second is False
print("Dramatiq let one through", limits.BucketRateLimiter.__name__, limits.WindowRateLimiter.__name__)
