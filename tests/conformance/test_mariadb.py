"""The kit on MariaDB, and on MySQL where there is one."""

from __future__ import annotations

import pytest

from firelock.testing import LockConformance, StorageConformance
from tests.sql.databases import MysqlDatabase
from tests.sql.transactions import OpenTransaction, by_connection, by_session


class TestMariadb(StorageConformance):
    model_runs = 20  # each step is several round trips

    @pytest.fixture
    def storage_url(self, mariadb: MysqlDatabase) -> str:
        return mariadb.url()

    @pytest.fixture(params=[by_connection, by_session], ids=lambda way: way.__name__)
    def open_transaction(self, request: pytest.FixtureRequest, mariadb: MysqlDatabase) -> OpenTransaction:
        return request.param(mariadb)


class TestMariadbLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, mariadb: MysqlDatabase) -> str:
        return mariadb.url()
