"""A MariaDB server of a run's own: started in the run's folder, asked by a client, ended with the run."""

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

# Debian keeps servers where only root's path leads.
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
"""Full durability. Memory and log are larger than as it ships, so that checkpoints do not come by chance."""
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
        """Where clients find it."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Where clients find it by a port that leads to it."""
        return f"mariadb://{USER}@{HOST}:{port}/{DATABASE}"

    def ask(self, statements: str) -> str:
        """Return the rows of some statements as lines.

        Raises:
            NoServer: one of them failed; those behind it are not run.
        """
        place = ["--host", HOST, "--port", self.port, "--user", USER, "--skip-ssl", DATABASE]
        command = [find_program("mariadb"), "--no-defaults", "--skip-column-names", "--batch", *place]
        return run_to_end(command, place=self.folder.parent, identity={}, given=statements).strip()

    def meters(self) -> Mapping[str, int]:
        """Return how many transactions have written something."""
        return {"commits": int(self.ask(COMMITS))}

    def stored_bytes(self) -> int:
        """Return the size of the database's files."""
        return sum(file.stat().st_size for file in (self.folder / "data" / DATABASE).iterdir())


def find_program(name: str) -> str:
    """Return where a program of MariaDB's is.

    Raises:
        NoServer: it is not here.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        message = f"No {name} is here. Install MariaDB, for instance Debian's package mariadb-server."
        raise NoServer(message)
    return found


def describe() -> dict[str, object]:
    """Return the version and the settings of the server that runs would start."""
    command = [find_program("mariadbd"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Ver ([\w.]+)-MariaDB", said)
    if found is None:
        raise NoServer(said)
    return {"version": found[1], "settings": {**SETTINGS, "connections": "TCP on loopback"}}


@contextmanager
def running(directory: Path, *, kept: Path | None = None) -> Iterator[MariadbServer]:
    """Run a server with an empty database for as long as the block lasts.

    Its data are a copy of those that another one has left, where `kept` is the folder of these.

    Raises:
        NoServer: there is none, or it does not answer.
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
    # A path of its folder of data: one from the root may be longer than a socket's may be.
    files = ["--socket=socket", f"--pid-file={place / 'pid'}"]
    if kept is None:
        files.append(f"--init-file={users}")
    words = ["--skip-name-resolve", "--skip-log-bin", f"--port={port}"]
    command = [find_program("mariadbd"), "--no-defaults", *folders, *options, *files, *words]
    ready = b"ready for connections"
    with storage_server.running(command, place=place, port=port, ready=ready, identity=identity) as process:
        yield MariadbServer(process, port, place)
