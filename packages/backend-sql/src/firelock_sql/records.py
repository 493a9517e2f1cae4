"""Small versioned records; the definitions of recurring jobs, which change often, have a table of their own.

Of those that are gone a row without a key stays, one a kind: no later version falls below its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
from sqlalchemy import Table, bindparam, delete, select, update

from firelock.storage import ANY_QUEUE, Applied, Inserted, NewJob, Record, RecordChange, rules
from firelock_sql.claim import next_due_at
from firelock_sql.insert import insert_jobs
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import RECURRING, records, recurring
from firelock_sql.transaction import Database, Transaction

__all__ = ["delete_record", "due_records", "get_record", "insert_if", "list_records", "put_record"]

_QUEUE = "queue"
_FLOOR = ""  # the key of the row that stays


class _Statements:
    """What is asked of a table of records."""

    def __init__(self, table: Table) -> None:
        columns = select(table.c.kind, table.c.key, table.c.value, table.c.version, table.c.due_at)
        of_kind = table.c.kind == bindparam("of_kind")
        of_key = of_kind & (table.c.key == bindparam("of_key"))
        some = columns.limit(bindparam("most"))
        self.get = Statement(columns.where(of_key))
        self.lock = Statement(columns.where(of_key).with_for_update())
        self.put = insert_into(table, "kind", "key", "value", "version", "due_at")
        self.replace = Statement(
            update(table)
            .where(of_key)
            .values(
                value=bindparam("new_value"),
                version=bindparam("new_version"),
                due_at=bindparam("new_due_at"),
            )
        )
        self.delete = Statement(delete(table).where(of_key))
        self.list = Statement(some.where(of_kind, table.c.key > bindparam("after")).order_by(table.c.key))
        self.due = Statement(
            some.where(of_kind, table.c.due_at.is_not(None), table.c.due_at <= bindparam("now")).order_by(
                table.c.due_at, table.c.key
            )
        )


_OF_RECORDS, _OF_RECURRING = _Statements(records), _Statements(recurring)
_PAUSE = Statement(
    update(records)
    .where(records.c.kind == bindparam("of_kind"), records.c.key == bindparam("of_key"))
    .values(is_paused=bindparam("new_paused"))
)


def _of(kind: str) -> _Statements:
    return _OF_RECURRING if kind == RECURRING else _OF_RECORDS


def put_record(
    tx: Transaction, kind: str, key: str, value: str, *, expected_version: int | None, due_at: int | None
) -> int | None:
    """See `Storage.put_record`."""
    found = _locked(tx, kind, key)
    version = found.version if found else 0
    if expected_version not in {None, version}:
        return None
    return _replace(tx, found, RecordChange(kind, key, value, version, due_at))


def insert_if(tx: Transaction, database: Database, jobs: Sequence[NewJob], change: RecordChange) -> Inserted:
    """See `Storage.insert`; the record is locked first, so that one of several changes it."""
    found = _locked(tx, change.kind, change.key)
    answer = rules.checked(found, change)
    if answer is not Applied.APPLIED:
        return Inserted([False] * len(jobs), answer)
    is_new = insert_jobs(tx, database, jobs) if jobs else []
    _replace(tx, found, change)
    return Inserted(is_new)


def _replace(tx: Transaction, found: Record | None, change: RecordChange) -> int:
    kind, key, due_at = change.kind, change.key, change.due_at
    if kind == RECURRING and due_at is not None:
        first = next_due_at(tx)
        if first is None or due_at < first:
            tx.woken.add(ANY_QUEUE)
    last = found or get_record(tx, kind, _FLOOR)
    version = 1 + (last.version if last else 0)
    _write(tx, Record(kind, key, change.value, version, due_at), is_new=found is None)
    if kind == _QUEUE:
        is_paused = _pauses(change.value)
        tx.run(_PAUSE, {"of_kind": kind, "of_key": key, "new_paused": int(is_paused)})
        if not is_paused:
            tx.woken.add(key)
    return version


def _write(tx: Transaction, record: Record, *, is_new: bool) -> None:
    if is_new:
        tx.run(_of(record.kind).put, attrs.asdict(record))
    else:
        of = {"of_kind": record.kind, "of_key": record.key}
        new = {"new_value": record.value, "new_version": record.version, "new_due_at": record.due_at}
        tx.run(_of(record.kind).replace, {**of, **new})


def _pauses(value: str) -> bool:
    try:
        settings = json.loads(value)
    except ValueError:
        return False
    return isinstance(settings, dict) and settings.get("paused") is True


def _locked(tx: Transaction, kind: str, key: str) -> Record | None:
    """Return the record, which nobody else changes until the end of the transaction."""
    found: Any = tx.one(_of(kind).lock, {"of_kind": kind, "of_key": key})
    return None if found is None else Record(*found)


def get_record(tx: Transaction, kind: str, key: str) -> Record | None:
    """See `Storage.get_record`."""
    found: Any = tx.one(_of(kind).get, {"of_kind": kind, "of_key": key})
    return None if found is None else Record(*found)


def list_records(tx: Transaction, kind: str, *, after: str, limit: int) -> list[Record]:
    """See `Storage.list_records`."""
    rows: Sequence[Any] = tx.all(_of(kind).list, {"of_kind": kind, "after": after, "most": limit})
    return [Record(*row) for row in rows]


def due_records(tx: Transaction, kind: str, limit: int) -> list[Record]:
    """See `Storage.due_records`."""
    rows: Sequence[Any] = tx.all(_of(kind).due, {"of_kind": kind, "now": tx.now, "most": limit})
    return [Record(*row) for row in rows]


def delete_record(tx: Transaction, kind: str, key: str, *, expected_version: int | None) -> bool:
    """See `Storage.delete_record`."""
    found = _locked(tx, kind, key)
    if found is None or expected_version not in {None, found.version}:
        return False
    tx.run(_of(kind).delete, {"of_kind": kind, "of_key": key})
    floor = _locked(tx, kind, _FLOOR)
    if floor is None or floor.version < found.version:
        _write(tx, Record(kind, _FLOOR, "", found.version), is_new=floor is None)
    if kind == _QUEUE:
        tx.woken.add(ANY_QUEUE)
    return True
