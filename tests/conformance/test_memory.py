"""The kit on the reference model, which must pass the same tests as every other storage."""

from __future__ import annotations

import pytest

from firelock.testing import StorageConformance


class TestMemory(StorageConformance):
    @pytest.fixture
    def storage_url(self):
        return "memory://conformance"
