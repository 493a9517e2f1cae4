"""Connections to PostgreSQL: poolers, timeouts, the meaning of errors, and the format of arrays.

A pooler such as PgBouncer may give a client another server connection for each transaction. In this case, the
state of a session is lost or visible to another client. A pooler is detected by process ids: when a
connection starts, a server sends its process id for cancel requests, but a pooler sends another id. For error
codes, see appendix A of PostgreSQL's documentation.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import Dialect
from typing_extensions import override

from firelock.storage import StorageError
from firelock_sql.connections.server_database import Failure, Meaning
from firelock_sql.schema.names import Names, set_names

# Codes for a serialization failure, a deadlock, a lock timeout, or a unique key that another transaction has
# written.
LOCKED = "55P03"
_CONFLICTS = frozenset({"40001", "40P01", LOCKED, "23505"})
_LOST_CLASSES = frozenset({"08"})
_LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
# Codes for a lack of resources, a canceled statement, a system error, or a read-only server during a
# failover.
_PASSING_CLASSES = frozenset({"53", "57", "58", "55"})
_NO_ROOM_CLASS, _DISK_FULL, _READ_ONLY = "53", "53100", "25006"
_PASSING = frozenset({_READ_ONLY, "25P02", "0A000"})
_HINTS = {
    "28P01": "check the user name and password",
    "28000": "check the user name, and whether pg_hba.conf on the server allows this user to connect",
    "3D000": "create the database, or use another one",
    "42501": "grant the permission to this role (see docs/sql.md), and run firelock migrate as the owner",
    "42P01": "run firelock migrate",
    "3F000": "create the schema, or run firelock migrate as a role with permission to create it",
    "25006": "the server does not accept writes: it is a standby, or is becoming one",
}

# Codes for a prepared statement that does not exist or whose name is in use: a pooler has switched the server
# connection.
UNPREPARED = frozenset({"26000", "42P05"})
_UNPREPARED_HINT = "for asyncpg behind a pooler, use the settings in docs/sql.md"

_NEVER_CONNECTED = ("connection failed", "connection is bad", "connection timeout", "failed to resolve host")
_NOISE = (
    re.compile(r"^connection (failed|is bad): "),
    re.compile(r"^connection to server .* failed: FATAL: +"),  # our message starts with the URL
)
# Messages for refused connections that cannot succeed until a person changes something. Messages in languages
# other than English do not match, so these connections are retried.
_REFUSALS = (
    ("password authentication failed|SASL authentication failed", _HINTS["28P01"]),
    ("no password supplied", "add one to the URL or to a password file"),
    ("no pg_hba.conf entry|pg_hba.conf rejects|not permitted to log in", _HINTS["28000"]),
    ("authentication failed|role .* does not exist|no such user", _HINTS["28000"]),
    ("database .* does not exist|no such database", _HINTS["3D000"]),
    ("permission denied for database", "grant CONNECT as described in docs/sql.md"),
    ("but SSL was required", "install a certificate on the server, or add ?sslmode=disable to the URL"),
    ("certificate", "check sslrootcert and the names in the server's certificate"),
    (
        "invalid response to SSL|expected authentication request",
        "check the host and port, because this is not a PostgreSQL server",
    ),
    ("^connection is bad: invalid ", "check the options of the URL"),
)
_ADVICE = (
    ("Connection refused|No such file", "check whether the server runs and listens at this address"),
    ("resolve host|translate host", "check the host name"),
    ("timeout", "check the host name, and whether a firewall blocks the connection"),
    (
        "too many (clients|connections)|connection slots|no more connections",
        "decrease ?pool_size=, or increase max_connections",
    ),
    ("during recovery|hot standby|session is read-only", _HINTS["25006"]),
)


def read_failure(error: BaseException) -> Failure | None:
    """Return the meaning of an error of psycopg; None for any other error."""
    if isinstance(error, psycopg.errors.PipelineAborted) and isinstance(error.__context__, psycopg.Error):
        error = error.__context__  # the original error
    if isinstance(error, psycopg.Error):
        code = error.sqlstate
        meaning = _meaning(error, code)
        has_no_connection = code is None and meaning is Meaning.PASSING
        return Failure(
            meaning, _text(error, code), is_lock=code == LOCKED,
            is_refusal=has_no_connection or _is_refused(code), is_logged=code == _DISK_FULL,
        )  # fmt: skip
    return _of_another_driver(error)


def _of_another_driver(error: BaseException) -> Failure | None:
    """Return the meaning of an error on a caller's asyncpg or psycopg2 connection; None for other errors."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if not isinstance(code, str):
        return None
    meaning = Meaning.CONFLICT if code in _CONFLICTS else Meaning.LASTING
    if code[:2] in _PASSING_CLASSES | _LOST_CLASSES:
        meaning = Meaning.PASSING
    hint = _UNPREPARED_HINT if code in UNPREPARED else _HINTS.get(code, "")
    text = f"error {code} of the caller's connection{'; ' if hint else ''}{hint}."
    return Failure(meaning, text, is_refusal=_is_refused(code), is_logged=code == _DISK_FULL)


def _is_refused(code: str | None) -> bool:
    """Return whether the server refused the write because it is out of resources or read-only."""
    return code is not None and (code[:2] == _NO_ROOM_CLASS or code == _READ_ONLY)


def _meaning(error: psycopg.Error, code: str | None) -> Meaning:
    if code is None:
        return _meaning_without_code(error)
    if code in _CONFLICTS | UNPREPARED:
        return Meaning.CONFLICT
    if code in _LOST or code[:2] in _LOST_CLASSES:
        return Meaning.LOST
    if code in _PASSING or code[:2] in _PASSING_CLASSES:
        return Meaning.PASSING
    return Meaning.LASTING


def _meaning_without_code(error: psycopg.Error) -> Meaning:
    """Return the meaning of an error from libpq, which has no code if no connection was established."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Meaning.LASTING
    message = _first_line(error)
    if not message.startswith(_NEVER_CONNECTED):
        return Meaning.LOST
    return Meaning.LASTING if _refusal(message) else Meaning.PASSING


def _text(error: psycopg.Error, code: str | None) -> str:
    """Return the server's one-line message without its details, which might contain values."""
    message = error.diag.message_primary or _first_line(error)
    hint = _HINTS.get(code or "") or _refusal(message) or _advice(message, _ADVICE)
    for noise in _NOISE:
        message = noise.sub("", message)
    return f"{message.rstrip('.')}{'; ' if hint else ''}{hint}."


def _first_line(error: psycopg.Error) -> str:
    """Return the first line, which is about the last host that was tried."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _refusal(message: str) -> str:
    return _advice(message, _REFUSALS)


def _advice(message: str, known: Sequence[tuple[str, str]]) -> str:
    return next((advice for pattern, advice in known if re.search(pattern, message)), "")


log = logging.getLogger(__name__)

OLDEST = 13
_ASK = "SELECT pg_backend_pid(), version()"
_MAJOR = 10_000  # divisor for libpq's version numbers: 150004 is 15.4
_SIMILAR = {"-YB-": "YugabyteDB", "Redshift": "Redshift", "Greenplum": "Greenplum", "QuestDB": "QuestDB"}


class ConnectionPath:
    """The path from this process to a server, which may include a pooler; the first connection checks it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.is_pooled: bool | None = None  # None: no connection was opened so far

    def set_up(self, driver: Any) -> None:  # noqa: ANN401 - a psycopg connection with any rows
        """Set up a new connection, which is in autocommit mode; this takes a round trip for the first one.

        Raises:
            StorageError: If Firelock does not support this server.
        """
        if self.is_pooled is None:
            self._learn(driver)
        if self.is_pooled:
            driver.prepare_threshold = None

    def _learn(self, driver: Any) -> None:  # noqa: ANN401 - see above
        cursor = driver.execute(_ASK)
        pid, version = cursor.fetchone()
        require_usable(self._name, version, driver.info.server_version)
        is_pooled = pid != driver.info.backend_pid
        self.is_pooled = is_pooled
        if is_pooled:
            log.info(
                "Detected a pooler between this process and %s; no statements are prepared, and servers find "
                "work by polling.",
                self._name,
            )


def require_usable(name: str, version: str, number: int) -> None:
    """Check that the server is PostgreSQL, and new enough.

    Raises:
        StorageError: If it is another database that uses PostgreSQL's protocol, or if it is too old.
    """
    other = next((product for mark, product in _SIMILAR.items() if mark in version), None)
    if other is None and not version.startswith("PostgreSQL "):
        other = version.partition(" ")[0] or "an unknown database"
    if other is not None:
        raise StorageError(
            f"{name}: the server is {other}, which uses PostgreSQL's protocol but locks rows differently. "
            "Jobs would not be safe in it. Use PostgreSQL."
        )
    if number < OLDEST * _MAJOR:
        found = version.split(" ")[1].rstrip(",")
        raise StorageError(
            f"{name}: Firelock requires PostgreSQL {OLDEST} or newer, got PostgreSQL {found}. Upgrade the "
            "server."
        )


class ReplyTimeoutConnection(psycopg.Connection[Any]):
    """A connection that is closed when a reply takes too long, unless `has_no_timeout` is set."""

    reply_seconds: ClassVar[float]
    has_no_timeout = False

    @override
    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **named: Any) -> Any:
        return super().wait(self._limited(gen), *args, **named)

    def _limited(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Run the generator until it returns or the timeout expires.

        Raises:
            OperationalError: If no reply arrives in time. The timeout is detected because psycopg resumes the
                generator from time to time even without a reply.
        """
        deadline = time.monotonic() + self.reply_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and not self.has_no_timeout and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(
                        f"connection timeout: no reply within {self.reply_seconds:g} s"
                    )
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def connection_class(seconds: float) -> type[ReplyTimeoutConnection]:
    """Return the class of connections with this timeout."""
    return type("ReplyTimeoutConnection", (ReplyTimeoutConnection,), {"reply_seconds": seconds})


DRIVERS = {
    "psycopg": PGDialect_psycopg,
    "psycopg_async": PGDialect_psycopg,
    "psycopg2": PGDialect_psycopg2,
    "asyncpg": PGDialect_asyncpg,
}


@lru_cache(maxsize=64)
def dialect_of(driver: str, names: Names) -> Dialect:
    """Return the dialect of this driver for tables with these names."""
    kind = DRIVERS[driver]
    is_numbered = kind is PGDialect_asyncpg
    dialect: Dialect = kind(paramstyle="numeric_dollar" if is_numbered else "format")
    set_names(dialect, names)
    return dialect


def text_array(values: Sequence[str | None]) -> str:
    """Return strings as one string that can be cast to text[]."""
    if None not in values:  # usually no value needs escaping, and this way is five times as fast
        joined = '","'.join(values)  # type: ignore[arg-type]  # no value is None
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return f'{{"{joined}"}}'
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def number_array(values: Sequence[int | None]) -> str:
    """Return numbers as one string that can be cast to bigint[] or integer[]."""
    return "{" + ",".join(["NULL" if value is None else str(int(value)) for value in values]) + "}"
