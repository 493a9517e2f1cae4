"""Across modules: a Redis without free memory stores no new job, but its jobs run, as documented."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock import Cron, Firelock, Retry, StorageUnavailable
from firelock.testing import eventually
from tests.redis.servers import RedisServer


@pytest.fixture
def fire(program):
    """An app on a server of its own, whose memory a test fills by its limit."""
    with RedisServer(program) as server:
        fire = Firelock(server.url())
        fire.storage.migrate()
        fire.fill = lambda: server.ask("CONFIG", "SET", "maxmemory", "1")
        yield fire
        fire.close()


def tasks_of(fire):
    """A task that returns what it is given, and one that fails twice."""

    @fire.task(name="echo")
    def echo(number: int) -> int:
        return number

    @fire.task(name="fail", retry=Retry(attempts=1, waits=[0.05]))
    def fail() -> None:
        raise ValueError("as it was asked to")

    return echo, fail


def test_nothing_new_is_stored(fire):
    """Jobs, continuations, definitions and small records are refused, each for as long as memory is full."""
    echo, _ = tasks_of(fire)
    parent = echo.enqueue(1)
    fire.fill()

    for store in (
        lambda: echo.enqueue(2),
        lambda: echo.enqueue_many([(2,), (3,)]),
        lambda: parent.then(echo, 2),
        lambda: echo.recur("minutely", Cron("* * * * *"), 2),
        lambda: fire.storage.put_record("note", "key", "1"),
    ):
        with pytest.raises(StorageUnavailable, match="memory is full"):
            store()

    assert sum(fire.jobs.counts().by_state.values()) == 1


def test_what_is_stored_drains(fire):
    """Jobs run, fail, wait and follow one another; a server may begin; what is past its time goes."""
    echo, fail = tasks_of(fire)
    first, failing = echo.enqueue(1), fail.enqueue()
    following, later = first.then(echo, 2), echo.schedule(timedelta(milliseconds=100), 3)
    fire.fill()

    with fire.server(workers=2):
        assert [1, 2, 3] == [job.result(timeout=20) for job in (first, following, later)]
        eventually(lambda: failing.refresh().state == "failed", within=20)
    fire.storage.clock_offset = 40 * 86_400 * 1_000_000

    assert fire.storage.prune(100) == 4
    assert not fire.storage.counts().by_state


def test_operators_and_locks_go_on(fire):
    """Whoever makes room by hand is not hindered."""
    echo, _ = tasks_of(fire)
    job = echo.using(queue="mail").enqueue(1)
    echo.recur("minutely", Cron("* * * * *"), 2)
    fire.fill()

    fire.queues.pause("mail")
    fire.queues.resume("mail")
    job.delete()
    job.refresh().requeue()
    job.refresh().delete()
    with fire.lock("door", timeout=5) as lock:
        assert lock.fence
    fire.recurring.remove("minutely")

    assert fire.storage.counts().by_state == {"deleted": 1}
