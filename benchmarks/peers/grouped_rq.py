"""RQ on Redis with a group and a job that depends on all its members: its worker and its client."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from redis import Redis
from rq import Queue  # type: ignore[import-not-found]
from rq.group import Group  # type: ignore[import-not-found]

from benchmarks.peers import spans

COMMAND = [str(Path(sys.executable).with_name("rq")), "worker", "--url", os.environ[spans.URL]]
COMMAND += ["--worker-class", "rq.SimpleWorker", "--quiet"]

MEMBER, FOLLOW = "benchmarks.peers.grouped_rq.member", "benchmarks.peers.grouped_rq.follow"


def member(number: int) -> None:
    """Run a member of the group."""
    spans.run(number)


def follow(number: int) -> None:
    """Record the run of the callback."""
    spans.write("callback", number)


if __name__ == "__main__":
    connection = Redis.from_url(spans.url())
    queue = Queue(connection=connection)
    numbers = range(int(sys.argv[1]))
    with spans.storing():
        datas = [Queue.prepare_data(MEMBER, (number,)) for number in numbers]
        jobs = Group.create(connection=connection).enqueue_many(queue, datas)
        queue.enqueue_call(FOLLOW, (0,), depends_on=jobs)
