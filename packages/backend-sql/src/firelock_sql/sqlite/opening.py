"""Opens an SQLite storage."""

from __future__ import annotations

import socket

from firelock.storage import Feature
from firelock_sql.sqlite.database import SqliteDatabase
from firelock_sql.sqlite.engine import SqliteEngine
from firelock_sql.storage import SqlStorage
from firelock_sql.url import parse_sqlite_url

__all__ = ["open_sqlite"]


def open_sqlite(url: str) -> SqlStorage:
    """Return the storage of an `sqlite:///` URL; nothing is opened yet."""
    parsed = parse_sqlite_url(url)
    database = SqliteDatabase(parsed)
    features = {Feature.SHARED, Feature.DURABLE, Feature.TRANSACTIONAL_ENQUEUE}
    if parsed.is_waking and hasattr(socket, "AF_UNIX"):
        features.add(Feature.NOTIFY)
    return SqlStorage(database, SqliteEngine(database), frozenset(features))
