"""The kit on MariaDB, and on MySQL if it is installed."""

from __future__ import annotations

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing import LockConformance, StorageConformance
from tests.ports import free_port
from tests.sql.databases import newer_schema
from tests.sql.transactions import WAYS, lock_jobs


class TestMariadb(StorageConformance):
    model_runs = 10  # a reduced number, because each step takes several round trips

    @pytest.fixture
    def storage_url(self, mariadb):
        return mariadb.url()

    @pytest.fixture
    def make_newer_schema(self, mariadb):
        yield from newer_schema(mariadb.engine_url())

    @pytest.fixture
    def open_unreachable(self, mariadb):
        return lambda: open_storage(mariadb.url(port=free_port()))

    @pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
    def open_transaction(self, request, mariadb):
        return request.param(mariadb.engine_url())

    @pytest.fixture
    def lock_job(self, mariadb):
        with lock_jobs(mariadb.engine_url()) as lock:
            yield lock


class TestMariadbLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, mariadb):
        return mariadb.url()
