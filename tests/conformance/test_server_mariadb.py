"""Servers over MariaDB, and over MySQL where there is one, keep what servers promise."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestMariadbServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, mariadb):
        return mariadb.url()
