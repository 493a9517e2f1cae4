"""Unknown fields are refused, because an action with an ignored filter would affect every job."""

from __future__ import annotations

import pytest

from firelock.storage import State
from firelock_dashboard.app import TABLE
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.fields import Named, SentFields, Text, Texts
from firelock_dashboard.web.routes import Route

PLACES = {"{id}": "0190-none", "{fingerprint}": "none", "{name}": "none"}


def address(path):
    for name, value in PLACES.items():
        path = path.replace(name, value)
    return path


def routes(method):
    return [
        pytest.param(route, id=route.path)
        for route in TABLE
        if route.method == method and not route.path.startswith("/x/")
    ]


@pytest.fixture
def waiting(fire):
    """Five jobs that wait."""
    task = fire.task(name="pack")(lambda: None)
    for _ in range(5):
        task.using(queue="mail", tags=["eu"]).enqueue()
    return fire


def states(fire):
    return {state: count for state, count in fire.jobs.counts().by_state.items() if count}


@pytest.mark.parametrize("route", routes("GET"))
def test_get_routes_refuse_unknown_fields(client, route):
    """Every GET route responds with a 400 that names the field."""
    answer = client.get(f"{address(route.path)}?zz=1")

    assert 400 == answer.status
    assert "zz" in answer.text


@pytest.mark.parametrize("route", routes("POST"))
def test_actions_refuse_unknown_fields(waiting, client, route):
    """An unknown field in the form or in the query causes an error, and nothing is changed."""
    form, query = (
        client.post(address(route.path), {"zz": "1"}),
        client.post(f"{address(route.path)}?zz=1", {}),
    )

    assert (400, 400) == (form.status, query.status)
    assert "zz" in form.text
    assert "zz" in query.text
    assert {State.ENQUEUED: 5} == states(waiting)


def test_misspelled_filter_affects_no_job(waiting, client):
    """The error suggests the most similar name, and no operation is stored."""
    form = {"verb": "delete", "state": "enqueued", "tagg": "zz"}
    by_program = client.post("/api/operations", form)
    by_page = client.post("/jobs/all/delete?state=enqueued&tagg=zz")
    in_body = client.post("/jobs/all/delete", {"state": "enqueued"})

    assert (400, 400, 400) == (by_program.status, by_page.status, in_body.status)
    assert "Did you mean tag?" in by_program.json()["message"]
    assert "Did you mean tag?" in by_page.text
    assert [] == list(waiting.operations.list())
    assert {State.ENQUEUED: 5} == states(waiting)


@pytest.mark.parametrize(
    "target",
    [
        "/jobs?state=failed&state=enqueued", "/jobs?task=a&task=b", "/retries?state=failed",
        "/api/jobs?tag=a&tag=b", "/jobs/export?format=csv&format=ids", "/queues?part=rows&part=rows",
        "/live?x=1", "/queues?after=a&after=",
    ],
)  # fmt: skip
def test_repeated_single_value_field_is_refused(client, target):
    """Only one of two values could apply. A list of retries accepts no other state."""
    assert 400 == client.get(target).status


def test_repeatable_fields_are_read_as_lists(client):
    """Tags, arguments and ids are lists."""
    assert 200 == client.get("/jobs?tag=a&tag=b&arg=x:1&arg=y:2").status
    assert 200 == client.post("/api/jobs/delete", {"id": ["0190-a", "0190-b"]}).status


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"verb": "delete", "state": "enqueued", "Tag": "zz"}', "Tag"),
        (b'{"verb": "delete", "state": "enqueued", "tag": "zz", "tag": "eu"}', "tag"),
        (b'{"verb": "delete", "state": "enqueued", "tagg": null}', "tagg"),
        (b'{"verb": "delete", "state": "enqueued", "tagg": []}', "tagg"),
        (b'{"verb": "delete", "state": "enqueued", "tag": null}', "tag"),
        (b'{"verb": "delete", "state": "enqueued", "tag": []}', "tag"),
        (b'{"verb": "delete", "state": "enqueued", "tag": ""}', "tag"),
        (b'{"verb": "delete", "state": "enqueued", "tag": [" "]}', "tag"),
        (b'{"verb": "delete", "state": "enqueued", "argument": ""}', "argument"),
        (b"verb=delete&state=enqueued&tag=", "tag"),
    ],
)  # fmt: skip
def test_empty_filter_affects_no_job(waiting, client, body, named):
    """An empty value or an unknown name would not filter anything, and the last of two values would win.

    The requests are JSON bodies, and the form that a script sends if its variable is empty.
    """
    kind = "application/json" if body.startswith(b"{") else "application/x-www-form-urlencoded"
    headers = {"content-type": kind, "accept": "application/json", "sec-fetch-site": "same-origin"}

    answer = client.request("POST", "/api/operations", headers=headers, body=body)

    assert 400 == answer.status
    assert named in answer.json()["message"]
    assert [] == list(waiting.operations.list())


def test_every_api_parameter_is_a_field():
    """The route accepts exactly the parameters in the description of the API. There is no second list."""
    fields = (Texts("id"), Named("args.NAME"), Text("queue"))
    route = Route("POST", "/api/x", Permission.READ, lambda visit: None, is_api=True, parameters=fields)

    assert fields == route.form_fields
    assert () == route.query_fields


@pytest.mark.parametrize("name", ["<script>", "\u202e", "x" * 5_000, "", "é"], ids=ascii)
def test_unknown_field_name_is_escaped_and_shortened(name):
    """An unknown name is shortened, and its characters are escaped so that each of them is visible."""
    with pytest.raises(BadRequest) as refused:
        SentFields([(name, "1")]).check((Texts("tag"),))

    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 300
