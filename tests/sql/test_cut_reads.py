"""Across modules: a read whose connection is cut is repeated, so no page shows the restart of a server."""

from __future__ import annotations

from contextlib import closing
from itertools import count

import pytest
from sqlalchemy import create_engine

from firelock.storage import JobFilter, NewJob, State, StorageUnavailable
from firelock_sql.mysql import storage as mysql_opening
from firelock_sql.postgresql import storage as postgresql_opening
from tests.faults.proxy import FaultProxy

READS = {
    "get": lambda storage: storage.get(["nobody"]),
    "find": lambda storage: storage.find(JobFilter(), limit=10),
    "counts": lambda storage: storage.counts(),
    "sessions": lambda storage: storage.list_sessions(),
    "history": lambda storage: storage.history("nobody"),
    "clock": lambda storage: storage.clock() > 0,
}


@pytest.fixture
def proxy(server_database):
    """A proxy in front of the server."""
    with FaultProxy(server_database.server.address) as proxy:
        yield proxy


@pytest.fixture(params=["a URL", "an engine"])
def storage(request, server_database, proxy):
    """The storage behind the proxy, opened by its URL or with a caller's engine; its tables exist."""
    opened = postgresql_opening if server_database.url().startswith("postgresql") else mysql_opening
    engine = create_engine(server_database.engine_url(port=proxy.port))
    by_url = request.param == "a URL"
    storage = opened.open_url(server_database.url(port=proxy.port)) if by_url else opened.open_engine(engine)
    with closing(storage):
        storage.clear()
        yield storage
    engine.dispose()


def lose(proxy, number):
    """Lose the reply to the request with this number, counted from now, along with its connection."""
    numbers = count(1)
    proxy.lose_reply(lambda _: next(numbers) == number)


def lost_replies(proxy, read):
    """Return how many replies a read receives, after each of them was lost once."""
    for number in count(1):
        expected, before = read(), proxy.lost  # this also opens a connection
        lose(proxy, number)
        assert expected == read()
        proxy.heal()
        if proxy.lost == before:
            return number - 1
    raise AssertionError


@pytest.mark.parametrize("read", READS)
def test_read_succeeds_after_any_lost_reply(proxy, storage, read):
    """The lost reply may be the one to the start of the transaction, to a statement, or to the commit.

    A single query has only one reply.
    """
    assert lost_replies(proxy, lambda: READS[read](storage)) >= (1 if read == "get" else 2)


def new_job(storage):
    """Return a job of a task that no server runs."""
    return NewJob(storage.new_ids(1)[0], "task", "{}", "json", "default", 0, State.ENQUEUED, storage.clock())


def test_write_is_not_repeated_after_a_lost_reply(proxy, storage):
    """Whichever reply is lost, a write that is not reported as stored is not repeated."""
    results = []
    for number in range(1, 5):
        job = new_job(storage)
        lose(proxy, number)
        try:
            results.append(storage.insert([job]).is_new == [True])
        except StorageUnavailable:
            results.append(storage.get([job.id]) == [None] or storage.insert([job]).is_new == [False])
        proxy.heal()

    assert [True] * 4 == results


def test_second_lost_reply_of_a_read_is_reported(proxy, storage):
    """If every connection is lost before its reply arrives, a read is tried only twice."""
    tries = []

    def lose_all(tx):
        tries.append(tx)
        tx.cursor.execute("SELECT 1")
        proxy.reset()
        tx.cursor.execute("SELECT 1")

    with pytest.raises(StorageUnavailable):
        storage._database.read(lose_all)  # noqa: SLF001 - to lose the connection within a read

    assert 2 == len(tries)


def test_pool_of_dead_connections_is_replaced(server_database, storage):
    """After a restart of the server, no connection in the pool works."""
    use_several(storage)
    server_database.end_connections()

    assert {} == dict(storage.counts().by_state)


def use_several(storage, number=3):
    """Let the pool have this number of connections."""
    database = storage._database  # noqa: SLF001 - only nested reads are sure to take several connections

    def nested(depth):
        return 0 if depth == 0 else database.read(lambda _: nested(depth - 1))

    nested(number)
