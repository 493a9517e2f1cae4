"""One PostgreSQL database as used by the verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from typing_extensions import override

from firelock import ConfigurationError
from firelock.storage import Finding, StorageUnavailable
from firelock_sql.connections.database import BRIEF_SECONDS
from firelock_sql.connections.notify import Wake
from firelock_sql.connections.server_database import STALE_LIMIT, LateClock, ServerDatabase
from firelock_sql.connections.transaction import Transaction
from firelock_sql.connections.within import Joined, skip_notification
from firelock_sql.postgresql import health
from firelock_sql.postgresql.connect import (
    DRIVERS,
    UNPREPARED,
    ConnectionPath,
    ReplyTimeoutConnection,
    dialect_of,
    read_failure,
)
from firelock_sql.postgresql.listener import Channel, ChannelMailbox
from firelock_sql.postgresql.pipeline import BundlingCursor, PipelinedCursor, PreparingCursor
from firelock_sql.schema.names import SCHEMA_TABLE, table_name

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

    from firelock_sql.connections.pool import Checkout, EnginePool
    from firelock_sql.connections.server_database import Failure
    from firelock_sql.connections.transaction import Cursor
    from firelock_sql.schema.names import Names

_T = TypeVar("_T")

_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_LOCK_TIMEOUT, _BRIEF_TIMEOUT = "2s", f"{BRIEF_SECONDS * 1_000:.0f}ms"


def _limits(lock_timeout: str) -> str:
    """Return the statements that set the timeouts of a transaction; they are sent together with its BEGIN.

    The timeouts are set within the transaction, because a pooler may give the connection to other clients.
    The third statement ends transactions of processes that hang or are disconnected, because others need the
    locked rows.
    """
    return (
        f"SET LOCAL lock_timeout = '{lock_timeout}'; SET LOCAL statement_timeout = '30s'"
        "; SET LOCAL idle_in_transaction_session_timeout = '10s'"
    )


# Our own connections have the same settings permanently, because no other client uses them. Statements
# outside transactions are the hot path. They are planned only once, because planning takes longer than
# claiming a job. The plan must stay good regardless of the size of the tables, so it must use their indexes
# and the order of these indexes. JIT compilation is never worth its cost for these statements.
_PLANNING = {"plan_cache_mode": "force_generic_plan"} | dict.fromkeys(
    ("enable_seqscan", "enable_bitmapscan", "enable_sort"), "off"
)
_SESSION = "; ".join(
    [f"SET lock_timeout = '{_LOCK_TIMEOUT}'; SET statement_timeout = '30s'; SET jit = off"]
    + ["SET idle_in_transaction_session_timeout = '10s'"]
    + [f"SET {name} = {value}" for name, value in _PLANNING.items()]
)
_PREPARED = 300  # statements per connection; more than Firelock uses, so that none is prepared repeatedly
_ASK_PLANNING = "SELECT " + ", ".join(f"current_setting('{name}')" for name in _PLANNING)
_PLAN_AS_USUAL = "SELECT " + ", ".join(
    f"set_config('{name}', %s, true)" for name in ("lock_timeout", *_PLANNING)
)
_AS_USUAL = "; ".join(f"SET LOCAL {name} TO DEFAULT" for name in _PLANNING)
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
# A transaction that has only locked rows need not wait for the disk. A rollback would have the same effect,
# but psycopg discards all prepared statements after a rollback.
_COMMIT_WITHOUT_WAIT = "SET LOCAL synchronous_commit TO off; COMMIT"
_WRITE = f"{_BEGIN}; {_limits(_LOCK_TIMEOUT)}; {_AS_USUAL}; {_NOW}"
_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_limits(_LOCK_TIMEOUT)}; {_AS_USUAL}; {_NOW}"
_RESULTS_BEFORE_NOW = 1 + 3 + len(_PLANNING)
_WAIT_BRIEFLY = f"SET LOCAL lock_timeout = '{_BRIEF_TIMEOUT}'"
_WRITE_BRIEFLY = f"{_BEGIN}; {_limits(_BRIEF_TIMEOUT)}; {_AS_USUAL}; {_NOW}"
_SCHEMA_LOCK = 0x4669_7265_6C6F_636B  # "Firelock": the lock that allows one migration at a time
# Creating an index of ten million rows takes minutes. So a migration may wait a long time for another
# migration, because this wait does not block other work. But all other transactions queue behind a statement
# that waits for a table, so such a statement gives up soon and the migration is retried.
_OTHER_MIGRATION = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'"
_MIGRATION = "SET LOCAL lock_timeout = '2s'"


class PostgresqlDatabase(ServerDatabase):
    """One database of a PostgreSQL server."""

    raw_kind = "a psycopg.Connection"

    def __init__(self, name: str, connections: EnginePool, names: Names, listen: str = "auto") -> None:
        self.name = name
        self.names = names
        self.dialect = dialect_of("psycopg", names)
        self.connection_path = ConnectionPath(name)
        self._usual: Sequence[str] = ()  # the planner settings for other transactions
        connections.set_up = self._set_up
        channel = Channel(connections, names, self.dialect, self.connection_path, is_forced=listen == "on")
        super().__init__(connections, Wake(None if listen == "off" else lambda: ChannelMailbox(channel)))

    def _set_up(self, driver: Any) -> None:  # noqa: ANN401 - a psycopg connection with any rows
        self.connection_path.set_up(driver)
        if self.is_direct:
            driver.prepared_max = _PREPARED
            self._usual = self._usual or driver.execute(_ASK_PLANNING).fetchone()
            driver.execute(_SESSION)

    @property
    def is_direct(self) -> bool:
        """Whether the connections are our own, and each has a fixed server connection without a pooler."""
        return self._connections.is_own and self.connection_path.is_pooled is False

    def in_one_round_trip(self, work: Callable[[Any], _T], *, lock_seconds: float | None = None) -> _T:
        """Run the work, which is a single statement, as a separate transaction in one round trip.

        The work receives a cursor. This requires that `is_direct` is true.

        Raises:
            RowLocked: see `run_with_retries`.
        """
        self.ensure_schema()
        return self.run_with_retries(lambda: self._in_one_round_trip(work), lock_seconds=lock_seconds)

    @override
    def query(self, work: Callable[[Transaction], _T]) -> _T:
        if not self.is_direct:
            return super().query(work)

        def ask(cursor: Any) -> _T:  # noqa: ANN401 - psycopg's
            return work(Transaction(cursor, self.dialect, lambda: self.now(cursor)))

        self.ensure_schema()
        return self.run_with_retries(lambda: self._in_one_round_trip(ask, is_writing=False))

    def write_planned(self, work: Callable[[Transaction], _T], *, is_brief: bool = False) -> _T:
        """Do the same as `write` or `write_briefly`, with the planner settings of the hot path.

        Statements are planned only once, and use indexes. This requires that `is_direct` is true. The time is
        read only if the work needs it.

        Raises:
            RowLocked: If a brief transaction has waited too long for a lock.
        """
        self.ensure_schema()
        begin = f"{_BEGIN}; {_WAIT_BRIEFLY}" if is_brief else _BEGIN
        result, woken = self.run_with_retries(
            lambda: self._in_one_round_trip(lambda cursor: self._framed(cursor, begin, work)),
            lock_seconds=BRIEF_SECONDS if is_brief else None,
        )
        if woken:
            self.wake.notify(woken)
        return result

    def _framed(
        self,
        cursor: Any,  # noqa: ANN401 - psycopg's
        begin: str,
        work: Callable[[Transaction], _T],
    ) -> tuple[_T, set[str]]:
        cursor.execute(begin, prepare=False)
        tx = Transaction(cursor, self.dialect, lambda: self.now(cursor), adds_deltas=True)
        found = self._run_work(tx, work)
        cursor.execute("COMMIT" if tx.has_written else _COMMIT_WITHOUT_WAIT, prepare=False)
        return found

    def _in_one_round_trip(self, work: Callable[[Any], _T], *, is_writing: bool = True) -> _T:
        for _ in range(STALE_LIMIT):
            checkout = None
            try:
                with self.translated(), self._connections.check_out() as checkout:
                    if _is_stale(checkout.driver):
                        checkout.is_lost = True
                        continue
                    cursor: Any = PreparingCursor(checkout.driver)
                    try:
                        return work(cursor)
                    except BaseException as error:
                        if checkout.driver.info.transaction_status is not TransactionStatus.IDLE:
                            self._undo(checkout, cursor)
                        again = self._trying_again(error, is_stale=False, is_writing=is_writing)
                        checkout.is_lost |= not isinstance(error, Exception) or checkout.driver.closed
                        checkout.is_lost |= self.is_spoiled(error)
                        if again is not None:
                            raise again from error
                        raise
            except StorageUnavailable as error:
                error.is_untouched |= checkout is None  # no connection was established
                raise
        return self.write(lambda tx: work(tx.cursor))

    @override
    def read_failure(self, error: BaseException) -> Failure | None:
        return read_failure(error)

    @override
    def begin(
        self, checkout: Checkout, *, is_writing: bool, is_brief: bool = False
    ) -> tuple[Cursor, int | Callable[[], int]]:
        """Begin a transaction; on our own connections, a writing transaction needs no round trip for this."""
        if is_writing and self._is_checked and self.is_direct and psycopg.Pipeline.is_supported():
            return self._begin_pipelined(checkout.driver, _BRIEF_TIMEOUT if is_brief else _LOCK_TIMEOUT)
        kind = PreparingCursor if self._is_checked and self.is_direct else BundlingCursor
        cursor: Any = kind(checkout.driver)
        write = _WRITE_BRIEFLY if is_brief else _WRITE
        cursor.execute(write if is_writing else _READ, prepare=False)
        for _ in range(_RESULTS_BEFORE_NOW):
            cursor.nextset()
        return cursor, int(cursor.fetchone()[0])

    def _begin_pipelined(
        self, driver: psycopg.Connection[Any], lock_timeout: str
    ) -> tuple[Cursor, Callable[[], int]]:
        cursor = PipelinedCursor(driver)
        cursor.put(_BEGIN, prepare=False)
        cursor.put(_PLAN_AS_USUAL, [lock_timeout, *self._usual])

        def ask() -> Callable[[], int]:
            answer = cursor.put(_NOW)

            def read() -> int:
                cursor.send()
                found: Any = answer.fetchone()
                return int(found[0])

            return read

        return cursor, LateClock(ask)

    @override
    def has_begun(self, cursor: Cursor) -> bool:
        return not isinstance(cursor, PipelinedCursor) or cursor.has_replied

    @override
    def is_spoiled(self, error: BaseException) -> bool:
        """Return whether the connection's prepared statements differ from those that psycopg has recorded."""
        return getattr(error, "sqlstate", None) in UNPREPARED

    @override
    def commit(self, cursor: Cursor) -> None:
        if isinstance(cursor, PipelinedCursor):
            cursor.commit()
        else:
            super().commit(cursor)

    @override
    def undo(self, cursor: Cursor) -> None:
        if isinstance(cursor, PipelinedCursor):
            cursor.undo()
        else:
            super().undo(cursor)

    @override
    def has_tables(self, tx: Transaction) -> bool:
        # The name is a constant. It is not passed as a parameter, because drivers require different forms.
        tx.cursor.execute(f"SELECT to_regclass('{table_name(tx.dialect, SCHEMA_TABLE)}') IS NOT NULL")
        found: Any = tx.cursor.fetchone()
        return bool(found[0])

    @override
    def prepare_migration(self, tx: Transaction) -> None:
        _set_reply_timeout(tx.cursor, is_off=True)
        tx.cursor.execute(_OTHER_MIGRATION)
        tx.cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
        tx.cursor.execute(_MIGRATION)
        if self.names.schema is None:
            return
        # IF NOT EXISTS requires the permission to create schemas, even if the schema exists.
        tx.cursor.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", [self.names.schema])
        if tx.cursor.fetchone() is None:
            schema = tx.dialect.identifier_preparer.quote_schema(self.names.schema)
            tx.cursor.execute(f"CREATE SCHEMA {schema}")

    @override
    def finish_migration(self, tx: Transaction) -> None:
        _set_reply_timeout(tx.cursor, is_off=False)

    @override
    def now(self, cursor: Cursor) -> int:
        cursor.execute(_NOW)
        found: Any = cursor.fetchone()
        return int(found[0]) + self.clock_offset

    @override
    def raw_transaction(self, within: object) -> Joined | None:
        if not isinstance(within, psycopg.Connection):
            return None
        info = within.info
        place = f"{info.host}:{info.port}/{info.dbname}"
        if within.autocommit and info.transaction_status is TransactionStatus.IDLE:
            raise ConfigurationError(
                f"within must have an open transaction, got a connection to {place} in autocommit mode. "
                "Begin a transaction first."
            )
        return Joined(within, self.dialect, place, lambda: self.cursor_of(within), skip_notification)

    @override
    @contextmanager
    def borrowed(self, driver: Any) -> Iterator[None]:
        """Borrow the connection without preparing statements, because it may pass through a pooler."""
        connection = getattr(driver, "driver_connection", driver)
        with super().borrowed(driver):
            if not hasattr(connection, "prepare_threshold"):  # psycopg2 and asyncpg
                yield
                return
            before, connection.prepare_threshold = connection.prepare_threshold, None
            try:
                yield
            finally:
                connection.prepare_threshold = before

    @override
    def dialect_for(self, callers: Dialect) -> Dialect | None:
        if callers.name != "postgresql" or callers.driver not in DRIVERS:
            return None
        return dialect_of(callers.driver, self.names)

    @override
    def is_in_autocommit(self, driver: Any) -> bool:
        return bool(driver.autocommit)

    @override
    def describe(self) -> Mapping[str, str]:
        described = health.describe(self)  # this opens a connection, which detects a pooler
        pooler = "between this process and the server" if self.connection_path.is_pooled else "none"
        return {**described, "pooler": pooler, "wake": self.wake.describe()}

    @override
    def diagnose(self) -> list[Finding]:
        return health.diagnose(self)


def _set_reply_timeout(cursor: Any, *, is_off: bool) -> None:  # noqa: ANN401 - psycopg's
    """Make the connection wait for replies without a limit, or with the usual timeout.

    The operating system closes the connection if the server is unreachable: see `_connect_args`.
    """
    connection = cursor.connection
    if isinstance(connection, ReplyTimeoutConnection):  # one of our own connections
        connection.has_no_timeout = is_off


def _is_stale(driver: psycopg.Connection[Any]) -> bool:
    """Return whether the server has closed an idle connection.

    The first read may return the server's last message, and the second read the end of the stream.
    """
    try:
        driver.pgconn.consume_input()
        driver.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return driver.closed
