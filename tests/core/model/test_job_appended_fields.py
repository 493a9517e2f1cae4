"""Jobs with a field that is added to their record later do not use the fast paths, which would drop it."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.job import PLAIN_FIELDS, NewJob, State, further_fields
from tests.mutating import run_changed

_NEW_JOB = "    relations_json: str | None = None  # the result of `write_relations`; None for most jobs\n"
_TRANSITION = "  # this memo and all later memos are deleted\n"
_NOTE = "    note: str | None = None\n"

PLAIN = NewJob("id", "task", "[]", "json", "default", 5, State.ENQUEUED, 7)


def test_job_with_an_added_field_is_not_stored_on_a_fast_path():
    """A fast path does not write a field that a later release has added."""
    script = """
from firelock.storage import NewJob, State, further_fields
job = NewJob("id", "task", "[]", "json", "default", 5, State.ENQUEUED, 7, note="added")
read, plain = further_fields("admission_json", "relations_json")
print(job.is_plain, read(job) == plain)
"""

    printed = run_changed(script, ["firelock.model.job", _NEW_JOB, _NEW_JOB + _NOTE])

    assert "False False\n" == printed


def test_success_with_an_added_field_is_not_settled_on_a_fast_path():
    """The fast path settles a success with one statement, which does not write the field."""
    script = """
from firelock.model.lifecycle import HELD
from firelock.storage import State, Transition
ends = [Transition("id", HELD, "session", 1, State.SUCCEEDED, 7, note=note) for note in (None, "added")]
print(*(end.is_plain_success for end in ends))
"""

    printed = run_changed(script, ["firelock.model.job", _TRANSITION, _TRANSITION + _NOTE])

    assert "True False\n" == printed


@pytest.mark.parametrize(
    "field", [field.name for field in attrs.fields(NewJob) if field.name not in PLAIN_FIELDS]
)
def test_job_with_any_other_field_is_not_plain(field):
    """A plain job has only a queue, a priority and the fields that every job has."""
    assert PLAIN.is_plain
    assert not attrs.evolve(PLAIN, **{field: object()}).is_plain


def test_unknown_field_of_a_fast_path_raises():
    """If a field were misspelled, jobs that use the field could not be stored on the fast path."""
    with pytest.raises(ValueError, match=r"^A new job has no field limits\.$"):
        further_fields("limits", "tags")
