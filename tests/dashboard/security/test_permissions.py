"""Permissions: every route of the table with every method, visitor and origin, and nothing else."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import attrs
import pytest

from firelock import Firelock, Turns
from firelock.schedules.recurring_job import put_recurring
from firelock.storage import ErrorInfo, JobFilter, NewSession, Renewal, State
from firelock_dashboard import Access, Dashboard, Permission
from firelock_dashboard.app import TABLE
from firelock_dashboard.security.permissions import LEVELS
from firelock_dashboard.stats.causes import Mute
from tests.dashboard.browser import Browser
from tests.dashboard.hostile_texts import HOSTILE, assert_literal
from tests.dashboard.worker import TRACE, Worker, failure

# ---- the matrix ------------------------------------------------------------------------------------------

PATHS = sorted({route.path for route in TABLE})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO")
OVERRIDES = {"x-http-method-override": "DELETE", "x-method-override": "PUT", "x-http-method": "PATCH"}
VISITORS = {None: "none", "eve": "none", "reader": "read", "operator": "operate", "admin": "admin"}
ORIGINS = {
    "same-origin": {"sec-fetch-site": "same-origin", "origin": "http://localhost"},
    "cross-site": {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    },
    "none": {},
    "null": {"origin": "null"},
}
PLACES = {"id": "0190-none", "fingerprint": "none", "name": "none"}

# These URLs only require access, for the stated reason; their views require more.
CHECKED_INSIDE = {
    "/jobs/all": "the requested verb determines the permission; the page only shows, and changes nothing",
    "/settings": "changes nothing but the visitor's own cookie",
    "/sign-out": "ends nothing but the visitor's own session",
    "/activity/cancel": "the operation's verb determines the permission",
    "/api/operations": "the posted verb determines the permission",
    "/api/operations/{id}/cancel": "the operation's verb determines the permission",
}


@pytest.fixture(scope="module")
def opened():
    """A browser for a dashboard whose auth identifies its visitors by a header."""

    def auth(request):
        who = request.headers.get("x-who")
        return Access(LEVELS[VISITORS.get(who, "none")], who or "")

    with closing(Firelock("memory://")) as fire, closing(Browser(Dashboard(fire, auth=auth))) as browser:
        yield browser


def address(path):
    for name, value in PLACES.items():
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    assert "{" not in path, f"add the parameters of {path} to PLACES"
    return path


def routes_at(dashboard, path):
    """Return the routes of this URL by method; a route with a parameter may match another route's path."""
    found = {}
    for method in ("GET", "POST"):
        route = dashboard.routes.find(method, address(path))
        if isinstance(route, tuple):
            found[method] = route[0]
    return found


def expected(routes, method, who, origin):
    """Return the statuses that the table permits for a cell."""
    if method not in {"GET", "HEAD", "POST"}:
        return {405}
    if method == "POST" and origin != "same-origin":
        return {403}
    if origin == "null":  # refused, because such a page hides its origin
        return {403}
    level = LEVELS[VISITORS[who]]
    if Permission.READ not in level:
        return {403}
    route = routes.get("GET" if method == "HEAD" else method)
    if route is None:
        return {405}
    if route.permission not in level:
        return {403}
    inside = {403} if route.path in CHECKED_INSIDE and VISITORS[who] == "read" else set()
    return {200, 202, 204, 303, 304, 400, 404, 409, 415, 422} | inside


def cells():
    for method in METHODS:
        for who in VISITORS:
            for origin in ORIGINS:
                yield method, who, origin


def ask_cell(browser, path, cell, more=()):
    method, who, origin = cell
    headers = {
        **ORIGINS[origin],
        "x-who": who,
        "content-type": "application/x-www-form-urlencoded",
        **dict(more),
    }
    body = b"_method=DELETE" if method == "POST" else b""
    return browser.request(method, address(path), headers=headers, body=body, only_start=True).status


@pytest.mark.parametrize("path", PATHS)
def test_every_route_has_the_access_in_the_table(opened, path):
    """Every route in the table is tested with each method, visitor and origin."""
    routes = routes_at(opened.app, path)
    wrong = {
        cell: status
        for cell in cells()
        if (status := ask_cell(opened, path, cell)) not in expected(routes, *cell)
    }

    assert {} == wrong


@pytest.mark.parametrize("path", PATHS)
def test_method_override_headers_are_ignored(opened, path):
    """Headers that override the method do not change a GET or a POST."""
    routes = routes_at(opened.app, path)
    wrong = {
        (header, method, who): status
        for header, claimed in OVERRIDES.items()
        for method in ("GET", "POST")
        for who in VISITORS
        if (status := ask_cell(opened, path, (method, who, "same-origin"), {header: claimed}))
        not in expected(routes, method, who, "same-origin")
    }

    assert {} == wrong


def test_unsafe_cross_origin_requests_are_refused_everywhere(opened):
    """Such a request is refused for every visitor, whether or not its URL exists."""
    statuses = {
        ask_cell(opened, path, ("POST", who, origin))
        for path in (*PATHS, "/nothing", "/live", "/static/firelock.css")
        for who in VISITORS
        for origin in ORIGINS
        if origin != "same-origin"
    }

    assert {403} == statuses


def test_stream_requires_read_permission(opened):
    """The stream is not in the table of routes, so it is tested separately."""
    for who, level in VISITORS.items():
        for origin in ORIGINS:
            allowed = level != "none" and origin != "null"
            assert (200 if allowed else 403) == ask_cell(opened, "/live", ("GET", who, origin))


def test_only_listed_actions_require_just_read_permission():
    """According to the table, every other action requires its own permission."""
    lax = {route.path for route in TABLE if route.method == "POST" and route.permission is Permission.READ}

    assert {path for path in CHECKED_INSIDE if path != "/jobs/all"} == lax


@pytest.mark.parametrize("who", ["reader", "operator", "admin"])
def test_operation_requires_the_permission_of_its_verb(who):
    """Starting and cancelling an operation requires the permission of its verb."""
    level = LEVELS[VISITORS[who]]
    with closing(Firelock("memory://")) as fire:
        operation = fire.operations.start("delete", JobFilter(state=State.FAILED), by="ada")
        with closing(Browser(Dashboard(fire, auth=lambda _: Access(level)))) as browser:
            statuses = [
                browser.post("/activity/cancel", {"operation": operation.id}).status,
                browser.post(f"/api/operations/{operation.id}/cancel").status,
                browser.post("/api/operations", {"verb": "delete", "state": "failed"}).status,
                browser.post("/api/operations", {"verb": "requeue", "state": "failed"}).status,
            ]

    if who == "reader":
        assert [403, 403, 403, 403] == statuses
    else:
        assert 403 not in statuses


# ---- a read-only dashboard -------------------------------------------------------------------------------


@pytest.fixture
def read_only(seeded):
    with closing(Browser(Dashboard(seeded, read_only=True))) as browser:
        yield browser


@pytest.mark.parametrize("route", [route for route in TABLE if route.is_action], ids=lambda route: route.path)
def test_read_only_dashboard_has_no_actions(read_only, route):
    """The routes of actions do not exist for any visitor."""
    assert read_only.post(address(route.path)).status in {404, 405}


def test_read_only_dashboard_allows_own_settings(read_only):
    """Settings change only the visitor's cookie."""
    assert 303 == read_only.post("/settings", {"theme": "dark"}).status


# ---- visible data ----------------------------------------------------------------------------------------

SECRET, ARGUMENT, RESULT, LOG, TRACED = "hunter2secret", "argumentmark", "resultmark", "logmark", "tracemark"


@pytest.fixture(scope="module")
def seeded():
    """An app whose jobs have a secret in every place that is shown, and a mark for each kind of place."""
    with closing(Firelock("memory://")) as fire:

        @fire.task(name="shop.charge", tags=["order:{order}"])
        def charge(order: int, note: str, api_key: str) -> None: ...

        worker = Worker(fire)
        trace = f"{TRACE}\n    login(password='{SECRET}', {TRACED}=1)\nOSError: password={SECRET} {TRACED}"
        for state in ("failed", "succeeded", "retrying", "processing", "enqueued"):
            charge.enqueue(5, ARGUMENT, SECRET)
            if state == "enqueued":
                continue
            job = worker.claim()
            worker.log(job, f"{LOG} connected to redis://ops:{SECRET}@cache:6379/0", done=5.0)
            if state == "failed":
                worker.fail(job, failure(f"login with password={SECRET} failed", traceback=trace))
            elif state == "succeeded":
                worker.succeed(job, f'{{"token":"{SECRET}","note":"{RESULT}"}}')
            elif state == "retrying":
                worker.retry(job, failure(f"Authorization: Bearer {SECRET}1 refused", traceback=trace))
        fire.recurring.create(
            "shop.charge", "nightly", "0 2 * * *", {"order": 5, "note": ARGUMENT, "api_key": SECRET}
        )
        yield fire


def targets(fire):
    """Yield every readable URL, with values for its parameters and fields."""
    ids = [job.id for job in fire.jobs.find(limit=50)]
    fields = "id=nightly&task=shop.charge&name=shop.charge&limit=50"
    values = {"id": ids, "fingerprint": ["f1"], "name": ["default"]}
    for route in TABLE:
        if route.method != "GET":
            continue
        name = next((name for name in values if f"{{{name}}}" in route.path), None)
        for value in values[name] if name else [""]:
            if route.path == "/jobs/{id}/stream" and not fire.jobs.get(value).record().is_final:
                continue  # it does not end yet
            path = route.path.replace(f"{{{name}}}", value)
            yield path
            yield f"{path}?{fields}"
    yield from (
        f"/jobs?state={state}" for state in ("failed", "succeeded", "scheduled", "processing", "enqueued")
    )
    yield from (
        f"/jobs?arg={ARGUMENT}",
        "/jobs?error=login",
        f"/jobs/export?format=csv&arg={ARGUMENT}",
        "/jobs/export?format=json",
    )
    yield from (
        f"/jobs/copy?id={ids[0]}",
        f"/tasks/run?task=shop.charge&from={ids[0]}",
        f"/tasks/run?task=shop.charge&copy={ids[0]}",
    )


def read_all(fire, permissions, *, addresses=(), **options):
    """Return all responses that this visitor can read, by URL."""
    dashboard = Dashboard(fire, auth=lambda _: Access(frozenset(permissions)), **options)
    with closing(Browser(dashboard)) as browser:
        return {target: browser.get(target) for target in [*targets(fire), *addresses]}


@pytest.fixture(scope="module")
def seen_by_all_permissions(seeded):
    """All responses that a visitor with all permissions can read, by URL."""
    return read_all(seeded, Permission)


def holding(answers, *marks):
    return sorted(
        {target for target, answer in answers.items() for mark in marks if mark.encode() in answer.body}
    )


def test_no_page_fails_for_any_field(seen_by_all_permissions):
    """Every page of the dashboard works with every kind of field value."""
    answers = seen_by_all_permissions

    assert {} == {target: answer.status for target, answer in answers.items() if answer.status >= 500}
    assert holding(answers, ARGUMENT), "the marks are shown to who may see them"
    assert holding(answers, RESULT)
    assert holding(answers, LOG)
    assert holding(answers, TRACED)


def test_no_page_shows_a_secret(seen_by_all_permissions):
    """Pages, the API and downloads mask secrets in arguments, results, messages, tracebacks and logs."""
    assert [] == holding(seen_by_all_permissions, SECRET)


def test_arguments_are_hidden_without_view_args(seeded):
    """No page, list, form, file or API response contains an argument or a result."""
    answers = read_all(seeded, set(Permission) - {Permission.VIEW_ARGUMENTS})
    echoes = {target for target in answers if ARGUMENT in target}  # the field repeats the visitor's input

    assert [] == [target for target in holding(answers, ARGUMENT, RESULT) if target not in echoes]


def test_search_in_arguments_requires_view_args(seeded):
    """Otherwise, a visitor could find out the arguments letter by letter."""
    permissions = set(Permission) - {Permission.VIEW_ARGUMENTS}
    with closing(Browser(Dashboard(seeded, auth=lambda _: Access(frozenset(permissions))))) as browser:
        for target in (
            "/jobs?arg={}",
            "/api/jobs?argument={}",
            "/api/jobs?arg={}",
            "/jobs/all?arg={}",
            "/jobs/export?arg={}",
        ):
            right, wrong = (browser.get(target.format(text)) for text in (ARGUMENT, "argumentmarx"))
            assert right.status == wrong.status, target
            assert right.text.replace(ARGUMENT, "").count("/jobs/0") == wrong.text.replace(
                "argumentmarx", ""
            ).count("/jobs/0")


def test_logs_and_tracebacks_are_hidden_without_view_logs(seeded):
    """No page, file or API response contains a log line or a traceback."""
    assert [] == holding(read_all(seeded, set(Permission) - {Permission.VIEW_LOGS}), LOG, TRACED)


def test_error_messages_are_shown_to_every_reader(seeded):
    """The reason for a job's state contains error messages, so hiding them would hide the reasons as well."""
    answers = read_all(seeded, {Permission.READ})
    page = (Path(__file__).parents[3] / "docs/dashboard.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))

    assert [] == holding(answers, LOG, TRACED)
    assert {"/failures", "/jobs?state=failed"} & {
        target for target, answer in answers.items() if "login with password" in answer.text
    }
    assert "error messages" in rows["read"]
    assert "error messages" not in rows["view_logs"]


@pytest.mark.parametrize(
    "options",
    [{"permissions": LEVELS["read"]}, {"permissions": Permission, "read_only": True}],
    ids=["may-read", "read-only"],
)
def test_visitor_without_permissions_sees_no_buttons(seeded, options):
    """The only form that posts to an action is the one for the visitor's own settings."""
    answers = read_all(seeded, **options)
    actions = {
        (target, action)
        for target, answer in answers.items()
        for form in re.findall(rb"<form[^>]*method=.?post[^>]*>", answer.body, re.IGNORECASE)
        for action in re.findall(rb'action="([^"]*)"', form)
        if action != b"/settings"
    }

    assert set() == actions


def test_hostile_texts_are_shown_literally():
    """Every page shows such strings literally.

    They are in job data, output, results, keys, notes, the audit, definitions, servers and queries.
    """
    with closing(Firelock("memory://")) as fire, closing(Dashboard(fire)) as dashboard:
        send = fire.task(name="shop.charge")(lambda note: None)
        worker = Worker(fire)
        now = fire.client.clock.now()
        fire.recurring.create("shop.charge", "nightly", "0 2 * * *", {"note": "x"})
        made = fire.recurring.get("nightly").record
        addresses = []
        for place, text in enumerate(HOSTILE):
            printable = "".join(char for char in text if char.isprintable())[:60] or "x"
            value = json.dumps({text[:200]: text, "list": [text]})
            for _ in range(2):
                send.using(tags=[printable], meta={"a": printable}).enqueue(text[:4_000])
            send.using(limits=[Turns("note:{note}")], queue="held", tags=[printable]).enqueue(printable)
            failed, done = worker.claim(), worker.claim()
            worker.log(failed, text, level=printable[:10])
            trace = f'{TRACE}\n→ File "{printable}", line 1, in {printable}\n    {text}\n{text}'
            worker.fail(failed, ErrorInfo(printable, text[:1_000], f"f{place}", trace), reason=text[:500])
            worker.log(done, done=1.0)
            worker.succeed(done, value)
            fire.queues.pause(f"q{place}", note=text[:500], by=text)
            fire.audit.record("jobs.delete", text, by=text, detail={"note": text})
            session = NewSession(f"s{place}", f"v{place}", text, text, 7, now, 86_400.0, 2, text, text)
            fire.storage.begin_session(session)
            fire.storage.renew([Renewal(f"s{place}", 1, text)])
            evil = attrs.evolve(
                made, id=f"r{place}{text[:100]}", task=text, queue=text, tags=(text,), error=text,
                arguments=text if place % 2 else value, version=0, meta_json=json.dumps({text: text}),
            )  # fmt: skip
            put_recurring(fire.storage, evil, keep_progress=False)
            words, id_ = quote(text[:200]), quote(evil.id)
            addresses += [
                f"/failures/f{place}", f"/jobs?error={words}&tag={words}", "/jobs/suggest?q=tag:",
                f"/search?q={words}", f"/recurring?q={words}", f"/recurring/view?id={id_}",
                f"/recurring/edit?id={id_}", f"/recurring/preview?schedule={words}&zone={words}",
                f"/limits/key?key={quote(f'note:{printable}')}", f"/limits?prefix={words}",
            ]  # fmt: skip
        for cause in dashboard.watch.causes()[:20]:
            dashboard.watch.cause_records.mute(cause, Mute("ada", datetime.now(UTC), cause.message, None))
        answers = read_all(fire, Permission, addresses=addresses)
        with closing(Browser(dashboard)) as client:
            for text in HOSTILE:
                form = {"id": text, "task": text[:200], "schedule": text, "arguments": text}
                answers[f"create {text}"] = client.post("/recurring/create", form)

        shown = [one for one in answers.values() if one.header("content-type", "").startswith("text/html")]
        assert len(shown) > 500
        for answer in shown:
            assert answer.status < 500, answer.text
            assert_literal(answer.text)
