"""A field that is added to a record of jobs later is written to its column, and read from there."""

from __future__ import annotations

from tests.mutating import run_changed

_ENTRY = "changed a scheduled job\n\n\n@attrs.frozen\nclass FailedAttempt"
_CLAIMED = "    has_memos: bool = attrs.field(default=False, kw_only=True)\n"
_NOTE = "    note: str | None = None\n"


def test_field_that_is_added_to_history_entries_is_written():
    """Only fields with default values at the end of a line are omitted."""
    script = """
from firelock.storage import HistoryEntry, State
from firelock_sql.rows.job_row import entry_line
print(entry_line(HistoryEntry(State.ENQUEUED, 7, note="added")), end="")
print(entry_line(HistoryEntry(State.ENQUEUED, 7, "reason")), end="")
"""

    printed = run_changed(script, ["firelock.model.job", _ENTRY, _ENTRY.replace("\n", f"\n{_NOTE}", 1)])

    wanted = [
        '["enqueued",7,null,null,null,null,null,0,null,"added"]',
        '["enqueued",7,"reason"]',
    ]
    assert wanted == printed.splitlines()


def test_field_that_is_added_to_claimed_jobs_is_read():
    """The columns of a claimed job include the field, and its value differs from that of `has_memos`."""
    script = """
from firelock_sql.rows.job_row import CLAIMED, claimed_job
row = dict.fromkeys(CLAIMED) | {"tags": "[]", "note": "added"}
job = claimed_job([*row.values()], 0)
print(job.note, job.has_memos)
"""

    printed = run_changed(script, ["firelock.model.job", _CLAIMED, _CLAIMED + _NOTE])

    assert "added False\n" == printed
