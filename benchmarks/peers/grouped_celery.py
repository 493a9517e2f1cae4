"""Celery on Redis with a chord: its worker and its client."""

from __future__ import annotations

import os
import sys

from celery import Celery, chord  # type: ignore[import-untyped]

from benchmarks.peers import records
from benchmarks.peers.celery_app import QUIET

COMMAND = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.grouped_celery:app", "worker"]
COMMAND += ["--pool", "threads", "--concurrency", "10", *QUIET]

url = os.environ.get(records.URL)
app = Celery("bench", broker=url, backend=url)
app.conf.update(
    task_acks_late=True,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
member = app.task(name="member")(records.run)


@app.task(name="follow")  # type: ignore[untyped-decorator]
def follow(number: int) -> None:
    """Record the run of the callback."""
    records.write("callback", number)


if __name__ == "__main__":
    with records.storing():
        chord([member.si(number) for number in range(int(sys.argv[1]))])(follow.si(0))
    os._exit(0)  # otherwise each unused result would send a command to Redis while Python shuts down
