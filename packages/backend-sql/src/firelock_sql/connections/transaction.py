"""Transactions. Their statements are readable SQL and are run by the driver's own cursor.

A statement is compiled once per dialect. On the hot path, this takes about half as long as execution by
SQLAlchemy: 8.4 µs instead of 15 µs per job.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from sqlalchemy.engine import Dialect

from firelock_sql.schema.names import PREFIX, TABLES, table_name

Value = str | int | float | bytes | None
Parameter = Value | Sequence[str] | Sequence[int]
Row = tuple[Value, ...]
FreedKeys = tuple[int, str, str]
"""A job that no longer holds its limit keys: seq, queue, lane."""


class Cursor(Protocol):
    """The methods of a driver's cursor (PEP 249) that transactions use."""

    @property
    def rowcount(self) -> int:
        """The number of rows that the last statement changed."""
        ...

    def execute(self, sql: str, parameters: Any = (), /) -> object:  # noqa: ANN401 - in order, or by name
        """Run the statement once."""
        ...

    def executemany(self, sql: str, parameters: Sequence[Any], /) -> object:
        """Run the statement once per row of parameters, before any later statement."""
        ...

    def fetchall(self) -> list[Row]:
        """Return the remaining rows."""
        ...

    def fetchone(self) -> Row | None:
        """Return the next row, or None."""
        ...


@attrs.frozen
class Compiled:
    """A statement in the form that one driver accepts."""

    text: str
    names: tuple[str, ...]  # the names of its parameters, in order
    write_list: Callable[[list[Any]], object] | None  # None: the driver accepts named parameters and lists
    has_list: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "has_list", not {"ids", "seqs"}.isdisjoint(self.names))

    def bind(self, parameters: Mapping[str, object]) -> Any:  # noqa: ANN401 - in the driver's form
        """Return the parameters in the form that the driver accepts."""
        if self.write_list is None:
            return parameters
        values = [parameters[name] for name in self.names]
        if self.has_list:
            return [self.write_list(value) if isinstance(value, list) else value for value in values]
        return values


class Text:
    """A statement that a person could also run in the database's shell.

    Its parameters are written `:name`. `IN :ids` accepts a list of strings, and `IN :seqs` a list of numbers.
    Locking clauses use PostgreSQL's syntax and are removed for SQLite. `INDEXED BY` is used for SQLite and
    MySQL. With the unique `id` and `seq`, it is used only for MySQL, which would otherwise lock rows in
    another order. `NOWAIT` is used only for MySQL: a brief transaction waits for a lock on PostgreSQL, and is
    retried on MySQL. The configured schema and prefix are inserted into the names of the tables.
    """

    def __init__(self, text: str) -> None:
        # The statement is one line, because psycopg caches the parsing of statements with fewer than 4,096
        # characters.
        self._text = " ".join(text.split())
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        """Return the statement in the form that the dialect's driver accepts."""
        # The key identifies the dialect, the driver and the table names.
        key = getattr(dialect, "firelock_key", dialect.name)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._compile(dialect)
        return found

    def _compile(self, dialect: Dialect) -> Compiled:
        text = self._text
        for pattern, written in _WRITTEN[dialect.name]:
            text = re.sub(pattern, written, text)
        quote = dialect.identifier_preparer.quote
        text = _OURS.sub(
            lambda found: table_name(dialect, found[0]) if found[0] in TABLES else quote(found[0]), text
        )
        names: Sequence[str] = _NAMED.findall(text)
        if dialect.name == "sqlite":
            return Compiled(_NAMED.sub("?", text), tuple(names), json.dumps)
        if dialect.name != "postgresql":
            return Compiled(_NAMED.sub("%s", text), tuple(names), _spread)
        if dialect.paramstyle != "numeric_dollar":
            return Compiled(_NAMED.sub(r"%(\1)s", text), tuple(names), None)
        names = list(dict.fromkeys(names))
        return Compiled(_NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", text), tuple(names), list)


def _spread(values: list[Any]) -> tuple[Any, ...]:
    """Return the values for a driver that quotes them; an empty list becomes NULL, which matches no row."""
    return tuple(values) or (None,)


_NAMED = re.compile(r"(?<!:):([a-z_]+)")
_OURS = re.compile(rf"\b{PREFIX}\w+")
_MYSQL = (
    (r" INDEXED BY seq\b", " FORCE INDEX (PRIMARY)"),
    (r" INDEXED BY firelock_lanes\b", " FORCE INDEX (firelock_ready)"),
    (r"^INSERT INTO (.*) ON CONFLICT \(\w+\) DO NOTHING$", r"INSERT IGNORE INTO \1"),
    (r" ON CONFLICT \([\w, ]+\) DO UPDATE SET", " ON DUPLICATE KEY UPDATE"),
    (r"\bexcluded\.(\w+)", r"VALUES(\1)"),
    (r" INDEXED BY (\w+)", r" FORCE INDEX (\1)"),
    (r"FOR NO KEY UPDATE", "FOR UPDATE"),
    (r"FOR (KEY )?SHARE( SKIP LOCKED)?", r"LOCK IN SHARE MODE\2"),
    (r"(\w+) \|\| (:\w+)", r"CONCAT(\1, \2)"),
    (r"(?<!:)\bkey\b", "`key`"),
)
_WRITTEN = {
    "sqlite": (
        (r" FOR (NO KEY UPDATE|UPDATE|KEY SHARE|SHARE)( SKIP LOCKED| NOWAIT)?", ""),
        (r" INDEXED BY (id|seq)\b", ""),
        (r"\bIN (:\w+)", r"IN (SELECT value FROM json_each(\1))"),
    ),
    "postgresql": (
        (r" INDEXED BY \w+", ""),
        (r" NOWAIT\b", ""),
        (r"\bIN (:seqs)", r"= ANY (\1::bigint[])"),
        (r"\bIN (:\w+)", r"= ANY (\1::text[])"),
    ),
    # MySQL accepts SKIP LOCKED only after FOR SHARE, which MariaDB does not support.
    "mysql": (*_MYSQL, (r"LOCK IN SHARE MODE SKIP LOCKED", "FOR SHARE SKIP LOCKED")),
    "mariadb": _MYSQL,
}


def insert_into(table: str, *columns: str) -> Text:
    """Return the statement that inserts a row with these columns; its parameters have the same names."""
    values = ", ".join(f":{name}" for name in columns)
    return Text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})")  # noqa: S608 - names


@attrs.define(eq=False)
class Transaction:
    """An open transaction: its cursor, its time, and the work to do before and after it is committed."""

    cursor: Cursor
    dialect: Dialect
    _began: int | Callable[[], int]  # the start time by the storage's clock, or a function that reads it
    # change in the number of jobs by (state, queue)
    deltas: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    # queues with new work, whose servers are notified after the commit
    woken: set[str] = attrs.field(factory=set)
    freed_keys: list[FreedKeys] = attrs.field(
        factory=list
    )  # jobs that held limit keys and have ended or were requeued
    adds_deltas: bool = False  # True: changes to the counts are inserted as rows of differences
    is_ended: bool = False  # True: the work has only read data, and the transaction is already committed
    has_written: bool = True  # False: only locks were taken, so the commit need not wait for the disk
    skips_own: bool = False  # True: settling reports a job whose row is locked as busy, and does not wait
    skips_all: bool = False  # True: the same applies to the row of every job that settling needs
    checks_locks_first: bool = False  # True: the work checks which rows are locked before it writes any row
    may_repeat: bool = (
        False  # True: repeating the transaction is harmless, so its commit may be its only round trip
    )
    _put: Callable[..., object] = attrs.field(init=False)
    is_again: bool = False  # True: the connection was lost in the first try, which may have been committed
    send_clock_query: Callable[[], object] = lambda: None
    """Reads the storage's clock along with the next query, if it is not known yet."""
    newer: Callable[[Text, Mapping[str, object]], list[Any]] | None = None
    """Runs a query on another connection, if this is a caller's transaction.

    Queries without a lock in such a transaction may see an older state than queries with one.
    """

    @_put.default
    def _choose_put(self) -> Callable[..., object]:
        """Return the function that runs statements without a result.

        Our own cursors send a statement without a result together with the next statement that has a result.
        """
        return getattr(self.cursor, "put", self.cursor.execute)

    @property
    def now(self) -> int:
        """The time at the start of the transaction, in microseconds by the storage's clock."""
        if callable(self._began):
            self._began = self._began()
        return self._began

    def know_now(self, instant: int) -> None:
        """Set the start time, which another query has read from the storage's clock."""
        self._began = instant

    def run(self, statement: Text, **parameters: object) -> None:
        """Run the statement, at the latest before the next one with a result or before the commit."""
        compiled = statement.compiled(self.dialect)
        self._put(compiled.text, compiled.bind(parameters))

    def changed(self, statement: Text, **parameters: object) -> int:
        """Run the statement; return how many rows it changed."""
        self._execute(statement, parameters)
        return self.cursor.rowcount

    def run_many(self, statement: Text, rows: Iterable[Mapping[str, object]]) -> None:
        """Run the statement once per row of parameters, before any later statement."""
        compiled = statement.compiled(self.dialect)
        values = [compiled.bind(row) for row in rows]
        if values:
            self.cursor.executemany(compiled.text, values)

    def all(self, statement: Text, **parameters: object) -> list[Any]:
        """Return all rows of a query."""
        self._execute(statement, parameters)
        return self.cursor.fetchall()

    def all_now(self, statement: Text, **parameters: object) -> list[Any]:
        """Return all rows of a query, including rows committed before the transaction took its locks.

        The query must not have a locking clause. In a caller's transaction, the query may lock the rows that
        it finds, and the gaps where it finds none.
        """
        if self.newer is None:
            return self.all(statement, **parameters)
        compiled = statement.compiled(self.dialect)
        self.cursor.execute(f"{compiled.text} LOCK IN SHARE MODE", compiled.bind(parameters))
        return self.cursor.fetchall()

    def all_known(self, statement: Text, **parameters: object) -> list[Any]:
        """Return all rows of a query without a lock, followed by the rows that a newer snapshot shows.

        Some rows may occur twice. The transaction's own changes are visible only in the first part.
        """
        found = self.all(statement, **parameters)
        return found if self.newer is None else [*found, *self.newer(statement, parameters)]

    def each(self, asked: Sequence[tuple[Text, Mapping[str, object]]]) -> list[list[Any]]:
        """Return all rows of each query, in one round trip if the cursor supports it."""
        compiled = [(statement.compiled(self.dialect), parameters) for statement, parameters in asked]
        together = getattr(self.cursor, "each", None)
        if together is not None:
            answers = together([(one.text, one.bind(parameters)) for one, parameters in compiled])
            return [list(rows) for rows in answers]
        return [self.all(statement, **parameters) for statement, parameters in asked]

    def one(self, statement: Text, **parameters: object) -> Any:  # noqa: ANN401
        """Return the first row of a query; None if no row matches."""
        self._execute(statement, parameters)
        return self.cursor.fetchone()

    def _execute(self, statement: Text, parameters: Mapping[str, object]) -> None:
        compiled = statement.compiled(self.dialect)
        self.cursor.execute(compiled.text, compiled.bind(parameters))

    def moved(self, queue: str, before: str | None, after: str | None, number: int = 1) -> None:
        """Record that jobs in this queue have moved between states; None stands for new or deleted jobs."""
        if before is not None:
            self.deltas[before, queue] -= number
        if after is not None:
            self.deltas[after, queue] += number
