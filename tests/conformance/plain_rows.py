"""A minimal storage on rows in memory; a breach of the contract is a subclass of its rows."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort

from firelock.storage import Feature, RowStorage, StorageError

LONGEST_KEY = 511  # bytes, as in LMDB


class PlainRows:
    """The rows within one transaction; a transaction that fails restores everything."""

    def __init__(self, store):
        self.store = store
        self._undo = []

    def get(self, key):
        return self.store.values.get(fitting(key))

    def put(self, key, value):
        self._remember(key)
        if key not in self.store.values:
            insort(self.store.keys, key)
        self.store.values[key] = value

    def delete(self, key):
        self._remember(key)
        if self.store.values.pop(key, None) is not None:
            del self.store.keys[bisect_left(self.store.keys, key)]

    def scan(self, prefix, *, start=None, reverse=False, limit):
        keys = self.store.keys
        low, high = bisect_right(keys, fitting(prefix)), len(keys)
        if start is not None:
            fitting(start)
            low, high = (
                (low, bisect_left(keys, start)) if reverse else (max(low, bisect_right(keys, start)), high)
            )
        found = keys[low:high]
        if prefix:
            found = [key for key in found if key.startswith(prefix)]
        if reverse:
            found.reverse()
        return [(key, self.store.values[key]) for key in found[:limit]]

    def _remember(self, key):
        self._undo.append((fitting(key), self.store.values.get(key)))

    def undo(self):
        """Restore every row to its state before the transaction."""
        undo, self._undo = self._undo, []
        for key, value in reversed(undo):
            if value is None:
                PlainRows.delete(self, key)
            else:
                PlainRows.put(self, key, value)


def fitting(key):
    """Return the key, which must not be too long."""
    if len(key.encode(errors="surrogatepass")) > LONGEST_KEY:
        raise StorageError(f"A key has more than {LONGEST_KEY} bytes: {key[:40]!r}….")
    return key


class Store:
    """The rows of all handles with the same name."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.keys: list[str] = []
        self.lock = threading.RLock()


class PlainStorage(RowStorage):
    """A handle of such a store."""

    contract = 1
    features = RowStorage.features | {Feature.SHARED}
    url = "plain:"
    rows_kind = PlainRows

    def __init__(self, store):
        super().__init__()
        self.store = store
        self.clock_offset = 0
        self.is_closed = False

    def transact(self, body):
        self._require_open()
        with self.store.lock:
            rows = self.rows_kind(self.store)
            try:
                return body(rows)
            except BaseException:
                rows.undo()
                raise

    def clock(self):
        self._require_open()
        return time.time_ns() // 1_000 + self.clock_offset

    def close(self):
        self.is_closed = True
        self.interrupt()

    def _require_open(self):
        if self.is_closed:
            raise StorageError("This handle is closed.")
