"""A field that is added to `OptionalFields` later is in the payload, even if all other fields are empty."""

from __future__ import annotations

import pytest

from tests.mutating import run_changed

_NEW_JOB = "    relations_json: str | None = None  # the result of `write_relations`; None for most jobs\n"
_LAST_FIELD = "    relations_json: str | None = None\n\n\n_ALWAYS"
_NOTE = "    note: str | None = None\n"


@pytest.mark.parametrize(
    ("fields", "end"),
    [("", 'null,"added"]'), ("relations_json='{}', ", '"{}","added"]'), ("retry='{}', ", 'null,"added"]')],
    ids=["alone", "with relations", "with a retry policy"],
)
def test_field_that_is_added_to_the_optional_fields_is_written(fields, end):
    """Only empty fields at the end of the array are omitted."""
    script = f"""
from firelock.storage import NewJob, State
from firelock_redis.layout.encoding import optional_of
print(optional_of(NewJob("id", "task", "[]", "json", "default", 5, State.ENQUEUED, 7, {fields}note="added")))
"""

    printed = run_changed(
        script,
        ["firelock.model.job", _NEW_JOB, _NEW_JOB + _NOTE],
        ["firelock_redis.layout.encoding", _LAST_FIELD, _LAST_FIELD.replace("\n\n\n", f"\n{_NOTE}\n\n")],
    )

    assert printed.endswith(f"{end}\n")
