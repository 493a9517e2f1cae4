"""Small versioned records; those of queues pause them."""

from __future__ import annotations

import json
from typing import Any

from firelock.storage import Record, StorageError
from firelock_redis.database import Database

__all__ = ["QUEUES", "delete_record", "get_record", "list_records", "put_record", "repair_pauses"]

QUEUES = "queue"
_PAGE = 500


def put_record(
    database: Database, kind: str, key: str, value: str, *, expected_version: int | None
) -> int | None:
    """See `Storage.put_record`; the other partitions hear of a pause right after."""
    expected = "" if expected_version is None else expected_version
    paused = int(_pauses(value)) if kind == QUEUES else ""
    version = database.run("put_record", 0, kind, key, value, expected, paused)
    if version is not None and kind == QUEUES:
        repair_pauses(database)
    return None if version is None else int(version)


def _pauses(value: str) -> bool:
    try:
        settings = json.loads(value)
    except ValueError:
        return False
    return isinstance(settings, dict) and settings.get("paused") is True


def get_record(database: Database, kind: str, key: str) -> Record | None:
    """See `Storage.get_record`."""
    found = database.run("get_record", 0, kind, key)
    return None if found is None else _read(kind, key, found)


def list_records(database: Database, kind: str, *, after: str, limit: int) -> list[Record]:
    """See `Storage.list_records`; one round trip for 500 of them, or for half a megabyte."""
    found: list[Record] = []
    more = True
    while more and len(found) < limit:
        asked = min(limit - len(found), _PAGE)
        left, *pairs = database.run("list_records", 0, kind, after, asked)
        page = [_read(kind, key, text) for key, text in zip(pairs[::2], pairs[1::2], strict=True)]
        found += page
        more = bool(left) or len(page) == asked
        after = page[-1].key if page else after
    return found


def _read(kind: str, key: str, text: str) -> Record:
    version, _, value = text.partition(" ")
    return Record(kind, key, value, int(version))


def delete_record(database: Database, kind: str, key: str, *, expected_version: int | None) -> bool:
    """See `Storage.delete_record`; its version stays known for as long as that matters."""
    expected = "" if expected_version is None else expected_version
    is_queue = kind == QUEUES
    deleted = database.run("delete_record", 0, kind, key, expected, int(is_queue))
    if deleted is not None and is_queue:
        repair_pauses(database)
    return deleted is not None


# ---- pauses in other partitions ----------------------------------------------------------------------------


def repair_pauses(database: Database) -> None:
    """In every partition those queues are paused that are in the first one; nothing to do where it is alone.

    Raises:
        StorageError: some partition could not be told; every other one was.
    """
    others = range(1, database.partitions.number)
    if not others:
        return
    pauses = database.run("list_pauses", 0, 0)
    newest, failed = _tell(database, others, pauses)
    if newest > int(pauses[0]):
        # A newer change came between, or a failover has lost it: then what the first partition has holds.
        pauses = database.run("list_pauses", 0, newest)
        _, failed = _tell(database, others, pauses)
    if failed is not None:
        raise failed


def _tell(database: Database, others: range, pauses: list[Any]) -> tuple[int, StorageError | None]:
    """Return the newest stamp that one of them knows, and the error of one that could not be told."""
    newest, failed = 0, None
    for partition in others:
        try:
            newest = max(newest, int(database.run("pause", partition, *pauses)))
        except StorageError as error:
            failed = error
    return newest, failed
