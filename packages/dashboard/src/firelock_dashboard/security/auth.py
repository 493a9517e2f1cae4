"""Authentication: the code that calls `auth=`, and ready-made functions for it.

An `auth` is called with each request and returns a level, permissions, an `Access`, or None. If visitors must
log in first, it raises `Unauthorized`, or another `RequestProblem`, which shows how to log in. The functions
in this module import a framework only when they are called.
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
from firelock_dashboard.security.permissions import AUTH_RESULT, LEVELS, Access, Auth, Level, to_access

if TYPE_CHECKING:
    from firelock_dashboard.security.csrf import Gate
    from firelock_dashboard.security.links import Links

log = logging.getLogger(__name__)


class Entrance:
    """The access control of one dashboard, which identifies visitors and determines their access."""

    def __init__(self, fire: Firelock, gate: Gate, links: Links, auth: Auth | None) -> None:
        self._fire = fire
        self._gate = gate
        self._links = links
        self._auth = auth

    async def admit(self, request: Request) -> Access:
        """Return the access rights of the visitor who sent the request.

        Raises:
            RequestProblem: If the sender has no access, or may not send the request from its origin.
            StorageUnavailable: If a session cannot be looked up.
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
        host_result = request.scope.get("wsgi_environ", {}).get(AUTH_RESULT)
        if isinstance(host_result, RequestProblem):  # the result of `auth=` in the host's own thread
            raise host_result
        if isinstance(host_result, Access):
            return host_result
        if self._auth is None:
            return await run_in_threadpool(self._links.access, request)
        return await access_from(self._auth, request)

    def _of_plugins(self, request: Request) -> Access | None:
        """Return the access from the first plugin that decides about the sender, or None if no plugin does.

        Raises:
            PluginError: If the plugin raised an exception, or returned an invalid value.
        """
        found = self._fire.plugins.first_result("dashboard_permission", request=request)
        if found is None:
            return None
        plugin, answer = found
        try:
            return to_access(answer)
        except ConfigurationError as error:
            problem = f"returned an invalid value from dashboard_permission. {error}"
            raise self._fire.plugins.fault(plugin, problem) from None


def _without_origin() -> Forbidden:
    return Forbidden(
        "The origin of the request is unknown, because it has neither a Sec-Fetch-Site nor an Origin header. "
        "In a program, send a token: see bearer_tokens()."
    )


# ---- calling `auth` --------------------------------------------------------------------------------------


async def access_from(auth: Auth, request: Request) -> Access:
    """Return the access that `auth` gives to the sender of the request; a blocking `auth` runs in a thread.

    Raises:
        RequestProblem: If `auth` refuses the request or fails; a failure is logged.
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
    """Return the refusal of a request whose `auth` raised an error; log the error if it is not a refusal."""
    if isinstance(error, RequestProblem):
        return error
    if isinstance(error, HTTPException):  # also FastAPI's; a 303 with a Location redirects to a login
        return RequestProblem(str(error.detail), status=error.status_code, headers=error.headers)
    log.error("Unexpected error in auth=; refusing the request.", exc_info=error)
    return RequestProblem(
        "auth= failed, so the dashboard refuses all visitors; fix the error in the server's log.", status=500
    )


def any_of(*auths: Auth) -> Auth:
    """Return an auth that calls the given auths in order until one of them grants a permission.

    If none of them does, the combined auth raises the first refusal that requests a login, with the login
    methods of all auths. Under WSGI, auths that are not async are called in the host's own thread, like a
    single auth.
    """

    def call_each(request: Request) -> Access | Awaitable[Access]:
        refusals: list[RequestProblem] = []
        for auth in auths:
            answer = _attempt(auth, request, refusals)
            if inspect.isawaitable(answer):  # an async auth: call all auths asynchronously
                getattr(answer, "close", lambda: None)()
                return _call_each(auths, request)
            if isinstance(answer, Access) and answer.permissions:
                return answer
        raise _joined(refusals)

    return call_each


def _attempt(auth: Auth, request: Request, refusals: list[RequestProblem]) -> object:
    """Return the result of an auth; if it refuses access, append the refusal to the list and return None.

    A refusal with a status other than 401 and 403 is raised.
    """
    try:
        answer = auth(request)
        return answer if inspect.isawaitable(answer) else to_access(answer)
    except Exception as error:  # noqa: BLE001 - a failure grants no access
        _note(refusal_of(error), refusals)
        return None


async def _call_each(auths: Sequence[Auth], request: Request) -> Access:
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
    challenges = [
        refusal
        for refusal in refusals
        if isinstance(refusal, Unauthorized) or refusal.status == 401  # noqa: PLR2004
    ]
    if not challenges:
        return (
            refusals[0]
            if refusals
            else Forbidden("You do not have access to this dashboard; contact its operator.")
        )
    ways = [
        value
        for each in challenges
        for name, value in each.headers.items()
        if name.lower() == "www-authenticate"
    ]
    return Unauthorized(str(challenges[0]), headers={"WWW-Authenticate": ", ".join(ways)} if ways else {})


# ---- the host framework's own users ----------------------------------------------------------------------


def django_staff(request: Request) -> Access | None:
    """Return the access of a Django user; for `dashboard_urls`.

    Staff have the level operate, superusers have admin, and other users have no access.

    Raises:
        ConfigurationError: If the dashboard is not mounted with `dashboard_urls`, or if Django's
            authentication middleware is missing.
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
    """Return the access that a user's Django permissions grant; for `dashboard_urls`.

    The permission `firelock.view_jobs` grants the level read, `firelock.operate_jobs` the level operate, and
    `firelock.administer_jobs` the level admin. Superusers have all permissions. The app
    `firelock.integrations.django` creates these permissions, which are then assigned to users and groups like
    any other.

    Raises:
        ConfigurationError: If the dashboard is not mounted with `dashboard_urls`, or if Django's
            authentication middleware is missing.
    """
    user = _django_user(request, "django_permissions")
    if user is None:
        return None
    level = next((level for name, level in _OF_DJANGO.items() if user.has_perm(name)), "none")
    name = str(user.get_username())
    if level == "none":
        log.warning("User %r has no access to the dashboard; grant the permission firelock.view_jobs.", name)
    return Access(LEVELS[level], name)


def _django_user(request: Request, auth: str) -> Any:  # noqa: ANN401 - whichever model the project has
    """Return the logged-in user if it is active, otherwise None."""
    user = getattr(request.scope.get("django.request"), "user", None)
    if user is None:
        raise ConfigurationError(
            f"{auth} found no user in the request; mount the dashboard with dashboard_urls(fire), and add "
            "SessionMiddleware and AuthenticationMiddleware to MIDDLEWARE."
        )
    return user if user.is_authenticated and user.is_active else None


def flask_login(level: Level | Callable[[Any], object] = "admin") -> Auth:
    """Return an auth for Flask-Login, which gives every logged-in user the level; for `init_app`.

    Args:
        level: one level for all users, or a function of the user that returns the same values as an auth.
    """
    level_of = _level_of(level)

    def call_flask_login(_request: Request) -> Access | None:
        from flask import has_request_context  # noqa: PLC0415 - installed wherever it is used
        from flask_login import current_user  # noqa: PLC0415

        if not has_request_context():
            raise ConfigurationError(
                "flask_login() works only within a Flask request; mount the dashboard with "
                "Dashboard(…).init_app(app)."
            )
        if not getattr(current_user, "is_authenticated", False):
            return None
        return _named(to_access(level_of(current_user)), current_user.get_id())

    return call_flask_login


def fastapi_dependency(
    dependency: Callable[[Request], object | Awaitable[object]],
    level: Level | Callable[[Any], object] = "admin",
) -> Auth:
    """Return an auth that calls a FastAPI dependency with the request, for example `get_current_user`.

    If the dependency raises an `HTTPException`, the request is refused with its status. If it returns None or
    False, the visitor has no access. An `Access` is used unchanged. Any other result is a user, who gets the
    level.

    Args:
        dependency: a sync or async function without parameters of the kind `Depends`, which only FastAPI can
            supply.
        level: one level for every visitor, or a function of the dependency's result that returns the same
            values as an auth.

    Raises:
        ConfigurationError: If the dependency requires more than the request, yields, or does not check its
            input.
    """
    _check_dependency(dependency)
    level_of = _level_of(level)

    async def call_dependency(request: Request) -> Access | None:
        found = await _answer(dependency, request)
        if found is None or found is False:
            return None
        if isinstance(found, Access):
            return found
        name = getattr(found, "username", None) or getattr(found, "email", None)
        return _named(to_access(level_of(found)), name or (found if isinstance(found, str) else ""))

    return call_dependency


def _check_dependency(dependency: object) -> None:
    if not callable(dependency):
        raise ConfigurationError(
            f"The dependency must be a function of the request, got {dependency!r}; pass such a function."
        )
    name = getattr(dependency, "__qualname__", type(dependency).__qualname__)
    if type(dependency).__module__.startswith("fastapi.security"):
        raise ConfigurationError(
            f"{name} reads credentials without checking them; pass the dependency that checks them."
        )
    if inspect.isgeneratorfunction(dependency) or inspect.isasyncgenfunction(dependency):
        raise ConfigurationError(f"{name} must not yield; pass a dependency that returns its result.")
    parameters = list(inspect.signature(dependency).parameters.values())
    needed = [each for each in parameters if each.default is each.empty or _is_resolved(each.default)]
    needed = [each for each in needed if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]
    if not needed or needed != parameters[:1] or _is_resolved(needed[0].default):
        raise ConfigurationError(
            f"{name}{inspect.signature(dependency)} must accept only the request; pass a function "
            "(request: Request) that calls its own dependencies."
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
