"""Opens a MySQL or MariaDB storage."""

from __future__ import annotations

import importlib.util
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import QueuePool

from firelock import ConfigurationError
from firelock.storage import Feature
from firelock_sql.mysql.database import MysqlDatabase
from firelock_sql.mysql.engine import MysqlEngine
from firelock_sql.names import Names
from firelock_sql.pool import EnginePool
from firelock_sql.storage import SqlStorage
from firelock_sql.url import ServerUrl, parse_server_url

__all__ = ["open_engine", "open_url"]

_MODULES = {"pymysql": "pymysql", "mysqldb": "MySQLdb"}
_KNOWN = frozenset(
    {"connect_timeout", "read_timeout", "write_timeout", "unix_socket", "bind_address", "ssl_ca", "ssl_cert",
     "ssl_key", "ssl_capath", "ssl_cipher", "ssl_check_hostname", "read_default_file", "read_default_group"}
)  # fmt: skip
_CONNECT_SECONDS = 10
_SILENT_SECONDS = 90  # no answer for so long: the server has vanished without a word
_POOL_SECONDS = 15.0
_SEVERAL = 1 << 16  # CLIENT_MULTI_STATEMENTS: a transaction begins in one round trip
_FOUND_ROWS = 1 << 1  # CLIENT_FOUND_ROWS: an update counts the rows it found, changed or not


def open_url(url: str) -> SqlStorage:
    """Return the storage of a `mysql://` or `mariadb://` URL; nothing is connected yet."""
    parsed = parse_server_url(url, scheme=url.partition(":")[0].partition("+")[0], choices={}, known=_KNOWN)
    driver = _driver_of(parsed)
    shown = str(parsed)
    connections = EnginePool(shown, lambda: _make_engine(parsed, driver), is_own=True)
    return _storage(shown, parsed.connect_url, connections, parsed.names, is_own=True)


def open_engine(engine: Engine) -> SqlStorage:
    """Return the storage in a caller's database, by the caller's own connections.

    Raises:
        ConfigurationError: its driver is neither PyMySQL nor mysqlclient.
    """
    if engine.dialect.driver not in _MODULES:
        message = (
            f"The engine uses {engine.dialect.driver}; firelock-sql uses PyMySQL or mysqlclient. Make the "
            "engine from mysql+pymysql://…, or pass its URL; jobs can still be enqueued within transactions "
            "on it."
        )
        raise ConfigurationError(message)
    shown = engine.url.set(query={}, drivername=engine.dialect.name).render_as_string(hide_password=True)
    connections = EnginePool(shown, lambda: engine, is_own=False)
    return _storage(shown, "", connections, Names(), is_own=False)


def _storage(
    shown: str, connect_url: str, connections: EnginePool, names: Names, *, is_own: bool
) -> SqlStorage:
    database = MysqlDatabase(shown, connections, names, is_own=is_own)
    features = {Feature.SHARED, Feature.DURABLE, Feature.TRANSACTIONAL_ENQUEUE}
    storage = SqlStorage(database, MysqlEngine(database), frozenset(features))
    storage.connect_url = connect_url
    return storage


def _driver_of(parsed: ServerUrl) -> str:
    """Return the driver that the URL names, else mysqlclient where it is installed, else PyMySQL."""
    _, _, named = parsed.url.drivername.partition("+")
    for driver in [named] if named else ["mysqldb", "pymysql"]:
        if importlib.util.find_spec(_MODULES[driver]) is not None:
            return driver
    message = f"{parsed} needs {'mysqlclient' if named == 'mysqldb' else 'PyMySQL'}, which is not installed: "
    raise ConfigurationError(message + _install(named))


def _install(named: str) -> str:
    return "pip install mysqlclient." if named == "mysqldb" else 'pip install "firelock[mysql]".'


def _make_engine(parsed: ServerUrl, driver: str) -> Engine:
    """Return an engine whose transactions are begun and ended by our statements alone."""
    return create_engine(
        parsed.url.set(drivername=f"mysql+{driver}"),
        poolclass=QueuePool,
        pool_size=parsed.pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_reset_on_return=None,
        connect_args=_connect_args(parsed, driver),
    )


def _connect_args(parsed: ServerUrl, driver: str) -> dict[str, Any]:
    own: dict[str, Any] = {
        "charset": "utf8mb4",
        "autocommit": True,
        "client_flag": _FOUND_ROWS | _SEVERAL,
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENT_SECONDS,
        "write_timeout": _SILENT_SECONDS,
    }
    if driver == "pymysql":
        own["program_name"] = "firelock"
    return {name: value for name, value in own.items() if name not in parsed.url.query}
