"""The layer between the verbs and one kind of database: connections, transactions, time and the schema.

The verbs are written once for all databases, and use a `Transaction`. `Database` contains everything that
differs between databases: how a transaction begins and is retried, how counts are stored, and which callers'
transactions can be joined.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import attrs
from sqlalchemy import Connection
from sqlalchemy.engine import Dialect

from firelock import ConfigurationError
from firelock.storage import ANY_QUEUE, DerivedStorage, Finding, OpenTransaction, SchemaMismatch, SchemaState
from firelock_sql.connections.notify import Wake
from firelock_sql.connections.transaction import Cursor, Text, Transaction
from firelock_sql.connections.within import Joined, NotifyLater, find_connection, notify_on_commit
from firelock_sql.schema import version
from firelock_sql.schema.names import SCHEMA_TABLE, TABLES

_T = TypeVar("_T")
BRIEF_SECONDS = 0.02  # short, because the thread that claims and settles jobs waits for the lock
_OF_ASYNC = "Pass an AsyncSession or AsyncConnection to aenqueue."
_OF_DJANGO = "To pass a Django alias or connection, create the app with plugins=[DjangoPlugin()]."

# This query selects all columns, because the tables of development versions do not have the last one.
_VERSION = Text("SELECT * FROM firelock_schema ORDER BY version DESC LIMIT 1")
_TABLES_CREATED_AT = Text("SELECT min(at) FROM firelock_schema")
_EMPTY = [Text(f"DELETE FROM {name}") for name in sorted(TABLES - {SCHEMA_TABLE})]  # noqa: S608 - names


class RowLocked(Exception):
    """Raised if another transaction holds a lock longer than `write_briefly` waits; nothing was stored."""


class Connections(Protocol):
    """The connections to one database."""

    def check_open(self) -> None:
        """Raise `StorageError` if the connections are closed."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class Database(ABC):
    """One database, as used by this process. Opening a database does no I/O."""

    dialect: Dialect
    name: str  # for display
    connect_url: str  # the URL with its password; empty if only the caller's engine connects to it
    raw_kind: str  # the type that `raw_transaction` accepts, as shown in messages
    locks_rows: bool = True  # False: a writer locks the whole database instead of single rows
    clock_offset: int = 0

    def __init__(self, connections: Connections, wake: Wake) -> None:
        self._opened = connections
        self.wake = wake
        self._is_checked = False

    # ---- differences between databases -------------------------------------------------------------------

    @abstractmethod
    def transact(self, work: Callable[[Transaction], _T], *, is_writing: bool) -> _T:
        """Run the work in one transaction, repeat it if it conflicts with others, and return its result.

        This method must not depend on the version of the schema. It does not store the work's changes to the
        counts.
        """

    @abstractmethod
    def write_counts(self, tx: Transaction) -> None:
        """Store the transaction's changes to the counts, as its last statement."""

    @abstractmethod
    def tidy(self) -> None:
        """Do the work that transactions have left for upkeep, unless there is so little that it can wait."""

    def tidy_some(self) -> None:  # noqa: B027 - few databases override it
        """Do a part of the work that transactions have left for upkeep, because there may be no server."""

    @abstractmethod
    def clock(self) -> int:
        """Return the database's own time in microseconds, including `clock_offset`."""

    @abstractmethod
    def has_tables(self, tx: Transaction) -> bool:
        """Return whether Firelock's tables exist."""

    @abstractmethod
    def prepare_migration(self, tx: Transaction) -> None:
        """Block other migrations until the transaction ends; create the tables' schema if needed."""

    def finish_migration(self, tx: Transaction) -> None:  # noqa: B027 - few databases override it
        """Allow other migrations again if this does not already happen when the transaction ends."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """See `Storage.describe`."""

    @abstractmethod
    def diagnose(self) -> list[Finding]:
        """See `Storage.diagnose`."""

    # ---- transactions ------------------------------------------------------------------------------------

    def write(self, work: Callable[[Transaction], _T]) -> _T:
        """Run the work as one transaction and commit it; repeat the whole transaction after a conflict.

        Raises:
            StorageUnavailable: If the error may be temporary; nothing was written.
            StorageError: If the error is permanent; nothing was written.
        """
        self.ensure_schema()
        result, woken = self.transact(lambda tx: self._run_work(tx, work), is_writing=True)
        if woken:
            self.wake.notify(woken)
        return result

    def write_briefly(self, work: Callable[[Transaction], _T], *, seconds: float = BRIEF_SECONDS) -> _T:
        """Do the same as `write`, but wait at most this long in total for locks of other transactions.

        This implementation is for a database that does not lock single rows.

        Raises:
            RowLocked: If another transaction keeps a lock for that long; nothing was written.
        """
        del seconds
        return self.write(work)

    def read(self, work: Callable[[Transaction], _T]) -> _T:
        """Return the result of work that reads from one snapshot."""
        self.ensure_schema()
        return self.transact(work, is_writing=False)

    def query(self, work: Callable[[Transaction], _T]) -> _T:
        """Return the result of work that runs a single query and therefore needs no snapshot."""
        return self.read(work)

    def _run_work(self, tx: Transaction, work: Callable[[Transaction], _T]) -> tuple[_T, set[str]]:
        """Run the work and store the counts; return the work's result, and the queues with new work."""
        result = work(tx)
        if tx.freed_keys:
            tx.woken.add(ANY_QUEUE)  # jobs of other queues may wait for the keys
        self.write_counts(tx)
        return result, tx.woken

    def _run_joined_work(self, tx: Transaction, work: Callable[[Transaction], _T]) -> tuple[_T, set[str]]:
        """Do the same as `_run_work` in a caller's transaction, even if rows have changed since its start."""
        return self._run_work(tx, work)

    def check_open(self) -> None:
        """Raise `StorageError` if the database is closed."""
        self._opened.check_open()

    def close(self) -> None:
        """Close every connection; later transactions raise `StorageError`."""
        self.wake.close()
        self._opened.close()

    # ---- the schema --------------------------------------------------------------------------------------

    def ensure_schema(self) -> None:
        """Create the schema if it does not exist; otherwise check that this code works with it.

        Raises:
            SchemaMismatch: If the schema is too old or too new.
        """
        # no lock is needed: checking twice is harmless, but holding a lock during a fork is not
        if self._is_checked:
            return
        found, works_with = self.transact(self._stored_schema, is_writing=False)
        if found == 0:
            self.migrate()
        elif found < version.OLDEST:
            raise SchemaMismatch(
                f"{self.name} has schema {found}, but this version of firelock-sql requires schema "
                f"{version.WANTED}. Run firelock migrate."
            )
        elif works_with > version.WANTED:
            raise self._is_newer(found)
        self._is_checked = True

    def schema_state(self) -> SchemaState:
        """Return the stored schema version and the version that this code needs."""
        return SchemaState(self.transact(self._stored_schema, is_writing=False)[0], version.WANTED)

    def _stored_schema(self, tx: Transaction) -> tuple[int, int]:
        """Return the stored version, or 0, and the oldest schema version whose code works with it.

        Raises:
            SchemaMismatch: If a development version has created the tables.
        """
        match tx.one(_VERSION) if self.has_tables(tx) else None:
            case None:
                return 0, 0
            case [found, _, works_with, _, *_] if found >= version.FIRST:
                return int(found), int(works_with)
            case _:
                raise SchemaMismatch(
                    f"{self.name} contains tables of a Firelock version before the first release, which no "
                    "release can read. Remove the tables (for SQLite, the file), or use another database."
                )

    def migrate(self) -> list[str]:
        """See `Storage.migrate`."""
        self._is_checked = False  # the schema must be checked again
        return self.transact(self._migrate, is_writing=True)

    def _migrate(self, tx: Transaction) -> list[str]:
        from firelock_sql.schema import tables  # noqa: PLC0415 - loads every dialect

        self.prepare_migration(tx)
        try:
            found = self._known_schema(tx)
            for statements in tables.script(tx.dialect, found, tx.now):
                for statement in statements:
                    tx.cursor.execute(statement)
        finally:
            self.finish_migration(tx)
        return [migration.sentence for migration in tables.migrations_after(found)]

    def migration_sql(self) -> list[str]:
        """Return the statements that `migrate` would run, starting from the stored version, if any."""
        from firelock_sql.schema import tables  # noqa: PLC0415 - loads every dialect

        def compose(tx: Transaction) -> list[str]:
            return [
                statement
                for statements in tables.script(tx.dialect, self._known_schema(tx), tx.now)
                for statement in statements
            ]

        return self.transact(compose, is_writing=False)

    def _known_schema(self, tx: Transaction) -> int:
        found, _ = self._stored_schema(tx)
        if found > version.WANTED:
            raise self._is_newer(found)
        return found

    def _is_newer(self, found: int) -> SchemaMismatch:
        return SchemaMismatch(
            f"{self.name} has schema {found}, which is newer than schema {version.WANTED} of this version of "
            "firelock-sql. Upgrade firelock-sql, or use the release that created the schema."
        )

    @staticmethod
    def tables_created_at(tx: Transaction) -> int:
        """Return the time when these tables were created, which distinguishes them from all other tables."""
        return int(tx.one(_TABLES_CREATED_AT)[0] or 0)

    def clear(self) -> None:
        """Delete everything except the versions of the schema."""

        def empty(tx: Transaction) -> None:
            for statement in _EMPTY:
                tx.run(statement)

        self.write(empty)

    # ---- transactions of callers -------------------------------------------------------------------------

    @abstractmethod
    def raw_transaction(self, within: object) -> Joined | None:
        """Return the transaction of a driver's connection; None for any other object.

        Raises:
            ConfigurationError: If the connection is in autocommit mode and has no open transaction.
        """

    @abstractmethod
    def connection_transaction(self, connection: Connection, notify_later: NotifyLater) -> Joined:
        """Return the transaction of an SQLAlchemy connection; begin a transaction if none is open.

        Raises:
            ConfigurationError: If the connection uses another database, or commits each statement separately.
        """

    @abstractmethod
    def borrowed(self, driver: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - any driver's connection
        """Lend a caller's connection to Firelock and restore it afterwards; translate the driver's errors."""

    @abstractmethod
    def begin_joined(self, callers: Joined, cursor: Cursor) -> Transaction:
        """Return Firelock's part of the caller's transaction. This part begins after a savepoint.

        Raises:
            ConfigurationError: If the transaction is on another database.
        """

    def join(self, within: object, work: Callable[[Transaction], _T], *, is_adding_alone: bool = False) -> _T:
        """Run the work as a part of the caller's transaction, which the caller commits or rolls back.

        Args:
            within: the caller's transaction.
            work: Firelock's part of it.
            is_adding_alone: whether the work only adds rows, without reading rows that others may change.

        Raises:
            ConfigurationError: If `within` is not a transaction of this database.
        """
        callers = self._callers(within)
        self.ensure_schema()

        def part(tx: Transaction) -> tuple[_T, set[str]]:
            return self._run_work(tx, work) if is_adding_alone else self._run_joined_work(tx, work)

        with self.borrowed(callers.driver):
            result, woken = self.run_joined(callers, part)
        if woken:
            callers.notify_later(self.wake, woken)
        return result

    def _callers(self, within: object) -> Joined:
        if isinstance(within, OpenTransaction):
            return attrs.evolve(self._callers(within.connection), notify_later=notify_on_commit(within))
        if (raw := self.raw_transaction(within)) is not None:
            return raw
        if (found := find_connection(within)) is not None:
            return self.connection_transaction(*found)
        is_djangos = type(within).__module__.startswith("django.") or isinstance(within, str)
        raise ConfigurationError(
            f"within must be a Session, a Connection or {self.raw_kind}, got {type(within).__name__}. "
            f"{_OF_DJANGO if is_djangos else _OF_ASYNC}"
        )

    def run_joined(self, callers: Joined, work: Callable[[Transaction], _T]) -> _T:
        """Run the work within the transaction; if it fails, roll back all of its changes."""
        cursor = callers.open_cursor()
        cursor.execute("SAVEPOINT firelock")
        try:
            result = work(self.begin_joined(callers, cursor))
        except BaseException:
            cursor.execute("ROLLBACK TO SAVEPOINT firelock")
            cursor.execute("RELEASE SAVEPOINT firelock")
            raise
        cursor.execute("RELEASE SAVEPOINT firelock")
        return result


class SqlVerbs(DerivedStorage):
    """The base class for groups of verbs; each group has its own module."""

    _database: Database
