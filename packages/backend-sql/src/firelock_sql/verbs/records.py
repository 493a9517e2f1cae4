"""Small versioned records. The definitions of recurring jobs change often, so they are in a separate table.

For each kind with deleted records, one row remains, with the kind as its key. This row stores the highest
version of the deleted records, so that later records have higher versions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from typing_extensions import override

from firelock.storage import ANY_QUEUE, Applied, Inserted, NewJob, Record, RecordChange, rules
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.verbs.claim import next_due_at
from firelock_sql.verbs.insert import insert_jobs
from firelock_sql.verbs.limits import LIMIT

_QUEUE = "queue"
_GONE = ""  # the kind of the rows that remain for kinds with deleted records
_COLUMNS = ("kind", "key", "value", "version", "due_at")


class _Statements:
    """The statements for one table of records."""

    def __init__(self, table: str) -> None:
        some = f"SELECT {', '.join(_COLUMNS)} FROM {table} WHERE kind = :kind"  # noqa: S608 - our own names
        this = "kind = :kind AND key = :key"
        self.get = Text(f"{some} AND key = :key")
        self.lock = Text(f"{some} AND key = :key FOR UPDATE")
        self.put = insert_into(table, *_COLUMNS)
        self.replace = Text(
            f"UPDATE {table} SET value = :value, version = :version, due_at = :due_at WHERE {this}"  # noqa: S608
        )
        self.delete = Text(f"DELETE FROM {table} WHERE {this}")  # noqa: S608 - our own names
        self.list = Text(f"{some} AND key > :after ORDER BY key LIMIT :most")
        self.due = Text(f"{some} AND due_at IS NOT NULL AND due_at <= :now ORDER BY due_at, key LIMIT :most")


RECURRING = "recurring"  # the kind of records that determine the next due time
_OF_RECORDS, _OF_RECURRING = _Statements("firelock_records"), _Statements("firelock_recurring")
_PAUSE = Text("UPDATE firelock_records SET is_paused = :is_paused WHERE kind = :kind AND key = :key")


def _of(kind: str) -> _Statements:
    return _OF_RECURRING if kind == RECURRING else _OF_RECORDS


class SqlRecordVerbs(SqlVerbs):
    """The verbs for records."""

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
        def put(tx: Transaction) -> int | None:
            found = _locked(tx, kind, key)
            version = found.version if found else 0
            if expected_version not in {None, version}:
                return None
            # the record is locked first, because claims must not wait for another transaction that locks it
            if kind == LIMIT:
                self._hold_claims(tx)
            return _replace(tx, found, RecordChange(kind, key, value, version, due_at))

        return self._database.write(put)

    def _hold_claims(self, tx: Transaction) -> None:
        """Wait for open claims and block new ones, before the settings of a limit are stored.

        Otherwise, a claim without these settings, which does not list its jobs as holders, could commit after
        a claim with these settings.
        """

    @override
    def get_record(self, kind: str, key: str) -> Record | None:
        return self._database.read(lambda tx: _get(tx, kind, key))

    @override
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        rows = self._database.read(lambda tx: tx.all(_of(kind).list, kind=kind, after=after, most=limit))
        return [Record(*row) for row in rows]

    @override
    def due_records(self, kind: str, limit: int) -> list[Record]:
        rows = self._database.read(lambda tx: tx.all(_of(kind).due, kind=kind, now=tx.now, most=limit))
        return [Record(*row) for row in rows]

    @override
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        def delete(tx: Transaction) -> bool:
            found = _locked(tx, kind, key)
            if found is None or expected_version not in {None, found.version}:
                return False
            if kind == LIMIT:
                self._hold_claims(tx)
            tx.run(_of(kind).delete, kind=kind, key=key)
            _raise_floor(tx, kind, found.version)
            if kind in {_QUEUE, LIMIT}:
                tx.woken.add(ANY_QUEUE)
            return True

        return self._database.write(delete)


def insert_if(tx: Transaction, jobs: Sequence[NewJob], change: RecordChange) -> Inserted:
    """See `Storage.insert`. The record is locked first, so that only one of several calls changes it."""
    found = _locked(tx, change.kind, change.key)
    answer = rules.checked(found, change)
    if answer is not Applied.APPLIED:
        return Inserted([False] * len(jobs), answer)
    is_new = insert_jobs(tx, jobs) if jobs else []
    _replace(tx, found, change)
    return Inserted(is_new)


def _replace(tx: Transaction, found: Record | None, change: RecordChange) -> int:
    kind, key, due_at = change.kind, change.key, change.due_at
    if kind == RECURRING and due_at is not None:
        first = next_due_at(tx)
        if first is None or due_at < first:
            tx.woken.add(ANY_QUEUE)
    version = 1 + (found.version if found else _floor(tx, _of(kind).get, kind))
    statement = _of(kind).put if found is None else _of(kind).replace
    tx.run(statement, kind=kind, key=key, value=change.value, version=version, due_at=due_at)
    if kind == _QUEUE:
        is_paused = _pauses(change.value)
        tx.run(_PAUSE, kind=kind, key=key, is_paused=int(is_paused))
        if not is_paused:
            tx.woken.add(key)
    if kind == LIMIT:
        tx.woken.add(ANY_QUEUE)
    return version


def _floor(tx: Transaction, look: Text, kind: str) -> int:
    """Return the highest version of the deleted records of a kind; 0 if none were deleted."""
    found = tx.one(look, kind=_GONE, key=kind)
    return 0 if found is None else Record(*found).version


def _raise_floor(tx: Transaction, kind: str, version: int) -> None:
    statements = _of(kind)
    floor = _floor(tx, statements.lock, kind)
    if floor < version:
        statement = statements.replace if floor else statements.put
        tx.run(statement, kind=_GONE, key=kind, value="", version=version, due_at=None)


def _pauses(value: str) -> bool:
    try:
        settings = json.loads(value)
    except ValueError:
        return False
    return isinstance(settings, dict) and settings.get("paused") is True


def _get(tx: Transaction, kind: str, key: str) -> Record | None:
    found = tx.one(_of(kind).get, kind=kind, key=key)
    return None if found is None else Record(*found)


def _locked(tx: Transaction, kind: str, key: str) -> Record | None:
    """Return the record, locked until the end of the transaction."""
    found = tx.one(_of(kind).lock, kind=kind, key=key)
    return None if found is None else Record(*found)
