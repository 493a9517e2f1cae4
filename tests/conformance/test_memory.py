"""The kit on the reference model: what every other storage is compared with passes the same tests first."""

from __future__ import annotations

import pytest

from firelock.testing import StorageConformance


class TestMemory(StorageConformance):
    @pytest.fixture
    def storage_url(self):
        return "memory://conformance"
