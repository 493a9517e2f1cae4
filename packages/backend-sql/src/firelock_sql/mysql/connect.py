"""Connections to MySQL or MariaDB: the product, the session settings, and the meaning of errors."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import Any, cast

import attrs
from sqlalchemy import FromClause, Index, Table
from sqlalchemy.dialects.mysql.base import MySQLCompiler, MySQLDDLCompiler
from sqlalchemy.dialects.mysql.mariadb import loader
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from firelock.storage import StorageError
from firelock_sql.connections.server_database import Failure, Meaning
from firelock_sql.schema.names import Names, set_names

# The first versions with SKIP LOCKED, without which concurrent claims block each other.
_OLDEST = {"MySQL": (8, 0, 1), "MariaDB": (10, 6, 0)}
_SINCE = {"MySQL": "8.0.1", "MariaDB": "10.6"}
# These products use MySQL's protocol, but they lock rows differently or not at all. Claims require MySQL's
# row locks.
_OTHER_PRODUCTS = (
    "TiDB", "Vitess", "SingleStore", "MemSQL", "OceanBase", "Dolt", "StarRocks", "Doris", "ClickHouse",
    "Databend", "GreptimeDB", "Manticore", "PlanetScale",
)  # fmt: skip
_SORTED_DOWN = (10, 8, 0)
_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@attrs.frozen
class Product:
    """A server that Firelock supports."""

    name: str  # "MySQL" or "MariaDB"
    version: tuple[int, ...]
    text: str  # the version as the server reports it, without its build

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the product."""
        return self.name.lower()

    @property
    def sorts_down(self) -> bool:
        """Whether an index can be in descending order, as the index for claims requires."""
        return self.name == "MySQL" or self.version >= _SORTED_DOWN

    def __str__(self) -> str:
        """Return the name and the version."""
        return f"{self.name} {self.text}"


def read_product(version: str, comment: str) -> Product:
    """Return the product with this VERSION() and @@version_comment.

    Raises:
        StorageError: If the server is too old or is another product.
    """
    text = f"{version} {comment}"
    for other in _OTHER_PRODUCTS:
        if other.lower() in text.lower():
            raise StorageError(f"The server must be MySQL or MariaDB, got {other} ({version}).")
    name = "MariaDB" if "mariadb" in text.lower() else "MySQL"
    # For old clients, MariaDB before 11 reports version 5.5.5, followed by its real version.
    found = _NUMBERS.search(version.removeprefix("5.5.5-") if name == "MariaDB" else version)
    if found is None:
        raise StorageError(f"Unknown server version {version!r}. Use MySQL or MariaDB.")
    numbers = tuple(int(number or 0) for number in found.groups())
    if numbers < _OLDEST[name]:
        raise StorageError(
            f"{name} must be version {_SINCE[name]} or newer, because Firelock requires SKIP LOCKED; got "
            f"{found[0]}. Upgrade the server, or use another storage."
        )
    return Product(name, numbers, found[0])


_SEVERAL = 1 << 16  # CLIENT_MULTI_STATEMENTS
_ASKED = "SELECT VERSION(), @@version_comment, @@SESSION.sql_mode, @@SESSION.character_set_client"
# Transactions are retried for longer than this. MySQL cannot shorten the timeout for a single statement.
_LOCK_SECONDS = {"MariaDB": 2, "MySQL": 1}
_SESSION = "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
# This is a separate statement, because the variable's name differs between the products.
_LEVEL = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
# This setting ends transactions of processes that hang or are disconnected, because others need the locked
# rows. MySQL has no timeout that applies only to transactions, so idle connections are also closed. They are
# reopened when they are needed.
_IDLE = {"MariaDB": "idle_transaction_timeout = 10", "MySQL": "wait_timeout = 60"}


def set_up(driver: Any, *, is_own: bool) -> Product:  # noqa: ANN401 - any driver's connection
    """Set up our own new connection, or check a caller's; return the product.

    Raises:
        StorageError: If the server is unsupported, or if the session would truncate or damage strings.
    """
    cursor = driver.cursor()
    cursor.execute(_ASKED)
    version, comment, mode, charset = map(str, cursor.fetchone())
    product = read_product(version, comment)
    if is_own:
        waits = f"innodb_lock_wait_timeout = {_LOCK_SECONDS[product.name]}"
        cursor.execute(f"{_SESSION}, {waits}, {_IDLE[product.name]}")
        cursor.execute(_LEVEL)
    else:
        _require(mode, charset)
    cursor.close()
    return product


def _require(mode: str, charset: str) -> None:
    if "STRICT_TRANS_TABLES" not in mode and "STRICT_ALL_TABLES" not in mode:
        raise StorageError(
            f"The engine's sessions have sql_mode={mode!r}, in which too long strings are truncated without "
            "an error. Add STRICT_TRANS_TABLES on the server or in the engine's connections, or pass a URL."
        )
    if charset != "utf8mb4":
        raise StorageError(
            f"The engine's sessions must use the character set utf8mb4, got {charset!r}. Add "
            "?charset=utf8mb4 to the engine's URL, or pass the URL to Firelock."
        )


def runs_several(driver: Any) -> bool:  # noqa: ANN401 - any driver's connection
    """Return whether the connection accepts several statements at a time; False if this is unknown.

    It is unknown for mysqlclient.
    """
    return bool(getattr(driver, "client_flag", 0) & _SEVERAL)


# Errors for a deadlock, a lock timeout, a key that another transaction has written, or a row or a table that
# has changed since the snapshot. Galera also reports conflicts of a commit as deadlocks.
_LOCK_TIMEOUT = 1205
# The error when a savepoint is used after a deadlock, which has rolled back the transaction and all its
# savepoints.
_DOES_NOT_EXIST, _SAVEPOINT = 1305, "SAVEPOINT"
_LOCKED = frozenset({_LOCK_TIMEOUT, 3572})
_CONFLICTS = frozenset({1213, _LOCK_TIMEOUT, 1062, 1020, 1412, 3572})
_LOST = frozenset({0, 1053, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2014, 2055, 3169, 4031})
# Errors of a server that has too many connections, is out of resources, is read-only during a failover, or
# has stopped a statement because of a limit.
_PASSING = frozenset(
    {1021, 1037, 1038, 1040, 1041, 1047, 1114, 1129, 1203, 1226, 1290, 1305, 1317, 1836, 1969, 2002, 2003,
     2005, 3024}
)  # fmt: skip
# The server refused the write or the connection: it is full, read-only or out of connections.
_REFUSED = frozenset({1021, 1037, 1038, 1040, 1041, 1114, 1129, 1203, 1226, 1290, 1836, 2002, 2003, 2005})
_FULL = frozenset({1021, 1114})
_NO_SPACE = "No space left on device"  # the operating system's message, which the server quotes
_HINTS = {
    1021: "free space on the server's disk",
    1040: "decrease ?pool_size=, or increase max_connections",
    1044: "check the privileges of the user: GRANT ALL ON database.* TO user",
    1045: "check the user name and password, and the hosts from which this user may connect",
    1049: "create the database, or use another one",
    1114: "free space for the table on the server",
    1129: "run mariadb-admin flush-hosts or mysqladmin flush-hosts",
    1142: "check the privileges of the user, and run firelock migrate as a user that may create tables",
    1146: "run firelock migrate",
    1153: "increase max_allowed_packet on the server, or store less data in a job",
    1203: "decrease ?pool_size=, or increase max_user_connections",
    1290: "the server does not accept writes: it is a replica, or is becoming one",
    1665: "set binlog_format=ROW on the server",
    1836: "the server does not accept writes: it is a replica, or is becoming one",
}
# Our own messages for errors whose original messages contain values or too little information.
_SENTENCES = {
    0: "the connection is closed",
    1062: "another transaction has written the same key",
    1305: "a deadlock has rolled back the caller's whole transaction; run it again",
    1366: "the database cannot store a character of this call",
    1406: "a value is too long for its column",
}
_SHOWN_IN_FULL = frozenset(
    {*_HINTS, 1041, 1047, 1053, 1205, 1213, 1226, 1317, 1927, 1969, 2002, 2003, 2005, 2006, 2013,
     3024, 4031}
)  # fmt: skip
_QUOTED = re.compile(r"(?:'.*'|\".*\")", re.DOTALL)


def read_failure(error: BaseException) -> Failure | None:
    """Return the meaning of an error of a driver; None for any other error."""
    if isinstance(error, DBAPIError) and error.orig is not None:  # an error in the engine's first queries
        return read_failure(error.orig)
    if isinstance(error, RuntimeError) and "cryptography" in str(error):
        text = (
            "the server's password authentication requires an additional package: "
            'run pip install "pymysql[rsa]", or use TLS.'
        )
        return Failure(Meaning.LASTING, text)
    if not _is_of_driver(error):
        return None
    number, message = _parts(error)
    is_full = number in _FULL or _NO_SPACE in message
    if number == _DOES_NOT_EXIST and _SAVEPOINT not in message:  # for example, a missing function
        return Failure(Meaning.LASTING, f"{message.rstrip('.')} (error {number}).")
    return Failure(
        Meaning.PASSING if is_full else _meaning(error, number), _text(number, message),
        is_lock=number in _LOCKED, is_refusal=is_full or number in _REFUSED,
    )  # fmt: skip


def is_lock_timeout(error: BaseException) -> bool:
    """Return whether the error is a lock timeout."""
    return _is_of_driver(error) and _parts(error)[0] == _LOCK_TIMEOUT


def _is_of_driver(error: BaseException) -> bool:
    loaded = (sys.modules.get(name) for name in ("pymysql", "MySQLdb", "asyncmy.errors"))
    return any(module is not None and isinstance(error, module.MySQLError) for module in loaded)


def _parts(error: BaseException) -> tuple[int | None, str]:
    number, *rest = [*error.args, None]
    if isinstance(number, int):
        return number, str(rest[0] or "")
    return None, str(number or "")


def _meaning(error: BaseException, number: int | None) -> Meaning:
    if number in _CONFLICTS:
        return Meaning.CONFLICT
    if number in _LOST or type(error).__name__ == "InterfaceError":
        return Meaning.LOST
    return Meaning.PASSING if number in _PASSING else Meaning.LASTING


def _text(number: int | None, message: str) -> str:
    """Return a one-line message without the parts of the statement that the server quotes."""
    if number in _SENTENCES:
        line = _SENTENCES[number]
    else:
        shown = message if number in _SHOWN_IN_FULL else _QUOTED.sub("'…'", message)
        line = next(iter(shown.strip().splitlines()), "").rstrip(".") or "an error without a message"
    hint = _HINTS.get(number or -1, "")
    code = "" if number is None or number in _SENTENCES else f" (error {number})"
    return f"{line}{code}{'; ' if hint else ''}{hint}."


DRIVERS = frozenset({"pymysql", "mysqldb", "aiomysql", "asyncmy"})


class _MysqlCompiler(MySQLCompiler):
    """A compiler that forces the use of named indexes, because statistics of a queue are always outdated."""

    @override
    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return None if text is None else f"FORCE INDEX ({self.preparer.quote(text)})"


class _MysqlTables(MySQLDDLCompiler):
    """A compiler that creates a table and its indexes with one statement, which is atomic."""

    @override
    def create_table_constraints(self, table: Table, **options: Any) -> str:  # type: ignore[override]
        from firelock_sql.schema.tables import is_of  # noqa: PLC0415 - loads every dialect

        made = super().create_table_constraints(table, **options)  # type: ignore[no-untyped-call]
        indexes = [index for index in table.indexes if is_of(index, self.dialect.name)]
        return ", \n\t".join([made, *(self._index(index) for index in sorted(indexes, key=_name))])

    def _index(self, index: Index) -> str:
        self._verify_index_table(index)
        columns = (
            self.sql_compiler.process(column, include_table=False, literal_binds=True)
            for column in cast("Any", index.expressions)
        )
        return f"INDEX {self._prepared_index_name(index)} ({', '.join(columns)})"


def _name(index: Index) -> str:
    return str(index.name)


class _MySQL(MySQLDialect_pymysql):
    statement_compiler = _MysqlCompiler  # type: ignore[assignment]  # the base has an empty one
    ddl_compiler = _MysqlTables
    makes_indexes_with_tables = True
    supports_statement_cache = False


class _MariaDB(loader("pymysql")):  # type: ignore[misc]  # created by a function
    statement_compiler = _MysqlCompiler
    ddl_compiler = _MysqlTables
    makes_indexes_with_tables = True
    supports_statement_cache = False


@lru_cache(maxsize=64)
def dialect_of(product: str, names: Names) -> Dialect:
    """Return the dialect of "mysql" or "mariadb" for tables with these names."""
    dialect: Dialect = (_MariaDB if product == "mariadb" else _MySQL)(paramstyle="format")
    set_names(dialect, names)
    return dialect


NOT_WAITING = {"mariadb": "SET STATEMENT innodb_lock_wait_timeout = 0 FOR ", "mysql": ""}
"""The prefix of a change that must fail immediately if another transaction has locked a row.

If it were set for the whole transaction, queries with SKIP LOCKED would fail instead of skipping locked rows,
at least on MariaDB 11.
"""

CLOCK = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))"
"""The start time of the statement in microseconds, regardless of the session's time zone."""
