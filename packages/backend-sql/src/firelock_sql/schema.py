"""The schema and its versions: made on first use, never upgraded silently.

A migration only goes forward. Releases roll: each migration says which schema the oldest code knows that
still works on the new one, and the code says which is the oldest schema that it still works on. So servers of
a release and of the one before can share a storage, before the migration and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from firelock.storage import SchemaMismatch, SchemaState
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import METADATA, ONE, is_of, schema_version
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "MIGRATIONS",
    "OLDEST",
    "WANTED",
    "Migration",
    "clear",
    "ensure",
    "made_at",
    "migrate",
    "state",
    "statements",
]


def _tables(dialect: Dialect) -> Iterator[str]:
    """Yield the statements that make what is not there yet: a step that was cut off is taken again."""
    for table in METADATA.sorted_tables:
        yield str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip()
        if getattr(dialect, "makes_indexes_with_tables", False):
            continue
        indexes = [index for index in table.indexes if is_of(index, dialect.name)]
        for index in sorted(indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)).strip()


@attrs.frozen
class Migration:
    """One version of the schema."""

    sentence: str  # what it did, for people
    statements: Callable[[Dialect], Iterator[str]]
    works_with: int  # the schema that the oldest code knows which works on this one


MIGRATIONS = [Migration("Created the tables of version 1.", _tables, works_with=1)]
WANTED = len(MIGRATIONS)
OLDEST = 1
"""The oldest schema on which this code works."""

# Whatever columns there are: tables of development versions lack the last one.
_VERSION = Statement(
    select(text("*")).select_from(schema_version).order_by(schema_version.c.version.desc()).limit(ONE)
)
_RECORD = insert_into(schema_version, "version", "at", "works_with")


def _found(database: Database, tx: Transaction) -> int:
    return _stored(database, tx)[0]


def _stored(database: Database, tx: Transaction) -> tuple[int, int]:
    """Return the version, 0 for none, and the schema that the oldest code must know which works on it.

    Raises:
        SchemaMismatch: the tables are those of a development version.
    """
    if not database.has_table(tx, schema_version.name):
        return 0, 0
    row: Any = tx.one(_VERSION)
    match row:
        case None:
            return 0, 0
        case [version, _, works_with, *_]:
            return int(version), int(works_with)
        case _:
            raise SchemaMismatch(_unreleased(database))


_MADE_AT = Statement(select(func.min(schema_version.c.at)))


def made_at(tx: Transaction) -> int:
    """Return the instant at which these tables were made, which tells them from all others."""
    row: Any = tx.one(_MADE_AT)
    return int(row[0] or 0)


def state(database: Database) -> SchemaState:
    """Return the stored version and the wanted one."""
    return SchemaState(database.read_unchecked(lambda tx: _found(database, tx)), WANTED)


def ensure(database: Database) -> None:
    """The schema is one this code works on, made where there is none.

    Raises:
        SchemaMismatch: it is too old or too new.
    """
    found, works_with = database.read_unchecked(lambda tx: _stored(database, tx))
    if found == 0:
        migrate(database)
    elif found < OLDEST:
        message = (
            f"{database.name} has schema {found}, this version of firelock-sql needs {WANTED}. "
            "Run firelock migrate."
        )
        raise SchemaMismatch(message)
    elif works_with > WANTED:
        raise SchemaMismatch(_newer(database, found))


def statements(database: Database) -> list[str]:
    """Return the SQL by which somebody else migrates, from the stored version or from nothing.

    Raises:
        SchemaMismatch: the stored schema is newer than this code.
    """
    found = state(database).found
    if found > WANTED:
        raise SchemaMismatch(_newer(database, found))
    return database.read_unchecked(lambda tx: [*_script(tx, found)])


def _script(tx: Transaction, found: int) -> Iterator[str]:
    for version, migration in enumerate(MIGRATIONS[found:], start=found + 1):
        yield from migration.statements(tx.dialect)
        row = insert(schema_version).values(version=version, at=tx.now, works_with=migration.works_with)
        yield str(row.compile(dialect=tx.dialect, compile_kwargs={"literal_binds": True}))


def migrate(database: Database) -> list[str]:
    """See `Storage.migrate`."""
    return database.write_unchecked(lambda tx: _migrate_alone(database, tx))


def _migrate_alone(database: Database, tx: Transaction) -> list[str]:
    database.prepare_migration(tx)
    try:
        return _migrate(database, tx)
    finally:
        database.finish_migration(tx)


def _migrate(database: Database, tx: Transaction) -> list[str]:
    found = _found(database, tx)
    if found > WANTED:
        raise SchemaMismatch(_newer(database, found))
    steps: list[str] = []
    for version, migration in enumerate(MIGRATIONS[found:], start=found + 1):
        for statement in migration.statements(tx.dialect):
            tx.cursor.execute(statement)
        tx.run(_RECORD, {"version": version, "at": tx.now, "works_with": migration.works_with})
        steps.append(migration.sentence)
    return steps


def _newer(database: Database, found: int) -> str:
    return (
        f"{database.name} has schema {found}, this version of firelock-sql knows {WANTED}. "
        "Upgrade firelock-sql here, or use the release that wrote it."
    )


def _unreleased(database: Database) -> str:
    return (
        f"{database.name} has tables that a Firelock made before its first release; no release reads them. "
        "Remove them, on SQLite by removing the file, or name another database."
    )


_EMPTY = [Statement(delete(table)) for table in METADATA.sorted_tables if table is not schema_version]


def clear(tx: Transaction) -> None:
    """Nothing is stored but the version of the schema."""
    for statement in _EMPTY:
        tx.run(statement)
