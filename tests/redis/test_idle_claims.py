"""Across modules: a claim after a wait that heard of nothing is looked for by a smaller script first."""

from __future__ import annotations

from collections import Counter

import pytest

from firelock import Turns
from firelock.storage import ClaimRequest, NewSession
from tests.apps import app_at
from tests.redis.counting import CountingProxy

_ASKING = ("client", "info")  # commands of whoever asks for the numbers; newer servers count each form
QUEUES = [None, ["default"], ["other", "default"]]


@pytest.fixture
def app(server):
    """An application with an empty server, and a session."""
    server.empty()
    with app_at(server.url()) as app:
        app.fire.storage.begin_session(NewSession("session", "server", "name", "host", 7, 0, 30.0))
        yield app


@pytest.fixture
def other(server, app):
    """The same application in another process, as far as the storage knows."""
    with app_at(server.url()) as other:
        yield other


def claim(app, queues, limit=10):
    return app.fire.storage.claim(ClaimRequest(queues, limit, "session", 0))


def hear_of_nothing(app, queues):
    """Claim and wait, as an idle server does."""
    assert [] == claim(app, queues).jobs
    assert not app.fire.storage.wait(queues, 0.001)


@pytest.mark.parametrize("queues", QUEUES)
def test_jobs_that_came_since_are_found(app, other, queues):
    """Whether or not their wake-up is heard of before the claim."""
    hear_of_nothing(app, queues)
    other.noop.enqueue_many([(0,), (1,)])

    assert 2 == len(claim(app, queues).jobs)


def test_jobs_with_limits_are_found(app, other):
    """They stand in lanes, apart from the others."""
    hear_of_nothing(app, ["default"])
    other.noop.using(limits=[Turns("tenant:1")]).enqueue(0)

    assert 1 == len(claim(app, ["default"]).jobs)


def test_jobs_of_other_and_paused_queues_are_not_found(app, other):
    """As by any claim."""
    other.noop.using(queue="other").enqueue(0)
    hear_of_nothing(app, ["default"])
    other.fire.queues.pause("other", note="why", by="ada")
    assert [] == claim(app, ["default"]).jobs
    hear_of_nothing(app, None)

    assert [] == claim(app, None).jobs


def test_the_next_due_instant_is_told(app, other):
    """So that the server is there in time."""
    hear_of_nothing(app, None)
    assert claim(app, None).next_due_at is None
    hear_of_nothing(app, None)
    job = other.noop.schedule(3_600, 0)

    assert job.record().due_at == claim(app, None).next_due_at


def test_a_lost_session_is_told(app, other):
    """Also where there is something to claim."""
    hear_of_nothing(app, None)
    other.fire.storage.end_session("session", [], reason="lost")
    other.noop.enqueue(0)

    found = claim(app, None)

    assert found.is_session_lost
    assert [] == found.jobs


def test_an_idle_claim_is_one_round_trip_that_writes_nothing(server):
    """Its script reads the session, the queues that have jobs, and what is due first."""
    server.empty()
    with CountingProxy(server) as proxy, app_at(proxy.url()) as app:
        app.fire.storage.begin_session(NewSession("session", "server", "name", "host", 7, 0, 30.0))
        for _ in range(2):  # the first one sends the scripts
            hear_of_nothing(app, None)
        before = calls(server)
        with proxy.measure() as measure:
            claim(app, None)
        made = calls(server) - before

    assert 1 == measure.traffic.trips
    assert Counter(evalsha=1, hget=1, smembers=2, zrange=2) == made


def calls(server):
    """How often the server has run each command, those within scripts too."""
    found = server.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(one[6:].split(",")[0]) for name, one in found.items()}
    return Counter({name: number for name, number in calls.items() if not name.startswith(_ASKING)})
