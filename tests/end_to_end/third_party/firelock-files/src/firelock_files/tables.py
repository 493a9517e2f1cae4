"""What the folder holds, in memory: rows by key, and indexes that find them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import attrs
import cattrs

from firelock.storage import Record, SessionRecord, State, StoredJob

Row = TypeVar("Row")
Change = tuple[str, str, object]  # table, key, and the row as JSON: None where it is gone

_converter = cattrs.Converter(omit_if_default=True)


@attrs.frozen
class Session:
    """A session, and when it died."""

    record: SessionRecord
    ended_at: int | None = None


@attrs.frozen
class Versioned:
    """A record; a deleted one stays, since its version may never fall."""

    record: Record
    is_deleted: bool = False


class Table(Generic[Row]):
    """Rows by key; each index names the values under which a row is found."""

    def __init__(self, row_kind: type[Row], **indexes: Callable[[Row], Iterable[str]]) -> None:
        self.rows: dict[str, Row] = {}
        self.changed: dict[str, None] = {}  # keys, in the order of their changes
        self._row_kind, self._indexes = row_kind, indexes
        self._keys: dict[str, defaultdict[str, dict[str, None]]] = {
            name: defaultdict(dict) for name in indexes
        }

    def put(self, key: str, row: Row | None) -> None:
        """The row is what is found under the key; None for nothing."""
        before = self.rows.pop(key, None)
        for name, index in self._indexes.items():
            keys = self._keys[name]
            for value in index(before) if before is not None else ():
                keys[value].pop(key, None)
            for value in index(row) if row is not None else ():
                keys[value][key] = None
        if row is not None:
            self.rows[key] = row
        self.changed[key] = None

    def of(self, index: str, value: str) -> list[Row]:
        """Return the rows that the index has under this value."""
        return [self.rows[key] for key in self._keys[index].get(value, ())]

    def sizes(self, index: str) -> dict[str, int]:
        """Return how many rows the index has under each value."""
        return {value: len(keys) for value, keys in self._keys[index].items() if keys}

    def load(self, key: str, raw: object) -> None:
        """The row is as the file says."""
        self.put(key, None if raw is None else _converter.structure(raw, self._row_kind))

    def dump(self, key: str) -> object:
        """Return the row as JSON, None where there is none."""
        row = self.rows.get(key)
        return None if row is None else _converter.unstructure(row)


class Tables:
    """Everything that is stored."""

    def __init__(self) -> None:
        self.jobs: Table[StoredJob] = Table(
            StoredJob,
            state=lambda job: [job.record.state],
            counted=lambda job: [f"{job.record.state} {job.record.queue}"],
            ready=lambda job: [job.record.queue] if job.is_ready else [],
            held=lambda job: [job.record.session] if job.record.session else [],
            waiting=lambda job: {edge.parent_id for edge in job.pending},
        )
        self.releasing: Table[list[str]] = Table(list[str])  # ended job → children still to be looked at
        self.sessions: Table[Session] = Table(Session)
        self.records: Table[Versioned] = Table(Versioned, kind=lambda row: [row.record.kind])
        self._named = {name: table for name, table in vars(self).items() if isinstance(table, Table)}
        self.next_sequence = 0

    def put_job(self, job: StoredJob) -> None:
        """The job is stored; one that has just ended has its waiting children looked at."""
        record = job.record
        before = self.jobs.rows.get(record.id)
        self.jobs.put(record.id, job)
        self.next_sequence = max(self.next_sequence, job.sequence + 1)
        if before is not None and before.record.state is not record.state:
            children = self.jobs.of("waiting", record.id) if record.is_final else []
            self.releasing.put(record.id, [child.record.id for child in children] or None)

    def living(self, session: str) -> SessionRecord | None:
        """Return the session, None where it is dead or unknown."""
        row = self.sessions.rows.get(session)
        return row.record if row and row.record.is_alive else None

    def in_state(self, *states: State) -> list[StoredJob]:
        """Return the jobs in these states."""
        return [job for state in states for job in self.jobs.of("state", state)]

    # ---- to and from the file ----------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """Return what changed since this was asked last."""
        changes = [(name, key, one.dump(key)) for name, one in self._named.items() for key in one.changed]
        self._forget_changes()
        return changes

    def everything(self) -> list[Change]:
        """Return every row as a change."""
        return [(name, key, one.dump(key)) for name, one in self._named.items() for key in one.rows]

    def load(self, changes: Iterable[Change]) -> None:
        """The rows are as these changes say."""
        for name, key, raw in changes:
            self._named[name].load(key, raw)
            if isinstance(raw, dict) and name == "jobs":
                self.next_sequence = max(self.next_sequence, raw["sequence"] + 1)
        self._forget_changes()

    def clear(self) -> None:
        """Nothing is stored."""
        for table in self._named.values():
            for key in list(table.rows):
                table.put(key, None)

    def _forget_changes(self) -> None:
        for table in self._named.values():
            table.changed.clear()
