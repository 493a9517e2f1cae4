"""The connection limits of `firelock dashboard`: their maximum number, and how long they may stay open."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack, closing, suppress

import pytest
import uvicorn

from firelock_dashboard.web.connections import ConnectionGuard

DEADLINE = 30.0  # seconds after which a condition counts as never met
LARGE = 16 * 1024 * 1024  # bytes; more than the kernel buffers for a client that does not read
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class App:
    """An app with a small response, a large one, and a slow one.

    It responds to `/large` with more than the kernel buffers, and to `/slow` when the test permits it.
    """

    def __init__(self):
        self.requested = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.has_sent = threading.Event()

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/slow":
            self.requested.release()
            await asyncio.to_thread(self.may_answer.wait, DEADLINE)
        chunks = [b"x" * (LARGE // 16)] * 16 if scope["path"] == "/large" else [b"ok"]
        headers = [(b"content-length", str(sum(map(len, chunks))).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.has_sent.set()


@pytest.fixture
def serve():
    """Return a function that serves the app with the limits of a guard.

    The function returns a client for each given byte string, and a function that connects another client. The
    clients have sent their bytes before the server starts, so a slow test does not use up their time limits.
    """
    with ExitStack() as stack:

        def started(app, *sent, **limits):
            listener = socket.create_server(("127.0.0.1", 0))
            guard = ConnectionGuard(
                **{"most": 100, "request_seconds": DEADLINE, "stalled_seconds": DEADLINE} | limits
            )
            config = uvicorn.Config(
                app, http=guard.protocol, log_level="error", ws="none", lifespan="off", timeout_keep_alive=60,
                timeout_graceful_shutdown=1,
            )  # fmt: skip
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, args=([listener],))

            def connect(sent=b""):
                client = stack.enter_context(closing(socket.create_connection(listener.getsockname()[:2])))
                client.settimeout(DEADLINE)
                client.sendall(sent)
                return client

            clients = [connect(one) for one in sent]
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            return clients, connect

        yield started


def answer_of(client):
    """Return the status of the next response, or None if the server has closed the connection instead."""
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            received = client.recv(1)
            if not received:
                return None
            head += received
        if b"content-length: 2\r\n" in head:
            client.recv(2, socket.MSG_WAITALL)
        return int(head.split()[1])
    except ConnectionError:
        return None


def all_of(client):
    """Return all bytes that the server sends until it closes the connection."""
    chunks = []
    with suppress(ConnectionError):
        while chunk := client.recv(1024 * 1024):
            chunks.append(chunk)
    return b"".join(chunks)


@pytest.mark.parametrize(
    "sent", [b"", b"G", HEAD, HEAD + b"\r\n" + HEAD], ids=["nothing", "a byte", "half", "second"]
)
def test_connection_with_an_incomplete_request_times_out(serve, sent):
    (client,), _ = serve(App(), sent, request_seconds=0.2)

    if sent.count(b"GET") > 1:
        assert answer_of(client) == 200
    assert answer_of(client) is None


def test_slow_bytes_do_not_extend_the_deadline(serve):
    (client,), _ = serve(App(), HEAD, request_seconds=0.5)

    client.settimeout(0.02)

    assert any(is_closed_after(client, b"a: b\r\n") for _ in range(1_500))


def is_closed_after(client, sent):
    """Send bytes, and return whether the server has closed the connection."""
    try:
        client.sendall(sent)
        assert client.recv(1) == b"", "the server answered"
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def test_idle_connection_is_closed_after_its_requests_are_answered(serve):
    (client,), _ = serve(App(), 2 * (HEAD + b"\r\n"), request_seconds=0.2)

    assert [answer_of(client) for _ in range(3)] == [200, 200, None]


def test_complete_request_has_no_time_limit(serve):
    app = App()
    (slow, waiting), _ = serve(app, HEAD.replace(b"/ ", b"/slow ") + b"\r\n", b"", request_seconds=0.1)

    assert answer_of(waiting) is None, "the time limit of the other connection has passed too"
    app.may_answer.set()
    assert answer_of(slow) == 200


def test_body_may_take_longer_than_the_head(serve):
    """`read_body` has its own time limit for the body and sends a response when it expires."""
    app = App()
    head = HEAD.replace(b"GET / ", b"POST /slow ") + b"Content-Length: 9\r\n\r\n"
    (unfinished, waiting), _ = serve(app, head, b"", request_seconds=0.1)

    assert answer_of(waiting) is None, "the time limit of the other connection has passed too"
    app.may_answer.set()
    assert answer_of(unfinished) == 200


def test_connection_of_a_client_that_does_not_read_is_closed(serve):
    app = App()
    (client,), _ = serve(app, HEAD.replace(b"/ ", b"/large ") + b"\r\n", stalled_seconds=0.2)

    assert app.has_sent.wait(DEADLINE), "the server is still waiting for the client"
    assert len(all_of(client)) < LARGE


def test_reading_client_gets_the_whole_response(serve):
    (client,), _ = serve(App(), HEAD.replace(b"/ ", b"/large ") + b"\r\n", request_seconds=0.2)

    assert len(all_of(client)) > LARGE


def test_oldest_unfinished_connection_is_closed_at_the_limit(serve):
    (first, second, third, fourth), _ = serve(App(), HEAD, HEAD, HEAD, HEAD + b"\r\n", most=3)

    assert answer_of(fourth) == 200
    assert answer_of(first) is None
    for client in (second, third):
        client.sendall(b"\r\n")
        assert answer_of(client) == 200


def test_connections_with_a_request_in_progress_are_not_closed(serve):
    """If all connections have a request in progress, a new one gets a 503."""
    app = App()
    busy, connect = serve(app, *[HEAD.replace(b"/ ", b"/slow ") + b"\r\n"] * 2, most=2)
    for _ in busy:
        assert app.requested.acquire(timeout=DEADLINE)

    assert answer_of(connect()) == 503
    app.may_answer.set()
    assert [answer_of(one) for one in busy] == [200, 200]


@pytest.mark.parametrize(
    "start", [HEAD, HEAD.replace(b"GET / ", b"POST /slow ") + b"Content-Length: 9\r\n\r\n"]
)
def test_connection_without_its_body_is_closed_at_the_limit(serve, start):
    app = App()
    (first, _), connect = serve(app, start, start, most=2)

    third = connect(HEAD + b"\r\n")

    assert answer_of(third) == 200
    assert answer_of(first) is None
    app.may_answer.set()
