"""Recurring definitions: stored whole, with what makes them due beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from sqlalchemy import bindparam, delete, select, update

from firelock.storage import (
    ANY_QUEUE,
    NewJob,
    RecurringRecord,
    read_recurring,
    recurring_json,
    with_progress_of,
)
from firelock_sql.claim import next_due_at
from firelock_sql.insert import insert_jobs
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import is_firing, recurring
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "due_recurring",
    "fire_recurring",
    "get_recurring",
    "list_recurring",
    "put_recurring",
    "remove_recurring",
]

_COLUMNS = (
    recurring.c.id,
    recurring.c.version,
    recurring.c.next_at,
    recurring.c.is_paused,
    recurring.c.definition,
)
_is_this = recurring.c.id == bindparam("of_id")

_GET = Statement(select(*_COLUMNS).where(_is_this))
_LOCK = Statement(select(*_COLUMNS).where(_is_this).with_for_update())
_PUT = insert_into(recurring, "id", "version", "next_at", "is_paused", "definition")
_REPLACE = Statement(
    update(recurring)
    .where(_is_this)
    .values(
        version=bindparam("new_version"),
        next_at=bindparam("new_next_at"),
        is_paused=bindparam("new_paused"),
        definition=bindparam("new_definition"),
    )
)
_REMOVE = Statement(delete(recurring).where(_is_this))
_LIST = Statement(
    select(*_COLUMNS)
    .where(recurring.c.id > bindparam("after"))
    .order_by(recurring.c.id)
    .limit(bindparam("most"))
)
_DUE = Statement(
    select(*_COLUMNS)
    .where(is_firing, recurring.c.next_at <= bindparam("now"))
    .order_by(recurring.c.next_at, recurring.c.id)
    .limit(bindparam("most"))
)


def _read(row: Sequence[Any]) -> RecurringRecord:
    """Return the definition of a row, which nothing keeps from being read: see `read_recurring`."""
    id, version, next_at, paused, definition = row
    beside = {"version": version, "next_at": next_at, "is_paused": bool(paused)}
    return read_recurring(str(id), str(definition), beside)


def _store(tx: Transaction, record: RecurringRecord, *, is_new: bool) -> None:
    first = next_due_at(tx)
    definition = recurring_json(record)
    if is_new:
        row = {"id": record.id, "version": record.version, "next_at": record.next_at}
        tx.run(_PUT, {**row, "is_paused": int(record.is_paused), "definition": definition})
    else:
        row = {"of_id": record.id, "new_version": record.version, "new_next_at": record.next_at}
        tx.run(_REPLACE, {**row, "new_paused": int(record.is_paused), "new_definition": definition})
    if record.next_at is not None and not record.is_paused and (first is None or record.next_at < first):
        tx.woken.add(ANY_QUEUE)


def put_recurring(tx: Transaction, record: RecurringRecord, *, keep_progress: bool) -> RecurringRecord | None:
    """See `Storage.put_recurring`."""
    stored = _locked(tx, record.id)
    if (stored.version if stored else 0) != record.version:
        return None
    wanted = attrs.evolve(record, version=record.version + 1)
    if keep_progress and stored is not None:
        wanted = with_progress_of(wanted, stored)
    _store(tx, wanted, is_new=stored is None)
    return wanted


def get_recurring(tx: Transaction, recurring_id: str) -> RecurringRecord | None:
    """See `Storage.get_recurring`."""
    found = tx.one(_GET, {"of_id": recurring_id})
    return None if found is None else _read(found)


def _locked(tx: Transaction, recurring_id: str) -> RecurringRecord | None:
    """Return the definition, which nobody else changes until the end of the transaction."""
    found = tx.one(_LOCK, {"of_id": recurring_id})
    return None if found is None else _read(found)


def list_recurring(tx: Transaction, *, after: str, limit: int) -> list[RecurringRecord]:
    """See `Storage.list_recurring`."""
    return [_read(row) for row in tx.all(_LIST, {"after": after, "most": limit})]


def remove_recurring(tx: Transaction, recurring_id: str) -> bool:
    """See `Storage.remove_recurring`."""
    return tx.run(_REMOVE, {"of_id": recurring_id}) > 0


def due_recurring(tx: Transaction, limit: int) -> list[RecurringRecord]:
    """See `Storage.due_recurring`."""
    return [_read(row) for row in tx.all(_DUE, {"now": tx.now, "most": limit})]


def fire_recurring(
    tx: Transaction,
    database: Database,
    record: RecurringRecord,
    expected_next_at: int,
    new: Sequence[NewJob],
) -> bool:
    """See `Storage.fire_recurring`; jobs and progress are one transaction."""
    stored = _locked(tx, record.id)
    if stored is None or stored.is_paused:
        return False
    if (stored.version, stored.next_at) != (record.version, expected_next_at):
        return False
    insert_jobs(tx, database, new)
    _store(tx, with_progress_of(stored, record), is_new=False)
    return True
