"""The connections of one process: one that writes, guarded by a lock, and a few that read.

SQLite remembers for the whole process which locks it holds on a file, and a child inherits that memory
without the locks. So before a fork every connection is closed, with nothing under way; parent and child open
new ones when they next need them.
"""

from __future__ import annotations

import logging
import math
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Protocol, TypeVar

from firelock.storage import StorageError, StorageUnavailable
from firelock_sql.sqlite.failures import is_busy, is_worn, translated
from firelock_sql.sqlite.holder import is_alone, is_written_here
from firelock_sql.url import SqliteUrl

__all__ = ["Connections", "no_work"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_READERS = 4
_CACHE_KIB = 8_192
_LOG_BYTES = 16 << 20  # to which the log shrinks again after a long reader has let it grow
_STATEMENTS = 256
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.005  # seconds between two tries for the writer's place

_LOOK_AFTER = 1.0  # seconds of waiting after which it is worth finding out for whom
_LONGEST_WAIT = 10.0  # seconds that a fork waits for what is under way

_open: weakref.WeakSet[Connections] = weakref.WeakSet()
_inherited: list[object] = []  # connections that could not be closed before a fork: never touched again


def _before_fork() -> None:
    for connections in list(_open):
        connections.rest()


def _after_fork_in_parent() -> None:
    for connections in list(_open):
        connections.go_on()


def _after_fork_in_child() -> None:
    for connections in list(_open):
        connections.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


class _Lock(Protocol):
    """What locks and semaphores have in common."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return whether it is held now."""
        ...

    def release(self) -> None:
        """It is free."""


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
        self._resting: list[_Lock] = []

    # ---- forks -------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Nothing is under way and no connection is open, until `go_on` or, in a child, `begin_anew`.

        A thread that forks in the middle of its own transaction keeps it open; its child cannot use the file.
        """
        deadline = time.monotonic() + _LONGEST_WAIT
        locks: list[_Lock] = [self._writing, *([self._reading] * _READERS), self._idle]
        self._resting = [
            lock for lock in locks if lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        ]
        if len(self._resting) == _READERS + 2 and not (self._writer and self._writer.in_transaction):
            self._close_all()

    def go_on(self) -> None:
        """The parent of a fork uses the file again."""
        resting, self._resting = self._resting, []
        for lock in reversed(resting):
            lock.release()

    def begin_anew(self) -> None:
        """The child of a fork uses the file with connections of its own."""
        _inherited.append((self._writer, self._readers))
        self._reset()

    # ---- writing -----------------------------------------------------------------------------------------

    def write(self, work: Callable[[sqlite3.Cursor], _T], patience_seconds: float | None = None) -> _T:
        """The work is committed, tried again as a whole while another transaction writes.

        Raises:
            StorageUnavailable: another one wrote for all of the patience; or, after a second, it turned out
                to be the caller's own, as nobody else is there.
        """
        if patience_seconds is None:
            patience_seconds = self._url.busy_timeout_seconds
        begun = time.monotonic()
        look_at, deadline = begun + min(_LOOK_AFTER, patience_seconds), begun + patience_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                with translated(self._url.path), self._writing:
                    return self._write_once(work)
            except StorageUnavailable as error:
                if error.__cause__ is None or not is_busy(error.__cause__):
                    raise
                now = time.monotonic()
                if now >= look_at:
                    look_at = math.inf
                    self._look_for_writer()
                if now >= deadline:
                    raise self._busy(now - begun, error.__cause__) from error.__cause__
            # SQLite's own waiting is not fair; tries at random instants are.
            time.sleep(random.uniform(0, pause))  # noqa: S311 - not a secret
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _look_for_writer(self) -> None:
        """The wait may be worth it; a writer of this process is named in the log.

        Raises:
            StorageUnavailable: this thread waits for its own transaction, since there is no other.
        """
        path = self._url.path
        if not is_written_here(path):
            return
        if is_alone():
            message = (
                f"SQLite database {path}: this thread waits for its own transaction, which has written to "
                "the file and is still open. Store the job in it, by task.using(within=session).enqueue(…), "
                "or commit it first."
            )
            raise _untouched(message)
        log.warning(
            "SQLite database %s: a transaction of this very process keeps a write waiting. If it is the "
            "caller's own, nothing ends it: pass within=session, or commit it first.", path,
        )  # fmt: skip

    def _busy(self, waited: float, error: BaseException) -> StorageUnavailable:
        whose = "of this process " if is_written_here(self._url.path) else ""
        return _untouched(
            f"SQLite database {self._url.path}: {error}, and was for {waited:.3g} s, since another "
            f"transaction {whose}writes to it. If that is your own, store the job in it by "
            "task.using(within=session)."
        )

    def _write_once(self, work: Callable[[sqlite3.Cursor], _T]) -> _T:
        connection = self._writer or self._open_writer()
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                result = work(cursor)
                cursor.execute("COMMIT")
        except BaseException as error:
            self._undo(connection, error)
            raise
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
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
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
            self.write(no_work)  # makes the file, in write-ahead mode, before anybody reads it
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
            self._close_all()

    def _close_all(self) -> None:
        connections = [*self._readers, *([self._writer] if self._writer else [])]
        self._readers, self._writer = [], None
        for connection in connections:
            with suppress(sqlite3.Error):
                connection.close()


def _untouched(message: str) -> StorageUnavailable:
    error = StorageUnavailable(message)
    error.is_untouched = True  # it never began
    return error


def no_work(_cursor: sqlite3.Cursor) -> None:
    """Nothing: the work of a transaction that only opens the file, or only asks whether it may begin."""
