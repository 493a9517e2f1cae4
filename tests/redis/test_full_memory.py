"""Across modules: a Redis without free memory stores no new job, but its jobs run, as documented."""

from __future__ import annotations

from datetime import timedelta

import pytest

from firelock import Cron, Firelock, Retry, StorageUnavailable, Unique
from firelock.testing import eventually
from tests.faults.proxy import FaultProxy
from tests.ports import HOST, free_port
from tests.redis.servers import RedisServer


@pytest.fixture
def fire(program):
    """An app on a separate server. A test fills the memory by lowering its limit."""
    with RedisServer(program) as server:
        fire = Firelock(server.url())
        fire.storage.migrate()
        fire.fill = lambda: server.call("CONFIG", "SET", "maxmemory", "1")
        yield fire
        fire.close()


def tasks_of(fire):
    """Return a task that returns its argument, and one that fails twice."""

    @fire.task(name="echo")
    def echo(number: int) -> int:
        return number

    @fire.task(name="fail", retry=Retry(attempts=1, waits=[0.05]))
    def fail() -> None:
        raise ValueError("as it was asked to")

    return echo, fail


def test_full_memory_refuses_new_data(fire):
    """Jobs, continuations, definitions and small records are refused while memory is full."""
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


def test_full_memory_lets_stored_jobs_run_and_expire(fire):
    """Stored jobs can run, fail, wait and be released, a server can start, and expired jobs are pruned."""
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


def test_full_memory_allows_operators_and_locks(fire):
    """A person can therefore use these commands to free memory."""
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


def test_refused_enqueue_is_marked_as_untouched(fire):
    """The caller can therefore send any kind of job again without creating a second one."""
    echo, _ = tasks_of(fire)
    keyed = fire.task(name="keyed", unique=Unique("{number}"))(lambda number: None)
    parent = echo.enqueue(1)
    fire.fill()

    for store in (
        lambda: echo.enqueue(2),
        lambda: echo.enqueue_many([(2,), (3,)]),
        lambda: parent.then(echo, 2),
        lambda: keyed.enqueue(2),
    ):
        with pytest.raises(StorageUnavailable) as caught:
            store()
        assert caught.value.is_untouched, caught.value


def test_refused_connection_and_replica_leave_an_enqueue_untouched(program):
    """The port is closed, the server has reached its client limit, or the server has become a replica."""
    with RedisServer(program) as server:
        away = Firelock(f"redis://{HOST}:{free_port()}")
        fire = Firelock(server.url())
        echo, _ = tasks_of(fire)
        echo.enqueue(1)
        server.call("REPLICAOF", HOST, str(free_port()))
        for task in (tasks_of(away)[0], echo):
            with pytest.raises(StorageUnavailable) as caught:
                task.enqueue(2)
            assert caught.value.is_untouched, caught.value
        server.call("REPLICAOF", "NO", "ONE")
        echo.enqueue(2)  # this client keeps its connection
        crowd = Firelock(server.url())
        server.call("CONFIG", "SET", "maxclients", "1")
        with pytest.raises(StorageUnavailable) as caught:
            tasks_of(crowd)[0].enqueue(3)
        for one in (away, fire, crowd):
            one.close()

    assert caught.value.is_untouched, caught.value


def test_lost_reply_does_not_leave_an_enqueue_untouched(program):
    """In this test, the job is stored, but both replies are lost."""
    with RedisServer(program) as server, FaultProxy((HOST, server.port)) as proxy:
        fire = Firelock(f"redis://{HOST}:{proxy.port}")
        echo, _ = tasks_of(fire)
        echo.enqueue(1)  # this loads the script
        proxy.lose_reply(lambda request: b"echo" in request, times=None)
        with pytest.raises(StorageUnavailable) as caught:
            echo.enqueue(2)
        proxy.heal()

        assert fire.jobs.counts().by_state["enqueued"] == 2
        fire.close()
    assert not caught.value.is_untouched
