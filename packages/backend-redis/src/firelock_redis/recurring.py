"""Recurring definitions: stored as JSON, with what makes them due beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from firelock.storage import RecurringRecord, read_recurring, recurring_json
from firelock_redis.database import Database

__all__ = [
    "definition_of",
    "due_recurring",
    "get_recurring",
    "list_recurring",
    "next_at_of",
    "progress_of",
    "put_recurring",
    "remove_recurring",
    "stored_progress",
]

_PROGRESS = ("owed_at", "last_at", "last_job_id", "dropped", "error")
_BESIDE = {"id", "version", "is_paused", "next_at", *_PROGRESS}
_PAGE = 100


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


def stored_progress(database: Database, recurring: RecurringRecord) -> str:
    """Return what is stored beside the fields that are known here: only a newer version wrote such."""
    if recurring.newer is None:
        return "{}"
    return database.run("get_recurring", 0, recurring.id)[4] or "{}"


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


def _read(id: str, stored: Sequence[Any]) -> RecurringRecord:
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
    return [_read(id, stored) for id, stored in zip(reply[::2], reply[1::2], strict=True)]


def put_recurring(
    database: Database, recurring: RecurringRecord, *, keep_progress: bool
) -> RecurringRecord | None:
    """See `Storage.put_recurring`."""
    version = recurring.version + 1
    stored = database.run(
        "put_recurring", 0, recurring.id, recurring.version, version, definition_of(recurring),
        int(recurring.is_paused), next_at_of(recurring), progress_of(recurring), int(keep_progress),
    )  # fmt: skip
    if stored is None:
        return None
    next_at, progress = stored
    known: dict[str, Any] = {name: one for name, one in _object(progress).items() if name in _PROGRESS}
    return attrs.evolve(recurring, version=version, next_at=int(next_at) if next_at else None, **known)


def get_recurring(database: Database, recurring_id: str) -> RecurringRecord | None:
    """See `Storage.get_recurring`."""
    stored = database.run("get_recurring", 0, recurring_id)
    return None if stored[0] is None else _read(recurring_id, stored)


def list_recurring(database: Database, *, after: str, limit: int) -> list[RecurringRecord]:
    """See `Storage.list_recurring`; one round trip for a hundred of them, or for half a megabyte."""
    found: list[RecurringRecord] = []
    more = True
    while more and limit > 0:
        asked = min(limit, _PAGE)
        left, *reply = database.run("list_recurring", 0, after, asked)
        found += _read_all(reply)
        more = bool(left) or len(reply) == 2 * asked
        after, limit = reply[-2] if reply else after, limit - len(reply) // 2
    return found


def remove_recurring(database: Database, recurring_id: str) -> bool:
    """See `Storage.remove_recurring`."""
    return bool(database.run("remove_recurring", 0, recurring_id))


def due_recurring(database: Database, limit: int) -> list[RecurringRecord]:
    """See `Storage.due_recurring`; one round trip for a hundred of them, or for half a megabyte.

    One that moves between two round trips may be left out, to be found the next time.
    """
    found: dict[str, RecurringRecord] = {}
    passed, more = 0, True
    while more and passed < limit:
        asked = min(limit - passed, _PAGE)
        left, *reply = database.run("due_recurring", 0, database.clock_offset, passed, asked)
        found.update((one.id, one) for one in _read_all(reply))
        more = bool(left) or len(reply) == 2 * asked
        passed += len(reply) // 2
    return list(found.values())
