"""Small versioned values."""

from __future__ import annotations

import attrs


@attrs.frozen
class Record:
    """A small versioned value: queue settings, audit entries, task catalogue and the like."""

    kind: str
    key: str
    value: str  # JSON text
    version: int  # 1 at first, grows by one with each change, never falls, not even after delete and put
    due_at: int | None = None  # when `due_records` gives it; None for never


@attrs.frozen
class RecordChange:
    """A record that is replaced together with an insert, if it has the expected version."""

    kind: str
    key: str
    value: str
    expected_version: int  # 0: none is stored
    due_at: int | None = None
