"""The server kit on SQLite; here the servers also run as separate processes."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestSqliteServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"
