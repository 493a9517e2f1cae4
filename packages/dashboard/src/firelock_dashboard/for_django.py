"""`path("jobs/", dashboard_urls(fire))`: the dashboard in a Django project; staff may come in."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from firelock_dashboard.dashboard import Dashboard
from firelock_dashboard.wsgi import ACCESS, access_in

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

    from firelock import Firelock

__all__ = ["dashboard_urls"]


def dashboard_urls(fire: Firelock, **options: Any) -> Any:  # noqa: ANN401 - Dashboard's options; Django's include
    """Return what Django's `path(…)` includes: every page of the dashboard below it.

    Args:
        fire: the app whose jobs are shown.
        options: those of `Dashboard`; `auth` is `django_staff` where it is left out: staff may operate, and
            superusers may do everything. It is asked in the view, with the user of Django's session.
    """
    from django.urls import include, re_path  # noqa: PLC0415 - who mounts this has it
    from django.views.decorators.csrf import csrf_exempt  # noqa: PLC0415

    from firelock_dashboard.auth import django_staff  # noqa: PLC0415

    options.setdefault("auth", django_staff)
    options.setdefault("framework", "django")
    dashboard = Dashboard(fire, **options)

    def view(request: HttpRequest, path: str) -> HttpResponse:
        return _answer(dashboard, request, path)

    # Django's token check is left to the dashboard: it asks each unsafe request for evidence of its own.
    return include(([re_path(r"^(?P<path>(?s:.*))$", csrf_exempt(view), name="dashboard")], "firelock"))


def _answer(dashboard: Dashboard, request: HttpRequest, path: str) -> HttpResponse:
    from django.http import HttpResponse  # noqa: PLC0415

    environ = _environ(request, path)
    if dashboard.auth is not None:
        access = access_in(environ, dashboard.auth, **{"django.request": request})
        if access is not None:
            environ[ACCESS] = access
    started: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> None:
        started.update(status=int(status.split(maxsplit=1)[0]), headers=headers)

    body = b"".join(dashboard.wsgi(environ, start_response))
    response = HttpResponse(body, status=started["status"])
    del response["Content-Type"]
    for name, value in started["headers"]:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response[name] = value
    return response


def _environ(request: HttpRequest, path: str) -> dict[str, Any]:
    """Return a WSGI environ of the request; one that came by ASGI has the same names in its META."""
    wanted = ("REMOTE_", "SERVER_", "HTTP_", "CONTENT_", "REQUEST_METHOD", "QUERY_STRING")
    environ = {name: value for name, value in request.META.items() if name.startswith(wanted)}
    asked: Mapping[str, str] = getattr(request, "scope", {})  # of a request that came by ASGI
    environ.setdefault("SERVER_PROTOCOL", f"HTTP/{asked.get('http_version', '1.1')}")
    script = request.path.removesuffix(path).rstrip("/")
    environ["SCRIPT_NAME"] = script.encode().decode("latin-1")
    environ["PATH_INFO"] = f"/{path}".encode().decode("latin-1")
    environ["wsgi.url_scheme"] = request.scheme
    environ["wsgi.input"] = BytesIO(request.body)
    environ["CONTENT_LENGTH"] = str(len(request.body))
    return {name: value for name, value in environ.items() if value is not None}
