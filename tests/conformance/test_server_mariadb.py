"""The server kit on MariaDB, and on MySQL if it is installed."""

from __future__ import annotations

import pytest

from firelock.testing import ServerConformance


class TestMariadbServer(ServerConformance):
    @pytest.fixture
    def storage_url(self, mariadb):
        return mariadb.url()
