"""Failures: one row a cause, one traceback for all, one operation on all."""

from __future__ import annotations

import json
import re

import attrs
import pytest

from firelock import Retry, State
from firelock.storage import JobFilter
from firelock_dashboard import Dashboard
from tests.dashboard.asking import Browser
from tests.dashboard.hostile_texts import assert_literal
from tests.unit.fakes import Worker


@pytest.fixture
def failing(fire):
    """Makes jobs that have failed: `failing(3, "no answer")`."""

    @fire.task(name="shop.charge", retry=Retry.never())
    def charge(message: str) -> None:
        raise TimeoutError(message)

    @fire.task(name="shop.build", queue="reports", retry=Retry.never())
    def build(message: str) -> None:
        raise KeyError(message)

    worker = Worker(fire)
    tasks = {"charge": charge, "build": build}

    def fail(count, message="no answer", task="charge", **options):
        jobs = [tasks[task].using(**options).enqueue(message) for _ in range(count)]
        worker.run()
        return [job.id for job in jobs]

    return fail


def fingerprint_of(fire, job_id):
    return fire.jobs.get(job_id).error.fingerprint


def actions(fire):
    return [(entry.action, entry.by) for entry in fire.audit.list()]


# ---- the list --------------------------------------------------------------------------------------------


def test_without_failures_the_page_says_what_succeeded(fire, client):
    """An empty page is good news, in numbers."""

    @fire.task(name="shop.add")
    def add() -> None: ...

    for _ in range(3):
        add.enqueue()
    Worker(fire).run()

    page = client.get("/failures").text

    assert "Nothing has failed" in page
    assert "3 jobs that are stored have succeeded." in page


def test_what_fails_alike_is_one_row(fire, client, failing):
    """The most frequent first, with the number, the share, and what they say."""
    rare = failing(1, "missing", "build")
    often = failing(3)

    page = client.part("/failures", "rows").text

    first, second = page.split('id="cause-')[1:]
    assert (fingerprint_of(fire, often[0]), fingerprint_of(fire, rare[0])) == (
        first.split('"')[0],
        second.split('"')[0],
    )
    assert all(part in first for part in ("TimeoutError", "no answer", "charge", "<span>3</span>", "75 %"))
    assert all(part in second for part in ("KeyError", "missing", "build", "<span>1</span>", "25 %"))
    assert "The newest 10 000 failed jobs are grouped; 4 are failed in all." in page


def test_groups_are_read_once_within_ten_seconds(fire, client, failing):
    """Grouping costs a look at thousands of jobs: whoever asks meanwhile shares it."""
    failing(1)
    client.part("/failures", "rows")
    failing(1, "missing", "build")

    assert 1 == client.part("/failures", "rows").text.count('id="cause-')


# ---- one cause -------------------------------------------------------------------------------------------


def test_a_cause_shows_a_traceback_and_where_it_happens(fire, client, failing):
    """The newest stands for all; tasks and queues within the newest five hundred; the jobs."""
    ids = failing(2) + failing(1, queue="urgent")

    page = client.get(f"/failures/{fingerprint_of(fire, ids[0])}").text

    assert "TimeoutError" in page
    assert "raise TimeoutError(message)" in page
    assert "Requeue these 3" in page
    assert "Delete these 3" in page
    assert all(f'id="job-{job_id}"' in page for job_id in ids)
    assert "queue=urgent" in page
    assert "All of them." in page


def test_the_navigation_of_a_cause_asks_nothing_of_it(client):
    """Its page looks through the failed jobs; its one live region, read again and again, does not."""
    assert 404 == client.get("/failures/0123456789abcdef").status
    assert 200 == client.part("/failures/0123456789abcdef", "nav").status


def test_a_report_is_ready_to_be_pasted(fire, client, failing):
    """As Markdown: what, how often, where, and the traceback in a fence."""
    ids = failing(2)

    page = client.get(f"/failures/{fingerprint_of(fire, ids[0])}").text

    report = page.split('<pre id="report" hidden>')[1].split("</pre>")[0]
    assert report.startswith("### ")
    assert all(
        part in report for part in ("Failed jobs: 2", "`shop.charge` (2)", "`default` (2)", ids[1], "```")
    )


def test_secrets_in_messages_are_masked(fire, client, failing):
    """On both pages; the stored job keeps them."""
    ids = failing(1, "cannot reach postgres://app:hunter2@db/shop")

    for target in ("/failures", f"/failures/{fingerprint_of(fire, ids[0])}"):
        assert "hunter2" not in client.get(target).text


def test_without_the_right_to_logs_there_is_no_traceback(fire, failing):
    """Nor a report, which holds one."""
    ids = failing(1)
    dashboard = Dashboard(fire, auth=lambda request: {"read"})
    browser = Browser(dashboard)

    page = browser.get(f"/failures/{fingerprint_of(fire, ids[0])}").text
    browser.close()
    dashboard.close()

    assert "raise TimeoutError" not in page
    assert 'id="report"' not in page


def test_an_unknown_fingerprint_is_not_here(client, failing):
    """404, with what may have become of it."""
    failing(1)

    answer = client.get("/failures/0123456789abcdef")

    assert 404 == answer.status
    assert "No failed job has this fingerprint" in answer.text


# ---- acting on all ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "after"),
    [
        ("requeue", ("Requeuing 3 jobs that failed with TimeoutError.", State.ENQUEUED)),
        ("delete", ("Deleting 3 jobs that failed with TimeoutError.", State.DELETED)),
    ],
)
def test_all_of_a_cause_are_acted_on_by_one_operation(client, dashboard, failing, verb, after):
    """It is told in numbers, linked, and in the audit; other causes are left alone."""
    fire, (message, state) = dashboard.fire, after
    ids, others = failing(3), failing(1, "missing", "build")
    fingerprint = fingerprint_of(fire, ids[0])

    said = client.act(f"/failures/{verb}", {"fingerprint": fingerprint}).json()
    dashboard.runner.join()

    (operation,) = fire.operations.list().operations
    assert (message, f"/activity#operation-{operation.id}") == (said["message"], said["link"])
    assert JobFilter(state=State.FAILED, fingerprint=fingerprint) == attrs.evolve(operation.where, until=None)
    assert {state} == {fire.jobs.get(job_id).state for job_id in ids}
    assert State.FAILED is fire.jobs.get(others[0]).state
    assert [(f"jobs.{verb}", "local")] == actions(fire)


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_without_a_script_it_is_asked_first(fire, dashboard, client, failing, verb):
    """With the number of jobs; sent again it is done."""
    form = {"fingerprint": fingerprint_of(fire, failing(2)[0]), "back": "/failures"}

    asked = client.post(f"/failures/{verb}", form)
    started = len(fire.operations.list().operations)
    done = client.post(f"/failures/{verb}", {**form, "sure": "1"})
    dashboard.runner.join()

    assert (200, 0) == (asked.status, started)
    assert f"{verb.capitalize()} the 2 jobs that failed with TimeoutError?" in asked.text
    assert (303, "/failures") == (done.status, done.location)
    assert 1 == len(fire.operations.list().operations)


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_the_page_of_a_cause_leads_to_the_list(fire, client, failing, verb):
    """The operation may have ended by the time that the browser is sent back: the cause has no page then."""
    fingerprint = fingerprint_of(fire, failing(2)[0])
    page = client.get(f"/failures/{fingerprint}").text
    form = re.search(rf'action="/failures/{verb}".*?name="back" value="([^"]*)"', page, re.DOTALL)

    assert "/failures" == form[1]


@pytest.mark.parametrize("verb", ["requeue", "delete"])
def test_a_missing_fingerprint_is_refused(fire, client, verb):
    """By name; and one that nothing has starts no operation."""
    missing = client.post(f"/failures/{verb}", {})
    unknown = client.act(f"/failures/{verb}", {"fingerprint": "0123456789abcdef"}).json()

    assert 400 == missing.status
    assert "fingerprint is missing" in missing.text
    assert ("note", "No failed job has this cause any more.") == (unknown["kind"], unknown["message"])
    assert [] == fire.operations.list().operations


def test_hostile_texts_are_shown_literally(fire, client, failing, hostile):
    """In a message, which stands in lists, tracebacks, reports and questions."""
    ids = failing(1, hostile[:2_000]) + failing(1, json.dumps(hostile)[:2_000], "build")

    for target in ("/failures", *(f"/failures/{fingerprint_of(fire, job_id)}" for job_id in ids)):
        answer = client.get(target)
        assert 200 == answer.status
        assert_literal(answer.text)
