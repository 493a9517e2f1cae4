"""Locks in a folder, for the processes of one machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from firelock import ConfigurationError, StorageUnavailable

_SECOND = 1_000_000


class FolderLocks:
    """The locks of `flock:///path/to/folder`: a file per name contains the owner, the expiry and the token.

    A file is never removed, because its token must never decrease. If a process dies, its locks last until
    they expire, like all locks of Firelock. The operating system's lock is only held during a call.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.netloc or parts.query or not parts.path.strip("/"):
            message = f"{url!r} names no folder; write flock:///path/to/folder."
            raise ConfigurationError(message)
        self._folder = Path(unquote(parts.path))
        self.clock_offset = 0  # micros, set by tests

    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """Return a fencing token, or None while another owner holds the lock."""
        with self._alone():
            holder, fence, ends_at = self._read(name)
            is_held = ends_at > self._now()
            if is_held and holder != owner:
                return None
            fence += not is_held
            self._write(name, owner, fence, ttl_seconds)
            return fence

    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        """Extend the lock; return False if it was lost."""
        with self._alone():
            is_held = self._is_held(name, owner, fence)
            if is_held:
                self._write(name, owner, fence, ttl_seconds)
            return is_held

    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        """Release the lock; return False if it was lost."""
        with self._alone():
            is_held = self._is_held(name, owner, fence)
            if is_held:
                self._write(name, owner, fence, 0)
            return is_held

    # ---- the folder --------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclude all other calls in this folder, in any thread or process."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            opened = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX)
                yield
            finally:
                fcntl.flock(opened, fcntl.LOCK_UN)
                os.close(opened)
        except OSError as error:
            message = f"Folder {self._folder} cannot be used for locks: {error}."
            raise StorageUnavailable(message) from error

    def _now(self) -> int:
        return time.time_ns() // 1_000 + self.clock_offset

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.json"

    def _read(self, name: str) -> tuple[str, int, int]:
        try:
            holder, fence, ends_at = json.loads(self._path(name).read_bytes())
        except FileNotFoundError:
            return "", 0, 0
        return holder, fence, ends_at

    def _is_held(self, name: str, owner: str, fence: int) -> bool:
        holder, held_fence, ends_at = self._read(name)
        return (owner, fence) == (holder, held_fence) and ends_at > self._now()

    def _write(self, name: str, owner: str, fence: int, ttl_seconds: float) -> None:
        """Replace the file atomically; after a power failure it has the new content."""
        path = self._path(name)
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(json.dumps([owner, fence, self._now() + int(ttl_seconds * _SECOND)]).encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        opened = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
