"""A MariaDB or MySQL of a test's own."""

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
    "innodb-flush-log-at-trx-commit": "2",  # only a power failure would lose a commit
    "innodb-buffer-pool-size": "32M",
    "innodb-use-native-aio": "0",
    "max-connections": "200",
}
_FLAGS = ("--skip-log-bin", "--skip-name-resolve")
_OF_THE_INSTALLER = ("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")

# Given to the set-up as well: files of another size would be written anew at the first start.
_OF_PRODUCTS: Mapping[str, Mapping[str, str]] = {
    "mariadb": {"innodb-log-file-size": "16M", "aria-pagecache-buffer-size": "4M"},
    "mysql": {"innodb-redo-log-capacity": "16M", "mysqlx": "OFF", "secure-file-priv": "NULL"},
}

# Run whenever it starts; so that it may be run again, every statement is one that holds afterwards.
_USERS = f"""\
ALTER USER 'root'@'localhost' IDENTIFIED BY '{PASSWORD}';
CREATE USER IF NOT EXISTS '{USER}'@'{HOST}' IDENTIFIED BY '{PASSWORD}';
CREATE USER IF NOT EXISTS '{USER}'@'localhost' IDENTIFIED BY '{PASSWORD}';
"""


class Mariadb(DatabaseServer):
    """One server; see `Process`. Root comes by the socket alone; `USER` may do all in its databases.

    Args:
        program: which MariaDB or MySQL.
        options: settings beside or instead of the usual ones, `{"innodb-lock-wait-timeout": "5"}`.
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
            "tmpdir": str(self.folder),  # one that starts empties its own, others' temporary tables with it
            **(options or {}),
        }  # fmt: skip

    # ---- where it is -------------------------------------------------------------------------------------

    def connect(self) -> pymysql.connections.Connection:
        """Return root's connection, which commits every statement; close it."""
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", password=PASSWORD, autocommit=True,
            connect_timeout=int(DEADLINE),
        )  # fmt: skip

    # ---- its life ----------------------------------------------------------------------------------------

    def _command(self) -> Sequence[str | Path]:
        data, users = self.folder / "data", self.folder / "users.sql"
        users.write_text(_USERS, "utf-8")
        account().own(users)
        if not data.exists():
            copy_folder(_new_data(self.program), data)
        return [self.program.path, "--no-defaults", *_FLAGS, *_words(self._options)]

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as tried:  # PyMySQL forgets to close one that is refused
                tried.connect(str(self.socket))
            self.connect().close()
        except (OSError, pymysql.OperationalError) as error:
            raise AssertionError(error) from error
        return True

    # ---- what is in it -----------------------------------------------------------------------------------

    def create_database(self, name: str) -> None:
        """There is an empty database of this name, in which `USER` may do all."""
        self._run(f"CREATE DATABASE `{name}`")
        for host in (HOST, "localhost"):
            self._run(f"GRANT ALL ON `{name}`.* TO '{USER}'@'{host}'")

    def drop_database(self, name: str) -> None:
        """The database is gone, and whoever was connected is sent away; no lock is waited for."""
        self.end_connections(name)
        self._run(f"DROP DATABASE `{name}`")

    def end_connections(self, name: str) -> None:
        """Nobody is connected to the database any more."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [name])
            for (number,) in cursor.fetchall():
                with suppress(pymysql.OperationalError):  # it has gone by itself
                    cursor.execute("KILL %s", [number])

    def _run(self, statement: str) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(statement)


def _words(options: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


@cache
def _new_data(program: MysqlProgram) -> Path:
    """Return a folder of data as the program's own set-up makes it."""
    folder = shared_folder()
    words = ["--no-defaults", f"--datadir={folder / 'data'}", *_words(_OF_PRODUCTS[program.product])]
    if program.product == "mysql":
        run_to_its_end([program.path, *words, "--initialize-insecure"], folder)
        return folder / "data"
    installer = shutil.which("mariadb-install-db")
    assert installer, "MariaDB is here, but not mariadb-install-db"
    run_to_its_end([installer, *words, *_OF_THE_INSTALLER], folder)
    return folder / "data"
