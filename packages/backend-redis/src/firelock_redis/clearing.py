"""The layout of a prefix: which one is stored, writing it, and taking everything away."""

from __future__ import annotations

from firelock.storage import SchemaMismatch, SchemaState
from firelock_redis.database import SCHEMA, Database

__all__ = ["clear", "migrate", "schema"]

_AT_ONCE = 1_000


def schema(database: Database) -> SchemaState:
    """See `Storage.schema`; writes nothing."""
    version, _ = database.run_unprepared("layout", 0, SCHEMA, database.partitions.number, 0)
    return SchemaState(version, SCHEMA)


def migrate(database: Database) -> list[str]:
    """See `Storage.migrate`: there has been one layout so far, and it is written on first use."""
    found = schema(database)
    if found.found > SCHEMA:
        message = (
            f"Redis at {database.url}: prefix {database.url.prefix!r} has layout {found.found}, newer than "
            f"this code's {SCHEMA}. Upgrade Firelock."
        )
        raise SchemaMismatch(message)
    database.prepare()
    return [] if found.found else [f"Layout {SCHEMA} is written below prefix {database.url.prefix!r}."]


def clear(database: Database) -> None:
    """Every key below the prefix is gone, but for the layout; partition by partition, in steps."""
    for partition, base in enumerate(database.partitions.bases):
        cursor = "0"
        while True:
            reply = database.run("clear", partition, cursor, f"{_escaped(base)}:*", _AT_ONCE)
            cursor = reply
            if cursor == "0":
                break
    database.forget_layout()
    database.prepare()


def _escaped(text: str) -> str:
    """Return a text as a pattern that matches it alone."""
    return "".join(f"\\{char}" if char in "*?[]\\^-" else char for char in text)
