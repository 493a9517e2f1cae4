"""What a test is given: one database on a server, by every way to it."""

from __future__ import annotations

from typing import Protocol

import attrs

from tests.sql.mariadb import Mariadb
from tests.sql.postgresql import Postgresql

__all__ = ["MysqlDatabase", "PostgresqlDatabase"]


class _Door(Protocol):
    """A port that leads to databases: the server's, or a pooler's before it."""

    def url(self, database: str, options: str = "", *, scheme: str = "postgresql") -> str: ...


@attrs.frozen
class PostgresqlDatabase:
    """An empty database of a role that may do all in it and nothing elsewhere."""

    server: Postgresql
    name: str
    door: _Door

    def url(self, options: str = "") -> str:
        """Return Firelock's URL of it; options are written as `prefix=a`."""
        return self.door.url(self.name, options)

    def direct_url(self, options: str = "") -> str:
        """Return the URL past a pooler; without one, the same as `url`."""
        return self.server.url(self.name, options)

    def socket_url(self) -> str:
        """Return the URL by the socket, as whoever runs the tests, without a password."""
        return self.server.socket_url(self.name)

    def engine_url(self) -> str:
        """Return SQLAlchemy's URL of it, by psycopg."""
        return self.door.url(self.name, scheme="postgresql+psycopg")

    def async_engine_url(self) -> str:
        """Return SQLAlchemy's URL of it, by asyncpg."""
        return self.door.url(self.name, scheme="postgresql+asyncpg")


@attrs.frozen
class MysqlDatabase:
    """An empty database of a user who may do all in it and nothing elsewhere."""

    server: Mariadb
    name: str

    def url(self, options: str = "") -> str:
        """Return Firelock's URL of it; options are written as `prefix=a`."""
        return self.server.url(self.name, options)

    def engine_url(self) -> str:
        """Return SQLAlchemy's URL of it, by PyMySQL."""
        return self.server.url(self.name, scheme="mysql+pymysql")

    def async_engine_url(self, driver: str) -> str:
        """Return SQLAlchemy's URL of it, by aiomysql or asyncmy."""
        return self.server.url(self.name, scheme=f"mysql+{driver}")
