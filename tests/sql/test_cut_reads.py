"""A read whose connection is cut off is done again: nobody sees the restart of a server on a page."""

from __future__ import annotations

from contextlib import closing, contextmanager
from itertools import count

import psycopg
import pytest
from sqlalchemy import create_engine

from firelock.storage import JobFilter, NewJob, State, StorageUnavailable
from firelock_sql.mysql import storage as mysql_opening
from firelock_sql.postgresql import storage as postgresql_opening
from tests.faults.proxy import FaultProxy
from tests.sql.postgresql import end_connections

READS = {
    "get": lambda storage: storage.get(["nobody"]),
    "find": lambda storage: storage.find(JobFilter(), limit=10),
    "counts": lambda storage: storage.counts(),
    "sessions": lambda storage: storage.list_sessions(),
    "history": lambda storage: storage.history("nobody"),
    "clock": lambda storage: storage.clock() > 0,
}


@contextmanager
def behind(proxy, database, opened, by):
    """Yield the storage behind the proxy, by its URL or by an engine of the caller's; it has its tables."""
    engine = create_engine(database.engine_url(port=proxy.port)) if by == "an engine" else None
    storage = opened.open_url(database.url(port=proxy.port)) if engine is None else opened.open_engine(engine)
    with closing(storage):
        storage.clear()
        yield storage
    if engine is not None:
        engine.dispose()


@pytest.fixture(params=["a URL", "an engine"])
def on_postgresql(request, postgresql):
    """The proxy before the server, and the storage behind it."""
    with (
        FaultProxy(postgresql.server.address) as proxy,
        behind(proxy, postgresql, postgresql_opening, request.param) as storage,
    ):
        yield proxy, storage


@pytest.fixture(params=["a URL", "an engine"])
def on_mysql(request, mariadb):
    """As above."""
    with (
        FaultProxy(mariadb.server.address) as proxy,
        behind(proxy, mariadb, mysql_opening, request.param) as storage,
    ):
        yield proxy, storage


def lose(proxy, number):
    """The answer to this one of the requests from now on is lost, with its connection."""
    numbers = count(1)
    proxy.lose_reply(lambda _: next(numbers) == number)


def lost_answers(proxy, ask):
    """How many answers there are to a read; each of them was lost once."""
    for number in count(1):
        expected, before = ask(), proxy.lost  # and a connection is there
        lose(proxy, number)
        assert expected == ask()
        proxy.heal()
        if proxy.lost == before:
            return number - 1
    raise AssertionError


@pytest.mark.parametrize("read", READS)
def test_a_read_is_answered_whichever_answer_of_postgresql_is_lost(on_postgresql, read):
    """To the beginning of its transaction, a statement or the end of it."""
    proxy, storage = on_postgresql

    assert lost_answers(proxy, lambda: READS[read](storage)) >= 2


@pytest.mark.parametrize("read", READS)
def test_a_read_is_answered_whichever_answer_of_mysql_is_lost(on_mysql, read):
    """To the beginning of its transaction, a statement or the end of it."""
    proxy, storage = on_mysql

    assert lost_answers(proxy, lambda: READS[read](storage)) >= 2


def new_job(storage):
    """A job of a task that nobody runs."""
    return NewJob(storage.new_ids(1)[0], "task", "{}", "json", "default", 0, State.ENQUEUED, storage.clock())


def assert_a_write_is_done_once(proxy, storage):
    """Whichever answer to it is lost: where it is not told to be stored, nobody stores it a second time."""
    told = []
    for number in range(1, 5):
        job = new_job(storage)
        lose(proxy, number)
        try:
            told.append(storage.insert([job]).is_new == [True])
        except StorageUnavailable:
            told.append(storage.get([job.id]) == [None] or storage.insert([job]).is_new == [False])
        proxy.heal()

    assert [True] * 4 == told


def test_a_write_is_not_done_again_on_postgresql(on_postgresql):
    """Nobody knows whether it was done: the caller is told."""
    assert_a_write_is_done_once(*on_postgresql)


def test_a_write_is_not_done_again_on_mysql(on_mysql):
    """As above."""
    assert_a_write_is_done_once(*on_mysql)


def test_a_second_loss_is_told_on_postgresql(on_postgresql):
    """A read is asked for twice, and no more, where every answer is lost."""
    proxy, storage = on_postgresql
    proxy.lose_reply(lambda request: b"firelock_jobs" in request, times=None)

    with pytest.raises(StorageUnavailable):
        storage.get(["nobody"])

    assert 2 == proxy.lost


def test_a_second_loss_is_told_on_mysql(on_mysql, mariadb):
    """As above, where a cipher hides what is asked: the connection is ended while it reads."""
    _, storage = on_mysql
    ended = []

    def end_the_connection(tx):
        tx.cursor.execute("SELECT CONNECTION_ID()")
        ended.extend(tx.cursor.fetchone())
        with mariadb.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("KILL CONNECTION %s", ended[-1:])
        tx.cursor.execute("SELECT 1")

    with pytest.raises(StorageUnavailable):
        storage._database.read(end_the_connection)  # noqa: SLF001 - what befalls it within a read

    assert 2 == len(set(ended)) == len(ended)


def test_a_pool_of_dead_connections_is_no_trouble_on_postgresql(on_postgresql, postgresql):
    """After the server was restarted every one of them is."""
    _, storage = on_postgresql
    use_several(storage)
    with psycopg.connect(postgresql.socket_url(), autocommit=True) as admin:
        end_connections(admin)

    assert {} == dict(storage.counts().by_state)


def test_a_pool_of_dead_connections_is_no_trouble_on_mysql(on_mysql, mariadb):
    """As above."""
    _, storage = on_mysql
    use_several(storage)
    with mariadb.server.connect() as admin, admin.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'firelock'")
        for (number,) in cursor.fetchall():
            cursor.execute("KILL CONNECTION %s", [number])

    assert {} == dict(storage.counts().by_state)


def use_several(storage, number=3):
    """The pool has so many connections."""
    database = storage._database  # noqa: SLF001 - only reads within reads take connections for sure

    def nested(depth):
        return 0 if depth == 0 else database.read(lambda _: nested(depth - 1))

    nested(number)
