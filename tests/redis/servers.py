"""A Redis or Valkey for tests: on loopback and a socket, in its own folder, deleted after the test."""

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
        program: the Redis or Valkey program.
        options: lines of its configuration, for example `{"maxmemory": "10mb"}`; a list for a repeated
            option. `client` also uses a password given as `requirepass`.
        tls: a folder with `ca.crt`, `server.crt` and `server.key`; the server then accepts only TLS.
        arguments: further command-line arguments, such as `--sentinel`.

    The data survive `stop` and `kill` only with such options as `{"appendonly": "yes"}`.
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
        # The path of a socket has only about a hundred bytes, most of which pytest's folders would take.
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

    # ---- addresses ---------------------------------------------------------------------------------------

    @property
    def address(self):
        """Host and port."""
        return HOST, self.port

    def url(self, *, port=None, options=""):
        """Return Firelock's URL of the server, with options such as `prefix=a`.

        With `port`, it is the URL through a proxy in front of the server.
        """
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{HOST}:{port or self.port}/0{'?' if options else ''}{options}"

    def socket_url(self, options=""):
        """Return Firelock's URL of the server's socket."""
        return f"unix://{self.socket}{'?' if options else ''}{options}"

    def client(self):
        """Return a client for tests that uses the socket; it is closed with the server.

        The client never repeats a command, because a test must notice that the server is unreachable.
        """
        client = self._connect()
        self._clients.append(client)
        return client

    def call(self, *command):
        """Return the unchanged reply to a command, on a separate connection."""
        with self._connect() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def _connect(self):
        return redis.Redis(
            unix_socket_path=str(self.socket), password=self.options.get("requirepass"),
            decode_responses=True, protocol=2, socket_timeout=DEADLINE, retry=None,
        )  # fmt: skip

    # ---- start and stop ----------------------------------------------------------------------------------

    def _command(self):
        configuration = self.folder / "redis.conf"
        if not configuration.exists():  # a Sentinel stores its state in its own configuration
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
            return self.call("PING") == "PONG"
        except redis.RedisError as error:
            raise AssertionError(error) from error

    def pause(self):
        """Pause the process: connections stay open, the kernel accepts new ones, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        eventually(lambda: _is_standing(self.pid), within=DEADLINE)

    def resume(self):
        """Let the paused process continue."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self):
        """Stop the server and delete its folder."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        super().close()

    # ---- contents ----------------------------------------------------------------------------------------

    def empty(self):
        """Delete all keys and scripts."""
        self.call("FLUSHALL")

    def info(self, section):
        """Return a section of INFO, with its values as strings."""
        lines = str(self.call("INFO", section)).splitlines()
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
