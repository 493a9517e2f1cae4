"""Marks for a server's own storage calls, so that a storage can keep connections free for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Marks(threading.local):
    depth = 0  # number of nested blocks of `server_work` in this thread
    has_own_connection = False


_marks = _Marks()


@contextmanager
def server_work(*, has_own_connection: bool = False) -> Iterator[None]:
    """Mark the storage calls of this block, in this thread, as a server's own.

    A server's own calls claim and settle jobs, renew sessions and do upkeep. Calls by jobs and applications
    are not included.

    Args:
        has_own_connection: whether a storage with a pool must give this thread a connection that no other
            work uses.
    """
    before = _marks.has_own_connection
    _marks.depth += 1
    _marks.has_own_connection = has_own_connection
    try:
        yield
    finally:
        _marks.depth -= 1
        _marks.has_own_connection = before


def is_server_work() -> bool:
    """Return whether the current call is part of a server's own work.

    Applications can use up all connections, for example with calls that wait for a lock. A server must still
    be able to renew its sessions and to settle and claim jobs, so a storage with a pool keeps a few
    connections free for this work.
    """
    return _marks.depth > 0


def has_own_connection() -> bool:
    """Return whether this work must never wait for a free connection in a pool."""
    return _marks.has_own_connection
