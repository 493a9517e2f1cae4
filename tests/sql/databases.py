"""What a test is given: one database on a server, by every way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.sql.servers.mariadb import Mariadb
from tests.sql.servers.postgresql import Postgresql, end_connections
from tests.sql.servers.processes import DatabaseServer

_AHEAD = 100  # versions that no code of now knows


def newer_schema(engine_url: str) -> Iterator[Callable[[], None]]:
    """Yield what makes the database's schema a later release's, for `make_newer_schema`; then undo it."""
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
    """An empty database of a role that may do all in it and nothing elsewhere."""

    server: Postgresql
    name: str
    door: DatabaseServer  # the server itself, or a pooler before it

    def url(self, options: str = "", *, port: int | None = None) -> str:
        """Return Firelock's URL of it, or of a proxy's port before it, with options such as `prefix=a`."""
        return self.door.url(self.name, options, port=port)

    def direct_url(self, options: str = "") -> str:
        """Return the URL past a pooler; without one, the same as `url`."""
        return self.server.url(self.name, options)

    def end_connections(self) -> None:
        """Nobody whose tests use it is connected any more."""
        with self.server.connect() as admin:
            end_connections(admin)

    def socket_url(self) -> str:
        """Return the URL by the socket, as whoever runs the tests, without a password."""
        return self.server.socket_url(self.name)

    def engine_url(self, *, port: int | None = None) -> str:
        """Return SQLAlchemy's URL of it, or of a proxy's port before it, by psycopg."""
        return self.door.url(self.name, scheme="postgresql+psycopg", port=port)

    def async_engine_url(self, driver: str) -> str:
        """Return SQLAlchemy's URL of it, by asyncpg or psycopg."""
        return self.door.url(self.name, scheme=f"postgresql+{driver}")


@attrs.frozen
class MysqlDatabase:
    """An empty database of a user who may do all in it and nothing elsewhere."""

    server: Mariadb
    name: str

    def url(self, options: str = "", *, port: int | None = None) -> str:
        """Return Firelock's URL of it, or of a proxy's port before it, with options such as `prefix=a`."""
        return self.server.url(self.name, options, port=port)

    def engine_url(self, *, port: int | None = None) -> str:
        """Return SQLAlchemy's URL of it, or of a proxy's port before it, by PyMySQL."""
        return self.server.url(self.name, scheme="mysql+pymysql", port=port)

    def async_engine_url(self, driver: str) -> str:
        """Return SQLAlchemy's URL of it, by aiomysql or asyncmy."""
        return self.server.url(self.name, scheme=f"mysql+{driver}")

    def end_connections(self) -> None:
        """Nobody is connected to it any more."""
        self.server.end_connections(self.name)
