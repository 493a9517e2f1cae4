"""The seam between the verbs and one kind of database: connections, transactions, time, wake-ups.

The verbs are written once, against a `Transaction`. What differs from database to database is behind
`Database`: how a transaction begins and is tried again, how rows are locked, how counters are kept, who
tells waiting servers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import TypeVar, cast

import attrs
from sqlalchemy.engine import Dialect

from firelock.storage import Finding
from firelock_sql.statements import Cursor, Parameter, Statement, Value

__all__ = ["Database", "Failure", "Meaning", "Transaction"]


_T = TypeVar("_T")
Row = tuple[Value, ...]


@attrs.define(eq=False)
class Transaction:
    """One transaction under way: a cursor, one instant, and what is owed at its end."""

    cursor: Cursor
    dialect: Dialect
    _began: int | Callable[[], int]  # the storage's clock when it began, or who asks for it
    deltas: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # (state, queue): jobs more or fewer
    woken: set[str] = attrs.field(factory=set)  # queues with new work, told after the commit
    adds_deltas: bool = False  # counts are the sum of what transactions added
    is_ended: bool = False  # committed by the work itself, which has only read
    may_repeat: bool = False  # done twice it does no harm: its only round trip may be its commit
    is_again: bool = False  # the connection was lost at the first try, nobody knows before what

    @property
    def now(self) -> int:
        """Return the storage's clock when it began."""
        if callable(self._began):
            self._began = self._began()
        return self._began

    def run(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> int:
        """The statement has run; return how many rows it changed."""
        text, values = statement.bind(self.dialect, parameters or {})
        self.cursor.execute(text, values)
        return self.cursor.rowcount

    def run_many(self, statement: Statement, rows: Iterable[Mapping[str, object]]) -> None:
        """The statement runs once a row of parameters, before any that comes after it."""
        compiled = statement.compiled(self.dialect)
        names = compiled.names
        values = [[row[name] for name in names] for row in rows]
        if not values:
            return
        self.cursor.executemany(compiled.text, cast("list[list[Parameter]]", values))

    def all(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> list[Row]:
        """Return every row of a query."""
        text, values = statement.bind(self.dialect, parameters or {})
        self.cursor.execute(text, values)
        return self.cursor.fetchall()

    def one(self, statement: Statement, parameters: Mapping[str, object] | None = None) -> Row | None:
        """Return the first row of a query, None where there is none."""
        text, values = statement.bind(self.dialect, parameters or {})
        self.cursor.execute(text, values)
        return self.cursor.fetchone()

    def moved(self, queue: str, before: str | None, after: str | None) -> None:
        """The counts will say that a job of this queue went from one state to the other; None is outside."""
        if before is not None:
            self.deltas[before, queue] -= 1
        if after is not None:
            self.deltas[after, queue] += 1


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


class Database(ABC):
    """One database, as this process sees it. Opening one does no I/O."""

    dialect: Dialect
    name: str  # as it may be shown
    clock_offset: int = 0

    @abstractmethod
    def write(self, work: Callable[[Transaction], _T]) -> _T:
        """The work is committed as one transaction, tried again as a whole while others are in the way.

        Raises:
            StorageUnavailable: trying again later may help; nothing was written.
            StorageError: it will not; nothing was written.
        """

    @abstractmethod
    def read(self, work: Callable[[Transaction], _T]) -> _T:
        """Return what the work read from one snapshot."""

    @abstractmethod
    def write_unchecked(self, work: Callable[[Transaction], _T]) -> _T:
        """`write`, whatever schema there is."""

    @abstractmethod
    def read_unchecked(self, work: Callable[[Transaction], _T]) -> _T:
        """`read`, whatever schema there is."""

    @abstractmethod
    def has_table(self, tx: Transaction, name: str) -> bool:
        """Tell whether a table of this name exists."""

    @abstractmethod
    def prepare_migration(self, tx: Transaction) -> None:
        """Nobody else migrates before the transaction's end, and there is a place for the tables."""

    def finish_migration(self, tx: Transaction) -> None:  # noqa: B027 - few databases have to
        """Others may migrate, where the transaction's end alone would not let them."""

    @abstractmethod
    def join(self, within: object, work: Callable[[Transaction], _T]) -> _T:
        """The work is part of a transaction of the caller's, which ends as the caller likes.

        Raises:
            ConfigurationError: that is no transaction of this database.
        """

    @abstractmethod
    def tidy(self) -> None:
        """What transactions left for upkeep is done, as far as it is worth it."""

    @abstractmethod
    def clock(self) -> int:
        """Return the database's own time in micros, `clock_offset` included."""

    @abstractmethod
    def among(self, values: Sequence[str] | Sequence[int]) -> Parameter:
        """Return a list as the one parameter that `statements.among` compares with."""

    @abstractmethod
    def tell(self, queues: set[str]) -> None:
        """Servers that wait are told of work in these queues; the transaction that made it has committed."""

    @abstractmethod
    def looks_for_work(self, queues: Sequence[str] | None) -> None:
        """What was told up to now is about to be seen by a claim of these queues."""

    @abstractmethod
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`."""

    @abstractmethod
    def interrupt(self) -> None:
        """See `Storage.interrupt`."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """See `Storage.describe`."""

    @abstractmethod
    def diagnose(self) -> list[Finding]:
        """See `Storage.diagnose`."""

    @abstractmethod
    def close(self) -> None:
        """Every connection is closed; a later transaction raises `StorageError`."""
