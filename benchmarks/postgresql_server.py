"""A PostgreSQL server that a run starts in its own folder, queries with psql, and stops at its end."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import storage_server
from benchmarks.storage_server import HOST, NoServer, copying, find_port, run_to_end, without_rights

PACKAGES = Path("/usr/lib/postgresql")
USER, DATABASE = "postgres", "bench"
SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
"""Full durability. Memory and log are larger than by default, to avoid checkpoints at random times."""
STATEMENT_TIMES: Mapping[str, str] = {"shared_preload_libraries": "pg_stat_statements"}
"""The additional settings with which a server measures the duration of statements."""
# The number of the next writing transaction; this query is read-only, so it does not use a number.
WRITERS = "select pg_snapshot_xmax(pg_current_snapshot())"


class PostgresqlServer(storage_server.Process):
    """A running server."""

    @property
    def url(self) -> str:
        """The URL for clients."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL for clients through another port that forwards to the server."""
        return f"postgresql://{USER}@{HOST}:{port}/{DATABASE}"

    def query(self, statements: str) -> str:
        """Run statements, each in its own transaction; return their rows as lines.

        Raises:
            NoServer: If a statement failed. The statements after it are not run.
        """
        command = [find_folder() / "psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", self.url]
        return run_to_end(command, place=self.folder.parent, identity={}, given=statements).strip()

    def meters(self) -> Mapping[str, int]:
        """Return the number of transactions that have written data."""
        return {"commits": int(self.query(WRITERS))}

    def stored_bytes(self) -> int:
        """Return the size of the database's files."""
        return int(self.query("select pg_database_size(current_database())"))


def find_folder() -> Path:
    """Return the folder with the programs of the newest installed PostgreSQL.

    Raises:
        NoServer: If none is installed.
    """
    on_path = shutil.which("postgres")
    found = [place.parent for place in PACKAGES.glob("*/bin/postgres")]
    found += [Path(on_path).resolve().parent] if on_path else []
    if not found:
        message = "PostgreSQL was not found. Install it, for example Debian's package postgresql."
        raise NoServer(message)
    return max(found, key=read_version)


def read_version(folder: Path) -> tuple[int, ...]:
    """Return the version of a PostgreSQL, as in `postgres (PostgreSQL) 15.14 (Debian …)`."""
    printed = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PostgreSQL\) ([\d.]+)", printed.stdout)
    if found is None:
        raise NoServer(printed.stdout)
    return tuple(int(part) for part in found[1].split("."))


def has_statement_times() -> bool:
    """Return whether the installed PostgreSQL has the module for `STATEMENT_TIMES`."""
    folder = run_to_end([find_folder() / "pg_config", "--pkglibdir"], place=PACKAGES, identity={}).strip()
    return (Path(folder) / "pg_stat_statements.so").exists()


def describe() -> dict[str, object]:
    """Return the version and the settings of the server that a run would start."""
    version = ".".join(str(part) for part in read_version(find_folder()))
    return {"version": version, "settings": {**SETTINGS, "connections": "TCP on loopback"}}


@contextmanager
def running(
    directory: Path, settings: Mapping[str, str] | None = None, *, kept: Path | None = None
) -> Iterator[PostgresqlServer]:
    """Run a server with an empty database and additional settings within the block.

    If `kept` is the data folder of an earlier server, the server starts with a copy of it.

    Raises:
        NoServer: If no server is installed, or it does not respond.
    """
    programs, place, port = find_folder(), directory / "postgresql", find_port()
    place.mkdir()
    identity = without_rights(place, "postgres")
    data = place / "data"
    made = [programs / "initdb", "-D", data, "-U", USER, "-E", "UTF8", "--locale=C", "--auth=trust"]
    run_to_end(made if kept is None else copying(kept, data), place=place, identity=identity)
    every = {**SETTINGS, **(settings or {})}
    options = [word for name, value in every.items() for word in ("-c", f"{name}={value}")]
    command = [programs / "postgres", "-D", data, "-p", port, "-k", "", *options]
    ready = b"ready to accept connections"
    with storage_server.running(command, place=place, port=port, ready=ready, identity=identity) as process:
        if kept is None:
            create = [programs / "createdb", "-h", HOST, "-p", port, "-U", USER, DATABASE]
            run_to_end(create, place=place, identity=identity)
        yield PostgresqlServer(process, port, place)
