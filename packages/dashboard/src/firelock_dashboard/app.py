"""`Dashboard`: the ASGI application.

It opens nothing until the first request, since a mounted application gets no lifespan.
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
    """The dashboard of an app's jobs, to be mounted or served.

    Args:
        fire: the app whose jobs are shown and acted on.
        auth: called with each request; answers a level ("none", "read", "operate", "admin"), a set of
            permissions, an `Access`, or an awaitable of these. Without it only visitors of this machine are
            answered who have come in by a link, which `firelock dashboard link` or `link()` makes.
        read_only: there are no routes that change anything.
        title: what stands at the top.
        prefix: the address below which a browser finds it, where neither framework nor trusted proxy says.
        trusts_proxy: `X-Forwarded-Prefix`, `-Proto` and `-Host` are believed: behind a proxy that sets them.
        trusted_origins: origins besides its own that may send forms, such as "https://ops.example.com".
        allowed_hosts: the hosts that it answers to where there is an `auth`, such as "jobs.example.com" or
            "*.example.com"; every one where it is left out.
        back_url: where "back to the app" leads, a path such as "/" or an address with http or https; nowhere
            where it is left out.
        environment: a word such as "production", shown as a ribbon.
        redact: what is masked beside passwords, tokens and their like: names of fields, a pattern, or names
            of fields by task ("*" for every task).
        max_streams: streams of pages and jobs that are open at the same time; one visitor has a fourth of
            them. Further pages poll, further programs get a 503.
        framework: what it is mounted in, for the words of its refusals; the mounts of this package set it.

    Two dashboards in one process share nothing.

    Raises:
        ConfigurationError: an option cannot be what it should.
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
        """Return a link that lets one visitor of this machine in, once, within ten minutes.

        For a dashboard without `auth=`. Print it to a terminal, never to a log.

        Args:
            at: where the dashboard is for a browser, such as "http://127.0.0.1:8000/jobs".

        Raises:
            ConfigurationError: `at` is no such address, or there is an `auth=`, which asks for no link.
            StorageUnavailable: the storage cannot be reached.
        """
        if self.auth is not None:
            raise ConfigurationError(
                "This dashboard has an auth=, which says who may come in; it takes no links."
            )
        return self.links.make(at)

    @cached_property
    def plugins(self) -> PluginPages:
        """The pages that plugins add, and what is wrong with others; asked once."""
        return plugin_pages(self.fire)

    @cached_property
    def routes(self) -> Routes:
        """What can be asked for here, the plugins' pages among it."""
        table = [route for route in TABLE if not (self.is_read_only and route.is_action)]
        plugins = self.plugins
        return Routes([*table, *(route_of(page, plugins.owners[page.name]) for page in plugins.pages)])

    def init_app(self, app: Flask, prefix: str = "/jobs") -> None:
        """A Flask application answers below the prefix with this dashboard."""
        self.framework = "flask"
        mount_in_flask(self.wsgi, app, prefix.rstrip("/"))

    # ---- ASGI --------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
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
            return  # nobody is left to be answered

    async def _send(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate.protect(response, hides_path=path_of(scope).startswith(approvals.PREFIX))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        urls, access, path = Urls("", self.assets), Access(), path_of(request.scope)
        try:
            self.gate.check_shape(request)
            urls = Urls(self.gate.root(request), self.assets)
            if path in _PROBES and request.method != "POST":  # before anybody is asked who they are: no data
                return await self._probed(path)
            if path.startswith("/files/") and request.method != "POST":  # of the package: no data is in them
                return self.assets.response(path.removeprefix("/files/"), request.headers)
            if path == ENTER and self.auth is None:
                return await self._entered(request, urls)
            if approvals.has_path(path):
                return await self._answered_for(request, urls, path)
            access = await self._entrance.admit(request)
            if not self.may(access, Permission.READ):
                raise Forbidden(self.texts("refused.nobody"))
            if path == "":
                return RedirectResponse(urls("/"), 307)
            if path == "/live" and request.method == "GET":
                return self._streamed(Visit(self, request, urls, access=access, places={}, body=b""))
            return await self._routed(request, urls, path, access)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - `_problem_of` has it in the log
            visit = Visit(self, request, urls, access=access, places={}, body=b"")
            return await run_in_threadpool(self._refused, visit, self._problem_of(error, access, path))

    async def _probed(self, path: str) -> Response:
        """Answer an orchestrator: this process answers, and, for /-/readyz, the storage did a second ago.

        /-/livez takes no thread: that all of them are busy is no reason to restart the process.
        """
        try:
            if path == _READY:
                await run_in_threadpool(self.counts)
        except FirelockError:
            return Response("failed storage: it does not answer\n", 503, media_type="text/plain")
        return Response("ok\n", media_type="text/plain")

    async def _entered(self, request: Request, urls: Urls) -> Response:
        """Show what asks for a link; a POST of the page's own form exchanges one, which no preview does."""
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
        """Answer who has an approval link: the link lets them in, to this page alone."""
        self.gate.check_visitor(request)
        is_own = self.gate.check_origin(request)
        try:
            access = Access(name=(await self._entrance.admit(request)).name)
        except RequestProblem:
            access = Access()  # the link is enough; who else the visitor is only the audit would like to know
        is_posted = request.method == "POST"
        if is_posted and not is_own:
            raise Forbidden(self.texts("approval.not_own"))
        body = await read_body(request) if is_posted else b""
        visit = Visit(self, request, urls, access=access, places=approvals.places_of(path), body=body)
        visit.check_fields((), approvals.FIELDS)
        return await run_in_threadpool(approvals.answer_visit, visit)

    def _exchanged(self, visit: Visit) -> Response:
        """Answer with a session: a cookie that neither a script nor a request of another site has."""
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
            self.forget()
        return packed(visit.request, response, scheme=self.gate.scheme(visit.request))

    def _problem_of(self, error: Exception, access: Access, path: str) -> RequestProblem:
        """Return how a request is refused; where a storage is that does not answer, only to who is in."""
        if isinstance(error, RequestProblem):
            return error
        if isinstance(error, JobNotFound):
            return NotHere(str(error))
        if isinstance(error, JobConflict | ScheduleError):  # the visitor's mistake, in the core's words
            return BadRequest(str(error))
        if not isinstance(error, StorageUnavailable):
            log.error("a page failed", exc_info=error, extra={"path": approvals.without_token(path)})
            return RequestProblem(self.texts("refused.failed"), status=_BROKEN)
        message = self.redactor.text(str(error))
        if not self.may(access, Permission.READ):
            log.warning("The storage does not answer, so nobody can come in: %s", message)
            message = self.texts("refused.away")
        return RequestProblem(message, status=503)

    def _lost(self, path: str, methods: frozenset[str]) -> RequestProblem:
        if not methods:
            return NotHere(self.texts("shared.no_page", path=path))
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        return RequestProblem(
            self.texts("refused.method", methods=allowed), status=405, headers={"Allow": allowed}
        )

    # ---- what went wrong ---------------------------------------------------------------------------------

    def _refused(self, visit: Visit, problem: RequestProblem) -> Response:
        """Return the page, or for scripts the JSON, that says what was wrong and what to do."""
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
        """Return the page; one without the app's numbers for strangers, and where these cannot be had."""
        key = f"shared.problem_{problem.status}"
        title = self.texts(key) if key in self.texts else self.texts("shared.problem_400")
        if problem.status < _BROKEN and visit.may(Permission.READ):
            try:
                return visit.render(
                    "problem.html", title=title, section="", message=message, code=problem.status
                )
            except Exception:
                log.exception("the page of a problem failed")
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
        """Return the page that asks for a link, and says how one is made."""
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
    """Return what Django's `path(…)` includes: every page of the dashboard below it.

    Args:
        fire: the app whose jobs are shown; the project's own where it is left out, which the Django app
            `firelock.integrations.django` makes from its settings.
        login_url: an address or the name of a view: where visitors go who are not logged in. Left out it is
            `LOGIN_URL` if the settings have one, else the login of Django's admin.
        options: those of `Dashboard`; `auth` is asked in the view, with the user of Django's session. Where
            it is left out it is `django_permissions` in a project with that Django app, else `django_staff`.
    """
    from django.apps import apps  # noqa: PLC0415 - who mounts this has it

    if fire is None:
        from firelock.integrations.django import fire as project_app  # noqa: PLC0415

        fire = project_app
    has_permissions = apps.apps_ready and apps.is_installed("firelock.integrations.django")
    auth = options.setdefault("auth", django_permissions if has_permissions else django_staff)
    options.setdefault("framework", "django")
    asks_login = login_url is not None or auth in (django_permissions, django_staff)
    return mount_in_django(Dashboard(fire, **options).wsgi, login_url, asks_login=asks_login)


def _without_body(response: Response) -> Response:
    """Return the answer to HEAD: what GET would send but for the content, also of a stream without an end."""
    bare = Response(status_code=response.status_code)
    bare.raw_headers = response.raw_headers
    return bare


async def _refuse_other(scope: Scope, receive: Receive, send: Send, close: Callable[[], None]) -> None:
    """A lifespan is acknowledged, and its end closes what runs; a WebSocket is closed."""
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
    """Return the number as it is.

    Raises:
        ConfigurationError: it is no number of streams.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise ConfigurationError(f"max_streams= must be an integer from 0, got {most!r}.")
    return most


def _checked_back(address: str | None) -> str | None:
    """Return the address as it is: a path of the same host, or http or https.

    Raises:
        ConfigurationError: a browser could take it for something else, as javascript: or //elsewhere.
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
            f"back_url={address!r} leads nowhere; write a path such as '/', or 'https://shop.example.com'."
        )
    return address


def _token_in(text: str) -> str:
    """Return the token of a link that was pasted whole, or of what stands behind its #."""
    return text.rpartition("#")[2].removeprefix("open=")
