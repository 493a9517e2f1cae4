"""The seam between the verbs and one kind of database: connections, transactions, time, the schema.

The verbs are written once, against a `Transaction`. What differs from database to database is behind
`Database`: how a transaction begins and is tried again, how counters are kept, whose transactions are joined.
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
from firelock_sql.connections.within import Joined, TellLater, find_connection, tell_on_commit
from firelock_sql.schema import version
from firelock_sql.schema.names import SCHEMA_TABLE, TABLES

_T = TypeVar("_T")
BRIEF_SECONDS = 0.02  # for a lock, where the thread that claims jobs and stores ends waits
_OF_ASYNC = "An AsyncSession or AsyncConnection is taken by aenqueue."
_OF_DJANGO = "For an alias or a connection of Django's, make the app with plugins=[DjangoPlugin()]."

# Whatever columns there are: tables of development versions lack the last one.
_VERSION = Text("SELECT * FROM firelock_schema ORDER BY version DESC LIMIT 1")
_MADE_AT = Text("SELECT min(at) FROM firelock_schema")
_EMPTY = [Text(f"DELETE FROM {name}") for name in sorted(TABLES - {SCHEMA_TABLE})]  # noqa: S608 - names of ours


class RowLocked(Exception):
    """Another transaction holds a lock for longer than `write_briefly` waits; the transaction is undone."""


class Connections(Protocol):
    """Those of one database."""

    def check_open(self) -> None:
        """Nothing happens unless they are closed."""
        ...

    def close(self) -> None:
        """They are closed."""
        ...


class Database(ABC):
    """One database, as this process sees it. Opening one does no I/O."""

    dialect: Dialect
    name: str  # as it may be shown
    connect_url: str  # with its password; empty where only the caller's engine leads there
    raw_kind: str  # what `raw_transaction` takes, for people
    locks_rows: bool = True  # one by one, so that others can hold some; False: a writer holds all
    clock_offset: int = 0

    def __init__(self, connections: Connections, wake: Wake) -> None:
        self._opened = connections
        self.wake = wake
        self._is_checked = False

    # ---- what differs ------------------------------------------------------------------------------------

    @abstractmethod
    def transact(self, work: Callable[[Transaction], _T], *, is_writing: bool) -> _T:
        """Return what the work returned in one transaction, done again while others are in the way.

        Whatever schema there is; what the work changed of the counts is not written.
        """

    @abstractmethod
    def write_counts(self, tx: Transaction) -> None:
        """What the transaction changed of the counts is written, last of all."""

    @abstractmethod
    def tidy(self) -> None:
        """What transactions left for upkeep is done, as far as it is worth it."""

    def tidy_some(self) -> None:  # noqa: B027 - few databases have to
        """A part of what transactions left for upkeep is done, as no server may be there to do it."""

    @abstractmethod
    def clock(self) -> int:
        """Return the database's own time in micros, `clock_offset` included."""

    @abstractmethod
    def has_tables(self, tx: Transaction) -> bool:
        """Tell whether there are tables of ours."""

    @abstractmethod
    def prepare_migration(self, tx: Transaction) -> None:
        """Nobody else migrates before the transaction's end, and there is a place for the tables."""

    def finish_migration(self, tx: Transaction) -> None:  # noqa: B027 - few databases have to
        """Others may migrate, where the transaction's end alone would not let them."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """See `Storage.describe`."""

    @abstractmethod
    def diagnose(self) -> list[Finding]:
        """See `Storage.diagnose`."""

    # ---- transactions ------------------------------------------------------------------------------------

    def write(self, work: Callable[[Transaction], _T]) -> _T:
        """The work is committed as one transaction, tried again as a whole while others are in the way.

        Raises:
            StorageUnavailable: trying again later may help; nothing was written.
            StorageError: it will not; nothing was written.
        """
        self.ensure_schema()
        result, woken = self.transact(lambda tx: self._run_work(tx, work), is_writing=True)
        if woken:
            self.wake.tell(woken)
        return result

    def write_briefly(self, work: Callable[[Transaction], _T], *, seconds: float = BRIEF_SECONDS) -> _T:
        """`write`, which waits so long for all locks of others.

        Here there are no locks of rows to wait for.

        Raises:
            RowLocked: see there; nothing was written.
        """
        del seconds
        return self.write(work)

    def read(self, work: Callable[[Transaction], _T]) -> _T:
        """Return what the work read from one snapshot."""
        self.ensure_schema()
        return self.transact(work, is_writing=False)

    def look(self, work: Callable[[Transaction], _T]) -> _T:
        """Return what the work read by one query, which needs no snapshot but its own."""
        return self.read(work)

    def _run_work(self, tx: Transaction, work: Callable[[Transaction], _T]) -> tuple[_T, set[str]]:
        """Do the work, then write the counts; return its result, and the queues to tell of."""
        result = work(tx)
        if tx.let_go:
            tx.woken.add(ANY_QUEUE)  # other queues' jobs may wait for the keys
        self.write_counts(tx)
        return result, tx.woken

    def _run_joined_work(self, tx: Transaction, work: Callable[[Transaction], _T]) -> tuple[_T, set[str]]:
        """`_run_work` in a caller's transaction, whatever others have changed since that began."""
        return self._run_work(tx, work)

    def check_open(self) -> None:
        """Nothing happens unless it is closed."""
        self._opened.check_open()

    def close(self) -> None:
        """Every connection is closed; a later transaction raises `StorageError`."""
        self.wake.close()
        self._opened.close()

    # ---- the schema --------------------------------------------------------------------------------------

    def ensure_schema(self) -> None:
        """The schema is one this code works on, made where there is none.

        Raises:
            SchemaMismatch: it is too old or too new.
        """
        if self._is_checked:  # without a lock: to look twice is harmless, a lock held at a fork is not
            return
        found, works_with = self.transact(self._stored_schema, is_writing=False)
        if found == 0:
            self.migrate()
        elif found < version.OLDEST:
            raise SchemaMismatch(
                f"{self.name} has schema {found}, this version of firelock-sql needs {version.WANTED}. "
                "Run firelock migrate."
            )
        elif works_with > version.WANTED:
            raise self._is_newer(found)
        self._is_checked = True

    def schema_state(self) -> SchemaState:
        """Return the stored version and the wanted one."""
        return SchemaState(self.transact(self._stored_schema, is_writing=False)[0], version.WANTED)

    def _stored_schema(self, tx: Transaction) -> tuple[int, int]:
        """Return the version, 0 for none, and the schema that the oldest code must know which works on it.

        Raises:
            SchemaMismatch: the tables are those of a development version.
        """
        match tx.one(_VERSION) if self.has_tables(tx) else None:
            case None:
                return 0, 0
            case [found, _, works_with, _, *_]:
                return int(found), int(works_with)
            case _:
                raise SchemaMismatch(
                    f"{self.name} has tables that a Firelock made before its first release; no release reads "
                    "them. Remove them, on SQLite by removing the file, or name another database."
                )

    def migrate(self) -> list[str]:
        """See `Storage.migrate`."""
        self._is_checked = False  # until somebody has looked at what there is then
        return self.transact(self._migrate, is_writing=True)

    def _migrate(self, tx: Transaction) -> list[str]:
        from firelock_sql.schema import tables  # noqa: PLC0415 - loads every dialect

        self.prepare_migration(tx)
        try:
            found = self._known_schema(tx)
            for step in tables.script(tx.dialect, found, tx.now):
                for statement in step:
                    tx.cursor.execute(statement)
        finally:
            self.finish_migration(tx)
        return [migration.sentence for migration in tables.MIGRATIONS[found:]]

    def migration_sql(self) -> list[str]:
        """Return the statements that do what `migrate` would, from the stored version or from nothing."""
        from firelock_sql.schema import tables  # noqa: PLC0415 - loads every dialect

        def compose(tx: Transaction) -> list[str]:
            return [
                line for step in tables.script(tx.dialect, self._known_schema(tx), tx.now) for line in step
            ]

        return self.transact(compose, is_writing=False)

    def _known_schema(self, tx: Transaction) -> int:
        found, _ = self._stored_schema(tx)
        if found > version.WANTED:
            raise self._is_newer(found)
        return found

    def _is_newer(self, found: int) -> SchemaMismatch:
        return SchemaMismatch(
            f"{self.name} has schema {found}, this version of firelock-sql knows {version.WANTED}. "
            "Upgrade firelock-sql here, or use the release that wrote it."
        )

    @staticmethod
    def made_at(tx: Transaction) -> int:
        """Return the instant at which these tables were made, which tells them from all others."""
        return int(tx.one(_MADE_AT)[0] or 0)

    def clear(self) -> None:
        """Nothing is stored but the version of the schema."""

        def empty(tx: Transaction) -> None:
            for statement in _EMPTY:
                tx.run(statement)

        self.write(empty)

    # ---- transactions of callers -------------------------------------------------------------------------

    @abstractmethod
    def raw_transaction(self, within: object) -> Joined | None:
        """Return the transaction of a driver's own connection; None where it is none.

        Raises:
            ConfigurationError: it is one in autocommit mode, outside of a transaction.
        """

    @abstractmethod
    def connection_transaction(self, connection: Connection, tell_later: TellLater) -> Joined:
        """Return the transaction of SQLAlchemy's connection, which has begun.

        Raises:
            ConfigurationError: it leads elsewhere, or commits each statement by itself.
        """

    @abstractmethod
    def borrowed(self, driver: Any) -> AbstractContextManager[None]:  # noqa: ANN401 - any driver's connection
        """A caller's connection runs our statements, and is as it was afterwards; errors leave as our own."""

    @abstractmethod
    def begin_joined(self, callers: Joined, cursor: Cursor) -> Transaction:
        """Return our part of the caller's transaction, which sees our tables; a savepoint is before it.

        Raises:
            ConfigurationError: it is on another database.
        """

    def join(self, within: object, work: Callable[[Transaction], _T], *, is_adding_alone: bool = False) -> _T:
        """The work is part of a transaction of the caller's, which ends as the caller likes.

        Args:
            within: the caller's transaction.
            work: our part of it.
            is_adding_alone: it looks at nothing that others may have changed since that began.

        Raises:
            ConfigurationError: that is no transaction of this database.
        """
        callers = self._callers(within)
        self.ensure_schema()

        def part(tx: Transaction) -> tuple[_T, set[str]]:
            return self._run_work(tx, work) if is_adding_alone else self._run_joined_work(tx, work)

        with self.borrowed(callers.driver):
            result, woken = self.take_part(callers, part)
        if woken:
            callers.tell_later(self.wake, woken)
        return result

    def _callers(self, within: object) -> Joined:
        if isinstance(within, OpenTransaction):
            return attrs.evolve(self._callers(within.connection), tell_later=tell_on_commit(within))
        if (raw := self.raw_transaction(within)) is not None:
            return raw
        if (found := find_connection(within)) is not None:
            return self.connection_transaction(*found)
        is_djangos = type(within).__module__.startswith("django.") or isinstance(within, str)
        raise ConfigurationError(
            f"within= takes a Session, a Connection or {self.raw_kind}, not {type(within).__name__}. "
            f"{_OF_DJANGO if is_djangos else _OF_ASYNC}"
        )

    def take_part(self, callers: Joined, work: Callable[[Transaction], _T]) -> _T:
        """The work is part of the transaction; of one that fails nothing is."""
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
    """What the groups of verbs have in common, each of which is a class and a file of its own."""

    _database: Database
