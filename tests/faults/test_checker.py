"""What explains that a job ran twice."""

from __future__ import annotations

import pytest

from tests.faults.checker import _deaths, _is_explained
from tests.faults.ledger import Event


def event(what, at, *, pid=0, note=""):
    """Something that was noted, of a job where it started."""
    return Event(what=what, at=at, pid=pid, job="job", attempt=1, fence=1, note=note, parent=99)


@pytest.mark.parametrize(
    ("noted", "is_explained"),
    [
        ([("kill", 15.0), ("gone", 15.1)], True),
        ([("kill", 9.9), ("gone", 10.1)], True),  # it started the job while it died
        ([("kill", 19.9), ("gone", 20.1)], True),  # others ran the job before its end was noted
        ([("kill", 9.0), ("gone", 9.1)], False),
        ([("kill", 20.1), ("gone", 20.2)], False),
        ([("freeze", 9.0), ("freeze", 21.0)], False),
        ([("freeze", 15.0)], True),
        ([], False),
    ],
)
def test_a_death_between_two_starts_explains_them(noted, is_explained):
    """A death takes from before the signal until after it."""
    deaths = _deaths([event(what, at, note="7") for what, at in noted])

    assert _is_explained(event("start", 10.0, pid=7), event("start", 20.0, pid=8), deaths) is is_explained
