"""A MariaDB server that a run starts in its own folder, queries with a client, and stops at its end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import storage_server
from benchmarks.storage_server import HOST, NoServer, copying, find_port, run_to_end, without_rights

# Debian installs servers in a folder that is only on root's path.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
USER, DATABASE = "bench", "bench"
SETTINGS: Mapping[str, str] = {
    "bind_address": HOST,
    "innodb_buffer_pool_size": "256M",
    "innodb_log_file_size": "1G",
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_doublewrite": "1",
    "innodb_monitor_enable": "trx_rw_commits",
}
"""Full durability. Memory and log are larger than by default, to avoid checkpoints at random times."""
USERS = f"""
create database {DATABASE};
create user '{USER}'@'{HOST}';
grant all on *.* to '{USER}'@'{HOST}';
"""
COMMITS = "select count from information_schema.innodb_metrics where name = 'trx_rw_commits'"


class MariadbServer(storage_server.Process):
    """A running server."""

    @property
    def url(self) -> str:
        """The URL for clients."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL for clients through another port that forwards to the server."""
        return f"mariadb://{USER}@{HOST}:{port}/{DATABASE}"

    def query(self, statements: str) -> str:
        """Run statements; return their rows as lines.

        Raises:
            NoServer: If a statement failed. The statements after it are not run.
        """
        place = ["--host", HOST, "--port", self.port, "--user", USER, "--skip-ssl", DATABASE]
        command = [find_program("mariadb"), "--no-defaults", "--skip-column-names", "--batch", *place]
        return run_to_end(command, place=self.folder.parent, identity={}, given=statements).strip()

    def meters(self) -> Mapping[str, int]:
        """Return the number of transactions that have written data."""
        return {"commits": int(self.query(COMMITS))}

    def stored_bytes(self) -> int:
        """Return the size of the database's files."""
        return sum(file.stat().st_size for file in (self.folder / "data" / DATABASE).iterdir())


def find_program(name: str) -> str:
    """Return the path of a program of MariaDB.

    Raises:
        NoServer: If the program is not installed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        message = f"{name} was not found. Install MariaDB, for example Debian's package mariadb-server."
        raise NoServer(message)
    return found


def describe() -> dict[str, object]:
    """Return the version and the settings of the server that a run would start."""
    command = [find_program("mariadbd"), "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Ver ([\w.]+)-MariaDB", printed)
    if found is None:
        raise NoServer(printed)
    return {"version": found[1], "settings": {**SETTINGS, "connections": "TCP on loopback"}}


@contextmanager
def running(directory: Path, *, kept: Path | None = None) -> Iterator[MariadbServer]:
    """Run a server with an empty database within the block.

    If `kept` is the data folder of an earlier server, the server starts with a copy of it.

    Raises:
        NoServer: If no server is installed, or it does not respond.
    """
    place, port = directory / "mariadb", find_port()
    place.mkdir()
    identity = without_rights(place, "mysql")
    users = place / "users.sql"
    users.write_text(USERS)
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    folders = [f"--datadir={place / 'data'}", f"--tmpdir={place}"]
    made = [find_program("mariadb-install-db"), "--no-defaults", *folders, *options, "--skip-test-db"]
    run_to_end(made if kept is None else copying(kept, place / "data"), place=place, identity=identity)
    # The path is relative to the data folder, because an absolute path might be too long for a socket.
    files = ["--socket=socket", f"--pid-file={place / 'pid'}"]
    if kept is None:
        files.append(f"--init-file={users}")
    words = ["--skip-name-resolve", "--skip-log-bin", f"--port={port}"]
    command = [find_program("mariadbd"), "--no-defaults", *folders, *options, *files, *words]
    ready = b"ready for connections"
    with storage_server.running(command, place=place, port=port, ready=ready, identity=identity) as process:
        yield MariadbServer(process, port, place)
