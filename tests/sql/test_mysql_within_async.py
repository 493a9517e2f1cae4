"""Jobs as part of callers' asynchronous transactions on MariaDB, by both drivers that wait for nobody."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from firelock import ConfigurationError, Firelock, JobContext, JobNotFound, State
from firelock.storage import Edge, NewJob, On, StorageUnavailable


@pytest.fixture
def fire(mariadb):
    """An app whose storage is empty, and so is the table of what a task does."""
    with closing(Firelock(mariadb.url())) as fire:
        fire.storage.clear()
        yield fire


@pytest.fixture
def task(fire):
    """A task of the app."""
    return fire.task(name="send")(lambda order: order)


@pytest.fixture(params=["aiomysql", "asyncmy"])
def opened(request, mariadb):
    """What opens a caller's engine; it is disposed of behind its block."""
    driver = request.param

    @asynccontextmanager
    async def engine(**options):
        engine = create_async_engine(mariadb.async_engine_url(driver), poolclass=NullPool, **options)
        try:
            yield engine
        finally:
            await engine.dispose()

    return engine


def enqueued(fire):
    """How many jobs wait."""
    return fire.storage.counts().by_state.get(State.ENQUEUED, 0)


def new_job(id, state=State.ENQUEUED, **fields):
    """A job of that id."""
    return NewJob(id, "send", "[[1], {}]", "json", "default", 0, state, 1_000, **fields)


@pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
def test_jobs_follow_an_async_session(fire, task, opened, is_committed):
    """Job and continuation are there after its commit, or neither ever is."""

    async def use():
        async with opened() as engine, AsyncSession(engine) as session:
            job = await task.using(within=session, tags=["eu"]).aenqueue(1)
            await job.athen(task.using(within=session), 2)
            seen = enqueued(fire)
            await (session.commit() if is_committed else session.rollback())
            return seen

    assert 0 == asyncio.run(use())
    by_state = fire.storage.counts().by_state
    assert ({State.ENQUEUED: 1, State.AWAITING: 1} if is_committed else {}) == by_state


def test_jobs_follow_an_async_connection(fire, task, opened):
    """Core's own is taken as the ORM's is."""

    async def use():
        async with opened() as engine, engine.begin() as connection:
            await task.using(within=connection).aenqueue(1)

    asyncio.run(use())

    assert 1 == enqueued(fire)


def test_many_rows_follow_an_async_session(fire, opened):
    """What is written by one statement for many rows is, whatever the driver."""
    jobs = [new_job(f"0190-{number}", tags=("eu", "red")) for number in range(300)]

    async def use():
        async with opened() as engine, AsyncSession(engine) as session:
            stored = await session.run_sync(lambda inner: fire.storage.insert(jobs, within=inner))
            await session.commit()
            return stored.is_new

    assert [True] * 300 == asyncio.run(use())
    assert 300 == enqueued(fire)


def test_a_refused_job_leaves_an_async_transaction_as_it_was(fire, opened):
    """What the caller did before and after it is committed."""
    orphan = new_job("0190-orphan", State.AWAITING, parents=(Edge("no-such-parent", On.SUCCEEDED),))

    async def use():
        async with opened() as engine, AsyncSession(engine) as session:
            await session.execute(text("create or replace table orders (id int)"))
            await session.execute(text("insert into orders values (1)"))
            with pytest.raises(JobNotFound):
                await session.run_sync(lambda inner: fire.storage.insert([orphan], within=inner))
            await session.execute(text("insert into orders values (2)"))
            await session.commit()
            return (await session.execute(text("select count(*) from orders"))).scalar()

    assert (2, {}) == (asyncio.run(use()), fire.storage.counts().by_state)


def test_an_async_engine_in_autocommit_is_refused(fire, task, opened):
    """Its connections commit each statement by itself."""

    async def use():
        async with opened(isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
            with pytest.raises(ConfigurationError, match="autocommit"):
                await task.using(within=connection).aenqueue(1)

    asyncio.run(use())

    assert 0 == enqueued(fire)


def test_a_lock_not_had_in_time_is_the_storages_error(fire, opened, mariadb):
    """The driver's own does not leak; what the caller did before is still his to commit."""
    fire.storage.insert([new_job("0190-parent")])
    child = new_job("0190-child", State.AWAITING, parents=(Edge("0190-parent", On.SUCCEEDED),))

    async def use():
        async with opened() as engine, AsyncSession(engine) as session:
            await session.execute(text("set innodb_lock_wait_timeout = 1"))
            await session.run_sync(lambda inner: fire.storage.insert([new_job("0190-own")], within=inner))
            with pytest.raises(StorageUnavailable, match="Lock wait timeout"):
                await session.run_sync(lambda inner: fire.storage.insert([child], within=inner))
            await session.commit()

    with mariadb.server.connect() as rival, rival.cursor() as cursor:
        cursor.execute(f"USE {mariadb.name}")
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 FROM firelock_jobs WHERE id = '0190-parent' FOR UPDATE")
        asyncio.run(use())
        cursor.execute("ROLLBACK")

    assert [True, False] == [job is not None for job in fire.storage.get(["0190-own", "0190-child"])]


def test_a_lost_connection_is_the_storages_error(fire, opened, mariadb):
    """Each driver says it in words of its own; nothing was stored, so the call may be made again."""

    async def use():
        async with opened() as engine, AsyncSession(engine) as session:
            number = (await session.execute(text("select connection_id()"))).scalar()
            with mariadb.server.connect() as admin, admin.cursor() as cursor:
                cursor.execute("KILL %s", [number])
            with pytest.raises(StorageUnavailable):
                await session.run_sync(
                    lambda inner: fire.storage.insert([new_job("0190-lost")], within=inner)
                )
            await session.invalidate()

    asyncio.run(use())

    assert 0 == enqueued(fire)


def test_an_async_task_ends_with_its_own_transaction(fire, opened, mariadb):
    """Effects and end are one commit."""
    with mariadb.server.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE OR REPLACE TABLE {mariadb.name}.paid (number INT)")

    @fire.task(name="pay")
    async def pay(context: JobContext, number: int) -> dict[str, int]:
        async with opened() as engine, AsyncSession(engine) as session, session.begin():
            await session.execute(text("insert into paid values (:number)"), {"number": number})
            await context.acomplete_within(session, {"paid": number})
        return {"never": 1}

    with fire.server(workers=1, async_workers=1):
        job = pay.enqueue(7)
        assert {"paid": 7} == job.result(timeout=30)

    with mariadb.server.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"SELECT number FROM {mariadb.name}.paid")
        assert ((7,),) == cursor.fetchall()
