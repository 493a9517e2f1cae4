"""asyncpg behind PgBouncer: it prepares every statement under a name that might be taken or lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, closing

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from firelock import Firelock, State
from firelock.storage import StorageError
from firelock_sql.postgresql.connect import read_failure
from tests.sql.servers.pgbouncer import ADVISED

WHO = "select pg_backend_pid()"


class OfAsyncpg(Exception):
    """An error of asyncpg, in the form in which SQLAlchemy raises it."""

    def __init__(self, sqlstate):
        super().__init__()
        self.sqlstate = sqlstate


@pytest.fixture
def fire(pgbouncer):
    """An app behind a pooler, whose storage is empty."""
    with closing(Firelock(pgbouncer.url())) as fire:
        fire.storage.clear()
        yield fire


@pytest.fixture
def task(fire):
    """A task of the app."""
    return fire.task(name="send")(lambda order: order)


@asynccontextmanager
async def opened(url, **arguments):
    """Yield a caller's engine with this URL, which is disposed of after its block."""
    engine = create_async_engine(url, poolclass=NullPool, connect_args=arguments)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def kept_by_another(database, pid):
    """Keep another client's transaction open on the server process with this id, which must be idle."""
    async with AsyncExitStack() as stack:
        while True:
            connection = await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(database.url(), prepare_threshold=None)
            )
            found = await (await connection.execute(WHO)).fetchone()
            if found == (pid,):
                break
        yield


async def enqueue_on_two(task, database, **arguments):
    """Enqueue twice with one connection of asyncpg, each time on another process of the server."""
    async with (
        opened(database.async_engine_url("asyncpg"), **arguments) as engine,
        engine.connect() as connection,
    ):
        await task.using(within=connection).aenqueue(1)
        pid = (await connection.execute(text(WHO))).scalar()
        await connection.commit()
        async with kept_by_another(database, pid):
            await task.using(within=connection).aenqueue(2)
            await connection.commit()


def test_prepared_statements_are_not_used_on_another_server_process(fire, task, pgbouncer):
    """The engine of this test is created with the arguments in docs/sql.md."""
    asyncio.run(enqueue_on_two(task, pgbouncer, **ADVISED))

    assert {State.ENQUEUED: 2} == fire.storage.counts().by_state


@pytest.mark.parametrize("code", ["26000", "42P05"], ids=["lost", "taken"])
def test_error_of_a_lost_prepared_statement_names_the_page(code):
    """The name is unknown, or another client has used it for its own statement."""
    failure = read_failure(OfAsyncpg(code))

    assert failure.text.startswith(f"error {code} of the caller's connection; for asyncpg behind a pooler, ")


def test_error_of_a_lost_statement_names_the_engine_arguments(fire, task, pgbouncer):
    """By default, asyncpg keeps prepared statements for the next transaction."""
    with pytest.raises(StorageError, match=r"error 26000 .*; for asyncpg behind a pooler, .*docs/sql\.md"):
        asyncio.run(enqueue_on_two(task, pgbouncer))

    assert {State.ENQUEUED: 1} == fire.storage.counts().by_state
