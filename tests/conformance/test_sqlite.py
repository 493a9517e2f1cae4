"""The kit on SQLite: every promise of the contract, on a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from firelock.testing import LockConformance, StorageConformance


class TestSqlite(StorageConformance):
    @pytest.fixture
    def storage_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/jobs.db"


class TestSqliteLocks(LockConformance):
    @pytest.fixture
    def storage_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/locks.db"
