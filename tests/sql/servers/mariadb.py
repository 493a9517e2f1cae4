"""A MariaDB or MySQL server for tests."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pymysql

from tests.ports import HOST
from tests.sql.servers.processes import (
    DEADLINE,
    PASSWORD,
    USER,
    DatabaseServer,
    account,
    copy_folder,
    run_to_its_end,
    shared_folder,
)
from tests.sql.servers.programs import MysqlProgram

_DEFAULTS: Mapping[str, str] = {
    "bind-address": HOST,
    "innodb-flush-log-at-trx-commit": "2",  # a commit is lost only after a power failure
    "innodb-buffer-pool-size": "32M",
    "innodb-use-native-aio": "0",
    "max-connections": "200",
}
_FLAGS = ("--skip-log-bin", "--skip-name-resolve")
_OF_THE_INSTALLER = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")

# Also given to the set-up, because files of another size would be created again at the first start.
_OF_PRODUCTS: Mapping[str, Mapping[str, str]] = {
    "mariadb": {"innodb-log-file-size": "16M", "aria-pagecache-buffer-size": "4M"},
    "mysql": {"innodb-redo-log-capacity": "16M", "mysqlx": "OFF", "secure-file-priv": "NULL"},
}

# Run at every start, so each statement can be repeated.
_USERS = f"""\
ALTER USER 'root'@'localhost' IDENTIFIED BY '{PASSWORD}';
CREATE USER IF NOT EXISTS '{USER}'@'{HOST}' IDENTIFIED BY '{PASSWORD}';
CREATE USER IF NOT EXISTS '{USER}'@'localhost' IDENTIFIED BY '{PASSWORD}';
"""


class Mariadb(DatabaseServer):
    """One server; see `Process`.

    Root connects only through the socket; `USER` has all rights in its databases.

    Args:
        program: the MariaDB or MySQL program.
        options: settings that add to or replace the usual ones, for example `{"innodb-lock-wait-timeout":
            "5"}`.
    """

    scheme = "mysql"

    def __init__(self, program: MysqlProgram, options: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.program = program
        self.socket = self.folder / "socket"
        self._options = {
            **_DEFAULTS, **_OF_PRODUCTS[program.product],
            "port": str(self.port), "socket": str(self.socket), "datadir": str(self.folder / "data"),
            "pid-file": str(self.folder / "pid"), "init-file": str(self.folder / "users.sql"),
            # a server empties this folder at its start, so no other server may use it
            "tmpdir": str(self.folder),
            **(options or {}),
        }  # fmt: skip

    # ---- addresses ---------------------------------------------------------------------------------------

    def connect(self) -> pymysql.connections.Connection:
        """Return root's connection, which commits every statement; the caller closes it."""
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", password=PASSWORD, autocommit=True,
            connect_timeout=int(DEADLINE),
        )  # fmt: skip

    # ---- start -------------------------------------------------------------------------------------------

    def _command(self) -> Sequence[str | Path]:
        data, users = self.folder / "data", self.folder / "users.sql"
        users.write_text(_USERS, "utf-8")
        account().own(users)
        if not data.exists():
            copy_folder(_new_data(self.program), data)
        return [self.program.path, "--no-defaults", *_FLAGS, *_words(self._options)]

    def _answers(self) -> bool:
        try:
            # PyMySQL does not close a socket whose connection is refused
            with socket.socket(socket.AF_UNIX) as tried:
                tried.connect(str(self.socket))
            self.connect().close()
        except (OSError, pymysql.OperationalError) as error:
            raise AssertionError(error) from error
        return True

    # ---- databases ---------------------------------------------------------------------------------------

    def create_database(self, name: str) -> None:
        """Create an empty database with this name, in which `USER` has all rights."""
        self._run(f"CREATE DATABASE `{name}`")
        for host in (HOST, "localhost"):
            self._run(f"GRANT ALL ON `{name}`.* TO '{USER}'@'{host}'")

    def drop_database(self, name: str) -> None:
        """End all connections to the database and drop it; this waits for no lock."""
        self.end_connections(name)
        self._run(f"DROP DATABASE `{name}`")

    def end_connections(self, name: str) -> None:
        """End all connections to the database."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [name])
            for (number,) in cursor.fetchall():
                with suppress(pymysql.OperationalError):  # it has ended by itself
                    cursor.execute("KILL %s", [number])

    def _run(self, statement: str) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)


def _words(options: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


@cache
def _new_data(program: MysqlProgram) -> Path:
    """Return a data folder that the program's own set-up has created."""
    folder = shared_folder()
    words = ["--no-defaults", f"--datadir={folder / 'data'}", *_words(_OF_PRODUCTS[program.product])]
    if program.product == "mysql":
        run_to_its_end([program.path, *words, "--initialize-insecure"], folder)
        return folder / "data"
    installer = shutil.which("mariadb-install-db")
    assert installer, "MariaDB is here, but not mariadb-install-db"
    run_to_its_end([installer, *words, *_OF_THE_INSTALLER], folder)
    return folder / "data"
