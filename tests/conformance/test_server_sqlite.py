"""Servers over SQLite keep what servers promise; here they are processes of their own as well."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestSqliteServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"
