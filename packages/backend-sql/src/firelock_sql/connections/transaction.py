"""Transactions, whose statements are texts that a person can read, run by the driver's own cursor.

A text is compiled once a dialect. That costs half of what SQLAlchemy's execution would (8.4 against 15 µs a
job in the hot path).
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
LetGo = tuple[int, str, str]
"""A job that holds its keys no more: seq, queue, lane."""


class Cursor(Protocol):
    """The part of a driver's cursor (PEP 249) that is used."""

    @property
    def rowcount(self) -> int:
        """Return how many rows the last statement changed."""
        ...

    def execute(self, sql: str, parameters: Any = (), /) -> object:  # noqa: ANN401 - in order, or by name
        """The statement has run once."""
        ...

    def executemany(self, sql: str, parameters: Sequence[Any], /) -> object:
        """The statement runs once for each row of parameters, before any that is executed after it."""
        ...

    def fetchall(self) -> list[Row]:
        """Return the rows that are left."""
        ...

    def fetchone(self) -> Row | None:
        """Return the next row."""
        ...


@attrs.frozen
class Compiled:
    """A text as one driver takes it."""

    text: str
    names: tuple[str, ...]  # of its parameters, in their order
    write_list: Callable[[list[Any]], object] | None  # None: the driver takes parameters by name, and lists
    has_list: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "has_list", not {"ids", "seqs"}.isdisjoint(self.names))

    def bind(self, parameters: Mapping[str, object]) -> Any:  # noqa: ANN401 - as the driver takes them
        """Return the parameters as the driver takes them."""
        if self.write_list is None:
            return parameters
        values = [parameters[name] for name in self.names]
        if self.has_list:
            return [self.write_list(value) if isinstance(value, list) else value for value in values]
        return values


class Text:
    """A statement as a person can run it in the database's shell.

    Its parameters are written `:name`; `IN :ids` takes a list (of numbers, where it is named `:seqs`). Locks
    are PostgreSQL's, of which SQLite has none. `INDEXED BY` is told to SQLite and MySQL, and of the unique
    `id` and `seq` to MySQL alone, where rows would be locked in another order else. `NOWAIT` is told to MySQL
    alone, too: a brief transaction waits for a lock on PostgreSQL, and is tried again on MySQL. A schema and
    a prefix of the user's choice replace those of its tables.
    """

    def __init__(self, text: str) -> None:
        # On one line: psycopg remembers how it read texts of less than 4,096 characters.
        self._text = " ".join(text.split())
        self._compiled: dict[str, Compiled] = {}

    def compiled(self, dialect: Dialect) -> Compiled:
        """Return it as the dialect's driver takes it."""
        # What tells the texts of one dialect, driver and set of names from those of others.
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
    """The driver writes the values, each one quoted; among none there is nothing, not even NULL."""
    return tuple(values) or (None,)


_NAMED = re.compile(r"(?<!:):([a-z_]+)")
_OURS = re.compile(rf"\b{PREFIX}\w+")
_MYSQL = (
    (r" INDEXED BY seq\b", " FORCE INDEX (PRIMARY)"),
    (r" INDEXED BY firelock_lanes\b", " FORCE INDEX (firelock_ready)"),
    (r"^INSERT INTO (.*) ON CONFLICT \(\w+\) DO NOTHING$", r"INSERT IGNORE INTO \1"),
    (r" ON CONFLICT \(\w+\) DO UPDATE SET", " ON DUPLICATE KEY UPDATE"),
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
    # It takes SKIP LOCKED behind another word for the same, which MariaDB does not know.
    "mysql": (*_MYSQL, (r"LOCK IN SHARE MODE SKIP LOCKED", "FOR SHARE SKIP LOCKED")),
    "mariadb": _MYSQL,
}


def insert_into(table: str, *columns: str) -> Text:
    """Return the statement that stores one row with these columns, whose names are its parameters' names."""
    values = ", ".join(f":{name}" for name in columns)
    return Text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})")  # noqa: S608 - names


@attrs.define(eq=False)
class Transaction:
    """One transaction under way: a cursor, one instant, and what is owed at its end."""

    cursor: Cursor
    dialect: Dialect
    _began: int | Callable[[], int]  # the storage's clock when it began, or who asks for it
    deltas: Counter[tuple[str, str]] = attrs.field(factory=Counter)  # (state, queue): jobs more or fewer
    woken: set[str] = attrs.field(factory=set)  # queues with new work, told after the commit
    let_go: list[LetGo] = attrs.field(factory=list)  # what ended or went back, and held keys of limits
    adds_deltas: bool = False  # counts are the sum of what transactions added
    is_ended: bool = False  # committed by the work itself, which has only read
    has_written: bool = True  # False: only locks, whose end need not wait for the disk
    skips_own: bool = False  # a settle whose job's row others have locked is busy; it is not waited for
    skips_all: bool = False  # likewise for every job's row that a settle needs
    parts_first: bool = False  # which rows others have locked is found out before any is written
    may_repeat: bool = False  # done twice it does no harm: its only round trip may be its commit
    _put: Callable[..., object] = attrs.field(init=False)
    is_again: bool = False  # the connection was lost at the first try, nobody knows before what
    ask_now: Callable[[], object] = lambda: None
    """Reads the storage's clock along with the next query, if it is not known yet."""
    newer: Callable[[Text, Mapping[str, object]], list[Any]] | None = None
    """Asks another connection: this transaction is a caller's, whose queries without a lock may see what was
    before those with one."""

    @_put.default
    def _what_waits(self) -> Callable[..., object]:
        """Return what takes a statement that nobody waits for: cursors of ours send it with the next one."""
        return getattr(self.cursor, "put", self.cursor.execute)

    @property
    def now(self) -> int:
        """Return the storage's clock when it began."""
        if callable(self._began):
            self._began = self._began()
        return self._began

    def know_now(self, instant: int) -> None:
        """Another question has brought the storage's clock along."""
        self._began = instant

    def run(self, statement: Text, **parameters: object) -> None:
        """The statement runs, at the latest before any that is to answer, and before the commit."""
        compiled = statement.compiled(self.dialect)
        self._put(compiled.text, compiled.bind(parameters))

    def changed(self, statement: Text, **parameters: object) -> int:
        """The statement has run; return how many rows it changed."""
        self._execute(statement, parameters)
        return self.cursor.rowcount

    def run_many(self, statement: Text, rows: Iterable[Mapping[str, object]]) -> None:
        """The statement runs once a row of parameters, before any that comes after it."""
        compiled = statement.compiled(self.dialect)
        values = [compiled.bind(row) for row in rows]
        if values:
            self.cursor.executemany(compiled.text, values)

    def all(self, statement: Text, **parameters: object) -> list[Any]:
        """Return every row of a query."""
        self._execute(statement, parameters)
        return self.cursor.fetchall()

    def all_now(self, statement: Text, **parameters: object) -> list[Any]:
        """Return every row of a query as they are behind the locks that the transaction has.

        The query is a plain one, without a lock; in a caller's transaction it may have to take one, and lock
        the room between rows where there are none.
        """
        if self.newer is None:
            return self.all(statement, **parameters)
        compiled = statement.compiled(self.dialect)
        self.cursor.execute(f"{compiled.text} LOCK IN SHARE MODE", compiled.bind(parameters))
        return self.cursor.fetchall()

    def all_known(self, statement: Text, **parameters: object) -> list[Any]:
        """Return every row of a query, without a lock; behind them the newer ones, some of them again.

        What the transaction has changed itself is in the former alone.
        """
        found = self.all(statement, **parameters)
        return found if self.newer is None else [*found, *self.newer(statement, parameters)]

    def each(self, asked: Sequence[tuple[Text, Mapping[str, object]]]) -> list[list[Any]]:
        """Return every row of each of several queries, in one round trip where the cursor can."""
        compiled = [(statement.compiled(self.dialect), parameters) for statement, parameters in asked]
        together = getattr(self.cursor, "each", None)
        if together is not None:
            answers = together([(one.text, one.bind(parameters)) for one, parameters in compiled])
            return [list(rows) for rows in answers]
        return [self.all(statement, **parameters) for statement, parameters in asked]

    def one(self, statement: Text, **parameters: object) -> Any:  # noqa: ANN401
        """Return the first row of a query, None where there is none."""
        self._execute(statement, parameters)
        return self.cursor.fetchone()

    def _execute(self, statement: Text, parameters: Mapping[str, object]) -> None:
        compiled = statement.compiled(self.dialect)
        self.cursor.execute(compiled.text, compiled.bind(parameters))

    def moved(self, queue: str, before: str | None, after: str | None, number: int = 1) -> None:
        """The counts will say that jobs of this queue went from one state to the other; None is outside."""
        if before is not None:
            self.deltas[before, queue] -= number
        if after is not None:
            self.deltas[after, queue] += number
