"""`FileStorage`: rows of text in one file, with Python's SQLite; `RowStorage` provides the verbs."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from firelock.storage import Feature, Rows, RowStorage, StorageError, StorageUnavailable

Answer = TypeVar("Answer")
_END = "\U0010ffff"  # greater than every string that continues a prefix


class FileStorage(RowStorage):
    """Jobs in a file: `files:///path/to/file`; `?sync=off` trades durability for speed."""

    contract = 1
    features = RowStorage.features | {Feature.SHARED, Feature.DURABLE}

    def __init__(self, url: str) -> None:
        super().__init__()
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        sync = options.pop("sync", "on")
        if parts.netloc or not parts.path.strip("/") or options or sync not in ("on", "off"):
            message = f"{url!r} names no file. Write files:///path/to/file or files:///path/to/file?sync=off."
            raise StorageError(message)
        self.url = self.connect_url = url
        self._path, self._is_synced = Path(unquote(parts.path)), sync == "on"
        self._lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._is_closed = False
        self.clock_offset = 0  # micros, set by tests

    def transact(self, body: Callable[[Rows], Answer]) -> Answer:
        with self._lock:
            self._require_open()
            try:
                connection = self._connected()
                connection.execute("begin immediate")
                try:
                    answer = body(_FileRows(connection))
                    connection.execute("commit")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("rollback")
                    raise
                else:
                    return answer
            except sqlite3.Error as error:
                message = f"File {self._path} cannot be used: {error}."
                raise StorageUnavailable(message) from error
            except UnicodeError as error:
                message = f"File {self._path} keeps no text that is not Unicode: {error}."
                raise StorageError(message) from error

    def _connected(self) -> sqlite3.Connection:
        if self.connection is None or self._process != os.getpid():  # a forked process opens its own
            self._process = os.getpid()
            self.connection = sqlite3.connect(
                self._path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self.connection.execute("pragma journal_mode = wal")
            self.connection.execute(f"pragma synchronous = {'full' if self._is_synced else 'off'}")
            self.connection.execute(
                "create table if not exists rows (key text primary key, value text not null) without rowid"
            )
        return self.connection

    def clock(self) -> int:
        self._require_open()
        return time.time_ns() // 1_000 + self.clock_offset

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self.connection is not None:
                self.connection.close()
                self.connection = None
        self.interrupt()

    def describe(self) -> Mapping[str, str]:
        durability = "fsync with each transaction" if self._is_synced else "none after a power cut (sync=off)"
        return {"storage": self.url, "durability": durability}

    def _require_open(self) -> None:
        if self._is_closed:
            message = f"Storage {self.url} is closed; open a new handle."
            raise StorageError(message)


class _FileRows:
    """The rows within one transaction; SQLite compares keys by their code points."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def get(self, key: str) -> str | None:
        found = self._run("select value from rows where key = ?", (key,)).fetchone()
        return found[0] if found else None

    def put(self, key: str, value: str) -> None:
        self._run("insert or replace into rows values (?, ?)", (key, value))

    def delete(self, key: str) -> None:
        self._run("delete from rows where key = ?", (key,))

    def scan(
        self, prefix: str, *, start: str | None = None, reverse: bool = False, limit: int
    ) -> list[tuple[str, str]]:
        low, high = prefix, prefix + _END
        if start is not None:
            low, high = (low, min(high, start)) if reverse else (max(low, start), high)
        order = "desc" if reverse else "asc"
        within = f"select key, value from rows where key > ? and key < ? order by key {order} limit ?"
        return self._run(within, (low, high, limit)).fetchall()
