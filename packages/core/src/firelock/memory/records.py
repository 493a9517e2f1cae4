"""Small versioned records; the versions of so many deleted ones are known, and of all others the highest."""

from __future__ import annotations

from bisect import bisect_right, insort

from firelock.storage import Record

DELETED_KNOWN = 1_000


class Records:
    """The records of every kind; versions outlive them."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Record]] = {}
        self._keys: dict[str, list[str]] = {}  # sorted
        self._deleted: dict[str, dict[str, int]] = {}  # the last versions, the longest deleted first
        self._floors: dict[str, int] = {}  # the highest version of a kind that was forgotten

    def put(self, kind: str, key: str, value: str, expected_version: int | None) -> int | None:
        """See `Storage.put_record`."""
        stored = self.get(kind, key)
        if expected_version not in (None, stored.version if stored else 0):
            return None
        if stored is None:
            before = self._deleted.get(kind, {}).pop(key, self._floors.get(kind, 0))
            insort(self._keys.setdefault(kind, []), key)
        else:
            before = stored.version
        version = before + 1
        self._records.setdefault(kind, {})[key] = Record(kind, key, value, version)
        return version

    def get(self, kind: str, key: str) -> Record | None:
        """See `Storage.get_record`."""
        return self._records.get(kind, {}).get(key)

    def list(self, kind: str, after: str, limit: int) -> list[Record]:
        """See `Storage.list_records`."""
        keys = self._keys.get(kind, [])
        begin = bisect_right(keys, after)
        return [self._records[kind][key] for key in keys[begin : begin + limit]]

    def delete(self, kind: str, key: str, expected_version: int | None) -> bool:
        """See `Storage.delete_record`."""
        stored = self.get(kind, key)
        if stored is None or expected_version not in (None, stored.version):
            return False
        del self._records[kind][key]
        keys = self._keys[kind]
        del keys[bisect_right(keys, key) - 1]
        deleted = self._deleted.setdefault(kind, {})
        deleted[key] = stored.version
        if len(deleted) > DELETED_KNOWN:
            forgotten = deleted.pop(next(iter(deleted)))
            self._floors[kind] = max(self._floors.get(kind, 0), forgotten)
        return True

    def forget(self, kind: str, key: str) -> None:
        """The record is gone and its version too: a job's id never comes back."""
        self.delete(kind, key, None)
        self._deleted.get(kind, {}).pop(key, None)
