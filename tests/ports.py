"""Where the tests' own servers listen: at ports of loopback that are no other's, in no other run either."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from functools import cache
from pathlib import Path

HOST = "127.0.0.1"

# Below the ports that the kernel gives to whoever asks for any, so that a server finds its own again when it
# is started anew; and so low that a Redis Cluster's second port, 10,000 above, is one as well.
_PORTS = range(11_000, 22_000)
_BUS = 10_000
_taken: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, whose cluster port is free as well; never twice the same one.

    It is this process's until it ends: test runs beside each other never try the same one.
    """
    for port in _PORTS:
        if port not in _taken and _is_reserved(port) and _is_free(port) and _is_free(port + _BUS):
            return port
    raise RuntimeError(f"No free port from {_PORTS.start} to {_PORTS.stop}.")


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
