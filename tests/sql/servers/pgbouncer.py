"""A PgBouncer for tests, in front of a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.ports import HOST
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import DEADLINE, PASSWORD, USER, DatabaseServer, account

# The arguments that an asyncpg engine behind a pooler needs, as documented in docs/sql.md.
ADVISED: Mapping[str, object] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
}

# Prepared statements are disabled, because some poolers do not support them.
_DEFAULTS: Mapping[str, str] = {
    "pool_mode": "transaction",
    "default_pool_size": "20",
    "max_client_conn": "500",
    "max_prepared_statements": "0",
    "listen_addr": HOST,
    "auth_type": "scram-sha-256",
}


class Pgbouncer(DatabaseServer):
    """One pooler, from which a client gets a different connection for each transaction.

    Args:
        path: the program.
        server: the server behind the pooler; it must run first.
        options: settings that add to or replace the usual ones, for example `{"default_pool_size": "1"}`.
    """

    scheme = "postgresql"

    def __init__(self, path: str, server: Postgresql, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.server = server
        self._path = path
        self._options = {
            **_DEFAULTS, "listen_port": str(self.port), "unix_socket_dir": str(self.folder),
            "auth_file": str(self.folder / "users"), "admin_users": USER, **(options or {}),
        }  # fmt: skip

    def _command(self) -> Sequence[str | Path]:
        users, configuration = self.folder / "users", self.folder / "pgbouncer.ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n', "utf-8")
        lines = [f"{name} = {value}" for name, value in self._options.items()]
        behind = f"* = host={HOST} port={self.server.port}"
        configuration.write_text("\n".join(["[databases]", behind, "[pgbouncer]", *lines, ""]), "utf-8")
        account().own(users, configuration)
        return [self._path, configuration]

    def _answers(self) -> bool:
        try:
            self.query("SHOW VERSION")
        except psycopg.OperationalError as error:
            raise AssertionError(error) from error
        return True

    def query(self, command: str) -> list[dict[str, object]]:
        """Return the rows of a command of the pooler's console, for example `SHOW POOLS`."""
        with psycopg.connect(
            self.url("pgbouncer"), autocommit=True, connect_timeout=int(DEADLINE),
            cursor_factory=psycopg.ClientCursor, row_factory=psycopg.rows.dict_row,
        ) as connection:  # fmt: skip
            return connection.execute(command).fetchall()
