"""A PostgreSQL server for tests."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql

from firelock.testing import eventually
from tests.ports import HOST
from tests.processes import is_there
from tests.sql.servers.processes import (
    DEADLINE,
    PASSWORD,
    USER,
    DatabaseServer,
    copy_folder,
    run_to_its_end,
    shared_folder,
)
from tests.sql.servers.programs import PostgresqlProgram

# Commits are as visible as usual and are lost only after a power failure. The other settings keep a server
# small.
_DEFAULTS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",  # so that all of it is deleted with the folder
}


class Postgresql(DatabaseServer):
    """One server; see `Process`.

    The user who runs the tests is its superuser, who connects only through the socket. `USER` connects with a
    password and owns the databases. If the program supports it, strings are sorted as people sort them, not
    by bytes: nothing may rely on the order.

    Args:
        program: the PostgreSQL program.
        options: settings that add to or replace the usual ones, for example `{"max_connections": "10"}`.
    """

    scheme = "postgresql"
    stop_signal = signal.SIGINT  # a fast shutdown, which does not wait for clients
    close_signal = signal.SIGQUIT  # an immediate shutdown, which still removes the shared memory

    def __init__(self, program: PostgresqlProgram, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.program = program
        self._options = {**_DEFAULTS, "port": str(self.port), **(options or {})}

    # ---- addresses ---------------------------------------------------------------------------------------

    def socket_url(self, database: str) -> str:
        """Return the URL of a database through the socket, for the user who runs the tests."""
        return f"postgresql:///{database}?host={self.folder}&port={self.port}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a superuser's connection, which commits every statement; the caller closes it."""
        return psycopg.connect(
            dbname=database, host=str(self.folder), port=self.port, user=_superuser(), autocommit=True,
            connect_timeout=int(DEADLINE),
        )  # fmt: skip

    # ---- start -------------------------------------------------------------------------------------------

    def _command(self) -> Sequence[str | Path]:
        data = self.folder / "data"
        if not data.exists():
            copy_folder(_new_data(self.program), data)
        settings = [word for name, value in self._options.items() for word in ("-c", f"{name}={value}")]
        return [self.program.folder / "postgres", "-D", data, "-k", self.folder, *settings]

    def _answers(self) -> bool:
        try:
            with self.connect() as connection:
                known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [USER]).fetchone()
                if known is None:
                    connection.execute(
                        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), PASSWORD)
                    )
        except psycopg.OperationalError as error:
            raise AssertionError(error) from error
        return True

    # ---- databases ---------------------------------------------------------------------------------------

    def create_database(self, name: str) -> None:
        """Create an empty database with this name, owned by `USER`."""
        with self.connect() as connection:
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(USER)))

    def drop_database(self, name: str) -> None:
        """Drop the database, even if there are connections to it."""
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def end_connections(admin: psycopg.Connection) -> None:
    """End every connection of `USER` as the superuser, and wait until its process has ended."""
    find = "SELECT pid FROM pg_stat_activity WHERE usename = %s"
    pids = [pid for (pid,) in admin.execute(find, [USER]).fetchall()]
    admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", [pids])
    eventually(lambda: not any(map(is_there, pids)))


def _superuser() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


@cache
def _new_data(program: PostgresqlProgram) -> Path:
    """Return a data folder that initdb has created."""
    folder = shared_folder()
    made = [
        program.folder / "initdb", "-D", folder / "data", "-U", _superuser(), "-E", "UTF8", "--locale=C",
        "--auth-local=peer", "--auth-host=scram-sha-256", "--no-sync",
    ]  # fmt: skip
    try:
        run_to_its_end([*made, "--locale-provider=icu", "--icu-locale=en-US"], folder)
    except RuntimeError as error:
        if "ICU is not supported" not in str(error) and "locale-provider" not in str(error):
            raise
        run_to_its_end(made, folder)
    return folder / "data"
