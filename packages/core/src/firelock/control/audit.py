"""`fire.audit`: small records of users' actions; the newest 10,000 are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

import attrs

from firelock.errors import ConfigurationError
from firelock.jobs.pagination import PAGE_LIMIT, Paged, newest_records
from firelock.model.aio import twin
from firelock.model.clock import from_micros, micros
from firelock.model.ids import newest_first_key
from firelock.model.text import shorten, shown

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue
    from firelock.jobs.client import Client
    from firelock.storage import Record

KEPT = 10_000
PRUNES_EVERY = 250  # number of new entries between two prunings, counted over all processes
_KIND, _COUNT = "audit", "audit_count"
_TEXT_LIMIT, _TARGET_LIMIT, _DETAIL_LIMIT = 200, 500, 4_096


@attrs.frozen
class AuditEntry:
    """One recorded action; an entry is never changed."""

    id: str  # ids of later entries are smaller
    at: datetime
    action: str  # a word for the action, for example "queue.pause"
    target: str  # the object of the action, such as a job's id, a queue's name or a count
    by: str  # the user's name, as given by the caller
    origin: str  # origin of the action: "dashboard", "cli" or a name chosen by the caller
    detail: Mapping[str, JsonValue] | None  # other facts, never arguments or secrets


@attrs.frozen
class AuditPage(Paged[AuditEntry]):
    """A page of entries, newest first; `cursor` selects the next page, and is None on the last page."""

    entries: list[AuditEntry]
    cursor: str | None


class Audit:
    """The recorded actions of users, with their times: `fire.audit`. `record` acts immediately."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def record(
        self,
        action: str,
        target: str,
        *,
        by: str,
        at: datetime | None = None,
        origin: str = "dashboard",
        detail: Mapping[str, JsonValue] | None = None,
    ) -> AuditEntry:
        """Store an entry and return it as stored; long strings are cut.

        The target is cut to 500 characters; `action`, `by` and `origin` are cut to 200. If the JSON of the
        detail is larger than 4 KiB, {"cut": the beginning of that JSON} is stored instead. `at` defaults to
        the storage's current time.

        Raises:
            ConfigurationError: If the action, target, `by` or `origin` is not a string, or the detail is not
                a JSON object.
            ScheduleError: If `at` has no time zone.
        """
        instant = self._client.clock.now() if at is None else micros(at)
        value = {
            "at": instant,
            "action": _cut("action", action, _TEXT_LIMIT),
            "target": _cut("target", target, _TARGET_LIMIT),
            "by": _cut("by", by, _TEXT_LIMIT),
            "origin": _cut("origin", origin, _TEXT_LIMIT),
            "detail": _cut_detail(detail),
        }
        key = newest_first_key(instant)
        storage = self._client.storage
        storage.put_record(_KIND, key, json.dumps(value))
        # The version of a record increases by one with each change, so it serves as a counter that all
        # processes share.
        count = storage.put_record(_COUNT, "recorded", "{}")
        if count is not None and count % PRUNES_EVERY == 0:
            self._prune()
        return _entry(key, value)

    arecord = twin(record)

    def list(self, limit: int = 50, cursor: str | None = None) -> AuditPage:
        """Return a page of entries, newest first.

        Raises:
            ConfigurationError: If the limit is not from 1 to 500.
            StorageError: If the cursor does not come from a page.
        """
        records, following = newest_records(
            self._client.storage, _KIND, "audit entries", limit=limit, cursor=cursor
        )
        return AuditPage([_entry(record.key, json.loads(record.value)) for record in records], following)

    alist = twin(list)  # noqa: A003 - the method above

    def _prune(self) -> None:
        """Delete old entries, so that there is space for all entries until the next pruning."""
        storage = self._client.storage
        last = self._last_kept(KEPT - PRUNES_EVERY)
        while last is not None and (old := storage.list_records(_KIND, after=last, limit=PAGE_LIMIT)):
            for record in old:
                storage.delete_record(_KIND, record.key)

    def _last_kept(self, kept: int) -> str | None:
        """Return the key of the oldest entry to keep; None if fewer entries are stored."""
        after = ""
        page: Sequence[Record]
        while kept > 0:
            page = self._client.storage.list_records(_KIND, after=after, limit=min(kept, PAGE_LIMIT))
            if not page:
                return None
            after, kept = page[-1].key, kept - len(page)
        return after


def _cut(name: str, text: object, limit: int) -> str:
    if not isinstance(text, str):
        raise ConfigurationError(f"{name} must be a string, got {shown(text)}.")
    return shorten(text, limit)


def _cut_detail(detail: object) -> dict[str, JsonValue] | None:
    if detail is None:
        return None
    if not isinstance(detail, Mapping):
        raise ConfigurationError(f"detail must be a mapping of names to JSON values, got {shown(detail)}.")
    try:
        text = json.dumps(dict(detail), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"detail={shown(detail)} cannot be stored as JSON: {error}. Use strings, numbers and lists."
        ) from error
    if len(text) > _DETAIL_LIMIT:
        return {"cut": f"{text[: _DETAIL_LIMIT - 200]}…"}
    return cast("dict[str, JsonValue]", json.loads(text))


def _entry(key: str, value: Mapping[str, object]) -> AuditEntry:
    return AuditEntry(
        key,
        from_micros(cast("int", value["at"])),
        str(value["action"]),
        str(value["target"]),
        str(value["by"]),
        str(value["origin"]),
        cast("Mapping[str, JsonValue] | None", value["detail"]),
    )
