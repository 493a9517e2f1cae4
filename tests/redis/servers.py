"""A Redis or Valkey of a test's own: on loopback and a socket, in a folder of its own, gone with the test."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from firelock.testing import eventually
from tests.redis.programs import Program

__all__ = ["HOST", "RedisServer", "free_port", "start_program"]

HOST = "127.0.0.1"
DEADLINE = 60.0

# Below the ports that the kernel gives to whoever asks for any, so that a server finds its own again when it
# is started anew; and so low that a cluster's second port, 10,000 above, is one as well.
_PORTS = range(11_000, 22_000)
_BUS = 10_000
_taken: set[int] = set()

# Python that becomes the program: the kernel kills it with its parent, and nothing is forked beside threads.
_BOUND = """
import ctypes, os, sys
parent, *command = sys.argv[1:]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("the tests are over")
os.execv(command[0], command)
"""

_DEFAULTS: Mapping[str, str] = {
    "bind": HOST,
    "save": '""',
    "unixsocketperm": "700",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


def free_port() -> int:
    """Return a port that nobody listens on, whose cluster port is free as well; never twice the same one.

    It is this process's until it ends: test runs beside each other never try the same one.
    """
    for port in _PORTS:
        if port not in _taken and _is_reserved(port) and _is_free(port) and _is_free(port + _BUS):
            return port
    message = f"No free port from {_PORTS.start} to {_PORTS.stop}."
    raise RuntimeError(message)


def _is_reserved(port: int) -> bool:
    """A byte of a file stands for each port, and the kernel gives its lock back when the process ends."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _taken.add(port)
    return True


@cache
def _reservations() -> int:
    path = Path(tempfile.gettempdir()) / f"firelock-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
        return True


def start_program(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Return the process of a program that dies with this one; what it says is added to the log.

    On Linux it dies with the thread that started it: start it in the one that the tests run in.
    """
    bound = [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *command]
    with log.open("ab") as out:
        return subprocess.Popen(
            bound, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


class RedisServer:
    """One server. It is started by `with`, or by `start`, and then has to be closed.

    Args:
        program: which Redis or Valkey.
        options: lines of its configuration, `{"maxmemory": "10mb"}`; a list for an option that is repeated. A
            password given as `requirepass` is used by `client` and `url` as well.
        tls: a folder with `ca.crt`, `server.crt` and `server.key`; it then listens with TLS alone.
        arguments: words behind the configuration's name, such as `--sentinel`.

    Data outlive `stop` and `kill` only where the options say so: `{"appendonly": "yes"}`.
    """

    def __init__(
        self,
        program: Program,
        options: Mapping[str, str | Sequence[str]] | None = None,
        *,
        tls: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.program = program
        self.port = free_port()
        # A socket's whole path has room for some hundred bytes; pytest's folders would take most of them.
        self.folder = Path(tempfile.mkdtemp(prefix="firelock-redis-"))
        self.socket = self.folder / "socket"
        self.log = self.folder / "log"
        self.options: dict[str, str | Sequence[str]] = {
            **_DEFAULTS, "dir": str(self.folder), "unixsocket": str(self.socket),
            **_listening(self.port, tls), **(options or {}),
        }  # fmt: skip
        self._tls = tls
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []

    # ---- where it is -------------------------------------------------------------------------------------

    @property
    def password(self) -> str | None:
        """The password of its options."""
        password = self.options.get("requirepass")
        return None if password is None else str(password)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    def url(self, *, port: int | None = None, options: str = "") -> str:
        """Return Firelock's URL of it, or of a proxy's port before it, with options such as `prefix=a`."""
        scheme = "rediss" if self._tls else "redis"
        secret = f":{self.password}@" if self.password else ""
        return f"{scheme}://{secret}{HOST}:{port or self.port}/0{'?' if options else ''}{options}"

    def socket_url(self, options: str = "") -> str:
        """Return Firelock's URL of its socket."""
        secret = f":{self.password}@" if self.password else ""
        return f"unix://{secret}{self.socket}{'?' if options else ''}{options}"

    def client(self) -> redis.Redis:
        """Return a client of the test's own, by the socket; it is closed with the server.

        It never tries twice: a test that talks to a server that is away has to learn it.
        """
        client = self._connect()
        self._clients.append(client)
        return client

    def ask(self, *command: str | float) -> object:
        """Return its reply to a command as it came, on a connection of this call alone."""
        with self._connect() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def _connect(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket), password=self.password, decode_responses=True, protocol=2,
            socket_timeout=DEADLINE, retry=None,
        )  # fmt: skip

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    # ---- its life ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, be it paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """It answers. Started again, it is at the same port, with what it kept."""
        assert not self.is_running, "it runs already"
        configuration = self.folder / "redis.conf"
        if not configuration.exists():  # Sentinel writes what it has learnt into its own
            configuration.write_text(self._lines(), "utf-8")
        self.socket.unlink(missing_ok=True)
        command = [self.program.path, str(configuration), *self._arguments]
        self._process = start_program(command, self.log)
        self.await_ready()
        return self

    def _lines(self) -> str:
        lines = [
            f"{name} {value}\n"
            for name, values in self.options.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        return "".join(lines)

    def await_ready(self) -> None:
        """It answers, and has loaded what it kept."""
        eventually(self._is_ready, within=DEADLINE)

    def _is_ready(self) -> bool:
        if not self.is_running:
            message = f"{self.program} ended at its start: {self.said()[-2_000:]}"
            raise RuntimeError(message)
        try:
            return self.ask("PING") == "PONG"
        except redis.RedisError as error:
            raise AssertionError(error) from error

    def stop(self) -> None:
        """It has ended as an operator ends it, by SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """It has ended as by `kill -9`."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        self._process = None

    def restart(self) -> None:
        """It was stopped and has been started again."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It stands still: connections stay, new ones are accepted by the kernel, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        eventually(lambda: _is_standing(self.pid), within=DEADLINE)

    def resume(self) -> None:
        """It goes on where it stood."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """It has ended, and its folder is gone."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start it."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    # ---- what is in it -----------------------------------------------------------------------------------

    def empty(self) -> None:
        """It holds no key and no script."""
        self.ask("FLUSHALL")

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO as it is written."""
        lines = str(self.ask("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


def _listening(port: int, tls: Path | None) -> dict[str, str]:
    if tls is None:
        return {"port": str(port)}
    return {
        "port": "0", "tls-port": str(port), "tls-auth-clients": "no", "tls-ca-cert-file": str(tls / "ca.crt"),
        "tls-cert-file": str(tls / "server.crt"), "tls-key-file": str(tls / "server.key"),
    }  # fmt: skip


def _is_standing(pid: int) -> bool:
    if sys.platform != "linux":
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
