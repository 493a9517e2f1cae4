"""What SQLite's errors mean to those who called: try again, or not."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firelock.storage import StorageError, StorageUnavailable

__all__ = ["is_busy", "is_worn", "translated"]

_PRIMARY = 0xFF  # the low byte of an extended code
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
_FULL = 65_536  # bytes: a disk that has no more has no room for what is opened beside a file
_NO_SPACE = "free space on its disk"
_HINTS = {
    sqlite3.SQLITE_FULL: _NO_SPACE,
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup",
    sqlite3.SQLITE_NOTADB: "name another file, this one is not an SQLite database",
}


def _code(error: BaseException) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & _PRIMARY


def is_busy(error: BaseException) -> bool:
    """Tell whether somebody else is just writing."""
    return isinstance(error, sqlite3.OperationalError) and _code(error) in _BUSY


def is_worn(error: BaseException) -> bool:
    """Tell whether the connection should be opened anew before it is used again."""
    return isinstance(error, sqlite3.Error) and _code(error) not in _BUSY | {0, sqlite3.SQLITE_CONSTRAINT}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """The driver's exceptions leave as the storage's own; no parameter is in their text.

    Raises:
        StorageUnavailable: locked, disk full, an error of input or output: trying again may help.
        StorageError: everything else.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        hint = _hint(code, path)
        message = f"SQLite database {path}: {error}{'; ' if hint else ''}{hint}."
        raise (StorageUnavailable if code in _PASSING else StorageError)(message) from error
    except (OverflowError, UnicodeError) as error:
        message = f"SQLite database {path} cannot hold a value of this call: {type(error).__name__}."
        raise StorageError(message) from None


def _hint(code: int, path: Path) -> str:
    if code == sqlite3.SQLITE_CANTOPEN and not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    if code == sqlite3.SQLITE_IOERR and _is_full(path):  # who opens the file first is told no more than that
        return _NO_SPACE
    return _HINTS.get(code, "")


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _FULL
    except OSError:
        return False
