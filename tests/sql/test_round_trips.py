"""Across modules: the round trips and commits of a job on PostgreSQL.

They are counted, so timing does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.apps import App, app_at
from tests.faults.proxy import FaultProxy
from tests.sql.databases import PostgresqlDatabase

MANY, FEW, CHUNK = 10_000, 50, 500
WARM = 9  # jobs that run before anything is counted; after them, statements are prepared
WRITERS = "SELECT pg_current_xact_id()::text::bigint"


@pytest.fixture
def proxy(postgresql: PostgresqlDatabase) -> Iterator[FaultProxy]:
    """A counting proxy in front of the server."""
    with FaultProxy(postgresql.server.address) as proxy:
        yield proxy


@pytest.fixture
def counted(postgresql: PostgresqlDatabase, proxy: FaultProxy) -> Iterator[App]:
    """The application behind the proxy, connected to an empty storage."""
    with app_at(postgresql.url("listen=off", port=proxy.port)) as app:
        app.fire.storage.clear()
        for number in range(WARM - 2):
            app.noop.enqueue(number)
        app.noop.enqueue_many([(0,), (0,)])
        with app.fire.server(workers=1):
            app.await_succeeded(WARM)
        yield app


@pytest.fixture
def observer(postgresql: PostgresqlDatabase, counted: App) -> Iterator[App]:
    """The same application without the proxy, so its requests are not counted."""
    with app_at(postgresql.url("listen=off")) as app:
        yield app


def read_writers(admin: psycopg.Connection) -> int:
    """Return how many transactions have written so far; this query adds one."""
    found = admin.execute(WRITERS).fetchone()
    assert found is not None
    return int(found[0])


def test_enqueue_takes_one_round_trip_and_one_commit(counted, proxy, admin):
    """The statement is a whole transaction without BEGIN and COMMIT. Each connection prepares it once."""
    before, writers = proxy.traffic, read_writers(admin)

    for number in range(FEW):
        counted.noop.enqueue(number)

    assert FEW <= (proxy.traffic - before).trips <= FEW + before.connections
    assert FEW == read_writers(admin) - writers - 1


def test_five_hundred_jobs_take_one_round_trip_and_one_commit(counted, proxy, admin):
    """Jobs are stored 500 at a time.

    If a connection must prepare its statement, there is one more round trip.
    """
    before, writers = proxy.traffic, read_writers(admin)

    counted.noop.enqueue_many([(number,) for number in range(CHUNK)])

    assert (proxy.traffic - before).trips <= 2
    assert 1 == read_writers(admin) - writers - 1


def test_saturated_server_shares_round_trips_and_commits(counted, observer, proxy, admin):
    """Twenty jobs take at most one round trip and one commit.

    This includes the start and end of the server.
    """
    observer.noop.enqueue_many([(number,) for number in range(MANY)])
    before, writers = proxy.traffic, read_writers(admin)

    with counted.fire.server(workers=10):
        observer.await_succeeded(WARM + MANY)

    traffic = proxy.traffic - before
    assert traffic.trips <= 0.05 * MANY
    assert traffic.sent + traffic.received <= 600 * MANY
    assert read_writers(admin) - writers <= 0.05 * MANY


def test_writes_of_a_transaction_are_sent_with_its_commit(counted, proxy, admin):
    """A deletion reads the job and the clock, and sends all of its writes together with the commit."""
    jobs = [counted.noop.using(delay=60).enqueue(0) for _ in range(FEW)]
    before, writers = proxy.traffic, read_writers(admin)

    for job in jobs:
        job.delete()

    assert (proxy.traffic - before).trips <= 3 * FEW + before.connections
    assert FEW == read_writers(admin) - writers - 1


def test_read_of_one_job_takes_one_round_trip(counted, proxy):
    """A single query needs no transaction to read one snapshot. Each connection prepares it once."""
    job = counted.noop.using(delay=60).enqueue(0)
    before = proxy.traffic

    for _ in range(FEW):
        job.refresh()

    assert FEW <= (proxy.traffic - before).trips <= FEW + before.connections
