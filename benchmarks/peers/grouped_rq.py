"""RQ on Redis with a group and a job that depends on all its members: its worker and its client."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from redis import Redis
from rq import Queue  # type: ignore[import-not-found]
from rq.group import Group  # type: ignore[import-not-found]

from benchmarks.peers import records

COMMAND = [str(Path(sys.executable).with_name("rq")), "worker", "--url", os.environ[records.URL]]
COMMAND += ["--worker-class", "rq.SimpleWorker", "--quiet"]

MEMBER, FOLLOW = "benchmarks.peers.grouped_rq.member", "benchmarks.peers.grouped_rq.follow"


def member(number: int) -> None:
    """Run a member of the group."""
    records.run(number)


def follow(number: int) -> None:
    """Record the run of the callback."""
    records.write("callback", number)


if __name__ == "__main__":
    connection = Redis.from_url(records.url())
    queue = Queue(connection=connection)
    numbers = range(int(sys.argv[1]))
    with records.storing():
        datas = [Queue.prepare_data(MEMBER, (number,)) for number in numbers]
        jobs = Group.create(connection=connection).enqueue_many(queue, datas)
        queue.enqueue_call(FOLLOW, (0,), depends_on=jobs)
