"""Access without auth: only visitors on this machine who have exchanged a one-time link are admitted."""

from __future__ import annotations

import json
import re
import threading
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest
from starlette.requests import Request

from firelock import ConfigurationError, Firelock, StorageUnavailable
from firelock_dashboard import Dashboard
from firelock_dashboard.problems import NoSession
from firelock_dashboard.security.links import COOKIE, Links
from tests.core.fakes import FailingStorage
from tests.dashboard.browser import Browser
from tests.dashboard.hosts import HOSTS, PLACES, mounted, visitor
from tests.dashboard.proxy import OUTSIDE, fetch, served_by_asgi, served_by_wsgi, silent_proxy

HERE = "http://localhost"


def token_of(link):
    """Return the part after the # of a link."""
    return link.rpartition("#")[2]


def micros(span):
    return span // timedelta(microseconds=1)


@pytest.fixture
def newcomer(dashboard):
    """A visitor on this machine without a link."""
    with closing(Browser(dashboard, is_in=False)) as browser:
        yield browser


def session_of(dashboard):
    """Exchange a link, and return the session."""
    return dashboard.links.exchange(token_of(dashboard.link(HERE)))


def status_with(dashboard, session):
    """Return the status of the dashboard's response to a visitor with this session."""
    with closing(Browser(dashboard, is_in=False)) as browser:
        browser.cookies[f"{COOKIE}_80"] = session
        return browser.get("/queues").status


def records(fire):
    return [
        record
        for kind in ("dashboard_link", "dashboard_session")
        for record in fire.storage.list_records(kind, limit=500)
    ]


# ---- proxies without headers -----------------------------------------------------------------------------


@contextmanager
def behind_the_proxy(fire, framework, kind):
    """Mount a dashboard without auth behind the silent proxy; yield the proxy's port and the prefix."""
    prefix = "" if framework == "bare" else "/jobs"
    app = mounted(framework, kind, fire, prefix, auth=None)
    served = served_by_asgi if kind == "asgi" else served_by_wsgi
    with served(app) as upstream, silent_proxy(upstream) as port:
        yield port, prefix


def paused(fire):
    return [queue.name for queue in fire.queues.list() if queue.is_paused]


@pytest.mark.parametrize(("framework", "kind"), HOSTS)
def test_silent_proxy_makes_no_visitor_local(framework, kind):
    """If a proxy uses HTTP/1.1, rewrites Host and adds no header, every visitor appears to be local.

    A visitor without a session therefore has no access.
    """
    own = {"Origin": f"http://{OUTSIDE}", "Sec-Fetch-Site": "same-origin"}
    with (
        closing(Firelock("memory://")) as fire,
        behind_the_proxy(fire, framework, kind) as (port, prefix),
    ):
        fire.task(name="send")(lambda: None).using(queue="secretqueue").enqueue()
        form = {"queue": "secretqueue"}

        read = fetch(port, "GET", f"{prefix}/queues")
        program = fetch(port, "GET", f"{prefix}/api/jobs")
        posted = [
            fetch(port, "POST", f"{prefix}/queues/pause", headers, form)
            for headers in (own, {"Sec-Fetch-Site": "same-origin"}, {})
        ]

        assert (401, 401) == (read.status, program.status)
        assert not re.search("secretqueue|send", read.text + program.text)
        assert [403, 401, 403] == [answer.status for answer in posted]
        assert [] == paused(fire)


def test_link_grants_access_through_a_silent_proxy():
    """Access depends only on the session, not on the path that the request takes to the dashboard."""
    with closing(Firelock("memory://")) as fire, closing(Dashboard(fire)) as dashboard:
        session = session_of(dashboard)
        with served_by_asgi(dashboard) as upstream, silent_proxy(upstream) as port:
            answer = fetch(port, "GET", "/queues", {"Cookie": f"{COOKIE}_80={session}"})

    assert 200 == answer.status


# ---- the exchange ----------------------------------------------------------------------------------------


def test_local_visitor_without_a_link_gets_the_link_page(newcomer):
    """The page shows the command with the dashboard's own URL. Programs get JSON."""
    page = newcomer.get("/queues?tag=a", headers={"host": "localhost:8000"})
    program = newcomer.get("/api/jobs")

    assert (401, 401) == (page.status, program.status)
    assert "http://localhost:8000/" in page.text
    assert 'name="back" value="/queues?tag=a"' in page.text
    assert "link" in program.json()["message"]
    assert 'Link realm="Firelock"' == program.header("www-authenticate")


def test_link_is_exchanged_for_a_session(dashboard, newcomer):
    """The page's own form posts the token.

    The cookie is limited to this mount and cannot be used by scripts or other sites.
    """
    answer = newcomer.post("/enter", {"token": token_of(dashboard.link(HERE)), "back": "/queues?tag=a"})

    assert (303, "/queues?tag=a") == (answer.status, answer.location)
    words = {word.strip().lower() for word in answer.header("set-cookie").split(";")[1:]}
    assert words == {"httponly", "max-age=604800", "path=/", "samesite=strict"}
    assert 200 == newcomer.get("/queues").status
    assert 303 == newcomer.post("/queues/pause", {"queue": "mail"}).status


def test_session_over_https_has_a_secure_cookie(dashboard, newcomer):
    """A cookie that was set over TLS is never sent without TLS."""
    answer = newcomer.post("/enter", {"token": token_of(dashboard.link(HERE))}, scheme="https")

    assert "secure" in answer.header("set-cookie").lower()
    assert answer.header("set-cookie").startswith(f"{COOKIE}_443=")


@pytest.mark.parametrize(("framework", "kind"), HOSTS)
def test_link_is_exchanged_in_every_mount(framework, kind):
    """Every framework passes on the complete cookie, including its limitation to the mount."""
    with closing(Firelock("memory://")) as fire:
        prefix = "" if framework == "bare" else "/jobs"
        with closing(visitor(framework, kind, fire, prefix, PLACES[0][1], auth=None)) as one:
            token = token_of(Links(fire).make(HERE + prefix))
            assert 401 == one.get(f"{prefix}/queues").status

            answer = one.post(f"{prefix}/enter", {"token": token})

            cookie = answer.header("set-cookie").lower()
            words = ("httponly", "samesite=strict", f"path={prefix}/;", "max-age=")
            assert [] == [word for word in words if word not in cookie]
            assert 200 == one.get(f"{prefix}/queues").status


def test_token_is_in_the_url_fragment(dashboard):
    """Browsers do not send the fragment, so a proxy's access log does not contain the token."""
    link = dashboard.link("http://127.0.0.1:8000/jobs/")

    address, _, token = link.partition("#")
    assert "http://127.0.0.1:8000/jobs/enter" == address
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)


def test_pasted_link_grants_access(dashboard, newcomer):
    """Without scripts, or on another device, the visitor pastes the whole link or the part after the `#`."""
    for pasted in (dashboard.link(HERE), f"open={token_of(dashboard.link(HERE))}"):
        assert 303 == newcomer.post("/enter", {"token": f" {pasted} "}).status


def test_get_request_does_not_use_up_a_link(dashboard, newcomer):
    """Programs that preview links send GET requests, so a GET must not use up the link.

    A token in the query has no effect either.
    """
    token = token_of(dashboard.link(HERE))

    pages = [
        newcomer.get("/enter"),
        newcomer.get(f"/enter?token={token}"),
        newcomer.request("HEAD", "/enter"),
    ]

    assert [401, 401, 401] == [answer.status for answer in pages]
    assert [] == [value for answer in pages for value in answer.every("set-cookie")]
    assert token not in "".join(answer.text for answer in pages)
    assert 303 == newcomer.post("/enter", {"token": token}).status


def test_link_works_once(dashboard, newcomer):
    """The second visitor gets a page that states that the link has already been used."""
    token = token_of(dashboard.link(HERE))

    first, second = (newcomer.post("/enter", {"token": token}) for _ in range(2))

    assert (303, 401) == (first.status, second.status)
    assert "has been used" in second.text


def test_only_one_of_concurrent_exchanges_succeeds(dashboard):
    """A compare-and-set operation uses up the link, so only one request succeeds in any interleaving."""
    token, start, came = token_of(dashboard.link(HERE)), threading.Barrier(8), []

    def exchange():
        start.wait()
        try:
            came.append(dashboard.links.exchange(token))
        except Exception as error:  # noqa: BLE001 - counted below
            came.append(type(error).__name__)

    threads = [threading.Thread(target=exchange) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 7 == came.count("Forbidden")


def test_link_expires_after_ten_minutes(fire, dashboard, newcomer):
    """The storage's clock is used, because all processes share it."""
    early, late = token_of(dashboard.link(HERE)), token_of(dashboard.link(HERE))

    fire.storage.clock_offset = micros(timedelta(minutes=9, seconds=50))
    in_time = newcomer.post("/enter", {"token": early})
    fire.storage.clock_offset = micros(timedelta(minutes=10, seconds=1))
    too_late = newcomer.post("/enter", {"token": late})

    assert (303, 401) == (in_time.status, too_late.status)
    assert "ten minutes" in too_late.text


@pytest.mark.parametrize(
    "token", ["x", "A" * 43, "A" * 44, "../../x", "\u202e", "é" * 43, "0" * 64, "#", "open="], ids=ascii
)
def test_invalid_token_grants_no_access(newcomer, token):
    """The token may be a guess or any other string."""
    answer = newcomer.post("/enter", {"token": token})

    assert answer.status in {400, 401}
    assert [] == answer.every("set-cookie")


def test_session_expires_after_a_week(fire):
    """The storage's clock is used.

    After a session has been found, it is accepted for half a minute before it is looked up again.
    """
    at = [0.0]
    with closing(Dashboard(fire)) as dashboard, closing(Browser(dashboard)) as browser:
        dashboard.links._monotonic = lambda: at[0]  # noqa: SLF001 - a clock injected by the test
        assert 200 == browser.get("/queues").status

        fire.storage.clock_offset = micros(timedelta(days=7, seconds=1))
        believed = browser.get("/queues")
        at[0] += 31
        ended = browser.get("/queues")

    assert (200, 401) == (believed.status, ended.status)


# ---- requests that may exchange a link -------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": None}, {"origin": "http://evil.example"},
        {"host": "evil.example"}, {"x-forwarded-for": "8.8.8.8"}, {"origin": "null"},
    ],
    ids=str,
)  # fmt: skip
def test_link_is_exchanged_only_locally_by_its_own_page(dashboard, newcomer, headers):
    """Peer, Host, forwarding headers and origin are checked before the exchange.

    A refused request therefore does not use up the link.
    """
    token = token_of(dashboard.link(HERE))

    refused = newcomer.post("/enter", {"token": token}, headers=headers)

    assert 403 == refused.status
    assert [] == refused.every("set-cookie")
    assert 303 == newcomer.post("/enter", {"token": token}).status


def test_foreign_origin_is_refused_despite_sec_fetch_site(fire, dashboard):
    """If a proxy rewrites Host, another origin looks like this one, but the Origin header reveals it."""
    with closing(Browser(dashboard)) as browser:
        for origin in ("http://jobs.example.com", "https://localhost.evil.example", "http://localhost:81"):
            headers = {"sec-fetch-site": "same-origin", "origin": origin}

            assert 403 == browser.post("/queues/pause", {"queue": "mail"}, headers=headers).status
            assert 403 == browser.get("/queues", headers=headers).status

    assert [] == paused(fire)


def test_same_origin_request_is_accepted_if_a_proxy_ends_tls(fire):
    """The proxy passes on Host but not the scheme, so the browser's Sec-Fetch-Site header is sufficient."""
    auth = {"auth": lambda _: "admin"}
    with closing(Dashboard(fire, **auth)) as dashboard, closing(Browser(dashboard)) as browser:
        host = "ops.example.com"
        headers = {"sec-fetch-site": "same-origin", "origin": f"https://{host}", "host": host}

        assert 303 == browser.post("/queues/pause", {"queue": "mail"}, headers=headers).status


def test_visitor_from_another_site_gets_a_link_to_continue(dashboard):
    """With a request from another site, a browser does not send a strict cookie.

    The page therefore contains a link to itself.
    """
    elsewhere = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
        "cookie": None,
    }
    with closing(Browser(dashboard)) as browser:
        answer = browser.get("/queues", headers=elsewhere)

    assert 401 == answer.status
    assert '<a href="">' in answer.text


def test_dashboard_with_auth_has_no_links(fire):
    """Only the dashboard's auth grants or denies access."""
    dashboard = Dashboard(fire, auth=lambda _: "admin")
    with closing(dashboard), closing(Browser(dashboard)) as browser:
        assert 404 == browser.get("/enter").status
        with pytest.raises(ConfigurationError, match="auth="):
            dashboard.link(HERE)


@pytest.mark.parametrize(
    "at",
    ["", "localhost:8000", "javascript:alert(1)", "http://", "http://a b/", "http://h/?x=1", "http://h:x"],
)
def test_link_requires_a_valid_url(dashboard, at):
    """The error contains the URL, which a browser could not open."""
    with pytest.raises(ConfigurationError, match=re.escape(repr(at))):
        dashboard.link(at)


# ---- stored records --------------------------------------------------------------------------------------


def test_storage_contains_only_hashes_of_tokens(fire, dashboard):
    """A person who reads the storage or a backup finds nothing that grants access."""
    token = token_of(dashboard.link(HERE))
    session = dashboard.links.exchange(token)

    stored = json.dumps([[record.key, record.value] for record in records(fire)])

    assert 2 == len(records(fire))
    assert token not in stored
    assert session not in stored


def test_links_and_sessions_are_shared_by_all_processes(tmp_path):
    """One process creates a link, another exchanges it, and a third accepts the session."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with closing(Firelock(url)) as one, closing(Firelock(url)) as two, closing(Firelock(url)) as three:
        session = Dashboard(two).links.exchange(token_of(Dashboard(one).link(HERE)))

        assert 200 == status_with(Dashboard(three), session)


def test_number_of_links_and_sessions_is_bounded(fire, dashboard):
    """If there are more than a hundred links or sessions, the oldest ones are deleted.

    Expired ones are deleted when a new one is created.
    """
    first = session_of(dashboard)
    for _ in range(120):
        fire.storage.clock_offset += 1_000_000
        last = session_of(dashboard)

    counts = [len(fire.storage.list_records(f"dashboard_{kind}", limit=500)) for kind in ("link", "session")]
    assert [100, 100] == counts
    assert [401, 200] == [status_with(dashboard, session) for session in (first, last)]

    fire.storage.clock_offset += micros(timedelta(days=8))
    session_of(dashboard)
    assert 2 == len(records(fire))


def test_damaged_session_record_grants_no_access(fire, dashboard):
    """A damaged record does not count as a session."""
    session = session_of(dashboard)
    [record] = fire.storage.list_records("dashboard_session")
    for value in ("", "[]", "null", '{"expires_at": "9"}', "{}"):
        fire.storage.put_record("dashboard_session", record.key, value)

        assert 401 == status_with(Dashboard(fire), session), value


def test_known_session_survives_a_storage_outage():
    """A visitor with a known session gets the page.

    A visitor whose session has not been looked up yet gets a 503.
    """
    storage, at = FailingStorage(), [0.0]
    with closing(Firelock(storage)) as fire, closing(Dashboard(fire)) as dashboard:
        dashboard.links._monotonic = lambda: at[0]  # noqa: SLF001 - a clock injected by the test
        with closing(Browser(dashboard)) as known, closing(Browser(dashboard)) as unknown:
            assert 200 == known.get("/settings").status

            storage.fail_always("get_record", StorageUnavailable("the storage is away"))
            at[0] += 60

            assert 200 == known.get("/settings").status
            assert 503 == unknown.get("/settings").status


def test_outage_reveals_nothing_to_visitors_without_a_session():
    """The response contains neither the storage's URL nor the message of its driver.

    Only the server's log contains them.
    """
    storage = FailingStorage()
    storage.fail_always("get_record", StorageUnavailable("redis://10.1.2.3:6379/4 is away"))
    with (
        closing(Firelock(storage)) as fire,
        closing(Dashboard(fire)) as dashboard,
        closing(Browser(dashboard, is_in=False)) as unknown,
    ):
        shown = unknown.get("/queues", headers={"cookie": f"{COOKIE}_80={'x' * 43}"})
        refused = unknown.get("/api/jobs", headers={"cookie": f"{COOKIE}_80={'x' * 43}"})
        exchanged = unknown.post("/enter", {"token": "x" * 43})

    for answer in (shown, refused, exchanged):
        assert 503 == answer.status
        assert "10.1.2.3" not in answer.text


@pytest.mark.parametrize("port", [80, 9999])
@pytest.mark.parametrize("order", [1, -1])
def test_session_cookie_is_found_among_others_of_its_name(dashboard, port, order):
    """Browsers also send the cookies of the host's other dashboards.

    The cookie of a dashboard at `/` can have the same name. The cookie of another port has a different name.
    """
    own = session_of(dashboard)
    pair = [f"{COOKIE}_80={own}", f"{COOKIE}_{port}={'x' * 43}"]
    with closing(Browser(dashboard, root="/jobs", is_in=False)) as browser:
        assert 200 == browser.get("/queues", headers={"cookie": "; ".join(pair[::order])}).status


# ---- the end of a session --------------------------------------------------------------------------------


def test_sign_out_ends_the_session_and_clears_its_cookie(fire, dashboard, client):
    """A copy of the cookie no longer works. Other sessions are not affected."""
    other = session_of(dashboard)
    copy = client.cookies[f"{COOKIE}_80"]
    assert 'action="/sign-out"' in client.get("/").text
    assert 'action="/sign-out"' in client.get("/settings").text

    answer = client.post("/sign-out")

    assert (303, "/enter?ended=1") == (answer.status, answer.location)
    assert f"{COOKIE}_80" not in client.cookies
    (line,) = answer.every("set-cookie")
    assert all(word in line for word in ("Max-Age=0", "HttpOnly", "SameSite=strict", "Path=/"))
    assert (401, 200) == (status_with(dashboard, copy), status_with(dashboard, other))
    assert "You are signed out" in client.get("/enter?ended=1").text
    assert 1 == len(fire.storage.list_records("dashboard_session", limit=10))


def test_sign_out_ends_every_session_of_the_browser(dashboard, client):
    """If a storage has two dashboards on two ports, the other session would still admit the visitor."""
    client.cookies[f"{COOKIE}_81"] = session_of(dashboard)

    answer = client.post("/sign-out")

    assert 2 == len(answer.every("set-cookie"))
    assert 401 == client.get("/queues").status


def test_ended_session_is_cached_for_at_most_half_a_minute(fire, dashboard, client, tick):
    elsewhere = Links(fire, monotonic=tick)
    session = client.cookies[f"{COOKIE}_80"]
    request = Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}_80={session}".encode())]})
    elsewhere.access(request)

    client.post("/sign-out")
    tick.at += 30

    with pytest.raises(NoSession):
        elsewhere.access(request)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": None, "origin": "http://evil.example"},
        {"sec-fetch-site": None},
    ],
)
def test_sign_out_from_another_site_is_refused(client, headers):
    """Signing out follows the same rules as any other action.

    A link cannot sign out a visitor, because it sends a GET.
    """
    assert 403 == client.post("/sign-out", headers=headers).status
    assert 405 == client.get("/sign-out").status
    assert 200 == client.get("/queues").status


def test_read_only_dashboard_allows_sign_out(fire):
    with (
        closing(Dashboard(fire, read_only=True)) as dashboard,
        closing(Browser(dashboard)) as browser,
    ):
        assert 303 == browser.post("/sign-out").status
        assert 401 == browser.get("/queues").status


def test_dashboard_with_auth_has_no_sign_out(fire):
    """The sessions belong to the application, so the page has no button and the URL is a 404."""
    with (
        closing(Dashboard(fire, auth=lambda _: "admin")) as dashboard,
        closing(Browser(dashboard)) as browser,
    ):
        assert "/sign-out" not in browser.get("/settings").text
        assert 404 == browser.post("/sign-out").status


def test_sign_out_during_a_storage_outage_keeps_the_session():
    """The visitor gets an error instead of the message that the session has ended."""
    storage = FailingStorage()
    with (
        closing(Firelock(storage)) as fire,
        closing(Dashboard(fire)) as dashboard,
        closing(Browser(dashboard)) as browser,
    ):
        storage.fail("delete_record", StorageUnavailable("away"))
        assert 503 == browser.post("/sign-out").status
        assert f"{COOKIE}_80" in browser.cookies
        assert 200 == browser.get("/queues").status
