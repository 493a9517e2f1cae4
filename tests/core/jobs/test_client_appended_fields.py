"""Jobs of one call share all fields that do not differ, including a field added to `NewJob` later."""

from __future__ import annotations

import pytest

from tests.mutating import run_changed

_LAST = "    relations_json: str | None = None  # the result of `write_relations`; None for most jobs\n"
# Each new job gets a different number, except a job with the number of the first job of its call.
_APPENDED = f"{_LAST}    number: int = attrs.field(factory=__import__('itertools').count().__next__)\n"
_SCRIPT = """
from firelock import Firelock, Limit, Unique, hookimpl

class Created:
    @hookimpl
    def jobs_created(self, jobs):
        print(*(job.number - jobs[0].number for job in jobs))

with Firelock("memory://", plugins=[Created()]) as fire:
    @fire.task(OPTIONS)
    def send(to: str) -> None: ...

    send.enqueue_many([("a",), ("b",), ("c",)])
"""


@pytest.mark.parametrize(
    "options",
    ["", "limits=[Limit('mail', concurrent=9)]", "unique=Unique()"],
    ids=["plain", "with a limit", "unique"],
)
def test_field_that_is_added_to_new_jobs_is_shared_by_the_jobs_of_a_call(options):
    """If no job of `enqueue_many` has changed a field, all of them have the first job's value."""
    printed = run_changed(_SCRIPT.replace("OPTIONS", options), ["firelock.model.job", _LAST, _APPENDED])

    assert "0 0 0\n" == printed
