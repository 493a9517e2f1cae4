"""Jobs that wait for other jobs of the same transaction, in every form and with every way to pass it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from firelock import ConfigurationError, Firelock, FirelockError, JobNotCommitted, JobNotFound, hookimpl
from firelock.storage import Applied, OpenTransaction
from firelock.testing import Tester

TOGETHER = "; or pass within=… to store both together."


class UnitOfWork:
    """A plugin whose open transaction every job joins."""

    def __init__(self):
        self.connection = None
        self.afterwards = []

    @hookimpl
    def job_transaction(self, within):
        if within is None and self.connection is not None:
            return OpenTransaction(self.connection, self.afterwards.append)
        return None

    @contextmanager
    def around(self, connection):
        self.connection = connection
        try:
            yield
        finally:
            self.connection = None
            self.afterwards.clear()

    def committed(self):
        for callback in self.afterwards:
            callback()


class Shop:
    """An app, and transactions of one kind on the database of its jobs."""

    def __init__(self, way, url, engine_url):
        self.way, self.engine_url = way, engine_url
        self.unit = UnitOfWork()
        self.fire = Firelock(url, plugins=[self.unit])
        self.add = self.fire.task(name="add")(add)
        self.approval = self.fire.signal("approval", bool)

    @contextmanager
    def transaction(self, *, commits):
        """Yield the value for `within=`, then commit or roll back.

        The value is None if the plugin supplies the transaction.
        """
        with ExitStack() as stack:
            engine = create_engine(self.engine_url, poolclass=NullPool)
            stack.callback(engine.dispose)
            if self.way in ("plugin", "driver"):
                pooled = stack.enter_context(closing(engine.raw_connection()))
                opened = pooled.driver_connection
            else:
                opened = stack.enter_context(
                    (Session if self.way == "session" else type(engine).connect)(engine)
                )
            if self.way == "plugin":
                stack.enter_context(self.unit.around(opened))
            yield None if self.way == "plugin" else opened
            opened.commit() if commits else opened.rollback()
            if commits:
                self.unit.committed()

    @contextmanager
    def undone(self, within):
        """Use a savepoint to roll back everything that the block stores; the transaction continues."""
        connection = self.unit.connection if within is None else within
        if hasattr(connection, "begin_nested"):
            nested = connection.begin_nested()
            yield
            nested.rollback()
        else:
            cursor = connection.cursor()
            cursor.execute("SAVEPOINT callers")
            yield
            cursor.execute("ROLLBACK TO SAVEPOINT callers")

    def task(self, within):
        return self.add.using(within=within)

    def stored(self):
        """Return the number of jobs, without the job that was committed first."""
        return self.fire.jobs.counts().total - 1


def add(a: int = 0, b: int = 0) -> int:
    return a + b


def by_batch_after(shop, parent, within):
    with shop.fire.batch("after", after=parent, within=within) as batch:
        batch.add(shop.add)


def by_batch_then_in_the_block(shop, parent, within):
    with shop.fire.batch("b", within=within) as batch:
        batch.add(shop.add)
        batch.then(shop.add.using(after=parent))


def by_batch_then(shop, parent, within):
    with shop.fire.batch("b", within=within) as batch:
        batch.add(shop.add)
    batch.then(shop.task(within))


def by_batch_add(shop, parent, within):
    with shop.fire.batch("b", within=within) as batch:
        batch.add(shop.add)
    batch.add(shop.task(within))
    batch.add_many([shop.task(within).call(1)])


FORMS = {
    "then": lambda shop, parent, within: parent.then(shop.task(within), 1),
    "after": lambda shop, parent, within: shop.task(within).using(after=parent).enqueue(1),
    "after several": lambda shop, parent, within: (
        shop.task(within).using(after=[shop.committed, parent], on="finished").enqueue(1)
    ),
    "output": lambda shop, parent, within: shop.task(within).enqueue(parent.output, 1),
    "outputs joined": lambda shop, parent, within: (
        shop.task(within).enqueue(shop.committed.output, b=parent.output)
    ),
    "output, many": lambda shop, parent, within: (
        shop.task(within).enqueue_many([(parent.output, 1), (parent.output, 2)])
    ),
    "after, many": lambda shop, parent, within: (
        shop.task(within).using(after=parent).enqueue_many([(1,), (2,)])
    ),
    "calls": lambda shop, parent, within: (
        shop.fire.enqueue_many([shop.task(within).using(after=parent).call(1), shop.task(within).call(2)])
    ),
    "batch after": by_batch_after,
    "batch.then in its block": by_batch_then_in_the_block,
    "batch.then": by_batch_then,
    "batch.add": by_batch_add,
    "signal": lambda shop, parent, within: shop.approval.send(parent, True, within=within),
}  # fmt: skip
WAYS = ["plugin", "session", "connection", "driver"]
OF_A_PARENT = [name for name in FORMS if name not in {"batch.then", "batch.add"}]


def outcome(shop, form, parent, within):
    """Return "accepted", or the class of the error and whether its message ends with the advice."""
    try:
        FORMS[form](shop, parent, within)
    except FirelockError as refused:
        return type(refused).__name__, str(refused).endswith(TOGETHER)
    return "accepted"


REFUSED = ("JobNotCommitted", True)


def all_of(forms, outcome):
    return dict.fromkeys(forms, outcome)


@pytest.mark.parametrize("way", WAYS)
class Relations:
    """Tests for each database: `url` is that of the jobs and `engine_url` that of the caller's engine."""

    @pytest.fixture
    def shop(self, way, url, engine_url):
        shop = Shop(way, url, engine_url)
        shop.fire.storage.clear()
        shop.committed = shop.add.enqueue()
        with closing(shop.fire):
            yield shop

    def test_job_can_wait_for_one_of_the_same_transaction(self, shop):
        """No job is visible before the commit, and none is left after a rollback."""
        outcomes, numbers = {}, []

        for form in FORMS:
            for commits in (False, True):
                before = shop.stored()
                with shop.transaction(commits=commits) as within:
                    parent = shop.task(within).enqueue(1)
                    outcomes[form] = outcome(shop, form, parent, within)
                    numbers.append(shop.stored() - before)
                numbers.append(shop.stored() - before)

        assert outcomes == all_of(FORMS, "accepted")
        assert set(numbers[0::4] + numbers[1::4] + numbers[2::4]) == {0}
        assert min(numbers[3::4]) >= 1

    def test_job_cannot_wait_for_one_rolled_back_to_a_savepoint(self, shop):
        """The refused call has no effect on the transaction."""
        outcomes = {}

        for form in OF_A_PARENT:
            with shop.transaction(commits=True) as within:
                shop.task(within).enqueue(1)
                with shop.undone(within):
                    undone = shop.task(within).enqueue(2)
                outcomes[form] = outcome(shop, form, undone, within)
                shop.task(within).enqueue(3)

        assert outcomes == all_of(OF_A_PARENT, REFUSED)
        assert shop.stored() == 2 * len(OF_A_PARENT)

    def test_job_cannot_wait_for_one_that_was_rolled_back(self, shop):
        """Calls in the next transaction and calls outside of transactions are refused."""
        outside, inside = {}, {}

        for form in OF_A_PARENT:
            with shop.transaction(commits=False) as within:
                parent = shop.task(within).enqueue(1)
            outside[form] = outcome(shop, form, parent, None)
            with shop.transaction(commits=True) as within:
                inside[form] = outcome(shop, form, parent, within)

        assert outside == inside == all_of(OF_A_PARENT, REFUSED)
        assert shop.stored() == 0

    def test_job_can_wait_for_one_that_has_committed(self, shop):
        """A committed job can be awaited in the next transaction and outside of one, with the same handle."""
        outcomes = {}

        for form in FORMS:
            with shop.transaction(commits=True) as within:
                parents = [shop.task(within).enqueue(1), shop.task(within).enqueue(1)]
            with shop.transaction(commits=True) as within:
                inside = outcome(shop, form, parents[0], within)
            outcomes[form] = {inside, outcome(shop, form, parents[1], None)}

        assert outcomes == all_of(FORMS, {"accepted"})

    def test_batch_of_an_open_transaction_accepts_members_only_in_it(self, shop, way):
        if way == "plugin":
            pytest.skip("every job of this thread joins its transaction")

        with shop.transaction(commits=True) as within:
            with shop.fire.batch("b", within=within) as batch:
                batch.add(shop.add)
            batch.add(shop.task(within))
            for verb in (lambda: batch.add(shop.add), lambda: batch.add_many([shop.add.call()])):
                with pytest.raises(JobNotCommitted, match="or pass within=… to store both together"):
                    verb()
        batch.add(shop.add)

        assert batch.counts().total == 3

    def test_failing_block_cancels_its_stored_batch(self, shop):
        """If the caller continues and commits, the members that were already stored must not run."""
        with (
            shop.transaction(commits=True) as within,
            suppress(ZeroDivisionError),
            shop.fire.batch("b", within=within) as batch,
        ):
            batch.add_many([shop.add.call()] * 600)
            raise ZeroDivisionError
        while shop.fire.storage.release(1_000):
            pass

        assert batch.refresh().state == "deleted"
        assert shop.fire.jobs.counts().enqueued == 1  # the job that was committed first


class TestSqlite(Relations):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"

    @pytest.fixture
    def engine_url(self, url):
        return url

    def test_job_outside_of_the_transaction_cannot_wait_for_one_in_it(self, shop, way):
        """Only the transaction itself sees the jobs that it has stored."""
        if way == "plugin":
            pytest.skip("every job of this thread joins its transaction")
        outcomes = {}

        with shop.transaction(commits=True) as within:
            parent = shop.task(within).enqueue(1)
            for form in OF_A_PARENT:
                outcomes[form] = outcome(shop, form, parent, None)

        assert outcomes == all_of(OF_A_PARENT, REFUSED)
        assert shop.stored() == 1


class OnServers(Relations):
    """Databases on which two transactions can write at the same time."""

    def test_job_in_another_transaction_cannot_wait_for_one_in_it(self, shop, way):
        """A job outside of any transaction cannot wait for a job of an open transaction either."""
        if way == "plugin":
            pytest.skip("it has one transaction")
        inside, outside = {}, {}

        with shop.transaction(commits=True) as within:
            parent = shop.task(within).enqueue(1)
            for form in OF_A_PARENT:
                with shop.transaction(commits=True) as other:
                    inside[form] = outcome(shop, form, parent, other)
                outside[form] = outcome(shop, form, parent, None)

        assert inside == outside == all_of(OF_A_PARENT, REFUSED)
        assert shop.stored() == 1


class TestPostgresql(OnServers):
    @pytest.fixture
    def url(self, postgresql):
        return postgresql.url()

    @pytest.fixture
    def engine_url(self, postgresql):
        return postgresql.engine_url()


class TestMariadb(OnServers):
    @pytest.fixture
    def url(self, mariadb):
        return mariadb.url()

    @pytest.fixture
    def engine_url(self, mariadb):
        return mariadb.engine_url()


class TestTester:
    """A Tester accepts and refuses the same calls without the database."""

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/orders.db"

    @pytest.fixture
    def shop(self, way, url):
        shop = Shop(way, "memory://", url)
        with closing(shop.fire), Tester(shop.fire) as shop.tester:
            shop.committed = shop.add.enqueue()
            yield shop

    @pytest.mark.parametrize("way", WAYS)
    def test_job_can_wait_for_one_of_the_same_transaction(self, shop):
        outcomes = {}

        for form in FORMS:
            with shop.transaction(commits=True) as within:
                outcomes[form] = outcome(shop, form, shop.task(within).enqueue(1), within)

        assert outcomes == all_of(FORMS, "accepted")

    @pytest.mark.parametrize("way", WAYS)
    def test_job_can_wait_for_one_that_has_committed(self, shop):
        outcomes = {}

        for form in FORMS:
            with shop.transaction(commits=True) as within:
                parents = [shop.task(within).enqueue(1), shop.task(within).enqueue(1)]
            with shop.transaction(commits=True) as within:
                inside = outcome(shop, form, parents[0], within)
            outcomes[form] = {inside, outcome(shop, form, parents[1], None)}

        assert outcomes == all_of(FORMS, {"accepted"})

    @pytest.mark.parametrize("way", ["session", "connection"])
    def test_job_elsewhere_cannot_wait_for_one_of_an_open_transaction(self, shop):
        inside, outside = {}, {}

        with shop.transaction(commits=True) as within:
            parent = shop.task(within).enqueue(1)
            for form in OF_A_PARENT:
                with shop.transaction(commits=True) as other:
                    inside[form] = outcome(shop, form, parent, other)
                outside[form] = outcome(shop, form, parent, None)

        assert inside == outside == all_of(OF_A_PARENT, REFUSED)

    @pytest.mark.parametrize("way", ["plugin"])
    def test_job_in_a_transaction_of_a_plugin_exists_after_its_commit(self, shop):
        """The plugin reports the commit. It does not report a rollback, so the job never exists after one."""
        outcomes = {}

        for form in OF_A_PARENT:
            with shop.transaction(commits=False):
                parent = shop.add.enqueue(1)
            outcomes[form] = outcome(shop, form, parent, None)

        assert outcomes == all_of(OF_A_PARENT, REFUSED)

    @pytest.mark.parametrize("way", ["session", "connection"])
    def test_handle_is_unusable_before_the_commit_or_before_the_test_runs_jobs(self, shop):
        with shop.transaction(commits=True) as within:
            jobs = [shop.task(within).enqueue(number) for number in range(3)]
            with pytest.raises(JobNotCommitted):
                jobs[0].refresh()
            with pytest.raises(JobNotFound):
                shop.fire.jobs.get(jobs[0].id)
            assert shop.fire.jobs.delete([jobs[0].id]) == [Applied.MISSING]
            shop.tester.drain(limit=2)
            assert jobs[0].refresh().state == "succeeded"
            with pytest.raises(JobNotCommitted):
                jobs[2].requeue()

        assert jobs[2].delete().state == "deleted"

    @pytest.mark.parametrize("way", ["session"])
    def test_scoped_session_resolves_to_the_session_of_its_thread(self, shop, url):
        engine = create_engine(url, poolclass=NullPool)
        sessions = scoped_session(sessionmaker(engine))

        parent = shop.task(sessions).enqueue(1)
        parent.then(shop.task(sessions()), 2)
        with pytest.raises(JobNotCommitted):
            parent.then(shop.add, 2)
        sessions.commit()
        parent.then(shop.add, 2)

        sessions.remove()
        engine.dispose()

    @pytest.mark.parametrize("way", ["session"])
    @pytest.mark.parametrize("within", ["default", {}, AsyncSession()], ids=["str", "dict", "AsyncSession"])
    def test_tester_refuses_the_same_calls_as_a_storage(self, shop, within):
        """For example, only the async methods accept an AsyncSession."""
        with pytest.raises(ConfigurationError, match=rf"\b(no|not|not be|got) {type(within).__name__}"):
            shop.task(within).enqueue(1)
        with pytest.raises(ConfigurationError, match=rf"\b(no|not|not be|got) {type(within).__name__}"):
            shop.approval.send(shop.committed, True, within=within)

    @pytest.mark.parametrize("way", ["session"])
    def test_async_methods_accept_an_async_session(self, shop, url):
        async def use():
            engine = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"), poolclass=NullPool)
            async with AsyncSession(engine) as session:
                parent = await shop.task(session).aenqueue(1)
                await parent.athen(shop.task(session), 2)
                with pytest.raises(JobNotCommitted):
                    await parent.athen(shop.add, 2)
                await session.commit()
                await parent.athen(shop.add, 2)
            await engine.dispose()

        asyncio.run(use())

        assert shop.fire.jobs.counts().total == 4
