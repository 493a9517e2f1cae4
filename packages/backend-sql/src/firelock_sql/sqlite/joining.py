"""Jobs as part of a transaction of the caller's: `insert(within=…)`.

The rows go through the caller's own connection, so they are committed or rolled back with everything else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
from sqlalchemy import Connection

from firelock import ConfigurationError
from firelock_sql.database import Transaction
from firelock_sql.sqlite.failures import translated
from firelock_sql.statements import Cursor
from firelock_sql.telling import tell_after_checkin, tell_after_end

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from firelock_sql.sqlite.database import SqliteDatabase

__all__ = ["Joined", "joined"]

_T = TypeVar("_T")


@attrs.frozen
class Joined:
    """A caller's transaction."""

    path: Path
    driver: Any  # the driver's connection, a sqlite3.Connection or one that looks like it
    open_cursor: Callable[[], Cursor]
    tell_later: Callable[[SqliteDatabase, set[str]], None]

    def run(self, database: SqliteDatabase, work: Callable[[Transaction], _T]) -> _T:
        """The work is part of the transaction; of one that fails nothing is."""
        with translated(self.path):
            cursor = self.open_cursor()
            _check_same_file(cursor, self.path)
            self._begin(cursor)
            cursor.execute("SAVEPOINT firelock")
            tx = Transaction(cursor, database.dialect, database.clock())
            try:
                result = work(tx)
                database.write_counts(tx)
            except BaseException:
                cursor.execute("ROLLBACK TO firelock")
                cursor.execute("RELEASE firelock")
                raise
            cursor.execute("RELEASE firelock")
        if tx.woken:
            self.tell_later(database, tx.woken)
        return result

    def _begin(self, cursor: Cursor) -> None:
        """The driver's transaction has begun: a savepoint outside of one would commit by itself."""
        if self.driver.in_transaction:
            return
        if self.driver.isolation_level is None:
            message = "within= is a connection in autocommit mode without a transaction; begin one first."
            raise ConfigurationError(message)
        cursor.execute("BEGIN IMMEDIATE")


def joined(within: object, path: Path) -> Joined:
    """Return the caller's transaction.

    Raises:
        ConfigurationError: it is none that rows of an SQLite file can be part of.
    """
    if isinstance(within, sqlite3.Connection):
        return Joined(path, within, within.cursor, _tell_nobody)
    if isinstance(within, Connection):
        return _joined_connection(within, path, tell_after_checkin)
    from sqlalchemy.orm import Session, scoped_session  # noqa: PLC0415 - Core alone is loaded before

    session = within() if isinstance(within, scoped_session) else within
    if isinstance(session, Session):
        return _joined_session(session, path)
    message = (
        f"within= takes a Session, a Connection or a sqlite3.Connection, not {type(within).__name__}. "
        "An AsyncSession is taken by aenqueue."
    )
    raise ConfigurationError(message)


def _joined_connection(
    connection: Connection, path: Path, tell: Callable[[Connection, SqliteDatabase, set[str]], None]
) -> Joined:
    if connection.dialect.name != "sqlite":
        message = f"within= is a transaction on {connection.engine.url!r}, but jobs are stored in {path}."
        raise ConfigurationError(message)
    connection.exec_driver_sql("SELECT 1")  # SQLAlchemy takes note that a transaction has begun
    pooled = connection.connection
    return Joined(
        path,
        pooled.driver_connection,
        cast("Callable[[], Cursor]", pooled.cursor),
        lambda database, queues: tell(connection, database, queues),
    )


def _joined_session(session: Session, path: Path) -> Joined:
    return _joined_connection(
        session.connection(),
        path,
        lambda _connection, database, queues: tell_after_end(session, database, queues),
    )


def _check_same_file(cursor: Cursor, path: Path) -> None:
    cursor.execute("PRAGMA database_list")
    files = {str(name): str(file or "") for _, name, file, *_ in cursor.fetchall()}
    found = files.get("main", "")
    if not found or Path(found).resolve() != path.resolve():
        message = (
            f"within= is a transaction on {found or 'a database in memory'}, but jobs are stored in {path}."
        )
        raise ConfigurationError(message)


def _tell_nobody(_database: SqliteDatabase, _queues: set[str]) -> None:
    """A raw connection tells nobody of its commit, so nobody can be told in time."""
