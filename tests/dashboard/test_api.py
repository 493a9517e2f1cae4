"""The JSON API: its responses, its actions and its OpenAPI description."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import timedelta

import pytest

from firelock import Retry, State
from firelock_dashboard import Dashboard
from firelock_dashboard.api import ROUTES
from firelock_dashboard.app import TABLE
from firelock_dashboard.security.redaction import MASK
from tests.core.fakes import Worker
from tests.dashboard import worker as dashboard_worker
from tests.dashboard.browser import Browser


@pytest.fixture
def send(fire):
    @fire.task(name="shop.send", queue="mail", tags=["user:{user_id}"])
    def send(user_id: int, note: str = "") -> None:
        """Send."""

    return send


def test_job_list_is_filtered_and_paged(client, fire, send):
    """The API accepts the same filters as the lists of jobs, and a cursor leads to the next page."""
    for user_id in range(5):
        send.enqueue(user_id)

    first = client.get("/api/jobs?queue=mail&limit=3").json()
    second = client.get(f"/api/jobs?queue=mail&limit=3&cursor={first['cursor']}").json()
    tagged = client.get("/api/jobs?tag=user:3").json()

    assert [3, 2] == [len(first["jobs"]), len(second["jobs"])]
    assert second["cursor"] is None
    assert [{"user_id": 3}] == [job["arguments"] for job in tagged["jobs"]]
    assert "enqueued" == tagged["jobs"][0]["state"]


def test_job_is_returned_with_all_details(client, send):
    """The response contains all details that the job's page shows.

    For an unknown id, it is a 404 with a JSON error.
    """
    job = send.using(meta={"tenant": "acme", "api_key": "hunter2"}).enqueue(7, note="hello")

    details = client.get(f"/api/jobs/{job.id}").json()

    assert {"user_id": 7, "note": "hello"} == details["arguments"]
    assert {"tenant": "acme", "api_key": MASK} == details["meta"]
    assert [["enqueued"], [], []] == [
        [entry["state"] for entry in client.get(f"/api/jobs/{job.id}/history").json()["history"]],
        client.get(f"/api/jobs/{job.id}/errors").json()["errors"],
        client.get(f"/api/jobs/{job.id}/log").json()["lines"],
    ]
    missing = client.get("/api/jobs/nothing-like-it")
    assert 404 == missing.status
    assert "nothing-like-it" in missing.json()["error"]


def test_get_routes_return_json_for_an_empty_storage(client):
    """Every GET route that has no path parameters is requested."""
    for route in ROUTES:
        if route.method == "GET" and "{" not in route.path:
            answer = client.get(route.path)
            assert 200 == answer.status, route.path
            assert "application/json" == answer.header("content-type"), route.path


def test_job_actions_return_a_result_per_id(client, fire, send):
    """An action returns the number of changed jobs and a result for each id. A copy is a new job."""
    job, later = send.enqueue(1), send.schedule(3600, 1)

    deleted = client.act("/api/jobs/delete", {"id": [job.id, "unknown"]})
    requeued = client.act("/api/jobs/requeue", {"id": job.id})
    moved = client.act("/api/jobs/reschedule", {"id": later.id, "at": "2030-01-01T00:00:00+00:00"})
    copy = client.act("/api/jobs/copy", {"id": job.id})

    assert {"changed": 1, "results": {job.id: "applied", "unknown": "missing"}} == deleted.json()
    assert [1, 1] == [answer.json()["changed"] for answer in (requeued, moved)]
    assert State.ENQUEUED is fire.jobs.get(job.id).state
    assert 2030 == fire.jobs.get(later.id).next_due_at.year
    assert (201, "mail") == (copy.status, fire.jobs.get(copy.json()["id"]).queue)
    actions = ["job.copy", "job.reschedule", "job.requeue", "job.delete"]
    assert actions == [entry.action for entry in fire.audit.list()]


def test_duration_that_ends_after_the_year_9999_is_refused(client, fire, send):
    """The error states this reason. Neither the job nor the cause of failures changes."""
    job = send.schedule(3600, 1)
    due_at = job.next_due_at
    failing = fire.task(name="shop.charge", retry=Retry.never())(lambda: 1 / 0)
    failing.enqueue()
    Worker(fire).run()
    (cause,) = client.get("/api/failures").json()["failures"]

    moved = client.act("/api/jobs/reschedule", {"id": job.id, "in": "9999999w"})
    muted = client.act("/api/failures/mute", {"fingerprint": cause["fingerprint"], "for": "9999999w"})

    assert (400, 400) == (moved.status, muted.status)
    assert "after the year 9999" in moved.json()["error"]
    assert due_at == fire.jobs.get(job.id).next_due_at
    assert client.get("/api/failures").json()["failures"][0]["mute"] is None


def test_json_bodies_are_read_like_forms(client, fire, send):
    """A JSON body may contain strings, numbers, and lists of them, but no objects."""
    job = send.enqueue(1)

    own = {"content-type": "application/json", "sec-fetch-site": "same-origin"}
    body = json.dumps({"id": [job.id]}).encode()
    answer = client.request("POST", "/api/jobs/delete", headers=own, body=body)
    nested = client.request("POST", "/api/jobs/delete", headers=own, body=b'{"id": {"of": 1}}')

    assert 1 == answer.json()["changed"]
    assert 400 == nested.status


def test_operation_is_started_followed_and_cancelled(client, dashboard, fire, send):
    """The operation changes the matching jobs in the background. Its progress is available at a URL."""
    send.enqueue_many([(number,) for number in range(20)])

    started = client.act("/api/operations", {"verb": "delete", "state": "enqueued", "queue": "mail"})

    assert 202 == started.status
    dashboard.runner.join()
    operation_id = started.json()["id"]
    assert "done" == client.get(f"/api/operations/{operation_id}").json()["state"]
    assert 20 == fire.jobs.counts().by_state[State.DELETED]
    assert 404 == client.get("/api/operations/none").status
    assert 200 == client.act(f"/api/operations/{operation_id}/cancel").status


def test_queues_definitions_and_servers_are_changed(client, fire, send):
    """For an unknown id, the response is a 404."""
    send.recur("nightly", "0 2 * * *", 1)

    assert client.act("/api/queues/pause", {"queue": "mail", "note": "why"}).json()["is_paused"]
    assert "why" == client.get("/api/queues").json()["queues"][0]["note"]
    assert not client.act("/api/queues/resume", {"queue": "mail"}).json()["is_paused"]
    assert client.act("/api/recurring/pause", {"id": "nightly"}).json()["is_paused"]
    assert client.act("/api/recurring/resume", {"id": "nightly"}).json()["is_paused"] is False
    job_id = client.act("/api/recurring/trigger", {"id": "nightly"}).json()["job"]
    assert "nightly" == client.get(f"/api/jobs/{job_id}").json()["recurring"]
    assert 200 == client.act("/api/recurring/remove", {"id": "nightly"}).status
    assert 404 == client.act("/api/recurring/trigger", {"id": "nightly"}).status
    assert 404 == client.act("/api/servers/order", {"server": "none", "order": "quiet"}).status
    assert 404 == client.act("/api/servers/end-process", {"session": "none"}).status


def test_worker_process_is_ended(client, fire, send):
    """The process is identified by its session, which is part of each of its jobs.

    The response contains the session and the process.
    """
    job = send.enqueue(1)
    dashboard_worker.Worker(fire).claim()
    session = client.get(f"/api/jobs/{job.id}").json()["session"]

    ended = client.act("/api/servers/end-process", {"session": session}).json()

    assert {"session": session, "server": "id-web-1:42", "pid": 42} == ended
    assert f'"end {session}"' == fire.storage.get_record("server_order", "id-web-1:42").value


def test_task_is_run_with_string_arguments(client, fire, send):
    """Strings are converted to the types of the parameters.

    An error names the argument that could not be converted.
    """
    made = client.act("/api/tasks/run", {"task": "shop.send", "args.user_id": "7", "delay": "15m"})
    wrong = client.act("/api/tasks/run", {"task": "shop.send", "args.user_id": "seven"})

    job = fire.jobs.get(made.json()["id"])
    assert State.SCHEDULED is job.state
    assert 400 == wrong.status
    assert "user_id" in wrong.json()["error"]
    assert 404 == client.act("/api/tasks/run", {"task": "nobody.knows"}).status


@pytest.mark.parametrize(
    ("path", "form", "named"),
    [
        ("/api/jobs/delete", {}, "id"),
        ("/api/jobs/reschedule", {"id": "x"}, "in"),
        ("/api/jobs/reschedule", {"id": "x", "at": "tomorrow"}, "at"),
        ("/api/operations", {"verb": "drop"}, "verb"),
        ("/api/operations", {"verb": "delete"}, "filter"),
        ("/api/queues/pause", {"queue": "No Such Name"}, "No Such Name"),
        ("/api/servers/order", {"server": "x", "order": "explode"}, "order"),
    ],
)
def test_invalid_value_is_named(client, path, form, named):
    """The response is a 400 whose error names the field or the value."""
    answer = client.act(path, form)

    assert 400 == answer.status
    assert named in answer.json()["error"]


def test_openapi_document_contains_every_route(client, fire):
    """The document contains exactly the methods and paths under /api, each with a summary."""
    document = client.get("/api/openapi.json").json()

    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    wanted = {(route.method, route.path) for route in TABLE if route.path.startswith("/api/")}
    assert wanted - {("GET", "/api/openapi.json")} == documented
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert all(one["summary"] for one in operations)
    assert len(operations) == len({one["operationId"] for one in operations})


def test_openapi_document_of_a_read_only_dashboard_has_no_actions(fire):
    """A read-only dashboard has no action routes, so its OpenAPI document has only GET methods."""
    with closing(Browser(Dashboard(fire, read_only=True))) as browser:
        paths = browser.get("/api/openapi.json").json()["paths"]

    assert all(set(methods) == {"get"} for methods in paths.values())


def test_failure_cause_is_muted_by_the_api(client, fire):
    """A cause is muted for a period or until it is unmuted.

    The list shows how long the cause is muted, the hours in which it failed, and the time of its first
    failure.
    """

    @fire.task(name="shop.charge", retry=Retry.never())
    def charge() -> None:
        raise TimeoutError

    charge.enqueue()
    Worker(fire).run()
    (cause,) = client.get("/api/failures").json()["failures"]

    muted = client.post(
        "/api/failures/mute", {"fingerprint": cause["fingerprint"], "for": "2h", "note": "why"}
    )
    (after,) = client.get("/api/failures").json()["failures"]
    unmuted = client.post("/api/failures/unmute", {"fingerprint": cause["fingerprint"]})

    assert (None, True, 1, 24) == (cause["mute"], cause["is_new"], sum(cause["hours"]), len(cause["hours"]))
    assert cause["newest_at"] == cause["first_at"]
    assert {"fingerprint": cause["fingerprint"]} == muted.json()
    assert "why" == after["mute"]["note"]
    assert after["mute"]["until"] > after["mute"]["at"]
    assert {"changed": True} == unmuted.json()
    assert 404 == client.post("/api/failures/mute", {"fingerprint": "none"}).status


def test_scheduled_jobs_are_listed_by_due_time(client, fire, send):
    """If `by_due` is combined with `oldest_first`, the next due job is first.

    For jobs of other states, `by_due` is an error.
    """
    ids = {hours: send.schedule(timedelta(hours=hours), hours).id for hours in (3, 1, 2)}

    soonest = client.get("/api/jobs?by_due=1&oldest_first=1").json()["jobs"]
    latest = client.get("/api/jobs?by_due=1&state=scheduled").json()["jobs"]

    assert [ids[1], ids[2], ids[3]] == [job["id"] for job in soonest]
    assert [ids[3], ids[2], ids[1]] == [job["id"] for job in latest]
    assert 400 == client.get("/api/jobs?by_due=1&state=failed").status
