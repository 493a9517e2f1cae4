"""What servers of storages have in common: each is a run's own, in the run's folder, ended with the run.

Only the standard library is imported here: peers use it from environments of their own, and what measures
must not depend on a driver that is measured.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from benchmarks import servers
from benchmarks.entry import Figures
from benchmarks.servers import read_cpu_seconds, read_parents

START_SECONDS = 30.0
LAST_PORT = 65_535
HOST = "127.0.0.1"


class NoServer(Exception):
    """A server's programs are not installed, or one of them failed."""


class StorageServer(Protocol):
    """A running server, whatever it stores jobs in."""

    port: int

    @property
    def url(self) -> str:
        """Where clients find it."""
        ...

    def url_at(self, port: int) -> str:
        """Where clients find it by a port that leads to it."""
        ...

    def cpu_seconds(self) -> float:
        """Return what it has used of the processors."""
        ...

    def meters(self) -> Mapping[str, int]:
        """Return what it counts by itself and never counts down; being asked is not counted."""
        ...

    def stored_bytes(self) -> int:
        """Return how much it keeps, in memory or on the disk, wherever its storage is."""
        ...


Running = Callable[[Path], AbstractContextManager[StorageServer]]
"""Runs an empty server in a folder for as long as the block lasts."""


class Process:
    """A running server of a database, with whatever processes it has."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.pid = process.pid
        self.port = port
        self.folder = folder

    def cpu_seconds(self) -> float:
        """Return what the server's processes have used of the processors, those already ended included."""
        children = [pid for pid, parent in read_parents().items() if parent == self.pid]
        return sum(read_cpu_seconds(pid) for pid in (self.pid, *children))


@contextmanager
def running(
    command: Sequence[object], *, place: Path, port: int, ready: bytes, identity: Mapping[str, object]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a folder, from its word in the log that it is ready to the end of the block.

    Raises:
        NoServer: it does not start.
    """
    with (place / "log").open("wb") as log:
        words = [str(word) for word in command]
        process = servers.start(words, cwd=place, stdout=log, stderr=log, **identity)
        try:
            wait_for(process, port, ready=ready, log=place / "log")
            yield process
        finally:
            process.kill()  # told to end, it would wait for those who are connected
            process.wait()
            end_orphans(place)


def without_rights(place: Path, account: str) -> dict[str, object]:
    """Return the options that start a program as somebody other than root, who owns the folder."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get(account) or known["nobody"]
    os.chown(place, entry.pw_uid, entry.pw_gid)
    place.parent.chmod(0o755)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def copying(kept: Path, data: Path) -> list[object]:
    """Return the command that copies a folder; the copy is whose who runs it."""
    return ["cp", "-R", kept, data]


def run_to_end(
    command: Sequence[object], *, place: Path, identity: Mapping[str, object], given: str = ""
) -> str:
    """Return what a program says, run in a folder with some input.

    Raises:
        NoServer: it failed.
    """
    ended = subprocess.run(  # type: ignore[call-overload]  # options by name
        [str(word) for word in command],
        cwd=place,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        **identity,
    )
    if ended.returncode:
        raise NoServer(ended.stdout + ended.stderr)
    return str(ended.stdout)


def wait_for(process: subprocess.Popen[bytes], port: int, *, ready: bytes, log: Path) -> None:
    """Return once the server says that it is ready, and accepts connections."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if ready in log.read_bytes():
            with socket.create_connection((HOST, port), timeout=START_SECONDS):
                return
        time.sleep(0.02)
    message = f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}"
    raise NoServer(message)


def find_port(*, last: int = LAST_PORT) -> int:
    """Return a port of the loopback address that nobody listens on."""
    while True:
        with socket.socket() as found:
            found.bind((HOST, 0))
            port: int = found.getsockname()[1]
        if port <= last:
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
