"""The kit on the reference model: the standard for every other storage passes the same tests first."""

from __future__ import annotations

import pytest

from firelock.testing import StorageConformance


class TestMemory(StorageConformance):
    @pytest.fixture
    def storage_url(self):
        return "memory://conformance"
