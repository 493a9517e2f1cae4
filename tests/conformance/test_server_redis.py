"""Servers over Redis keep what servers promise: alone and on a Cluster."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance
from tests.redis.programs import programs_of_kit


@pytest.mark.parametrize("program", programs_of_kit(), indirect=True, scope="module")
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
