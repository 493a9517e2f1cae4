"""One SQLite file and its connections: one for writing, guarded by a lock, and a few for reading."""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
import socket
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from inspect import isbuiltin
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from typing_extensions import override

from firelock import ConfigurationError
from firelock.storage import Finding, StorageError, StorageUnavailable
from firelock_sql.connections.database import Database
from firelock_sql.connections.notify import SocketMailbox, Wake
from firelock_sql.connections.transaction import Cursor, Transaction
from firelock_sql.connections.url import SqliteUrl
from firelock_sql.connections.within import Joined, NotifyLater, skip_notification
from firelock_sql.sqlite import health

_T = TypeVar("_T")
_MOMENT_SECONDS = 0.2
_COUNT = (
    "INSERT INTO firelock_counts (state, queue, jobs) VALUES (?, ?, ?)"
    " ON CONFLICT (state, queue) DO UPDATE SET jobs = jobs + excluded.jobs"
)


class SqliteDatabase(Database):
    """One file, shared by all processes on one host."""

    raw_kind = "a sqlite3.Connection"
    locks_rows = False

    def __init__(self, url: SqliteUrl, wall_nanos: Callable[[], int] = time.time_ns) -> None:
        self.url = url
        self._wall_nanos = wall_nanos  # SQLite itself has no clock
        self.name = self.connect_url = str(url)  # the URL of a file contains no password
        self.dialect = SQLiteDialect_pysqlite(paramstyle="qmark")
        self._connections = FileConnections(url)
        is_waking = url.is_waking and hasattr(socket, "AF_UNIX")
        super().__init__(self._connections, Wake((lambda: SocketMailbox(url.path)) if is_waking else None))

    # ---- transactions ------------------------------------------------------------------------------------

    @override
    def transact(self, work: Callable[[Transaction], _T], *, is_writing: bool) -> _T:
        run = self._connections.write if is_writing else self._connections.read
        return run(lambda cursor: work(Transaction(cursor, self.dialect, self.clock())))

    @override
    def write_counts(self, tx: Transaction) -> None:
        rows = [(state, queue, number) for (state, queue), number in tx.deltas.items() if number]
        tx.deltas.clear()
        if rows:
            tx.cursor.executemany(_COUNT, rows)

    @override
    def has_tables(self, tx: Transaction) -> bool:
        tx.cursor.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'firelock_schema'")
        return tx.cursor.fetchone() is not None

    @override
    def prepare_migration(self, tx: Transaction) -> None:
        """Do nothing, because the transaction has locked the whole file."""

    @override
    def clock(self) -> int:
        return self._wall_nanos() // 1_000 + self.clock_offset

    @override
    def tidy(self) -> None:
        """Do nothing, because every transaction stores its own counts."""

    # ---- transactions of callers -------------------------------------------------------------------------

    @override
    def raw_transaction(self, within: object) -> Joined | None:
        if not isinstance(within, sqlite3.Connection):
            return None
        return Joined(within, self.dialect, "", within.cursor, skip_notification)

    @override
    def connection_transaction(self, connection: Connection, notify_later: NotifyLater) -> Joined:
        if connection.dialect.name != "sqlite":
            raise self._elsewhere(repr(connection.engine.url))
        connection.exec_driver_sql("SELECT 1")  # makes SQLAlchemy register the start of a transaction
        pooled = connection.connection
        cursor = cast("Callable[[], Cursor]", pooled.cursor)
        return Joined(pooled.driver_connection, self.dialect, "", cursor, notify_later)

    @override
    @contextmanager
    def borrowed(self, driver: Any) -> Iterator[None]:
        with translated(self.url.path):
            yield

    @override
    def join(self, within: object, work: Callable[[Transaction], _T], *, is_adding_alone: bool = False) -> _T:
        if not self._is_checked and self.schema_state().found == 0:
            self._check_lock()
        return super().join(within, work, is_adding_alone=is_adding_alone)

    @override
    def run_joined(self, callers: Joined, work: Callable[[Transaction], _T]) -> _T:
        """Run Firelock's statements; begin the driver's transaction if none is open.

        Outside a transaction, releasing a savepoint would commit.
        """
        cursor = callers.open_cursor()
        self._check_same_file(cursor)
        if not callers.driver.in_transaction:
            if callers.driver.isolation_level is None:
                raise ConfigurationError(
                    "within must have an open transaction, got a connection in autocommit mode without one. "
                    "Begin one first."
                )
            cursor.execute("BEGIN IMMEDIATE")
        return super().run_joined(callers, work)

    @override
    def begin_joined(self, callers: Joined, cursor: Cursor) -> Transaction:
        return Transaction(cursor, self.dialect, self.clock())

    def _check_same_file(self, cursor: Cursor) -> None:
        cursor.execute("PRAGMA database_list")
        files = {str(name): str(file or "") for _, name, file, *_ in cursor.fetchall()}
        found = files.get("main", "")
        if not found or Path(found).resolve() != self.url.path.resolve():
            raise self._elsewhere(found or "a database in memory")

    def _elsewhere(self, place: str) -> ConfigurationError:
        return ConfigurationError(
            f"within must be a transaction on {self.url.path}, where jobs are stored, got one on {place}."
        )

    def _check_lock(self) -> None:
        """Check that tables can be created, which requires that no other transaction holds the write lock.

        Raises:
            StorageUnavailable: If another transaction, for example the caller's, holds the write lock.
        """
        try:
            self._connections.write(no_work, _MOMENT_SECONDS)
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"{self.name} has no tables yet, and they cannot be created while a transaction writes to "
                "the file. Run firelock migrate, or call storage.migrate(), before you enqueue jobs in "
                "transactions."
            ) from error

    # ---- other methods -----------------------------------------------------------------------------------

    @override
    def describe(self) -> Mapping[str, str]:
        wake = self.wake.describe()
        return self._connections.read(lambda cursor: health.describe(cursor, self.url, wake))

    @override
    def diagnose(self) -> list[Finding]:
        return self._connections.read(lambda cursor: health.diagnose(cursor, self.url))


log = logging.getLogger(__name__)

_READERS = 4
_CACHE_KIB = 8_192
_LOG_BYTES = 16 << 20  # size limit of the log, applied after a long read has let it grow
_STATEMENTS = 256
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.005  # seconds between two attempts to get the write lock

_CHECK_AFTER = 1.0  # seconds to wait before checking which process is writing
_LONGEST_WAIT = 10.0  # maximum number of seconds that a fork waits for open transactions

_open: weakref.WeakSet[FileConnections] = weakref.WeakSet()
# connections that could not be closed before a fork, so the child process must never use them
_inherited: list[object] = []


def _before_fork() -> None:
    for connections in list(_open):
        connections.rest()


def _after_fork_in_parent() -> None:
    for connections in list(_open):
        connections.go_on()


def _after_fork_in_child() -> None:
    for connections in list(_open):
        connections.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


class _Lock(Protocol):
    """The common methods of locks and semaphores."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Return whether the lock has been acquired."""
        ...

    def release(self) -> None:
        """Release the lock."""


class FileConnections:
    """All connections to one file."""

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
        """Wait for open transactions and close all connections before a fork.

        Afterwards, the parent process calls `go_on`, and the child process `reset_after_fork`. If a thread
        forks during its own transaction, the transaction stays open, and the child process cannot use the
        file.
        """
        deadline = time.monotonic() + _LONGEST_WAIT
        locks: list[_Lock] = [self._writing, *([self._reading] * _READERS), self._idle]
        self._resting = [
            lock for lock in locks if lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
        ]
        if len(self._resting) == _READERS + 2 and not (self._writer and self._writer.in_transaction):
            self._close_all()

    def go_on(self) -> None:
        """Use the file again in the parent process of a fork."""
        resting, self._resting = self._resting, []
        for lock in reversed(resting):
            lock.release()

    def reset_after_fork(self) -> None:
        """Use the file with new connections in the child process of a fork."""
        _inherited.append((self._writer, self._readers))
        self._reset()

    # ---- writing -----------------------------------------------------------------------------------------

    def write(self, work: Callable[[sqlite3.Cursor], _T], timeout_seconds: float | None = None) -> _T:
        """Run the work and commit it; retry all of it while another transaction is writing.

        Raises:
            StorageUnavailable: If another transaction is still writing after the timeout; or, after a second,
                if it must be this thread's own transaction, because nothing else runs in this process.
        """
        if timeout_seconds is None:
            timeout_seconds = self._url.busy_timeout_seconds
        begun = time.monotonic()
        check_at, deadline = begun + min(_CHECK_AFTER, timeout_seconds), begun + timeout_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                with translated(self._url.path), self._writing:
                    return self._write_once(work)
            except StorageUnavailable as error:
                if error.__cause__ is None or not is_busy(error.__cause__):
                    raise
                now = time.monotonic()
                if now >= check_at:
                    check_at = math.inf
                    self._check_writer()
                if now >= deadline:
                    raise self._busy(now - begun, error.__cause__) from error.__cause__
            # SQLite's busy handler is not fair, but retries at random times are.
            time.sleep(random.uniform(0, pause))  # noqa: S311 - not a secret
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _check_writer(self) -> None:
        """Log a warning if the writer is a transaction of this process.

        Raises:
            StorageUnavailable: If the transaction must be this thread's own, because no other thread exists.
        """
        path = self._url.path
        if not is_written_here(path):
            return
        if is_alone():
            raise _waited(
                f"SQLite database {path}: this thread waits for its own transaction, which has written to "
                "the file and is still open. To enqueue a job in this transaction, use "
                'task.using(within=session).enqueue(…), or within="default" in Django; otherwise commit '
                "first. Call verbs that act immediately, such as job.move, after the commit; in Django, use "
                "transaction.on_commit(job.move)."
            )
        log.warning(
            "SQLite database %s: a write waits for another transaction of this process. If the waiting "
            "thread opened this transaction, the write will time out: pass within=session, or commit first.",
            path,
        )  # fmt: skip

    def _busy(self, waited: float, error: BaseException) -> StorageUnavailable:
        whose = "of this process " if is_written_here(self._url.path) else ""
        return _waited(
            f"SQLite database {self._url.path}: {error} for {waited:.3g} s, because another transaction "
            f"{whose}writes to it. If this is your own transaction, enqueue jobs in it using "
            'task.using(within=session), or within="default" in Django; call other verbs after the commit.'
        )

    def _write_once(self, work: Callable[[sqlite3.Cursor], _T]) -> _T:
        connection = self._writer or self._open_writer()
        is_committing = False
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                result = work(cursor)
                is_committing = True
                cursor.execute("COMMIT")
        except BaseException as error:
            if not is_committing:
                _note_undone(error)
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if is_worn(error):
                self._writer = None
                with suppress(sqlite3.Error):
                    connection.close()
            raise
        return result

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute(f"PRAGMA synchronous = {self._url.synchronous}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        except BaseException as error:
            _note_undone(error)
            connection.close()
            raise
        self._writer = connection
        return connection

    # ---- reading -----------------------------------------------------------------------------------------

    def read(self, work: Callable[[sqlite3.Cursor], _T]) -> _T:
        """Run work that reads from one snapshot, and return its result."""
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
            self.write(no_work)  # creates the file in write-ahead mode before the first read
        connection = self._connect(self._url.busy_timeout_seconds)
        connection.execute("PRAGMA query_only = ON")
        return connection

    # ---- common methods ----------------------------------------------------------------------------------

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
        """Raise an error if the storage is closed.

        Raises:
            StorageError: If the storage is closed.
        """
        if self._is_closed:
            raise StorageError(f"The storage {self._url} is closed. Open a new one.")

    def close(self) -> None:
        """Close all connections; connections of running reads are closed when the reads end."""
        with self._writing, self._idle:
            self._is_closed = True
            self._close_all()

    def _close_all(self) -> None:
        connections = [*self._readers, *([self._writer] if self._writer else [])]
        self._readers, self._writer = [], None
        for connection in connections:
            with suppress(sqlite3.Error):
                connection.close()


def _note_undone(error: BaseException) -> None:
    if isinstance(error, sqlite3.Error):
        setattr(error, _UNDONE, True)


def _waited(message: str) -> StorageUnavailable:
    error = StorageUnavailable(message)
    error.is_untouched = error.has_waited = True  # the transaction did not begin
    return error


def no_work(_cursor: sqlite3.Cursor) -> None:
    """Do nothing; used for transactions that only open the file or check whether a transaction can begin."""


_PRIMARY = 0xFF  # the low byte of an extended error code
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PASSING = _BUSY | {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOMEM,
}
_REFUSED = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_UNDONE = "firelock_undone"  # an attribute of an error that occurred before the commit
_FULL = 65_536  # bytes of free space; with less, SQLite cannot open its files next to the database
_NO_SPACE = "free space on its disk"
_HINTS = {
    sqlite3.SQLITE_FULL: _NO_SPACE,
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup",
    sqlite3.SQLITE_NOTADB: "use another file, because this one is not an SQLite database",
}


def _code(error: BaseException) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & _PRIMARY


def is_busy(error: BaseException) -> bool:
    """Return whether another transaction is writing."""
    return isinstance(error, sqlite3.OperationalError) and _code(error) in _BUSY


def is_worn(error: BaseException) -> bool:
    """Return whether the connection must be reopened before it is used again."""
    return isinstance(error, sqlite3.Error) and _code(error) not in _BUSY | {0, sqlite3.SQLITE_CONSTRAINT}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate the driver's exceptions to storage exceptions, whose messages contain no parameters.

    Raises:
        StorageUnavailable: If the error may be temporary, for example a lock, a full disk or an I/O error.
        StorageError: If the driver raises any other error.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        hint = _hint(code, path)
        message = f"SQLite database {path}: {error}{'; ' if hint else ''}{hint}."
        if code not in _PASSING:
            raise StorageError(message) from error
        unavailable = StorageUnavailable(message)
        unavailable.is_untouched = code in _REFUSED or getattr(error, _UNDONE, False)
        raise unavailable from error
    except (OverflowError, UnicodeError) as error:
        raise StorageError(
            f"SQLite database {path} cannot store a value of this call: {type(error).__name__}."
        ) from None


def _hint(code: int, path: Path) -> str:
    if code == sqlite3.SQLITE_CANTOPEN and not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    # SQLite reports an I/O error if it cannot create its files
    if code == sqlite3.SQLITE_IOERR and _is_full(path):
        return _NO_SPACE
    return _HINTS.get(code, "")


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FULL
    except OSError:
        return False


_LOCKS = Path("/proc/locks")
# the byte of the shared-memory file that a writer locks: "WAL-Index Format" in SQLite's documentation
_WRITERS_PLACE = 120
# fields of a line: number, POSIX, ADVISORY, WRITE, process, device and inode, first byte, last byte
_FIELDS = 8


def is_written_here(path: Path) -> bool | None:
    """Return whether a transaction of this process writes to the file; None if this is unknown.

    This function reads the system's list of locks, because opening and closing the file would release the
    locks of this process.
    """
    try:
        inode = str(path.with_name(f"{path.name}-shm").stat().st_ino)
        lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) != _FIELDS:
            continue
        _, kind, _, access, pid, file, first, last = fields
        is_place = file.rpartition(":")[2] == inode and first == last == str(_WRITERS_PLACE)
        if (kind, access) == ("POSIX", "WRITE") and is_place:
            return pid == str(os.getpid())
    return None  # the transaction has just ended, or belongs to another container


def is_alone() -> bool:
    """Return whether nothing else in this process could end a transaction while this thread waits.

    Any other thread could end a transaction, regardless of how the thread was started. A greenlet to which a
    patched `time.sleep` switches could do so as well.
    """
    return len(sys._current_frames()) == 1 and isbuiltin(time.sleep)  # noqa: SLF001 - documented
