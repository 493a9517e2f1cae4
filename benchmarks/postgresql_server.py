"""A PostgreSQL server of a run's own: started in the run's folder, watched from outside, ended with the run.

Only the standard library is imported here: peers use it from environments of their own, and what measures
must not depend on a driver that is measured.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.entry import Figures
from benchmarks.servers import read_cpu_seconds, read_parents

START_SECONDS = 30.0
PACKAGES = Path("/usr/lib/postgresql")
USER, DATABASE = "postgres", "bench"
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
"""Full durability. Memory and log are larger than as it ships, so that checkpoints do not come by chance."""


class NoPostgresql(Exception):
    """No PostgreSQL is installed, or it would not start."""


class PostgresqlServer:
    """A running server and its processes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.pid = process.pid
        self.port = port
        self.folder = folder

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """Where clients find it by a port that leads to it."""
        return f"postgresql://{USER}@127.0.0.1:{port}/{DATABASE}"

    def cpu_seconds(self) -> float:
        """Return what the server's processes have used of the processors, those already ended included."""
        parents = read_parents()
        children = [pid for pid, parent in parents.items() if parent == self.pid]
        return sum(read_cpu_seconds(pid) for pid in (self.pid, *children))


def find_folder() -> Path:
    """Return where the programs of the newest PostgreSQL here are.

    Raises:
        NoPostgresql: there is none.
    """
    on_path = shutil.which("postgres")
    found = [place.parent for place in PACKAGES.glob("*/bin/postgres")]
    found += [Path(on_path).resolve().parent] if on_path else []
    if not found:
        message = "No PostgreSQL is here. Install one, for instance Debian's package postgresql."
        raise NoPostgresql(message)
    return max(found, key=read_version)


def read_version(folder: Path) -> tuple[int, ...]:
    """Return the version of a PostgreSQL, as in `postgres (PostgreSQL) 15.14 (Debian …)`."""
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PostgreSQL\) ([\d.]+)", said.stdout)
    if found is None:
        raise NoPostgresql(said.stdout)
    return tuple(int(part) for part in found[1].split("."))


def describe() -> dict[str, object]:
    """Return the version and the settings of the server that runs would start."""
    version = ".".join(str(part) for part in read_version(find_folder()))
    return {"version": version, "settings": {**SETTINGS, "connections": "TCP on loopback"}}


@contextmanager
def running(directory: Path) -> Iterator[PostgresqlServer]:
    """Run a server with an empty database for as long as the block lasts.

    Raises:
        NoPostgresql: there is none, or it does not answer.
    """
    programs, place, port = find_folder(), directory / "postgresql", find_port()
    place.mkdir()
    identity = without_rights(place)
    data = place / "data"
    made = [programs / "initdb", "-D", data, "-U", USER, "-E", "UTF8", "--locale=C", "--auth=trust"]
    run_to_end([str(word) for word in made], place, identity)
    options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    command = [programs / "postgres", "-D", data, "-p", str(port), "-k", "", *options]
    with (place / "log").open("wb") as log:
        process = servers.start(
            [str(word) for word in command], cwd=place, stdout=log, stderr=log, **identity
        )
        try:
            wait_for(process, port, log=place / "log")
            create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, DATABASE]
            run_to_end([str(word) for word in create], place, identity)
            yield PostgresqlServer(process, port, place)
        finally:
            process.terminate()  # for as long as others are connected it would wait for them
            process.kill()
            process.wait()
            end_orphans(place)


def without_rights(place: Path) -> dict[str, object]:
    """Return the options that start a program as somebody other than root, who owns the folder."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    os.chown(place, entry.pw_uid, entry.pw_gid)
    place.parent.chmod(0o755)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run_to_end(command: list[str], place: Path, identity: Mapping[str, object]) -> None:
    """Run a program of PostgreSQL's; what it says is told where it fails."""
    ended = subprocess.run(  # type: ignore[call-overload]  # options by name
        command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **identity
    )
    if ended.returncode:
        raise NoPostgresql(ended.stdout + ended.stderr)


def wait_for(process: subprocess.Popen[bytes], port: int, *, log: Path) -> None:
    """Return once the server accepts connections and says that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if b"ready to accept connections" in log.read_bytes():
            with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS):
                return
        time.sleep(0.02)
    message = f"postgres did not start: {log.read_text(errors='replace')[-2000:]}"
    raise NoPostgresql(message)


def find_port() -> int:
    """Return a port of the loopback address that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def end_orphans(place: Path) -> None:
    """Return once none of the server's processes has its folder any more: they end when it is killed."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not any(is_in(pid, place) for pid in read_parents()):
            return
        time.sleep(0.02)


def is_in(pid: int, place: Path) -> bool:
    """Tell whether a process works in a folder or below it."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(place)
    except OSError:
        return False


def with_storage(figures: Figures, cpu: float, *, jobs: int) -> Figures:
    """Return the figures of a client with the server's processor time in the sum and on a line of its own."""
    of_storage = cpu / jobs * 1e6
    total = figures["cpu_us_per_job"] + of_storage
    return {**figures, "cpu_us_per_job": total, "storage_us_per_job": of_storage}
