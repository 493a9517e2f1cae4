"""The schema of the SQL storage: made on first use, never upgraded silently."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from firelock.storage import JobFilter, SchemaMismatch, SchemaState, StorageError
from firelock_sql import schema
from firelock_sql.sqlite.opening import open_sqlite
from tests.unit.fakes import unmeasured


@pytest.fixture
def path(tmp_path):
    """Where the file will be."""
    return tmp_path / "jobs.db"


@pytest.fixture
def open_storage(path):
    """A function that opens one more storage on the file, closed with the test."""
    opened = []

    def open_one():
        opened.append(open_sqlite(f"sqlite:///{path}"))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


def write(path, statement):
    """Change the file behind the storage's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def test_opening_touches_nothing(open_storage, path):
    """A storage that is never used leaves no file behind."""
    open_storage()

    assert not path.exists()


def test_the_first_verb_makes_the_schema(open_storage):
    """A reading verb will do; nothing has to be prepared."""
    storage = open_storage()

    storage.find(JobFilter(), limit=1)

    assert SchemaState(schema.WANTED, schema.WANTED) == storage.schema()
    assert [] == storage.migrate()


def test_migrate_tells_its_steps(open_storage):
    """On an empty file every step is taken, and told in a sentence."""
    storage = open_storage()
    before = storage.schema()

    steps = storage.migrate()

    assert SchemaState(0, schema.WANTED) == before
    assert [sentence for sentence, _ in schema.MIGRATIONS] == steps


def test_many_may_be_the_first(open_storage):
    """Storages that meet an empty file at the same instant agree on one schema."""
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
    ("version", "hint"), [(schema.WANTED + 1, "Upgrade firelock-sql"), (-1, "firelock migrate")]
)
def test_another_version_is_refused(open_storage, path, version, hint):
    """A newer schema asks for newer code, an older one for `firelock migrate`; neither is touched."""
    open_storage().counts()
    write(path, f"update firelock_schema set version = {version}")

    with pytest.raises(SchemaMismatch, match=hint):
        open_storage().counts()


def test_a_newer_schema_is_not_migrated(open_storage, path):
    """Migrations only go forward."""
    open_storage().counts()
    write(path, f"update firelock_schema set version = {schema.WANTED + 1}")

    with pytest.raises(SchemaMismatch, match="Upgrade"):
        open_storage().migrate()


def test_a_file_that_is_no_database_is_told(open_storage, path):
    """The driver's exception does not leak, and the file stays as it is."""
    path.write_text("this is not a database, it is a letter " * 50)

    with pytest.raises(StorageError, match="not an SQLite database"):
        open_storage().counts()

    assert path.read_text().startswith("this is not")


def test_a_missing_folder_is_named(tmp_path):
    """A path that cannot be opened says which folder is missing."""
    storage = open_sqlite(f"sqlite:///{tmp_path}/nowhere/jobs.db")

    with pytest.raises(StorageError, match=f"no folder {tmp_path}/nowhere"):
        storage.counts()


def test_the_plugin_loads_no_driver():
    """A program that opens another storage pays nothing for this one."""
    program = "import sys, firelock_sql.plugin; print(*{'sqlalchemy', 'sqlite3'} & set(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=unmeasured()
    )

    assert "" == loaded.stdout.strip()
