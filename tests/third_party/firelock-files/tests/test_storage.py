"""The kit, on a folder of its own for each test; without fsync, which no test can tell from none."""

from __future__ import annotations

import pytest

from firelock.testing import LockConformance, ServerConformance, StorageConformance


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


class TestFileServer(ServerConformance):
    """Everything a server promises, over this storage."""

    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"files://{tmp_path}/jobs?sync=off"
