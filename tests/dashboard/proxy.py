"""A reverse proxy with nginx's defaults: HTTP/1.1, `Host` rewritten to the upstream's, no headers added."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from contextlib import contextmanager
from urllib.parse import urlencode
from wsgiref.simple_server import WSGIRequestHandler, make_server

import uvicorn

from tests.dashboard.browser import FORM, Answer

HOST = "127.0.0.1"
OUTSIDE = "jobs.example.com"  # the proxy's host name in visitors' requests
_DEADLINE = 20.0
_HOP = (b"connection:", b"host:", b"keep-alive:")


class _Silent(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served_by_asgi(app):
    """Serve the application over ASGI, and yield its port."""
    config = uvicorn.Config(
        app, interface="asgi3", log_level="error", ws="none", lifespan="off",
        proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    # connections are accepted as soon as the thread is ready
    listener = socket.create_server((HOST, 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(_DEADLINE)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


@contextmanager
def served_by_wsgi(app):
    """Serve the application over WSGI, and yield its port."""
    server = make_server(HOST, 0, app, handler_class=_Silent)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_DEADLINE)


@contextmanager
def silent_proxy(upstream):
    """Run a proxy in front of this port, and yield the proxy's port."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports, stop = [], asyncio.Event()

    async def pass_on(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        kept = [line for line in lines if not line.lower().startswith(_HOP)]
        own = [f"Host: {HOST}:{upstream}".encode(), b"Connection: close"]
        there, out = await asyncio.open_connection(HOST, upstream)
        out.write(b"\r\n".join([first, *own, *kept, b"", body]))
        await out.drain()
        writer.write(await there.read())
        await writer.drain()
        for each in (out, writer):
            each.close()

    async def run():
        server = await asyncio.start_server(pass_on, HOST, 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(_DEADLINE)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_DEADLINE)
        loop.close()


def fetch(port, method, path, headers=(), form=()):
    """Send a request as a remote browser does, with the proxy's host name."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_DEADLINE)
    sent = {"Host": OUTSIDE, **dict(headers)}
    body = urlencode(form).encode() if method == "POST" else None
    if body is not None:
        sent["Content-Type"] = FORM
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        kept = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, kept, response.read())
    finally:
        connection.close()
