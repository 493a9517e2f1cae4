"""A browser that is no browser: asks an ASGI app in this process, with any header, peer and path there is."""

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
    """Exchange a link for a session, without a request; return the cookies that show it."""
    if dashboard.auth is not None:
        return {}
    token = dashboard.link("http://localhost").rpartition("#")[2]
    return {f"{COOKIE}_80": dashboard.links.exchange(token)}


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]  # in lower case, in order, repeated where they were
    body: bytes

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)

    def header(self, name, default=None):
        """The one header of that name."""
        values = self.every(name)
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else default

    def every(self, name):
        return [value for key, value in self.headers if key == name]

    @property
    def location(self):
        return self.header("location")


class Browser:
    """Keeps cookies, sends what a browser on this machine sends; close it.

    `headers=` adds to a request or, with None, takes away; a value that is a list is sent as many times.
    Of a dashboard that asks for a link it has exchanged one, unless `is_in` is False.
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
        """The loop of all requests; anyio's threads last as long as the task that a loop is run for."""
        loop = self._runner.get_loop()
        if self._visit is None:
            self._visit = loop.create_task(asyncio.Event().wait())
            self._visit.add_done_callback(_run_until_complete_cb)
        return loop

    def get(self, target, **options):
        return self.ask("GET", target, **options)

    def part(self, target, name, **options):
        """Ask for one live region of a page."""
        return self.get(f"{target}{'&' if '?' in target else '?'}part={name}", **options)

    def post(self, target, form=(), *, headers=None, **options):
        """Post a form from one of the app's own pages: a mapping or pairs, whose values may be lists."""
        body = urlencode(form, doseq=True).encode()
        own = {"sec-fetch-site": "same-origin", "content-type": FORM}
        return self.ask("POST", target, body=body, headers={**own, **(headers or {})}, **options)

    def act(self, target, form=()):
        """Post as a page's script does; return the JSON that it shows."""
        return self.post(target, form, headers={"accept": "application/json"})

    def ask(self, method, target, *, headers=None, body=b"", only_start=False, **scope):
        """Ask for a path and query below the root, both as they go over the wire.

        `body` may be a list of chunks; an endless iterator will do. `only_start` hangs up when the answer
        begins: for streams that have no end. Further words replace parts of the scope.
        """
        exchange = _Exchange([body] if isinstance(body, bytes) else body, only_start)
        scope = self._scope(method, target, headers or {}) | scope
        loop = self._open_loop()
        asked = loop.create_task(self._ask(scope, exchange))
        asked.add_done_callback(lambda _: loop.stop())
        loop.run_forever()
        return asked.result()

    async def _ask(self, scope, exchange):
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
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # in which a stream learns that nobody listens
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
    """The two ends of one request."""

    def __init__(self, body, only_start):
        self.status = 0
        self.headers = []
        self.chunks = []
        self._body = iter(body)
        self._is_sent = False
        self._only_start = only_start
        self._is_over = asyncio.Event()

    async def receive(self):
        if not self._is_sent:
            chunk = next(self._body, None)
            self._is_sent = chunk is None
            return {"type": "http.request", "body": chunk or b"", "more_body": not self._is_sent}
        await self._is_over.wait()
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
                self._is_over.set()
        elif message["type"] == "http.response.body":
            self.chunks.append(bytes(message.get("body", b"")))
            if not message.get("more_body"):
                self._is_over.set()
