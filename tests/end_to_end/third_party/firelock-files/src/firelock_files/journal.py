"""The folder: one step at a time, and a file to which each step that changes something adds one line.

`lock` is locked while a step is under way. `journal` begins with its format and all that was stored when it
was written; each line behind that is a step, a checksum in front. A line counts whole or not at all: what a
crash left of the last one is cut off by the next step.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from firelock.storage import SchemaMismatch, StorageError, StorageUnavailable
from firelock_files.tables import Change, Tables

_FORMAT = 1
_SPARE = 1 << 20  # a journal is written anew when it is twice as long as it began, and this many bytes


class Journal:
    """A folder as one handle sees it: its tables in memory, and how far of the file they hold."""

    def __init__(self, folder: Path, *, is_synced: bool) -> None:
        self._folder, self.path = folder, folder / "journal"
        self._is_synced = is_synced
        self._lock = threading.RLock()
        self._is_in_step = False
        self._file: io.FileIO | None = None
        self.close()

    def close(self) -> None:
        """Nothing is open and nothing in memory; the next step reads the file anew."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self._tables, self._began_at, self._end = None, Tables(), 0, 0

    @contextmanager
    def step(self) -> Iterator[Tables]:
        """The tables are this thread's alone; what it changes is in the file when the block ends, or none."""
        with self._lock:
            if self._is_in_step:  # a verb that is made of verbs: they are one step
                yield self._tables
                return
            self._is_in_step = True
            try:
                with _locked(self._folder):
                    self._catch_up()
                    yield self._tables
                    self._add(self._tables.take_changes())
            except BaseException as error:
                self.close()  # memory may be ahead of the file
                if isinstance(error, OSError):
                    message = f"Folder {self._folder} cannot be used: {error}."
                    raise StorageUnavailable(message) from error
                raise
            finally:
                self._is_in_step = False

    # ---- reading -----------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """The tables hold what the file does."""
        if not self.path.exists():
            self.close()
            self._write_anew()
        if self._file is None or not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
            self.close()  # another handle has written it anew
            self._file = io.FileIO(self.path, "r+")
            self._end = _checked_format(self._file.readline())
        self._file.seek(self._end)
        *lines, torn = self._file.readall().split(b"\n")
        if lines and not torn and not _is_whole(lines[-1]):
            torn = lines.pop()
        for line in lines:
            if not _is_whole(line):
                message = f"{self.path} is damaged at byte {self._end}; restore it, or cut it off there."
                raise StorageError(message)
            self._tables.load(json.loads(line[9:]))
            self._end += len(line) + 1
            self._began_at = self._began_at or self._end
        if torn:
            self._file.truncate(self._end)

    # ---- writing -----------------------------------------------------------------------------------------

    def _add(self, changes: Sequence[Change]) -> None:
        """The file holds the changes."""
        if not changes or self._file is None:
            return
        line = _line(changes)
        if self._end + len(line) > 2 * self._began_at + _SPARE:
            self._write_anew()
            return
        self._file.seek(self._end)
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sync(self._file.fileno())
        self._end += len(line)

    def _write_anew(self) -> None:
        """The file holds what is stored and nothing else; it is the old one or the new one at any instant."""
        new, content = self._folder / "journal.new", _line(self._tables.everything())
        with new.open("wb") as file:
            file.write(b"firelock-files %d\n" % _FORMAT + content)
            file.flush()
            self._sync(file.fileno())
        new.replace(self.path)
        for folder in (self._folder, self._folder.parent):
            opened = os.open(folder, os.O_RDONLY)
            try:
                self._sync(opened)
            finally:
                os.close(opened)

    def _sync(self, opened: int) -> None:
        if self._is_synced:
            os.fsync(opened)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other step in this folder is under way, in whatever thread or process; a kill ends it as well."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(opened, fcntl.LOCK_UN)  # a child that was forked meanwhile has it open as well
        os.close(opened)


def _line(changes: Sequence[Change]) -> bytes:
    text = json.dumps(changes, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _is_whole(line: bytes) -> bool:
    return line[:9] == b"%08x " % crc32(line[9:])


def _checked_format(header: bytes) -> int:
    name, _, number = header.partition(b" ")
    if name != b"firelock-files" or not number.strip().isdigit():
        message = f"This is no journal of firelock-files: it begins with {header[:32]!r}."
        raise StorageError(message)
    if int(number) > _FORMAT:
        message = f"The journal has format {int(number)}, this code reads {_FORMAT}. Update firelock-files."
        raise SchemaMismatch(message)
    return len(header)
