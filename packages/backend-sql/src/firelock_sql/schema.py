"""The schema and its versions: made on first use, never upgraded silently.

A migration only goes forward, and a version of the code reads the schema of that version alone, so a server
of the old release and one of the new never meet on one schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.schema import CreateIndex, CreateTable

from firelock.storage import SchemaMismatch, SchemaState
from firelock_sql.database import Database, Transaction
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import METADATA, is_of, schema_version

__all__ = ["MIGRATIONS", "WANTED", "clear", "ensure", "made_at", "migrate", "state"]


def _create(tx: Transaction) -> None:
    for table in METADATA.sorted_tables:
        tx.cursor.execute(str(CreateTable(table, if_not_exists=True).compile(dialect=tx.dialect)))
        indexes = [index for index in table.indexes if is_of(index, tx.dialect.name)]
        for index in sorted(indexes, key=lambda index: str(index.name)):
            tx.cursor.execute(str(CreateIndex(index, if_not_exists=True).compile(dialect=tx.dialect)))


# One entry a version, oldest first: what it does, for people, and the step itself.
MIGRATIONS: list[tuple[str, Callable[[Transaction], None]]] = [
    ("Created the tables of version 1.", _create),
]
WANTED = len(MIGRATIONS)

_VERSION = Statement(select(func.max(schema_version.c.version)))
_RECORD = insert_into(schema_version, "version", "at")


def _found(database: Database, tx: Transaction) -> int:
    if not database.has_table(tx, schema_version.name):
        return 0
    row: Any = tx.one(_VERSION)
    return int(row[0] or 0)


_MADE_AT = Statement(select(func.min(schema_version.c.at)))


def made_at(tx: Transaction) -> int:
    """Return the instant at which these tables were made, which tells them from all others."""
    row: Any = tx.one(_MADE_AT)
    return int(row[0] or 0)


def state(database: Database) -> SchemaState:
    """Return the stored version and the wanted one."""
    return SchemaState(database.read_unchecked(lambda tx: _found(database, tx)), WANTED)


def ensure(database: Database) -> None:
    """The schema is the one this code needs, made where there is none.

    Raises:
        SchemaMismatch: it is older or newer.
    """
    found = state(database).found
    if found == 0:
        migrate(database)
    elif found < WANTED:
        message = (
            f"{database.name} has schema {found}, this version of firelock-sql needs {WANTED}. "
            "Stop the servers and run firelock migrate."
        )
        raise SchemaMismatch(message)
    elif found > WANTED:
        raise SchemaMismatch(_newer(database, found))


def migrate(database: Database) -> list[str]:
    """See `Storage.migrate`."""
    return database.write_unchecked(lambda tx: _migrate(database, tx))


def _migrate(database: Database, tx: Transaction) -> list[str]:
    database.prepare_migration(tx)
    found = _found(database, tx)
    if found > WANTED:
        raise SchemaMismatch(_newer(database, found))
    steps: list[str] = []
    for version, (sentence, step) in enumerate(MIGRATIONS[found:], start=found + 1):
        step(tx)
        tx.run(_RECORD, {"version": version, "at": tx.now})
        steps.append(sentence)
    return steps


def _newer(database: Database, found: int) -> str:
    return (
        f"{database.name} has schema {found}, this version of firelock-sql knows {WANTED}. "
        "Upgrade firelock-sql here, or use the release that wrote it."
    )


_EMPTY = [Statement(delete(table)) for table in METADATA.sorted_tables if table is not schema_version]


def clear(tx: Transaction) -> None:
    """Nothing is stored but the version of the schema."""
    for statement in _EMPTY:
        tx.run(statement)
