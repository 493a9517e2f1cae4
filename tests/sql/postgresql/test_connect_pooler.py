"""Connections through PgBouncer, which lends a connection for one transaction: the pooler is detected.

Nothing may then depend on the state of a connection between transactions.
"""

from __future__ import annotations

import logging
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import create_engine

from firelock.storage import ClaimRequest, State
from firelock_sql.postgresql.connect import ConnectionPath
from firelock_sql.postgresql.storage import open_engine, open_url
from tests.scenes import listening, scene_at

LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE 'LISTEN%%'"


@pytest.fixture
def scene(pgbouncer):
    """A storage behind a pooler, with helpers for jobs."""
    with scene_at(pgbouncer.url()) as scene:
        yield scene


def test_pooler_is_detected(pgbouncer):
    """A pooler is detected by the process id that a connection gets when it is opened.

    Through a pooler, no statement is prepared.
    """
    met = {}
    for url in (pgbouncer.url(), pgbouncer.direct_url()):
        path = ConnectionPath("here")
        with (
            psycopg.connect(url, autocommit=True) as first,
            psycopg.connect(url, autocommit=True) as second,
        ):
            path.set_up(first)
            path.set_up(second)  # only the first connection has to detect the pooler
            met[url] = path.is_pooled, first.prepare_threshold, second.prepare_threshold

    assert [(True, None, None), (False, 5, 5)] == list(met.values())


def test_polling_because_of_a_pooler_is_logged_once(pgbouncer, caplog):
    """One log line states that servers find work by polling.

    So does the description, which `doctor` shows.
    """
    with closing(open_url(pgbouncer.url())) as storage, caplog.at_level(logging.INFO, logger="firelock_sql"):
        for _ in range(3):
            storage.counts()
        description = storage.describe()

    (line,) = [record.getMessage() for record in caplog.records]
    assert "Detected a pooler between this process and postgresql://firelock:***@" in line
    assert "servers find work by polling" in line
    assert "between this process and the server" == description["pooler"]
    assert description["wake"].startswith("off behind a pooler")


def test_storage_does_not_listen_through_a_pooler(scene, pgbouncer):
    """After a short time, a connection belongs to another client, so it would not receive notifications."""
    server = scene.handles.open()
    server.wait(None, 0)
    server.counts()
    scene.add()

    was_woken = server.wait(None, 0.1)

    with psycopg.connect(pgbouncer.socket_url()) as admin:
        assert (0,) == admin.execute(LISTENERS, [pgbouncer.name]).fetchone()
    assert not was_woken


def test_client_with_a_pooler_notifies_a_server_without_one(scene, pgbouncer):
    """For example, web processes use the pooler and servers bypass it.

    These servers receive the notifications that are sent through the pooler.
    """
    with closing(open_url(pgbouncer.direct_url())) as server:
        listening(server)
        scene.add()

        assert server.wait(None, 30)


def test_listening_through_a_pooler_can_be_forced(pgbouncer):
    """A pooler in session mode reserves a connection for its client, but Firelock cannot detect this."""
    storage = open_url(pgbouncer.url("listen=on"))
    storage.counts()

    assert "NOTIFY, one connection per process" == storage.describe()["wake"]
    storage.close()


def test_pooler_of_a_callers_engine_is_detected(pgbouncer):
    """The connections of a caller's engine, including existing ones, are checked at their first use here."""
    engine = create_engine(pgbouncer.engine_url())
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    storage = open_engine(engine)

    storage.counts()
    threshold, description = driver.prepare_threshold, storage.describe()
    storage.close()
    engine.dispose()

    assert threshold is None
    assert description["wake"].startswith("off behind a pooler")


def test_frequent_statements_work_on_any_pooled_connection(scene):
    """A prepared statement could be missing in the next transaction, or belong to another client."""
    holder = scene.begin()
    for _ in range(12):
        scene.add()
        scene.storage.claim(ClaimRequest(None, 1, holder.session, scene.stamp()))

    assert {State.PROCESSING: 12} == scene.storage.counts().by_state
