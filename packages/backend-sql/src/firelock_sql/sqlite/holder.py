"""Who holds the file's one writer's place: SQLite says that somebody does, not who.

A thread that waits for a transaction of its own waits in vain, for nothing else will end that. What may be
known of it: Linux lists the locks of each process, and the frames of this thread hold the transaction that it
has open, or an object that does.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Connection

__all__ = ["is_own_transaction", "is_written_here"]

_LOCKS = Path("/proc/locks")
_WRITERS_PLACE = 120  # the byte of the shared-memory file that a writer locks: "WAL-Index Format" of SQLite
_FIELDS = 8  # of a line: number, POSIX, ADVISORY, WRITE, process, device and inode, first byte, last byte


def is_written_here(path: Path) -> bool | None:
    """Tell whether a transaction of this process writes to the file; None where the system does not say.

    Only listed, never opened: closing the file would end this process's locks on it.
    """
    try:
        inode = str(path.with_name(f"{path.name}-shm").stat().st_ino)
        lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) != _FIELDS or (fields[1], fields[3]) != ("POSIX", "WRITE"):
            continue
        first, last = fields[6], fields[7]
        if fields[5].rpartition(":")[2] == inode and first == last == str(_WRITERS_PLACE):
            return fields[4] == str(os.getpid())
    return None  # it ended just now, or is another container's


def is_own_transaction(path: Path) -> bool:
    """Tell whether this very thread keeps a transaction on the file open, which can be found.

    Looked at are the variables of all calls under way here, with the attributes of those; what their modules
    have of sessions that belong to a thread each; and Django's connections of this thread. A program without
    other threads has nobody else who could write.
    """
    if threading.active_count() == 1:
        return True
    found = chain(_in_sight(), _scoped_sessions(), _of_django())
    return any(
        driver.in_transaction and _is_on(driver, path) for value in found for driver in _drivers(value)
    )


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented, and the only way to one's calls
    while frame is not None:
        yield frame
        frame = frame.f_back


def _in_sight() -> Iterator[object]:
    seen: set[int] = set()
    for frame in _frames():
        for value in list(frame.f_locals.values()):
            if id(value) not in seen:
                seen.add(id(value))
                yield value
                yield from list(_attributes(value).values())


def _scoped_sessions() -> Iterator[object]:
    """Yield the sessions that this thread has of registries such as Flask-SQLAlchemy's `db.session`."""
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is None:
        return
    modules = {id(frame.f_globals): frame.f_globals for frame in _frames()}
    for variables in modules.values():
        for value in list(variables.values()):
            for one in (value, *list(_attributes(value).values())):
                if type(one) is orm.scoped_session and one.registry.has():
                    yield one.registry()


def _of_django() -> Iterator[object]:
    django = sys.modules.get("django.db")
    if django is None:
        return
    with suppress(Exception):  # it is loaded and not set up
        yield from [each.connection for each in django.connections.all(initialized_only=True)]


def _attributes(value: object) -> dict[str, object]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _drivers(value: object) -> Iterator[sqlite3.Connection]:
    """Yield the driver's connections of a connection or session that has a transaction."""
    if isinstance(value, sqlite3.Connection):
        yield value
    elif isinstance(value, Connection):
        if not value.closed and not value.invalidated and value.in_transaction():
            driver: Any = value.connection.driver_connection
            if isinstance(driver, sqlite3.Connection):
                yield driver
    elif (orm := sys.modules.get("sqlalchemy.orm")) is not None and isinstance(value, orm.Session):
        # Asking it for a connection would take one from the pool; the ones it has are a private attribute.
        for connection in tuple(getattr(value.get_transaction(), "_connections", ())):
            if isinstance(connection, Connection):
                yield from _drivers(connection)


def _is_on(driver: sqlite3.Connection, path: Path) -> bool:
    with suppress(sqlite3.Error):  # another thread's connection, or one that is closed
        files = {name: file for _, name, file in driver.execute("PRAGMA database_list").fetchall()}
        return bool(files.get("main")) and Path(files["main"]).resolve() == path.resolve()
    return False
