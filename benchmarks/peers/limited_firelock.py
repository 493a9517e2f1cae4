"""Firelock with a limit like those of the peers: its worker and its client."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peers import records
from firelock import Firelock, Limit

COMMAND = [
    str(Path(sys.executable).with_name("firelock")),
    "server",
    "benchmarks.peers.limited_firelock:fire",
]
COMMAND += ["--workers", "10", "--processes", "1"]

fire = Firelock(os.environ.get(records.URL))
_limits = [Limit("work", concurrent=records.limit())] if records.limit() else []
_limits += [Limit("api", rate=records.rate(), per=1)] if records.rate() else []
work = fire.task(name="work", limits=_limits)(records.run)


if __name__ == "__main__":
    fire.storage.migrate()
    work.enqueue_many([(number,) for number in range(int(sys.argv[1]))])
    fire.close()
