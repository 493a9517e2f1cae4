"""Ports of loopback for the tests' own servers, which no other server and no other run uses."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from functools import cache
from pathlib import Path

HOST = "127.0.0.1"

# These ports are below those that the kernel assigns to programs that request any port. A server that is
# restarted therefore finds its own port free. They are also low enough for the second port of a Redis
# Cluster, which is 10,000 higher.
_PORTS = range(11_000, 22_000)
_BUS = 10_000
_taken: set[int] = set()


def free_port() -> int:
    """Return a free port whose cluster port is free as well; never return the same port twice.

    This process keeps the port until it ends, so concurrent test runs never try the same one.
    """
    for port in _PORTS:
        if port not in _taken and _is_reserved(port) and _is_free(port) and _is_free(port + _BUS):
            return port
    raise RuntimeError(f"No free port from {_PORTS.start} to {_PORTS.stop}.")


def _is_reserved(port: int) -> bool:
    """Lock the byte of a file that represents the port.

    The kernel releases the lock when the process ends.
    """
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
