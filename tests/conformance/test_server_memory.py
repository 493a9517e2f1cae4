"""The server kit on the reference model."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestMemoryServer(ServerConformance):
    @pytest.fixture
    def storage_url(self):
        return "memory://server-conformance"
