"""The checker itself: causes of repeated runs, and unique jobs that were unfinished at the same time."""

from __future__ import annotations

import os

import attrs
import pytest

from tests.faults.checker import _deaths, _is_explained
from tests.faults.ledger import Event, Ledger
from tests.faults.points import deaths
from tests.faults.scenarios.limited import Call, lateness, twins


def event(what, at, *, pid=0, note=""):
    """Return an event of the ledger, with a job in case of a start."""
    return Event(what=what, at=at, pid=pid, job="job", attempt=1, fence=1, note=note, parent=99)


@pytest.mark.parametrize(
    ("noted", "is_explained"),
    [
        ([("kill", 15.0), ("died", 15.1)], True),
        ([("kill", 9.9), ("died", 10.1)], True),  # the dying process started the job
        ([("kill", 19.9), ("died", 20.1)], True),  # other processes ran the job before its end was recorded
        ([("kill", 9.0), ("died", 9.1)], False),
        ([("kill", 20.1), ("died", 20.2)], False),
        ([("freeze", 9.0), ("freeze", 21.0)], False),
        ([("freeze", 15.0)], True),
        ([], False),
    ],
)
def test_death_between_two_starts_explains_the_repeat(noted, is_explained):
    """A process may die at any time between shortly before the signal and shortly after it."""
    deaths = _deaths([event(what, at, note="7") for what, at in noted])

    assert _is_explained(event("start", 10.0, pid=7), event("start", 20.0, pid=8), deaths) is is_explained


ARMED = ("armed", "claim:within 0.5")


@pytest.mark.parametrize(
    ("is_running", "events", "expected"),
    [
        (True, [(1.0, "point", "run")], ["run"]),
        (True, [(1.0, *ARMED)], []),  # the timer of a running process has not expired
        (False, [(1.0, *ARMED)], ["claim:within"]),
        (False, [(1.0, *ARMED), (1.1, "disarmed", "claim:within")], []),
        (False, [(1.0, *ARMED), (1.2, "killed", "7 {pid}")], []),
        (False, [(1.0, *ARMED), (1.6, "killed", "7 {pid}")], ["claim:within"]),  # it was dead already
        (True, [(1.0, *ARMED), (9.0, *ARMED), (9.1, "disarmed", "claim:within")], ["claim:within"]),
        (True, [(1.0, "killed", "{pid}"), (9.0, "point", "run")], ["run"]),  # the id is used again
    ],
)
def test_death_counts_once_although_an_id_is_used_again(tmp_path, monkeypatch, is_running, events, expected):
    """A killed process is not counted, even if a later process with the same id dies at a point."""
    pid = os.getpid() if is_running else 2**22 + 1  # larger than the id of any process
    (tmp_path / "points").mkdir()
    ledger = Ledger(tmp_path / "points")
    monkeypatch.setattr(os, "getpid", lambda: pid)
    for at, what, note in events:
        ledger.write(what, note=note.format(pid=pid), at=at)

    assert [point for _, point, _ in deaths(tmp_path)] == expected


@pytest.mark.parametrize(
    ("runs", "is_twin"),
    [
        ([(1, 10.0, 11.0)], False),
        ([(1, 10.0, 12.9)], False),  # the earlier job ended while the call waited for the storage
        ([(1, 10.0, 13.1)], True),
        ([(1, 10.0, None)], True),
        ([], True),
        ([(1, 10.0, None), (2, 12.0, 12.5)], False),  # killed and run again before the next call
        ([(1, 10.0, 11.0), (2, 14.0, 14.5)], True),  # the first end was lost, so the job had to run again
    ],
)
def test_overlapping_unique_jobs_are_detected(runs, is_twin):
    """The last run of the earlier job must have ended before the call for the next job returns."""
    calls = [Call(7, "job", is_new=True, back=9.0), Call(7, "next", is_new=True, back=13.0)]
    events = [
        attrs.evolve(event(what, at), fence=fence)
        for fence, *times in runs
        for what, at in zip(("start", "end"), times, strict=True)
        if at is not None
    ]

    assert [one.job for one in twins(calls, events)] == (["next"] if is_twin else [])


@pytest.mark.parametrize(
    ("claims", "late"),
    [
        ([], 0.0),
        ([(0.0, 0.0)] * 3, 0.0),  # the burst
        ([(0.0, 0.0)] * 4, 0.1),
        ([(0.0, 0.0)] * 5, 0.2),
        ([(0.0, 0.0)] * 3 + [(0.1, 0.1), (0.2, 0.2)], 0.0),
        ([(0.0, 0.0)] * 3 + [(0.05, 0.05)], 0.05),
        ([(0.0, 0.0)] * 3 + [(0.0, 0.1)], 0.0),  # its claim can have been committed at 0.1
        ([(0.0, 9.0)] + [(1.0, 1.0)] * 3, 0.0),  # the first can have been claimed before or after the others
        ([(0.0, 9.0)] + [(1.0, 1.0)] * 4, 0.1),
        ([(0.0, 0.0)] * 3 + [(0.0, 9.0), (0.15, 0.15)], 0.0),  # the first token was kept for the later claim
        ([(0.0, 0.0)] * 3 + [(0.0, 0.2), (0.15, 0.15)], 0.0),
        ([(0.0, 0.0)] * 3 + [(0.0, 0.19), (0.15, 0.15)], 0.01),
        ([(5.0, 5.0)] * 4, 0.1),  # a bucket does not fill up above its burst
    ],
)
def test_claims_that_exceed_a_rate_are_detected(claims, late):
    """A claim happens between its timestamp and the start of its run."""
    assert lateness(claims, rate=10, burst=3) == pytest.approx(late)
