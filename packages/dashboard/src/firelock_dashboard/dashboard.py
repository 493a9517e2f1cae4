"""`Dashboard`: the ASGI application.

It opens nothing until the first request, since a mounted application gets no lifespan.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from firelock import Firelock
from firelock.errors import StorageUnavailable
from firelock_dashboard.access import LEVELS, Access, Permission, to_access
from firelock_dashboard.assets import Assets
from firelock_dashboard.gate import Gate
from firelock_dashboard.history import History
from firelock_dashboard.live import EventStream, Live
from firelock_dashboard.problems import Forbidden, NotHere, RequestProblem
from firelock_dashboard.redaction import Redactions, Redactor
from firelock_dashboard.rendering import Pages
from firelock_dashboard.routes import Route, Routes
from firelock_dashboard.runner import Runner
from firelock_dashboard.table import TABLE
from firelock_dashboard.texts import Texts
from firelock_dashboard.urls import Urls
from firelock_dashboard.visit import SETTINGS, SETTINGS_COOKIE, Visit
from firelock_dashboard.wsgi import ACCESS, NO_STREAM, WsgiDashboard

if TYPE_CHECKING:
    from flask import Flask
    from starlette.types import Receive, Scope, Send

    from firelock.storage import Counts

__all__ = ["Auth", "Dashboard"]

log = logging.getLogger(__name__)

Auth = Callable[[Request], object | Awaitable[object]]

_COUNTS_AGE = 1.0  # seconds
_LARGEST_BODY = 1024 * 1024


class Dashboard:
    """The dashboard of an app's jobs, to be mounted or served.

    Args:
        fire: the app whose jobs are shown and acted on.
        auth: called with each request; answers a level ("none", "read", "operate", "admin"), a set of
            permissions, an `Access`, or an awaitable of these. Without it only local requests are answered.
        read_only: there are no routes that change anything.
        title: what stands at the top.
        prefix: the address below which a browser finds it, where neither framework nor trusted proxy says.
        trusts_proxy: `X-Forwarded-Prefix`, `-Proto` and `-Host` are believed: behind a proxy that sets them.
        trusted_origins: origins besides its own that may send forms, such as "https://ops.example.com".
        back_url: where "back to the app" leads; nowhere where it is left out.
        environment: a word such as "production", shown as a ribbon.
        redact: what is masked beside passwords, tokens and their like: names of fields, a pattern, or names
            of fields by task ("*" for every task).
        framework: what it is mounted in, for the words of its refusals; the mounts of this package set it.

    Two dashboards in one process share nothing.
    """

    def __init__(
        self,
        fire: Firelock,
        *,
        auth: Auth | None = None,
        read_only: bool = False,
        title: str = "Firelock",
        prefix: str | None = None,
        trusts_proxy: bool = False,
        trusted_origins: Sequence[str] = (),
        back_url: str | None = None,
        environment: str | None = None,
        redact: Redactions = (),
        framework: str | None = None,
    ) -> None:
        self.fire = fire
        self.title = title
        self.back_url = back_url
        self.environment = environment
        self.is_read_only = read_only
        self.texts = Texts()
        self.pages = Pages(self.texts)
        self.assets = Assets()
        self.redactor = Redactor(redact)
        self.routes = Routes([route for route in TABLE if not (read_only and route.is_action)])
        self.version = version("firelock-dashboard")
        self.plugin_pages: list[object] = []
        self.history = History(fire)
        self.runner = Runner(fire, is_allowed=not read_only)
        self.live = Live(fire, self._count)
        self._counted: tuple[float, Counts] | None = None
        self.framework = framework
        self.wsgi = WsgiDashboard(self)
        self.auth = auth
        self._prefix = None if prefix is None else prefix.rstrip("/")
        self._trusts_proxy = trusts_proxy
        self._gate = Gate(is_open=auth is not None, trusts_proxy=trusts_proxy, origins=trusted_origins)

    def may(self, access: Access, permission: Permission) -> bool:
        """Tell whether the access allows this on this dashboard."""
        if self.is_read_only and permission not in LEVELS["read"]:
            return False
        return access.may(permission)

    def counts(self) -> Counts:
        """Return how many jobs are in each state and queue, at most a second old: every page shows them."""
        counted, now = self._counted, time.monotonic()
        if counted is None or now - counted[0] > _COUNTS_AGE:
            return self._count()
        return counted[1]

    def _count(self) -> Counts:
        counts = self.fire.jobs.counts()
        self._counted = (time.monotonic(), counts)
        self.history.note_depths(counts)
        return counts

    def close(self) -> None:
        """Streams and threads have ended. The app stays open: it is whoever made it that closes it."""
        self.live.close()
        self.runner.close()
        self.history.close()

    @staticmethod
    def settings_of(request: Request) -> dict[str, str]:
        """Return the settings that the visitor's cookie holds; unknown names and values are passed over."""
        pairs = (pair.partition("=") for pair in request.cookies.get(SETTINGS_COOKIE, "").split("."))
        return {name: value for name, _, value in pairs if value in SETTINGS.get(name, ())}

    def init_app(self, app: Flask, prefix: str = "/jobs") -> None:
        """A Flask application answers below the prefix with this dashboard."""
        from firelock_dashboard.for_flask import mount  # noqa: PLC0415 - Flask is there when this is called

        self.framework = "flask"
        mount(self, app, prefix.rstrip("/"))

    # ---- ASGI --------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _refuse_other(scope, receive, send, self.close)
            return
        request = Request(scope, receive)
        response = await self._answer(request)
        self._gate.protect(response)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        urls = Urls(self._root(request), self.assets)
        path = _path(request.scope)
        if path == "":
            return RedirectResponse(urls("/"), 307)
        refusal = self._gate.refusal(request, path)
        if refusal is not None:
            return await run_in_threadpool(self._refused, request, urls, refusal)
        if path.startswith("/static/"):
            return self.assets.response(path.removeprefix("/static/"), request.headers)
        try:
            access = await self._access(request)
            if path == "/live" and request.method == "GET":
                return self._streamed(request, access)
            return await self._routed(request, urls, path, access)
        except RequestProblem as problem:
            return await run_in_threadpool(self._refused, request, urls, problem)

    def _root(self, request: Request) -> str:
        if self._prefix is not None:
            return self._prefix
        forwarded = request.headers.get("x-forwarded-prefix", "") if self._trusts_proxy else ""
        return f"{forwarded.rstrip('/')}{request.scope.get('root_path', '').rstrip('/')}"

    async def _access(self, request: Request) -> Access:
        asked = request.scope.get("wsgi_environ", {}).get(ACCESS)
        if isinstance(asked, Access):  # by the host, in its own thread
            return asked
        answer = self.fire.plugins.dashboard_permission(request)
        if answer is not None:
            return to_access(answer)
        if self.auth is None:
            return Access(LEVELS["admin"], "local")
        if inspect.iscoroutinefunction(self.auth) or inspect.iscoroutinefunction(type(self.auth).__call__):
            given: Any = self.auth(request)
        else:
            given = await run_in_threadpool(self.auth, request)
        return to_access(await given if inspect.isawaitable(given) else given)

    def _streamed(self, request: Request, access: Access) -> Response:
        if not self.may(access, Permission.READ):
            raise Forbidden(self.texts("shared.forbidden", permission=Permission.READ))
        if NO_STREAM in (request.scope.get("extensions") or {}):
            return Response(status_code=204)  # by which an EventSource gives up, and the page asks instead
        return EventStream(self.live)

    async def _routed(self, request: Request, urls: Urls, path: str, access: Access) -> Response:
        found = self.routes.find(request.method, path)
        if not isinstance(found, tuple):
            return await self._lost(request, urls, path, found)
        route, places = found
        body = b"" if route.method == "GET" else await _body(request)
        visit = Visit(self, request, urls, access=access, places=places, body=body)
        return await run_in_threadpool(self._viewed, visit, route)

    def _viewed(self, visit: Visit, route: Route) -> Response:
        try:
            visit.require(Permission.READ)
            visit.require(route.permission)
            self.runner.resume_once()
            return visit.finish(route.view(visit))
        except RequestProblem as problem:
            return self.problem_page(visit, problem.status, str(problem), is_json=route.is_api)
        except StorageUnavailable as error:
            return self.problem_page(visit, 503, str(error), is_json=route.is_api)

    async def _lost(self, request: Request, urls: Urls, path: str, methods: frozenset[str]) -> Response:
        if methods:
            return Response(status_code=405, headers={"Allow": ", ".join(sorted(methods))})
        return await run_in_threadpool(
            self._refused, request, urls, NotHere(self.texts("shared.no_page", path=path))
        )

    # ---- what went wrong ---------------------------------------------------------------------------------

    def _refused(self, request: Request, urls: Urls, problem: RequestProblem) -> Response:
        visit = Visit(self, request, urls, access=Access(), places={}, body=b"")
        return self.problem_page(
            visit, problem.status, str(problem), is_json=_path(request.scope).startswith("/api")
        )

    def problem_page(self, visit: Visit, status: int, message: str, *, is_json: bool) -> Response:
        """Return the page, or for scripts the JSON, that says what was wrong and what to do."""
        if is_json or visit.wants_json:
            return visit.json({"error": message, "kind": "bad", "message": message}, status)
        title = (
            self.texts(f"shared.problem_{status}")
            if f"shared.problem_{status}" in self.texts
            else str(status)
        )
        response = visit.page(
            "problem.html", title=title, section="", message=message, status=status, code=status
        )
        response.status_code = status
        return response


def _path(scope: Scope) -> str:
    """Return the path below the mount; empty where the mount itself was asked for without its slash."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :]
    return path


async def _body(request: Request) -> bytes:
    """Return the body.

    Raises:
        RequestProblem: it is larger than anything that a form here sends, or compressed.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestProblem("Content-Encoding is not read here; send the body as it is.", status=415)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _LARGEST_BODY:
            raise RequestProblem(
                f"The body is larger than {_LARGEST_BODY} bytes; send less at once.", status=413
            )
        chunks.append(chunk)
    return b"".join(chunks)


async def _refuse_other(scope: Scope, receive: Receive, send: Send, close: Callable[[], None]) -> None:
    """A lifespan is acknowledged, and its end closes what runs; a WebSocket is closed."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await run_in_threadpool(close)
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "websocket.close", "code": 1000})
