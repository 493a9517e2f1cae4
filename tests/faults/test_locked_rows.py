"""A row that another transaction has locked delays only its own job."""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, contextmanager

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from firelock import Firelock, JobContext, Retry, Settings
from firelock.model.state import State
from firelock.plugins.loader import open_storage
from firelock.testing import eventually
from tests.faults.meters import WatchedStorage, arranging

WITHIN = 5.0  # seconds: more than two waits for a lock, but less than one transaction keeps retrying
LONG = 60.0  # seconds until a condition counts as never met
SETTINGS = Settings(poll=0.1, heartbeat=1, session_timeout=60, sweep=60)
OTHERS = 8


class Shop:
    """An application on a database, its server with four threads, and transactions of other programs."""

    def __init__(self, database):
        self.database = database
        self.storage = WatchedStorage(open_storage(database.url()))
        self.storage.clear()
        self.fire = fire = Firelock(self.storage, settings=SETTINGS)
        self.server = fire.server(workers=4, async_workers=1)
        self.engine = create_engine(database.engine_url(), poolclass=NullPool)
        self.gate, self.other_gate, self.started = threading.Event(), threading.Event(), threading.Event()

        @fire.task(name="held", retry=Retry.never())
        def held() -> None:
            self.started.set()
            assert self.gate.wait(LONG)

        @fire.task(name="other", retry=Retry.never())
        def other() -> None: ...

        @fire.task(name="waiting", retry=Retry.never())
        def waiting() -> None:
            assert self.other_gate.wait(LONG)

        self.held, self.other, self.waiting = held, other, waiting

    def running(self):
        """Return a job that runs until the gate opens."""
        job = self.held.enqueue()
        with arranging():
            eventually(self.started.is_set, within=LONG)
        return job

    def await_transition(self, job):
        """Wait until the server has sent the end of the job to the storage."""
        with arranging():
            eventually(lambda: self.storage.has_been_sent(job), within=LONG)

    @contextmanager
    def transaction(self):
        """Open a transaction as a web request does; roll it back after the block."""
        with Session(self.engine) as session:
            yield session
            session.rollback()

    @contextmanager
    def lock(self, job):
        """Lock the row of the job within the block."""
        with self.transaction() as session:
            session.execute(text("SELECT 1 FROM firelock_jobs WHERE id = :id FOR UPDATE"), {"id": job.id})
            yield

    @contextmanager
    def attach(self, job):
        """Attach a continuation to the job in a transaction that stays open within the block."""
        with self.transaction() as session:
            job.then(self.other.using(within=session))
            yield

    def others_end(self):
        """Return whether jobs that are enqueued now run and are stored as succeeded."""
        jobs = self.other.enqueue_many([()] * OTHERS)
        eventually(lambda: self.are(State.SUCCEEDED, jobs), within=WITHIN)
        return True

    def are(self, state, jobs):
        """Return whether all jobs are in the state."""
        records = self.storage.inside.get([job.id for job in jobs])
        return all(record.state is state for record in records)

    def end(self):
        """End the jobs, the server and the connections."""
        self.gate.set()
        self.other_gate.set()
        self.server.stop(grace=1)
        self.engine.dispose()


@contextmanager
def shop_on(database):
    """Open the shop, without starting its server."""
    with ExitStack() as stack:
        shop = Shop(database)
        stack.enter_context(closing(shop.fire))
        stack.callback(shop.end)
        yield shop


@pytest.fixture
def shop(server_database):
    """Yield a shop on PostgreSQL or MariaDB."""
    with shop_on(server_database) as shop:
        yield shop


@pytest.mark.parametrize("way", [Shop.lock, Shop.attach], ids=["select", "then"])
def test_other_jobs_end_while_the_row_of_an_ended_job_is_locked(shop, way):
    """Either a statement or a request that attaches a continuation without committing has locked the row."""
    shop.server.start()
    job = shop.running()

    with way(shop, job):
        shop.gate.set()
        shop.await_transition(job)

        assert shop.others_end()


def test_other_jobs_end_if_no_row_is_locked(shop):
    """Without the lock, the same steps succeed, so only the lock can make the other tests fail."""
    shop.server.start()
    job = shop.running()
    shop.gate.set()
    shop.await_transition(job)

    assert shop.others_end()


def test_stopping_server_stores_other_ends_while_a_row_is_locked(shop):
    """If these outcomes were not stored, the jobs would run a second time after a deployment."""
    shop.server.start()
    job = shop.running()
    others = shop.waiting.enqueue_many([()] * 3)
    with arranging():
        eventually(lambda: shop.are(State.PROCESSING, others), within=LONG)

    with shop.lock(job):
        shop.gate.set()
        shop.await_transition(job)
        threading.Thread(target=shop.server.stop, kwargs={"grace": 10}).start()  # `end` waits for it
        shop.other_gate.set()

        eventually(lambda: shop.are(State.SUCCEEDED, others), within=WITHIN)


def test_other_jobs_end_while_complete_within_keeps_a_transaction_open(shop):
    """The transaction of `complete_within` locks the row.

    After a second, the server stores the start of the job.
    """
    completed = threading.Event()

    @shop.fire.task(name="completes", retry=Retry.never())
    def completes(job: JobContext) -> None:
        with shop.transaction() as session:
            job.complete_within(session)
            completed.set()
            assert shop.gate.wait(LONG)

    shop.server.start()
    job = completes.enqueue()
    with arranging():
        eventually(completed.is_set, within=LONG)
        eventually(lambda: has_started(shop.storage, job), within=LONG)

    assert shop.others_end()


def has_started(storage, job):
    """Return whether a `reconcile` call that stores the start of the job has begun."""
    return any(
        held.job_id == job.id and held.started_at is not None
        for call in storage.begun("reconcile")
        for held in call.args[1]
    )


def test_other_jobs_end_while_the_row_of_a_waiting_continuation_is_locked(shop):
    """The parent ends, so the server must enqueue the continuation."""
    shop.server.start()
    parent = shop.running()
    child = parent.then(shop.other)

    with shop.attach(child):
        releases = len(shop.storage.begun("release"))
        shop.gate.set()
        with arranging():
            eventually(lambda: shop.are(State.SUCCEEDED, [parent]), within=LONG)
            eventually(lambda: len(shop.storage.begun("release")) > releases, within=LONG)

        assert shop.others_end()


@pytest.fixture
def mariadb_shop(mariadb):
    """Yield a shop on MariaDB or MySQL."""
    with shop_on(mariadb) as shop:
        yield shop


def test_other_jobs_end_while_a_job_with_a_locked_row_logs(mariadb_shop):
    """Each of the other jobs ends just after the logging job has written a line."""
    shop, requested, wrote = mariadb_shop, threading.Semaphore(0), threading.Semaphore(0)

    @shop.fire.task(name="talks", retry=Retry.never())
    def logs(job: JobContext) -> None:
        shop.started.set()
        while not shop.gate.is_set():
            if requested.acquire(timeout=0.05):
                job.log("a line")
                wrote.release()

    @shop.fire.task(name="after-a-line", retry=Retry.never())
    def after_a_line() -> None:
        requested.release()
        eventually(lambda: wrote.acquire(blocking=False) or shop.gate.is_set(), within=LONG)

    shop.server.start()
    logging_job = logs.enqueue()
    with arranging():
        eventually(shop.started.is_set, within=LONG)

    with shop.attach(logging_job):
        jobs = after_a_line.enqueue_many([()] * OTHERS)
        eventually(lambda: shop.are(State.SUCCEEDED, jobs), within=WITHIN)
