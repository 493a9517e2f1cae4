"""A Redis or Valkey of a test's own: on loopback and a socket, in a folder of its own, gone with the test."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import redis

from firelock.testing import eventually
from tests.ports import HOST, free_port
from tests.processes import Process, state_of

DEADLINE = 60.0

_DEFAULTS: Mapping[str, str] = {
    "bind": HOST,
    "save": '""',
    "unixsocketperm": "700",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


class RedisServer(Process):
    """One server; see `Process`.

    Args:
        program: which Redis or Valkey.
        options: lines of its configuration, `{"maxmemory": "10mb"}`; a list for an option that is repeated. A
            password given as `requirepass` is used by `client` as well.
        tls: a folder with `ca.crt`, `server.crt` and `server.key`; it then listens with TLS alone.
        arguments: words behind the configuration's name, such as `--sentinel`.

    Data outlive `stop` and `kill` only where the options say so: `{"appendonly": "yes"}`.
    """

    deadline = DEADLINE

    def __init__(
        self,
        program,
        options=None,
        *,
        tls=None,
        arguments=(),
    ):
        # A socket's whole path has room for some hundred bytes; pytest's folders would take most of them.
        super().__init__(Path(tempfile.mkdtemp(prefix="firelock-redis-")))
        self.program = program
        self.is_of_a_wheel = program.is_of_a_wheel
        self.port = free_port()
        self.socket = self.folder / "socket"
        self.options: dict[str, str | Sequence[str]] = {
            **_DEFAULTS, "dir": str(self.folder), "unixsocket": str(self.socket),
            **_listening(self.port, tls), **(options or {}),
        }  # fmt: skip
        self._tls = tls
        self._arguments = tuple(arguments)
        self._clients: list[redis.Redis] = []

    # ---- where it is -------------------------------------------------------------------------------------

    @property
    def address(self):
        """Host and port."""
        return HOST, self.port

    def url(self, *, port=None, options=""):
        """Return Firelock's URL of it, or of a proxy's port before it, with options such as `prefix=a`."""
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{HOST}:{port or self.port}/0{'?' if options else ''}{options}"

    def socket_url(self, options=""):
        """Return Firelock's URL of its socket."""
        return f"unix://{self.socket}{'?' if options else ''}{options}"

    def client(self):
        """Return a client of the test's own, by the socket; it is closed with the server.

        It never tries twice: a test that talks to a server that is away has to learn it.
        """
        client = self._connect()
        self._clients.append(client)
        return client

    def ask(self, *command):
        """Return its reply to a command as it came, on a connection of this call alone."""
        with self._connect() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def _connect(self):
        return redis.Redis(
            unix_socket_path=str(self.socket), password=self.options.get("requirepass"),
            decode_responses=True, protocol=2, socket_timeout=DEADLINE, retry=None,
        )  # fmt: skip

    # ---- its life ----------------------------------------------------------------------------------------

    def _command(self):
        configuration = self.folder / "redis.conf"
        if not configuration.exists():  # Sentinel writes what it has learnt into its own
            configuration.write_text(self._lines(), "utf-8")
        self.socket.unlink(missing_ok=True)
        return [self.program.path, configuration, *self._arguments]

    def _lines(self):
        lines = [
            f"{name} {value}\n"
            for name, values in self.options.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        return "".join(lines)

    def _answers(self):
        try:
            return self.ask("PING") == "PONG"
        except redis.RedisError as error:
            raise AssertionError(error) from error

    def pause(self):
        """It stands still: connections stay, new ones are accepted by the kernel, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        eventually(lambda: _is_standing(self.pid), within=DEADLINE)

    def resume(self):
        """It goes on where it stood."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self):
        """It has ended, and its folder is gone."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        super().close()

    # ---- what is in it -----------------------------------------------------------------------------------

    def empty(self):
        """It holds no key and no script."""
        self.ask("FLUSHALL")

    def info(self, section):
        """Return a section of INFO as it is written."""
        lines = str(self.ask("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


def _listening(port, tls):
    if tls is None:
        return {"port": str(port)}
    return {
        "port": "0", "tls-port": str(port), "tls-auth-clients": "no", "tls-ca-cert-file": str(tls / "ca.crt"),
        "tls-cert-file": str(tls / "server.crt"), "tls-key-file": str(tls / "server.key"),
    }  # fmt: skip


def _is_standing(pid):
    return sys.platform != "linux" or state_of(pid) == "T"
