"""Jobs as part of callers' transactions on PostgreSQL, by whichever driver the caller's connection has."""

from __future__ import annotations

import asyncio
from contextlib import closing

import attrs
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from firelock import ConfigurationError, Firelock, JobContext, JobNotFound, State
from firelock.storage import Edge, NewJob, On, StorageUnavailable


@pytest.fixture
def fire(postgresql):
    """An app whose storage is empty."""
    with closing(Firelock(postgresql.url())) as fire:
        fire.storage.clear()
        yield fire


@pytest.fixture
def task(fire):
    """A task of the app."""
    return fire.task(name="send")(lambda order: order)


@pytest.fixture
def engine(postgresql):
    """A caller's engine, by psycopg."""
    engine = create_engine(postgresql.engine_url(), poolclass=NullPool)
    yield engine
    engine.dispose()


def enqueued(fire):
    """How many jobs wait."""
    return fire.storage.counts().by_state.get(State.ENQUEUED, 0)


# ---- by a driver that waits for nobody -------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
def test_jobs_follow_an_async_session(fire, task, postgresql, driver, is_committed):
    """Job and continuation are there after its commit, or neither ever is."""
    url = postgresql.async_engine_url().replace("asyncpg", driver)

    async def use():
        engine = create_async_engine(url, poolclass=NullPool)
        async with AsyncSession(engine) as session:
            job = await task.using(within=session, tags=["eu"]).aenqueue(1)
            await job.athen(task.using(within=session), 2)
            seen = enqueued(fire)
            await (session.commit() if is_committed else session.rollback())
        await engine.dispose()
        return seen

    assert 0 == asyncio.run(use())
    by_state = fire.storage.counts().by_state
    assert ({State.ENQUEUED: 1, State.AWAITING: 1} if is_committed else {}) == by_state


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_jobs_follow_an_async_connection(fire, task, postgresql, driver):
    """Core's own is taken as the ORM's is."""

    async def use():
        engine = create_async_engine(
            postgresql.async_engine_url().replace("asyncpg", driver), poolclass=NullPool
        )
        async with engine.begin() as connection:
            await task.using(within=connection).aenqueue(1)
        await engine.dispose()

    asyncio.run(use())

    assert 1 == enqueued(fire)


def test_a_refused_job_leaves_an_async_transaction_as_it_was(fire, postgresql):
    """What the caller did before and after it is committed."""
    parents = (Edge("no-such-parent", On.SUCCEEDED),)
    orphan = NewJob(
        "0190-orphan", "send", "[[1], {}]", "json", "default", 0, State.AWAITING, 1_000, parents=parents
    )

    async def use():
        engine = create_async_engine(postgresql.async_engine_url(), poolclass=NullPool)
        async with AsyncSession(engine) as session:
            await session.execute(text("create table if not exists orders (id int)"))
            with pytest.raises(JobNotFound):
                await session.run_sync(lambda inner: fire.storage.insert([orphan], within=inner))
            await session.execute(text("insert into orders values (1)"))
            await session.commit()
            found = await session.execute(text("select count(*) from orders"))
        await engine.dispose()
        return found.scalar()

    assert (1, {}) == (asyncio.run(use()), fire.storage.counts().by_state)


# ---- by one that does ------------------------------------------------------------------------------------


def test_a_scoped_session_is_a_session(fire, task, engine):
    """The session of this thread is meant."""
    scope = scoped_session(sessionmaker(engine))

    task.using(within=scope).enqueue(1)
    scope.commit()
    scope.remove()

    assert 1 == enqueued(fire)


def test_a_nested_transaction_counts(fire, task, engine):
    """What a savepoint of the caller's undoes is undone."""
    with Session(engine) as session, session.begin():
        task.using(within=session).enqueue(1)
        nested = session.begin_nested()
        task.using(within=session).enqueue(2)
        nested.rollback()

    assert 1 == enqueued(fire)


def test_a_psycopg_block_in_autocommit_is_a_transaction(fire, task, postgresql):
    """Without a block nothing could be undone, so that is refused."""
    with closing(psycopg.connect(postgresql.url(), autocommit=True)) as connection:
        with pytest.raises(ConfigurationError, match="autocommit"):
            task.using(within=connection).enqueue(1)
        with connection.transaction():
            task.using(within=connection).enqueue(2)
        with connection.transaction(force_rollback=True):
            task.using(within=connection).enqueue(3)

    assert 1 == enqueued(fire)


def test_an_engine_in_autocommit_is_refused(fire, task, engine):
    """Its connections commit each statement by itself."""
    with (
        engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection,
        pytest.raises(ConfigurationError, match="autocommit"),
    ):
        task.using(within=connection).enqueue(1)

    assert 0 == enqueued(fire)


def test_another_database_is_refused(fire, task, postgresql):
    """The tables of these jobs are not there, also where others of the same name are."""
    with (
        closing(Firelock(postgresql.url("prefix=other_"))) as other,
        closing(create_engine("sqlite://").connect()) as sqlite,
    ):
        other.storage.migrate()
        for within, word in ((sqlite, "sqlite"), (object(), "object")):
            with pytest.raises(ConfigurationError, match=word):
                task.using(within=within).enqueue(1)
    with (
        closing(psycopg.connect(postgresql.url().replace(postgresql.name, "postgres"))) as elsewhere,
        pytest.raises(ConfigurationError, match="has not the tables"),
    ):
        task.using(within=elsewhere).enqueue(1)

    assert 0 == enqueued(fire)


def test_a_key_that_a_snapshot_hides_is_told(fire, task, engine):
    """In an older snapshot a job stored meanwhile is neither seen nor overwritten; the caller goes on."""
    job = NewJob("0190-hidden", "send", "[[1], {}]", "json", "default", 0, State.ENQUEUED, 1_000)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("select 1"))
        fire.storage.insert([job])

        with pytest.raises(StorageUnavailable):
            fire.storage.insert([job], within=connection)

        assert [True] == fire.storage.insert([attrs.evolve(job, id="0190-seen")], within=connection).is_new
        connection.commit()
    assert 2 == enqueued(fire)


# ---- the end of a job ------------------------------------------------------------------------------------


def test_a_task_ends_with_its_own_transaction(fire, engine):
    """Effects and end are one commit; its continuation begins at once, and the result is the one given."""
    with engine.begin() as connection:
        connection.execute(text("create table if not exists paid (number int)"))
        connection.execute(text("delete from paid"))

    @fire.task(name="pay")
    def pay(context: JobContext, number: int) -> dict[str, int]:
        with Session(engine) as session, session.begin():
            session.execute(text("insert into paid values (:number)"), {"number": number})
            context.complete_within(session, {"paid": number})
        return {"never": 1}

    @fire.task(name="thank")
    def thank():
        return "thanks"

    with fire.server(workers=2, async_workers=1):
        job = pay.enqueue(7)
        child = job.then(thank)
        assert "thanks" == child.result(timeout=30)

    assert (State.SUCCEEDED, {"paid": 7}) == (job.refresh().state, job.result(timeout=1))
    with engine.connect() as connection:
        assert 1 == connection.execute(text("select count(*) from paid")).scalar()
