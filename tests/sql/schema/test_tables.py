"""The schema of the SQL storage: created on first use, never upgraded silently."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from firelock.storage import JobFilter, SchemaMismatch, SchemaState, StorageError
from firelock_sql.schema import tables as schema
from firelock_sql.schema import version
from firelock_sql.schema.names import SCHEMA_TABLE, TABLES
from firelock_sql.sqlite.storage import SqliteStorage
from tests.core.fakes import unmeasured


@pytest.fixture
def path(tmp_path):
    """The path of a file that does not exist yet."""
    return tmp_path / "jobs.db"


@pytest.fixture
def open_storage(path):
    """A function that opens one more storage on the file, which is closed after the test."""
    opened = []

    def open_one():
        opened.append(SqliteStorage(f"sqlite:///{path}"))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


def write(path, statement):
    """Change the file without the storage."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def test_opening_does_not_create_a_file(open_storage, path):
    """A storage that is opened but never used does not leave a file behind."""
    open_storage()

    assert not path.exists()


def test_first_call_creates_the_schema(open_storage):
    """A call that only reads creates the schema as well, so no preparation is needed."""
    storage = open_storage()

    storage.find(JobFilter(), limit=1)

    assert SchemaState(version.WANTED, version.WANTED) == storage.schema()
    assert [] == storage.migrate()


def test_migrate_returns_its_migrations(open_storage):
    """In an empty file, the first migration creates the tables. The result contains a sentence about it."""
    storage = open_storage()
    before = storage.schema()

    sentences = storage.migrate()

    assert SchemaState(0, version.WANTED) == before
    assert [schema.MIGRATIONS[0].sentence] == sentences


def test_concurrent_first_openings_create_one_schema(open_storage):
    """Storages that open an empty file at the same time create the schema only once."""
    storages = [open_storage() for _ in range(4)]
    barrier = threading.Barrier(len(storages))
    answers = []

    def use(storage):
        barrier.wait()
        answers.append(storage.counts().by_state)

    threads = [threading.Thread(target=use, args=(storage,)) for storage in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [{}] * 4 == answers


@pytest.mark.parametrize(
    ("version", "works_with", "hint"),
    [
        (version.WANTED + 2, version.WANTED + 1, "Upgrade firelock-sql"),
        (version.FIRST - 1, version.FIRST - 1, "before the first release.*Remove the tables"),
    ],
)
def test_unsupported_schema_version_is_refused(open_storage, path, version, works_with, hint):
    """A newer schema requires newer code. A schema from before the first release cannot be migrated."""
    open_storage().counts()
    write(path, f"update firelock_schema set version = {version}, works_with = {works_with}")

    with pytest.raises(SchemaMismatch, match=hint):
        open_storage().counts()


def test_schema_that_is_too_old_requires_a_migration(open_storage, monkeypatch):
    """The error names the command that upgrades the schema."""
    open_storage().counts()
    monkeypatch.setattr(version, "WANTED", version.WANTED + 1)
    monkeypatch.setattr(version, "OLDEST", version.WANTED)

    with pytest.raises(SchemaMismatch, match="Run firelock migrate"):
        open_storage().counts()


def test_previous_release_works_on_a_new_schema(open_storage, path):
    """A newer schema contains the version of the oldest code that can use it."""
    open_storage().counts()
    write(path, f"insert into firelock_schema values ({version.WANTED + 1}, 0, {version.WANTED}, '')")

    storage = open_storage()

    assert {} == storage.counts().by_state
    assert SchemaState(version.WANTED + 1, version.WANTED) == storage.schema()


def test_new_release_works_on_the_previous_schema(open_storage, monkeypatch):
    """Servers of a new release can start before the migration.

    The migration then executes only the new part.
    """
    open_storage().counts()
    old, new = version.WANTED, version.WANTED + 1
    added = schema.Migration(
        new, "Added a column.", lambda _: iter(["alter table firelock_locks add extra text"]), old
    )
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, added])
    monkeypatch.setattr(version, "WANTED", new)
    storage = open_storage()

    before = storage.counts().by_state, storage.schema()
    sentences = storage.migrate()

    assert (({}, SchemaState(old, new)), ["Added a column."]) == (before, sentences)
    assert SchemaState(new, new) == storage.schema()


def test_new_database_skips_the_changes_of_later_migrations(open_storage, monkeypatch):
    """The first migration creates the current tables, including the columns that later migrations add."""
    new = version.WANTED + 1
    added = schema.Migration(
        new, "Added a column.", lambda _: iter(["alter table firelock_locks add owner text"]), new
    )
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, added])
    monkeypatch.setattr(version, "WANTED", new)
    storage = open_storage()

    sentences = storage.migrate()

    assert ([schema.MIGRATIONS[0].sentence], SchemaState(new, new)) == (sentences, storage.schema())
    assert [] == storage.migrate()


def test_printed_statements_equal_the_migration(open_storage, path, tmp_path):
    """A person who has the required privileges can execute the statements.

    After that, no migration is left.
    """
    statements = open_storage().migration_sql()
    by_hand = tmp_path / "by-hand.db"

    for statement in statements:
        write(by_hand, statement)

    with closing(SqliteStorage(f"sqlite:///{by_hand}")) as storage:
        assert ([], []) == (storage.migration_sql(), storage.migrate())
        open_storage().migrate()
        shown = "select sql from sqlite_master order by name"
        with closing(sqlite3.connect(path)) as made, closing(sqlite3.connect(by_hand)) as ours:
            assert made.execute(shown).fetchall() == ours.execute(shown).fetchall()


def test_newer_schema_is_not_migrated(open_storage, path):
    """There are no migrations to an older schema."""
    open_storage().counts()
    write(path, f"update firelock_schema set version = {version.WANTED + 1}")

    with pytest.raises(SchemaMismatch, match="Upgrade"):
        open_storage().migrate()


@pytest.mark.parametrize("lacking", ["made_by", "works_with"])
@pytest.mark.parametrize("use", ["counts", "schema", "migrate", "migration_sql"])
def test_tables_from_before_the_first_release_are_reported(open_storage, path, use, lacking):
    """Every call reports the old tables and explains how to proceed. The tables are not changed."""
    open_storage().counts()
    write(path, f"alter table firelock_schema drop column {lacking}")

    with pytest.raises(SchemaMismatch, match=r"before the first release.*Remove the tables.*or use another"):
        getattr(open_storage(), use)()

    with closing(sqlite3.connect(path)) as connection:
        assert [(version.WANTED,)] == connection.execute("select version from firelock_schema").fetchall()


def test_file_that_is_not_a_database_is_reported(open_storage, path):
    """The driver's exception is not raised, and the file is not changed."""
    path.write_text("this is not a database, it is a letter " * 50)

    with pytest.raises(StorageError, match="not an SQLite database"):
        open_storage().counts()

    assert path.read_text().startswith("this is not")


def test_missing_folder_is_named(tmp_path):
    """If the path cannot be opened, the error names the missing folder."""
    storage = SqliteStorage(f"sqlite:///{tmp_path}/nowhere/jobs.db")

    with pytest.raises(StorageError, match=f"the folder {tmp_path}/nowhere does not exist"):
        storage.counts()


def test_plugin_does_not_load_drivers():
    """A program that opens another kind of storage does not load the modules of the SQL storage."""
    program = "import sys, firelock_sql.plugin; print(*{'sqlalchemy', 'sqlite3'} & set(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=unmeasured()
    )

    assert "" == loaded.stdout.strip()


def test_current_schema_does_not_load_other_dialects(path, open_storage):
    """Only a migration imports the table definitions, because importing them loads every dialect."""
    open_storage().migrate()
    program = (
        "import sys; from firelock_sql.sqlite.storage import SqliteStorage;"
        f"storage = SqliteStorage('sqlite:///{path}'); storage.counts(); storage.close();"
        "print(*(name for name in ('mysql', 'postgresql') if f'sqlalchemy.dialects.{name}' in sys.modules))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=unmeasured()
    )

    assert "" == loaded.stdout.strip()


def test_statements_and_migration_have_the_same_tables():
    """The statements use the table names and the schema version that a migration creates."""
    assert set(schema.METADATA.tables) == TABLES
    assert schema.schema_version.name == SCHEMA_TABLE
    assert [one.version for one in schema.MIGRATIONS] == [*range(version.FIRST, version.WANTED + 1)]
