"""Dramatiq on Redis with a group and its completion callback: its worker and its client."""

from __future__ import annotations

import sys
from pathlib import Path

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]
from dramatiq.middleware import GroupCallbacks  # type: ignore[import-not-found]
from dramatiq.rate_limits.backends import RedisBackend  # type: ignore[import-not-found]

from benchmarks.peers import records

COMMAND = [str(Path(sys.executable).with_name("dramatiq")), "benchmarks.peers.grouped_dramatiq"]
COMMAND += ["--processes", "1", "--threads", "10"]

broker = RedisBroker(url=records.url())
broker.add_middleware(GroupCallbacks(RedisBackend(url=records.url())))
dramatiq.set_broker(broker)
member = dramatiq.actor(records.run, actor_name="member")


@dramatiq.actor(actor_name="follow")  # type: ignore[untyped-decorator]
def follow(number: int) -> None:
    """Record the run of the callback."""
    records.write("callback", number)


if __name__ == "__main__":
    with records.storing():
        group = dramatiq.group([member.message(number) for number in range(int(sys.argv[1]))])
        group.add_completion_callback(follow.message(0))
        group.run()
