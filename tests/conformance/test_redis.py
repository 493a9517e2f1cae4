"""The kit on Redis and Valkey: alone, under Sentinel, and as a Cluster with 16 partitions."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing import LockConformance, StorageConformance
from tests.conformance.variants import variant_conformance
from tests.ports import free_port
from tests.redis.programs import WANTED, programs_of_variants


# The kit empties the storage for each test, because an emptied server would compile every script again.
class _OnServer:
    model_runs = 50  # a reduced number, because the kit runs on several programs

    @pytest.fixture
    def storage_url(self, server):
        return server.url()

    @pytest.fixture
    def make_newer_schema(self, server):
        def make_newer():
            (layout,) = [str(key) for key in server.call("KEYS", "*layout")]
            server.call("HSET", layout, "version", "100")

        yield make_newer
        server.empty()

    @pytest.fixture
    def open_unreachable(self, server):
        return lambda: open_storage(server.url(port=free_port()))


class TestRedis(_OnServer, StorageConformance):
    pass


@pytest.mark.parametrize("program", programs_of_variants(), indirect=True, scope="module")
class TestVariants(_OnServer, variant_conformance(WANTED)):
    model_runs = 10  # a reduced number, because these are Redis servers too


class TestRedisLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, server):
        server.empty()
        return server.url()


class TestSentinel(variant_conformance(WANTED)):
    model_runs = 5  # a reduced number, because the commands are the same as for a single Redis

    @pytest.fixture
    def storage_url(self, group):
        return group.url()


@pytest.mark.timeout(600)  # random operations check sixteen partitions after each operation
class TestCluster(StorageConformance):
    model_runs = 8  # a reduced number, because each step takes several round trips
    model_handles = 1

    @pytest.fixture
    def storage_url(self, cluster):
        return cluster.url("partitions=16")


class TestClusterLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, cluster):
        cluster.empty()
        return cluster.url("partitions=16")
