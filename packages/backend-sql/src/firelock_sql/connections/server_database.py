"""A database with a server of its own: transactions side by side, tried again where they meet."""

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
from firelock_sql.connections.within import Joined, TellLater

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Dialect

    from firelock_sql.connections.pool import EnginePool, Lent
    from firelock_sql.connections.transaction import Cursor
    from firelock_sql.schema.names import Names

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_PATIENCE_SECONDS = 15.0  # for others who are in the way; each try waits for a lock at most two seconds
_LONGEST_PAUSE = 0.1
_LOGGED_PAUSE = 30.0  # between two tries on a full disk, where the server logs each refused statement
_MOST_PLACES = 64
_TRIES = 3  # for a key that somebody else was first to write
STALE_LIMIT = 64  # connections of a pool that may all be dead after the server was restarted


class Meaning(Enum):
    """What is to be done about it."""

    CONFLICT = "others were in the way: the whole transaction is tried again"
    LOST = "the connection is gone: what was under way may have happened"
    PASSING = "trying again later may help"
    LASTING = "trying again will not help"


@attrs.frozen
class Failure:
    """An error of a database: what it means, and one line for people, without a value or a password."""

    meaning: Meaning
    text: str
    is_lock: bool = False  # a lock was not to be had in time
    is_refusal: bool = False  # the server wrote nothing and said so, or no connection was made
    is_logged: bool = False  # with its statement, on a disk that is full


class Conflict(Exception):
    """Others were in the way; the transaction is undone."""

    is_doubtful = False  # an earlier try on a dead connection may have been committed

    def __init__(self, text: str, *, is_lock: bool = False) -> None:
        super().__init__(text)
        self.is_lock = is_lock


class LateClock:
    """The database's time in micros, read by a statement that can share a round trip with later ones.

    Args:
        put: add the statement to those that wait to be sent, and return a function that sends it and reads
            the time.
    """

    def __init__(self, put: Callable[[], Callable[[], int]]) -> None:
        self._put = put
        self._read: Callable[[], int] | None = None

    def ask(self) -> None:
        """Read the time along with the next statements."""
        if self._read is None:
            self._read = self._put()

    def __call__(self) -> int:
        """Return the time."""
        self.ask()
        assert self._read is not None  # noqa: S101 - `ask` has set it
        return self._read()


class Severed(Exception):
    """The connection was lost within a transaction that only reads."""


class _Stale(Exception):
    """The connection was dead before the transaction began."""

    def __init__(self, *, is_doubtful: bool = False) -> None:
        super().__init__()
        self.is_doubtful = is_doubtful  # all of the transaction had been sent, and no reply came


class ServerDatabase(Database):
    """What PostgreSQL, MySQL and MariaDB have in common."""

    names: Names
    connect_url = ""

    def __init__(self, connections: EnginePool, wake: Wake) -> None:
        super().__init__(connections, wake)
        self._connections = connections
        self._folding = Folding()
        self._places: set[str] = set()  # callers' connections that were seen to lead here

    # ---- what differs ------------------------------------------------------------------------------------

    @abstractmethod
    def read_failure(self, error: BaseException) -> Failure | None:
        """Return what an error of the driver means; None where it is none."""

    @abstractmethod
    def begin(
        self, lent: Lent, *, is_writing: bool, is_brief: bool = False
    ) -> tuple[Cursor, int | Callable[[], int]]:
        """Begin a transaction; return its cursor and the database's time in micros, or who asks for it.

        A brief one waits for a lock as short as the server allows, at most `BRIEF_SECONDS` if it can.

        That the connection is dead may show with the first statement only: see `has_begun`.
        """

    def has_begun(self, _cursor: Cursor) -> bool:
        """Tell whether the server has answered since `begin`."""
        return True

    def is_spoiled(self, _error: BaseException) -> bool:
        """Tell whether a connection on which this went wrong is of no use any more."""
        return False

    def commit(self, cursor: Cursor) -> None:
        """The transaction is committed, with whatever waits to be sent."""
        cursor.execute("COMMIT")

    def undo(self, cursor: Cursor) -> None:
        """The transaction is undone."""
        cursor.execute("ROLLBACK")

    def cursor_of(self, driver: Any) -> Cursor:  # noqa: ANN401 - any driver's connection
        """Return a cursor of a caller's connection, as statements need it."""
        cursor: Cursor = driver.cursor()
        return cursor

    @abstractmethod
    def now(self, cursor: Cursor) -> int:
        """Return the database's time in micros, asked for within a transaction."""

    @abstractmethod
    def dialect_for(self, callers: Dialect) -> Dialect | None:
        """Return how statements are written for a caller's connection; None where it leads elsewhere."""

    @abstractmethod
    def is_in_autocommit(self, driver: object) -> bool:
        """Tell whether a caller's connection commits each statement by itself."""

    # ---- transactions ------------------------------------------------------------------------------------

    @override
    def transact(self, work: Callable[[Transaction], _T], *, is_writing: bool) -> _T:
        return self.tried(lambda: self._done(work, is_writing=is_writing))

    @override
    def write_briefly(self, work: Callable[[Transaction], _T], *, seconds: float = BRIEF_SECONDS) -> _T:
        """`write`, which waits so long for all locks of others together, and once at least."""
        self.ensure_schema()
        result, woken = self.tried(
            lambda: self._done(lambda tx: self._run_work(tx, work), is_writing=True, is_brief=True),
            lock_seconds=seconds,
        )
        if woken:
            self.wake.tell(woken)
        return result

    @override
    def write_counts(self, tx: Transaction) -> None:
        add_deltas(tx)

    def _done(self, work: Callable[[Transaction], _T], *, is_writing: bool, is_brief: bool = False) -> _T:
        """Return what the work returned; a pooled connection that is dead is put aside for another."""
        is_doubtful = False
        for number in range(STALE_LIMIT):
            lent, is_again = None, number > 0
            try:
                with self.translated(), self._connections.lend() as lent:
                    lent.is_last = number == STALE_LIMIT - 1
                    return self._finished(
                        lent, work, is_writing=is_writing, is_brief=is_brief, is_again=is_again
                    )
            except _Stale as stale:
                is_doubtful |= stale.is_doubtful
            except Conflict as conflict:
                conflict.is_doubtful = is_doubtful
                raise
            except StorageUnavailable as error:
                error.is_untouched |= lent is None  # no connection was made
                error.is_untouched &= not is_doubtful
                raise
        raise AssertionError

    def tried(self, once: Callable[[], _T], *, lock_seconds: float | None = None) -> _T:
        """A transaction is tried until no `Conflict` undoes it; once more where it is `Severed`.

        Args:
            once: the transaction.
            lock_seconds: after which a lock of others is waited for no more; None: as any conflict.

        Raises:
            RowLocked: a lock was not to be had in that time.
            StorageUnavailable: others stay in the way, or the connection is lost a second time.
        """
        began = time.monotonic()
        deadline = began + _PATIENCE_SECONDS
        pause, is_again, is_doubtful = 0.002, False, False
        while True:
            try:
                return once()
            except Conflict as conflict:
                is_doubtful |= conflict.is_doubtful
                now = time.monotonic()
                if lock_seconds is not None and conflict.is_lock and now >= began + lock_seconds:
                    raise RowLocked(str(conflict)) from conflict.__cause__
                if now > deadline:
                    busy = StorageUnavailable(str(conflict))
                    busy.is_untouched = not (is_again or is_doubtful)  # every other try was undone
                    busy.has_waited = True
                    raise busy from conflict.__cause__
            except StorageUnavailable as error:
                error.is_untouched &= not is_doubtful
                raise
            except Severed as loss:
                if is_again:
                    raise StorageUnavailable(str(loss)) from loss.__cause__
                is_again = True
                continue
            time.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
            pause = min(_LONGEST_PAUSE, 2 * pause)

    def _finished(
        self,
        lent: Lent,
        work: Callable[[Transaction], _T],
        *,
        is_writing: bool,
        is_brief: bool,
        is_again: bool,
    ) -> _T:
        """Return what the work returned in a transaction on this connection, which is committed.

        Raises:
            _Stale: the connection was dead before the transaction began.
            Conflict: others were in the way.
            Severed: the connection was lost within a transaction that only reads.
        """
        try:
            cursor, began = self.begin(lent, is_writing=is_writing, is_brief=is_brief)
        except BaseException as error:
            lent.is_lost = True
            if self._is_loss(error) and not lent.is_last:
                raise _Stale from error
            raise
        try:
            clock = self._storage_clock(began)
            tx = Transaction(cursor, self.dialect, clock, adds_deltas=True, is_again=is_again)
            if isinstance(began, LateClock):
                tx.ask_now = began.ask
            result = work(tx)
            if is_writing and not tx.may_repeat and not self.has_begun(cursor):
                tx.now  # noqa: B018 - whether a commit was lost with a dead connection, nobody could tell
            if not tx.is_ended:
                self.commit(cursor)
        except BaseException as error:
            is_stale = not (lent.is_new or lent.is_last or self.has_begun(cursor))
            self._undo(lent, cursor)
            lent.is_lost |= self.is_spoiled(error)
            again = self._trying_again(error, is_stale=is_stale, is_writing=is_writing)
            if again is not None:
                raise again from error
            raise
        return result

    def _trying_again(self, error: BaseException, *, is_stale: bool, is_writing: bool) -> Exception | None:
        """Return which way of trying again an error within a transaction, now undone, asks for."""
        failure = self.read_failure(error)
        if failure is None:
            return None
        match failure.meaning:
            case Meaning.CONFLICT:
                return Conflict(self._worded(failure), is_lock=failure.is_lock)
            case Meaning.LOST if is_stale:
                return _Stale(is_doubtful=is_writing)
            case Meaning.LOST if not is_writing:
                return Severed(self._worded(failure))
            case _:
                return None

    def _is_loss(self, error: BaseException) -> bool:
        failure = self.read_failure(error)
        return failure is not None and failure.meaning is Meaning.LOST

    def _storage_clock(self, began: int | Callable[[], int]) -> int | Callable[[], int]:
        return (lambda: began() + self.clock_offset) if callable(began) else began + self.clock_offset

    def _undo(self, lent: Lent, cursor: Cursor) -> None:
        try:
            self.undo(cursor)
        except Exception:  # noqa: BLE001 - whatever it is, this connection is not used again
            lent.is_lost = True

    # ---- transactions of callers -------------------------------------------------------------------------

    @override
    def connection_transaction(self, connection: Connection, tell_later: TellLater) -> Joined:
        place = connection.engine.url.render_as_string(hide_password=True)
        dialect = self.dialect_for(connection.dialect)
        if dialect is None:
            raise ConfigurationError(
                f"within= is a transaction on {place}, but jobs are stored in {self.name}."
            )
        driver: Any = connection.connection.dbapi_connection
        if self.is_in_autocommit(driver):
            raise ConfigurationError(
                f"within= is a connection to {place} in autocommit mode; use one with transactions."
            )
        if not connection.in_transaction():
            connection.begin()  # as its first statement would have
        return Joined(driver, dialect, place, lambda: self.cursor_of(driver), tell_later)

    @override
    @contextmanager
    def borrowed(self, driver: Any) -> Iterator[None]:
        with self.translated():
            yield

    @override
    def take_part(self, callers: Joined, work: Callable[[Transaction], _T]) -> _T:
        """Our part is tried again where somebody else was first to write a key."""
        for tries in range(_TRIES):
            try:
                return super().take_part(callers, work)
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
        """The caller's transaction sees the very tables that our own connections see."""
        own = self.read(self.made_at)
        if not self.has_tables(tx) or self.made_at(tx) != own:
            raise ConfigurationError(
                f"within= is a transaction on {place}, which has not the tables of {self.name}. "
                "Jobs can be part of transactions on their own database alone."
            )
        if len(self._places) < _MOST_PLACES:
            self._places.add(place)

    # ---- errors ------------------------------------------------------------------------------------------

    @contextmanager
    def translated(self) -> Iterator[None]:
        """The driver's exceptions leave as the storage's own; no parameter is in their text.

        Raises:
            StorageUnavailable: trying again may help.
            StorageError: it will not.
        """
        try:
            yield
        except (OverflowError, UnicodeError) as error:
            raise StorageError(
                f"{self.name} cannot hold a value of this call: {type(error).__name__}."
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
        except StorageError as error:  # what called it is stored already, and upkeep folds the rest
            log.debug("Differences of the counts were not folded: %s", error)
