"""Migrations on MySQL and MariaDB: each CREATE commits by itself, so any of them can be the last one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from firelock import Firelock
from firelock.storage import StorageUnavailable
from firelock.testing.waiting import eventually

# A table in the middle of the order of creation.
TABLE = "firelock_locks"


@pytest.fixture
def empty(mariadb):
    """The database without any tables."""
    with mariadb.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {mariadb.name}")
        for (table,) in tables(cursor):
            cursor.execute(f"DROP TABLE `{table}`")
        yield mariadb


def tables(cursor):
    """Return the tables' names."""
    cursor.execute("SHOW TABLES")
    return cursor.fetchall()


def tables_of(cursor, database):
    """Return the names of the tables in another database."""
    cursor.execute(f"USE {database}")
    return {name for (name,) in tables(cursor)}


def waiting_migration(cursor, name):
    """Return the id of the connection that waits for the table, or None."""
    cursor.execute(
        "SELECT id FROM information_schema.processlist WHERE db = %s AND info LIKE %s",
        [name, f"CREATE TABLE%{TABLE}%"],
    )
    return cursor.fetchone()


def test_killed_migration_is_continued(empty):
    """The tables that a killed migration created are kept, and the next migration creates the rest.

    The version is written last.
    """
    with empty.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"USE {empty.name}")
        cursor.execute(f"CREATE TABLE {TABLE} (id INT)")
        cursor.execute(f"LOCK TABLES {TABLE} WRITE")
        with closing(Firelock(empty.url())) as fire, ThreadPoolExecutor() as pool:
            first = pool.submit(fire.storage.migrate)
            with empty.server.connect() as other, other.cursor() as killer:
                number = eventually(lambda: waiting_migration(killer, empty.name), within=60)
                killer.execute("KILL %s", number)
            with pytest.raises(StorageUnavailable):
                first.result(30)
            cursor.execute("UNLOCK TABLES")
            half = len(tables(cursor))
            cursor.execute(f"DROP TABLE {TABLE}")
            found = fire.storage.schema().found

            sentences = fire.storage.migrate()

            whole = len(tables(cursor))
            is_wanted = fire.storage.schema().found == fire.storage.schema().wanted
    assert 1 < half < whole
    assert found == 0
    assert (sentences, is_wanted) == (["Created the tables."], True)


def test_concurrent_first_calls_migrate_once(empty):
    """Eight threads make their first call at the same time, on an empty database."""
    start = threading.Barrier(8)

    def migrate():
        with closing(Firelock(empty.url())) as fire:
            start.wait(30)
            return fire.storage.migrate()

    with ThreadPoolExecutor(8) as pool:
        done = [one.result(60) for one in [pool.submit(migrate) for _ in range(8)]]

    assert sorted(map(len, done)) == [0] * 7 + [1]


def test_tables_can_have_a_prefix_and_another_database(empty, sql_servers):
    """All names are changed except that of the database, which begins like those of tables in this test."""
    with sql_servers.database_on(empty.server) as schema:
        with closing(Firelock(empty.url(f"schema={schema}&prefix=app_"))) as fire:
            fire.storage.migrate()
        with empty.server.connect() as connection, connection.cursor() as cursor:
            here = tables_of(cursor, empty.name)
            there = tables_of(cursor, schema)

    assert here == set()
    assert {"app_jobs", "app_schema"} <= there
    assert all(name.startswith("app_") for name in there)
