"""Verbs as part of a transaction of the caller's: `insert(within=…)` and `apply_within`.

The statements go through the caller's own connection, whatever its driver, between a savepoint and its
release: they are committed or rolled back with everything else, and where one of them fails the caller's
transaction is as it was before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import attrs
from sqlalchemy import Connection, event
from sqlalchemy.engine import Dialect

from firelock import ConfigurationError
from firelock_sql.counting import add_deltas
from firelock_sql.statements import Cursor
from firelock_sql.transaction import Meaning, Transaction

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from firelock_sql.server_database import ServerDatabase
    from firelock_sql.sqlite.database import SqliteDatabase

__all__ = [
    "Joined",
    "JoinedFile",
    "Teller",
    "joined",
    "joined_file",
    "tell_after_checkin",
    "tell_after_end",
    "tell_nobody",
]

_T = TypeVar("_T")
_TRIES = 3  # for a key that somebody else was first to write


@attrs.frozen
class Joined:
    """A caller's transaction."""

    driver: Any  # the driver's connection
    dialect: Dialect  # statements as this driver takes them
    place: str  # what tells the database it leads to from others
    tell_later: Callable[[set[str]], None]

    def run(self, database: ServerDatabase, work: Callable[[Transaction], _T]) -> _T:
        """The work is part of the transaction; of one that fails nothing is."""
        with database.translated(), database.borrowed(self.driver):
            result, woken = self._run(database, work, _TRIES)
        if woken:
            self.tell_later(woken)
        return result

    def _run(
        self, database: ServerDatabase, work: Callable[[Transaction], _T], tries: int
    ) -> tuple[_T, set[str]]:
        cursor = database.cursor_of(self.driver)
        cursor.execute("SAVEPOINT firelock")
        try:
            database.check_place(cursor, self)
            tx = Transaction(cursor, self.dialect, database.now(cursor), adds_deltas=True)
            result = work(tx)
            add_deltas(tx)
        except BaseException as error:
            cursor.execute("ROLLBACK TO SAVEPOINT firelock")
            cursor.execute("RELEASE SAVEPOINT firelock")
            failure = database.read_failure(error)
            if tries > 1 and failure is not None and failure.meaning is Meaning.CONFLICT:
                return self._run(database, work, tries - 1)
            raise
        cursor.execute("RELEASE SAVEPOINT firelock")
        return result, tx.woken


def joined(within: object, database: ServerDatabase) -> Joined:
    """Return the caller's transaction.

    Raises:
        ConfigurationError: it is none that rows of this database can be part of.
    """
    if isinstance(within, Connection):
        return _joined_connection(
            within, database, lambda queues: tell_after_checkin(within, database, queues)
        )
    raw = database.raw_transaction(within)
    if raw is not None:
        return raw
    from sqlalchemy.orm import Session, scoped_session  # noqa: PLC0415 - Core alone is loaded before

    session = within() if isinstance(within, scoped_session) else within
    if isinstance(session, Session):
        return _joined_connection(
            session.connection(), database, lambda queues: tell_after_end(session, database, queues)
        )
    message = (
        f"within= takes a Session, a Connection or {database.raw_kind}, not {type(within).__name__}. "
        "An AsyncSession or AsyncConnection is taken by aenqueue."
    )
    raise ConfigurationError(message)


def _joined_connection(
    connection: Connection, database: ServerDatabase, tell: Callable[[set[str]], None]
) -> Joined:
    place = connection.engine.url.render_as_string(hide_password=True)
    dialect = database.dialect_for(connection.dialect)
    if dialect is None:
        message = f"within= is a transaction on {place}, but jobs are stored in {database.name}."
        raise ConfigurationError(message)
    driver: Any = connection.connection.dbapi_connection
    if database.is_in_autocommit(driver):
        message = f"within= is a connection to {place} in autocommit mode; use one with transactions."
        raise ConfigurationError(message)
    if not connection.in_transaction():
        connection.begin()  # as its first statement would have
    return Joined(driver, dialect, place, tell)


def tell_nobody(_queues: set[str]) -> None:
    """A raw connection tells nobody of its commit, so nobody can be told in time."""


@attrs.frozen
class JoinedFile:
    """A caller's transaction."""

    path: Path
    driver: Any  # the driver's connection, a sqlite3.Connection or one that looks like it
    open_cursor: Callable[[], Cursor]
    tell_later: Callable[[SqliteDatabase, set[str]], None]

    def run(self, database: SqliteDatabase, work: Callable[[Transaction], _T]) -> _T:
        """The work is part of the transaction; of one that fails nothing is."""
        with database.translated():
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


def joined_file(within: object, path: Path) -> JoinedFile:
    """Return the caller's transaction.

    Raises:
        ConfigurationError: it is none that rows of an SQLite file can be part of.
    """
    if isinstance(within, sqlite3.Connection):
        return JoinedFile(path, within, within.cursor, _tell_no_file)
    if isinstance(within, Connection):
        return _joined_file_connection(within, path, tell_after_checkin)
    from sqlalchemy.orm import Session, scoped_session  # noqa: PLC0415 - Core alone is loaded before

    session = within() if isinstance(within, scoped_session) else within
    if isinstance(session, Session):
        return _joined_file_session(session, path)
    message = (
        f"within= takes a Session, a Connection or a sqlite3.Connection, not {type(within).__name__}. "
        "An AsyncSession is taken by aenqueue."
    )
    raise ConfigurationError(message)


def _joined_file_connection(
    connection: Connection, path: Path, tell: Callable[[Connection, SqliteDatabase, set[str]], None]
) -> JoinedFile:
    if connection.dialect.name != "sqlite":
        message = f"within= is a transaction on {connection.engine.url!r}, but jobs are stored in {path}."
        raise ConfigurationError(message)
    connection.exec_driver_sql("SELECT 1")  # SQLAlchemy takes note that a transaction has begun
    pooled = connection.connection
    return JoinedFile(
        path,
        pooled.driver_connection,
        cast("Callable[[], Cursor]", pooled.cursor),
        lambda database, queues: tell(connection, database, queues),
    )


def _joined_file_session(session: Session, path: Path) -> JoinedFile:
    return _joined_file_connection(
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


def _tell_no_file(_database: SqliteDatabase, _queues: set[str]) -> None:
    """A raw connection tells nobody of its commit, so nobody can be told in time."""


_OWED = "firelock: queues to tell of"  # in the `info` of a session or pooled connection
_HEARD = "firelock: told after commits"


class Teller(Protocol):
    """Who can tell waiting servers of queues with work."""

    def tell(self, queues: set[str]) -> None:
        """They look for work soon."""
        ...


def tell_after_end(session: Session, teller: Teller, queues: set[str]) -> None:
    """Servers are told when the session's outermost transaction has committed, nobody where it has not."""
    owed: dict[Teller, set[str]] = session.info.setdefault(_OWED, {})
    owed.setdefault(teller, set()).update(queues)
    if session.info.setdefault(_HEARD, False):
        return
    session.info[_HEARD] = True
    outcome = {"is_committed": False}

    @event.listens_for(session, "after_commit")
    def committed(_session: Session) -> None:
        outcome["is_committed"] = True

    @event.listens_for(session, "after_rollback")
    def rolled_back(_session: Session) -> None:
        outcome["is_committed"] = False

    @event.listens_for(session, "after_transaction_end")
    def ended(session: Session, transaction: Any) -> None:  # noqa: ANN401 - its type is private
        if transaction.parent is not None:
            return
        queues_of = session.info.pop(_OWED, {})
        if outcome["is_committed"]:
            for owing, names in queues_of.items():
                owing.tell(names)
        outcome["is_committed"] = False


def tell_after_checkin(connection: Connection, teller: Teller, queues: set[str]) -> None:
    """Servers are told when the connection goes back to its pool, if its transaction has committed."""
    info = connection.connection.info
    owed: dict[Teller, set[str]] = info.setdefault(_OWED, {})
    owed.setdefault(teller, set()).update(queues)
    pool: Any = connection.engine.pool
    if not event.contains(pool, "checkin", _checked_in):
        event.listen(pool, "checkin", _checked_in)
    if not event.contains(connection.engine, "commit", _committing):
        event.listen(connection.engine, "commit", _committing)
        event.listen(connection.engine, "rollback", _rolling_back)


def _committing(connection: Connection) -> None:
    info = connection.connection.info
    if _OWED in info:
        info[_HEARD] = True


def _rolling_back(connection: Connection) -> None:
    if not connection.invalidated:
        connection.connection.info.pop(_OWED, None)


def _checked_in(_driver: object, record: Any) -> None:  # noqa: ANN401 - the pool's own type
    owed: dict[Teller, set[str]] = record.info.pop(_OWED, {})
    if record.info.pop(_HEARD, False):
        for teller, queues in owed.items():
            teller.tell(queues)
