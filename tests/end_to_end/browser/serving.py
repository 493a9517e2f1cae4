"""A dashboard for a browser: on a free loopback port, served by a thread of this process."""

from __future__ import annotations

import socket
import threading

import uvicorn

from firelock_dashboard import Dashboard
from firelock_dashboard.security.links import COOKIE

HOST = "127.0.0.1"
_DEADLINE = 20.0


class Served:
    """An app's dashboard that is served from `start` to `stop`; after another `start` it has the same port.

    Args:
        fire: the app.
        without_stream: whether `/live` responds with 204, as if there were no stream.
        options: options of the dashboard.
    """

    def __init__(self, fire, *, without_stream=False, **options):
        self.fire = fire
        self.dashboard = None
        self.requested = []  # paths and queries, in order
        self._without_stream = without_stream
        self._options = options
        self._port = 0
        self._server = self._thread = None

    @property
    def origin(self):
        """The origin of the dashboard in a browser."""
        return f"http://{HOST}:{self._port}"

    def cookies(self):
        """Return the cookies of a browser that has exchanged a link; each call exchanges a new one."""
        if self.dashboard.auth is not None:
            return []
        token = self.dashboard.link(self.origin).rpartition("#")[2]
        value = self.dashboard.links.exchange(token)
        name = f"{COOKIE}_{self._port}"
        return [{"name": name, "value": value, "url": self.origin, "httpOnly": True, "sameSite": "Strict"}]

    def start(self):
        """Start serving; connections are accepted as soon as the thread is ready."""
        listener = socket.create_server((HOST, self._port))
        self._port = listener.getsockname()[1]
        self.dashboard = Dashboard(self.fire, **self._options)
        config = uvicorn.Config(
            self._answer, interface="asgi3", log_level="error", ws="none", lifespan="off",
            proxy_headers=False, timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="dashboard")
        self._thread.start()
        return self

    async def _answer(self, scope, receive, send):
        query = scope["query_string"].decode()
        self.requested.append(f"{scope['path']}?{query}" if query else scope["path"])
        if self._without_stream and scope["path"] == "/live":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.dashboard(scope, receive, send)

    def stop(self):
        """Stop serving; connections to the port are refused."""
        if self._thread is None:
            return
        self.dashboard.close()
        self._server.should_exit = True
        self._thread.join(_DEADLINE)
        assert not self._thread.is_alive(), "the server did not end"
        self._thread = None
