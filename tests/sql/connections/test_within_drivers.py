"""Jobs as part of callers' transactions on PostgreSQL, with each driver that a caller can use."""

from __future__ import annotations

from contextlib import closing

import attrs
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from firelock import ConfigurationError, Firelock, State
from firelock.storage import NewJob, StorageUnavailable


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
    """A caller's engine that uses psycopg."""
    engine = create_engine(postgresql.engine_url(), poolclass=NullPool)
    yield engine
    engine.dispose()


def enqueued(fire):
    """Return the number of enqueued jobs."""
    return fire.storage.counts().by_state.get(State.ENQUEUED, 0)


def test_rollback_to_a_savepoint_removes_its_jobs(fire, task, engine):
    """A rollback to the caller's savepoint also removes the jobs that were stored after it."""
    with Session(engine) as session, session.begin():
        task.using(within=session).enqueue(1)
        nested = session.begin_nested()
        task.using(within=session).enqueue(2)
        nested.rollback()

    assert 1 == enqueued(fire)


def test_psycopg_block_in_autocommit_is_accepted(fire, task, postgresql):
    """Outside such a block, nothing could be rolled back, so the call is refused."""
    with closing(psycopg.connect(postgresql.url(), autocommit=True)) as connection:
        with pytest.raises(ConfigurationError, match="autocommit"):
            task.using(within=connection).enqueue(1)
        with connection.transaction():
            task.using(within=connection).enqueue(2)
        with connection.transaction(force_rollback=True):
            task.using(within=connection).enqueue(3)

    assert 1 == enqueued(fire)


def test_transaction_on_another_database_is_refused(fire, task, postgresql):
    """The tables of these jobs are not in that database, even if it has tables with the same names."""
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
        pytest.raises(ConfigurationError, match="does not contain the tables"),
    ):
        task.using(within=elsewhere).enqueue(1)

    assert 0 == enqueued(fire)


def test_unique_key_hidden_by_a_snapshot_is_reported(fire, task, engine):
    """If a job was stored after the snapshot, it is not visible in the snapshot, and must not be overwritten.

    The caller can continue.
    """
    job = NewJob("0190-hidden", "send", "[[1], {}]", "json", "default", 0, State.ENQUEUED, 1_000)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("select 1"))
        fire.storage.insert([job])

        with pytest.raises(StorageUnavailable):
            fire.storage.insert([job], within=connection)

        assert [True] == fire.storage.insert([attrs.evolve(job, id="0190-seen")], within=connection).is_new
        connection.commit()
    assert 2 == enqueued(fire)
