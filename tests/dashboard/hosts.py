"""All ways to mount a dashboard (framework, gateway and path), each as an object that answers requests."""

from __future__ import annotations

import sys
import types
from http.cookies import SimpleCookie
from urllib.parse import unquote, urlencode

import attrs
from werkzeug.test import Client

from firelock_dashboard import Dashboard, dashboard_urls
from tests.dashboard.browser import FORM, Answer, Browser
from tests.django_process import configure_django


def everything(request):
    """Allow every visitor everything, because these tests check only the mounts."""
    return "admin"


# ---- applications ----------------------------------------------------------------------------------------


def starlette_app(fire, prefix, **options):
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount(prefix or "/", Dashboard(fire, **options))])


def fastapi_app(fire, prefix, **options):
    from fastapi import FastAPI

    app = FastAPI()
    app.mount(prefix or "/", Dashboard(fire, **options))
    return app


def flask_app(fire, prefix, **options):
    from flask import Flask

    app = Flask("shop")
    Dashboard(fire, **options).init_app(app, prefix)
    return app


def django_app(fire, prefix, kind, **options):
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import path

    configure_django()
    urls = types.ModuleType(f"tests.dashboard.urls_{id(fire)}_{prefix.strip('/')}_{kind}")
    place = f"{prefix.strip('/')}/" if prefix else ""
    urls.urlpatterns = [path(place, dashboard_urls(fire, **options))]
    sys.modules[urls.__name__] = urls
    handler = WSGIHandler() if kind == "wsgi" else ASGIHandler()
    return _with_urls(handler, urls.__name__, kind)


def _with_urls(handler, name, kind):
    """Pass the URLconf with each request, because a process has only one Django configuration."""
    if kind == "wsgi":

        def answer(environ, start_response):
            return handler({**environ, "HTTP_X_TEST_URLS": name}, start_response)

    else:

        async def answer(scope, receive, send):
            headers = [*scope["headers"], (b"x-test-urls", name.encode())]
            await handler({**scope, "headers": headers}, receive, send)

    return answer


def choose_urls(get_response):
    def chosen(request):
        request.urlconf = request.META["HTTP_X_TEST_URLS"]
        return get_response(request)

    return chosen


# ---- requests --------------------------------------------------------------------------------------------


@attrs.define
class Place:
    """The application's address as a browser sees it, and the proxy in front of the application."""

    outside: str = ""  # the prefix that a proxy adds to the application's paths
    # the proxy removes the prefix again and sends it in X-Forwarded-Prefix
    is_stripped: bool = False


class AsgiVisitor:
    """A visitor of an ASGI application that uses the addresses that a browser sees."""

    def __init__(self, app, place):
        self.place = place
        root = "" if place.is_stripped else place.outside
        headers = {"x-forwarded-prefix": place.outside} if place.is_stripped else None
        self.browser = Browser(app, root=root, headers=headers, is_in=False)

    def get(self, address, **options):
        return self.browser.get(self._inside(address), **options)

    def post(self, address, form, **options):
        return self.browser.post(self._inside(address), form, **options)

    def close(self):
        self.browser.close()

    def _inside(self, address):
        assert address.startswith(self.place.outside), f"{address} leads out of {self.place.outside}"
        return address[len(self.place.outside) :]


class WsgiVisitor:
    """A visitor of a WSGI application, implemented with Werkzeug's client."""

    def __init__(self, app, place):
        self.client, self.place = Client(app, use_cookies=False), place
        self.cookies = SimpleCookie()

    def get(self, address, *, only_start=False):
        return self._send("GET", address)

    def post(self, address, form, *, headers=None):
        own = {"Content-Type": FORM, "Sec-Fetch-Site": "same-origin", **(headers or {})}
        return self._send("POST", address, headers=own, data=urlencode(form, doseq=True))

    def close(self):
        pass

    def _send(self, method, address, **sent):
        assert address.startswith(self.place.outside), f"{address} leads out of {self.place.outside}"
        path, _, query = address[len(self.place.outside) :].partition("?")
        cookies = "; ".join(f"{name}={one.value}" for name, one in self.cookies.items())
        environ = {"REMOTE_ADDR": "127.0.0.1", "HTTP_COOKIE": cookies}
        if self.place.is_stripped:
            environ["HTTP_X_FORWARDED_PREFIX"] = self.place.outside
        answer = self.client.open(
            unquote(path), method=method, query_string=query, environ_overrides=environ,
            base_url=f"http://localhost{'' if self.place.is_stripped else self.place.outside}", **sent,
        )  # fmt: skip
        for line in answer.headers.getlist("Set-Cookie"):
            self.cookies.load(line)
        headers = [(name.lower(), value) for name, value in answer.headers]
        return Answer(answer.status_code, headers, answer.data)


# ---- combinations ----------------------------------------------------------------------------------------

HOSTS = [
    ("starlette", "asgi"),
    ("fastapi", "asgi"),
    ("flask", "wsgi"),
    ("django", "wsgi"),
    ("django", "asgi"),
    ("bare", "asgi"),
    ("bare", "wsgi"),
]
PLACES = [
    ("", Place()),
    ("/jobs", Place()),
    ("/jobs", Place("/ops", is_stripped=True)),
    ("/jobs", Place("/ops", is_stripped=False)),
    ("", Place("/ops/tools", is_stripped=True)),
]


def mounted(framework, kind, fire, prefix, **options):
    """Return the application with the dashboard mounted in this framework under this prefix."""
    if framework == "bare":
        dashboard = Dashboard(fire, **options)
        assert not prefix
        return dashboard if kind == "asgi" else dashboard.wsgi
    if framework == "django":
        return django_app(fire, prefix, kind, **options)
    made = {"starlette": starlette_app, "fastapi": fastapi_app, "flask": flask_app}[framework]
    return made(fire, prefix, **options)


def visitor(framework, kind, fire, prefix, place, **options):
    """Return a visitor of the application with a dashboard that is mounted in this way."""
    options = {"auth": everything, "trusts_proxy": place.is_stripped, **options}
    app = mounted(framework, kind, fire, prefix, **options)
    return (AsgiVisitor if kind == "asgi" else WsgiVisitor)(app, place)
