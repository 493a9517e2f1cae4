"""The server kit on Redis: alone and on a Cluster."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestRedisServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, server):
        server.empty()
        return server.url()


class TestClusterServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, cluster):
        cluster.empty()
        return cluster.url("partitions=16")
