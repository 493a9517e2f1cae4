"""A migration may take longer than other transactions."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock.plugins.loader import open_storage
from firelock_sql.schema import tables as schema


@pytest.fixture
def migrated(postgresql):
    """A storage whose tables are of this release."""
    with closing(open_storage(postgresql.url("listen=off"))) as storage:
        storage.migrate()
        yield storage
        storage.clear()


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="Migrations run with the statement timeout of ordinary transactions, 30 seconds.",
)
def test_a_step_of_a_migration_on_postgresql_has_no_statement_timeout(migrated, admin, monkeypatch):
    """Adding an index to ten million rows takes more than 30 seconds."""
    step = "CREATE TABLE firelock_seen AS SELECT current_setting('statement_timeout') AS statement_timeout"
    added = schema.Migration("Noted the timeout.", lambda _: iter([step]), works_with=1)
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, added])
    monkeypatch.setattr(schema, "WANTED", schema.WANTED + 1)

    assert migrated.migrate() == ["Noted the timeout."]

    ((statement_timeout,),) = admin.execute("SELECT statement_timeout FROM firelock_seen").fetchall()
    assert statement_timeout == "0"
