"""A fault proxy in front of a Redis that reads and counts the commands."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.faults.proxy import FaultProxy, Traffic

_END = b"\r\n"


class CommandReader:
    """A reader of commands (arrays of strings) in a connection's bytes, which arrive in arbitrary pieces."""

    def __init__(self):
        self._rest = b""

    def read(self, piece):
        """Return the commands that this piece completes, each with its arguments."""
        self._rest += piece
        commands: list[list[bytes]] = []
        while (found := _first_command(self._rest)) is not None:
            command, self._rest = found
            commands.append(command)
        return commands


def _first_command(text):
    """Return the first command and the rest, or None if the command is incomplete."""
    head, is_whole, rest = text.partition(_END)
    if not is_whole:
        return None
    assert head.startswith(b"*"), f"no command: {head!r}"
    words: list[bytes] = []
    for _ in range(int(head[1:])):
        head, is_whole, rest = rest.partition(_END)
        if not is_whole:
            return None
        size = int(head[1:])
        if len(rest) < size + len(_END):
            return None
        words.append(rest[:size])
        rest = rest[size + len(_END) :]
    return words, rest


class CountingProxy(FaultProxy):
    """A fault proxy in front of a server without TLS that reads the commands."""

    def __init__(self, server):
        super().__init__(server.address, on_sent=self._read)
        self._redis = server
        self._readers: defaultdict[int, CommandReader] = defaultdict(CommandReader)
        self._commands: Counter[str] = Counter()

    def url(self, options=""):
        """Return Firelock's URL of the server through this proxy."""
        return self._redis.url(port=self.port, options=options)

    def _read(self, connection, piece):
        for command, *_ in self._readers[connection].read(piece):
            self._commands[command.decode().upper()] += 1

    @property
    def commands(self):
        """The number of commands by name; commands in a transaction or a pipeline count separately."""
        return self._commands.copy()

    def measure(self):
        """Return a context manager that measures `traffic` and `commands`."""
        return Measure(self)


class Measure:
    """The traffic of a proxy within a `with` block."""

    def __init__(self, proxy):
        self._proxy = proxy
        self.traffic = Traffic()
        self.commands: Counter[str] = Counter()

    def __enter__(self):
        """Start to count."""
        self._before = self._proxy.traffic, self._proxy.commands
        return self

    def __exit__(self, *_):
        """Stop counting."""
        traffic, commands = self._before
        self.traffic = self._proxy.traffic - traffic
        self.commands = self._proxy.commands - commands
