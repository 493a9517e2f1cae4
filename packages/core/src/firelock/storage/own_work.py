"""Marks the work that a server does for itself, so that a storage can keep connections free for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Marks(threading.local):
    depth = 0  # how many blocks of `server_work` this thread is in


_marks = _Marks()


@contextmanager
def server_work() -> Iterator[None]:
    """Mark the storage calls of this block, in this thread, as a server's own.

    These are claims, ends, renewals and upkeep, but not the calls of jobs and of applications.
    """
    _marks.depth += 1
    try:
        yield
    finally:
        _marks.depth -= 1


def is_server_work() -> bool:
    """Return whether the storage is called for a server's own work.

    If applications use up the connections, for example with calls that wait for a lock, a server must still
    be able to renew its sessions, settle and claim: a storage with a pool keeps a few connections for that.
    """
    return _marks.depth > 0
