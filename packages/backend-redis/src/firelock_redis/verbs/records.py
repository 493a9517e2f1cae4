"""Small versioned records; those of queues contain pauses, those of limits their numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from firelock.limits import read_numbers
from firelock.storage import Record, StorageError
from firelock_redis.connections.database import RedisDatabase, RedisVerbs
from firelock_redis.layout.encoding import NUMBERS, number_word
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

        A pause and the numbers of a limit are copied to the other partitions right after.
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

        A record that changes its position between two round trips may be missing; the next call finds it.
        """
        found = _pages(
            kind, limit, lambda before, asked: self._run("records.due", 0, kind, len(before), asked)
        )
        return list({record.key: record for record in found}.values())

    @override
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """See `Storage.delete_record`; a later record with this key continues from its version."""
        deleted = self._run("records.delete", 0, kind, key, number_word(expected_version))
        self.note_record(kind, is_changed=deleted is not None)
        return deleted is not None

    def note_record(self, kind: str, *, is_changed: bool) -> None:
        """Update the partitions that may have work, after a record was written."""
        if kind in {QUEUES, LIMITS}:
            if is_changed:
                repair_pauses(self.database)
            self._turns.note(EVERYWHERE)
        elif kind == RECURRING:
            self._turns.note(FIRST)


def _pages(kind: str, limit: int, page: Callable[[list[Record], int], list[Any]]) -> list[Record]:
    """Return up to `limit` records; one round trip per 500 records, or per half a megabyte."""
    found: list[Record] = []
    more = True
    while more and len(found) < limit:
        asked = min(limit - len(found), _PAGE)
        left, *pairs = page(found, asked)
        found += [_read(kind, key, text) for key, text in zip(pairs[::2], pairs[1::2], strict=True)]
        more = bool(left) or len(pairs) == 2 * asked
    return found


def copied(kind: str, value: str) -> int | str:
    """Return the part of a record that every partition has; an empty string for most kinds.

    For a queue this is 1 if it is paused, else 0. For a limit it is its numbers, as functions/limits.lua
    reads them.

    Raises:
        StorageError: the numbers of a limit cannot be read; nothing was stored.
    """
    if kind == QUEUES:
        return int(_pauses(value))
    if kind != LIMITS:
        return ""
    numbers = read_numbers(value)
    return NUMBERS.write(
        concurrent=_number(numbers.concurrent),
        rate=_number(numbers.rate),
        per=_number(numbers.per),
        burst=_number(numbers.burst),
        paused=int(numbers.is_paused),
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


# ---- pauses and numbers in other partitions ----------------------------------------------------------------


def repair_pauses(database: RedisDatabase) -> None:
    """Copy the pauses and numbers of the first partition to the others, if there are any.

    Raises:
        StorageError: some partition could not be updated; every other one was.
    """
    others = range(1, database.partitions.number)
    if not others:
        return
    pauses = database.run("records.pauses", 0, 0)
    newest, failed = _tell(database, others, pauses)
    if newest > int(pauses[0]):
        # A newer change was made in between, or a failover has lost one: then the first partition's data is
        # valid.
        pauses = database.run("records.pauses", 0, newest)
        _, failed = _tell(database, others, pauses)
    if failed is not None:
        raise failed


def _tell(database: RedisDatabase, others: range, pauses: list[Any]) -> tuple[int, StorageError | None]:
    """Return the newest stamp that a partition replied, and the error of one that could not be updated."""
    newest, failed = 0, None
    for partition in others:
        try:
            newest = max(newest, int(database.run("records.pause", partition, *pauses)))
        except StorageError as error:
            failed = error
    return newest, failed
