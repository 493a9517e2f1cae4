"""Limits: who holds a key, who waits, numbers changed and paused with a note; unique keys; the job's page."""

from __future__ import annotations

import pytest

from firelock import Limit, Turns, Unique
from firelock.storage import ClaimRequest, NewSession


@pytest.fixture
def report(fire):
    """A task of which two run at once for a tenant."""

    @fire.task(name="shop.report", limits=[Limit("tenant:{tenant_id}", concurrent=2)])
    def report(tenant_id: int, number: int) -> None: ...

    fire.limits.sync()
    return report


def claim(fire, count=10):
    """A session takes what it may."""
    storage = fire.storage
    storage.begin_session(NewSession("one", "one", "web-1", "host", 7, 0, 3_600.0, 10))
    return storage.claim(ClaimRequest(None, count, "one", storage.clock())).jobs


def actions(fire):
    return [(entry.action, entry.target) for entry in fire.audit.list()]


def test_without_limits_the_page_teaches(client):
    """It says how to give a task one."""
    page = client.get("/limits")

    assert 200 == page.status
    assert "No job holds a limit or waits for one" in page.text


def test_a_key_is_shown_with_holders_and_those_who_wait(fire, client, report):
    """Running of how many may, waiting, and the name's numbers; one line a key."""
    report.enqueue_many([(7, number) for number in range(5)])
    jobs = claim(fire)

    listed, one = client.get("/limits").text, client.get("/limits/key?key=tenant:7").text

    assert 2 == len(jobs)
    assert "tenant:7" in listed
    assert "2 of 2" in listed
    assert "2 at once" in listed
    assert "tenant:{tenant_id}" in listed
    assert all(f"/jobs/{job.id}" in one for job in jobs)


def test_a_names_page_has_its_numbers_and_no_count_of_holders(fire, client, report):
    """No job asks for the name: what runs and waits stands at its keys."""
    report.enqueue(7, 1)
    claim(fire)

    name, key = client.get("/limits/key?key=tenant").text, client.get("/limits/key?key=tenant:7").text

    assert ("tenant:{tenant_id}" in name, "2 at once" in name) == (True, True)
    assert ("1 of 2" in key, "0 of 2" in name) == (True, False)


def test_a_waiting_job_says_which_limit_it_waits_for(fire, client, report):
    """With a link to the key's page."""
    jobs = report.enqueue_many([(7, number) for number in range(3)])
    claim(fire)

    page = client.get(f"/jobs/{jobs[2].id}").text

    assert "limit tenant:7 (2 of 2 running)" in page
    assert "/limits/key?key=tenant%3A7" in page or "/limits/key?key=tenant:7" in page


def test_numbers_are_changed_and_reset(fire, client, report):
    """On the page of a key or a name; the audit tells."""
    client.post("/limits/set", {"key": "tenant", "concurrent": "3", "rate": "", "per": "", "burst": ""})
    changed = fire.limits.get("tenant:7")
    client.post("/limits/reset", {"key": "tenant"})

    assert (3, "operator") == (changed.concurrent, changed.whose)
    assert 2 == fire.limits.get("tenant:7").concurrent
    assert [("limit.reset", "tenant"), ("limit.set", "tenant")] == actions(fire)[:2]


def test_a_rate_is_set_with_its_period(fire, client, report):
    """Seconds, and a burst where one is given."""
    client.post(
        "/limits/set", {"key": "tenant:9", "concurrent": "", "rate": "90", "per": "60", "burst": "10"}
    )

    view = fire.limits.get("tenant:9")

    assert (90, 60.0, 10) == (view.rate, view.per.total_seconds(), view.burst)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"key": "tenant", "concurrent": "-1"}, "-1"),
        ({"key": "tenant", "concurrent": "2000"}, "2000"),
        ({"key": "tenant", "rate": "5", "per": "soon"}, "soon"),
        ({"key": ""}, "key"),
    ],
)
def test_a_bad_number_is_refused_with_the_value(fire, client, report, fields, said):
    """Nothing is changed."""
    given = {"key": "", "concurrent": "", "rate": "", "per": "", "burst": ""} | fields
    answer = client.post("/limits/set", given)

    assert 400 == answer.status
    assert said in answer.text
    assert 2 == fire.limits.get("tenant:7").concurrent


def test_a_limit_is_paused_with_a_note_and_resumed(fire, client, report):
    """None of its jobs starts meanwhile; the note stands wherever the limit is."""
    client.post("/limits/pause", {"key": "tenant:7", "note": "till noon"})
    report.enqueue(7, 1)
    paused, page = claim(fire), client.get("/limits").text
    client.post("/limits/resume", {"key": "tenant:7"})

    assert [] == paused
    assert "till noon" in page
    assert 1 == len(claim(fire))
    assert [("limit.resume", "tenant:7"), ("limit.pause", "tenant:7")] == actions(fire)[:2]


def test_unique_keys_lead_to_their_jobs(fire, client):
    """The task, the key and the job that it points at."""

    @fire.task(name="shop.index", unique=Unique("doc:{doc_id}"), limits=[Turns("doc:{doc_id}")])
    def index(doc_id: int) -> None: ...

    job = index.enqueue(3)
    index.enqueue(3)

    page, of_job = client.get("/limits/unique").text, client.get(f"/jobs/{job.id}").text

    assert "doc:3" in page
    assert f"/jobs/{job.id}" in page
    assert "Unique key" in of_job


def test_keys_are_paged_and_searched(fire, client, report):
    """Fifty on a page; those that begin so."""
    report.enqueue_many([(number, 0) for number in range(100, 160)])

    first = client.get("/limits").text
    found = client.get("/limits?prefix=tenant:15").text

    assert "Next keys" in first
    assert "tenant:149" not in found
    assert "tenant:151" in found
