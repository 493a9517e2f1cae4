"""Across modules: after a wait without notifications, a claim first uses a smaller script."""

from __future__ import annotations

from collections import Counter

import pytest

from firelock import Turns
from firelock.storage import ClaimRequest, NewSession
from tests.apps import app_at
from tests.redis.counting import CountingProxy

_ASKING = ("client", "info")  # commands of clients that read the counters; newer servers count each form
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
    """The same application, with a separate storage as in another process."""
    with app_at(server.url()) as other:
        yield other


def claim(app, queues, limit=10):
    return app.fire.storage.claim(ClaimRequest(queues, limit, "session", 0))


def claim_nothing(app, queues):
    """Claim and wait, as an idle server does."""
    assert [] == claim(app, queues).jobs
    assert not app.fire.storage.wait(queues, 0.001)


@pytest.mark.parametrize("queues", QUEUES)
def test_idle_claim_finds_new_jobs(app, other, queues):
    """New jobs are found whether or not their notification has arrived before the claim."""
    claim_nothing(app, queues)
    other.noop.enqueue_many([(0,), (1,)])

    assert 2 == len(claim(app, queues).jobs)


def test_idle_claim_finds_jobs_with_limits(app, other):
    """Jobs with limits are stored in lanes, separately from other jobs."""
    claim_nothing(app, ["default"])
    other.noop.using(limits=[Turns("tenant:1")]).enqueue(0)

    assert 1 == len(claim(app, ["default"]).jobs)


def test_idle_claim_skips_other_and_paused_queues(app, other):
    """The smaller script follows the same rules as any other claim."""
    other.noop.using(queue="other").enqueue(0)
    claim_nothing(app, ["default"])
    other.fire.queues.pause("other", note="why", by="ada")
    assert [] == claim(app, ["default"]).jobs
    claim_nothing(app, None)

    assert [] == claim(app, None).jobs


def test_idle_claim_returns_the_next_due_time(app, other):
    """Knowing this time, the server can claim the job when it becomes due."""
    claim_nothing(app, None)
    assert claim(app, None).next_due_at is None
    claim_nothing(app, None)
    job = other.noop.schedule(3_600, 0)

    assert job.record().due_at == claim(app, None).next_due_at


def test_idle_claim_reports_a_lost_session(app, other):
    """The loss is reported even if jobs could be claimed."""
    claim_nothing(app, None)
    other.fire.storage.end_session("session", [], reason="lost")
    other.noop.enqueue(0)

    found = claim(app, None)

    assert found.is_session_lost
    assert [] == found.jobs


def test_idle_claim_takes_one_round_trip_without_writing(server):
    """The script reads the session, the queues that have jobs, and the first due job."""
    server.empty()
    with CountingProxy(server) as proxy, app_at(proxy.url()) as app:
        app.fire.storage.begin_session(NewSession("session", "server", "name", "host", 7, 0, 30.0))
        for _ in range(2):  # the first one sends the scripts
            claim_nothing(app, None)
        before = calls(server)
        with proxy.measure() as measure:
            claim(app, None)
        made = calls(server) - before

    assert 1 == measure.traffic.trips
    assert Counter(evalsha=1, hget=1, smembers=2, zrange=2) == made


def calls(server):
    """Return how often the server has run each command, including commands within scripts."""
    found = server.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(one[6:].split(",")[0]) for name, one in found.items()}
    return Counter({name: number for name, number in calls.items() if not name.startswith(_ASKING)})
