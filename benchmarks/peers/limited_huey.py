"""Huey on Redis with its rate limit: its consumer and its client."""

from __future__ import annotations

import sys
from pathlib import Path

from huey import RedisHuey  # type: ignore[import-not-found]

from benchmarks.peers import records

COMMAND = [str(Path(sys.executable).with_name("huey_consumer")), "benchmarks.peers.limited_huey.huey"]
COMMAND += ["-k", "thread", "-w", "10", "--quiet"]

huey = RedisHuey(url=records.url(), results=False, blocking=True)


def run(number: int) -> None:
    """Do the job."""
    records.run(number)


limited = huey.rate_limit("api", records.rate(), per=1)(run) if records.rate() else run
work = huey.task(name="work")(limited)

if __name__ == "__main__":
    for number in range(int(sys.argv[1])):
        work(number)
