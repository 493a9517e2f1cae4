"""Records, which are small versioned values."""

from __future__ import annotations

import attrs


@attrs.frozen
class Record:
    """A small versioned value, for example the settings of a queue, an audit entry or the task catalogue."""

    kind: str
    key: str
    value: str  # a JSON string
    version: int  # starts at 1 and increases by 1 with each change; it never decreases, even after a delete
    due_at: int | None = None  # time from which `due_records` returns it; None for never


@attrs.frozen
class RecordChange:
    """A record that is replaced in the same operation as an insert if it has the expected version."""

    kind: str
    key: str
    value: str
    expected_version: int  # 0 if no record may exist yet
    due_at: int | None = None
