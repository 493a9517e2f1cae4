"""`Dashboard`, the ASGI application.

The application opens no files, threads or connections until the first request, because a mounted application
receives no lifespan events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from firelock import (
    ConfigurationError,
    Firelock,
    FirelockError,
    JobConflict,
    JobNotFound,
    ScheduleError,
    StorageUnavailable,
)
from firelock.storage import Feature
from firelock_dashboard import api, pages
from firelock_dashboard.api import metrics
from firelock_dashboard.pages import approvals
from firelock_dashboard.problems import BadRequest, Forbidden, NoSession, NotHere, NotLocal, RequestProblem
from firelock_dashboard.security.auth import Entrance, django_permissions, django_staff
from firelock_dashboard.security.csrf import Gate
from firelock_dashboard.security.links import COOKIE, ENTER, SESSION_SECONDS
from firelock_dashboard.security.permissions import Access, Auth, Permission
from firelock_dashboard.security.redaction import Redactions
from firelock_dashboard.site import Site
from firelock_dashboard.stats.live import LiveStream
from firelock_dashboard.web.event_stream import EventStream, StreamLimit
from firelock_dashboard.web.extensions import PluginPages, plugin_pages, route_of
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.frameworks import (
    NO_STREAM,
    WsgiDashboard,
    framework_of,
    mount_in_django,
    mount_in_flask,
)
from firelock_dashboard.web.rendering import packed
from firelock_dashboard.web.request import Visit, path_of, read_body
from firelock_dashboard.web.routes import BACK, Route, Routes
from firelock_dashboard.web.urls import Urls

if TYPE_CHECKING:
    from flask import Flask
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

TABLE: tuple[Route, ...] = (*pages.ROUTES, *api.ROUTES, *metrics.ROUTES)

MOST_STREAMS = 200
_BROKEN = 500
_TOKEN = Text("token", is_required=True, limit=2_000)
_READY = "/-/readyz"
_PROBES = ("/-/livez", _READY)


class Dashboard(Site):
    """The dashboard of an app's jobs, to be mounted in another application or served by itself.

    Args:
        fire: the app whose jobs the dashboard shows and changes.
        auth: called with each request; returns a level ("none", "read", "operate" or "admin"), a set of
            permissions, an `Access`, or an awaitable of one of these. Without `auth`, the dashboard serves
            only visitors on this machine, and only with a one-time link, which `firelock dashboard link` or
            `link()` creates.
        read_only: whether to leave out all routes that change anything.
        title: the title at the top of each page.
        prefix: the path under which a browser reaches the dashboard, if neither the framework nor a trusted
            proxy supplies it.
        trusts_proxy: whether to trust the headers `X-Forwarded-Prefix`, `-Proto` and `-Host`. Set it only
            behind a proxy that sets these headers.
        trusted_origins: additional origins that may send forms, for example "https://ops.example.com".
        allowed_hosts: the host names that the dashboard accepts in requests if it has an `auth`, for example
            "jobs.example.com" or "*.example.com". By default it accepts all of them.
        back_url: the target of "back to the app": a path such as "/", or an http or https URL. By default
            there is no such link.
        environment: a word such as "production", shown as a ribbon.
        redact: values to mask in addition to passwords, tokens and similar secrets: field names, a pattern,
            or field names by task ("*" for every task).
        max_streams: the maximum number of open streams of pages and jobs; one visitor may have a quarter of
            them. Beyond this number, pages poll and programs get a 503.
        framework: the framework in which the dashboard is mounted, used in messages of refused requests. The
            mount functions of this package set it.

    Two dashboards in one process share nothing.

    Raises:
        ConfigurationError: If an option is invalid.
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
        allowed_hosts: Sequence[str] | None = None,
        back_url: str | None = None,
        environment: str | None = None,
        redact: Redactions = (),
        max_streams: int = MOST_STREAMS,
        framework: str | None = None,
    ) -> None:
        gate = Gate(
            is_open=auth is not None,
            trusts_proxy=trusts_proxy,
            origins=trusted_origins,
            hosts=allowed_hosts,
            prefix=prefix,
        )
        super().__init__(
            fire, gate, is_read_only=read_only, title=title, back_url=_checked_back(back_url),
            environment=environment, redact=redact, has_sessions=auth is None,
        )  # fmt: skip
        self.auth = auth
        self.framework = framework
        self.wsgi = WsgiDashboard(self, auth)
        self._entrance = Entrance(fire, gate, self.links, auth)
        self._streams = StreamLimit(_checked_streams(max_streams))

    def link(self, at: str) -> str:
        """Return a link that one visitor on this machine can use once, within ten minutes.

        The link is for a dashboard without `auth=`. Print it to a terminal, never to a log.

        Args:
            at: the address of the dashboard in a browser, for example "http://127.0.0.1:8000/jobs".

        Raises:
            ConfigurationError: If `at` is not the URL of a page, or if the dashboard has an `auth=` and
                therefore accepts no links.
            StorageUnavailable: If the storage is unreachable.
        """
        if self.auth is not None:
            raise ConfigurationError(
                "This dashboard has auth=, so one-time links do not work. Log in as auth= requires."
            )
        return self.links.make(at)

    @cached_property
    def plugins(self) -> PluginPages:
        """The plugins' pages, and the problems of pages that could not be added; computed once."""
        return plugin_pages(self.fire)

    @cached_property
    def routes(self) -> Routes:
        """The routes of this dashboard, including the plugins' pages."""
        table = [route for route in TABLE if not (self.is_read_only and route.is_action)]
        plugins = self.plugins
        return Routes([*table, *(route_of(page, plugins.owners[page.name]) for page in plugins.pages)])

    def init_app(self, app: Flask, prefix: str = "/jobs") -> None:
        """Mount this dashboard in a Flask application below the prefix."""
        self.framework = "flask"
        mount_in_flask(self.wsgi, app, prefix.rstrip("/"))

    # ---- ASGI --------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await _refuse_other(scope, receive, send, self.close)
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
            if request.method == "HEAD":
                response = _without_body(response)
            if isinstance(response, EventStream):
                with self._streams.place(response.visitor) as has_place:
                    await self._send(response if has_place else response.refusal(), scope, receive, send)
            else:
                await self._send(response, scope, receive, send)
        except ClientDisconnect:
            return

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate.protect(response, hides_path=path_of(scope).startswith(approvals.PREFIX))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        urls, access, path = Urls("", self.assets), Access(), path_of(request.scope)
        try:
            self.gate.check_shape(request)
            urls = Urls(self.gate.root(request), self.assets)
            # probes and the package's files contain no data, so they need no authentication
            if path in _PROBES and request.method != "POST":
                return await self._probed(path)
            if path.startswith("/files/") and request.method != "POST":
                return self.assets.response(path.removeprefix("/files/"), request.headers)
            if path == ENTER and self.auth is None:
                return await self._entered(request, urls)
            if approvals.has_path(path):
                return await self._answered_for(request, urls, path)
            access = await self._entrance.admit(request)
            if not self.may(access, Permission.READ):
                raise Forbidden(self.texts("refused.no_access"))
            if path == "":
                return RedirectResponse(urls("/"), 307)
            if path == "/live" and request.method == "GET":
                return self._streamed(Visit(self, request, urls, access=access, places={}, body=b""))
            return await self._routed(request, urls, path, access)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - `_problem_of` logs it
            visit = Visit(self, request, urls, access=access, places={}, body=b"")
            return await run_in_threadpool(self._refused, visit, self._problem_of(error, access, path))

    async def _probed(self, path: str) -> Response:
        """Return the response to a probe of an orchestrator.

        The response shows that this process is alive and, for /-/readyz, that the storage was reachable
        within the last second. /-/livez uses no thread of the pool, because busy threads are not a reason to
        restart the process.
        """
        try:
            if path == _READY:
                await run_in_threadpool(self.counts)
        except FirelockError:
            return Response("failed storage: it is unreachable\n", 503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    async def _entered(self, request: Request, urls: Urls) -> Response:
        """Return the response of the page that exchanges a link for a session.

        Only a POST of the page's own form uses up a link; a link preview, which sends a GET, does not.
        """
        self.gate.check_visitor(request)
        is_own = self.gate.check_origin(request)
        if request.method != "POST":
            has_ended = request.scope["query_string"] == b"ended=1"
            raise NoSession(self.texts("enter.ended" if has_ended else "enter.ready"))
        if not is_own:
            raise Forbidden(self.texts("enter.not_own"))
        body = await read_body(request)
        visit = Visit(self, request, urls, access=Access(), places={}, body=body)
        visit.check_fields((), (_TOKEN, BACK))
        return await run_in_threadpool(self._exchanged, visit)

    async def _answered_for(self, request: Request, urls: Urls, path: str) -> Response:
        """Return the page of an approval link, which gives access only to this page."""
        self.gate.check_visitor(request)
        is_own = self.gate.check_origin(request)
        try:
            access = Access(name=(await self._entrance.admit(request)).name)
        except RequestProblem:
            access = Access()  # the link grants access; the visitor's name is only for the audit
        is_posted = request.method == "POST"
        if is_posted and not is_own:
            raise Forbidden(self.texts("approval.not_own"))
        body = await read_body(request) if is_posted else b""
        visit = Visit(self, request, urls, access=access, places=approvals.places_of(path), body=body)
        visit.check_fields((), approvals.FIELDS)
        return await run_in_threadpool(approvals.answer_visit, visit)

    def _exchanged(self, visit: Visit) -> Response:
        """Exchange a link for a session cookie that neither scripts nor requests from other sites can use."""
        token = _token_in(visit.form.value(_TOKEN))
        try:
            session = self.links.exchange(token)
        except Forbidden as error:
            raise NoSession(str(error)) from error
        response = RedirectResponse(visit.url.back(visit.form.maybe(BACK), "/"), 303)
        visit.set_cookie(response, f"{COOKIE}_{self.gate.port(visit.request)}", session, SESSION_SECONDS)
        return response

    def _streamed(self, visit: Visit) -> Response:
        visit.check_fields((), ())
        stream = LiveStream(self.live, partial(self._is_reader, visit.request))
        stream.visitor = visit.who
        return stream.refusal() if NO_STREAM in (visit.request.scope.get("extensions") or {}) else stream

    async def _is_reader(self, request: Request, permission: Permission = Permission.READ) -> bool:
        try:
            return self.may(await self._entrance.admit(request), permission)
        except (RequestProblem, StorageUnavailable):
            return False

    async def _routed(self, request: Request, urls: Urls, path: str, access: Access) -> Response:
        found = self.routes.find(request.method, path)
        if not isinstance(found, tuple):
            raise self._lost(path, found)
        route, places = found
        body = b"" if route.method == "GET" else await read_body(request)
        visit = Visit(self, request, urls, access=access, places=places, body=body)
        return await run_in_threadpool(self._viewed, visit, route)

    def _viewed(self, visit: Visit, route: Route) -> Response:
        visit.require(route.permission)
        visit.check_fields(
            route.query_fields, route.form_fields, is_strict=route.is_api or route.is_strict,
            left=route.form if route.shows_problems else (),
        )  # fmt: skip
        self.runner.resume()
        response = visit.finish(route.view(visit))
        if isinstance(response, EventStream):
            response.is_reader = partial(self._is_reader, visit.request, route.permission)
            response.visitor = visit.who
        if route.is_action:
            self.invalidate()
        return packed(visit.request, response, scheme=self.gate.scheme(visit.request))

    def _problem_of(self, error: Exception, access: Access, path: str) -> RequestProblem:
        """Return the problem that the response to a failed request describes, and log unexpected errors.

        Only visitors with access see the address of an unreachable storage.
        """
        if isinstance(error, RequestProblem):
            return error
        if isinstance(error, JobNotFound):
            return NotHere(str(error))
        if isinstance(error, JobConflict | ScheduleError):  # the visitor's mistake
            return BadRequest(str(error))
        if not isinstance(error, StorageUnavailable):
            log.error(
                "Unexpected error in a request; responding with status 500.",
                exc_info=error, extra={"path": approvals.without_token(path)},
            )  # fmt: skip
            return RequestProblem(self.texts("refused.failed"), status=_BROKEN)
        message = self.redactor.text(str(error))
        if not self.may(access, Permission.READ):
            log.warning("The storage is unreachable, so visitors cannot log in: %s", message)
            message = self.texts("refused.unreachable")
        return RequestProblem(message, status=503)

    def _lost(self, path: str, methods: frozenset[str]) -> RequestProblem:
        if not methods:
            return NotHere(self.texts("shared.no_page", path=path))
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        return RequestProblem(
            self.texts("refused.method", methods=allowed), status=405, headers={"Allow": allowed}
        )

    # ---- problem responses -------------------------------------------------------------------------------

    def _refused(self, visit: Visit, problem: RequestProblem) -> Response:
        """Return the response that states the problem and the fix: a page, or JSON for scripts."""
        status, message, path = problem.status, str(problem), path_of(visit.request.scope)
        if isinstance(problem, NotLocal):
            message = self.texts("refused.not_local", reason=message)
        if visit.wants_json or path.startswith("/api") or path.endswith(".json"):
            response = visit.json({"error": message, "kind": "bad", "message": message}, status)
        else:
            html = self._problem_page(visit, problem, message)
            response = Response(html, status, media_type="text/html; charset=utf-8")
        response.headers.update(problem.headers)
        return response

    def _problem_page(self, visit: Visit, problem: RequestProblem, message: str) -> str:
        """Return the problem's page.

        The page does not show the number of jobs if the visitor may not read it, or if the storage is
        unreachable.
        """
        key = f"shared.problem_{problem.status}"
        title = self.texts(key) if key in self.texts else self.texts("shared.problem_400")
        if problem.status < _BROKEN and visit.may(Permission.READ):
            try:
                return visit.render(
                    "problem.html", title=title, section="", message=message, code=problem.status
                )
            except Exception:
                log.exception("Unexpected error while rendering an error page; omitting its navigation.")
        if isinstance(problem, NoSession):
            return self._enter_page(visit, message)
        code = None
        if isinstance(problem, NotLocal):
            title = self.texts("refused.local_only")
            code = self.texts(f"refused.{self.framework or framework_of(visit.request.scope)}").strip()
        return self.templates.render(
            "refused.html", url=visit.url, title=title, message=message, status=problem.status, code=code
        )

    def _enter_page(self, visit: Visit, message: str) -> str:
        """Return the page with the form for a link, which explains how to create one."""
        place = f"{self.gate.origin(visit.request)}{visit.url.root}/"
        is_shared = Feature.SHARED in self.fire.storage.features
        is_here = visit.request.method == "GET" and not visit.is_for_part
        path = path_of(visit.request.scope)
        return self.templates.render(
            "enter.html", url=visit.url, title=self.texts("enter.title"), message=message,
            enter=visit.url(ENTER), back=visit.here if is_here and path != ENTER else "",
            code=self.texts("enter.command" if is_shared else "enter.code", place=place),
            hint=self.texts("enter.shared" if is_shared else "enter.not_shared"),
            is_followed=visit.request.headers.get("sec-fetch-site") in {"cross-site", "same-site"},
        )  # fmt: skip


def dashboard_urls(
    fire: Firelock | None = None,
    *,
    login_url: str | None = None,
    **options: Any,  # noqa: ANN401 - Dashboard's options
) -> Any:  # noqa: ANN401 - Django's include
    """Return the URL patterns for Django's `path(…)`: every page of the dashboard.

    Args:
        fire: the app whose jobs are shown. The default is the project's own app, which the Django app
            `firelock.integrations.django` creates from the settings.
        login_url: the URL, or the name of a view, to which visitors who are not logged in are redirected. The
            default is `LOGIN_URL` if the settings have one, otherwise the login of Django's admin.
        options: the options of `Dashboard`. The view calls `auth` with a request that has the user of
            Django's session. The default `auth` is `django_permissions` in a project with that Django app,
            otherwise `django_staff`.
    """
    from django.apps import apps  # noqa: PLC0415 - installed wherever this function is used

    if fire is None:
        from firelock.integrations.django import fire as project_app  # noqa: PLC0415

        fire = project_app
    has_permissions = apps.apps_ready and apps.is_installed("firelock.integrations.django")
    auth = options.setdefault("auth", django_permissions if has_permissions else django_staff)
    options.setdefault("framework", "django")
    redirects_to_login = login_url is not None or auth in (django_permissions, django_staff)
    return mount_in_django(Dashboard(fire, **options).wsgi, login_url, redirects_to_login=redirects_to_login)


def _without_body(response: Response) -> Response:
    """Return the response to a HEAD request: the GET response without content, even for an endless stream."""
    bare = Response(status_code=response.status_code)
    bare.raw_headers = response.raw_headers
    return bare


async def _refuse_other(scope: Scope, receive: Receive, send: Send, close: Callable[[], None]) -> None:
    """Acknowledge lifespan events, and call `close` at the end of the lifespan; close any WebSocket."""
    kind = (await receive())["type"]
    while kind == "lifespan.startup":
        await send({"type": f"{kind}.complete"})
        kind = (await receive())["type"]
    if scope["type"] != "lifespan":
        await send({"type": "websocket.close", "code": 1008})
        return
    await run_in_threadpool(close)
    await send({"type": f"{kind}.complete"})


def _checked_streams(most: object) -> int:
    """Return the number unchanged.

    Raises:
        ConfigurationError: If the number is not valid.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise ConfigurationError(f"max_streams= must be an integer of 0 or more, got {most!r}.")
    return most


def _checked_back(address: str | None) -> str | None:
    """Return the address unchanged if it is a path on the same host or an http or https URL.

    Raises:
        ConfigurationError: If a browser could interpret the address differently, as with javascript: or
            //elsewhere.
    """
    if address is None:
        return None
    is_path = address.startswith("/") and not address.startswith("//")
    try:
        parts = urlsplit(address)
        is_page = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
    except ValueError:
        is_page = False
    if not (is_path or is_page) or "\\" in address or " " in address or not address.isprintable():
        raise ConfigurationError(
            f"back_url= must be a path or an http(s) URL, got {address!r}; use for example '/', or "
            "'https://shop.example.com'."
        )
    return address


def _token_in(text: str) -> str:
    """Return the token of a pasted link, which may be the whole link or only the part after its #."""
    return text.rpartition("#")[2].removeprefix("open=")
