"""Across modules: every page shows jobs that a newer release stored, and the reason why they do not run."""

from __future__ import annotations

import html

import attrs
import pytest

from firelock.control.findings import list_findings, take_readings
from firelock.errors import JobConflict
from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.testing.conformance.storage.newer import UNKNOWN

DAMAGED = {"damaged relations": {"relations_json": "not JSON"}, "damaged retry": {"retry": "not JSON"}}


@pytest.fixture
def ids(fire):
    """The ids of a newer release's jobs and of damaged jobs, after a server has tried each of them once."""
    task = fire.task(name="send")(lambda: None)
    made = {}
    for name, part in (UNKNOWN | DAMAGED).items():
        (id,) = fire.storage.new_ids(1)
        job = NewJob(id, "send", "{}", "json", "default", 0, State.ENQUEUED, fire.storage.clock())
        fire.storage.insert([attrs.evolve(job, **part)])
        made[name] = id
    with fire.server(workers=1):
        task.enqueue().result(30)
    return made


def test_every_page_shows_an_unreadable_job(fire, client, ids):
    """Lists, the job's page, the API and the doctor still work.

    The job's page shows why the job cannot be read.
    """
    for path in (
        "/",
        "/jobs",
        "/jobs?state=scheduled",
        "/jobs?state=failed",
        "/failures",
        "/batches",
        "/limits",
    ):
        assert 200 == client.get(path).status, path
    assert 200 == client.get("/api/jobs").status
    for name, id in ids.items():
        page = client.get(f"/jobs/{id}")
        assert 200 == page.status == client.get(f"/api/jobs/{id}").status, name
        assert "cannot be read" in html.unescape(page.text), name
        state = State.FAILED if name in DAMAGED else State.SCHEDULED
        assert (state, None) == (fire.jobs.get(id).state, fire.jobs.get(id).record().started_at), name
    found = [
        one.what
        for one in list_findings(take_readings(fire.runtime, knows_tasks=True))
        if one.code == "unread"
    ]
    assert len({part for part in UNKNOWN if "retry" in part}) == sum("retry policy" in what for what in found)
    assert 3 == len(found)


def test_unreadable_job_can_be_requeued_and_deleted_but_not_copied(fire, ids):
    """A copy is refused because it could lack a part of the job."""
    for name, id in ids.items():
        with pytest.raises(JobConflict, match="this release cannot read its"):
            fire.jobs.copy(id)
        fire.jobs.get(id).requeue()
        fire.jobs.get(id).delete()
        assert State.DELETED is fire.jobs.get(id).state, name
