"""Servers over the reference model keep what servers promise."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestMemoryServer(ServerConformance):
    @pytest.fixture
    def storage_url(self):
        return "memory://server-conformance"
