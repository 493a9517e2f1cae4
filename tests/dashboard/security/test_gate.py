"""Across modules: the checks before each request, from host to origin, and each response's headers."""

from __future__ import annotations

from contextlib import closing

import pytest
from starlette.applications import Starlette
from starlette.responses import Response

from firelock import Firelock
from firelock.errors import ConfigurationError
from firelock_dashboard import Access, Dashboard, Permission
from firelock_dashboard.security.csrf import PROTECTION
from firelock_dashboard.security.permissions import LEVELS
from firelock_dashboard.web.routes import Route, Routes
from tests.dashboard.browser import Browser

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.fixture
def fire():
    """An app in memory; one storage is sufficient, because the checks do not use it."""
    with closing(Firelock("memory://")) as fire:
        yield fire


@pytest.fixture
def visit(fire):
    """Return a function that opens a dashboard with these options, and returns a browser for it."""
    browsers = []

    def open_dashboard(*, root="", peer=("127.0.0.1", 50_000), **options):
        browsers.append(Browser(Dashboard(fire, **options), root=root, peer=peer))
        return browsers[-1]

    yield open_dashboard
    for browser in browsers:
        browser.close()


def everybody(_request):
    return Access(LEVELS["admin"], "ada")


def empty(_visit):
    return Response()


# ---- local visitors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost",
        "localhost:8787",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.1.2.3",
        "[::1]",
        "[::1]:80",
    ],
)
def test_local_visitor_needs_no_auth(visit, peer, host):
    """A request is accepted if it comes from this machine and its Host header names this machine."""
    assert 200 == visit(peer=(peer, 5)).get("/queues", headers={"host": host}).status


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "localhost.", "127.0.0.1.",
        "localhost:", "localhost:x",
        "localhost:80:80", "localhost:123456", "user@localhost", "localhost@evil.example",
        "localhost, evil.example", "",
        "127.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.256", "128.0.0.1", "0.0.0.0", "::1",
        "[::]",
        "[::1", "[::1]x", "[::1].evil.example", "[0:0:0:0:0:0:0:2]", "[::ffff:10.0.0.1]", "localhost\t",
        "loc\xe4lhost",
        "localhost/", "localhost\\", "localhost#", "evil.localhost",
    ],
)  # fmt: skip
def test_foreign_host_is_refused_without_auth(visit, host):
    """A page of another site gets no access, even if its host name resolves to this machine."""
    answer = visit().get("/queues", headers={"host": host})

    assert 403 == answer.status
    assert "auth=" in answer.text


def test_request_requires_exactly_one_host(visit):
    """A request without a Host header is not local, and one with two Host headers is ambiguous.

    This is true with and without auth.
    """
    assert 403 == visit().get("/queues", headers={"host": None}).status
    assert 400 == visit().get("/queues", headers={"host": ["localhost", "evil.example"]}).status
    assert 400 == visit(auth=everybody).get("/queues", headers={"host": ["localhost", "localhost"]}).status


@pytest.mark.parametrize(
    "peer",
    [
        "10.0.0.5", "192.168.1.2", "8.8.8.8", "::2", "fe80::1", "::ffff:10.0.0.1", "testclient", "",
        "127.0.0.1.x",
    ],
)  # fmt: skip
def test_foreign_peer_is_refused_without_auth(visit, peer):
    """The response explains which setting to configure.

    A Unix socket does not count as local, because it usually belongs to a proxy.
    """
    assert 403 == visit(peer=(peer, 5)).get("/queues").status
    assert 403 == visit(peer=None).get("/queues").status
    assert 200 == visit(peer=None, auth=everybody).get("/queues").status


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
        "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded", "X_Forwarded_For", "X-Forward-For",
        "X-Real-IP",
        "X-Real_IP", "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "Via", "X-Client-IP",
        "X-Cluster-Client-IP",
        "X-Original-URL", "X-Original-Forwarded-For", "Fastly-Client-IP", "Fly-Client-IP",
        "X-Envoy-External-Address",
        "X-Amzn-Trace-Id", "X-Azure-ClientIP", "Tailscale-User-Login", "CDN-Loop", "Proxy-Client-IP",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["/127.0.0.1", ""])
def test_forwarded_request_is_refused_without_auth(visit, header, value):
    """All requests through a proxy seem to come from this machine.

    One forwarding header is enough to refuse them.
    """
    answer = visit(trusts_proxy=True).get("/queues", headers={header: value})

    assert 403 == answer.status
    assert "proxy" in answer.text


def test_http_1_0_is_refused_without_auth(visit):
    """Browsers do not use HTTP/1.0, but unconfigured proxies do."""
    assert 403 == visit().request("GET", "/queues", http_version="1.0").status
    assert 200 == visit().request("GET", "/queues", http_version="2").status


@pytest.mark.parametrize(
    ("framework", "scope", "words"),
    [
        ("fastapi", {}, "fastapi_dependency"), ("flask", {}, "init_app"), ("django", {}, "dashboard_urls"),
        ("command", {}, "FIRELOCK_DASHBOARD_PASSWORD"), (None, {}, "basic_auth"),
        (None, {"app": Dashboard}, "basic_auth"), (None, {"app": Starlette()}, "app.mount"),
        (None, {"django.request": object()}, "dashboard_urls"),
        (None, {"wsgi_environ": {}}, ".wsgi"),
        (None, {"wsgi_environ": {"werkzeug.request": None}}, "init_app"),
    ],
)  # fmt: skip
def test_refusal_shows_the_configuration_to_add(visit, framework, scope, words):
    """The configuration is that of the web framework, which is known from the mount or from the request."""
    answer = visit(framework=framework).request("GET", "/queues", headers={"host": "evil.example"}, **scope)

    assert 403 == answer.status
    assert words in answer.text


def test_programs_get_a_json_refusal(visit):
    """The response is JSON if the URL belongs to the API or the request accepts JSON."""
    for target, headers in (("/api/jobs", {}), ("/queues", {"accept": "application/json"})):
        answer = visit().get(target, headers={"host": "evil.example", **headers})

        assert (403, "bad") == (answer.status, answer.json()["kind"])
        assert "auth=" in answer.json()["error"]


def test_refusal_reveals_nothing_of_the_app(fire, visit):
    """With and without auth, a refusal does not contain any name, number or URL of the app."""
    fire.task(name="secret.payroll")(lambda: None).using(queue="secretqueue").enqueue()
    for browser in (
        visit(title="Payroll", environment="prod", peer=("10.0.0.5", 5)),
        visit(title="Payroll", auth=lambda _: None),
    ):
        for target in (
            "/",
            "/queues",
            "/nothing",
            "/queues/secretqueue",
            "/api/jobs",
            "/live",
            "/queues?part=nav",
        ):
            answer = browser.get(target)

            assert 403 == answer.status
            assert not {"Payroll", "secret", "memory:", "sqlite:"} & set(
                answer.text.replace("/", " ").split()
            )
            assert fire.storage.url not in answer.text


# ---- hosts with auth -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("jobs.example.com", 200), ("JOBS.example.com", 200), ("jobs.example.com:8000", 200), ("a.lan", 200),
        ("a.lan:80", 200), ("b.a.lan", 200), ("only.test:81", 200), ("only.test", 403), ("only.test:82", 403),
        ("example.com", 403), ("jobs.example.com.evil.example", 403), ("evil-jobs.example.com", 403),
        ("xlan", 403),
        ("lan", 403), ("", 403), (None, 403), ("jobs.example.com.", 403), ("[::1]", 403),
    ],
)  # fmt: skip
def test_only_allowed_hosts_are_accepted(visit, host, status):
    """The allowed hosts are names with or without a port, and domains together with all their subdomains."""
    browser = visit(auth=everybody, allowed_hosts=["jobs.example.com", "*.lan", "only.test:81"])

    assert status == browser.get("/queues", headers={"host": host}).status


def test_forwarded_host_counts_only_from_a_trusted_proxy(visit):
    """The host in the proxy's header is checked only if the proxy is trusted."""
    headers = {"host": "10.0.0.1:9000", "x-forwarded-host": "jobs.example.com"}

    for trusts_proxy, status in ((True, 200), (False, 403)):
        browser = visit(auth=everybody, allowed_hosts=["jobs.example.com"], trusts_proxy=trusts_proxy)
        assert status == browser.get("/queues", headers=headers).status


@pytest.mark.parametrize(
    "options",
    [
        {"allowed_hosts": "jobs.example.com"}, {"allowed_hosts": ["https://jobs.example.com"]},
        {"allowed_hosts": ["*"]}, {"allowed_hosts": ["a.*.com"]}, {"allowed_hosts": [""]},
        {"trusted_origins": "https://a.example"}, {"trusted_origins": ["a.example"]},
        {"trusted_origins": ["null"]},
        {"trusted_origins": ["https://a.example/path"]}, {"trusted_origins": ["ftp://a.example"]},
        {"trusted_origins": ["https://user@a.example"]}, {"trusted_origins": ["*"]},
        {"prefix": "jobs"}, {"prefix": "//evil.example"}, {"prefix": "/a/../b"}, {"prefix": "https://a.example"},
        {"prefix": "/a?b"}, {"prefix": "/\\evil"},
        {"back_url": "javascript:alert(1)"}, {"back_url": "//evil.example"}, {"back_url": "data:text/html,x"},
        {"back_url": "/\\evil.example"}, {"back_url": "shop"}, {"back_url": ""}, {"back_url": "https://"},
        {"back_url": " https://a.example"}, {"back_url": "/\u202e"}, {"back_url": "JavaScript:alert(1)"},
        {"back_url": "https://a.example@evil.example"}, {"back_url": "/a\nb"},
    ],
)  # fmt: skip
def test_invalid_options_raise_on_creation(fire, options):
    """If an origin, a host or a path is invalid, creating the dashboard fails.

    The error contains the value.
    """
    with pytest.raises(ConfigurationError, match=r"=.*use"):
        Dashboard(fire, **options)


# ---- methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "FOO", "get", "Post", "\xc4"],
)
@pytest.mark.parametrize(
    "target", ["/", "/queues", "/queues/pause", "/nothing", "/static/firelock.css", "/live"]
)
def test_other_methods_are_refused(visit, method, target):
    """Only GET, HEAD and POST are accepted. The response lists them in its Allow header."""
    answer = visit().request(method, target, headers={"sec-fetch-site": "same-origin"})

    assert (405, "GET, HEAD, POST") == (answer.status, answer.header("allow"))


def test_wrong_method_for_a_known_url_is_refused(dashboard, client):
    """Pages do not accept POST, and actions do not accept GET."""
    dashboard.routes = Routes(
        [Route(method, path, Permission.READ, empty) for method, path in (("GET", "/page"), ("POST", "/act"))]
    )

    assert (405, "GET, HEAD") == (client.post("/page").status, client.post("/page").header("allow"))
    assert (405, "POST") == (client.get("/act").status, client.get("/act").header("allow"))


def test_head_is_get_without_the_body(client):
    """The status and headers are the same, without a body."""
    for target in ("/queues", "/nothing", "/settings"):
        got, head = client.get(target), client.request("HEAD", target)

        assert (got.status, b"") == (head.status, head.body)
        assert got.header("content-type") == head.header("content-type")


# ---- the origin of a request -----------------------------------------------------------------------------


def test_trusted_origins_may_act(visit):
    """Actions of a trusted origin are accepted even if the browser reports another site.

    Other origins are refused.
    """
    browser = visit(trusted_origins=["https://ops.example.com", "http://other.test:81"])

    for origin, status in (
        ("https://ops.example.com", 303), ("https://ops.example.com:443", 303), ("http://other.test:81", 303),
        ("http://ops.example.com", 403), ("http://other.test", 403), ("https://x.ops.example.com", 403),
    ):  # fmt: skip
        headers = {"sec-fetch-site": "cross-site", "origin": origin}
        assert status == browser.post("/queues/pause", {"queue": "a"}, headers=headers).status, origin


FOLLOWED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Same-Origin", "x"])
@pytest.mark.parametrize(
    ("fetch", "status"),
    [
        (FOLLOWED, 200),
        (FOLLOWED | {"sec-fetch-user": "?1"}, 200),
        ({}, 403),
        ({"sec-fetch-mode": "navigate"}, 403),
        ({"sec-fetch-dest": "document"}, 403),
        *[
            (FOLLOWED | {"sec-fetch-dest": dest}, 403)
            for dest in ("iframe", "frame", "object", "embed", "empty")
        ],
        *[(FOLLOWED | {"sec-fetch-mode": mode}, 403) for mode in ("cors", "no-cors", "same-origin", "")],
        ({"sec-fetch-mode": ["navigate", "cors"], "sec-fetch-dest": "document"}, 403),
        ({"sec-fetch-mode": "navigate", "sec-fetch-dest": ["document", "iframe"]}, 403),
        (FOLLOWED | {"origin": "https://evil.example"}, 403),
    ],
    ids=str,
)
def test_cross_site_get_is_answered_only_for_a_followed_link(visit, site, fetch, status):
    for method in ("GET", "HEAD"):
        assert status == visit().request(method, "/queues", headers={"sec-fetch-site": site, **fetch}).status


@pytest.mark.parametrize(
    ("fetch", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "none"} | FOLLOWED, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 200),
    ],
    ids=str,
)
def test_same_origin_or_typed_get_is_answered(visit, fetch, status):
    assert status == visit().get("/queues", headers=fetch).status


def test_forwarded_origin_counts_only_from_a_trusted_proxy(visit):
    """The proxy's scheme and host count only if the proxy is trusted."""
    headers = {
        "sec-fetch-site": None, "origin": "https://jobs.example.com", "host": "10.0.0.1:9000",
        "x-forwarded-proto": "https", "x-forwarded-host": "jobs.example.com",
    }  # fmt: skip

    answers = [
        visit(auth=everybody, trusts_proxy=trusts).post("/queues/pause", {"queue": "a"}, headers=headers)
        for trusts in (True, False)
    ]

    assert [303, 403] == [answer.status for answer in answers]
    assert "trusts_proxy" in answers[1].text


# ---- paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/../etc/passwd", "/queues/..", "/queues/../settings", "/./queues", "//queues", "/queues//pause",
        "//evil.example/", "/queues/%2e%2e/settings", "/%2e%2e", "/queues%2Fpause", "/queues%2fpause",
        "/a%5Cb", "/a\\b", "/\\evil.example", "/a%00", "/a%0a", "/a%0d%0aSet-Cookie:x", "/a%7f", "/a%c2%85",
        "/static/../../secret",
        "/static/..%2f..%2fsecret", "/static/%2e%2e/%2e%2e/secret", "/static//etc/passwd",
        "/static/..\\secret",
        "/static/%5c..%5csecret", "/api/../queues",
    ],
)  # fmt: skip
def test_ambiguous_path_is_refused(client, target):
    """Ambiguous paths contain dots, backslashes, double or encoded slashes, or control characters."""
    assert 400 == client.get(target).status
    assert 400 == client.post(target).status


@pytest.mark.parametrize(
    "target",
    [
        "/static/", "/static/.env", "/static/.git/config", "/static/firelock.css.map",
        "/static/firelock.js.map",
        "/static/C:/windows", "/static/vendor/", "/dashX", "/queuesX", "/%ff", "/%f0%9f", "/queues/",
        "/~root",
        "/static/%252e%252e/secret", "/.well-known/x", "/queues;a=b", "/QUEUES",
    ],
)  # fmt: skip
def test_unknown_path_is_not_found(client, target):
    """The response is a 404 for a similar path, a hidden file and a source map."""
    assert 404 == client.get(target).status


def test_path_with_invalid_characters_is_refused(client):
    """A path that is not a valid string could not be looked up."""
    assert 400 == client.request("GET", "/a", path="/a\udcff").status
    assert 400 == client.request("GET", "/a", path="a").status


def test_mount_ends_at_its_slash(visit):
    """If the mount is `/dash`, the path `/dashX` is not part of it."""
    browser = visit(root="/dash")

    assert (307, "/dash/") == (browser.get("").status, browser.get("").location)
    assert 200 == browser.get("/queues").status
    assert 404 == browser.request("GET", "X/queues").status


@pytest.mark.parametrize(
    "root",
    [
        "//evil.example",
        "/\\evil.example",
        "/a/../b",
        "/a//b",
        "evil.example",
        "/a\r\nx",
        "/a?b",
        "/a b",
        "/a#b",
        '/a"b',
    ],
)
def test_invalid_mount_prefix_is_in_no_link(visit, root):
    """A SCRIPT_NAME or a prefix that is not a path of plain names is not used in links."""
    answers = [
        visit(auth=everybody).request("GET", "", path=root, root_path=root),
        visit(auth=everybody, trusts_proxy=True).get(
            "", headers={"x-forwarded-prefix": root}, root_path="/jobs", path="/jobs"
        ),
    ]

    assert [400, 400] == [answer.status for answer in answers]
    assert [None, None] == [answer.location for answer in answers]


def test_prefix_of_a_trusted_proxy_is_in_every_url(visit):
    """The prefix of an untrusted proxy is not used in any URL."""
    headers = {"x-forwarded-prefix": "/ops/"}

    assert (
        'href="/ops/queues"' in visit(auth=everybody, trusts_proxy=True).get("/queues", headers=headers).text
    )
    assert 'href="/queues"' in visit(auth=everybody).get("/queues", headers=headers).text
    assert (
        'href="/fixed/queues"' in visit(auth=everybody, prefix="/fixed/").get("/queues", headers=headers).text
    )


def test_mount_with_special_characters_is_encoded(visit):
    """A path segment that matched the host application's route is encoded before it is used in a header."""
    browser = visit(root="/t;Domain=evil.example/ü")

    answer = browser.post("/queues/pause", {"queue": "a"}, path="/t;Domain=evil.example/ü/queues/pause")

    assert (303, "/t%3BDomain=evil.example/%C3%BC/queues") == (answer.status, answer.location)
    assert "path=/t%3bdomain=evil.example/%c3%bc/" in answer.header("set-cookie").lower()


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "http:evil.example",
        "javascript:alert(1)", "evil.example", "/\tevil.example", "/\nevil.example", "/ \\evil.example",
        "/dash/../evil", "/dash/..\\evil", "/dashX/queues", "/dash//evil.example",
        "/dash/\r\nSet-Cookie: a=b", "/dash/./x", "/dash/\u2028x", "/dash\\..", "", "/dash/%0d%0a\x00",
        "/dash/%2e%2e/evil", "/dash/.%2E/evil", "/dash/%2f%2fevil.example", "/dash/%5cevil",
        "/dash/jobs?state=failed&q=a%2F%2Fb",
    ],
)  # fmt: skip
def test_action_redirects_only_within_the_dashboard(visit, back):
    """Whatever `back` contains, the browser stays within this mount. The query of `back` is kept."""
    browser = visit(root="/dash")

    answer = browser.post("/queues/pause", {"queue": "a", "back": back})

    assert answer.status in {303, 400}
    assert answer.location in ({back} if "state=" in back else {"/dash/queues", None})


# ---- headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("GET", "/queues", {}, 200), ("GET", "/settings", {}, 200), ("GET", "", {}, 307), ("GET",
        "/nothing", {}, 404),
        ("GET", "/../x", {}, 400), ("GET", "/queues", {"host": "evil.example"}, 403), ("POST",
        "/queues", {}, 403),
        ("POST", "/queues", {"sec-fetch-site": "same-origin"}, 405), ("FOO", "/queues", {}, 405),
        ("GET", "/static/nothing.js", {}, 404), ("HEAD", "/queues", {}, 200), ("GET",
        "/api/nothing", {}, 404),
        ("POST", "/queues/pause", {"sec-fetch-site": "same-origin"}, 415), ("GET", "/live", {}, 200),
        ("GET", "/queues?part=nothing", {}, 404),
    ],
)  # fmt: skip
def test_every_response_has_the_security_headers(visit, method, target, headers, status):
    """Pages, errors, redirects, refusals and streams all have these headers, each of them once.

    No header permits other origins to read the response.
    """
    answer = visit(root="/dash").request(method, target, headers=headers, only_start=True)

    assert status == answer.status
    assert {name: answer.header(name.lower()) for name in PROTECTION} == PROTECTION
    assert "no-store" in answer.header("cache-control")
    assert [] == [
        name for name, _ in answer.headers if name.startswith("access-control-") or name == "server"
    ]


def test_content_security_policy_is_strict():
    """The policy forbids inline code, content from other hosts, and frames around the page."""
    assert POLICY == PROTECTION["Content-Security-Policy"]
    assert {"nosniff", "same-origin", "noindex"} <= set(PROTECTION.values())


def test_static_files_are_cached_by_browsers(dashboard, client):
    """The names of static files change with their content, so the files are immutable.

    They contain no data, so any visitor may read them.
    """
    name = dashboard.assets.url("firelock.css")
    answer = client.get(f"/{name}", headers={"host": "evil.example"})

    assert 200 == answer.status
    assert "immutable" in answer.header("cache-control")
    assert POLICY == answer.header("content-security-policy")


def test_policy_of_a_page_is_added_to_that_of_the_dashboard(dashboard, client):
    """A browser applies both policies, so neither of them is weakened."""

    def strict(_visit):
        return Response("x", headers={"Content-Security-Policy": "sandbox", "Cache-Control": "no-cache"})

    dashboard.routes = Routes([Route("GET", "/strict", Permission.READ, strict)])
    answer = client.get("/strict")

    assert ["sandbox", POLICY] == answer.every("content-security-policy")
    assert "no-cache" == answer.header("cache-control")


# ---- failures --------------------------------------------------------------------------------------------


def test_page_error_is_logged_and_not_shown(dashboard, client, caplog):
    """The response is a 500 with the security headers. It does not contain any part of the error."""

    def broken(_visit):
        raise RuntimeError("password=hunter2")

    dashboard.routes = Routes([Route("GET", path, Permission.READ, broken) for path in ("/x", "/api/x")])

    for target in ("/x", "/api/x"):
        answer = client.get(target)
        assert (500, POLICY) == (answer.status, answer.header("content-security-policy"))
        assert "hunter2" not in answer.text
        assert "log" in answer.text
    message = "Unexpected error in a request; responding with status 500."
    assert [message, message] == [record.message for record in caplog.records]


def test_page_during_a_storage_outage_is_a_503(dashboard, client):
    """The error page does not need the storage, and its message does not contain a password."""
    from firelock.errors import StorageUnavailable

    def away(_visit):
        raise StorageUnavailable("redis://ops:hunter2@db:6379 does not answer.")

    dashboard.routes = Routes([Route("GET", "/x", Permission.READ, away)])
    answer = client.get("/x")

    assert 503 == answer.status
    assert "Storage unreachable" in answer.text
    assert "hunter2" not in answer.text


def test_websocket_is_refused(dashboard):
    """The WebSocket is closed before it is accepted."""
    import asyncio

    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(dashboard({"type": "websocket", "path": "/live", "headers": []}, receive, send))

    assert [{"type": "websocket.close", "code": 1008}] == sent
