"""The tables for users' own tools are the same as the tables that `firelock migrate` creates."""

from __future__ import annotations

from contextlib import closing

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateIndex

from firelock import ConfigurationError
from firelock_sql import tables_of
from firelock_sql.sqlite.storage import SqliteStorage


def shown(engine):
    """Return the tables with their columns and their indexes."""
    seen = inspect(engine)
    return {
        name: (
            [column["name"] for column in seen.get_columns(name)],
            sorted((index["name"], *index["column_names"]) for index in seen.get_indexes(name)),
        )
        for name in seen.get_table_names()
    }


def test_metadata_matches_the_tables_of_a_migration(tmp_path):
    """The tables are the same however they were created.

    A storage can use them as soon as the version is written.
    """
    by_tool, by_us = (create_engine(f"sqlite:///{tmp_path}/{name}.db", poolclass=NullPool) for name in "ab")
    with closing(SqliteStorage(f"sqlite:///{tmp_path}/b.db")) as storage:
        statements = storage.migration_sql()
        storage.migrate()

    tables_of("sqlite").create_all(by_tool)
    with by_tool.begin() as connection:
        connection.execute(text(statements[-1]))

    assert shown(by_us) == shown(by_tool)
    with closing(SqliteStorage(f"sqlite:///{tmp_path}/a.db")) as storage:
        assert ({}, []) == (storage.counts().by_state, storage.migrate())


@pytest.mark.parametrize(("dialect", "has_partial"), [("postgresql", True), ("mariadb", False)])
def test_each_database_has_the_supported_kind_of_index(dialect, has_partial):
    """Each index exists once.

    It is a partial index if the database supports these, and a full index otherwise.
    """
    tables = tables_of(dialect, schema="jobs", prefix="fl_")

    indexes = [index for table in tables.tables.values() for index in table.indexes]
    names = [index.name for index in indexes]

    assert len(names) == len(set(names))
    assert "jobs.fl_jobs" in tables.tables
    ready = next(index for index in indexes if index.name == "fl_ready")
    engine = create_engine("sqlite://")
    assert has_partial == ("WHERE" in str(CreateIndex(ready).compile(engine)))


@pytest.mark.parametrize("name", ["", "a b", 'x"; drop table y', "1st", "ü"])
def test_invalid_table_name_is_refused(name):
    """Because names are parts of statements, they may contain only letters, digits and underscores."""
    with pytest.raises(ConfigurationError, match="must be a name of up to 40 letters"):
        tables_of("postgresql", prefix=name)
