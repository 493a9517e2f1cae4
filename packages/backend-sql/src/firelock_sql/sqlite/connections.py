"""The connections of one process: one that writes, guarded by a lock, and a few that read.

A fork leaves a process of its own behind: the child never touches its parent's connections, not even to close
them (that would checkpoint a log which the parent still writes), and opens new ones silently.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from firelock.storage import StorageError, StorageUnavailable
from firelock_sql.sqlite.failures import is_busy, is_worn, translated
from firelock_sql.url import SqliteUrl

__all__ = ["Connections"]

_T = TypeVar("_T")
_READERS = 4
_CACHE_KIB = 8_192
_STATEMENTS = 256
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02  # seconds between two tries for the writer's place

_open: weakref.WeakSet[Connections] = weakref.WeakSet()
_abandoned: list[object] = []  # connections of the process before the fork: kept, so that none is ever closed


def _leave_behind() -> None:
    for connections in list(_open):
        connections.leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)


class Connections:
    """Every connection to one file."""

    def __init__(self, url: SqliteUrl) -> None:
        self._url = url
        self._is_closed = False
        self._reset()
        _open.add(self)

    def _reset(self) -> None:
        self._writing = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._reading = threading.BoundedSemaphore(_READERS)
        self._readers: list[sqlite3.Connection] = []
        self._idle = threading.Lock()

    def leave_behind(self) -> None:
        """This is another process than the one that opened the connections: it opens its own."""
        _abandoned.append((self._writer, self._readers))
        self._reset()

    # ---- writing -----------------------------------------------------------------------------------------

    def write(self, work: Callable[[sqlite3.Cursor], _T]) -> _T:
        """The work is committed, tried again as a whole while another process writes."""
        deadline = time.monotonic() + self._url.busy_timeout_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                with translated(self._url.path), self._writing:
                    return self._write_once(work)
            except StorageUnavailable as error:
                if error.__cause__ is None or not is_busy(error.__cause__):
                    raise
                if time.monotonic() >= deadline:
                    raise
            # SQLite's own waiting is not fair; tries at random instants are.
            time.sleep(random.uniform(0, pause))  # noqa: S311 - not a secret
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _write_once(self, work: Callable[[sqlite3.Cursor], _T]) -> _T:
        connection = self._writer or self._open_writer()
        cursor = connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            result = work(cursor)
            cursor.execute("COMMIT")
        except BaseException as error:
            self._undo(connection, error)
            raise
        finally:
            cursor.close()
        return result

    def _undo(self, connection: sqlite3.Connection, error: BaseException) -> None:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if is_worn(error):
            self._writer = None
            with suppress(sqlite3.Error):
                connection.close()

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA synchronous = {self._url.synchronous}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    # ---- reading -----------------------------------------------------------------------------------------

    def read(self, work: Callable[[sqlite3.Cursor], _T]) -> _T:
        """Return what the work read from one snapshot."""
        with translated(self._url.path), self._reader() as connection:
            cursor = connection.cursor()
            try:
                cursor.execute("BEGIN")
                return work(cursor)
            finally:
                cursor.close()
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            with self._idle:
                self.check_open()
                connection = self._readers.pop() if self._readers else None
            if connection is None:
                connection = self._open_reader()
            try:
                yield connection
            except BaseException as error:
                if is_worn(error):
                    connection.close()
                    raise
                self._put_back(connection)
                raise
            self._put_back(connection)

    def _put_back(self, connection: sqlite3.Connection) -> None:
        with self._idle:
            if not self._is_closed:
                self._readers.append(connection)
                return
        connection.close()

    def _open_reader(self) -> sqlite3.Connection:
        if not self._url.path.exists():
            self.write(_nothing)  # makes the file, in write-ahead mode, before anybody reads it
        connection = self._connect(self._url.busy_timeout_seconds)
        connection.execute("PRAGMA query_only = ON")
        return connection

    # ---- both --------------------------------------------------------------------------------------------

    def _connect(self, timeout_seconds: float = 0.0) -> sqlite3.Connection:
        self.check_open()
        connection = sqlite3.connect(
            self._url.path,
            timeout=timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def check_open(self) -> None:
        """Nothing happens unless the storage is closed.

        Raises:
            StorageError: it is.
        """
        if self._is_closed:
            message = f"The storage {self._url} is closed; open another one."
            raise StorageError(message)

    def close(self) -> None:
        """Every connection is closed; those that read just now, when they have."""
        with self._writing, self._idle:
            self._is_closed = True
            connections = [*self._readers, *([self._writer] if self._writer else [])]
            self._readers, self._writer = [], None
            for connection in connections:
                with suppress(sqlite3.Error):
                    connection.close()


def _nothing(_cursor: sqlite3.Cursor) -> None:
    """The work of a transaction that only opens the file."""
