"""Across modules: the round trips and bytes of a job. A proxy counts them, so timing does not matter."""

from __future__ import annotations

import pytest

from firelock import Settings
from firelock.server.recurring import fire_due
from firelock.storage import ClaimRequest, NewSession, Renewal
from tests.apps import app_at
from tests.redis.counting import CountingProxy

MANY, FEW = 10_000, 50
WARM = 4  # jobs that run before anything is counted
PING_SECONDS = 15


@pytest.fixture
def proxy(server):
    """A counting proxy in front of an empty server."""
    server.empty()
    with CountingProxy(server) as proxy:
        yield proxy


@pytest.fixture
def counted(proxy):
    """The application behind the proxy, connected to a storage that has its scripts."""
    with app_at(proxy.url()) as app:
        app.noop.enqueue(0)
        app.noop.using(tags=["a"]).enqueue(0)
        app.noop.enqueue_many([(0,), (0,)])
        with app.fire.server(workers=1):
            app.await_succeeded(WARM)
        yield app


@pytest.fixture
def observer(server, counted):
    """The same application without the proxy, so its requests are not counted."""
    with app_at(server.url()) as app:
        yield app


# ---- storing ---------------------------------------------------------------------------------------------


def test_enqueue_takes_one_round_trip(counted, proxy):
    """A job with options takes one round trip as well."""
    with proxy.measure() as measure:
        for number in range(FEW):
            counted.noop.enqueue(number)
        counted.noop.using(priority=3, tags=["a"]).enqueue(0)
        counted.noop.using(delay=60).enqueue(0)

    assert (0, FEW + 2) == (measure.traffic.connections, measure.traffic.trips)


def test_five_hundred_jobs_take_one_round_trip(counted, proxy):
    """Many jobs are stored 500 at a time."""
    with proxy.measure() as measure:
        counted.noop.enqueue_many([(number,) for number in range(500)])

    assert 1 == measure.traffic.trips


# ---- running ---------------------------------------------------------------------------------------------


def test_saturated_server_shares_round_trips_between_jobs(counted, observer, proxy):
    """Twenty jobs take at most one round trip, and each job takes at most 600 bytes.

    Both figures include the start and the end of the server.
    """
    observer.noop.enqueue_many([(number,) for number in range(MANY)])

    with proxy.measure() as measure, counted.fire.server(workers=10):
        observer.await_succeeded(WARM + MANY)

    assert measure.traffic.trips <= 0.05 * MANY
    assert measure.traffic.sent + measure.traffic.received <= 600 * MANY


def test_single_jobs_take_at_most_three_round_trips_of_a_server(counted, observer, proxy):
    """The round trips are the job's claim, its outcome, and a notification that arrives after the claim."""
    with counted.fire.server(workers=1), proxy.measure() as measure:
        for number in range(1, FEW + 1):
            observer.noop.enqueue(number)
            observer.await_succeeded(WARM + number)

    assert measure.traffic.trips <= 3 * FEW


# ---- idling ----------------------------------------------------------------------------------------------


def test_idle_server_sends_two_commands_per_second(counted, proxy):
    """The number of commands of each group of calls is divided by the default period of the group."""
    storage, settings = counted.fire.storage, Settings()
    storage.begin_session(NewSession("session", "server", "name", "host", 7, 0, 30.0))
    calls_by_period = {
        settings.poll: [lambda: storage.claim(ClaimRequest(None, 10, "session", 0))],
        settings.heartbeat * 0.9: [  # the average, because servers drift apart
            lambda: storage.renew([Renewal("session", 0, "running")]),
            lambda: storage.get_record("server_order", "server"),
        ],
        settings.sweep: [storage.oldest_session, lambda: storage.orphans(100)],
        settings.sweep * 3: [
            lambda: fire_due(counted.fire.client),
            lambda: storage.promote(1_000),
            lambda: storage.release(1_000),
        ],
        settings.sweep * 6: [
            lambda: storage.acquire_lock("firelock:retention", "owner", 30.0),
            lambda: storage.prune(1_000),
        ],
    }
    commands_a_second = 1 / PING_SECONDS
    for period, calls in calls_by_period.items():
        for call in calls:
            call()  # this loads the scripts
        with proxy.measure() as measure:
            for call in calls:
                call()
        commands_a_second += sum(measure.commands.values()) / period

    assert commands_a_second <= 2
