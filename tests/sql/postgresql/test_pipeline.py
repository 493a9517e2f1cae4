"""Transactions whose statements share round trips: usual plans, and no effect of earlier failures."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.plugins.loader import open_storage
from firelock.storage import StorageError, StorageUnavailable
from tests.scenes import scene_at

FORGET = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"
COUNTED = 5  # executions until psycopg prepares a statement
PLANNING = "SELECT current_setting('enable_sort'), current_setting('plan_cache_mode')"


@pytest.fixture
def database(postgresql):
    """The database of a storage that has its tables, with one connection."""
    with (
        scene_at(postgresql.url("listen=off")) as scene,
        closing(open_storage(postgresql.url("listen=off&pool_size=1"))) as storage,
    ):
        scene.storage.clear()
        storage.get(["nobody"])
        yield storage._database  # noqa: SLF001 - to run arbitrary statements


def rows_of(tx, *statements):
    """Return the rows of the last statement; the earlier ones are sent together with it."""
    for statement in statements[:-1]:
        getattr(tx.cursor, "put", tx.cursor.execute)(statement)
    tx.cursor.execute(statements[-1])
    return tx.cursor.fetchall()


def test_writing_statements_use_the_planner_settings_of_the_server(database, admin):
    """The special planner settings are only for statements that find few rows with one index."""
    as_usual = admin.execute(PLANNING).fetchall()

    assert as_usual == database.write(lambda tx: rows_of(tx, PLANNING))
    assert as_usual == database.read(lambda tx: rows_of(tx, PLANNING))
    assert as_usual != database.query(lambda tx: rows_of(tx, PLANNING))


def test_failed_statement_is_not_counted_as_prepared(database):
    """The driver has already counted the statement after the failed one, so it is prepared next time."""
    for _ in range(2):
        with pytest.raises(StorageError):
            database.read(lambda tx: rows_of(tx, "SELECT 1 / 0"))
    for _ in range(COUNTED):
        database.read(lambda tx: rows_of(tx, "SELECT 42"))
    with pytest.raises(StorageError):
        database.write(lambda tx: rows_of(tx, "SELECT 1 / 0", "SELECT 42"))

    assert [(42,)] == database.write(lambda tx: rows_of(tx, "SELECT 42"))
    assert [(42,)] == database.query(lambda tx: rows_of(tx, "SELECT 42"))


@pytest.mark.parametrize("way", ["write", "read", "query"])
def test_connection_without_its_prepared_statements_is_replaced(database, way):
    """Whatever the cause is, the next transaction uses another connection."""
    for _ in range(COUNTED + 2):
        getattr(database, way)(lambda tx: rows_of(tx, "SELECT 42"))
    database.write(lambda tx: rows_of(tx, FORGET, "SELECT 1"))

    assert [(42,)] == getattr(database, way)(lambda tx: rows_of(tx, "SELECT 42"))


def test_error_of_a_pending_statement_is_raised(database):
    """The error contains the code of the failed statement. Later statements have not been executed."""
    with pytest.raises(StorageUnavailable, match="deadlock"):
        database.write(lambda tx: rows_of(tx, "DO $$ BEGIN RAISE deadlock_detected; END $$", "SELECT 42"))
    with pytest.raises(StorageError, match="division by zero"):
        database.write(lambda tx: tx.cursor.put("SELECT 1 / 0"))

    assert [(42,)] == database.write(lambda tx: rows_of(tx, "SELECT 42"))
