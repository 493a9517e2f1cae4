"""A migration may take longer than other transactions."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.plugins.loader import open_storage
from firelock.storage import StorageUnavailable
from firelock_sql.connections.transaction import Text
from firelock_sql.postgresql import storage as postgresql_storage
from firelock_sql.schema import tables as schema
from firelock_sql.schema import version


def note_in_a_step(monkeypatch, columns):
    """Add a migration whose step stores the result of a query for these columns."""
    step = f"CREATE TABLE firelock_seen AS SELECT {columns}"
    added = schema.Migration(
        version.WANTED + 1, "Noted the timeout.", lambda _: iter([step]), works_with=version.WANTED
    )
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, added])
    monkeypatch.setattr(version, "WANTED", version.WANTED + 1)


@pytest.fixture
def migrated(postgresql, admin):
    """Yield a storage with the tables of this release, which are restored after the test."""
    wanted = version.WANTED
    with closing(open_storage(postgresql.url("listen=off"))) as storage:
        storage.migrate()
        yield storage
    admin.execute("DROP TABLE IF EXISTS firelock_seen")
    admin.execute("DELETE FROM firelock_schema WHERE version > %s", (wanted,))


def test_migration_step_on_postgresql_has_no_statement_timeout(migrated, admin, monkeypatch):
    """For example, adding an index to ten million rows takes more than 30 seconds."""
    note_in_a_step(
        monkeypatch,
        "current_setting('statement_timeout') AS statement_timeout,"
        " current_setting('lock_timeout') AS lock_timeout",
    )

    assert migrated.migrate() == ["Noted the timeout."]

    found = admin.execute("SELECT statement_timeout, lock_timeout FROM firelock_seen").fetchall()
    assert found == [("0", "2s")]


@pytest.mark.usefixtures("migrated")
def test_migration_waits_longer_for_a_reply_than_other_transactions(postgresql, monkeypatch):
    """Except during a migration, Firelock closes a connection if a reply takes too long."""
    note_in_a_step(monkeypatch, "pg_sleep(1)::text AS slept")
    monkeypatch.setattr(postgresql_storage, "SILENT_SECONDS", 0.3)

    with closing(open_storage(postgresql.url("listen=off"))) as storage:
        assert storage.migrate() == ["Noted the timeout."]

        with pytest.raises(StorageUnavailable, match="no reply within"):
            storage._database.read(lambda tx: tx.cursor.execute("SELECT pg_sleep(1)"))  # noqa: SLF001 - slow


def test_migration_step_on_mariadb_stops_waiting_for_a_table(mariadb, monkeypatch):
    """While a step waits for a table, all other statements that use the table wait too.

    The connection's setting is restored afterwards.
    """
    with closing(open_storage(mariadb.url("pool_size=1"))) as storage:
        storage.migrate()
        note_in_a_step(monkeypatch, "@@SESSION.lock_wait_timeout AS waits")
        assert storage.migrate() == ["Noted the timeout."]

        rows = storage._database.read(  # noqa: SLF001 - no method shows the setting of a connection
            lambda tx: (
                tx.all(Text("SELECT waits FROM firelock_seen")),
                tx.all(Text("SELECT @@SESSION.lock_wait_timeout = @@GLOBAL.lock_wait_timeout")),
            )
        )
    assert rows == ([(2,)], [(1,)])
