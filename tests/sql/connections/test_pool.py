"""The pool of connections: a server's own work gets one, whatever its jobs and the application do."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from sqlite3 import ProgrammingError

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool

from firelock import Firelock, Retry, Unique
from firelock.storage import StorageError, StorageUnavailable, is_server_work, server_work
from firelock_sql.connections.pool import EnginePool
from tests.core.fakes import until


@pytest.fixture
def make_pool(tmp_path):
    """A function that creates a pool of the given size for an empty file."""
    with ExitStack() as pools:

        def make(size):
            engine = create_engine(
                f"sqlite:///{tmp_path}/jobs.db", poolclass=QueuePool, pool_size=size, max_overflow=0,
                pool_timeout=0.01, connect_args={"check_same_thread": False},
            )  # fmt: skip
            pools.callback(engine.dispose)
            return pools.enter_context(closing(EnginePool("jobs.db", lambda: engine, is_own=True)))

        yield make


def lent_by(pool, stack):
    """Return how many connections the pool can lend; they are returned when the stack is closed."""
    number = 0
    while True:
        try:
            stack.enter_context(pool.check_out())
        except StorageUnavailable:
            return number
        number += 1


def serve(pool):
    """Use the pool as a server does."""
    with server_work(), pool.check_out():
        pass


@pytest.mark.parametrize(("size", "others"), [(10, 8), (3, 1), (2, 1), (1, 1)])
def test_two_connections_are_reserved_for_the_server(make_pool, size, others):
    """One connection is always left for other work.

    A pool of two therefore reserves one, and a pool of one reserves none.
    """
    pool = make_pool(size)
    serve(pool)

    with ExitStack() as stack:
        for_others = lent_by(pool, stack)
        with server_work():
            for_server = lent_by(pool, stack)

    assert (others, size - others) == (for_others, for_server)


def test_server_may_use_all_connections(make_pool):
    """A server can use the connections for other work while they are free. It returns them after use."""
    pool = make_pool(4)

    with ExitStack() as stack, server_work():
        for_server = lent_by(pool, stack)
    with ExitStack() as stack:
        for_others = lent_by(pool, stack)

    assert (4, 2) == (for_server, for_others)


def test_work_with_its_own_connection_does_not_wait_for_the_pool(make_pool):
    """The work does not wait even if all connections are in use.

    The server's own connection is kept for the next use.
    """
    pool = make_pool(2)
    drivers = []

    with ExitStack() as stack, server_work():
        in_use = lent_by(pool, stack)
        for _ in range(2):
            with server_work(has_own_connection=True), pool.check_out() as checkout:
                drivers.append(checkout.driver)

    assert 2 == in_use
    assert drivers[0] is drivers[1]


def test_own_connection_is_closed_with_the_pool(make_pool):
    """No connection remains open."""
    pool = make_pool(2)
    with server_work(has_own_connection=True), pool.check_out() as checkout:
        driver = checkout.driver

    pool.close()

    with pytest.raises(ProgrammingError, match="closed"):
        driver.execute("SELECT 1")
    with (
        pytest.raises(StorageError, match="is closed"),
        server_work(has_own_connection=True),
        pool.check_out(),
    ):
        pass


def test_nothing_is_reserved_without_a_server(make_pool):
    """A process that only enqueues jobs does not need reserved connections."""
    pool = make_pool(4)

    with ExitStack() as stack:
        assert 4 == lent_by(pool, stack)


def test_nothing_is_reserved_in_an_engine_of_the_caller(server_database):
    """The caller decides how the connections of its own engine are used."""
    engine = create_engine(
        server_database.engine_url(), poolclass=QueuePool, pool_size=4, max_overflow=0, pool_timeout=0.01
    )
    with closing(EnginePool("the caller's", lambda: engine, is_own=False)) as pool, ExitStack() as stack:
        serve(pool)

        number = lent_by(pool, stack)

    engine.dispose()
    assert 4 == number


def test_pool_error_names_the_used_connections(make_pool):
    """The error states which connections are in use, and names the option that makes the pool larger."""
    pool = make_pool(3)
    serve(pool)

    with (
        pool.check_out(),
        pytest.raises(StorageUnavailable, match=r"not reserved for the server.*\?pool_size="),
    ):
        pool.check_out().__enter__()


def test_server_work_is_limited_to_its_block_and_thread():
    """Blocks can be nested. A thread that is started in a block does other work, such as running a job."""
    seen = []

    with server_work():
        with server_work():
            pass
        thread = threading.Thread(target=lambda: seen.append(is_server_work()))
        thread.start()
        thread.join()
        seen.append(is_server_work())
    seen.append(is_server_work())

    assert [False, True, False] == seen


def test_server_settles_and_claims_while_calls_wait_for_a_unique_key(server_database):
    """All other connections are occupied by calls that wait for the unique key of an open transaction."""
    engine = create_engine(server_database.engine_url(), poolclass=NullPool)
    begun, done, ended = [], [], []
    with (
        closing(Firelock(server_database.url("pool_size=4"))) as fire,
        closing(Firelock(server_database.url())) as elsewhere,
    ):
        fire.storage.clear()
        nightly = fire.task(name="nightly", unique=Unique("nightly"), queue="elsewhere")(lambda: None)

        def note(number: int) -> None:
            done.append(number)

        def enqueue_all() -> None:
            begun.append(True)
            try:
                nightly.enqueue()
            finally:
                ended.append(True)

        asks = fire.task(name="asks", retry=Retry.never())(enqueue_all)
        fire.task(name="other")(note)
        other = elsewhere.task(name="other", remote=True)(note)

        with fire.server(queues="default", workers=8), Session(engine) as session, session.begin():
            nightly.using(within=session).enqueue()
            asks.enqueue_many([()] * 6)
            until(lambda: len(begun) == 6)
            other.enqueue_many([(number,) for number in range(20)])

            until(lambda: len(done) == 20)
            has_waited = not ended
            session.rollback()

    assert has_waited
    engine.dispose()
