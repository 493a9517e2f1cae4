"""Authentication: how `auth=` is called, and ready-made functions for it.

An `auth` is called with each request and returns a level, permissions, an `Access`, or None. If visitors can
log in, it raises `Unauthorized`, or another `RequestProblem`, to show them how. The functions in this module
import a framework only when they are called.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from firelock import ConfigurationError, Firelock
from firelock_dashboard.problems import Forbidden, RequestProblem, Unauthorized
from firelock_dashboard.security.permissions import ASKED, LEVELS, Access, Auth, Level, to_access

if TYPE_CHECKING:
    from firelock_dashboard.security.csrf import Gate
    from firelock_dashboard.security.links import Links

log = logging.getLogger(__name__)


class Entrance:
    """The entrance of one dashboard, which identifies visitors and determines their access."""

    def __init__(self, fire: Firelock, gate: Gate, links: Links, auth: Auth | None) -> None:
        self._fire = fire
        self._gate = gate
        self._links = links
        self._auth = auth

    async def admit(self, request: Request) -> Access:
        """Return the access of the sender of the request.

        Raises:
            RequestProblem: the sender has no access, or may not send the request from its origin.
            StorageUnavailable: a session cannot be looked up.
        """
        self._gate.check_visitor(request)
        is_own = self._gate.check_origin(request)
        needs_token = request.method == "POST" and not is_own
        if needs_token and not request.headers.get("authorization", "").lower().startswith("bearer "):
            raise _without_origin()
        access = await self._access(request)
        if needs_token and not access.has_token:
            raise _without_origin()
        return access

    async def _access(self, request: Request) -> Access:
        try:
            if (access := await run_in_threadpool(self._of_plugins, request)) is not None:
                return access
        except Exception as error:
            raise refusal_of(error) from error
        asked = request.scope.get("wsgi_environ", {}).get(ASKED)
        if isinstance(asked, RequestProblem):  # set by the host, in its own thread
            raise asked
        if isinstance(asked, Access):
            return asked
        if self._auth is None:
            return await run_in_threadpool(self._links.access, request)
        return await access_from(self._auth, request)

    def _of_plugins(self, request: Request) -> Access | None:
        """Return the access from the first plugin that decides about the sender, or None if no plugin does.

        Raises:
            PluginError: the plugin raised an exception, or returned a wrong value.
        """
        found = self._fire.plugins.first_answer("dashboard_permission", request=request)
        if found is None:
            return None
        plugin, answer = found
        try:
            return to_access(answer)
        except ConfigurationError as error:
            problem = f"returned a wrong value from dashboard_permission. {error}"
            raise self._fire.plugins.fault(plugin, problem) from None


def _without_origin() -> Forbidden:
    return Forbidden(
        "The request does not say which page it comes from: it has neither Sec-Fetch-Site nor Origin. "
        "A program sends a token instead: see bearer_tokens()."
    )


# ---- calling `auth` --------------------------------------------------------------------------------------


async def access_from(auth: Auth, request: Request) -> Access:
    """Return the access that `auth` gives to the sender of the request; a blocking `auth` runs in a thread.

    Raises:
        RequestProblem: `auth` refuses the request or fails; a failure is logged.
    """
    try:
        return to_access(await _answer(auth, request))
    except Exception as error:
        raise refusal_of(error) from error


async def _answer(function: Callable[[Request], object], request: Request) -> Any:  # noqa: ANN401 - any type
    call = getattr(type(function), "__call__", None)  # noqa: B004 - an object with an async method
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        answer: Any = function(request)
    else:
        answer = await run_in_threadpool(function, request)
    return await answer if inspect.isawaitable(answer) else answer


def refusal_of(error: Exception) -> RequestProblem:
    """Return the refusal of a request whose `auth` raised; an error that is not a refusal is logged."""
    if isinstance(error, RequestProblem):
        return error
    if isinstance(error, HTTPException):  # also FastAPI's; a 303 with a Location redirects to a login
        return RequestProblem(str(error.detail), status=error.status_code, headers=error.headers)
    log.error("auth failed", exc_info=error)
    return RequestProblem(
        "auth= failed, so nobody is let in: the server's log has the error. Mend it there.", status=500
    )


def any_of(*auths: Auth) -> Auth:
    """Return an auth that calls one after the other and returns the first that grants a permission.

    If none does, the first refusal that asks for a login is raised, with the login methods of all. Under
    WSGI, auths that are not async are called in the host's own thread, as if each were used alone.
    """

    def ask_each(request: Request) -> Access | Awaitable[Access]:
        refusals: list[RequestProblem] = []
        for auth in auths:
            answer = _attempt(auth, request, refusals)
            if inspect.isawaitable(answer):  # an awaitable: call all of them asynchronously
                getattr(answer, "close", lambda: None)()
                return _ask_each(auths, request)
            if isinstance(answer, Access) and answer.permissions:
                return answer
        raise _joined(refusals)

    return ask_each


def _attempt(auth: Auth, request: Request, refusals: list[RequestProblem]) -> object:
    """Return the result of an auth, and collect a refusal; any other failure is raised."""
    try:
        answer = auth(request)
        return answer if inspect.isawaitable(answer) else to_access(answer)
    except Exception as error:  # noqa: BLE001 - it admits nobody
        _note(refusal_of(error), refusals)
        return None


async def _ask_each(auths: Sequence[Auth], request: Request) -> Access:
    refusals: list[RequestProblem] = []
    for auth in auths:
        try:
            access = await access_from(auth, request)
        except RequestProblem as refusal:
            _note(refusal, refusals)
        else:
            if access.permissions:
                return access
    raise _joined(refusals)


def _note(refusal: RequestProblem, refusals: list[RequestProblem]) -> None:
    if refusal.status not in {401, 403}:
        raise refusal
    refusals.append(refusal)


def _joined(refusals: Sequence[RequestProblem]) -> RequestProblem:
    asking = [refusal for refusal in refusals if isinstance(refusal, Unauthorized) or refusal.status == 401]  # noqa: PLR2004
    if not asking:
        return (
            refusals[0] if refusals else Forbidden("You are not known here. Ask whoever runs this dashboard.")
        )
    ways = [
        value for each in asking for name, value in each.headers.items() if name.lower() == "www-authenticate"
    ]
    return Unauthorized(str(asking[0]), headers={"WWW-Authenticate": ", ".join(ways)} if ways else {})


# ---- the host framework's own users ----------------------------------------------------------------------


def django_staff(request: Request) -> Access | None:
    """Return the access of a Django user; for `dashboard_urls`.

    Staff may operate, superusers may do everything, and others nothing.

    Raises:
        ConfigurationError: the dashboard is not mounted with `dashboard_urls`, or Django has no users here.
    """
    user = _django_user(request, "django_staff")
    if user is None:
        return None
    level = "admin" if user.is_superuser else "operate" if user.is_staff else "none"
    return Access(LEVELS[level], str(user.get_username()))


# The permissions of the Django app `firelock.integrations.django`, the strongest first.
_OF_DJANGO = {
    "firelock.administer_jobs": "admin",
    "firelock.operate_jobs": "operate",
    "firelock.view_jobs": "read",
}


def django_permissions(request: Request) -> Access | None:
    """Return the access that Django's permissions give a user, superusers everything; for `dashboard_urls`.

    `firelock.view_jobs` allows reading, `firelock.operate_jobs` operating, and `firelock.administer_jobs`
    everything. They are assigned to users and groups like any other permission after
    `firelock.integrations.django` is installed.

    Raises:
        ConfigurationError: the dashboard is not mounted with `dashboard_urls`, or Django has no users here.
    """
    user = _django_user(request, "django_permissions")
    if user is None:
        return None
    level = next((level for name, level in _OF_DJANGO.items() if user.has_perm(name)), "none")
    name = str(user.get_username())
    if level == "none":
        log.warning("Nobody was let in to the dashboard: user %r lacks firelock.view_jobs.", name)
    return Access(LEVELS[level], name)


def _django_user(request: Request, auth: str) -> Any:  # noqa: ANN401 - whichever model the project has
    """Return the logged-in user if it is active, otherwise None."""
    user = getattr(request.scope.get("django.request"), "user", None)
    if user is None:
        raise ConfigurationError(
            f"{auth} found no user. Mount by dashboard_urls(fire), and have SessionMiddleware and "
            "AuthenticationMiddleware in MIDDLEWARE."
        )
    return user if user.is_authenticated and user.is_active else None


def flask_login(level: Level | Callable[[Any], object] = "admin") -> Auth:
    """Return an auth for Flask-Login, which gives every logged-in user the level; for `init_app`.

    Args:
        level: one level for all users, or a function of the user that returns the same values as an auth.
    """
    level_of = _level_of(level)

    def ask_flask_login(_request: Request) -> Access | None:
        from flask import has_request_context  # noqa: PLC0415 - installed wherever it is used
        from flask_login import current_user  # noqa: PLC0415

        if not has_request_context():
            raise ConfigurationError(
                "flask_login is asked within a request of Flask: mount by Dashboard(…).init_app(app)."
            )
        if not getattr(current_user, "is_authenticated", False):
            return None
        return _named(to_access(level_of(current_user)), current_user.get_id())

    return ask_flask_login


def fastapi_dependency(
    dependency: Callable[[Request], object | Awaitable[object]],
    level: Level | Callable[[Any], object] = "admin",
) -> Auth:
    """Return an auth from a FastAPI dependency that takes only the request, for example `get_current_user`.

    An `HTTPException` of the dependency refuses the request with its status. None and False admit nobody. Any
    other result is a visitor, who gets the level; an `Access` is used unchanged.

    Args:
        dependency: sync or async, without its own `Depends`, which only FastAPI resolves.
        level: one level for every visitor, or a function of the dependency's result that returns the same
            values as an auth.

    Raises:
        ConfigurationError: the dependency needs more than the request, yields, or checks nothing.
    """
    _check_dependency(dependency)
    level_of = _level_of(level)

    async def ask_dependency(request: Request) -> Access | None:
        found = await _answer(dependency, request)
        if found is None or found is False:
            return None
        if isinstance(found, Access):
            return found
        name = getattr(found, "username", None) or getattr(found, "email", None)
        return _named(to_access(level_of(found)), name or (found if isinstance(found, str) else ""))

    return ask_dependency


def _check_dependency(dependency: object) -> None:
    if not callable(dependency):
        raise ConfigurationError(
            f"fastapi_dependency got {dependency!r}; give a function that takes the request."
        )
    name = getattr(dependency, "__qualname__", type(dependency).__qualname__)
    if type(dependency).__module__.startswith("fastapi.security"):
        raise ConfigurationError(
            f"{name} reads what a visitor sends and checks nothing; give the dependency that checks it."
        )
    if inspect.isgeneratorfunction(dependency) or inspect.isasyncgenfunction(dependency):
        raise ConfigurationError(f"{name} yields; give a dependency that returns.")
    parameters = list(inspect.signature(dependency).parameters.values())
    needed = [each for each in parameters if each.default is each.empty or _is_resolved(each.default)]
    needed = [each for each in needed if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]
    if not needed or needed != parameters[:1] or _is_resolved(needed[0].default):
        raise ConfigurationError(
            f"{name}{inspect.signature(dependency)} is called with the request alone; write a function "
            "(request: Request) that calls what it needs."
        )


def _is_resolved(default: object) -> bool:
    """Return whether only FastAPI can supply this parameter: Depends(…), Header(…)."""
    return type(default).__module__.partition(".")[0] == "fastapi"


def _level_of(level: Level | Callable[[Any], object]) -> Callable[[Any], object]:
    if callable(level):
        return level
    access = to_access(level)
    return lambda _visitor: access


def _named(access: Access, name: object) -> Access:
    return access if access.name else Access(access.permissions, str(name or ""), access.has_token)
