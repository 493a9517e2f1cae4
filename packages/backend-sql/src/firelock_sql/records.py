"""Small versioned records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, null, select, update

from firelock.storage import ANY_QUEUE, Record
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import records
from firelock_sql.transaction import Transaction

__all__ = ["delete_record", "get_record", "list_records", "put_record"]

_QUEUE = "queue"
_is_this = (records.c.kind == bindparam("of_kind")) & (records.c.key == bindparam("of_key"))

_GET = Statement(select(records.c.value, records.c.version).where(_is_this))
_LOCK = Statement(select(records.c.value, records.c.version).where(_is_this).with_for_update())
_PUT = insert_into(records, "kind", "key", "value", "version", "is_paused")
_REPLACE = Statement(
    update(records)
    .where(_is_this)
    .values(value=bindparam("new_value"), version=bindparam("new_version"), is_paused=bindparam("new_paused"))
)
_DELETE = Statement(update(records).where(_is_this).values(value=null(), is_paused=bindparam("new_paused")))
_LIST = Statement(
    select(records.c.kind, records.c.key, records.c.value, records.c.version)
    .where(
        records.c.kind == bindparam("of_kind"),
        records.c.key > bindparam("after"),
        records.c.value.is_not(None),
    )
    .order_by(records.c.key)
    .limit(bindparam("most"))
)


def put_record(
    tx: Transaction, kind: str, key: str, value: str, *, expected_version: int | None
) -> int | None:
    """See `Storage.put_record`."""
    found: Any = tx.one(_LOCK, {"of_kind": kind, "of_key": key})
    stored = 0 if found is None or found[0] is None else found[1]
    if expected_version not in {None, stored}:
        return None
    is_paused = int(kind == _QUEUE and _pauses(value))
    if kind == _QUEUE and not is_paused:
        tx.woken.add(key)
    if found is None:
        row = {"kind": kind, "key": key, "value": value, "version": 1, "is_paused": is_paused}
        tx.run(_PUT, row)
        return 1
    version: int = found[1] + 1
    of = {"of_kind": kind, "of_key": key}
    tx.run(_REPLACE, {**of, "new_value": value, "new_version": version, "new_paused": is_paused})
    return version


def _pauses(value: str) -> bool:
    try:
        settings = json.loads(value)
    except ValueError:
        return False
    return isinstance(settings, dict) and settings.get("paused") is True


def get_record(tx: Transaction, kind: str, key: str) -> Record | None:
    """See `Storage.get_record`."""
    found: Any = tx.one(_GET, {"of_kind": kind, "of_key": key})
    return None if found is None or found[0] is None else Record(kind, key, *found)


def list_records(tx: Transaction, kind: str, *, after: str, limit: int) -> list[Record]:
    """See `Storage.list_records`."""
    rows: Sequence[Any] = tx.all(_LIST, {"of_kind": kind, "after": after, "most": limit})
    return [Record(*row) for row in rows]


def delete_record(tx: Transaction, kind: str, key: str, *, expected_version: int | None) -> bool:
    """See `Storage.delete_record`; the row stays without a value, so that its version never falls."""
    found: Any = tx.one(_LOCK, {"of_kind": kind, "of_key": key})
    if found is None or found[0] is None or expected_version not in {None, found[1]}:
        return False
    if kind == _QUEUE:
        tx.woken.add(ANY_QUEUE)
    return tx.run(_DELETE, {"of_kind": kind, "of_key": key, "new_paused": 0}) > 0
