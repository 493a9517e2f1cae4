"""DBOS on PostgreSQL with steps: its worker and its client."""

from __future__ import annotations

import sys
import threading

from dbos import DBOS, DBOSClient  # type: ignore[import-not-found]

from benchmarks.peers import records

COMMAND = [sys.executable, "-m", "benchmarks.peers.stepped_dbos", "worker"]
THREADS, IN_HAND = 10, 20
POLL_SECONDS = 0.1
"""The default of a second would be most of the measured time."""


@DBOS.workflow(name="work")  # type: ignore[untyped-decorator]
def work(number: int, steps: int) -> None:
    """Run a number of steps."""
    records.take_steps(number, steps, lambda name, step: DBOS.run_step({"name": name}, step))


def launch() -> None:
    """Start; the replacement of a worker recovers the jobs that it was running."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": records.url(),
            "executor_id": records.worker(),
            "application_version": "1",
            "log_level": "ERROR",
            "max_executor_threads": THREADS,
        }
    )
    DBOS.launch()


if __name__ == "__main__":
    launch()
    if sys.argv[1] == "worker":
        threading.Event().wait()
    DBOS.destroy()
    client = DBOSClient(system_database_url=records.url())
    client.register_queue("work", worker_concurrency=IN_HAND, polling_interval_sec=POLL_SECONDS)
    for number in range(int(sys.argv[1])):
        client.enqueue({"queue_name": "work", "workflow_name": "work"}, number, int(sys.argv[2]))
    client.destroy()
