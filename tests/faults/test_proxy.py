"""The fault proxy itself: it loses, holds, slows and counts as requested."""

from __future__ import annotations

import socket
import socketserver
import threading
import time

import pytest

from firelock.testing import eventually
from tests.faults.proxy import FaultProxy, Slowness, Traffic


class _Answering(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            while line := self.rfile.readline():
                self.server.seen.append(line.strip().decode())
                self.wfile.write(b"you sent " + line)
        except ConnectionError:  # caused by the proxy
            return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answering)
        self.seen = []


@pytest.fixture
def server():
    """Yield a server that replies to each line and records it."""
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    with FaultProxy(server.server_address) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    opened = []

    def connect():
        opened.append(socket.create_connection(proxy.address, timeout=10))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def send(client, line):
    client.sendall(line.encode() + b"\n")
    return client.makefile().readline().strip()


def test_traffic_passes_and_is_counted(connect, proxy):
    """A round trip is a request with its reply, however many lines they have.

    Bytes are counted in each direction.
    """
    client = connect()

    answers = [send(client, "one"), send(client, "two")]

    assert ["you sent one", "you sent two"] == answers
    assert Traffic(connections=1, trips=2, sent=8, received=26) == proxy.traffic
    before = proxy.traffic
    send(client, "three")
    assert Traffic(trips=1, sent=6, received=15) == proxy.traffic - before


def test_lost_request_never_arrives(connect, proxy, server):
    """The client is disconnected, the server does not receive anything, and the next request is passed on."""
    proxy.lose_request(lambda request: b"two" in request)

    assert "you sent one" == send(connect(), "one")
    with pytest.raises(ConnectionResetError):
        send(connect(), "two")
    assert "you sent two" == send(connect(), "two")
    assert (["one", "two"], 1) == (server.seen, proxy.lost)


def test_request_of_a_lost_reply_is_processed(connect, proxy, server):
    """The server processes the requests, but the given number of replies does not reach the client."""
    proxy.lose_reply(times=2)

    for line in ("one", "two"):
        with pytest.raises(ConnectionResetError):
            send(connect(), line)
    assert "you sent three" == send(connect(), "three")
    assert (["one", "two", "three"], 2) == (server.seen, proxy.lost)


def test_reply_is_cut_after_some_bytes(connect, proxy):
    """The given number of bytes arrives before the connection is reset."""
    proxy.lose_reply(after=3)
    client = connect()

    client.sendall(b"one\n")

    assert b"you" == client.recv(3)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_black_hole_holds_data_until_it_is_healed(connect, proxy, server):
    """Until then, no data passes and no connection ends. After that, all delayed data arrives."""
    client = connect()
    send(client, "one")
    proxy.black_hole()

    client.sendall(b"two\n")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert ["one"] == server.seen
    client.settimeout(10)
    proxy.heal()

    assert "you sent two" == client.makefile().readline().strip()


def test_reset_ends_existing_connections(connect, proxy):
    """Existing connections are reset, including those in a black hole. New ones are served."""
    clients = [connect(), connect()]
    for client in clients:
        send(client, "one")
    proxy.black_hole()
    clients[0].sendall(b"two\n")

    proxy.reset()
    proxy.heal()

    for client in clients:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert 0 == proxy.connections
    assert "you sent one" == send(connect(), "one")


def test_refusing_proxy_serves_no_connection(connect, proxy):
    """Existing and new connections are reset until the proxy is healed."""
    client = connect()
    send(client, "one")

    proxy.refuse()

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):  # while connecting, or just after
        connect().recv(1)
    proxy.heal()
    assert "you sent one" == send(connect(), "one")


def test_slow_line_delays_each_piece(connect, proxy):
    """Each piece of data is delayed in both directions, but the reply is complete."""
    proxy.slow(Slowness(delay=0.01, jitter=0.005, rate=10_000, piece=4))
    client = connect()
    began = time.monotonic()

    answer = send(client, "x" * 40)

    assert "you sent " + "x" * 40 == answer
    assert time.monotonic() - began > 20 * 0.005


def test_data_from_the_server_is_changed(connect, proxy):
    """Until the proxy is healed, the client gets the return value of the function instead of the data."""
    client = connect()
    proxy.alter(lambda piece: piece.replace(b"you", b"nobody"))

    assert "nobody sent one" == send(client, "one")
    proxy.heal()
    assert "you sent two" == send(client, "two")


def test_unreachable_server_ends_the_connection(proxy, connect, server):
    server.server_close()

    assert b"" == connect().recv(1)
    eventually(lambda: proxy.connections == 0)


def test_on_sent_is_called_before_a_piece_is_sent(server):
    """The function gets each piece and the number of its connection before the server replies to it."""
    seen = []
    with FaultProxy(server.server_address, on_sent=lambda *one: seen.append(one)) as proxy:
        for line in ("one", "two"):
            with socket.create_connection(proxy.address, timeout=10) as client:
                send(client, line)

    assert [(1, b"one\n"), (2, b"two\n")] == seen


def test_unix_sockets_are_supported(tmp_path, server):
    """The proxy can listen at a path and connect to one."""
    with (
        FaultProxy(server.server_address, listens_at=tmp_path / "a") as inner,
        FaultProxy(inner.address, listens_at=tmp_path / "b"),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(str(tmp_path / "b"))
        assert "you sent one" == send(client, "one")
    assert not (tmp_path / "a").exists()


def test_connection_accepted_during_the_close_is_closed(server):
    """No client keeps a connection that the proxy has accepted but does not serve."""
    clients = []
    with FaultProxy(server.server_address) as proxy:
        clients += [socket.create_connection(proxy.address, timeout=10) for _ in range(20)]

    for client in clients:
        with client:
            try:
                assert b"" == client.recv(1)
            except ConnectionResetError:
                continue
