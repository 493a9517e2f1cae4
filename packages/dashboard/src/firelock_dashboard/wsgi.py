"""The dashboard for WSGI: a2wsgi runs it on an event loop in a thread of its own.

Under WSGI every open stream would hold a worker of the host, so there are none: pages ask now and then.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from a2wsgi import ASGIMiddleware
from a2wsgi.asgi import build_scope
from starlette.requests import Request

from firelock_dashboard.access import to_access
from firelock_dashboard.auth import refusal_of
from firelock_dashboard.problems import RequestProblem

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from firelock_dashboard.access import Access, Auth
    from firelock_dashboard.dashboard import Dashboard

__all__ = ["ACCESS", "NO_STREAM", "WsgiDashboard", "access_in"]

ACCESS = "firelock.access"  # in an environ: what the host's own thread found out about the visitor
NO_STREAM = "firelock.no_stream"  # in a scope's extensions: a stream cannot be kept open here

_Start = Callable[..., Any]


class WsgiDashboard:
    """A WSGI application; nothing is started before the first request, and again after a fork."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._lock = threading.Lock()
        self._started: tuple[int, Any] | None = None  # process, application

    def __call__(self, environ: dict[str, Any], start_response: _Start) -> Iterable[bytes]:
        """Answer one request."""
        problem = _unreadable(environ)
        if problem is not None:
            start_response("400 Bad Request", [("Content-Type", "text/plain; charset=utf-8")])
            return [problem.encode()]
        if environ.get("REMOTE_ADDR"):
            environ.setdefault("REMOTE_PORT", "0")  # without one the peer's address would be passed over
        answer: Iterable[bytes] = self._application()(environ, start_response)
        return answer

    def _application(self) -> Any:  # noqa: ANN401 - a2wsgi's types are its own
        with self._lock:
            if self._started is None or self._started[0] != os.getpid():
                self._started = (os.getpid(), ASGIMiddleware(self._without_stream))  # type: ignore[arg-type]
            return self._started[1]

    async def _without_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][NO_STREAM] = {}
        await self._dashboard(scope, receive, send)


def _unreadable(environ: dict[str, Any]) -> str | None:
    """Return what is wrong with a request that cannot become an ASGI scope."""
    for name in ("SCRIPT_NAME", "PATH_INFO"):
        try:
            environ.get(name, "").encode("latin-1").decode("utf-8")
        except (UnicodeDecodeError, UnicodeEncodeError):
            return "The path is no UTF-8."
    if not environ.get("QUERY_STRING", "").isascii():
        return "The query is not percent-encoded."
    if not str(environ.get("SERVER_PORT", "")).isdigit():
        environ["SERVER_PORT"] = "0"
    length = environ.get("CONTENT_LENGTH") or "0"
    return None if length.isdigit() else "Content-Length is no number."


def access_in(environ: dict[str, Any], auth: Auth, **more: object) -> Access | RequestProblem | None:
    """Return what `auth` answers when it is asked here, in the thread of the host's own request.

    There the host's context (its session, its user, its database connection) is at hand. A refusal is
    returned, for the dashboard to show. None where the answer has to be awaited: the dashboard asks then.
    """
    if inspect.iscoroutinefunction(auth):
        return None
    scope = dict(build_scope(environ))  # type: ignore[arg-type]
    scope.update(more)
    try:
        answer = auth(Request(scope))
        if inspect.isawaitable(answer):
            getattr(answer, "close", lambda: None)()
            return None
        return to_access(answer)
    except Exception as error:  # noqa: BLE001 - nobody gets in by it
        return refusal_of(error)
