"""Servers as fixtures, one of each kind for a module's tests.

The conftest of a folder imports the fixtures that it needs.
"""

from __future__ import annotations

import pytest

from tests.redis.cluster import ClusterServers
from tests.redis.programs import programs_of_groups, programs_of_kit
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer

_PATIENCE = 30.0  # seconds until a server counts as lost: long enough for any machine, so none does


@pytest.fixture(scope="module", params=programs_of_kit())
def program(request):
    """The Redis and Valkey programs that the tests for all servers run on."""
    return request.param


@pytest.fixture(scope="module")
def server(program):
    """One server; each test empties it first."""
    with RedisServer(program) as server:
        yield server


@pytest.fixture(scope="module", params=programs_of_groups())
def member(request):
    """The Redis program for groups of servers."""
    return request.param


@pytest.fixture(scope="module")
def group(member):
    """A primary and a replica with Sentinels; each test empties it first."""
    with SentinelGroup(member, down_after=_PATIENCE) as group:
        yield group


@pytest.fixture(scope="module")
def cluster(member):
    """A Cluster of three primaries; each test empties it first."""
    with ClusterServers(member, node_timeout=_PATIENCE) as cluster:
        yield cluster
