"""Across modules: the error for a refused enqueue has `is_untouched`, the error for a lost reply does not."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg
import pymysql
import pytest

from firelock import Firelock, StorageUnavailable
from tests.faults.proxy import FaultProxy
from tests.ports import free_port
from tests.sql.databases import PostgresqlDatabase
from tests.sql.servers.postgresql import Postgresql

_FULL_POSTGRESQL = """
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON firelock_jobs EXECUTE FUNCTION fill()
"""
_FULL_MYSQL = """
CREATE TRIGGER full_disk BEFORE INSERT ON firelock_jobs FOR EACH ROW
SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table is full'
"""


@contextmanager
def app_at(url, *, is_migrated=True):
    """An app at the URL and its task; its tables exist."""
    with closing(Firelock(url)) as fire:
        if is_migrated:
            fire.storage.migrate()
        yield fire, fire.task(name="note")(lambda text="": None)


def assert_untouched(task, words):
    """Assert that each enqueue is refused with these words and wrote nothing."""
    for enqueue in (task.enqueue, lambda: task.enqueue_many([()] * 3)):
        with pytest.raises(StorageUnavailable, match=words) as caught:
            enqueue()
        assert caught.value.is_untouched, caught.value
    return caught.value


@pytest.fixture
def task(server_database):
    """The task of an app on the module's database of each server, which has no jobs."""
    with app_at(server_database.url()) as (fire, task):
        fire.storage.clear()
        yield task


@contextmanager
def ruled(database, statements, undo):
    """Apply the administrator's statements, and undo them after the block."""
    with administrator(database) as run:
        run(statements)
        try:
            yield
        finally:
            run(undo)


@contextmanager
def administrator(database):
    """Yield a function that runs statements in the database with all rights."""
    if isinstance(database, PostgresqlDatabase):
        with psycopg.connect(database.socket_url(), autocommit=True) as connection:
            yield connection.execute
        return
    with closing(database.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"USE `{database.name}`")
        yield cursor.execute


def test_refused_connection_raises_an_untouched_error(server_database):
    """In this test, no server listens at the port."""
    with app_at(server_database.url(port=free_port()), is_migrated=False) as (_, task):
        assert_untouched(task, "refused|connect")


def test_server_without_a_free_connection_raises_an_untouched_error(server_database):
    """PostgreSQL refuses the connection because of the database's own limit.

    On MariaDB, the test occupies every connection.
    """
    if isinstance(server_database, PostgresqlDatabase):
        alter = f"ALTER DATABASE {server_database.name} CONNECTION LIMIT"
        taken = ruled(server_database, f"{alter} 0", f"{alter} -1")
    else:
        taken = all_connections(server_database)
    with taken, app_at(server_database.url(), is_migrated=False) as (_, task):
        assert_untouched(task, "(?i)too many connections")


@contextmanager
def all_connections(database):
    """Use all connections of the server within the block."""
    with ExitStack() as stack:
        with suppress(pymysql.OperationalError):
            while True:
                stack.enter_context(closing(database.server.connect()))
        yield


def test_full_disk_raises_an_untouched_error(server_database, task):
    """In this test, a trigger raises the error of the server."""
    if isinstance(server_database, PostgresqlDatabase):
        full, undo = _FULL_POSTGRESQL, "DROP TRIGGER full_disk ON firelock_jobs; DROP FUNCTION fill()"
    else:
        full, undo = _FULL_MYSQL, "DROP TRIGGER full_disk"
    with ruled(server_database, full, undo):
        error = assert_untouched(task, "extend file|full")

    assert error.longest_pause == (30.0 if isinstance(server_database, PostgresqlDatabase) else 5.0)


def test_read_only_mariadb_raises_an_untouched_error(mariadb):
    """The server is a replica, or it is a primary before a failover."""
    with (
        app_at(mariadb.url()) as (_, task),
        ruled(mariadb, "SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"),
    ):
        assert_untouched(task, "does not accept writes")


def test_standby_raises_an_untouched_error(postgresql_program):
    """A standby does not accept writes."""
    with Postgresql(postgresql_program) as server:
        server.create_database("jobs")
        with app_at(server.url("jobs")):
            pass
        server.stop()
        (server.folder / "data" / "standby.signal").touch()
        server.start()
        with app_at(server.url("jobs"), is_migrated=False) as (_, task):
            assert_untouched(task, "does not accept writes")


def test_lost_reply_raises_no_untouched_error(postgresql):
    """In this test, the job is stored, but both replies are lost."""
    with (
        FaultProxy(postgresql.server.address) as proxy,
        app_at(postgresql.url(port=proxy.port)) as (fire, task),
    ):
        fire.storage.clear()
        proxy.lose_reply(lambda request: b"note" in request, times=None)
        with pytest.raises(StorageUnavailable) as caught:
            task.enqueue()
        proxy.heal()

        assert fire.jobs.counts().by_state["enqueued"] == 1
    assert not caught.value.is_untouched


@pytest.mark.parametrize("pragma", ["max_page_count = 1", "query_only = ON"], ids=["full", "read-only"])
def test_full_or_read_only_sqlite_raises_an_untouched_error(tmp_path, monkeypatch, pragma):
    """The file has reached its maximum number of pages, or cannot be written."""
    url, connect = f"sqlite:///{tmp_path / 'jobs.db'}?synchronous=normal", sqlite3.connect
    with app_at(url):
        pass

    def limited(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.execute(f"PRAGMA {pragma}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", limited)
    with app_at(url, is_migrated=False) as (_, task), pytest.raises(StorageUnavailable) as caught:
        task.enqueue_many([("a" * 4_000,)] * 300)

    assert caught.value.is_untouched, caught.value


def test_sqlite_without_its_folder_raises_an_untouched_error(tmp_path):
    """Without the folder, the file cannot be opened."""
    with app_at(f"sqlite:///{tmp_path / 'none' / 'jobs.db'}", is_migrated=False) as (_, task):
        assert_untouched(task, "does not exist")
