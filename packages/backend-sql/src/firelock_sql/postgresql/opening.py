"""Opens a PostgreSQL storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.pq import Conninfo
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import QueuePool

from firelock import ConfigurationError
from firelock.storage import Feature
from firelock_sql.names import Names
from firelock_sql.pool import EnginePool
from firelock_sql.postgresql.connect import patient_for
from firelock_sql.postgresql.database import PostgresqlDatabase
from firelock_sql.postgresql.engine import PostgresqlEngine
from firelock_sql.storage import SqlStorage
from firelock_sql.url import ServerUrl, parse_server_url

__all__ = ["open_engine", "open_url"]

_CHOICES = {"listen": ("auto", "on", "off")}
_CONNECT_SECONDS = 10
_POOL_SECONDS = 15.0
SILENT_SECONDS = 90.0  # no answer for so long: longer than any statement may take


def open_url(url: str) -> SqlStorage:
    """Return the storage of a `postgresql://` URL; nothing is connected yet."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    parsed = parse_server_url(url, scheme="postgresql", choices=_CHOICES, known=known)
    connections = EnginePool(str(parsed), lambda: _make_engine(parsed), is_own=True)
    return _storage(str(parsed), parsed.connect_url, connections, parsed.names, parsed.options["listen"])


def open_engine(engine: Engine) -> SqlStorage:
    """Return the storage in a caller's database, by the caller's own connections.

    Raises:
        ConfigurationError: its driver is not psycopg 3.
    """
    if engine.dialect.driver not in {"psycopg", "psycopg_async"}:
        message = (
            f"The engine uses {engine.dialect.driver}; firelock-sql uses psycopg 3. Make the engine from "
            "postgresql+psycopg://…, or pass its URL; jobs can still be enqueued within transactions on it."
        )
        raise ConfigurationError(message)
    shown = engine.url.set(query={}, drivername="postgresql").render_as_string(hide_password=True)
    connections = EnginePool(shown, lambda: engine, is_own=False)
    return _storage(shown, "", connections, Names(), "auto")


def _storage(shown: str, connect_url: str, connections: EnginePool, names: Names, listen: str) -> SqlStorage:
    database = PostgresqlDatabase(shown, connections, names, listen)
    features = {Feature.SHARED, Feature.DURABLE, Feature.TRANSACTIONAL_ENQUEUE}
    if listen != "off":  # what a pooler makes of it is known when it is met: `describe` says it then
        features.add(Feature.NOTIFY)
    storage = SqlStorage(database, PostgresqlEngine(database), frozenset(features))
    storage.connect_url = connect_url
    return storage


def _make_engine(parsed: ServerUrl) -> Engine:
    """Return an engine whose transactions are begun and ended by our statements alone."""
    engine = create_engine(
        parsed.url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=parsed.pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_reset_on_return=None,
        pool_use_lifo=True,  # the connection used last has its statements prepared
        connect_args=_connect_args(parsed),
    )
    kind = patient_for(SILENT_SECONDS)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, words: Sequence[Any], named: Mapping[str, Any]) -> object:
        del dialect, record
        return kind.connect(*words, **named)

    return engine


def _connect_args(parsed: ServerUrl) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "application_name": "firelock",
        "connect_timeout": _CONNECT_SECONDS,
        # A server that vanished without a word is noticed within half a minute, by whoever only listens too.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    return {name: value for name, value in defaults.items() if name not in parsed.url.query}
