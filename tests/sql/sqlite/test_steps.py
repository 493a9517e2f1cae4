"""Across modules: steps on an SQLite file, in a caller's transaction and in a job process."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from firelock import Firelock, JobCancelled, JobContext, Retry
from firelock.plugins.hookspecs import ServerInfo
from firelock.server.job_process import JobProcess, JobProcessSpec
from tests.core.fakes import Worker, until

AT_ONCE = Retry.fixed(0, attempts=3, jitter=0)


@pytest.fixture
def url(tmp_path):
    """The URL of a file without jobs that has a table of its user."""
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("CREATE TABLE ledger (order_id INTEGER)")
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def fire(url):
    """An app on the file."""
    with Firelock(url) as app:
        yield app


@pytest.fixture
def engine(url):
    """The user's engine."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


def book(session, order_id):
    """Insert an order, as the task does in its transaction; return its id."""
    session.execute(text("INSERT INTO ledger VALUES (:id)"), {"id": order_id})
    return order_id


def booked(engine):
    """Return the ids in the table."""
    with Session(engine) as session:
        return list(session.execute(text("SELECT order_id FROM ledger")).scalars())


def test_step_and_its_writes_are_one_commit(fire, engine):
    """A step that was rolled back runs again.

    A committed step does not run again, even if the job fails after it.
    """
    ran = []

    @fire.task(name="order", retry=AT_ONCE)
    def order(job: JobContext) -> int:
        with Session(engine) as session, session.begin():
            number = job.within(session).step("book", book, session, 42)
            ran.append(number)
            if len(ran) == 1:
                raise ConnectionError("before the commit")
        if len(ran) == 2:
            raise ConnectionError("behind it")
        return number

    job, worker = order.enqueue(), Worker(fire)
    for _ in range(3):
        worker.run()

    assert (42, [42] * 3, [42]) == (job.result(5), ran, booked(engine))


def test_step_of_a_lost_job_is_rolled_back(fire, engine):
    """The exception that is raised in the step rolls back the transaction."""
    seen = []

    @fire.task(name="order")
    def order(job: JobContext) -> None:
        made.delete()
        try:
            with Session(engine) as session, session.begin():
                job.within(session).step("book", book, session, 42)
        except JobCancelled as error:
            seen.append(str(error))
            raise

    made = order.enqueue()
    Worker(fire).run()

    assert ["the job is no longer this run's; nothing of its transaction may stay"] == seen
    assert [] == booked(engine)


def test_async_step_joins_a_transaction(fire, engine):
    """The coroutine uses the transaction of a synchronous connection."""

    async def abook(session):
        await asyncio.to_thread(int)
        return book(session, 7)

    @fire.task(name="order")
    async def order(job: JobContext) -> int:
        with Session(engine) as session, session.begin():
            return await job.within(session).astep("book", abook, session)

    made = order.enqueue()
    with fire.server(workers=1, async_workers=1):
        assert 7 == made.result(20)
    assert [7] == booked(engine)


def test_coroutine_that_streams_after_its_commit_is_not_cancelled(fire, engine):
    """Output after the commit is dropped, because the job has ended."""
    much, reasons = "word" * 100_000, []

    async def works(job: JobContext) -> None:
        with Session(engine) as session, session.begin():
            job.complete_within(session)
        await job.aemit(much)
        await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0)
        reasons.append(job.cancel_reason)

    task = fire.task(name="works", retry=Retry.never())(works)

    with fire.server(workers=1, async_workers=1):
        task.enqueue().result(timeout=20)
        until(lambda: reasons)

    assert [""] == reasons


APP = """
import os
from firelock import Firelock, JobContext

fire = Firelock(os.environ["STEPS_URL"])

@fire.task(name="child")
def child(number: int) -> int:
    return number * 2

@fire.task(name="order", executor="process")
def order(job: JobContext) -> list[int]:
    pid = job.step("pid", os.getpid)
    job.emit("from there")
    return [pid, *job.gather("both", [child.call(1), child.call(2)])]
"""


def test_steps_work_in_a_job_process(fire, url, tmp_path, monkeypatch):
    """The process has its own connection. The memo for which the run waits is returned to the server."""
    (tmp_path / "steps_app.py").write_text(APP)
    monkeypatch.setenv("STEPS_URL", url)
    fire.task(name="order", executor="process")(lambda: None)
    fire.task(name="child")(lambda number: number * 2)
    worker = Worker(fire)
    made = fire.task_named("order").enqueue()
    process = JobProcess(
        JobProcessSpec(f"{tmp_path / 'steps_app.py'}:fire", ServerInfo("a", "host:a", "*", 1, 7))
    )

    def run_there():
        ended = [
            process.run(run, worker.runner, worker.console)
            for job in worker.claim()
            if (run := worker.runner.prepare(job, worker.holder))
        ]
        fire.storage.apply([each.transition for each in ended])
        return [each.transition.waits_for for each in ended]

    try:
        waited = run_there()
        worker.run()
        fire.storage.release(10)
        run_there()
    finally:
        process.kill()
        process.close()

    pid, *doubled = made.result(5)
    assert (["call both"], [2, 4]) == (waited, doubled)
    assert os.getpid() != pid
    assert "from there" == fire.storage.read_stream(made.id, "out")[0].data
