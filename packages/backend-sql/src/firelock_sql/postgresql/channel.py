"""The channel of one set of tables: how a message is sent on it, and a connection that hears it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from firelock_sql.postgresql.failures import read_failure
from firelock_sql.servers.database import STALE_LIMIT
from firelock_sql.servers.failures import Meaning
from firelock_sql.servers.names import Names, table_name
from firelock_sql.tables import jobs

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

    from firelock_sql.postgresql.pooler import Way
    from firelock_sql.servers.connections import Connections

__all__ = ["Channel", "channel_name"]

_LONGEST_NAME = 63  # bytes; the server cuts off what is longer
_SCHEMA = (
    "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
    " ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)), current_schema())"
)
# It takes a transaction number, and with it a commit that waits for the disk; a lost message does no harm.
_NOTIFY = "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify(%s, %s)"


class Channel:
    """Where messages about these tables are sent and heard. Nothing is connected before the first one."""

    def __init__(
        self, connections: Connections, names: Names, dialect: Dialect, way: Way, *, is_forced: bool
    ) -> None:
        self._connections = connections
        self._names = names
        self._dialect = dialect
        self._way = way
        self._is_forced = is_forced
        self._name: str | None = None

    @property
    def is_deaf(self) -> bool:
        """Tell whether nothing would be heard: a pooler is in between."""
        return bool(self._way.is_pooled) and not self._is_forced

    def listen(self) -> psycopg.Connection[Any] | None:
        """Return a connection of its own that hears the channel; None behind a pooler, where none would.

        Raises:
            Exception: of the driver, or a StorageError.
        """
        driver: psycopg.Connection[Any] = self._connections.connect_apart()
        try:
            if self.is_deaf:
                driver.close()
                return None
            driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.name(driver))))
        except BaseException:
            driver.close()
            raise
        return driver

    def post(self, message: str) -> None:
        """Whoever hears the channel gets the message; one round trip by a connection of the pool.

        A connection that is lost is put aside for another: heard twice, a message does no harm.

        Raises:
            Exception: of the driver, or a StorageError.
        """
        for tries in range(1, STALE_LIMIT + 1):
            with self._connections.lend() as lent:
                try:
                    lent.driver.execute(_NOTIFY, [self.name(lent.driver), message])
                except psycopg.OperationalError as error:
                    lent.is_lost = True
                    failure = read_failure(error)
                    if failure is None or failure.meaning is not Meaning.LOST or tries == STALE_LIMIT:
                        raise
                else:
                    return

    def name(self, driver: psycopg.Connection[Any]) -> str:
        """Return the channel's name; one round trip, once."""
        if self._name is None:
            self._name = channel_name(self._schema(driver), self._names.prefix)
        return self._name

    def _schema(self, driver: psycopg.Connection[Any]) -> str:
        """Return the schema that the tables are in, whether the URL or the search path says so."""
        if self._names.schema is not None:
            return self._names.schema
        found: Any = driver.execute(_SCHEMA, [table_name(self._dialect, jobs)]).fetchone()
        return str(found[0])


def channel_name(schema: str, prefix: str) -> str:
    """Return the name of the channel of these tables: `public.firelock_wake`."""
    name = f"{schema}.{prefix}wake"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{prefix}wake.{digest}"
