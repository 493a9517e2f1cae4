"""Verbs as part of a transaction of the caller's: `insert(within=…)` and `apply_within`.

The statements go through the caller's own connection, whatever its driver, between a savepoint and its
release: they are committed or rolled back with everything else, and where one of them fails the caller's
transaction is as it was before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect

from firelock import ConfigurationError
from firelock_sql.counting import add_deltas
from firelock_sql.database import Transaction
from firelock_sql.servers.failures import Meaning
from firelock_sql.telling import tell_after_checkin, tell_after_end

if TYPE_CHECKING:
    from firelock_sql.servers.database import ServerDatabase

__all__ = ["Joined", "joined", "tell_nobody"]

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
