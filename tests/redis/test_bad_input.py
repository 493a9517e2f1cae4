"""A wrong URL, or a Redis that cannot be used: one line says what happened, where, and what to do."""

from __future__ import annotations

import pytest

from firelock import Firelock, StorageError, StorageUnavailable
from tests.faults.proxy import FaultProxy
from tests.ports import HOST, free_port
from tests.redis.certificates import write_certificates
from tests.redis.programs import with_tls
from tests.redis.servers import RedisServer
from tests.refusals import SECRET, refusal, stranger


def stored(fire):
    """How many jobs there are."""
    return sum(fire.jobs.counts().by_state.values())


# ---- who may come in -------------------------------------------------------------------------------------


def test_a_wrong_password_is_said_and_not_shown(program):
    """It is neither in the error nor in what led to it."""
    with RedisServer(program, {"requirepass": "right"}) as server:
        line = refusal(f"redis://:{SECRET}@{HOST}:{server.port}/0", StorageError)

    assert f"redis://:***@{HOST}:{server.port}/0" in line
    assert "refuses the user name or the password" in line


def test_a_missing_password_is_asked_for(program):
    """A server that wants one is not mistaken for one that is away."""
    with RedisServer(program, {"requirepass": SECRET}) as server:
        line = refusal(f"redis://{HOST}:{server.port}/0", StorageError)

    assert f"{HOST}:{server.port}" in line
    assert "wants a password" in line


def test_a_user_without_the_rights_is_told_where_they_are_listed(program):
    """The line leads to the commands that Firelock uses."""
    with RedisServer(program) as server:
        server.ask("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", "+@read", "+@connection", "+info")

        line = refusal(f"redis://reader:{SECRET}@{HOST}:{server.port}/0", StorageError)

    assert "redis://reader:***@" in line
    assert "may not" in line
    assert "docs/redis.md" in line


def test_a_right_that_is_missing_within_a_script_is_told_alike(program):
    """Old servers say it in other words there."""
    with RedisServer(program) as server:
        rights = ("+@read", "+@connection", "+info", "+evalsha", "+eval", "+del", "+time")
        server.ask("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", *rights)

        line = refusal(f"redis://reader:{SECRET}@{HOST}:{server.port}/0", StorageError)

    assert "may not" in line
    assert "docs/redis.md" in line


# ---- who is there ----------------------------------------------------------------------------------------


def test_a_port_at_which_nobody_listens_is_named():
    """A server may yet be started there, so that trying again may help."""
    port = free_port()

    line = refusal(f"redis://{HOST}:{port}/0", StorageUnavailable)

    assert f"{HOST}:{port}" in line
    assert "cannot be reached" in line


def test_a_socket_that_is_not_there_is_named(tmp_path):
    """The path is in the line."""
    line = refusal(f"unix://{tmp_path}/none.sock", StorageUnavailable)

    assert f"{tmp_path}/none.sock" in line
    assert "cannot be reached" in line


def test_a_server_that_does_not_answer_is_given_up(server):
    """The URL's time-out ends the call; the server is not said to be away."""
    with FaultProxy(server.address) as proxy:
        proxy.black_hole()

        line = refusal(server.url(port=proxy.port, options="timeout=1"), StorageUnavailable)

    assert f"{HOST}:{proxy.port}" in line
    assert "did not answer in time" in line


def test_what_is_no_redis_is_said():
    """Somebody else's server at the port is told apart from none."""
    with stranger() as port:
        line = refusal(f"redis://{HOST}:{port}/0", StorageError)

    assert f"{HOST}:{port}" in line
    assert "does not speak Redis" in line


# ---- TLS -------------------------------------------------------------------------------------------------


def test_tls_to_a_plain_port_is_said(server):
    """The line names the scheme to use instead."""
    line = refusal(f"rediss://{HOST}:{server.port}/0", StorageUnavailable)

    assert f"{HOST}:{server.port}" in line
    assert "does not speak TLS" in line
    assert "redis://" in line


@pytest.mark.parametrize("program", with_tls())
def test_a_plain_url_to_a_tls_port_is_said(program, tmp_path):
    """The line names the scheme to use instead."""
    with RedisServer(program, tls=write_certificates(tmp_path)) as server:
        line = refusal(f"redis://{HOST}:{server.port}/0", StorageUnavailable)

    assert f"{HOST}:{server.port}" in line
    assert "rediss://" in line


@pytest.mark.parametrize("program", with_tls())
def test_a_certificate_that_nobody_vouches_for_is_refused(program, tmp_path):
    """The line names the option that says whom to trust; with it, the server is used."""
    with RedisServer(program, tls=write_certificates(tmp_path)) as server:
        line = refusal(server.url(), StorageUnavailable)
        trusting = Firelock(server.url(options=f"ssl_ca_certs={tmp_path}/ca.crt"))

        assert "ssl_ca_certs=" in line
        assert 0 == stored(trusting)
        trusting.close()


# ---- which part it has -----------------------------------------------------------------------------------


def test_a_replica_is_told_from_its_primary(program, server):
    """It takes no writes, at least for now; the line names what finds the primary."""
    with RedisServer(program, {"replicaof": f"{HOST} {server.port}"}) as replica:
        line = refusal(replica.url(), StorageUnavailable)

    assert f"{HOST}:{replica.port}" in line
    assert "it is a replica" in line
    assert "redis+sentinel://" in line


def test_a_cluster_is_not_looked_for_at_a_single_server(server):
    """The line names the scheme to use instead."""
    line = refusal(f"redis+cluster://{HOST}:{server.port}", StorageError)

    assert f"{HOST}:{server.port}" in line
    assert "no cluster" in line
    assert "use redis://" in line


def test_a_node_of_a_cluster_is_not_taken_for_a_single_server(cluster):
    """The same from every node, also from that to which the first key belongs."""
    lines = {node.port: refusal(node.url(), StorageError) for node in cluster.nodes}

    for port, line in lines.items():
        assert f"{HOST}:{port}" in line
        assert "node of a cluster" in line
        assert "use redis+cluster://" in line


def test_an_unknown_service_is_named(group):
    """The Sentinels answer, but know no such name."""
    line = refusal(group.url(service="nobody"), StorageUnavailable)

    assert "'nobody'" in line
    assert "Look at the name" in line


def test_a_server_is_not_taken_for_a_sentinel(server):
    """The line says so, and names the scheme to use instead."""
    line = refusal(f"redis+sentinel://{HOST}:{server.port}/firelock", StorageError)

    assert f"{HOST}:{server.port}" in line
    assert "no Sentinel" in line
    assert "use redis://" in line


def test_a_sentinel_is_not_taken_for_a_server(group):
    """The line says so, and names the scheme to use instead."""
    line = refusal(group.sentinels[0].url(), StorageError)

    assert f"{HOST}:{group.sentinels[0].port}" in line
    assert "a Sentinel" in line
    assert "use redis+sentinel://" in line


def test_a_database_that_there_is_not_is_named(server):
    """A server has sixteen, unless its configuration says otherwise."""
    line = refusal(f"redis://{HOST}:{server.port}/99", StorageError)

    assert f"{HOST}:{server.port}/99" in line
    assert "database 99" in line


# ---- what it does to jobs --------------------------------------------------------------------------------


def test_an_evicting_policy_is_refused_before_the_first_job(program):
    """It would drop jobs; the line names the policy, the one to set, and how to have it all the same."""
    with RedisServer(program, {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        line = refusal(server.url(), StorageError)
        careless = Firelock(server.url(options="eviction=allow"))

        assert "allkeys-lru" in line
        assert "Set maxmemory-policy noeviction" in line
        assert "?eviction=allow" in line
        assert 0 == stored(careless)
        careless.close()


def test_a_full_memory_refuses_jobs_and_says_so(program):
    """Nothing of a refused job is stored; once there is room, the next one is."""
    with RedisServer(program) as server:
        fire = Firelock(server.url())

        @fire.task(name="task")
        def task() -> None: ...

        task.enqueue()
        server.ask("CONFIG", "SET", "maxmemory", "1")

        with pytest.raises(StorageUnavailable) as caught:
            task.enqueue()

        assert "memory is full; raise maxmemory" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert 1 == stored(fire)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        task.enqueue()
        assert 2 == stored(fire)
        fire.close()
