"""Servers as fixtures, one of a kind for a module's tests: a folder's conftest takes up what it needs."""

from __future__ import annotations

import pytest

from tests.redis.cluster import ClusterServers
from tests.redis.programs import programs_of_groups, programs_of_kit
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer

_PATIENCE = 30.0  # seconds until a server counts as lost: nothing is, however slow the machine


@pytest.fixture(scope="module", params=programs_of_kit())
def program(request):
    """Every Redis and Valkey that tests of every promise run on."""
    return request.param


@pytest.fixture(scope="module")
def server(program):
    """One server; a test empties it first."""
    with RedisServer(program) as server:
        yield server


@pytest.fixture(scope="module", params=programs_of_groups())
def member(request):
    """The Redis that groups of servers are made of."""
    return request.param


@pytest.fixture(scope="module")
def group(member):
    """A primary and a replica under Sentinels; a test empties it first."""
    with SentinelGroup(member, down_after=_PATIENCE) as group:
        yield group


@pytest.fixture(scope="module")
def cluster(member):
    """A Cluster of three primaries; a test empties it first."""
    with ClusterServers(member, node_timeout=_PATIENCE) as cluster:
        yield cluster
