"""One database of a MySQL or MariaDB server as used by the verbs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typing_extensions import override

from firelock import ConfigurationError
from firelock.storage import Finding, StorageError, StorageUnavailable
from firelock_sql.connections.notify import Wake
from firelock_sql.connections.server_database import LateClock, ServerDatabase
from firelock_sql.connections.within import Joined, skip_notification
from firelock_sql.mysql import health
from firelock_sql.mysql.connect import CLOCK, DRIVERS, dialect_of, read_failure, runs_several, set_up
from firelock_sql.mysql.pipeline import MultiStatementCursor, StatementSender
from firelock_sql.schema.names import SCHEMA_TABLE

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

    from firelock_sql.connections.pool import Checkout, EnginePool
    from firelock_sql.connections.server_database import Failure
    from firelock_sql.connections.transaction import Cursor, Transaction
    from firelock_sql.mysql.connect import Product
    from firelock_sql.schema.names import Names

_T = TypeVar("_T")
_NOW = f"SELECT {CLOCK}"
# A caller's connection keeps its settings, because the isolation level is set only for the next transaction.
_WRITE = "START TRANSACTION READ WRITE"
_LEVEL = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
_SNAPSHOT_LEVEL = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_SNAPSHOT = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
# With this setting, the server rolls back a transaction that locks a row that has changed since its snapshot.
# MariaDB enables it by default since version 11.6.2.
_CHANGES = "innodb_snapshot_isolation"
_KNOWS_CHANGES = f"SHOW VARIABLES LIKE '{_CHANGES}'"
_LET_CHANGE = f"SET @firelock_changes = @@SESSION.{_CHANGES}, SESSION {_CHANGES} = 0"
_AS_BEFORE = f"SET SESSION {_CHANGES} = @firelock_changes"
_HAS_TABLE = (
    "SELECT 1 FROM information_schema.tables"
    " WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s"
)
# The name contains the database and the prefix, because such locks belong to the whole server. It may have 64
# characters. It uses SHA2, because MySQL 9.6 removed MD5 and SHA1.
_LOCK_NAME = "LEFT(CONCAT('firelock/', LEFT(SHA2(COALESCE(%s, DATABASE()), 256), 32), '/', %s), 64)"
_LOCK = f"SELECT GET_LOCK({_LOCK_NAME}, %s)"
_UNLOCK = f"SELECT RELEASE_LOCK({_LOCK_NAME})"
_MIGRATION_SECONDS = 30
# Creating an index of ten million rows takes minutes. All other transactions queue behind a statement that
# waits for a table. So such a statement gives up after two seconds instead of a day, and the migration is
# retried.
_MIGRATING = {
    "MariaDB": "SET SESSION lock_wait_timeout = 2, max_statement_time = 0",
    "MySQL": "SET SESSION lock_wait_timeout = 2",
}
_MIGRATED = {
    "MariaDB": "SET SESSION lock_wait_timeout = DEFAULT, max_statement_time = DEFAULT",
    "MySQL": "SET SESSION lock_wait_timeout = DEFAULT",
}


class MysqlDatabase(ServerDatabase):
    """One database of a MySQL or MariaDB server."""

    raw_kind = "a connection of PyMySQL or mysqlclient"

    def __init__(self, name: str, connections: EnginePool, names: Names) -> None:
        super().__init__(connections, Wake(None))
        self.name = name
        self.names = names
        self.dialect = dialect_of("mariadb", names)  # until the first connection shows the product
        self._product: Product | None = None
        self._has_changes: bool | None = None
        self._is_own = connections.is_own
        connections.set_up = self._set_up

    def _set_up(self, driver: Any) -> None:  # noqa: ANN401 - any driver's connection
        """Check the server of the new connection, and set up the connection if it is our own."""
        product = set_up(driver, is_own=self._is_own)
        if product != self._product:
            self.dialect = dialect_of(product.dialect, self.names)
            self._product = product

    @property
    def product(self) -> Product:
        """The product of the server, which requires a first connection."""
        if self._product is None:
            self.clock()
        assert self._product is not None  # noqa: S101 - set before any transaction begins
        return self._product

    # ---- transactions ------------------------------------------------------------------------------------

    @property
    def has_brief_updates(self) -> bool:
        """Whether an UPDATE of a locked row fails soon: on MariaDB immediately, on MySQL after a second.

        On a caller's connection to MySQL, the UPDATE waits as long as the caller's settings allow.
        """
        return self._is_own or self.product.name == "MariaDB"

    @override
    def read_failure(self, error: BaseException) -> Failure | None:
        return read_failure(error)

    @override
    def begin(
        self, checkout: Checkout, *, is_writing: bool, is_brief: bool = False
    ) -> tuple[Cursor, LateClock]:
        """Begin; this takes no round trip if the connection accepts several statements, as all our own do."""
        carries_several = self._is_own or runs_several(checkout.driver)
        cursor = MultiStatementCursor(
            StatementSender(checkout.driver.cursor(), carries_several=carries_several)
        )
        del is_brief  # each statement declares whether it waits for locks
        if not is_writing:
            cursor.put(_SNAPSHOT_LEVEL)
        elif not self._is_own:
            cursor.put(_LEVEL)
        cursor.put(_WRITE if is_writing else _SNAPSHOT)

        return cursor, LateClock(lambda: _queried_clock(cursor))

    @override
    def query(self, work: Callable[[Transaction], _T]) -> _T:
        """Read without a transaction on our own connections, which commit each statement separately."""
        if not self._is_own:
            return super().query(work)

        def ask(tx: Transaction) -> _T:
            cast("MultiStatementCursor", tx.cursor).drop()  # discard the start of the transaction
            tx.is_ended = True
            return work(tx)

        return self.read(ask)

    @override
    def has_begun(self, cursor: Cursor) -> bool:
        return cast("MultiStatementCursor", cursor).has_replied

    @override
    def undo(self, cursor: Cursor) -> None:
        cast("MultiStatementCursor", cursor).drop()
        super().undo(cursor)

    @override
    def cursor_of(self, driver: Any) -> Cursor:
        return MultiStatementCursor(StatementSender(driver.cursor(), carries_several=False))

    @override
    def now(self, cursor: Cursor) -> int:
        cursor.execute(_NOW)
        found: Any = cursor.fetchone()
        return int(found[0]) + self.clock_offset

    @override
    def begin_joined(self, callers: Joined, cursor: Cursor) -> Transaction:
        tx = super().begin_joined(callers, cursor)
        # Callers usually use REPEATABLE READ, so another connection may see newer rows.
        tx.newer = lambda statement, values: self.read(lambda own: own.all(statement, **values))
        return tx

    @override
    def _run_joined_work(self, tx: Transaction, work: Callable[[Transaction], _T]) -> tuple[_T, set[str]]:
        """Prevent MariaDB from rolling back the caller's transaction because of a changed row."""
        if not self._undoes_for_changes():
            return super()._run_joined_work(tx, work)
        tx.cursor.execute(_LET_CHANGE)
        try:
            return super()._run_joined_work(tx, work)
        finally:
            with suppress(Exception):  # other code handles a lost connection
                tx.cursor.execute(_AS_BEFORE)

    def _undoes_for_changes(self) -> bool:
        """Return whether changed rows may cause a rollback; the first call queries the server."""
        if self._has_changes is None:
            self._has_changes = self.read(_knows_changes)
        return self._has_changes

    # ---- the schema --------------------------------------------------------------------------------------

    @override
    def has_tables(self, tx: Transaction) -> bool:
        tx.cursor.execute(_HAS_TABLE, [self.names.schema, self.names.of(SCHEMA_TABLE)])
        return tx.cursor.fetchone() is not None

    @override
    def prepare_migration(self, tx: Transaction) -> None:
        """Acquire a session lock, because every CREATE commits and so releases the locks of a transaction."""
        tx.cursor.execute(_LOCK, [self.names.schema, self.names.prefix, _MIGRATION_SECONDS])
        found: Any = tx.cursor.fetchone()
        if found[0] != 1:
            raise StorageUnavailable(
                f"{self.name}: another process has been migrating the schema for {_MIGRATION_SECONDS} "
                "seconds. Try again later."
            )
        tx.cursor.execute(_MIGRATING[self.product.name])
        if self.names.schema is not None:
            name = tx.dialect.identifier_preparer.quote_schema(self.names.schema)
            tx.cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name}")

    @override
    def finish_migration(self, tx: Transaction) -> None:
        with suppress(Exception):  # if the connection is lost, the server has released the lock
            tx.cursor.execute(_MIGRATED[self.product.name])
            tx.cursor.execute(_UNLOCK, [self.names.schema, self.names.prefix])
            tx.cursor.fetchone()

    # ---- transactions of callers -------------------------------------------------------------------------

    @override
    def raw_transaction(self, within: Any) -> Joined | None:
        loaded = (sys.modules.get(name) for name in ("pymysql.connections", "MySQLdb.connections"))
        if not any(module is not None and isinstance(within, module.Connection) for module in loaded):
            return None
        place = _place_of(within)
        if self.is_in_autocommit(within):
            raise ConfigurationError(
                f"within must not be a connection in autocommit mode, got one to {place}. Use a connection "
                "with transactions."
            )
        dialect = dialect_of(self.product.dialect, self.names)
        return Joined(within, dialect, place, lambda: self.cursor_of(within), skip_notification)

    @override
    def dialect_for(self, callers: Dialect) -> Dialect | None:
        if callers.name not in {"mysql", "mariadb"} or callers.driver not in DRIVERS:
            return None
        return dialect_of(self.product.dialect, self.names)

    @override
    def is_in_autocommit(self, driver: Any) -> bool:
        return bool(driver.get_autocommit())

    # ---- queries for people ------------------------------------------------------------------------------

    @override
    def describe(self) -> Mapping[str, str]:
        settings = self.transact(lambda tx: health.read_settings(tx.cursor), is_writing=False)
        return health.describe(self.name, self.product, settings, self.wake.describe())

    @override
    def diagnose(self) -> list[Finding]:
        def ask(tx: Transaction) -> tuple[health.Settings, int | None, int]:
            return health.read_settings(tx.cursor), health.read_history_length(tx.cursor), tx.now

        settings, history, now = self.transact(ask, is_writing=False)
        ahead = now - self.clock_offset - time.time_ns() // 1_000
        longest = self._read_longest()
        seen = health.Observed(self.product, settings, self.schema_state(), ahead, history, longest)
        return health.diagnose(seen)

    def _read_longest(self) -> tuple[int, int] | None:
        """Return the oldest transaction; None if none is open, or if the user is not allowed to see it."""
        try:
            return self.transact(lambda tx: health.read_longest(tx.cursor), is_writing=False)
        except StorageError:
            return None


def _queried_clock(cursor: MultiStatementCursor) -> Callable[[], int]:
    """Add the query for the time to the pending statements; return a function that reads its result."""
    [answer] = cursor.put(_NOW)

    def read() -> int:
        cursor.send()
        ((micros,),) = answer.rows
        return int(micros)  # type: ignore[arg-type]  # a number, whatever type the driver returns

    return read


def _knows_changes(tx: Transaction) -> bool:
    tx.cursor.execute(_KNOWS_CHANGES)
    return tx.cursor.fetchone() is not None


def _place_of(driver: Any) -> str:  # noqa: ANN401 - any driver's connection
    """Return a name that distinguishes the database of a raw connection from others."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT @@hostname, @@port, DATABASE()")
        host, port, database = cursor.fetchone()
    return f"{host}:{port}/{database}"
