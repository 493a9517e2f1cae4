"""Across modules: a wrong URL or an unusable Redis is reported in one line, with the reason and the fix."""

from __future__ import annotations

from contextlib import closing

import pytest

from firelock import Firelock, StorageError, StorageUnavailable
from firelock.plugins.loader import open_storage
from tests.faults.proxy import FaultProxy
from tests.ports import HOST, free_port
from tests.redis.certificates import write_certificates
from tests.redis.programs import with_tls
from tests.redis.servers import RedisServer
from tests.refusals import SECRET, http_server, refusal


def stored(fire):
    """Return the number of jobs."""
    return sum(fire.jobs.counts().by_state.values())


def assert_says(line, *words):
    """Assert that the line contains all of these words."""
    assert [word for word in words if word not in line] == [], line


# ---- access ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "login", "message"),
    [
        ("right", f":{SECRET}@", "refuses the user name or the password"),
        (SECRET, "", "requires a password"),
    ],
    ids=["wrong", "missing"],
)
def test_wrong_password_is_reported_without_showing_it(program, password, login, message):
    """The error and its causes do not contain the password. The server is not reported as unreachable."""
    with RedisServer(program, {"requirepass": password}) as server:
        line = refusal(f"redis://{login}{HOST}:{server.port}/0", StorageError)

    assert_says(line, f"redis://{login and ':***@'}{HOST}:{server.port}/0", message)


@pytest.mark.parametrize(
    "rights", [["+@read"], ["+@read", "+evalsha", "+eval", "+del", "+time"]], ids=["all", "in a script"]
)
def test_missing_permission_error_names_the_list_of_commands(program, rights):
    """The error refers to the list of the commands that Firelock uses.

    In a script, old servers word their error differently.
    """
    with RedisServer(program) as server:
        rights = (*rights, "+@connection", "+info")
        server.call("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", *rights)

        line = refusal(f"redis://reader:{SECRET}@{HOST}:{server.port}/0", StorageError)

    assert_says(line, "redis://reader:***@", "lacks permission", "docs/redis.md")


# ---- availability ----------------------------------------------------------------------------------------


def test_unreachable_server_error_names_the_address(tmp_path):
    """Because a server might be started later at the port or socket, repeating the call may succeed."""
    for place in (f"redis://{HOST}:{free_port()}/0", f"unix://{tmp_path}/none.sock"):
        assert_says(refusal(place, StorageUnavailable), place, "cannot be reached")


def test_unresponsive_server_times_out(server):
    """The call ends after the timeout in the URL. The error does not state that the server is unreachable."""
    with FaultProxy(server.address) as proxy:
        proxy.black_hole()

        line = refusal(server.url(port=proxy.port, options="timeout=1"), StorageUnavailable)

    assert_says(line, f"{HOST}:{proxy.port}", "did not respond in time")


def test_different_protocol_is_reported():
    """The error distinguishes a port with a different kind of server from a port without a server."""
    with http_server() as port:
        line = refusal(f"redis://{HOST}:{port}/0", StorageError)

    assert_says(line, f"{HOST}:{port}", "does not use the Redis protocol")


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("rediss://{}/0", StorageUnavailable, ["might not use TLS", "use redis://"]),
        ("redis+cluster://{}", StorageError, ["not a cluster", "use redis://"]),
        ("redis+sentinel://{}/firelock", StorageError, ["not a Sentinel", "use redis://"]),
        ("redis://{}/99", StorageError, ["/99", "database 99"]),  # it has sixteen
    ],
    ids=["tls", "cluster", "sentinel", "database"],
)
def test_wrong_scheme_for_a_single_server_is_reported(server, url, kind, message):
    """The error names the scheme that must be used instead, or the missing feature."""
    place = f"{HOST}:{server.port}"

    assert_says(refusal(url.format(place), kind), place, *message)


def test_foreign_key_with_the_prefix_is_reported(server):
    """Scripts detect such a key too, although the error of old servers is worded differently."""
    server.empty()
    with closing(open_storage(server.url())) as storage:
        storage.migrate()
        server.client().set("firelock:{0}:k:kind", "mine")

        with pytest.raises(StorageError, match="was not written by Firelock; use another"):
            storage.put_record("kind", "key", "value")


# ---- TLS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", with_tls())
def test_tls_port_needs_its_scheme_and_authority(program, tmp_path):
    """The error names the scheme, or the option for the trusted authority.

    If both are given, the connection succeeds.
    """
    with RedisServer(program, tls=write_certificates(tmp_path)) as server:
        plain = refusal(f"redis://{HOST}:{server.port}/0", StorageUnavailable)
        doubted = refusal(server.url(), StorageUnavailable)
        trusting = Firelock(server.url(options=f"ssl_ca_certs={tmp_path}/ca.crt"))

        assert_says(plain, f"{HOST}:{server.port}", "rediss://")
        assert_says(doubted, "ssl_ca_certs=")
        assert 0 == stored(trusting)
        trusting.close()


# ---- roles -----------------------------------------------------------------------------------------------


def test_replica_is_refused(program, server):
    """A replica does not accept writes, at least for now.

    The error names the scheme that finds the primary.
    """
    with RedisServer(program, {"replicaof": f"{HOST} {server.port}"}) as replica:
        line = refusal(replica.url(), StorageUnavailable)

    assert_says(line, f"{HOST}:{replica.port}", "it is a replica", "redis+sentinel://")


def test_cluster_node_is_refused_as_a_single_server(cluster):
    """All nodes cause the same error, including the one that has the first key."""
    for node in cluster.nodes:
        line = refusal(node.url(), StorageError)
        assert_says(line, f"{HOST}:{node.port}", "node of a cluster", "use redis+cluster://")


def test_unknown_sentinel_service_is_reported(group):
    """The error names the unknown service. A Sentinel is never used as a Redis server."""
    sentinel = group.sentinels[0]

    assert_says(refusal(group.url(service="nobody"), StorageUnavailable), "'nobody'", "Check the name")
    line = refusal(sentinel.url(), StorageError)
    assert_says(line, f"{HOST}:{sentinel.port}", "a Sentinel", "use redis+sentinel://")


# ---- eviction and memory ---------------------------------------------------------------------------------


def test_evicting_policy_is_refused_before_the_first_job(program):
    """A policy that evicts keys would delete jobs.

    The error contains this policy, the policy to set, and the option that allows eviction.
    """
    with RedisServer(program, {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        line = refusal(server.url(), StorageError)
        careless = Firelock(server.url(options="eviction=allow"))

        assert_says(line, "allkeys-lru", "Set maxmemory-policy to noeviction", "?eviction=allow")
        assert 0 == stored(careless)
        careless.close()


def test_enqueue_fails_while_memory_is_full(program):
    """No part of a refused job is stored. When memory is available again, the next job is accepted."""
    with RedisServer(program) as server:
        fire = Firelock(server.url())

        @fire.task(name="task")
        def task() -> None: ...

        task.enqueue()
        server.call("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(StorageUnavailable) as caught:
            task.enqueue()

        assert "memory is full; raise maxmemory" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert 1 == stored(fire)
        server.call("CONFIG", "SET", "maxmemory", "0")
        task.enqueue()
        assert 2 == stored(fire)
        fire.close()
