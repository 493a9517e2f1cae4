"""The kit, on a folder of its own for each test."""

from __future__ import annotations

import pytest

from firelock.testing import LockConformance, StorageConformance


class TestFileStorage(StorageConformance):
    """Everything a storage promises."""

    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"files://{tmp_path}/jobs?sync=off"


class TestFileLocks(LockConformance):
    """The locks that the storage keeps, as a lock provider."""

    @pytest.fixture
    def lock_url(self, tmp_path):
        return f"files://{tmp_path}/jobs?sync=off"
