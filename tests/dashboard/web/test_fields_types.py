"""Every field of the pages and the API is checked against its declared type before anything is changed.

The tests take the fields from the table of routes, so they cover a field as soon as it is added. A field
without a declared type cannot be added, and a new type needs wrong values in `WRONG`.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from urllib.parse import quote

import attrs
import pytest

from firelock import Firelock, Retry
from firelock.storage import JobFilter, NewSession, State
from firelock_dashboard import Dashboard
from firelock_dashboard.app import TABLE
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.job_search import AgeField
from firelock_dashboard.web.fields import (
    Choice,
    Cursor,
    Flag,
    Integer,
    Moment,
    Named,
    Number,
    Span,
    SpanOrMoment,
    Text,
    Texts,
)
from firelock_dashboard.web.routes import Route
from tests.core.fakes import Worker
from tests.dashboard.browser import FORM, Browser
from tests.dashboard.flows import claim, end, remember

# Wrong values of each type, percent-encoded as in a query or a form.
WRONG = {
    Flag: ("", "%20", "x", "2", "-1", "tru", "null", "None", "[]", "true,false", "%EF%BC%91"),
    Integer: ("x", "1.5", "1e3", "%C2%B2", "%D9%A3", "nan", "true", "9" * 30, "-" + "9" * 30, "0x10"),
    Number: ("x", "nan", "inf", "1e400", "-1", "1,5", "1_0", "%D9%A3", "true"),
    Choice: ("x", "TRUE", "0", "null"),
    Span: ("x", "15", "-1m", "1.5h", "15%20m", "15y", "99999999999d", "%D9%A3m", "PT15M"),
    Moment: (
        "x", "tomorrow", "2026-11-25", "2026-11-25T14:30:00", "0001-01-01T00:00:00%2B14:00", "1764000000",
        "2026-13-01T00:00:00Z",
    ),
    SpanOrMoment: ("x", "15", "-15m", "2026-11-25", "15y"),
    AgeField: ("1h", "x", "%3C", "%3C1y", "%3C-1h", "%3C%D9%A3h"),
    Cursor: ("x", "-1", "null", "0.0.0"),
    Text: (),
    Texts: (),
    Named: (),
}  # fmt: skip
NO_TEXT = (
    "a%00b",
    "%ED%A0%80",
    "%FF",
    "a%F0%28",
)  # wrong for every type: NUL, a lone surrogate, bytes that are not UTF-8

# Wrong values as JSON, first those that are wrong for every type.
NO_JSON_TEXT = ('"\\ud800"', '"a\\u0000b"', "null", "{}", '{"a": "b"}', "NaN", "Infinity", "1e999", '[["a"]]')
NO_STRING = ("true", "false", "0", "1.5", "9" * 400, '["x"]', "[]")
WRONG_JSON = {
    Flag: ('"true"', '"True"', '"x"', '""', "0", "1", "1.0", "[true]", "[]"),
    Integer: ('"5"', '"x"', "true", "1.5", "5.0", "9" * 400, "-" + "9" * 400, "[5]", "[]"),
    Number: ('"5"', "true", "-1", "9" * 400, "[5]", "[]"),
    Texts: ('"x"', "[]", "[5]", "[null]", "[true]", '[["a"]]', '["\\ud800"]', "5", "true"),
    Named: ("[]", '["x"]'),
}

# The fields that make each request valid and effective, apart from the wrong field.
GOOD = {
    "GET /jobs/all": {"verb": "delete", "state": "failed"},
    "POST /jobs/all/requeue": {"state": "failed"},
    "POST /jobs/all/delete": {"state": "failed"},
    "POST /jobs/all/move": {"state": "scheduled", "to_queue": "bulk", "to_priority": "5"},
    "POST /jobs/requeue": {"one": "{failed}"},
    "POST /jobs/delete": {"one": "{failed}"},
    "POST /jobs/restore": {"one": "{deleted}"},
    "POST /jobs/copy": {"one": "{failed}"},
    "POST /jobs/move": {"one": "{scheduled}", "to_queue": "bulk", "to_priority": "5"},
    "POST /jobs/reschedule": {"one": "{scheduled}", "when": "15m"},
    "POST /jobs/again": {"one": "{stepped}", "step": "step charge", "sure": "1"},
    "POST /jobs/signal": {"one": "{waiting}", "signal": "approval", "value": "true"},
    "POST /batches/requeue": {"one": "{batch}"},
    "POST /failures/requeue": {"fingerprint": "{fingerprint}", "sure": "1"},
    "POST /failures/delete": {"fingerprint": "{fingerprint}", "sure": "1"},
    "POST /failures/mute": {"fingerprint": "{fingerprint}"},
    "POST /failures/unmute": {"fingerprint": "{muted}"},
    "POST /queues/pause": {"queue": "mail"},
    "POST /queues/resume": {"queue": "mail"},
    "POST /queues/delete": {"queue": "mail", "typed": "mail"},
    "GET /limits/key": {"key": "api"},
    "POST /limits/pause": {"key": "api"},
    "POST /limits/resume": {"key": "api"},
    "POST /limits/set": {"key": "api", "concurrent": "2", "rate": "5", "per": "60", "burst": "5"},
    "POST /limits/reset": {"key": "api"},
    "POST /recurring/trigger": {"id": "nightly"},
    "POST /recurring/pause": {"id": "nightly"},
    "POST /recurring/resume": {"id": "nightly"},
    "POST /recurring/reset": {"id": "nightly"},
    "POST /recurring/remove": {"id": "nightly", "sure": "1"},
    "GET /recurring/view": {"id": "nightly"},
    "POST /recurring/edit": {"id": "nightly", "version": "1", "schedule": "every 5m", "queue": "mail"},
    "POST /recurring/create": {
        "id": "weekly",
        "task": "shop.send",
        "schedule": "every 5m",
        "arguments": "[7]",
    },
    "POST /activity/cancel": {"operation": "{operation}"},
    "POST /servers/order": {"server": "server a", "order": "quiet"},
    "POST /servers/end-process": {"session": "session a"},
    "POST /settings": {"theme": "dark"},
    "GET /recurring/edit": {"id": "nightly"},
    "GET /tasks/run": {"name": "shop.send"},
    "GET /tasks/view": {"name": "shop.send"},
    "POST /tasks/run": {"name": "shop.send", "args.NAME": "7"},
    "POST /api/jobs/requeue": {"id": "{failed}"},
    "POST /api/jobs/delete": {"id": "{failed}"},
    "POST /api/jobs/restore": {"id": "{deleted}"},
    "POST /api/jobs/copy": {"id": "{failed}"},
    "POST /api/jobs/move": {"id": "{scheduled}", "to_queue": "bulk", "to_priority": "5"},
    "POST /api/jobs/reschedule": {"id": "{scheduled}", "in": "15m"},
    "POST /api/signals/send": {"job": "{waiting}", "signal": "approval", "value": "true"},
    "POST /api/operations": {"verb": "delete", "state": "failed"},
    "POST /api/failures/mute": {"fingerprint": "{fingerprint}"},
    "POST /api/failures/unmute": {"fingerprint": "{muted}"},
    "POST /api/queues/pause": {"queue": "mail"},
    "POST /api/queues/resume": {"queue": "mail"},
    "POST /api/recurring/trigger": {"id": "nightly"},
    "POST /api/recurring/pause": {"id": "nightly"},
    "POST /api/recurring/resume": {"id": "nightly"},
    "POST /api/recurring/remove": {"id": "nightly"},
    "POST /api/servers/order": {"server": "server a", "order": "quiet"},
    "POST /api/servers/end-process": {"session": "session a"},
    "POST /api/tasks/run": {"task": "shop.send", "args.NAME": "7"},
}
PART_OF = {"/navigation": "nav"}  # routes that have only this part and no page


def wired(field):
    """Return the name under which a field is sent."""
    return field.name.replace("NAME", "user_id")


@attrs.define
class Shop:
    """An app with a target for every action."""

    fire: Firelock
    names: dict

    def request(self, route):
        """Return the path of a route, and the fields of a valid request to it."""
        path = route.path
        kinds = {"/batches/": "batch", "/api/batches/": "batch", "/api/operations/": "operation"}
        kind = next((kind for start, kind in kinds.items() if path.startswith(start)), "failed")
        kind = "ended" if path.endswith("/result") else kind
        for place, name in (("{id}", kind), ("{fingerprint}", "fingerprint")):
            path = path.replace(place, self.names[name])
        path = path.replace("{name}", "mail")
        good = {
            name: value.format(**self.names)
            for name, value in GOOD.get(f"{route.method} {route.path}", {}).items()
        }
        return path, good


def open_shop(url):
    fire = Firelock(url)

    @fire.task(name="shop.send", queue="mail")
    def send(user_id: int) -> None: ...

    @fire.task(name="shop.fail", retry=Retry.never())
    def fail(number: int) -> None:
        raise [ValueError, KeyError][number]

    @fire.task(name="shop.order")
    def order(number: int) -> None: ...

    @fire.task(name="shop.count")
    def count() -> int:
        return 7

    failed, muted, ended = fail.enqueue(0), fail.enqueue(1), count.enqueue()
    Worker(fire).run()
    waiting, stepped = order.enqueue(1), order.enqueue(2)
    for job in claim(fire):
        if job.id == waiting.id:
            end(fire, job, State.AWAITING, waits_for="signal approval", gives_back=True)
        else:
            remember(fire, job, "step", "charge", '"ch_7"')
            end(fire, job, State.SUCCEEDED)
    with fire.batch("import") as batch:
        batch.add(fail, 0)
    Worker(fire, "host:b").run()
    deleted = send.enqueue(8)
    deleted.delete()
    send.enqueue(9)
    send.recur("nightly", "0 2 * * *", 1)
    fire.limits.set("api", rate=5, per=60)
    fire.storage.begin_session(
        NewSession("session a", "server a", "a", "host", 7, fire.storage.clock(), 1e6, 1, "*", "0.1.0")
    )
    operation = fire.operations.start("delete", JobFilter(task="none"), by="ada")
    fire.operations.run(operation.id)
    names = {
        "failed": failed.id, "fingerprint": failed.refresh().record().error.fingerprint,
        "muted": muted.refresh().record().error.fingerprint, "waiting": waiting.id, "stepped": stepped.id,
        "batch": batch.id, "deleted": deleted.id, "scheduled": send.schedule(3600, 1).id,
        "operation": operation.id, "ended": ended.id,
    }  # fmt: skip
    return Shop(fire, names)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop, its browser, and a function whose result changes when anything is committed to the database."""
    path = tmp_path_factory.mktemp("shop") / "jobs.db"
    shop = open_shop(f"sqlite:///{path}")
    with (
        closing(shop.fire),
        closing(Dashboard(shop.fire)) as dashboard,
        closing(Browser(dashboard)) as browser,
        closing(sqlite3.connect(path)) as watcher,
    ):
        # the first view stores the times when causes were first seen
        browser.get("/failures")
        dashboard.runner.join()
        yield shop, browser, lambda: watcher.execute("pragma data_version").fetchone()[0]


def request_with(browser, route, path, query, body, *, json_body=None):
    """Send a request as a program does; the values are already encoded."""
    target = f"{path}?{'&'.join(f'{name}={value}' for name, value in query)}"
    headers = {"accept": "application/json"}
    if route.method == "GET":
        return browser.get(target, headers=headers)
    headers |= {
        "sec-fetch-site": "same-origin",
        "content-type": FORM if json_body is None else "application/json",
    }
    form = "&".join(f"{name}={value}" for name, value in body).encode()
    return browser.request("POST", target, headers=headers, body=form if json_body is None else json_body)


def split(route, good):
    """Return the valid fields of the query, and those of the body."""
    names = {wired(field): field.name for field in route.form_fields}
    body = {name.replace("NAME", "user_id"): value for name, value in good.items()}
    return {name: one for name, one in body.items() if name not in names}, {
        name: one for name, one in body.items() if name in names
    }


def wrong_values(route, field):
    """Yield the wrong values of a field, each as pairs of a query or a form."""
    name = wired(field)
    values = [*WRONG[type(field)], *NO_TEXT, "x" * (field.limit + 1)]
    if isinstance(field, Integer):
        values += [str(field.least - 1), str(field.most + 1)]
    if isinstance(field, Number):
        values += [str(int(field.most) + 1)]
    if (route.is_api or route.is_strict) and not field.may_be_empty:
        values += ["", "%20"] if field.is_stripped else [""]
    elif field.is_required:
        values += [""]
    for value in values:
        yield [(name, value)]
    good = {
        Flag: "1",
        Integer: str(getattr(field, "least", "")),
        Choice: str(getattr(field, "choices", [""])[0]),
    }
    one = good.get(type(field), "a")
    if isinstance(field, Texts):
        yield [(name, one)] * (field.most + 1)
    else:
        yield [(name, one), (name, one)]


def wrong_json(field):
    return [*NO_JSON_TEXT, *WRONG_JSON.get(type(field), (*NO_STRING, "5"))]


def faults_of(answer, field, value):
    """Return a fault unless the response to a wrong value is a 400 that names the field."""
    name = wired(field)
    message = answer.text
    return [] if answer.status == 400 and name in message else [(name, value, answer.status, message[:200])]


@pytest.mark.parametrize("route", [pytest.param(route, id=f"{route.method} {route.path}") for route in TABLE])
def test_invalid_value_of_any_field_is_refused_and_changes_nothing(shop, route):
    """All other fields are valid, so the request would change something if the wrong field were ignored."""
    scene, browser, version = shop
    path, good = scene.request(route)
    query, body = split(route, good)
    quoted = [(name, quote(value, safe="")) for name, value in query.items()]
    sent = [(name, quote(value, safe="")) for name, value in body.items()]
    before, faults = version(), []

    for field in route.query_fields or ():
        rest = [pair for pair in quoted if pair[0] != wired(field)]
        for pairs in wrong_values(route, field):
            answer = request_with(browser, route, path, [*rest, *pairs], sent)
            faults += faults_of(answer, field, pairs)
    for field in route.form_fields:
        rest = [pair for pair in sent if pair[0] != wired(field)]
        for pairs in wrong_values(route, field):
            faults += faults_of(request_with(browser, route, path, quoted, [*rest, *pairs]), field, pairs)
        others = {name: as_json(route, name, value) for name, value in body.items() if name != wired(field)}
        for value in wrong_json(field):
            members = [f"{json.dumps(name)}: {one}" for name, one in {**others, wired(field): value}.items()]
            json_body = f"{{{', '.join(members)}}}".encode()
            answer = request_with(browser, route, path, quoted, (), json_body=json_body)
            faults += faults_of(answer, field, value)

    assert [] == faults
    assert before == version()


def as_json(route, name, value):
    """Return a valid value as JSON of its field's type."""
    field = next(one for one in route.form_fields if wired(one) == name)
    match field:
        case Flag():
            return "true"
        case Integer() | Number():
            return value
        case Texts():
            return json.dumps([value])
        case _:
            return json.dumps(value)


@pytest.mark.parametrize(
    ("route", "as_what"),
    [
        pytest.param(route, kind, id=f"{route.method} {route.path} {kind}")
        for route in TABLE
        for kind in (["form", "json"] if route.method == "POST" else ["query"])
    ],
)
def test_same_request_with_valid_values_succeeds(route, as_what):
    """This shows that only the wrong values cause the errors above. Actions are sent as forms and as JSON."""
    scene = open_shop("memory://")
    path, good = scene.request(route)
    query, body = split(route, good)
    quoted = [(name, quote(value, safe="")) for name, value in query.items()]
    if route.path in PART_OF:
        quoted.append(("part", PART_OF[route.path]))
    members = ", ".join(f"{json.dumps(name)}: {as_json(route, name, value)}" for name, value in body.items())
    sent = [(name, quote(value, safe="")) for name, value in body.items()]
    json_body = f"{{{members}}}".encode() if as_what == "json" else None
    with (
        closing(scene.fire),
        closing(Dashboard(scene.fire)) as dashboard,
        closing(Browser(dashboard)) as browser,
    ):
        answer = request_with(browser, route, path, quoted, sent, json_body=json_body)

    assert answer.status < 400, answer.text


def test_field_without_a_type_is_rejected():
    """Creating a route with an undeclared field name raises an error."""
    for place in ("query", "form", "parameters"):
        with pytest.raises(TypeError, match="declare it as a Field"):
            Route("POST", "/x", Permission.READ, lambda visit: None, **{place: ("name",)})


def test_openapi_document_has_the_type_of_each_field(client):
    """The OpenAPI document is generated from the declarations that check the requests."""
    paths = client.get("/api/openapi.json").json()["paths"]

    for route in TABLE:
        operation = paths.get(route.path, {}).get(route.method.lower())
        if operation is None:
            continue
        if route.method == "GET":
            documented = {
                one["name"]: one["schema"] for one in operation["parameters"] if one["in"] == "query"
            }
        else:
            documented = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert {field.name for field in route.parameters} == set(documented)
        for field in route.parameters:
            assert field.schema().items() <= documented[field.name].items()


# ---- regressions -----------------------------------------------------------------------------------------


@pytest.fixture
def scheduled(fire):
    """Create three scheduled jobs and two that wait for a retry; return the ids of the latter."""

    @fire.task(name="shop.charge", retry=Retry(3))
    def charge() -> None:
        raise TimeoutError

    retries = [charge.enqueue().id for _ in range(2)]
    Worker(fire).run()
    for _ in range(3):
        charge.schedule(3600)
    return retries


def left(fire):
    """Return the number of scheduled jobs."""
    return fire.jobs.counts().by_state[State.SCHEDULED]


@pytest.mark.parametrize("word", ["True", "true", "TRUE", "1", "on", "On", "yes", "YES"])
def test_bulk_delete_with_retrying_true_deletes_only_the_retries(fire, client, dashboard, scheduled, word):
    """In Python, requests and urlencode send a boolean as True, so this spelling is accepted."""
    listed = client.get(f"/api/jobs?state=scheduled&retrying={word}").json()["jobs"]
    shown = client.get(f"/jobs/all?verb=delete&state=scheduled&retrying={word}").text
    answer = client.act("/api/operations", {"verb": "delete", "state": "scheduled", "retrying": word})
    dashboard.runner.join()

    assert sorted(scheduled) == sorted(job["id"] for job in listed)
    assert "2 jobs match" in shown
    assert 202 == answer.status
    assert answer.json()["where"]["is_retrying"] is True
    assert {State.DELETED} == {fire.jobs.get(job_id).state for job_id in scheduled}
    assert 3 == left(fire)


@pytest.mark.parametrize("word", ["x", "", "2", "None"])
def test_bulk_delete_with_an_invalid_retrying_deletes_nothing(fire, client, dashboard, scheduled, word):
    """If the filter were dropped, the delete would match every scheduled job."""
    answers = [
        client.act("/api/operations", {"verb": "delete", "state": "scheduled", "retrying": word}),
        client.act(f"/jobs/all/delete?state=scheduled&retrying={word}"),
        client.get(f"/jobs/all?verb=delete&state=scheduled&retrying={word}"),
        client.get(f"/jobs/export?state=scheduled&retrying={word}"),
        client.get(f"/api/jobs?state=scheduled&retrying={word}"),
    ]
    dashboard.runner.join()

    assert [400] * 5 == [answer.status for answer in answers]
    assert all("retrying must be true, 1, on or yes" in answer.text for answer in answers)
    assert [] == list(fire.operations.list())
    assert 5 == left(fire)


@pytest.mark.parametrize("value", ["true", False, None, [], 1])
def test_bulk_delete_in_json_requires_a_boolean_retrying(fire, client, dashboard, scheduled, value):
    """A string or a number is an error. False matches the jobs that are not retries."""
    body = json.dumps({"verb": "delete", "state": "scheduled", "retrying": value}).encode()
    own = {"content-type": "application/json", "sec-fetch-site": "same-origin"}

    answer = client.request("POST", "/api/operations", headers=own, body=body)
    dashboard.runner.join()

    assert (202 if value is False else 400) == answer.status
    assert (2 if value is False else 5) == left(fire)


def test_bulk_delete_with_retrying_false_requires_another_filter(fire, client, scheduled):
    """This filter alone would match almost every job, like an empty filter."""
    answer = client.act("/api/operations", {"verb": "delete", "retrying": "false"})

    assert 400 == answer.status
    assert "retrying=false" in answer.json()["error"]
    assert [] == list(fire.operations.list())


def test_delete_of_a_list_without_its_retries_is_refused(fire, client, scheduled):
    """The page of scheduled jobs includes the retries, so dropping the filter would delete them too."""
    answer = client.act("/jobs/all/delete?state=scheduled&retrying=False")

    assert 400 == answer.status
    assert "retrying must be true or missing here" in answer.json()["error"]
    assert 5 == left(fire)


@pytest.mark.parametrize(
    "target",
    [
        "/batches?cursor=x", "/batches?state=open&cursor=0.0.0", "/activity?cursor=x",
        "/api/audit?cursor=x", "/api/operations?cursor=x", "/api/jobs?cursor=x", "/jobs?cursor=x",
        "/activity?cursor=%D9%A3", "/api/audit?cursor=000000000000000000-x",
    ],
)  # fmt: skip
def test_invalid_cursor_is_refused(client, target):
    """For example, an outdated bookmark causes a 400 whose message recommends starting without a cursor."""
    answer = client.get(target)

    assert 400 == answer.status
    assert "cursor" in answer.text


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("/api/jobs/timeline?until=0001-01-01T00:00:00Z", "until"),
        ("/api/jobs/timeline?until=0001-01-01T00:59:59Z", "until"),
        ("/api/jobs/timeline?since=9999-12-31T23:59:59Z", "since"),
    ],
)
def test_time_at_the_edge_of_the_calendar_is_refused(client, target, named):
    """The timeline would need an hour that is outside the calendar."""
    answer = client.get(target)

    assert 400 == answer.status
    assert named in answer.json()["error"]


@pytest.mark.parametrize("age", ["%3C999999w", "%3E999999w"])
@pytest.mark.parametrize("at", ["", "&at=0001-01-01T00:00:00Z"])
def test_age_before_the_year_1_matches_every_job_or_none(client, age, at):
    """Such an age has the same effect as an age that reaches back to the earliest possible time."""
    assert 200 == client.get(f"/jobs?created={age}{at}").status
    assert 200 == client.get(f"/jobs?state=failed&created={age}{at}").status


def test_too_long_interval_is_shown_as_an_error(client):
    """The error is shown in the preview and next to the field of the form."""
    preview = client.get("/recurring/preview?schedule=every%20999999999w")
    form = {"id": "a", "task": "shop.send", "schedule": "every 999999999w"}
    created = client.post("/recurring/create", form)

    assert (200, 400) == (preview.status, created.status)
    assert all("use a shorter interval" in answer.text for answer in (preview, created))


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/jobs/requeue", "id"), ("/api/failures/mute", "fingerprint"), ("/api/recurring/trigger", "id"),
        ("/api/operations", "task"), ("/queues/delete", "queue"), ("/activity/cancel", "operation"),
    ],
)  # fmt: skip
def test_lone_surrogate_in_json_is_refused_with_its_field(client, path, field):
    """Neither a storage nor a response can contain a lone surrogate."""
    others = {"verb": "delete"} if path == "/api/operations" else {}
    value = ["\ud800"] if path == "/api/jobs/requeue" else "\ud800"
    body = json.dumps({**others, field: value}).encode()
    own = {"content-type": "application/json", "sec-fetch-site": "same-origin"}

    answer = client.request("POST", path, headers=own, body=body)

    assert 400 == answer.status
    assert f"{field} must be valid UTF-8" in answer.text


@pytest.mark.parametrize(
    "query", ["part=%00", "part=a&part=b", "part=%ED%A0%80", "part=" + "x" * 300, "&".join(["a=1"] * 3_000)]
)
def test_visitor_without_a_session_gets_the_link_page_for_any_query(dashboard, query):
    """The page that requires a link does not read the query."""
    with closing(Browser(dashboard, is_in=False)) as signed_out:
        answer = signed_out.get(f"/?{query}")

    assert 401 == answer.status
    assert "link" in answer.text


@pytest.mark.parametrize(
    ("path", "field"), [("/enter", "token"), ("/enter", "back"), ("/approval/x", "choice")]
)
def test_forms_without_a_session_accept_only_strings(dashboard, path, field):
    """The two forms for visitors without a session are not in the table of routes."""
    with closing(Browser(dashboard, is_in=False)) as signed_out:
        for value in (*NO_TEXT, "x" * 5_000):
            others = "token=x&" if field == "back" else ""
            headers = {"sec-fetch-site": "same-origin", "content-type": FORM, "accept": "application/json"}
            answer = signed_out.request(
                "POST", path, headers=headers, body=f"{others}{field}={value}".encode()
            )
            assert 400 == answer.status
            assert field in answer.text


def test_duration_and_time_together_are_refused(fire, client, scheduled):
    """Otherwise, one of two contradictory values would be ignored."""
    due_at = fire.jobs.get(scheduled[0]).next_due_at
    form = {"id": scheduled[0], "in": "15m", "at": "2030-01-01T00:00:00Z"}

    answer = client.act("/api/jobs/reschedule", form)

    assert 400 == answer.status
    assert "one of in and at" in answer.json()["error"]
    assert due_at == fire.jobs.get(scheduled[0]).next_due_at
