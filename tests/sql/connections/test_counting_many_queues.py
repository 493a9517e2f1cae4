"""The counts of many queues on database servers: they are correct, and folding them takes few round trips."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.storage import NewJob, State
from firelock_sql.mysql import storage as mysql_opening
from firelock_sql.postgresql import storage as postgresql_opening
from tests.faults.proxy import FaultProxy

QUEUES = [f"queue-{number:03}" for number in range(300)]  # enough differences that they are worth folding


@pytest.fixture
def proxy(server_database):
    """A counting proxy in front of the server."""
    with FaultProxy(server_database.server.address) as proxy:
        yield proxy


@pytest.fixture
def storage(server_database, proxy):
    """An empty storage behind the proxy."""
    opened = postgresql_opening if server_database.url().startswith("postgresql") else mysql_opening
    with closing(opened.open_url(server_database.url(port=proxy.port))) as storage:
        storage.clear()
        yield storage


def add_to_each_queue(storage):
    """Store one job per queue, each of them counted by its own difference."""
    ids = storage.new_ids(len(QUEUES))
    storage.insert([
        NewJob(id, "task", "{}", "json", queue, 0, State.ENQUEUED, storage.clock())
        for id, queue in zip(ids, QUEUES, strict=True)
    ])  # fmt: skip


def test_fold_does_not_take_a_round_trip_for_each_queue(storage, proxy):
    """The counts of new and of known queues are written together, so a caller hardly waits for a fold.

    Some of the round trips open a connection and prepare statements.
    """
    for jobs in (1, 2, 3):
        add_to_each_queue(storage)
        before = proxy.traffic

        storage.promote(1)

        assert (proxy.traffic - before).trips <= len(QUEUES) // 10
        counted = storage.counts().by_queue
        assert dict.fromkeys(QUEUES, jobs) == {
            queue: counts[State.ENQUEUED] for queue, counts in counted.items()
        }
