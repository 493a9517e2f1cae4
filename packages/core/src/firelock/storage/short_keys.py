"""Rows with keys of any length, stored in rows with short keys.

Many key-value stores limit the length of a key. The Python package for LMDB, for example, accepts at most 511
bytes, but the name of a lock alone can have 800. `ShortKeys` splits a key that is too long. A row whose key
is the head of the long key shows that longer keys exist. The tail becomes a separate key below a digest of
the head, and is split again if it is still too long. The order of the keys is preserved, so a scan returns
the rows ordered by key. A key that fits is stored unchanged.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol

from firelock.errors import StorageError

LONGEST_KEY = 500  # bytes of UTF-8
_MARK = "\U00010000"  # 4 bytes; sorts after the (at most 3) bytes that follow the same head in an unsplit key
_LONGEST_WHOLE = LONGEST_KEY - len(_MARK.encode())
_SURELY_WHOLE = _LONGEST_WHOLE // 4  # number of characters, each of which has at most 4 bytes


class Rows(Protocol):
    """The rows within one transaction, including everything that it has written so far."""

    def get(self, key: str) -> str | None:
        """Return the row's value; None if there is no such row. An empty string is a value."""
        ...

    def put(self, key: str, value: str) -> None:
        """Store the row; a row with the same key is replaced."""
        ...

    def delete(self, key: str) -> None:
        """Delete only this row, if it exists."""
        ...

    def scan(
        self, prefix: str, *, start: str | None = None, reverse: bool = False, limit: int
    ) -> list[tuple[str, str]]:
        """Return up to `limit` rows whose keys start with the prefix and are longer, ordered by code points.

        The row whose key is the prefix itself is not included.

        Args:
            prefix: the beginning of the keys; empty for all rows.
            start: return only rows with a larger key than this one; with `reverse`, only rows with a smaller
                key. No row needs to have this key.
            reverse: return the largest key first.
            limit: the maximum number of rows; some calls pass more than 1,000.
        """
        ...


def scan_after(
    rows: Rows, prefix: str, start: str | None, *, reverse: bool = False, limit: int
) -> list[tuple[str, str]]:
    """Return the result of `rows.scan`, after checking that it does not contain the row `start`.

    Raises:
        StorageError: If the scan returned the row `start`, so that an iteration would never end.
    """
    found = rows.scan(prefix, start=start, reverse=reverse, limit=limit)
    if found and found[0][0] == start:
        raise StorageError(
            f"scan(start={start!r}) returned the row of its start; it must return only rows after it."
        )
    return found


class ShortKeys:
    """The rows of one transaction, with keys of any length."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def get(self, key: str) -> str | None:
        """Return the row's value; None if there is no such row."""
        while not _is_whole(key):
            head, tail = _cut(key)
            key = _tails_of(head) + tail
        return self._rows.get(key)

    def put(self, key: str, value: str) -> None:
        """Store the row; a row with the same key is replaced."""
        while not _is_whole(key):
            head, tail = _cut(key)
            self._rows.put(head + _MARK, "")
            key = _tails_of(head) + tail
        self._rows.put(key, value)

    def delete(self, key: str) -> None:
        """Delete only this row, if it exists."""
        if _is_whole(key):
            self._rows.delete(key)
            return
        head, tail = _cut(key)
        self.delete(_tails_of(head) + tail)
        if not self._rows.scan(_tails_of(head), limit=1):
            self._rows.delete(head + _MARK)

    def scan(self, prefix: str, *, start: str | None = None, limit: int) -> list[tuple[str, str]]:
        """See `Rows.scan`; forward only."""
        if limit <= 0 or (start is not None and start > prefix and not start.startswith(prefix)):
            return []
        if start is not None and not start.startswith(prefix):
            start = None
        if not _is_whole(prefix):
            head, rest = _cut(prefix)
            return self._tails(head, rest, start, limit)
        found: list[tuple[str, str]] = []
        if start is not None and not _is_whole(start):
            head, _ = _cut(start)  # the head starts with the prefix, because the prefix is not split
            found = self._tails(head, "", start, limit)
            start = head + _MARK
        if len(found) < limit:
            for key, value in scan_after(self._rows, prefix, start, limit=limit - len(found)):
                if _is_whole(key):
                    found.append((key, value))
                else:
                    found += self._tails(key.removesuffix(_MARK), "", None, limit - len(found))
                if len(found) == limit:
                    break
        return found

    def _tails(self, head: str, rest: str, start: str | None, limit: int) -> list[tuple[str, str]]:
        """Return the rows whose keys were split after this head and continue with `rest`."""
        tails = _tails_of(head)
        start = None if start is None else tails + start.removeprefix(head)
        found = self.scan(tails + rest, start=start, limit=limit)
        return [(head + key.removeprefix(tails), value) for key, value in found]


def _is_whole(key: str) -> bool:
    """Return whether the key is stored unchanged."""
    return len(key) <= _SURELY_WHOLE or len(key.encode(errors="surrogatepass")) <= _LONGEST_WHOLE


def _cut(key: str) -> tuple[str, str]:
    """Return the longest head of the key that fits, and the rest."""
    text, end = key.encode(errors="surrogatepass"), _LONGEST_WHOLE
    while text[end] & 0xC0 == 0x80:  # noqa: PLR2004 - a byte within a character of UTF-8
        end -= 1
    head = text[:end].decode(errors="surrogatepass")
    return head, key[len(head) :]


def _tails_of(head: str) -> str:
    return f"long/{sha256(head.encode(errors='surrogatepass')).hexdigest()[:32]}/"
