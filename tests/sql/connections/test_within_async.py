"""Jobs as part of callers' asynchronous transactions, on each database with each of its drivers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from firelock import ConfigurationError, Firelock, JobContext, JobNotCommitted, JobNotFound, State
from firelock.model.batch import BATCH_TASK, BatchRules
from firelock.model.dependencies import Relations, write_relations
from firelock.model.memo import Memo, MemoKind, NewMemo
from firelock.storage import Applied, ClaimRequest, Edge, NewJob, NewSession, On, StorageUnavailable
from tests.sql.servers.pgbouncer import ADVISED


def new_job(id, state=State.ENQUEUED, **fields):
    """Return a new job with this id."""
    return NewJob(id, "send", "[[1], {}]", "json", "default", 0, state, 1_000, **fields)


def enqueued(fire):
    """Return the number of enqueued jobs."""
    return fire.storage.counts().by_state.get(State.ENQUEUED, 0)


async def insert(fire, session, *jobs):
    """Store the jobs within the session; return which of them are new."""
    return (await session.run_sync(lambda inner: fire.storage.insert(list(jobs), within=inner))).is_new


async def refusal(coroutine):
    """Return the end of the message that refuses an uncommitted job."""
    with pytest.raises(JobNotCommitted, match="has not committed, or was rolled back") as refused:
        await coroutine
    return str(refused.value)[-len("; or pass within=… to store both together.") :]


class AsyncCallers:
    """Tests for each database: `url` is that of the storage and `engine_url` that of the caller's engine."""

    def options_for(self, _engine_url):
        """Return the arguments that an engine needs there."""
        return {}

    @pytest.fixture
    def fire(self, url):
        """An app whose storage is empty."""
        with closing(Firelock(url)) as fire:
            fire.storage.clear()
            yield fire

    @pytest.fixture
    def task(self, fire):
        """A task of the app."""
        return fire.task(name="send")(lambda order: order)

    @pytest.fixture
    def opened(self, engine_url):
        """A function that opens a caller's engine, which is disposed of after its block."""

        @asynccontextmanager
        async def engine(**options):
            options |= self.options_for(engine_url)
            engine = create_async_engine(engine_url, poolclass=NullPool, **options)
            try:
                yield engine
            finally:
                await engine.dispose()

        return engine

    @pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
    def test_jobs_follow_the_transaction_of_an_async_session(self, fire, task, opened, is_committed):
        """The job and its continuation exist after a commit, but not after a rollback.

        Using the handle before that raises an error.
        """

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                job = await task.using(within=session, tags=["eu"]).aenqueue(1)
                await job.athen(task.using(within=session), 2)
                with pytest.raises(JobNotCommitted, match="has not committed, or was rolled back"):
                    await job.arefresh()
                seen = enqueued(fire)
                await (session.commit() if is_committed else session.rollback())
                return seen

        assert 0 == asyncio.run(use())
        by_state = fire.storage.counts().by_state
        assert ({State.ENQUEUED: 1, State.AWAITING: 1} if is_committed else {}) == by_state

    @pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
    def test_every_method_that_creates_jobs_follows_an_async_session(self, fire, task, opened, is_committed):
        """Jobs may have any relation to other jobs of the session.

        A job outside the session cannot wait for a job in it.
        """
        approval = fire.signal("approval", bool)
        task.recur("nightly", "0 2 * * *", 1)
        first = task.enqueue(1)

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                inside = task.using(within=session)
                job = await inside.aenqueue(1)
                await inside.using(after=job).aenqueue(2)
                await inside.aenqueue(job.output)
                async with fire.batch("receipts", after=job, within=session) as batch:
                    await batch.aadd(task, 1)
                    await batch.athen(task.using(after=job), 1)
                await batch.athen(inside, 1)
                await batch.aadd(inside, 1)
                await approval.asend(job, True, within=session)
                await fire.jobs.acopy(first.id, within=session)
                await fire.recurring.atrigger("nightly", within=session)
                refusals = [
                    await refusal(coroutine)
                    for coroutine in (
                        job.athen(task, 1),
                        task.using(after=job).aenqueue(1),
                        task.aenqueue(job.output),
                        batch.aadd(task, 1),
                        batch.aadd_many([task.call(1)]),
                        approval.asend(job, True),
                    )
                ]
                seen = fire.jobs.counts().total
                await (session.commit() if is_committed else session.rollback())
                return refusals, seen

        refusals, seen = asyncio.run(use())

        assert refusals == ["; or pass within=… to store both together."] * 6
        assert seen == 1
        assert fire.jobs.counts().total == 1 + 10 * is_committed

    def test_jobs_follow_the_transaction_of_an_async_connection(self, fire, task, opened):
        """An async connection of SQLAlchemy Core is accepted like an async session of its ORM."""

        async def use():
            async with opened() as engine, engine.begin() as connection:
                await task.using(within=connection).aenqueue(1)

        asyncio.run(use())

        assert 1 == enqueued(fire)

    def test_statement_with_many_rows_follows_an_async_session(self, fire, opened):
        """With every driver, a statement that writes many rows is part of the transaction too."""
        jobs = [new_job(f"0190-{number}", tags=("eu", "red")) for number in range(300)]

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                is_new = await insert(fire, session, *jobs)
                await session.commit()
                return is_new

        assert [True] * 300 == asyncio.run(use())
        assert 300 == enqueued(fire)

    def test_refused_job_does_not_change_an_async_transaction(self, fire, opened):
        """The changes that the caller makes before and after the refused job are committed."""
        orphan = new_job("0190-orphan", State.AWAITING, parents=(Edge("no-such-parent", On.SUCCEEDED),))

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                await session.execute(text("drop table if exists orders"))
                await session.execute(text("create table orders (id int)"))
                await session.execute(text("insert into orders values (1)"))
                with pytest.raises(JobNotFound):
                    await insert(fire, session, new_job("0190-beside"), orphan)
                await session.execute(text("insert into orders values (2)"))
                await session.commit()
                return (await session.execute(text("select count(*) from orders"))).scalar()

        assert (2, {}) == (asyncio.run(use()), fire.storage.counts().by_state)

    @pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
    def test_memos_follow_the_transaction_of_an_async_session(self, fire, opened, is_committed):
        """A step, a signal and a member of a batch exist after the commit, but not after a rollback."""
        storage, holder = fire.storage, NewSession("s", "server", "host:1", "host", 1, 1_000, 1e6)
        batch = write_relations(Relations(batch=BatchRules("nightly")))
        jobs = [
            new_job("0190-run"),
            NewJob(
                "0190-batch",
                BATCH_TASK,
                "{}",
                "json",
                "default",
                0,
                State.AWAITING,
                1_000,
                relations_json=batch,
            ),
        ]
        storage.insert(jobs)
        storage.begin_session(holder)
        (job,) = storage.claim(ClaimRequest(None, 1, holder.id, 1_000)).jobs
        step = Memo(MemoKind.STEP, "paid", '"1"', True, 1_000, None, 1)
        memos = [
            NewMemo(job.id, step, holder.id, job.fence),
            NewMemo(job.id, Memo(MemoKind.SIGNAL, "approval", "true", True, 1_000, author="ada")),
        ]
        member = new_job("0190-member", relations_json=write_relations(Relations("0190-batch")))

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                answers = await session.run_sync(lambda inner: storage.remember(memos, within=inner))
                await insert(fire, session, member)
                await (session.commit() if is_committed else session.rollback())
                return [one.answer for one in answers]

        assert [Applied.APPLIED] * 2 == asyncio.run(use())
        assert 2 * is_committed == len(storage.recall(job.id) or [])
        (counts,) = storage.batch_counts(["0190-batch"])
        assert counts is not None
        assert is_committed == counts.total

    def test_async_engine_in_autocommit_is_refused(self, fire, task, opened):
        """In autocommit mode, the engine's connections commit each statement separately."""

        async def use():
            async with opened(isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
                with pytest.raises(ConfigurationError, match="autocommit"):
                    await task.using(within=connection).aenqueue(1)

        asyncio.run(use())

        assert 0 == enqueued(fire)

    def test_async_task_ends_with_its_own_transaction(self, fire, opened):
        """The effects and the outcome of such a task are committed together.

        The continuation starts immediately, and the result is the value that the task has passed.
        """

        async def execute(statement, **values):
            async with opened() as engine, engine.begin() as connection:
                found = await connection.execute(text(statement), values)
                return found.scalar() if found.returns_rows else None

        asyncio.run(execute("drop table if exists paid"))
        asyncio.run(execute("create table paid (number int)"))

        @fire.task(name="pay")
        async def pay(context: JobContext, number: int) -> dict[str, int]:
            async with opened() as engine, AsyncSession(engine) as session, session.begin():
                await session.execute(text("insert into paid values (:number)"), {"number": number})
                await context.acomplete_within(session, {"paid": number})
            return {"never": 1}

        with fire.server(workers=2, async_workers=1):
            job = pay.enqueue(7)
            assert "thanks" == job.then(fire.task(name="thank")(lambda: "thanks")).result(timeout=30)
            assert {"paid": 7} == job.result(timeout=30)

        assert 7 == asyncio.run(execute("select number from paid"))


class TestSqlite(AsyncCallers):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"

    @pytest.fixture
    def engine_url(self, url):
        return url.replace("sqlite", "sqlite+aiosqlite")


class TestPostgresql(AsyncCallers):
    @pytest.fixture
    def url(self, postgresql):
        return postgresql.url()

    @pytest.fixture(params=["asyncpg", "psycopg"])
    def engine_url(self, request, postgresql):
        return postgresql.async_engine_url(request.param)


class TestPgbouncer(AsyncCallers):
    def options_for(self, engine_url):
        return {"connect_args": ADVISED} if "asyncpg" in engine_url else {}

    @pytest.fixture
    def url(self, pgbouncer):
        return pgbouncer.url()

    @pytest.fixture(params=["asyncpg", "psycopg"])
    def engine_url(self, request, pgbouncer):
        return pgbouncer.async_engine_url(request.param)


class TestMariadb(AsyncCallers):
    @pytest.fixture
    def url(self, mariadb):
        return mariadb.url()

    @pytest.fixture(params=["aiomysql", "asyncmy"])
    def engine_url(self, request, mariadb):
        return mariadb.async_engine_url(request.param)

    @pytest.fixture
    def admin(self, mariadb):
        """The cursor of another connection to the database."""
        with mariadb.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"USE {mariadb.name}")
            yield cursor

    def test_lock_timeout_raises_a_storage_error(self, fire, opened, admin):
        """The driver's error is not raised. The caller can still commit its earlier changes."""
        fire.storage.insert([new_job("0190-parent")])
        child = new_job("0190-child", State.AWAITING, parents=(Edge("0190-parent", On.SUCCEEDED),))

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                await session.execute(text("set innodb_lock_wait_timeout = 1"))
                await insert(fire, session, new_job("0190-own"))
                with pytest.raises(StorageUnavailable, match="Lock wait timeout"):
                    await insert(fire, session, child)
                await session.commit()

        admin.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        admin.execute("BEGIN")
        admin.execute("SELECT 1 FROM firelock_jobs WHERE id = '0190-parent' FOR UPDATE")
        asyncio.run(use())
        admin.execute("ROLLBACK")

        assert [True, False] == [job is not None for job in fire.storage.get(["0190-own", "0190-child"])]

    def test_lost_connection_raises_a_storage_error(self, fire, opened, admin):
        """Each driver reports the loss in a different way.

        Nothing was stored, so the call can be repeated.
        """

        async def use():
            async with opened() as engine, AsyncSession(engine) as session:
                number = (await session.execute(text("select connection_id()"))).scalar()
                admin.execute("KILL %s", [number])
                with pytest.raises(StorageUnavailable):
                    await insert(fire, session, new_job("0190-lost"))
                await session.invalidate()

        asyncio.run(use())

        assert 0 == enqueued(fire)
