"""A PostgreSQL server of a run's own: started in the run's folder, asked by psql, ended with the run."""

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
"""Full durability. Memory and log are larger than as it ships, so that checkpoints do not come by chance."""
STATEMENT_TIMES: Mapping[str, str] = {"shared_preload_libraries": "pg_stat_statements"}
"""What a server needs besides so that it tells how long statements take."""
# The next transaction that writes; to ask takes no number, as a transaction that only reads never does.
WRITERS = "select pg_snapshot_xmax(pg_current_snapshot())"


class PostgresqlServer(storage_server.Process):
    """A running server and its processes."""

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Where clients find it by a port that leads to it."""
        return f"postgresql://{USER}@{HOST}:{port}/{DATABASE}"

    def ask(self, statements: str) -> str:
        """Return the rows of some statements as lines, each a transaction of its own.

        Raises:
            NoServer: one of them failed; those behind it are not run.
        """
        command = [find_folder() / "psql", "--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", self.url]
        return run_to_end(command, place=self.folder.parent, identity={}, given=statements).strip()

    def meters(self) -> Mapping[str, int]:
        """Return how many transactions have written something."""
        return {"commits": int(self.ask(WRITERS))}

    def stored_bytes(self) -> int:
        """Return the size of the database's files."""
        return int(self.ask("select pg_database_size(current_database())"))


def find_folder() -> Path:
    """Return where the programs of the newest PostgreSQL here are.

    Raises:
        NoServer: there is none.
    """
    on_path = shutil.which("postgres")
    found = [place.parent for place in PACKAGES.glob("*/bin/postgres")]
    found += [Path(on_path).resolve().parent] if on_path else []
    if not found:
        message = "No PostgreSQL is here. Install one, for instance Debian's package postgresql."
        raise NoServer(message)
    return max(found, key=read_version)


def read_version(folder: Path) -> tuple[int, ...]:
    """Return the version of a PostgreSQL, as in `postgres (PostgreSQL) 15.14 (Debian …)`."""
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PostgreSQL\) ([\d.]+)", said.stdout)
    if found is None:
        raise NoServer(said.stdout)
    return tuple(int(part) for part in found[1].split("."))


def tells_statement_times() -> bool:
    """Tell whether the PostgreSQL here has the module that `STATEMENT_TIMES` asks for."""
    folder = run_to_end([find_folder() / "pg_config", "--pkglibdir"], place=PACKAGES, identity={}).strip()
    return (Path(folder) / "pg_stat_statements.so").exists()


def describe() -> dict[str, object]:
    """Return the version and the settings of the server that runs would start."""
    version = ".".join(str(part) for part in read_version(find_folder()))
    return {"version": version, "settings": {**SETTINGS, "connections": "TCP on loopback"}}


@contextmanager
def running(
    directory: Path, settings: Mapping[str, str] | None = None, *, kept: Path | None = None
) -> Iterator[PostgresqlServer]:
    """Run a server with an empty database for as long as the block lasts, with some settings besides.

    Its data are a copy of those that another one has left, where `kept` is the folder of these.

    Raises:
        NoServer: there is none, or it does not answer.
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
