"""The package's entry point, which maps URL schemes to the package's storages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from firelock import ConfigurationError, hookimpl

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from firelock.storage import Storage

_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg")
_MYSQL = ("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql", "mysql+mysqldb", "mariadb+mysqldb")


@hookimpl
def register_storages() -> Mapping[str, Callable[[str], Storage]]:
    """Register SQLite, PostgreSQL, MySQL and MariaDB; each driver is loaded when its first URL is opened."""
    return {
        **dict.fromkeys(("sqlite", "sqlite+pysqlite"), _open_sqlite),
        **dict.fromkeys(_POSTGRESQL, _open_postgresql),
        **dict.fromkeys(_MYSQL, _open_mysql),
    }


def _open_sqlite(url: str | Engine) -> Storage:
    """Open a URL. For a caller's Engine, open its database file with our own connections and settings."""
    from firelock_sql.sqlite.storage import SqliteStorage  # noqa: PLC0415 - loads the driver

    return SqliteStorage(url if isinstance(url, str) else f"sqlite:///{url.url.database or ''}")


def _open_postgresql(url: str | Engine) -> Storage:
    """Open a URL, or a caller's database through the caller's Engine."""
    try:
        from firelock_sql.postgresql import storage  # noqa: PLC0415 - loads the driver
    except ModuleNotFoundError as error:
        raise _no_driver("PostgreSQL", "psycopg", "postgresql") from error
    return storage.open_url(url) if isinstance(url, str) else storage.open_engine(url)


def _open_mysql(url: str | Engine) -> Storage:
    """Open a URL, or a caller's database through the caller's Engine."""
    try:
        from firelock_sql.mysql import storage  # noqa: PLC0415 - loads the driver
    except ModuleNotFoundError as error:
        raise _no_driver("MySQL", "PyMySQL", "mysql") from error
    return storage.open_url(url) if isinstance(url, str) else storage.open_engine(url)


def _no_driver(database: str, driver: str, extra: str) -> ConfigurationError:
    return ConfigurationError(
        f'{database} storage requires {driver}, which is not installed. Run pip install "firelock[{extra}]".'
    )
