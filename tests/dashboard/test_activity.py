"""Activity and System: what was done and how the system is."""

from __future__ import annotations

import pytest

from firelock import State
from firelock.storage import JobFilter
from firelock_dashboard import Dashboard
from tests.dashboard.asking import Browser


@pytest.fixture
def jobs(fire):
    @fire.task(name="shop.send", queue="mail")
    def send(number: int) -> None: ...

    return send.enqueue_many([(number,) for number in range(6)])


def test_nothing_done_teaches(client):
    """Without operations and entries the page says what would be here."""
    page = client.get("/activity").text

    assert "No operation yet" in page
    assert "Nobody has done anything yet" in page


def test_an_operation_is_shown_with_its_filter_and_result(fire, jobs):
    """What it does, to what, by whom, how far; a read-only dashboard runs none itself."""
    client = Browser(Dashboard(fire, read_only=True))
    operation = fire.operations.start("delete", JobFilter(queue="mail", state=State.ENQUEUED), by="ada")

    running = client.part("/activity", "operations").text
    fire.operations.run(operation.id)
    done = client.part("/activity", "operations").text

    assert "ada" in running
    assert "mail" in running
    assert "<progress" in running
    assert "<progress" not in done
    assert "6 changed" in done
    client.close()


def test_an_operation_is_cancelled(client, fire, jobs):
    """The button ends it, and the audit tells who did."""
    operation = fire.operations.start("delete", JobFilter(queue="mail"), by="ada")

    answer = client.post("/activity/cancel", {"operation": operation.id})

    assert 303 == answer.status
    assert not fire.operations.get(operation.id).is_running
    assert "operation.cancel" == fire.audit.list().entries[0].action
    assert 404 == client.post("/activity/cancel", {"operation": "none"}).status


def test_the_audit_is_paged(client, fire):
    """Fifty entries a page, newest first; a bad cursor is named."""
    for number in range(60):
        fire.audit.record("queue.pause", f"queue-{number}", by="ada")

    first = client.get("/activity").text
    cursor = first.split("cursor=")[1].split('"')[0]
    second = client.get(f"/activity?cursor={cursor}").text

    assert "queue-59" in first
    assert "queue-9<" not in first
    assert "queue-9<" in second
    assert 400 == client.get("/activity?cursor=nonsense").status


def test_hostile_texts_are_shown_literally(client, fire, hostile):
    """Names, targets and details of the audit are text."""
    fire.audit.record(hostile[:100], hostile, by=hostile[:100], detail={"note": hostile})

    page = client.get("/activity").text

    assert "<script>alert" not in page
    assert "<img" not in page


def test_the_system_shows_storage_settings_and_plugins(client, fire, monkeypatch):
    """The storage's facts, each setting with its source, the plugins."""
    monkeypatch.setenv("FIRELOCK_POLL", "1")

    page = client.get("/system").text

    assert "session_timeout" in page
    assert "register_storages" in page
    assert "environment" in page
    assert fire.storage.url in page


def test_the_bundle_holds_no_job(client, fire, jobs):
    """The support bundle is JSON to download, without ids or arguments of jobs."""
    answer = client.get("/system/bundle")

    assert "attachment" in answer.header("content-disposition")
    bundle = answer.json()
    assert 6 == bundle["jobs"]["enqueued"]
    assert jobs[0].id not in answer.text
    assert "findings" in bundle
