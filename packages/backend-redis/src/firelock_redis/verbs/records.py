"""Small versioned records; records of queues contain pauses, and records of limits contain their settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from firelock.limits import read_settings
from firelock.storage import Record, StorageError
from firelock_redis.connections.database import RedisDatabase, RedisVerbs
from firelock_redis.layout.encoding import LIMIT_SETTINGS, number_word
from firelock_redis.layout.partitions import EVERYWHERE, FIRST

QUEUES, RECURRING, LIMITS = "queue", "recurring", "limit"
_PAGE = 500


class RecordVerbs(RedisVerbs):
    """The verbs of records, which are in the first partition."""

    @override
    def put_record(
        self,
        kind: str,
        key: str,
        value: str,
        *,
        expected_version: int | None = None,
        due_at: int | None = None,
    ) -> int | None:
        """See `Storage.put_record`.

        After that, a pause or the settings of a limit are copied to the other partitions.
        """
        change = (
            kind,
            key,
            value,
            number_word(expected_version),
            number_word(due_at),
            copied(kind, value),
        )
        version = self._run("records.put", 0, *change)
        self.note_record(kind, is_changed=version is not None)
        return None if version is None else int(version)

    @override
    def get_record(self, kind: str, key: str) -> Record | None:
        found = self._run("records.get", 0, kind, key)
        return None if found is None else _read(kind, key, found)

    @override
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        def page(before: list[Record], asked: int) -> list[Any]:
            last = before[-1].key if before else after
            return list(self._run("records.list", 0, kind, last, asked))

        return _pages(kind, limit, page)

    @override
    def due_records(self, kind: str, limit: int) -> list[Record]:
        """See `Storage.due_records`.

        A record whose position changes between two round trips might be missing; the next call finds it.
        """
        found = _pages(
            kind, limit, lambda before, asked: self._run("records.due", 0, kind, len(before), asked)
        )
        return list({record.key: record for record in found}.values())

    @override
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`; a later record with this key has higher versions."""
        deleted = self._run("records.delete", 0, kind, key, number_word(expected_version))
        self.note_record(kind, is_changed=deleted is not None)
        return deleted is not None

    def note_record(self, kind: str, *, is_changed: bool) -> None:
        """Note the partitions that might have work after a record of this kind was written or deleted."""
        if kind in {QUEUES, LIMITS}:
            if is_changed:
                repair_pauses(self.database)
            self._turns.note(EVERYWHERE)
        elif kind == RECURRING:
            self._turns.note(FIRST)


def _pages(kind: str, limit: int, page: Callable[[list[Record], int], list[Any]]) -> list[Record]:
    """Return up to `limit` records, with one round trip per 500 records or half a megabyte."""
    found: list[Record] = []
    more = True
    while more and len(found) < limit:
        asked = min(limit - len(found), _PAGE)
        left, *pairs = page(found, asked)
        found += [_read(kind, key, text) for key, text in zip(pairs[::2], pairs[1::2], strict=True)]
        more = bool(left) or len(pairs) == 2 * asked
    return found


def copied(kind: str, value: str) -> int | str:
    """Return the part of a record that is copied to every partition; an empty string for most kinds.

    For a queue, this is 1 if the queue is paused, otherwise 0. For a limit, this is its settings in the
    format that functions/limits.lua reads.

    Raises:
        StorageError: If the settings of a limit cannot be read. Nothing was stored.
    """
    if kind == QUEUES:
        return int(_pauses(value))
    if kind != LIMITS:
        return ""
    settings = read_settings(value)
    return LIMIT_SETTINGS.write(
        concurrent=_number(settings.concurrent),
        rate=_number(settings.rate),
        per=_number(settings.per),
        burst=_number(settings.burst),
        paused=int(settings.is_paused),
    )


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number:d}"


def _pauses(value: str) -> bool:
    try:
        settings = json.loads(value)
    except ValueError:
        return False
    return isinstance(settings, dict) and settings.get("paused") is True


def _read(kind: str, key: str, text: str) -> Record:
    version, due_at, value = text.split(" ", 2)
    return Record(
        kind=kind, key=key, value=value, version=int(version), due_at=int(due_at) if due_at else None
    )


# ---- pauses and limit settings in other partitions ---------------------------------------------------------


def repair_pauses(database: RedisDatabase) -> None:
    """Copy the pauses and limit settings of the first partition to the other partitions, if there are any.

    Raises:
        StorageError: If a partition could not be updated. All other partitions were updated.
    """
    others = range(1, database.partitions.number)
    if not others:
        return
    pauses = database.run("records.pauses", 0, 0)
    newest, failed = _copy(database, others, pauses)
    if newest > int(pauses[0]):
        # Another process has made a newer change, or a failover has lost a change. In both cases, the data of
        # the first partition is valid.
        pauses = database.run("records.pauses", 0, newest)
        _, failed = _copy(database, others, pauses)
    if failed is not None:
        raise failed


def _copy(database: RedisDatabase, others: range, pauses: list[Any]) -> tuple[int, StorageError | None]:
    """Copy the pauses and limit settings to the other partitions.

    Return the newest version that a partition has, and the last error of the failed partitions.
    """
    newest, failed = 0, None
    for partition in others:
        try:
            newest = max(newest, int(database.run("records.pause", partition, *pauses)))
        except StorageError as error:
            failed = error
    return newest, failed
