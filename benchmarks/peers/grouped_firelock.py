"""Firelock with a batch and its continuation: its worker and its client."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peers import records
from firelock import Firelock

COMMAND = [
    str(Path(sys.executable).with_name("firelock")),
    "server",
    "benchmarks.peers.grouped_firelock:fire",
]
COMMAND += ["--workers", "10", "--processes", "1"]

fire = Firelock(os.environ.get(records.URL))
member = fire.task(name="member")(records.run)


@fire.task(name="follow")
def follow(number: int) -> None:
    """Record the run of the callback."""
    records.write("callback", number)


if __name__ == "__main__":
    fire.storage.migrate()
    with records.storing(), fire.batch("measured") as batch:
        batch.add_many([member.call(number) for number in range(int(sys.argv[1]))])
        batch.then(follow, 0)
    fire.close()
