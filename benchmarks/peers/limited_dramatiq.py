"""Dramatiq on Redis with its rate limiters: its worker and its client."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter  # type: ignore[import-not-found]
from dramatiq.rate_limits.backends import RedisBackend  # type: ignore[import-not-found]

from benchmarks.peers import records

COMMAND = [str(Path(sys.executable).with_name("dramatiq")), "benchmarks.peers.limited_dramatiq"]
COMMAND += ["--processes", "1", "--threads", "10"]

dramatiq.set_broker(RedisBroker(url=records.url()))
_backend = RedisBackend(url=records.url())
_held = ConcurrentRateLimiter(_backend, "work", limit=max(1, records.limit()), ttl=60_000)
_rate = WindowRateLimiter(_backend, "api", limit=max(1, records.rate()), window=1)


def run(number: int) -> None:
    """Run within the limits; if they refuse, fail and retry, as its documentation shows."""
    with ExitStack() as stack:
        if records.limit():
            stack.enter_context(_held.acquire())
        if records.rate():
            stack.enter_context(_rate.acquire())
        records.run(number)


# Its default waits are 15 s to 7 days; with these, it retries immediately and without an end.
work = dramatiq.actor(run, actor_name="work", max_retries=None, min_backoff=50, max_backoff=500)

if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        work.send(number)
