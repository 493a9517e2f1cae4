"""The kit on Redis and Valkey: alone, under Sentinel, and as a Cluster with 16 partitions."""

from __future__ import annotations

import pytest

from firelock.plugins import open_storage
from firelock.testing import LockConformance, StorageConformance
from tests.ports import free_port


class TestRedis(StorageConformance):
    model_runs = 50  # on each of several programs

    @pytest.fixture
    def storage_url(self, server):
        server.empty()
        return server.url()

    @pytest.fixture
    def make_newer_schema(self, server):
        def make_newer():
            (layout,) = [str(key) for key in server.ask("KEYS", "*layout")]
            server.ask("HSET", layout, "version", "100")

        return make_newer

    @pytest.fixture
    def open_unreachable(self, server):
        return lambda: open_storage(server.url(port=free_port()))


class TestRedisLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, server):
        server.empty()
        return server.url()


class TestSentinel(StorageConformance):
    model_runs = 20  # the commands are those of a Redis alone

    @pytest.fixture
    def storage_url(self, group):
        group.empty()
        return group.url()


@pytest.mark.timeout(600)  # random steps look at sixteen partitions behind each of them
class TestCluster(StorageConformance):
    model_runs = 20  # each step is several round trips
    model_handles = 1

    @pytest.fixture
    def storage_url(self, cluster):
        cluster.empty()
        return cluster.url("partitions=16")


class TestClusterLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, cluster):
        cluster.empty()
        return cluster.url("partitions=16")
