"""The dashboard inside Flask, Django and any WSGI application.

a2wsgi runs the dashboard on an event loop in its own thread. Under WSGI, every open stream would occupy a
worker of the host. Therefore there are no streams, and pages poll instead.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from a2wsgi import ASGIMiddleware
from a2wsgi.asgi import build_scope
from starlette.requests import Request

from firelock.flows.approval import APPROVAL
from firelock_dashboard.security.auth import refusal_of
from firelock_dashboard.security.permissions import AUTH_RESULT, to_access

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from flask import Flask
    from starlette.types import ASGIApp, Receive, Scope, Send

    from firelock_dashboard.security.permissions import Auth

NO_STREAM = "firelock.no_stream"  # a key in a scope's extensions if the host cannot keep streams open

_FORBIDDEN = 403
_Start = Callable[..., Any]


def framework_of(scope: Scope) -> str:
    """Return the framework in which the dashboard is mounted, derived from a request; `alone` if unknown."""
    if "django.request" in scope:
        return "django"
    environ = scope.get("wsgi_environ")
    if environ is not None:
        return "flask" if "werkzeug.request" in environ else "wsgi"
    homes = {each.__module__.partition(".")[0] for each in type(scope.get("app")).__mro__}
    return "fastapi" if homes & {"fastapi", "starlette"} else "alone"


class WsgiDashboard:
    """A WSGI application, which starts its event loop at the first request, and again after a fork."""

    def __init__(self, application: ASGIApp, auth: Auth | None) -> None:
        self._asgi = application
        self._auth = auth
        self._lock = threading.Lock()
        self._started: tuple[int, Any] | None = None  # process, application

    def __call__(self, environ: dict[str, Any], start_response: _Start) -> Iterable[bytes]:
        """Serve one request."""
        problem = _unreadable(environ)
        if problem is not None:
            start_response("400 Bad Request", [("Content-Type", "text/plain; charset=utf-8")])
            return [problem.encode()]
        if environ.get("REMOTE_ADDR"):
            environ.setdefault("REMOTE_PORT", "0")  # without a port, the peer's address would be ignored
        answer: Iterable[bytes] = self._application()(environ, start_response)
        return answer

    def call_auth(self, environ: dict[str, Any], **more: object) -> None:
        """Call `auth=` in the thread of the host's own request, and store its result in the environ.

        In this thread, the host's context (its session, user and database connection) is available. A refusal
        is also stored, so that the dashboard can show it. If the result must be awaited, nothing is stored,
        and the dashboard calls `auth=` again.
        """
        if self._auth is None or inspect.iscoroutinefunction(self._auth):
            return
        try:
            answer = self._auth(Request({**build_scope(environ), **more}))  # type: ignore[arg-type]
            if inspect.isawaitable(answer):
                getattr(answer, "close", lambda: None)()
            else:
                environ[AUTH_RESULT] = to_access(answer)
        except Exception as error:  # noqa: BLE001 - a failure grants no access
            environ[AUTH_RESULT] = refusal_of(error)

    def _application(self) -> Any:  # noqa: ANN401 - a2wsgi's types are its own
        with self._lock:
            if self._started is None or self._started[0] != os.getpid():
                self._started = (os.getpid(), ASGIMiddleware(self._without_stream))  # type: ignore[arg-type]
            return self._started[1]

    async def _without_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][NO_STREAM] = {}
        await self._asgi(scope, receive, send)


def _unreadable(environ: dict[str, Any]) -> str | None:
    """Return the reason why a request cannot be converted to an ASGI scope, or None if it can."""
    for name in ("SCRIPT_NAME", "PATH_INFO"):
        try:
            environ.get(name, "").encode("latin-1").decode("utf-8")
        except (UnicodeDecodeError, UnicodeEncodeError):
            return "The path must be UTF-8."
    if not environ.get("QUERY_STRING", "").isascii():
        return "The query must be percent-encoded."
    if not str(environ.get("SERVER_PORT", "")).isdigit():
        environ["SERVER_PORT"] = "0"
    length = environ.get("CONTENT_LENGTH") or "0"
    return None if length.isdigit() else "Content-Length must be a number."


# ---- Flask -----------------------------------------------------------------------------------------------


def mount_in_flask(dashboard: WsgiDashboard, app: Flask, prefix: str) -> None:
    """Serve the dashboard below the prefix of the application, after the application's own checks.

    `auth=` is called within Flask's request, so `flask_login.current_user` and `flask.session` are available.
    """
    from flask import Blueprint, Response, request  # noqa: PLC0415 - installed wherever this function is used

    name = f"firelock_{prefix.strip('/').replace('/', '_').replace('.', '_') or 'root'}"
    blueprint = Blueprint(name, __name__, url_prefix=prefix)

    def answer(path: str = "") -> Any:  # noqa: ANN401, ARG001 - a Flask response; the path is in environ
        environ = dict(request.environ)
        script = f"{environ.get('SCRIPT_NAME', '')}{prefix}"
        environ["PATH_INFO"] = environ.get("PATH_INFO", "").removeprefix(prefix)
        environ["SCRIPT_NAME"] = script
        environ["wsgi.input"] = request.stream
        dashboard.call_auth(environ)
        return Response.from_app(dashboard, environ, buffered=True)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]  # the dashboard refuses some
    options: dict[str, Any] = {"methods": methods, "provide_automatic_options": False}
    blueprint.add_url_rule("/", "root", answer, **options)
    blueprint.add_url_rule("/<path:path>", "page", answer, **options)
    app.register_blueprint(blueprint)
    protection = app.extensions.get("csrf")  # Flask-WTF's token check; the dashboard has its own CSRF check
    if protection is not None:
        protection.exempt(blueprint)


# ---- Django ----------------------------------------------------------------------------------------------


def mount_in_django(
    dashboard: WsgiDashboard, login_url: str | None = None, *, redirects_to_login: bool = False
) -> Any:  # noqa: ANN401 - Django's include
    """Return the URL patterns for Django's `path(…)`: every page of the dashboard.

    With `redirects_to_login`, a visitor who is not logged in is redirected to the login, and from there back
    to the page.
    """
    from django.urls import include, re_path  # noqa: PLC0415 - installed wherever this function is used
    from django.views.decorators.csrf import csrf_exempt  # noqa: PLC0415

    def view(request: HttpRequest, path: str) -> HttpResponse:
        response = _answer_django(dashboard, request, path)
        if redirects_to_login and response.status_code == _FORBIDDEN and _wants_page(request, path):
            return _to_login(request, login_url)
        return response

    # exempt from Django's token check, because the dashboard checks the origin of each unsafe request itself
    return include(([re_path(r"^(?P<path>(?s:.*))$", csrf_exempt(view), name="dashboard")], "firelock"))


def _wants_page(request: HttpRequest, path: str) -> bool:
    """Return whether the request is for a page that requires a login, so that it can be redirected there.

    Requests of scripts and for parts of a page are not redirected. An approval link requires no login, and
    its path contains a token that must not appear in a redirect.
    """
    if path.partition("/")[0] == APPROVAL:
        return False
    is_known = getattr(getattr(request, "user", None), "is_authenticated", True)
    is_part = "HX-Request" in request.headers
    return request.method == "GET" and not is_known and not is_part and request.accepts("text/html")


def _to_login(request: HttpRequest, login_url: str | None) -> HttpResponse:
    from django.conf import global_settings, settings  # noqa: PLC0415
    from django.contrib.auth.views import redirect_to_login  # noqa: PLC0415
    from django.urls import NoReverseMatch, reverse  # noqa: PLC0415

    if login_url is None and settings.LOGIN_URL == global_settings.LOGIN_URL:
        try:
            login_url = reverse("admin:login")
        except NoReverseMatch:
            login_url = None
    return redirect_to_login(request.get_full_path(), login_url)


def _answer_django(dashboard: WsgiDashboard, request: HttpRequest, path: str) -> HttpResponse:
    from django.http import HttpResponse  # noqa: PLC0415

    environ = _environ(request, path)
    dashboard.call_auth(environ, **{"django.request": request})
    started: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
        started.update(status=int(status.split(maxsplit=1)[0]), headers=headers)

    body = b"".join(dashboard(environ, start_response))
    response = HttpResponse(body, status=started["status"])
    del response["Content-Type"]
    for name, value in started["headers"]:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response[name] = value
    return response


def _environ(request: HttpRequest, path: str) -> dict[str, Any]:
    """Return a WSGI environ of the request; the META of an ASGI request has the same names."""
    wanted = ("REMOTE_", "SERVER_", "HTTP_", "CONTENT_", "REQUEST_METHOD", "QUERY_STRING")
    environ = {name: value for name, value in request.META.items() if name.startswith(wanted)}
    asgi_scope: Mapping[str, str] = getattr(request, "scope", {})  # only an ASGI request has a scope
    environ.setdefault("SERVER_PROTOCOL", f"HTTP/{asgi_scope.get('http_version', '1.1')}")
    script = request.path.removesuffix(path).rstrip("/")
    environ["SCRIPT_NAME"] = script.encode().decode("latin-1")
    environ["PATH_INFO"] = f"/{path}".encode().decode("latin-1")
    environ["wsgi.url_scheme"] = request.scheme
    environ["wsgi.input"] = BytesIO(request.body)
    environ["CONTENT_LENGTH"] = str(len(request.body))
    return {name: value for name, value in environ.items() if value is not None}
