"""The databases that tests receive as fixtures: one database on a server, with its URLs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.sql.servers.mariadb import Mariadb
from tests.sql.servers.postgresql import Postgresql, end_connections
from tests.sql.servers.processes import DatabaseServer

_AHEAD = 100  # versions above the newest version that this code can use


def newer_schema(engine_url: str) -> Iterator[Callable[[], None]]:
    """Yield a function that makes the database's schema newer than this release.

    It is the function for `make_newer_schema`. The change is undone afterwards.
    """
    changes: list[int] = []

    def move(by: int) -> None:
        engine = create_engine(engine_url, poolclass=NullPool)
        with engine.begin() as connection:
            statement = "UPDATE firelock_schema SET version = version + :by, works_with = works_with + :by"
            connection.execute(text(statement), {"by": by})
        engine.dispose()
        changes.append(by)

    yield lambda: move(_AHEAD)
    if changes:
        move(-sum(changes))


@attrs.frozen
class PostgresqlDatabase:
    """An empty database of a role that has all rights in it and none elsewhere."""

    server: Postgresql
    name: str
    door: DatabaseServer  # the server itself, or a pooler in front of it

    def url(self, options: str = "", *, port: int | None = None) -> str:
        """Return Firelock's URL of the database, with options such as `prefix=a`.

        With `port`, it is the URL through a proxy in front of the database.
        """
        return self.door.url(self.name, options, port=port)

    def direct_url(self, options: str = "") -> str:
        """Return the URL that bypasses a pooler; without one, the same as `url`."""
        return self.server.url(self.name, options)

    def end_connections(self) -> None:
        """End all connections of tests to the database."""
        with self.server.connect() as admin:
            end_connections(admin)

    def socket_url(self) -> str:
        """Return the URL of the Unix socket, for the user who runs the tests, without a password."""
        return self.server.socket_url(self.name)

    def engine_url(self, *, port: int | None = None) -> str:
        """Return SQLAlchemy's URL of the database for psycopg; with `port`, the URL through a proxy."""
        return self.door.url(self.name, scheme="postgresql+psycopg", port=port)

    def async_engine_url(self, driver: str) -> str:
        """Return SQLAlchemy's URL of the database, for asyncpg or psycopg."""
        return self.door.url(self.name, scheme=f"postgresql+{driver}")


@attrs.frozen
class MysqlDatabase:
    """An empty database of a user who has all rights in it and none elsewhere."""

    server: Mariadb
    name: str

    def url(self, options: str = "", *, port: int | None = None) -> str:
        """Return Firelock's URL of the database, with options such as `prefix=a`.

        With `port`, it is the URL through a proxy in front of the database.
        """
        return self.server.url(self.name, options, port=port)

    def engine_url(self, *, port: int | None = None) -> str:
        """Return SQLAlchemy's URL of the database for PyMySQL; with `port`, the URL through a proxy."""
        return self.server.url(self.name, scheme="mysql+pymysql", port=port)

    def async_engine_url(self, driver: str) -> str:
        """Return SQLAlchemy's URL of the database, for aiomysql or asyncmy."""
        return self.server.url(self.name, scheme=f"mysql+{driver}")

    def end_connections(self) -> None:
        """End all connections to the database."""
        self.server.end_connections(self.name)
