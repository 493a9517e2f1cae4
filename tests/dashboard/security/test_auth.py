"""Access by `auth=`: valid results, the ready-made auths, and no access after a failure."""

from __future__ import annotations

import asyncio
import base64
import queue
import threading
from contextlib import closing
from types import SimpleNamespace

import anyio.lowlevel
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from firelock import Firelock, hookimpl
from firelock.errors import ConfigurationError
from firelock_dashboard import (  # fmt: skip
    Access,
    Dashboard,
    Permission,
    any_of,
    basic_auth,
    bearer_tokens,
    django_permissions,
    django_staff,
    fastapi_dependency,
    flask_login,
    hash_password,
)
from firelock_dashboard.problems import Forbidden, RequestProblem, Unauthorized
from firelock_dashboard.security import passwords as credentials
from firelock_dashboard.security.auth import access_from
from firelock_dashboard.security.permissions import LEVELS, to_access
from tests.dashboard.browser import Browser

HASHED = hash_password("hashed", salt=b"0" * 16)
TOKEN, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module")
def app():
    with closing(Firelock("memory://")) as fire:
        yield fire


@pytest.fixture
def visit(app):
    """Open a dashboard with this auth, as a visitor from another machine."""
    browsers = []

    def come(auth, **options):
        browsers.append(Browser(Dashboard(app, auth=auth, **options), peer=("8.8.8.8", 5)))
        return browsers[-1]

    yield come
    for browser in browsers:
        browser.close()


def request(authorization=None, **scope):
    headers = [] if authorization is None else [(b"authorization", authorization.encode("utf-8"))]
    return Request(
        {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers, **scope}
    )


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def granted(auth, sent):
    """Return the access that an auth grants to the sender of a request, called as the dashboard calls it."""
    return asyncio.run(access_from(auth, sent))


# ---- the cost of hashing ---------------------------------------------------------------------------------


@pytest.fixture
def hashing(monkeypatch):
    """A counter of hashes; no hash ends before the gate is open."""

    class Hashing:
        at_once = most = done = 0

        def __init__(self):
            self.gate, self.lock, self.two = threading.Event(), threading.Lock(), threading.Event()

        def __call__(self, *_args, **_more):
            with self.lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
                if self.at_once == 2:
                    self.two.set()
            assert self.gate.wait(30)
            with self.lock:
                self.at_once -= 1
                self.done += 1
            return b"0" * 32

    counted = Hashing()
    monkeypatch.setattr(credentials.hashlib, "scrypt", counted)
    yield counted
    counted.gate.set()


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Basic", "Basic !!", "Bearer x", basic("", "x"), basic("ada", ""), "Basic OmE="],
)
def test_request_without_credentials_computes_no_hash(hashing, authorization):
    """A request without a name and a password gets a 401 immediately, however many such requests arrive."""
    auth = basic_auth({"ada": HASHED})

    for _ in range(20):
        with pytest.raises(Unauthorized):
            auth(request(authorization))

    assert 0 == hashing.done
    assert 0 == hashing.at_once


def guessing(auth, answers, numbers):
    """Start threads that each guess a password for their own name, and put their statuses into the queue."""

    def guess(number):
        try:
            auth(request(basic(f"user{number}", "guess")))
        except RequestProblem as refusal:
            answers.put(refusal.status)

    threads = [threading.Thread(target=guess, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    return threads


def ended(threads, answers):
    for thread in threads:
        thread.join()
    return [answers.get(timeout=30) for _ in range(answers.qsize())]


def test_at_most_two_passwords_are_hashed_concurrently(hashing):
    """Further guesses get a 429.

    Many guesses therefore use at most two cores and 64 MiB, and do not block threads for long.
    """
    auth, answers = basic_auth({"ada": HASHED, "bob": HASHED}), queue.SimpleQueue()

    first = guessing(auth, answers, range(2))
    assert hashing.two.wait(30)
    while_busy = ended(guessing(auth, answers, range(10)), answers)  # none of these is hashed
    hashing.gate.set()
    at_last = ended([*first, *guessing(auth, answers, [99])], answers)

    assert ([429] * 10, [401] * 3) == (while_busy, at_last)
    assert (2, 3) == (hashing.most, hashing.done)


def test_flood_of_guesses_blocks_few_threads(hashing, monkeypatch):
    """Up to eight guesses may wait. Each further guess is refused immediately."""
    auth, answers = basic_auth({"ada": HASHED}), queue.SimpleQueue()
    monkeypatch.setattr(credentials, "_WAIT_SECONDS", 30.0)  # waiting lasts until the gate is open

    first = guessing(auth, answers, range(2))
    assert hashing.two.wait(30)
    others = guessing(auth, answers, range(38))
    while_busy = [answers.get(timeout=10) for _ in range(30)]
    hashing.gate.set()

    assert [429] * 30 == while_busy
    assert [401] * 10 == ended([*first, *others], answers)


# ---- results of an auth ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "may", "may_not"),
    [
        ("read", {"read", "view_args", "view_logs"}, {"requeue", "run_task"}),
        ("operate", {"requeue", "delete", "trigger"}, {"edit_recurring", "stop_server", "run_task"}),
        ("admin", set(Permission), set()),
        ("none", set(), set(Permission)),
        (None, set(), set(Permission)),
        (False, set(), set(Permission)),
        ((), set(), set(Permission)), (frozenset(), set(), set(Permission)),
        ({"requeue"}, {"read", "requeue"}, {"delete", "view_args"}),
        ([Permission.DELETE], {"read", "delete"}, {"requeue"}),
        (Access(frozenset({Permission.READ}), "ada"), {"read"}, {"view_args"}),
    ],
)  # fmt: skip
def test_auth_results_grant_their_permissions(answer, may, may_not):
    """An auth function may return a level, permissions, an Access, or nothing."""
    access = to_access(answer)

    assert may <= access.permissions
    assert not may_not & access.permissions


@pytest.mark.parametrize(
    "answer", [True, 1, "root", "Admin", "", b"admin", {"sudo"}, object(), {"read": True, "x": 1}]
)
def test_invalid_auth_result_grants_no_access(visit, caplog, answer):
    """The response is a 500, and the log lists the valid results."""
    browser = visit(lambda _request: answer)

    assert 500 == browser.get("/queues").status
    assert 500 == browser.post("/queues/pause", {"queue": "a"}).status
    assert "Unexpected error in auth=" in caplog.text


def test_invalid_auth_result_is_not_logged(visit, caplog):
    """A user object may contain a hash, and a string may be a token, so the log contains only the type."""

    class User:
        def __repr__(self):
            return "User(password='hunter2')"

    for answer in (User(), "hunter2", b"hunter2"):
        assert 500 == visit(lambda _request, answer=answer: answer).get("/queues").status

    assert "'User'" in caplog.text
    assert "hunter2" not in caplog.text


def test_auth_may_be_async_or_plain_or_an_object(visit):
    """An auth is awaited if necessary. If it could block, it runs in a thread."""

    class Plain:
        def __call__(self, _request):
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return "read"

    class Async:
        async def __call__(self, _request):
            return "read"

    async def coroutine(_request):
        await anyio.lowlevel.checkpoint()
        return "read"

    def hidden(request):
        return coroutine(request)

    for auth in (coroutine, Plain(), Plain().__call__, Async(), hidden):
        assert 200 == visit(auth).get("/queues").status


@pytest.mark.parametrize(
    "error",
    [RuntimeError("password=hunter2"), KeyError("x"), ConfigurationError("x"), TypeError("x"), OSError("x")],
)
def test_failing_auth_grants_no_access(visit, caplog, error):
    """The response is a 500 without the error's message, which is only in the log."""

    def broken(_request):
        raise error

    async def broken_later(_request):
        raise error

    for auth in (broken, broken_later, any_of(broken, lambda _request: "admin")):
        answer = visit(auth).get("/queues")
        assert 500 == answer.status
        assert "hunter2" not in answer.text
    assert 3 == caplog.text.count("Unexpected error in auth=")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthorized("Who?"), 401), (Forbidden("No."), 403), (HTTPException(401, "Who?"), 401),
        (HTTPException(404), 404), (HTTPException(303, headers={"Location": "/login"}), 303),
    ],
)  # fmt: skip
def test_auth_may_refuse_by_raising(visit, caplog, error, status):
    """The response has the status and the Location of the exception.

    Nothing is logged, because a refusal is not a failure.
    """

    def refuse(_request):
        raise error

    answer = visit(refuse).get("/queues")

    assert (status, "/login" if status == 303 else None) == (answer.status, answer.location)
    assert "" == caplog.text


def test_visitor_name_is_shown_and_audited(app, visit):
    """The name comes from the Access object. If this object has no name, the visitor's address is used."""
    visit(lambda _request: Access(LEVELS["operate"], "ada")).post("/queues/pause", {"queue": "named"})
    visit(lambda _request: "operate").post("/queues/pause", {"queue": "unnamed"})
    names = {entry.target: entry.by for entry in app.audit.list()}

    assert ("ada", "8.8.8.8") == (names["named"], names["unnamed"])
    assert "ada" in visit(lambda _request: Access(LEVELS["read"], "ada")).get("/queues").text


# ---- plugins ---------------------------------------------------------------------------------------------


class Rule:
    """A plugin whose result comes from a request header."""

    @hookimpl
    def dashboard_permission(self, request):
        answer = request.headers.get("x-plugin")
        if answer == "raise":
            raise RuntimeError("hunter2")
        return {"nobody": "none", "wrong": 5}.get(answer, answer)


def test_plugin_decides_before_auth(caplog):
    """If the plugin returns a result, the result applies; otherwise, auth is called.

    If the plugin fails, access is denied.
    """
    with closing(Firelock("memory://", plugins=[Rule()])) as fire:
        for auth, without in ((lambda _request: "admin", 200), (lambda _request: None, 403)):
            with closing(Browser(Dashboard(fire, auth=auth), peer=("8.8.8.8", 5))) as browser:
                statuses = {
                    answer: browser.get("/queues", headers={"x-plugin": answer}).status
                    for answer in ("read", "nobody", "raise", "wrong", None)
                }
            assert {"read": 200, "nobody": 403, "raise": 500, "wrong": 500, None: without} == statuses
    assert "hunter2" in caplog.text


# ---- names and passwords ---------------------------------------------------------------------------------


def test_name_and_password_grant_access():
    """The password may be stored in plain text or hashed, and the name identifies the visitor.

    A browser sends the name and the password with every request.
    """
    auth = basic_auth(
        {"ada": "plain word", "bob": hash_password("geheim: ü"), "eve": "word"},
        level={"ada": "read", "bob": "admin"},
    )

    for name, password, level in (
        ("ada", "plain word", "read"), ("bob", "geheim: ü", "admin"), ("bob", "geheim: ü", "admin"),
        ("eve", "word", "none"),
    ):  # fmt: skip
        assert Access(LEVELS[level], name) == granted(auth, request(basic(name, password)))


@pytest.mark.parametrize(
    "sent",
    [
        None, "", "Basic", "Basic ", "Basic !!!", "Basic YWRh", "Bearer " + TOKEN, basic("ada", ""),
        basic("", ""),
        basic("ada", "wrong"), basic("ada", "plain word "), basic("Ada", "plain word"), basic("eve",
        "plain word"),
        basic("", "plain word"), basic("ada", "x" * 100_000), "Basic " + "A" * 100_000, "Basic /////w==",
        basic("bob", HASHED), basic("bob", "plain word"), "basic\tx", "Digest x",
    ],
)  # fmt: skip
def test_invalid_credentials_get_a_password_challenge(sent):
    """The response is a 401 that makes the browser ask for a password.

    A stolen hash does not work as a password.
    """
    auth = basic_auth({"ada": "plain word", "bob": HASHED}, realm='My "jobs"')

    with pytest.raises(Unauthorized) as refusal:
        granted(auth, request(sent))

    assert 'Basic realm="My \\"jobs\\"", charset="UTF-8"' == refusal.value.headers["WWW-Authenticate"]


def test_only_correct_passwords_are_cached():
    """A correct password is recognized the next time without hashing. Other passwords are still refused."""
    auth = basic_auth({"bob": hash_password("right")})
    granted(auth, request(basic("bob", "right")))

    for wrong in ("Right", "right ", "", "wrong"):
        with pytest.raises(Unauthorized):
            granted(auth, request(basic("bob", wrong)))
    assert "bob" == granted(auth, request(basic("bob", "right"))).name


def test_browser_gets_a_password_challenge(visit):
    """The first request gets a 401, and a request with the password gets the page."""
    browser = visit(basic_auth({"ada": "word"}, level="operate"))
    headers = {"authorization": basic("ada", "word")}

    challenge = browser.get("/queues")
    assert (401, True) == (challenge.status, challenge.header("www-authenticate").startswith("Basic"))
    assert 200 == browser.get("/queues", headers=headers).status
    for site, status in (("same-origin", 303), ("cross-site", 403), (None, 403)):
        sent = {**headers, "sec-fetch-site": site}
        assert status == browser.post("/queues/pause", {"queue": "a"}, headers=sent).status


def test_hashes_of_one_password_differ():
    """No hash contains the password.

    An empty password cannot be hashed, because it would not protect anything.
    """
    one, two = hash_password("word"), hash_password("word")

    assert one != two
    assert "word" not in one
    assert one.startswith("scrypt:32768:8:1:")
    with pytest.raises(ConfigurationError):
        hash_password("")


@pytest.mark.parametrize(
    ("users", "options"),
    [
        ({}, {}), ({"ada": ""}, {}), ({"ada": None}, {}), ({"a:b": "word"}, {}), ({"ada": "scrypt:"}, {}),
        ({"ada": "scrypt:1:2:3"}, {}), ({"ada": "scrypt:x:8:1:YQ:YQ"}, {}),
        ({"ada": "scrypt:3:8:1:YQ:YQ"}, {}),
        ({"ada": "scrypt:32768:8:1:!!:YQ"}, {}), ({"ada": "scrypt:32768:8:1:YQ:YQ"}, {}),
        ({"ada": "scrypt:1073741824:8:1:YQ:" + "A" * 43}, {}), ({"ada": "scrypt:0:8:1:YQ:" + "A" * 43}, {}),
        ({"ada": "word"}, {"level": "root"}), ({"ada": "word"}, {"level": {"ada": "root"}}),
        ({"ada": "word"}, {"realm": "a\r\nb"}), ({"ada": "word"}, {"realm": "ü"}),
    ],
    ids=ascii,
)  # fmt: skip
def test_invalid_users_raise_on_creation(users, options):
    """Errors include missing users, an empty password, a damaged hash and an unknown level.

    The message does not contain the password.
    """
    with pytest.raises(ConfigurationError) as error:
        basic_auth(users, **options)
    assert "word" not in str(error.value).replace("password", "")


# ---- tokens ----------------------------------------------------------------------------------------------


def test_token_grants_its_level_without_an_origin(visit):
    """A program may send a POST without an origin, and the visitor's name does not contain the token.

    If the browser reports that another site's page sent the request, a token is not sufficient.
    """
    browser = visit(bearer_tokens({TOKEN: "operate", OTHER: Access(LEVELS["read"], "metrics")}))

    for token, site, post, get in (
        (TOKEN, None, 303, 200), (OTHER, None, 403, 200), (TOKEN[:-1] + "0", None, 401, 401),
        (TOKEN + "0", None, 401, 401), (TOKEN, "cross-site", 403, 403),
    ):  # fmt: skip
        headers = {"authorization": f"Bearer {token}", "sec-fetch-site": site}
        assert post == browser.post("/queues/pause", {"queue": "a"}, headers=headers).status
        assert get == browser.get("/queues", headers=headers).status
    assert TOKEN not in granted(bearer_tokens({TOKEN: "read"}), request(f"Bearer {TOKEN}")).name
    named = bearer_tokens({OTHER: Access(LEVELS["read"], "metrics")})
    assert "metrics" == granted(named, request(f"bearer  {OTHER}")).name


@pytest.mark.parametrize(
    "sent", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN} x", "Bearer \xff"]
)
def test_unknown_tokens_are_refused(sent):
    """The response is a 401 that names the scheme."""
    with pytest.raises(Unauthorized) as refusal:
        granted(bearer_tokens({TOKEN: "admin"}), request(sent))
    assert refusal.value.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "tokens",
    [{}, {"short": "read"}, {"x" * 16 + "ü": "read"}, {"a b" * 9: "read"}, {TOKEN: "root"}, {5: "read"}],
)
def test_invalid_tokens_raise_on_creation(tokens):
    """Errors include missing tokens, a short token and an unknown level.

    The message does not contain the token.
    """
    with pytest.raises(ConfigurationError) as error:
        bearer_tokens(tokens)
    assert TOKEN not in str(error.value)


# ---- several auths ---------------------------------------------------------------------------------------


def test_first_granting_auth_decides(visit):
    """For example, people use a password and programs use a token.

    A refusal contains the challenges of all auths.
    """
    auth = any_of(bearer_tokens({TOKEN: "read"}), basic_auth({"ada": "word"}, level="admin"))

    assert "ada" == granted(auth, request(basic("ada", "word"))).name
    assert granted(auth, request(f"Bearer {TOKEN}")).has_token
    refused = visit(auth).get("/queues")
    assert 401 == refused.status
    assert {"Bearer", "Basic"} <= set(refused.header("www-authenticate").replace(",", " ").split())


def test_auths_that_grant_nothing_refuse_access():
    """A visitor has no access if none of the auths grants anything, or if the list of auths is empty."""

    async def nobody(_request):
        return None

    for auth in (any_of(), any_of(nobody), any_of(nobody, lambda _request: "none")):
        with pytest.raises(Forbidden):
            granted(auth, request())
    assert LEVELS["read"] == granted(any_of(nobody, lambda _request: "read"), request()).permissions


# ---- Django, Flask, FastAPI ------------------------------------------------------------------------------


def user(**more):
    """Return a Django user."""
    known = {"is_staff": False, "is_superuser": False, "is_active": True, "is_authenticated": True}
    return SimpleNamespace(**known | more, get_username=lambda: "ada")


@pytest.mark.parametrize(
    ("user", "level"),
    [
        (user(), "none"), (user(is_staff=True), "operate"), (user(is_superuser=True), "admin"),
        (user(is_staff=True, is_superuser=True), "admin"), (user(is_superuser=True, is_active=False), "none"),
        (user(is_superuser=True, is_authenticated=False), "none"),
    ],
)  # fmt: skip
def test_django_staff_may_operate_and_superusers_may_do_everything(user, level):
    """Users without these roles, inactive users and anonymous users have no access."""
    access = granted(django_staff, request(**{"django.request": SimpleNamespace(user=user)}))

    assert LEVELS[level] == access.permissions


@pytest.mark.parametrize(
    ("names", "level"),
    [
        ((), "none"), (("view",), "read"), (("view", "operate"), "operate"), (("operate",), "operate"),
        (("administer",), "admin"), (("view", "administer"), "admin"),
    ],
)  # fmt: skip
def test_django_permissions_decide_the_level(caplog, names, level):
    """The strongest permission counts.

    Staff without a permission have no access, which is logged. Inactive users have no access either.
    """
    given = {f"firelock.{name}_jobs" for name in names}
    known = user(is_staff=True, has_perm=given.__contains__)
    gone = user(is_staff=True, is_active=False, has_perm=given.__contains__)

    access, none = (
        granted(django_permissions, request(**{"django.request": SimpleNamespace(user=each)}))
        for each in (known, gone)
    )

    assert LEVELS[level] == access.permissions
    assert LEVELS["none"] == none.permissions
    assert (level == "none") == ("User 'ada' has no access to the dashboard" in caplog.text)


@pytest.mark.parametrize(
    ("auth", "scope", "words"),
    [
        (django_permissions, {}, "dashboard_urls"), (django_staff, {}, "dashboard_urls"),
        (django_staff, {"django.request": object()}, "dashboard_urls"),
        (flask_login("admin"), {}, "init_app"),
    ],
)  # fmt: skip
def test_framework_auth_requires_its_framework(caplog, auth, scope, words):
    """Outside the framework, or without its middleware, no visitor has access. The log names the cause."""
    with pytest.raises(RequestProblem) as refusal:
        granted(auth, request(**scope))

    assert 500 == refusal.value.status
    assert words in caplog.text


@pytest.fixture
def flask_app():
    from flask import Flask
    from flask_login import LoginManager, UserMixin

    class Person(UserMixin):
        def __init__(self, name):
            self.id = name

    app = Flask("shop")
    app.secret_key = "a secret of a test"
    manager = LoginManager(app)

    @manager.request_loader
    def load(request):
        name = request.headers.get("X-User")
        return Person(name) if name else None

    return app


def test_flask_login_user_gets_the_level(flask_app):
    """Flask-Login provides the user in the context of Flask's request.

    The level may be the same for all users or depend on the user.
    """
    by_user = flask_login(lambda user: "admin" if user.get_id() == "ada" else None)

    with flask_app.test_request_context(headers={"X-User": "ada"}):
        assert Access(LEVELS["read"], "ada") == to_access(flask_login("read")(request()))
        assert Access(LEVELS["admin"], "ada") == to_access(by_user(request()))
    with flask_app.test_request_context(headers={"X-User": "bob"}):
        assert frozenset() == to_access(by_user(request())).permissions
    with flask_app.test_request_context():
        assert Access() == to_access(flask_login("admin")(request()))


def test_mount_in_flask_follows_its_login(app, flask_app):
    """The dashboard uses Flask's session, and refuses forms from other sites."""
    Dashboard(app, auth=flask_login("operate")).init_app(flask_app, "/jobs")
    flask = flask_app.test_client()
    ada = {"X-User": "ada"}

    assert 403 == flask.get("/jobs/queues").status_code
    assert 200 == flask.get("/jobs/queues", headers=ada).status_code
    for site, status in (("same-origin", 303), ("cross-site", 403)):
        posted = flask.post(
            "/jobs/queues/pause", data={"queue": "a"}, headers={**ada, "Sec-Fetch-Site": site}
        )
        assert status == posted.status_code


def test_any_of_in_flask_accepts_login_or_token(app, flask_app):
    """The same mount accepts Flask's login for people and a token for programs."""
    auth = any_of(flask_login("operate"), bearer_tokens({TOKEN: "read"}))
    Dashboard(app, auth=auth).init_app(flask_app, "/jobs")
    flask = flask_app.test_client()

    for headers, status in (({"X-User": "ada"}, 200), ({"Authorization": f"Bearer {TOKEN}"}, 200), ({}, 401)):
        assert status == flask.get("/jobs/queues", headers=headers).status_code


def test_fastapi_dependency_identifies_the_visitor(visit):
    """The dependency may be plain or async, and a refusal has the status of its HTTPException.

    The level may be the same for all visitors or depend on the value that the dependency returned.
    """
    from fastapi import HTTPException as FastAPIException

    class Person:
        username = "ada"

    def current_user(request: Request):
        if "x-user" not in request.headers:
            raise FastAPIException(401, "Who?", headers={"WWW-Authenticate": "Bearer"})
        return Person() if request.headers["x-user"] == "ada" else None

    async def current_user_later(request: Request):
        return current_user(request)

    for dependency in (current_user, current_user_later):
        browser = visit(
            fastapi_dependency(
                dependency, level=lambda user: {"pause_queue"} if user.username == "ada" else None
            )
        )
        refused = browser.get("/queues")
        assert (401, "Bearer") == (refused.status, refused.header("www-authenticate"))
        assert 403 == browser.get("/queues", headers={"x-user": "eve"}).status
        assert 303 == browser.post("/queues/pause", {"queue": "a"}, headers={"x-user": "ada"}).status
        assert "ada" in browser.get("/queues", headers={"x-user": "ada"}).text


@pytest.mark.parametrize("found", ["admin", "root", {"name": "x"}, 5, object()])
def test_string_returned_by_a_dependency_is_not_a_level(found):
    """A user whose name is "admin" does not get that level."""
    access = granted(fastapi_dependency(lambda _request: found, level="read"), request())

    assert LEVELS["read"] == access.permissions


def test_access_returned_by_a_dependency_is_used_unchanged():
    """A dependency that returns an Access determines the permissions."""
    access = Access(frozenset({Permission.READ}), "ada")

    assert access == granted(fastapi_dependency(lambda _request: access), request())
    for nobody in (None, False):
        assert Access() == granted(fastapi_dependency(lambda _request, nobody=nobody: nobody), request())


def test_unsupported_dependencies_raise_on_creation():
    """Unsupported dependencies are a security scheme that only reads, an inner Depends, and a generator.

    A dependency without parameters, or with several, is not supported either.
    """
    from fastapi import Depends, Header
    from fastapi.security import HTTPBasic, OAuth2PasswordBearer

    def two(request, session): ...
    def resolved(request, user=Depends(two)): ...  # noqa: B008 - FastAPI's documentation uses this form
    def only_resolved(user=Depends(two)): ...  # noqa: B008
    def header(x_user=Header()): ...  # noqa: B008
    def nothing(): ...
    def yielding(request):
        yield 1

    schemes = [HTTPBasic(), OAuth2PasswordBearer(tokenUrl="t")]
    for dependency in (*schemes, two, resolved, only_resolved, header, nothing, yielding, "name"):
        with pytest.raises(ConfigurationError):
            fastapi_dependency(dependency)
    for auth_with in (lambda level: fastapi_dependency(lambda request: None, level), flask_login):
        with pytest.raises(ConfigurationError):
            auth_with("root")


def test_frameworks_are_imported_only_when_used():
    """An application that uses one framework does not need the others."""
    import subprocess
    import sys

    program = (
        "import sys, firelock_dashboard as d; d.flask_login('read'); d.fastapi_dependency(lambda r: 0)\n"
        "d.any_of(d.django_staff)\n"
        "print([name for name in ('flask', 'django', 'fastapi', 'flask_login') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "[]\n" == done.stdout
