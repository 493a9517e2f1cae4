"""`fire.diagnose()`: what the doctor finds, asked by a program."""

from __future__ import annotations

import asyncio

import pytest

from firelock import Diagnosis, Firelock
from firelock.errors import SchemaMismatch, StorageUnavailable
from tests.core.fakes import FailingStorage


@pytest.fixture
def storage():
    """A storage that fails as told."""
    return FailingStorage()


def words(diagnosis):
    """What was found, in one text."""
    return "\n".join(finding.what for finding in diagnosis.findings)


def test_an_app_finds_what_doctor_finds(storage):
    """Findings with what to do, and what was looked at; the same without blocking."""
    fire = Firelock(storage)
    fire.task(name="report")(lambda: None).enqueue()

    diagnosis = fire.diagnose()

    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.has_errors
    assert (
        "no_server",
        "1 job is enqueued and no server is alive.",
        "Start one: firelock server app:fire",
    ) in [(finding.code, finding.what, finding.mend) for finding in diagnosis.findings]
    assert storage.url == diagnosis.about["storage"]
    assert words(diagnosis) == words(asyncio.run(fire.adiagnose()))


def test_jobs_are_compared_with_tasks_where_the_app_has_them(storage):
    """An app without a task knows nothing of them; it can be told otherwise."""
    with_task, without = Firelock(storage), Firelock(storage)
    with_task.task(name="report")(lambda: None).enqueue()
    other = Firelock(storage)
    other.task(name="other")(lambda: None)
    foreign = "enqueued for task report, which this app does not have"

    assert foreign in words(other.diagnose())
    assert foreign not in words(with_task.diagnose())
    assert foreign not in words(without.diagnose())
    assert foreign in words(without.diagnose(knows_tasks=True))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (StorageUnavailable("it is away"), "Start it, or mend its address"),
        (SchemaMismatch("Its tables are of an older release; run firelock migrate."), "Do that first"),
    ],
)
def test_the_advice_fits_what_stops_the_look(storage, error, advice):
    """A storage that does not answer is a finding, not an exception."""
    storage.fail_always("counts", error)

    finding = Firelock(storage).diagnose().findings[-1]

    assert (True, str(error)) == (finding.is_error, finding.what)
    assert finding.mend.startswith(advice)
