"""The status that a server reports, and the port that serves it."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time

import attrs
import pytest

from firelock import Firelock, Settings
from firelock.errors import ConfigurationError
from firelock.model.metrics import metrics_text
from firelock.server import probes as module
from firelock.server.probes import (
    ProbeAnswer,
    ProbeListener,
    ProcessStatus,
    ServerStatus,
    liveness,
    readiness,
    reported,
    server_families,
    startup,
)
from firelock.server.shared_memory import SharedMemory, WorkerCounts
from tests.core.fakes import FailingStorage, until
from tests.ports import HOST, free_port

PROCESS = ProcessStatus(
    place=0,
    pid=7,
    age=60,
    has_loaded=True,
    waited=50,
    workers=WorkerCounts(20, busy_threads=3),
    silence=0.5,
    turned=0.2,
    has_session=True,
    has_begun=True,
)
SERVER = ServerStatus(
    name="web:1", mode="running", processes=(PROCESS,), reached=1.0, hang_timeout=300.0, heartbeat=10.0
)


def server_with(**changes):
    return attrs.evolve(SERVER, **changes)


def child_with(**changes):
    return server_with(processes=(attrs.evolve(PROCESS, **changes),))


def lines(checks):
    return [str(check) for check in checks]


# ---- alive, ready, started -------------------------------------------------------------------------------


def test_running_server_is_alive_ready_and_started():
    """Each check is one line that contains its values."""
    assert lines(liveness(SERVER)) == [
        "ok supervisor: its loop turned 0.0 s ago",
        "ok worker process 0: its loop turned 0.2 s ago, 3 of 20 threads busy",
    ]
    assert lines(readiness(SERVER)) == [
        "ok storage: it responded 1.0 s ago",
        "ok session: 1 of 1 worker process may start jobs",
        "ok mode: running",
    ]
    assert lines(startup(SERVER)) == ["ok worker process 0: it has started"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (child_with(turned=301), "worker process 0: its loop has not turned for 301 s (maximum: 300 s)"),
        (child_with(silence=301), "worker process 0: it has not reported for 301 s (maximum: 300 s)"),
        (
            child_with(silence=None, has_loaded=False, age=301),
            "worker process 0: it has been starting for 301.0 s (maximum: 300 s)",
        ),
        (
            child_with(silence=None, waited=301),
            "worker process 0: it has been starting for 301.0 s (maximum: 300 s)",
        ),
        (child_with(turned=None, waited=301), "worker process 0: its loop has not turned for 301 s"),
        (server_with(turned=301), "supervisor: its loop has not turned for 301 s"),
    ],
)
def test_server_with_a_hanging_loop_is_not_alive(status, message):
    """The supervisor, a dispatcher and the reports of a worker process are checked.

    The bound is `hang_timeout`.
    """
    failed = [line for line in lines(liveness(status)) if line.startswith("failed")]

    assert len(failed) == 1
    assert message in failed[0]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (child_with(pid=None, starts_in=4.0), "ok worker process 0: it has ended; another one starts in 4 s"),
        (
            child_with(silence=None, has_loaded=False, age=3),
            "ok worker process 0: it has been starting for 3.0 s (maximum: 300 s)",
        ),
        (child_with(turned=None, waited=3), "ok worker process 0: its loop turned 3.0 s ago"),
    ],
)
def test_server_is_alive_while_a_worker_process_is_replaced(status, message):
    """Restarting the whole server because of one worker process would end the other processes as well."""
    assert lines(liveness(status))[1] == message


def test_server_is_alive_while_the_storage_is_unreachable():
    """A restarted process could not reach the storage either."""
    assert all(check.is_ok for check in liveness(server_with(reached=None)))


def test_worker_process_that_waits_for_its_session_is_alive():
    """During an outage, a worker process waits for its session.

    The time without a report is counted from the beginning of the session.
    """
    waits = attrs.evolve(PROCESS, age=9_000, waited=None, silence=None, turned=None, has_session=False)
    has_begun = attrs.evolve(waits, waited=4)

    assert lines(liveness(server_with(processes=(waits,))))[1] == (
        "ok worker process 0: it waits for its session, which begins when the storage responds"
    )
    assert [0, 4] == [child.silent_for for child in (waits, has_begun)]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (WorkerCounts(4, 0, 3, 0), "3 of 4 threads busy"),
        (WorkerCounts(4, 100, 3, 7), "3 of 4 threads and 7 of 100 coroutines busy"),
        (
            WorkerCounts(4, 100, 4, 7, 4, 1),
            "4 of 4 threads and 7 of 100 coroutines busy, 5 of them with a timed-out job",
        ),
    ],
)
def test_threads_and_coroutines_are_counted_separately(workers, message):
    """Idle coroutines do not hide that all threads are busy.

    A job past its timeout does not count as a hanging loop.
    """
    assert (
        lines(liveness(child_with(workers=workers)))[1]
        == f"ok worker process 0: its loop turned 0.2 s ago, {message}"
    )


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (server_with(reached=None), "failed storage: it has not been reached yet"),
        (server_with(reached=21.0), "failed storage: it responded 21.0 s ago (maximum: 20 s)"),
        (
            server_with(processes=(attrs.evolve(PROCESS, failing=12.0), attrs.evolve(PROCESS, failing=9.0))),
            "failed storage: it responded 1.0 s ago, but has refused claims for 9.0 s",
        ),
        (child_with(has_session=False), "failed session: 0 of 1 worker process may start jobs"),
        (server_with(mode="quiet"), "failed mode: draining: the server is quiet and claims no jobs"),
        (server_with(mode="stopping"), "failed mode: draining: the server is stopping"),
        (server_with(mode="hurrying"), "failed mode: draining: the server is stopping"),
    ],
)
def test_server_that_claims_nothing_is_not_ready(status, message):
    """The failed check is shown as one line with one reason."""
    assert [line for line in lines(readiness(status)) if line.startswith("failed")] == [message]


def test_ready_needs_one_session_and_started_needs_all():
    """The replacement of a worker process affects neither readiness nor startup."""
    both = server_with(processes=(PROCESS, ProcessStatus(place=1)))

    assert all(check.is_ok for check in readiness(both))
    assert lines(startup(both)) == [
        "ok worker process 0: it has started",
        "failed worker process 1: it has not begun to run jobs yet",
    ]
    assert all(check.is_ok for check in startup(child_with(has_session=False)))


def test_status_of_a_worker_process_is_read_from_its_memory():
    """Values that the process has not reported yet are None.

    The process may run jobs as long as its session lasts.
    """
    memory, status = SharedMemory.create(2), ProcessStatus(place=0, pid=7, has_session=True, cpu_seconds=5.0)
    silent = reported(status, memory)
    memory.report(WorkerCounts(2, busy_threads=1), cpu_seconds=2.0, rss_bytes=4096)
    memory.turn()
    memory.grant(9e9)
    child = reported(status, memory)
    memory.close()

    assert (silent.silence, silent.turned, silent.has_session) == (None, None, False)
    assert (child.workers, child.cpu_seconds, child.rss_bytes) == (WorkerCounts(2, busy_threads=1), 7.0, 4096)
    assert child.has_session
    assert child.silence is not None
    assert child.turned is not None
    with pytest.raises(ValueError, match="closed"):
        reported(status, memory)


def test_metrics_of_a_server():
    """The metrics contain the server's mode and readiness.

    For each worker process, they contain its workers, CPU time and memory.
    """
    workers = WorkerCounts(20, busy_threads=3, stuck_threads=2, parked=4)
    server = attrs.evolve(child_with(workers=workers), round_trips=(0,) * 13 + (2,), mode="quiet")
    text = metrics_text(server_families(server))

    assert {
        "firelock_server_ready 0",
        'firelock_server_mode{mode="quiet"} 1',
        'firelock_server_mode{mode="running"} 0',
        "firelock_storage_age_seconds 1",
        "firelock_storage_roundtrip_seconds_count 2",
        'firelock_worker_process_up{process="0"} 1',
        'firelock_worker_process_starts_total{process="0"} 1',
        'firelock_worker_process_worker_slots{process="0",state="busy"} 3',
        'firelock_worker_process_worker_slots{process="0",state="idle"} 17',
        'firelock_worker_process_stuck_workers{process="0",kind="thread"} 2',
        'firelock_worker_process_stuck_workers{process="0",kind="coroutine"} 0',
        'firelock_worker_process_parked_ends{process="0"} 4',
    } <= set(text.splitlines())


# ---- the port --------------------------------------------------------------------------------------------


@pytest.fixture
def listen():
    """A function that serves the pages on a free port; the listeners are closed at the end."""
    listeners = []

    def start(pages, port=None):
        port = port or free_port()
        listener = ProbeListener(HOST, port, pages)
        listeners.append(listener)
        return port

    yield start
    for listener in listeners:
        listener.close()


def send(port, request):
    """Return the whole response to these bytes."""
    with socket.create_connection((HOST, port), timeout=10) as connection:
        connection.sendall(request)
        reply = b""
        while received := connection.recv(65536):
            reply += received
    return reply.decode()


def get(port, path):
    """Return the status and the body of a page."""
    head, _, text = send(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).partition("\r\n\r\n")
    return int(head.split()[1]), text


def well():
    return ProbeAnswer(200, "wäll\n")


def test_page_is_sent_whole_and_the_connection_is_closed(listen):
    """The response contains its length and type and must not be cached. A query string is ignored."""
    port = listen({"/a": well})

    reply = send(port, b"GET /a?x=1 HTTP/1.1\r\n\r\n")

    head, _, text = reply.partition("\r\n\r\n")
    assert head.split("\r\n")[0] == "HTTP/1.1 200 OK"
    assert {"Content-Length: 6", "Connection: close", "Cache-Control: no-store"} <= set(head.split("\r\n"))
    assert text == "wäll\n"


def test_head_response_has_no_body(listen):
    """The response to HEAD still contains the length."""
    reply = send(listen({"/a": well}), b"HEAD /a HTTP/1.0\r\n\r\n")

    assert "Content-Length: 6" in reply
    assert reply.endswith("\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (b"POST /a HTTP/1.1\r\n\r\n", 405, "Allow: GET, HEAD"),
        (b"GET /b HTTP/1.1\r\n\r\n", 404, "Available paths: /a."),
        (b"GET /../a HTTP/1.1\r\n\r\n", 404, "Available paths: /a."),
        (b"GET a HTTP/1.1\r\n\r\n", 400, "not a valid HTTP request"),
        (b"\xff\x00\r\n\r\n", 400, "not a valid HTTP request"),
        (b"GET /a HTTP/1.1\r\n" + b"x" * 9_000, 431, "too long"),
    ],
)
def test_invalid_request_is_refused(listen, request_, status, message):
    """The response to each invalid request has a specific status and an explanation in one sentence."""
    reply = send(listen({"/a": well}), request_)

    assert reply.startswith(f"HTTP/1.1 {status} ")
    assert message in reply


def test_exception_in_a_page_is_logged_and_sent_as_an_error(listen, caplog):
    """The listener responds to the next request as usual."""
    port = listen({"/a": well, "/b": lambda: 1 // 0})

    with caplog.at_level(logging.ERROR):
        assert get(port, "/b")[0] == 500
    assert "Probe /b failed." in caplog.text
    assert get(port, "/a") == (200, "wäll\n")


def test_silent_connection_does_not_block_other_clients(listen):
    """Neither an open connection that sends nothing nor a dropped connection affects other clients."""
    port = listen({"/a": well})

    with socket.create_connection((HOST, port)):
        socket.create_connection((HOST, port)).close()
        assert get(port, "/a") == (200, "wäll\n")


def test_three_hundred_slow_connections_do_not_delay_a_probe(listen):
    """If more connections than the maximum are open, the oldest are closed, and no probe waits for them."""
    port = listen({"/a": well})

    with contextlib.ExitStack() as slow:
        callers = [slow.enter_context(socket.create_connection((HOST, port))) for _ in range(300)]
        for caller in callers:
            with contextlib.suppress(ConnectionError):
                caller.sendall(b"GET /a HTTP/1.1\r\n")
        began = time.monotonic()
        answer = get(port, "/a")
        took = time.monotonic() - began

    assert answer == (200, "wäll\n")
    assert took < 1.0


def test_response_larger_than_the_buffer_is_sent_whole(listen):
    """A client that reads slowly does not occupy a thread, so other requests are served as well."""
    text = "x" * 8_000_000
    port = listen({"/big": lambda: ProbeAnswer(200, text), "/a": well})

    with socket.create_connection((HOST, port)) as slow:
        slow.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        assert get(port, "/a") == (200, "wäll\n")

    assert get(port, "/big") == (200, text)


def test_slow_connection_is_closed(listen, monkeypatch):
    """Each connection has a total time limit, however many bytes the client sends."""
    monkeypatch.setattr(module, "_TIMEOUT", 0.05)
    port = listen({"/a": well})

    with socket.create_connection((HOST, port), timeout=10) as slow:
        slow.sendall(b"GET /a")
        with contextlib.suppress(ConnectionError):  # the connection was closed before the bytes arrived
            assert slow.recv(100) == b""


def test_port_that_is_in_use_raises_an_error(listen):
    """The error states which setting to change."""
    port = listen({"/a": well})

    with pytest.raises(
        ConfigurationError, match=rf"{HOST}:{port}: Address already in use\. Set another port"
    ):
        ProbeListener(HOST, port, {})
    with pytest.raises(ConfigurationError, match=r"Cannot listen for probes at http://no\.such"):
        ProbeListener("no.such.host.invalid", port, {})


def test_closed_port_is_free_again(listen):
    """The next listener can use the port."""
    port = free_port()
    ProbeListener(HOST, port, {"/a": well}).close()

    assert get(listen({"/a": well}, port), "/a")[0] == 200


# ---- a server inside this process ------------------------------------------------------------------------


@pytest.fixture
def fire():
    """An app with a task, on a storage with programmable failures."""
    settings = Settings(heartbeat=0.1, session_timeout=2, sweep=0.1, poll=0.2, grace=5)
    with Firelock(FailingStorage(), settings=settings) as app:
        app.task(name="noop")(lambda: None)
        yield app


def test_embedded_server_serves_probes_while_it_runs(fire):
    """A running server is alive, ready and started, and a quiet one is draining.

    After the stop, its port is closed.
    """
    port = free_port()
    with fire.server(workers=1, probe_port=port, probe_host=HOST):
        until(lambda: "its loop turned" in get(port, "/livez")[1].splitlines()[1])
        until(lambda: [get(port, path)[0] for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200])

        (server,) = fire.servers.list()
        fire.servers.order(server.id, "quiet")
        until(lambda: get(port, "/readyz")[0] == 503)
        assert "failed mode: draining" in get(port, "/readyz")[1]
        assert get(port, "/livez")[0] == 200

    with pytest.raises(ConnectionError):
        get(port, "/livez")


def test_server_is_not_ready_while_the_storage_is_unreachable(fire):
    """The probe does not query the storage; it responds immediately with the result of the last renewals."""
    from firelock.errors import StorageUnavailable

    port = free_port()
    with fire.server(workers=1, probe_port=port):
        fire.storage.fail_always("renew", StorageUnavailable("gone"))
        until(lambda: get(port, "/readyz")[0] == 503)
        answer = get(port, "/readyz")[1]
        fire.storage.recover()
        until(lambda: get(port, "/readyz")[0] == 200)

    assert "failed storage: it responded" in answer


def test_server_is_ready_while_one_worker_process_claims():
    """The other worker process may have lost only its own connection."""
    children = (attrs.evolve(PROCESS, failing=12.0), PROCESS)

    assert all(check.is_ok for check in readiness(server_with(processes=children)))


def test_server_is_not_ready_while_the_storage_refuses_claims(fire):
    """For example, a full disk refuses claims although sessions can still be renewed."""
    from firelock.errors import StorageUnavailable

    port = free_port()
    with fire.server(workers=1, probe_port=port):
        fire.storage.fail_always("claim", StorageUnavailable("the disk is full"))
        until(lambda: get(port, "/readyz")[0] == 503)
        answer = get(port, "/readyz")[1]
        fire.storage.recover()
        until(lambda: get(port, "/readyz")[0] == 200)

    assert "but has refused claims for" in answer


@pytest.mark.parametrize("port", [0, 70_000, "8081", True])
def test_invalid_port_raises_an_error(fire, port):
    """The error names the parameter and is raised before anything starts."""
    with pytest.raises(ConfigurationError, match="probe_port must be an integer"):
        fire.server(probe_port=port)


def test_port_that_is_in_use_prevents_the_start(fire, listen):
    """No part of the server remains, so it can be started on another port."""
    port = listen({"/a": well})
    server = fire.server(probe_port=port)

    with pytest.raises(ConfigurationError, match="Address already in use"):
        server.start()
    assert not server.is_running
    assert fire.servers.list() == []


class WatchedStorage(FailingStorage):
    """A storage that records which threads have called it."""

    def __init__(self):
        super().__init__()
        self.callers = set()

    def call(self, verb, args, kwargs):
        self.callers.add(threading.current_thread().name)
        return super().call(verb, args, kwargs)


def test_probe_does_not_use_the_storage():
    """A probe neither queries the storage nor waits for a renewal that hangs."""
    port, goes_on = free_port(), threading.Event()
    with Firelock(WatchedStorage(), settings=Settings(heartbeat=0.1, session_timeout=2)) as fire:
        fire.task(name="noop")(lambda: None)
        with fire.server(workers=1, probe_port=port):
            until(lambda: get(port, "/readyz")[0] == 200)
            renew = fire.storage.renew
            fire.storage.renew = lambda *args: goes_on.wait(10) and renew(*args)
            until(lambda: get(port, "/readyz")[0] == 503)
            answers = [get(port, path)[0] for path in ("/livez", "/readyz", "/startupz", "/metrics")]
            goes_on.set()
        callers = fire.storage.callers

    assert answers == [200, 503, 200, 200]
    assert callers
    assert not [name for name in callers if name.startswith("firelock-probe")]
