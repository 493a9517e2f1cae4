"""One SQLite file as the verbs see it."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import FromClause
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from typing_extensions import override

from firelock.storage import Finding, StorageUnavailable
from firelock_sql import schema
from firelock_sql.database import Database, Transaction
from firelock_sql.sqlite import health
from firelock_sql.sqlite.connections import Connections, no_work
from firelock_sql.sqlite.joining import joined
from firelock_sql.sqlite.mailbox import Mailbox
from firelock_sql.url import SqliteUrl
from firelock_sql.wake import Wake

__all__ = ["SqliteDatabase"]

_T = TypeVar("_T")
_MOMENT_SECONDS = 0.2
_COUNT = (
    "INSERT INTO firelock_counts (state, queue, jobs) VALUES (?, ?, ?)"
    " ON CONFLICT (state, queue) DO UPDATE SET jobs = jobs + excluded.jobs"
)


class _Compiler(SQLiteCompiler):
    """Writes `INDEXED BY` where a statement names its index, which SQLAlchemy's own leaves out."""

    @override
    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return text


class _Dialect(SQLiteDialect_pysqlite):
    """The dialect that statements are compiled for."""

    statement_compiler = _Compiler
    supports_statement_cache = False


class SqliteDatabase(Database):
    """One file, shared by every process of one host."""

    def __init__(self, url: SqliteUrl) -> None:
        self.url = url
        self.name = str(url)
        self.dialect = _Dialect(paramstyle="qmark")
        self._connections = Connections(url)
        is_waking = url.is_waking and hasattr(socket, "AF_UNIX")
        self._wake = Wake((lambda: Mailbox(url.path)) if is_waking else None)
        self._is_checked = False

    # ---- transactions ------------------------------------------------------------------------------------

    @override
    def write(self, work: Callable[[Transaction], _T]) -> _T:
        self.ensure_schema()
        return self.write_unchecked(work)

    @override
    def write_unchecked(self, work: Callable[[Transaction], _T]) -> _T:
        woken: set[str] = set()

        def run(cursor: sqlite3.Cursor) -> _T:
            tx = Transaction(cursor, self.dialect, self.clock())
            result = work(tx)
            self.write_counts(tx)
            woken.clear()
            woken.update(tx.woken)
            return result

        result = self._connections.write(run)
        if woken:
            self.tell(woken)
        return result

    @override
    def read(self, work: Callable[[Transaction], _T]) -> _T:
        self.ensure_schema()
        return self.read_unchecked(work)

    @override
    def read_unchecked(self, work: Callable[[Transaction], _T]) -> _T:
        return self._connections.read(lambda cursor: work(Transaction(cursor, self.dialect, self.clock())))

    @override
    def has_table(self, tx: Transaction, name: str) -> bool:
        tx.cursor.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
        return tx.cursor.fetchone() is not None

    @override
    def prepare_migration(self, tx: Transaction) -> None:
        """The transaction holds the file."""

    @override
    def join(self, within: object, work: Callable[[Transaction], _T]) -> _T:
        callers = joined(within, self.url.path)
        if not self._is_checked and schema.state(self).found == 0:
            self._check_lock()
        self.ensure_schema()
        return callers.run(self, work)

    def _check_lock(self) -> None:
        """Tables can be made: the caller's transaction, which would wait for us, holds no lock yet."""
        try:
            self._connections.write(no_work, _MOMENT_SECONDS)
        except StorageUnavailable as error:
            message = (
                f"{self.name} has no tables yet, and while a transaction writes to it none can be made. "
                "Run firelock migrate, or call storage.migrate(), before jobs are enqueued within one."
            )
            raise StorageUnavailable(message) from error

    def ensure_schema(self) -> None:
        """The schema is the one this code needs; made where there is none."""
        if not self._is_checked:  # without a lock: to look twice is harmless, a lock held at a fork is not
            schema.ensure(self)
            self._is_checked = True

    @override
    def clock(self) -> int:
        return time.time_ns() // 1_000 + self.clock_offset

    @override
    def among(self, values: Sequence[str] | Sequence[int]) -> str:
        return json.dumps(values)

    def write_counts(self, tx: Transaction) -> None:
        """What the transaction changed of the counts is written, last of all."""
        rows = [(state, queue, number) for (state, queue), number in tx.deltas.items() if number]
        tx.deltas.clear()
        if rows:
            tx.cursor.executemany(_COUNT, rows)

    @override
    def tidy(self) -> None:
        """Every transaction has written its counts itself."""

    # ---- waking ------------------------------------------------------------------------------------------

    def tell(self, queues: set[str]) -> None:
        """Servers that wait are told of work in these queues; the transaction that made it has committed."""
        self._wake.tell(queues)

    def looks_for_work(self, queues: Sequence[str] | None) -> None:
        """What was told up to now is about to be seen by a claim of these queues."""
        self._wake.mark(queues)

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        self._connections.check_open()
        return self._wake.wait(queues, timeout_seconds)

    @override
    def interrupt(self) -> None:
        self._wake.interrupt()

    # ---- the rest ----------------------------------------------------------------------------------------

    @override
    def describe(self) -> Mapping[str, str]:
        wake = self._wake.describe()
        return self._connections.read(lambda cursor: health.describe(cursor, self.url, wake))

    @override
    def diagnose(self) -> list[Finding]:
        return self._connections.read(lambda cursor: health.diagnose(cursor, self.url))

    @override
    def close(self) -> None:
        self._wake.close()
        self._connections.close()
