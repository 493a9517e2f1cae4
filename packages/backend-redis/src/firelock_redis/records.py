"""Small versioned records; those of queues pause them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
from typing_extensions import override

from firelock.storage import Record, RecurringRecord, StorageError, read_recurring, recurring_json
from firelock_redis.database import RedisDatabase
from firelock_redis.partitions import EVERYWHERE, FIRST
from firelock_redis.verbs import RedisVerbs

__all__ = ["RecordVerbs", "progress_of", "repair_pauses", "stored_progress"]

QUEUES = "queue"
_PAGE = 500


class RecordVerbs(RedisVerbs):
    """The verbs of records; they lie in the first partition."""

    @override
    def put_record(
        self, kind: str, key: str, value: str, *, expected_version: int | None = None
    ) -> int | None:
        """The other partitions hear of a pause right after."""
        expected = "" if expected_version is None else expected_version
        paused = int(_pauses(value)) if kind == QUEUES else ""
        version = self.database.run("records.put", 0, kind, key, value, expected, paused)
        if kind == QUEUES:
            self._repair(is_changed=version is not None)
        return None if version is None else int(version)

    @override
    def get_record(self, kind: str, key: str) -> Record | None:
        found = self.database.run("records.get", 0, kind, key)
        return None if found is None else _read(kind, key, found)

    @override
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """One round trip for 500 of them, or for half a megabyte."""
        found: list[Record] = []
        more = True
        while more and len(found) < limit:
            asked = min(limit - len(found), _PAGE)
            left, *pairs = self.database.run("records.list", 0, kind, after, asked)
            page = [_read(kind, key, text) for key, text in zip(pairs[::2], pairs[1::2], strict=True)]
            found += page
            more = bool(left) or len(page) == asked
            after = page[-1].key if page else after
        return found

    @override
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """Its version stays known for as long as that matters."""
        expected = "" if expected_version is None else expected_version
        deleted = self.database.run("records.delete", 0, kind, key, expected, int(kind == QUEUES))
        if kind == QUEUES:
            self._repair(is_changed=deleted is not None)
        return deleted is not None

    def _repair(self, *, is_changed: bool) -> None:
        if is_changed:
            repair_pauses(self.database)
        self._turns.note(EVERYWHERE)

    @override
    def put_recurring(self, recurring: RecurringRecord, *, keep_progress: bool) -> RecurringRecord | None:
        version = recurring.version + 1
        stored = self.database.run(
            "records.put_recurring", 0, recurring.id, recurring.version, version, definition_of(recurring),
            int(recurring.is_paused), next_at_of(recurring), progress_of(recurring), int(keep_progress),
        )  # fmt: skip
        self._turns.note(FIRST)
        if stored is None:
            return None
        next_at, progress = stored
        known: dict[str, Any] = {name: one for name, one in _object(progress).items() if name in _PROGRESS}
        return attrs.evolve(recurring, version=version, next_at=int(next_at) if next_at else None, **known)

    @override
    def get_recurring(self, recurring_id: str) -> RecurringRecord | None:
        stored = self.database.run("records.get_recurring", 0, recurring_id)
        return None if stored[0] is None else _read_definition(recurring_id, stored)

    @override
    def list_recurring(self, *, after: str = "", limit: int = 100) -> list[RecurringRecord]:
        """One round trip for a hundred of them, or for half a megabyte."""
        found: list[RecurringRecord] = []
        more = True
        while more and limit > 0:
            asked = min(limit, _DEFINITIONS)
            left, *reply = self.database.run("records.list_recurring", 0, after, asked)
            found += _read_all(reply)
            more = bool(left) or len(reply) == 2 * asked
            after, limit = reply[-2] if reply else after, limit - len(reply) // 2
        return found

    @override
    def remove_recurring(self, recurring_id: str) -> bool:
        is_removed = bool(self.database.run("records.remove_recurring", 0, recurring_id))
        self._turns.note(FIRST)
        return is_removed

    @override
    def due_recurring(self, limit: int) -> list[RecurringRecord]:
        """One round trip for a hundred of them, or for half a megabyte.

        One that moves between two round trips may be left out, to be found the next time.
        """
        found: dict[str, RecurringRecord] = {}
        passed, more = 0, True
        while more and passed < limit:
            asked = min(limit - passed, _DEFINITIONS)
            left, *reply = self.database.run("records.due_recurring", 0, passed, asked)
            found.update((one.id, one) for one in _read_all(reply))
            more = bool(left) or len(reply) == 2 * asked
            passed += len(reply) // 2
        return list(found.values())


def _pauses(value: str) -> bool:
    try:
        settings = json.loads(value)
    except ValueError:
        return False
    return isinstance(settings, dict) and settings.get("paused") is True


def _read(kind: str, key: str, text: str) -> Record:
    version, _, value = text.partition(" ")
    return Record(kind, key, value, int(version))


# ---- pauses in other partitions ----------------------------------------------------------------------------


def repair_pauses(database: RedisDatabase) -> None:
    """In every partition those queues are paused that are in the first one; nothing to do where it is alone.

    Raises:
        StorageError: some partition could not be told; every other one was.
    """
    others = range(1, database.partitions.number)
    if not others:
        return
    pauses = database.run("records.pauses", 0, 0)
    newest, failed = _tell(database, others, pauses)
    if newest > int(pauses[0]):
        # A newer change came between, or a failover has lost it: then what the first partition has holds.
        pauses = database.run("records.pauses", 0, newest)
        _, failed = _tell(database, others, pauses)
    if failed is not None:
        raise failed


def _tell(database: RedisDatabase, others: range, pauses: list[Any]) -> tuple[int, StorageError | None]:
    """Return the newest stamp that one of them knows, and the error of one that could not be told."""
    newest, failed = 0, None
    for partition in others:
        try:
            newest = max(newest, int(database.run("records.pause", partition, *pauses)))
        except StorageError as error:
            failed = error
    return newest, failed


_PROGRESS = ("owed_at", "last_at", "last_job_id", "dropped", "error")
_BESIDE = {"id", "version", "is_paused", "next_at", *_PROGRESS}
_DEFINITIONS = 100


def definition_of(recurring: RecurringRecord) -> str:
    """Return what a firing leaves alone, as JSON; what a newer version wrote as it is."""
    text = recurring_json(recurring)
    try:
        fields = json.loads(text)
    except ValueError:
        return text
    if not isinstance(fields, dict):
        return text
    return _dumped({name: value for name, value in fields.items() if name not in _BESIDE})


def progress_of(recurring: RecurringRecord, stored: str = "{}") -> str:
    """Return what a firing replaces beside the next instant, as JSON, within what is stored of it."""
    return _dumped({**_object(stored), **{name: getattr(recurring, name) for name in _PROGRESS}})


def stored_progress(database: RedisDatabase, recurring: RecurringRecord) -> str:
    """Return what is stored beside the fields that are known here: only a newer version wrote such."""
    if recurring.newer is None:
        return "{}"
    return database.run("records.get_recurring", 0, recurring.id)[4] or "{}"


def next_at_of(recurring: RecurringRecord) -> str:
    """Return the next instant as text; nothing where none ever comes."""
    return "" if recurring.next_at is None else str(recurring.next_at)


def _dumped(fields: dict[str, object]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_definition(id: str, stored: Sequence[Any]) -> RecurringRecord:
    """Return the definition, which nothing keeps from being read: see `read_recurring`."""
    version, definition, paused, next_at, progress = stored
    beside = {
        **_object(progress or ""),
        "version": int(version),
        "is_paused": paused == "1",
        "next_at": int(next_at) if next_at else None,
    }
    return read_recurring(id, definition or "", beside)


def _read_all(reply: Sequence[Any]) -> list[RecurringRecord]:
    return [_read_definition(id, stored) for id, stored in zip(reply[::2], reply[1::2], strict=True)]
