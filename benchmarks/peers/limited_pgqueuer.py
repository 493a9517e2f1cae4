"""PgQueuer with the limit of an entrypoint: its worker and its client."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import uvloop  # type: ignore[import-not-found]
from pgqueuer import PgQueuer  # type: ignore[import-not-found]
from pgqueuer.db import AsyncpgDriver  # type: ignore[import-not-found]
from pgqueuer.queries import Queries  # type: ignore[import-not-found]

from benchmarks.peers import records

COMMAND = [sys.executable, "-m", "benchmarks.peers.limited_pgqueuer", "work"]
PROGRAM = str(Path(sys.executable).with_name("pgq"))


async def work() -> None:
    """Run the worker until it is stopped."""
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(records.url())))

    @queue.entrypoint("work", concurrency_limit=records.limit())  # type: ignore[untyped-decorator]
    async def run(job: Any) -> None:  # noqa: ANN401 - its own job
        number = int(job.payload)
        records.write("start", number)
        if records.seconds():
            await asyncio.sleep(records.seconds())
        records.write("end", number)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=10, dequeue_timeout=timedelta(seconds=1), max_concurrent_tasks=20)


async def enqueue(jobs: int) -> None:
    """Enqueue jobs."""
    client = Queries(AsyncpgDriver(await asyncpg.connect(records.url())))
    for begin in range(0, jobs, 500):
        payloads = [str(number).encode() for number in range(begin, min(begin + 500, jobs))]
        await client.enqueue(["work"] * len(payloads), payloads, [0] * len(payloads))


if __name__ == "__main__":
    if sys.argv[1] == "work":
        uvloop.run(work())
    else:
        subprocess.run([PROGRAM, "--pg-dsn", records.url(), "install"], check=True, stdout=subprocess.DEVNULL)
        uvloop.run(enqueue(int(sys.argv[1])))
