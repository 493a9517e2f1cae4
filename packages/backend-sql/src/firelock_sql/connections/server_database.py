"""The common part of database servers: transactions run concurrently and are retried after conflicts."""

from __future__ import annotations

import logging
import random
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from sqlalchemy import Connection
from typing_extensions import override

from firelock import ConfigurationError
from firelock.storage import StorageError, StorageUnavailable
from firelock_sql.connections.counting import Folding, add_deltas
from firelock_sql.connections.database import BRIEF_SECONDS, Database, RowLocked
from firelock_sql.connections.notify import Wake
from firelock_sql.connections.transaction import Transaction
from firelock_sql.connections.within import Joined, NotifyLater

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Dialect

    from firelock_sql.connections.pool import Checkout, EnginePool
    from firelock_sql.connections.transaction import Cursor
    from firelock_sql.schema.names import Names

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RETRY_SECONDS = 15.0  # time for retries after conflicts; each try waits at most two seconds for a lock
_LONGEST_PAUSE = 0.1
_LOGGED_PAUSE = 30.0  # seconds between tries on a full disk, because the server logs each refused statement
_MOST_PLACES = 64
_TRIES = 3  # maximum number of tries if other transactions write the same key first
STALE_LIMIT = 64  # number of pooled connections that may be dead after the server restarts


class Meaning(Enum):
    """The reaction to an error; the value is a description."""

    CONFLICT = "conflict with another transaction: the whole transaction is retried"
    LOST = "the connection was lost: statements that were sent may have been executed"
    PASSING = "temporary: a later retry may succeed"
    LASTING = "permanent: a retry does not help"


@attrs.frozen
class Failure:
    """An error of a database: its meaning, and a one-line message without values or passwords."""

    meaning: Meaning
    text: str
    is_lock: bool = False  # the error means that a lock was not available in time
    is_refusal: bool = False  # the server refused the write, or no connection existed, so nothing was stored
    is_logged: bool = False  # the server has logged the error with its statement, because the disk is full


class Conflict(Exception):
    """The transaction conflicted with others and was rolled back."""

    is_uncertain = False  # an earlier try, whose connection is dead, may have been committed

    def __init__(self, text: str, *, is_lock: bool = False) -> None:
        super().__init__(text)
        self.is_lock = is_lock


class LateClock:
    """The database's time in microseconds; the statement that reads it can share a round trip with others.

    Args:
        put: adds the statement to those that are sent next, and returns a function that sends it and reads
            the time.
    """

    def __init__(self, put: Callable[[], Callable[[], int]]) -> None:
        self._put = put
        self._read: Callable[[], int] | None = None

    def request(self) -> None:
        """Send the query for the time together with the next statements."""
        if self._read is None:
            self._read = self._put()

    def __call__(self) -> int:
        """Return the time."""
        self.request()
        assert self._read is not None  # noqa: S101 - `request` has set it
        return self._read()


class Severed(Exception):
    """Raised if the connection is lost within a transaction that only reads."""


class _Stale(Exception):
    """Raised if the connection was dead before the transaction began."""

    def __init__(self, *, is_uncertain: bool = False) -> None:
        super().__init__()
        self.is_uncertain = is_uncertain  # the whole transaction was sent, but no reply has arrived


class ServerDatabase(Database):
    """The common part of PostgreSQL, MySQL and MariaDB."""

    names: Names
    connect_url = ""

    def __init__(self, connections: EnginePool, wake: Wake) -> None:
        super().__init__(connections, wake)
        self._connections = connections
        self._folding = Folding()
        self._places: set[str] = set()  # callers' connections that have been found to use this database

    # ---- differences between servers ---------------------------------------------------------------------

    @abstractmethod
    def read_failure(self, error: BaseException) -> Failure | None:
        """Return the meaning of an error of the driver; None for any other error."""

    @abstractmethod
    def begin(
        self, checkout: Checkout, *, is_writing: bool, is_brief: bool = False
    ) -> tuple[Cursor, int | Callable[[], int]]:
        """Begin a transaction; return its cursor and the database's time in microseconds.

        Instead of the time, it may return a function that reads the time. A brief transaction waits at most
        `BRIEF_SECONDS` for a lock, or the shortest time that the server supports. A dead connection may be
        detected only by the first statement: see `has_begun`.
        """

    def has_begun(self, _cursor: Cursor) -> bool:
        """Return whether the server has replied since `begin`."""
        return True

    def is_spoiled(self, _error: BaseException) -> bool:
        """Return whether a connection is unusable after this error."""
        return False

    def commit(self, cursor: Cursor) -> None:
        """Send all pending statements and commit the transaction."""
        cursor.execute("COMMIT")

    def undo(self, cursor: Cursor) -> None:
        """Roll back the transaction."""
        cursor.execute("ROLLBACK")

    def cursor_of(self, driver: Any) -> Cursor:  # noqa: ANN401 - any driver's connection
        """Return a cursor of a caller's connection on which the statements can run."""
        cursor: Cursor = driver.cursor()
        return cursor

    @abstractmethod
    def now(self, cursor: Cursor) -> int:
        """Return the database's time in microseconds, read within a transaction."""

    @abstractmethod
    def dialect_for(self, callers: Dialect) -> Dialect | None:
        """Return the dialect for a caller's connection; None if it uses another database."""

    @abstractmethod
    def is_in_autocommit(self, driver: object) -> bool:
        """Return whether a caller's connection commits each statement separately."""

    # ---- transactions ------------------------------------------------------------------------------------

    @override
    def transact(self, work: Callable[[Transaction], _T], *, is_writing: bool) -> _T:
        return self.run_with_retries(lambda: self._run_on_live_connection(work, is_writing=is_writing))

    @override
    def write_briefly(self, work: Callable[[Transaction], _T], *, seconds: float = BRIEF_SECONDS) -> _T:
        """Do the same as `write`, but wait at most this long in total for locks; try at least once."""
        self.ensure_schema()
        result, woken = self.run_with_retries(
            lambda: self._run_on_live_connection(
                lambda tx: self._run_work(tx, work), is_writing=True, is_brief=True
            ),
            lock_seconds=seconds,
        )
        if woken:
            self.wake.notify(woken)
        return result

    @override
    def write_counts(self, tx: Transaction) -> None:
        add_deltas(tx)

    def _run_on_live_connection(
        self, work: Callable[[Transaction], _T], *, is_writing: bool, is_brief: bool = False
    ) -> _T:
        """Run the work in a transaction, on another connection if a pooled one is dead; return its result."""
        is_uncertain = False
        for number in range(STALE_LIMIT):
            checkout, is_again = None, number > 0
            try:
                with self.translated(), self._connections.check_out() as checkout:
                    checkout.is_last = number == STALE_LIMIT - 1
                    return self._run_once(
                        checkout, work, is_writing=is_writing, is_brief=is_brief, is_again=is_again
                    )
            except _Stale as stale:
                is_uncertain |= stale.is_uncertain
            except Conflict as conflict:
                conflict.is_uncertain = is_uncertain
                raise
            except StorageUnavailable as error:
                error.is_untouched |= checkout is None  # no connection was established
                error.is_untouched &= not is_uncertain
                raise
        raise AssertionError

    def run_with_retries(self, once: Callable[[], _T], *, lock_seconds: float | None = None) -> _T:
        """Run a transaction, repeating it after each `Conflict`, and once if it is `Severed`.

        Args:
            once: the transaction.
            lock_seconds: how long to wait for locks of other transactions; None: the same time as for other
            conflicts.

        Raises:
            RowLocked: If a lock is not available within `lock_seconds`.
            StorageUnavailable: If the conflicts continue, or if the connection is lost a second time.
        """
        began = time.monotonic()
        deadline = began + _RETRY_SECONDS
        pause, is_again, is_uncertain = 0.002, False, False
        while True:
            try:
                return once()
            except Conflict as conflict:
                is_uncertain |= conflict.is_uncertain
                now = time.monotonic()
                if lock_seconds is not None and conflict.is_lock and now >= began + lock_seconds:
                    raise RowLocked(str(conflict)) from conflict.__cause__
                if now > deadline:
                    busy = StorageUnavailable(str(conflict))
                    busy.is_untouched = not (is_again or is_uncertain)  # all other tries were rolled back
                    busy.has_waited = True
                    raise busy from conflict.__cause__
            except StorageUnavailable as error:
                error.is_untouched &= not is_uncertain
                raise
            except Severed as loss:
                if is_again:
                    raise StorageUnavailable(str(loss)) from loss.__cause__
                is_again = True
                continue
            time.sleep(random.uniform(0, pause))  # noqa: S311 - not a secret
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _run_once(
        self,
        checkout: Checkout,
        work: Callable[[Transaction], _T],
        *,
        is_writing: bool,
        is_brief: bool,
        is_again: bool,
    ) -> _T:
        """Run the work in a transaction on this connection, commit it, and return the work's result.

        Raises:
            _Stale: If the connection was dead before the transaction began.
            Conflict: If the transaction conflicts with others.
            Severed: If the connection is lost within a transaction that only reads.
        """
        try:
            cursor, began = self.begin(checkout, is_writing=is_writing, is_brief=is_brief)
        except BaseException as error:
            checkout.is_lost = True
            if self._is_loss(error) and not checkout.is_last:
                raise _Stale from error
            raise
        try:
            clock = self._storage_clock(began)
            tx = Transaction(cursor, self.dialect, clock, adds_deltas=True, is_again=is_again)
            if isinstance(began, LateClock):
                tx.send_clock_query = began.request
            result = work(tx)
            if is_writing and not tx.may_repeat and not self.has_begun(cursor):
                tx.now  # noqa: B018 - a round trip before the commit, because the result of a lost one is unknown
            if not tx.is_ended:
                self.commit(cursor)
        except BaseException as error:
            is_stale = not (checkout.is_new or checkout.is_last or self.has_begun(cursor))
            self._undo(checkout, cursor)
            checkout.is_lost |= self.is_spoiled(error)
            again = self._trying_again(error, is_stale=is_stale, is_writing=is_writing)
            if again is not None:
                raise again from error
            raise
        return result

    def _trying_again(self, error: BaseException, *, is_stale: bool, is_writing: bool) -> Exception | None:
        """Return the exception that makes the caller retry after this error; None if it must not retry.

        The transaction has been rolled back.
        """
        failure = self.read_failure(error)
        if failure is None:
            return None
        match failure.meaning:
            case Meaning.CONFLICT:
                return Conflict(self._worded(failure), is_lock=failure.is_lock)
            case Meaning.LOST if is_stale:
                return _Stale(is_uncertain=is_writing)
            case Meaning.LOST if not is_writing:
                return Severed(self._worded(failure))
            case _:
                return None

    def _is_loss(self, error: BaseException) -> bool:
        failure = self.read_failure(error)
        return failure is not None and failure.meaning is Meaning.LOST

    def _storage_clock(self, began: int | Callable[[], int]) -> int | Callable[[], int]:
        return (lambda: began() + self.clock_offset) if callable(began) else began + self.clock_offset

    def _undo(self, checkout: Checkout, cursor: Cursor) -> None:
        try:
            self.undo(cursor)
        except Exception:  # noqa: BLE001 - the connection is discarded in any case
            checkout.is_lost = True

    # ---- transactions of callers -------------------------------------------------------------------------

    @override
    def connection_transaction(self, connection: Connection, notify_later: NotifyLater) -> Joined:
        place = connection.engine.url.render_as_string(hide_password=True)
        dialect = self.dialect_for(connection.dialect)
        if dialect is None:
            raise ConfigurationError(
                f"within must be a transaction on {self.name}, where jobs are stored, got one on {place}."
            )
        driver: Any = connection.connection.dbapi_connection
        if self.is_in_autocommit(driver):
            raise ConfigurationError(
                f"within must not be a connection in autocommit mode, got one to {place}. Use a connection "
                "with transactions."
            )
        if not connection.in_transaction():
            connection.begin()  # begin the transaction, as its first statement would do
        return Joined(driver, dialect, place, lambda: self.cursor_of(driver), notify_later)

    @override
    @contextmanager
    def borrowed(self, driver: Any) -> Iterator[None]:
        with self.translated():
            yield

    @override
    def run_joined(self, callers: Joined, work: Callable[[Transaction], _T]) -> _T:
        """Run Firelock's part of the transaction; repeat it if another transaction wrote a key first."""
        for tries in range(_TRIES):
            try:
                return super().run_joined(callers, work)
            except Exception as error:
                failure = self.read_failure(error)
                is_last = tries == _TRIES - 1
                if is_last or failure is None or failure.meaning is not Meaning.CONFLICT:
                    raise
        raise AssertionError

    @override
    def begin_joined(self, callers: Joined, cursor: Cursor) -> Transaction:
        if callers.place not in self._places:
            self._check_place(Transaction(cursor, callers.dialect, 0), callers.place)
        return Transaction(cursor, callers.dialect, self.now(cursor), adds_deltas=True)

    def _check_place(self, tx: Transaction, place: str) -> None:
        """Check that the caller's transaction uses the same tables as our own connections."""
        own = self.read(self.tables_created_at)
        if not self.has_tables(tx) or self.tables_created_at(tx) != own:
            raise ConfigurationError(
                f"within is a transaction on {place}, which does not contain the tables of {self.name}. "
                "Use a transaction on the database in which jobs are stored."
            )
        if len(self._places) < _MOST_PLACES:
            self._places.add(place)

    # ---- errors ------------------------------------------------------------------------------------------

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Translate the driver's exceptions to storage exceptions, whose messages do not contain parameters.

        Raises:
            StorageUnavailable: If the error may be temporary.
            StorageError: If the error is permanent.
        """
        try:
            yield
        except (OverflowError, UnicodeError) as error:
            raise StorageError(
                f"{self.name} cannot store a value of this call: {type(error).__name__}."
            ) from None
        except Exception as error:
            failure = self.read_failure(error)
            if failure is None:
                raise
            if failure.meaning is Meaning.LASTING:
                raise StorageError(self._worded(failure)) from error
            unavailable = StorageUnavailable(self._worded(failure))
            unavailable.is_untouched = failure.is_refusal
            if failure.is_logged:
                unavailable.longest_pause = _LOGGED_PAUSE
            raise unavailable from error

    def _worded(self, failure: Failure) -> str:
        return f"{self.name}: {failure.text}"

    # ---- the clock ---------------------------------------------------------------------------------------

    @override
    def clock(self) -> int:
        return self.transact(lambda tx: tx.now, is_writing=False)

    @override
    def tidy(self) -> None:
        self._folding.run(self)

    @override
    def tidy_some(self) -> None:
        try:
            self._folding.run(self, folds=1)
        except StorageError as error:  # the result of the call is already stored
            log.debug("Could not fold differences of the counts; upkeep will fold them later: %s", error)
