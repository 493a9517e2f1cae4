"""A simulated browser: it calls an ASGI app in this process with any headers, peer and path."""

from __future__ import annotations

import asyncio
import json
from asyncio.base_events import _run_until_complete_cb
from http.cookies import SimpleCookie
from urllib.parse import unquote_to_bytes, urlencode

import attrs

from firelock_dashboard import Dashboard
from firelock_dashboard.security.links import COOKIE

FORM = "application/x-www-form-urlencoded"


def come_in(dashboard):
    """Exchange a link for a session without a request; return the session's cookies."""
    if dashboard.auth is not None:
        return {}
    token = dashboard.link("http://localhost").rpartition("#")[2]
    return {f"{COOKIE}_80": dashboard.links.exchange(token)}


@attrs.frozen
class Answer:
    """The response to a request."""

    status: int
    headers: list[tuple[str, str]]  # names in lower case, in the order received, with repetitions
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)

    def header(self, name, default=None):
        """Return the value of the only header with this name."""
        values = self.every(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else default

    def every(self, name):
        return [value for key, value in self.headers if key == name]

    @property
    def location(self):
        return self.header("location")


class Browser:
    """A browser on this machine that keeps its cookies; close it after use.

    `headers=` adds headers to each request, or removes those whose value is None. A header whose value is a
    list is sent once per item. If the dashboard requires a link, the browser has already exchanged one,
    unless `is_in` is False.
    """

    def __init__(self, app, *, root="", peer=("127.0.0.1", 50_000), headers=None, is_in=True):
        self.app = app
        self.root = root
        self.peer = peer
        self.headers = {"host": "localhost", **(headers or {})}
        self.cookies = come_in(app) if is_in and isinstance(app, Dashboard) else {}
        self._runner = asyncio.Runner()
        self._visit = None

    def close(self):
        if self._visit is not None:
            self._visit.cancel()
            self._runner.get_loop().run_forever()
        self._runner.close()

    def _open_loop(self):
        """Return the loop of all requests.

        anyio's threads live as long as the task for which the loop runs, so one task stays open.
        """
        loop = self._runner.get_loop()
        if self._visit is None:
            self._visit = loop.create_task(asyncio.Event().wait())
            self._visit.add_done_callback(_run_until_complete_cb)
        return loop

    def get(self, target, **options):
        return self.request("GET", target, **options)

    def part(self, target, name, **options):
        """Request one live region of a page."""
        return self.get(f"{target}{'&' if '?' in target else '?'}part={name}", **options)

    def post(self, target, form=(), *, headers=None, **options):
        """Post a form from one of the app's own pages.

        The form is a mapping, or pairs; its values may be lists.
        """
        body = urlencode(form, doseq=True).encode()
        own = {"sec-fetch-site": "same-origin", "content-type": FORM}
        return self.request("POST", target, body=body, headers={**own, **(headers or {})}, **options)

    def act(self, target, form=()):
        """Post a form as a page's script does, with a JSON response."""
        return self.post(target, form, headers={"accept": "application/json"})

    def request(self, method, target, *, headers=None, body=b"", only_start=False, **scope):
        """Send a request for a path and query below the root, both in their wire form.

        `body` may be an iterable of chunks, even an endless one. `only_start` disconnects when the response
        begins, for streams that do not end. Further keyword arguments replace parts of the scope.
        """
        exchange = _Exchange([body] if isinstance(body, bytes) else body, only_start)
        scope = self._scope(method, target, headers or {}) | scope
        loop = self._open_loop()
        task = loop.create_task(self._send(scope, exchange))
        task.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        return task.result()

    async def _send(self, scope, exchange):
        await asyncio.wait_for(self.app(scope, exchange.receive, exchange.send), 60)
        answer = Answer(exchange.status, exchange.headers, b"".join(exchange.chunks))
        for line in answer.every("set-cookie"):
            self._keep(line)
        return answer

    def _scope(self, method, target, headers):
        path, _, query = target.partition("?")
        raw = (self.root + path).encode()
        return {
            "type": "http",
            # in this version, a stream is notified when its client disconnects
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
            "raw_path": raw,
            "root_path": self.root,
            "query_string": query.encode(),
            "headers": list(self._headers(headers)),
            "client": self.peer,
            "server": ("127.0.0.1", 80),
        }

    def _headers(self, headers):
        kept = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()) or None}
        for name, value in {**kept, **self.headers, **headers}.items():
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    yield name.lower().encode("latin-1"), one.encode("latin-1")

    def _keep(self, line):
        for name, morsel in SimpleCookie(line).items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value


class _Exchange:
    """Both ends of one request."""

    def __init__(self, body, only_start):
        self.status = 0
        self.headers = []
        self.chunks = []
        self._body = iter(body)
        self._is_sent = False
        self._only_start = only_start
        self._has_ended = asyncio.Event()

    async def receive(self):
        if not self._is_sent:
            chunk = next(self._body, None)
            self._is_sent = chunk is None
            return {"type": "http.request", "body": chunk or b"", "more_body": not self._is_sent}
        await self._has_ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            assert not self.status, "the answer began twice"
            self.status = message["status"]
            self.headers = [
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in message["headers"]
            ]
            if self._only_start:
                self._has_ended.set()
        elif message["type"] == "http.response.body":
            self.chunks.append(bytes(message.get("body", b"")))
            if not message.get("more_body"):
                self._has_ended.set()
