"""A database that is open: what SQLite and those with a server have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from typing_extensions import override

from firelock import ConfigurationError
from firelock_sql import schema
from firelock_sql.notify import Wake
from firelock_sql.statements import Cursor
from firelock_sql.transaction import Database, Transaction
from firelock_sql.within import Joined, TellLater, find_connection

__all__ = ["OpenDatabase"]

_T = TypeVar("_T")


class Closable(Protocol):
    """The connections of one database."""

    def check_open(self) -> None:
        """Nothing happens unless they are closed."""
        ...

    def close(self) -> None:
        """They are closed."""
        ...


class OpenDatabase(Database):
    """Its schema is made once, its waits end with it, and callers' transactions are joined."""

    def __init__(self, connections: Closable, wake: Wake) -> None:
        self._closable = connections
        self._wake = wake
        self._is_checked = False

    # ---- transactions ------------------------------------------------------------------------------------

    @abstractmethod
    def transact(self, work: Callable[[Transaction], _T], *, is_writing: bool) -> _T:
        """Return what the work returned in one transaction, done again while others are in the way."""

    @abstractmethod
    def write_counts(self, tx: Transaction) -> None:
        """What the transaction changed of the counts is written, last of all."""

    @override
    def write(self, work: Callable[[Transaction], _T]) -> _T:
        self.ensure_schema()
        return self.write_unchecked(work)

    @override
    def read(self, work: Callable[[Transaction], _T]) -> _T:
        self.ensure_schema()
        return self.read_unchecked(work)

    @override
    def write_unchecked(self, work: Callable[[Transaction], _T]) -> _T:
        result, woken = self.transact(lambda tx: self._counted(tx, work), is_writing=True)
        if woken:
            self.tell(woken)
        return result

    @override
    def read_unchecked(self, work: Callable[[Transaction], _T]) -> _T:
        return self.transact(work, is_writing=False)

    def _counted(self, tx: Transaction, work: Callable[[Transaction], _T]) -> tuple[_T, set[str]]:
        """Return what the work returns, and the queues to tell of."""
        result = work(tx)
        self.write_counts(tx)
        return result, tx.woken

    def ensure_schema(self) -> None:
        """The schema is the one this code needs; made where there is none."""
        if not self._is_checked:  # without a lock: to look twice is harmless, a lock held at a fork is not
            schema.ensure(self)
            self._is_checked = True

    # ---- transactions of callers -------------------------------------------------------------------------

    raw_kind: str
    """What `raw_transaction` takes, for people."""

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

    @override
    def join(self, within: object, work: Callable[[Transaction], _T]) -> _T:
        callers = self._callers(within)
        self.ensure_schema()
        with self.borrowed(callers.driver):
            result, woken = self.take_part(callers, lambda tx: self._counted(tx, work))
        if woken:
            callers.tell_later(self, woken)
        return result

    def _callers(self, within: object) -> Joined:
        if (raw := self.raw_transaction(within)) is not None:
            return raw
        if (found := find_connection(within)) is not None:
            return self.connection_transaction(*found)
        message = (
            f"within= takes a Session, a Connection or {self.raw_kind}, not {type(within).__name__}. "
            "An AsyncSession or AsyncConnection is taken by aenqueue."
        )
        raise ConfigurationError(message)

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

    # ---- waking ------------------------------------------------------------------------------------------

    @override
    def tell(self, queues: set[str]) -> None:
        self._wake.tell(queues)

    @override
    def looks_for_work(self, queues: Sequence[str] | None) -> None:
        self._wake.mark(queues)

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        self._closable.check_open()
        return self._wake.wait(queues, timeout_seconds)

    @override
    def interrupt(self) -> None:
        self._wake.interrupt()

    @override
    def close(self) -> None:
        self._wake.close()
        self._closable.close()
