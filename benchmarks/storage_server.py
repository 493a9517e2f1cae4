"""The common code of storage servers, which a run starts in its own folder and stops at its end.

This module imports only the standard library, because peers use it in separate environments, and measuring
code must not depend on a measured driver.
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
    """The programs of a server are not installed, or one of them failed."""


class StorageServer(Protocol):
    """A running server of any storage."""

    port: int

    @property
    def url(self) -> str:
        """The URL for clients."""
        ...

    def url_at(self, port: int) -> str:
        """Return the URL for clients through another port that forwards to the server."""
        ...

    def cpu_seconds(self) -> float:
        """Return the server's processor time."""
        ...

    def meters(self) -> Mapping[str, int]:
        """Return the server's own counters, which only increase; this query does not count."""
        ...

    def stored_bytes(self) -> int:
        """Return the number of stored bytes, in memory or on disk."""
        ...


Running = Callable[[Path], AbstractContextManager[StorageServer]]
"""A context manager that runs an empty server in a folder."""


class Process:
    """A running database server with its processes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.pid = process.pid
        self.port = port
        self.folder = folder

    def cpu_seconds(self) -> float:
        """Return the processor time of the server's processes, including ended ones."""
        children = [pid for pid, parent in read_parents().items() if parent == self.pid]
        return sum(read_cpu_seconds(pid) for pid in (self.pid, *children))


@contextmanager
def running(
    command: Sequence[object], *, place: Path, port: int, ready: bytes, identity: Mapping[str, object]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a folder, from the log line that it is ready to the end of the block.

    Raises:
        NoServer: If it does not start.
    """
    with (place / "log").open("wb") as log:
        words = [str(word) for word in command]
        process = servers.start(words, cwd=place, stdout=log, stderr=log, **identity)
        try:
            wait_for(process, port, ready=ready, log=place / "log")
            yield process
        finally:
            process.kill()  # a graceful end would wait for connected clients
            process.wait()
            end_orphans(place)


def without_rights(place: Path, account: str) -> dict[str, object]:
    """Return the options that start a program as the folder's owner, not as root."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get(account) or known["nobody"]
    os.chown(place, entry.pw_uid, entry.pw_gid)
    place.parent.chmod(0o755)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def copying(kept: Path, data: Path) -> list[object]:
    """Return the command that copies a folder; the copy belongs to the user who runs it."""
    return ["cp", "-R", kept, data]


def run_to_end(
    command: Sequence[object], *, place: Path, identity: Mapping[str, object], given: str = ""
) -> str:
    """Run a program in a folder with some input, and return its output.

    Raises:
        NoServer: If the program failed.
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
    """Wait until the server logs that it is ready, and accepts connections."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if ready in log.read_bytes():
            with socket.create_connection((HOST, port), timeout=START_SECONDS):
                return
        time.sleep(0.02)
    message = f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}"
    raise NoServer(message)


def find_port(*, last: int = LAST_PORT) -> int:
    """Return a free port of the loopback address."""
    while True:
        with socket.socket() as found:
            found.bind((HOST, 0))
            port: int = found.getsockname()[1]
        if port <= last:
            return port


def end_orphans(place: Path) -> None:
    """Wait until all processes of a killed server, which use its folder, have ended."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not any(is_in(pid, place) for pid in read_parents()):
            return
        time.sleep(0.02)


def is_in(pid: int, place: Path) -> bool:
    """Return whether a process's working directory is in a folder."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(place)
    except OSError:
        return False


def with_storage(figures: Figures, cpu: float, *, jobs: int) -> Figures:
    """Return a client's figures with the server's processor time, in the sum and as a separate figure."""
    of_storage = cpu / jobs * 1e6
    total = figures["cpu_us_per_job"] + of_storage
    return {**figures, "cpu_us_per_job": total, "storage_us_per_job": of_storage}
