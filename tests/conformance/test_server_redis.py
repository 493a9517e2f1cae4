"""Servers over Redis and Valkey keep what servers promise: alone, under Sentinel, and on a Cluster."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance
from tests.redis.cluster import ClusterServers
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer


class TestRedisServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, server: RedisServer) -> str:
        server.empty()
        return server.url()


class TestSentinelServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, group: SentinelGroup) -> str:
        group.empty()
        return group.url()


class TestClusterServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, cluster: ClusterServers) -> str:
        cluster.empty()
        return cluster.url("partitions=16")
