"""Descriptions and checks of a database server, for the start of a Firelock server and `firelock doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from firelock.storage import Finding, SchemaState, Severity

if TYPE_CHECKING:
    from firelock_sql.connections.transaction import Cursor
    from firelock_sql.mysql.connect import Product

_TESTED = "MariaDB"
_SETTINGS = (
    "innodb_flush_log_at_trx_commit", "innodb_doublewrite", "sync_binlog", "log_bin", "binlog_format",
    "max_allowed_packet", "read_only", "super_read_only", "wsrep_on",
)  # fmt: skip
_ASK_SETTINGS = "SHOW GLOBAL VARIABLES WHERE Variable_name IN %s"
_ASK_HISTORY = "SHOW GLOBAL STATUS LIKE 'Innodb_history_list_length'"
_ASK_LONGEST = (
    "SELECT TIMESTAMPDIFF(SECOND, trx_started, NOW()), trx_mysql_thread_id"
    " FROM information_schema.innodb_trx ORDER BY trx_started LIMIT 1"
)
_MEGABYTE = 1024 * 1024
_SMALL_PACKET = 16 * _MEGABYTE
_LONG_HISTORY = 100_000
_LONG_TRANSACTION_SECONDS = 60
_CLOCK_MICROS = 2_000_000

Settings = Mapping[str, str]
"""The relevant settings of the server by name, without those that the server does not know."""


def read_settings(cursor: Cursor) -> Settings:
    """Return the server's settings."""
    cursor.execute(_ASK_SETTINGS, [_SETTINGS])
    return {str(name): str(value) for name, value in cursor.fetchall()}


def read_history_length(cursor: Cursor) -> int | None:
    """Return how many old row versions the server still keeps; None if it does not report it."""
    cursor.execute(_ASK_HISTORY)
    found: Any = cursor.fetchone()
    _, length = found or (None, None)
    return None if length is None else int(length)


def read_longest(cursor: Cursor) -> tuple[int, int] | None:
    """Return the age in seconds of the oldest transaction, and the id of its connection."""
    cursor.execute(_ASK_LONGEST)
    found: Any = cursor.fetchone()
    if found is None:
        return None
    seconds, connection = found
    return int(seconds or 0), int(connection)


def describe(name: str, product: Product, settings: Settings, wake: str) -> Mapping[str, str]:
    """Return a description of the server and its settings."""
    is_tested = product.name == _TESTED
    return {
        "storage": name,
        "server": str(product) if is_tested else f"{product}; Firelock is tested on {_TESTED} only",
        "durability": _durability(settings),
        "wake": wake,
    }


def _durability(settings: Settings) -> str:
    match settings.get("innodb_flush_log_at_trx_commit"):
        case "1":
            return "full: acknowledged data is on the server's disk"
        case "2":
            return "a power failure, but not a crash of the server, may lose the commits of the last second"
        case _:
            return "a crash of the server may lose the commits of the last second"


@attrs.frozen
class Observed:
    """The measurements that `diagnose` evaluates."""

    product: Product
    settings: Settings
    schema: SchemaState
    clock_difference: int  # microseconds by which the server's clock is ahead of this machine's
    history_length: int | None  # number of old row versions, if the server reports it
    longest: tuple[int, int] | None  # the result of `read_longest`, if the user is allowed to see it


def diagnose(seen: Observed) -> list[Finding]:
    """Return a finding for each problem of this server, with its fix."""
    return [
        *_of_product(seen.product),
        *_of_durability(seen.settings),
        *_of_working(seen.settings),
        *_of_schema(seen.schema),
        *_of_clock(seen.clock_difference),
        *_of_age(seen.history_length, seen.longest),
    ]


def _of_product(product: Product) -> Iterator[Finding]:
    if product.name != _TESTED:
        yield Finding(
            Severity.NOTE, "mysql_product", f"The server is {product}; Firelock's tests run on {_TESTED}.",
            "Test Firelock with your own jobs, or use MariaDB or PostgreSQL.",
        )  # fmt: skip
    if not product.sorts_down:
        yield Finding(
            Severity.NOTE, "mysql_no_descending_index",
            f"{product} does not support descending indexes, so a claim reads and locks its whole queue.",
            "Upgrade to MariaDB 10.8 or newer, or keep queues short.",
        )  # fmt: skip


def _of_durability(settings: Settings) -> Iterator[Finding]:
    if (level := settings.get("innodb_flush_log_at_trx_commit", "1")) != "1":
        yield Finding(
            Severity.NOTE, "mysql_durability",
            f"innodb_flush_log_at_trx_commit is {level}: {_durability(settings)}.",
            "Set it to 1, unless this is intended.",
        )  # fmt: skip
    if settings.get("log_bin") == "ON" and (number := settings.get("sync_binlog", "1")) != "1":
        yield Finding(
            Severity.NOTE, "mysql_durability",
            f"sync_binlog is {number}: after a power failure, replicas may have fewer or more jobs.",
            "Set it to 1 if you use replicas or restore from the binary log.",
        )  # fmt: skip
    if settings.get("innodb_doublewrite", "ON") == "OFF":
        yield Finding(
            Severity.NOTE, "mysql_durability",
            "innodb_doublewrite is off: a power failure during the write of a page may damage tables.",
            "Set it to ON, unless the file system writes pages atomically.",
        )  # fmt: skip


def _of_working(settings: Settings) -> Iterator[Finding]:
    if settings.get("log_bin") == "ON" and settings.get("binlog_format") == "STATEMENT":
        yield Finding(
            Severity.ERROR, "mysql_binlog_format",
            "binlog_format is STATEMENT, which prevents writes by READ COMMITTED transactions.",
            "Set binlog_format to ROW or MIXED.",
        )  # fmt: skip
    if "ON" in {settings.get("read_only"), settings.get("super_read_only")}:
        yield Finding(
            Severity.ERROR,
            "mysql_read_only",
            "The server is read-only.",
            "Connect to the primary, because a replica cannot run jobs.",
        )
    if int(settings.get("max_allowed_packet", _SMALL_PACKET)) < _SMALL_PACKET:
        size = int(settings["max_allowed_packet"]) // _MEGABYTE
        yield Finding(
            Severity.WARNING, "mysql_max_packet",
            f"max_allowed_packet is {size} MB, so the server refuses batches of jobs with long arguments.",
            "Set it to 16 MB or more.",
        )  # fmt: skip
    if settings.get("wsrep_on") == "ON":
        yield Finding(
            Severity.NOTE, "mysql_galera",
            "The server is a node of a Galera cluster, on which Firelock is not tested.",
            "Use the same node for all servers and clients of Firelock.",
        )  # fmt: skip


def _of_schema(schema: SchemaState) -> Iterator[Finding]:
    if schema.found == 0:
        yield Finding(
            Severity.NOTE,
            "schema_missing",
            "Firelock's tables do not exist yet.",
            "Run firelock migrate, or let the first use create them.",
        )
    elif schema.found < schema.wanted:
        yield Finding(
            Severity.ERROR, "schema_old",
            f"The schema has version {schema.found}, but this firelock-sql requires version {schema.wanted}.",
            "Stop the servers and run firelock migrate.",
        )  # fmt: skip
    elif schema.found > schema.wanted:
        yield Finding(
            Severity.ERROR, "schema_new",
            f"The schema has version {schema.found}, which is newer than version {schema.wanted} of this "
            "firelock-sql.",
            "Upgrade firelock-sql, or use the release that created the schema.",
        )  # fmt: skip


def _of_clock(difference: int) -> Iterator[Finding]:
    if abs(difference) > _CLOCK_MICROS:
        way = "ahead of" if difference > 0 else "behind"
        yield Finding(
            Severity.WARNING, "skew",
            f"The server's clock is {abs(difference) / 1e6:.1f} s {way} this machine's.",
            "Synchronize both clocks, because times from users and from the storage differ by this amount.",
        )  # fmt: skip


def _of_age(history: int | None, longest: tuple[int, int] | None) -> Iterator[Finding]:
    if history is not None and history > _LONG_HISTORY:
        yield Finding(
            Severity.WARNING, "mysql_old_versions",
            f"The server keeps {history:,} old row versions, which every claim must read.",
            "Find and end transactions that have been open for a long time: see SHOW PROCESSLIST.",
        )  # fmt: skip
    seconds, connection = longest or (0, 0)
    if seconds > _LONG_TRANSACTION_SECONDS:
        yield Finding(
            Severity.WARNING, "long_transaction",
            f"A transaction of connection {connection} has been open for {seconds} s.",
            "End it, because old row versions accumulate until it ends, and its locks block others.",
        )  # fmt: skip
