"""The kit on Redis and Valkey: alone, under Sentinel, and as a Cluster with 16 partitions."""

from __future__ import annotations

import pytest

from firelock.testing import LockConformance, StorageConformance
from tests.redis.cluster import ClusterServers
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer


class TestRedis(StorageConformance):
    model_runs = 50  # on each of several programs

    @pytest.fixture
    def storage_url(self, server: RedisServer) -> str:
        server.empty()
        return server.url()


class TestRedisLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, server: RedisServer) -> str:
        server.empty()
        return server.url()


class TestSentinel(StorageConformance):
    model_runs = 20  # the commands are those of a Redis alone

    @pytest.fixture
    def storage_url(self, group: SentinelGroup) -> str:
        group.empty()
        return group.url()


@pytest.mark.timeout(600)  # random steps look at sixteen partitions behind each of them
class TestCluster(StorageConformance):
    model_runs = 20  # each step is several round trips

    @pytest.fixture
    def storage_url(self, cluster: ClusterServers) -> str:
        cluster.empty()
        return cluster.url("partitions=16")


class TestClusterLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, cluster: ClusterServers) -> str:
        cluster.empty()
        return cluster.url("partitions=16")
