"""The kit on SQLite: every rule of the contract, on a file."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from firelock.plugins.loader import open_storage
from firelock.testing import LockConformance, StorageConformance
from tests.sql.databases import newer_schema
from tests.sql.transactions import WAYS


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory):
    """A file with all tables and no job.

    Tests copy it, because creating tables takes longer than most tests.
    """
    path = tmp_path_factory.mktemp("empty") / "jobs.db"
    with closing(open_storage(f"sqlite:///{path}")) as storage:
        storage.migrate()
    return path


class TestSqlite(StorageConformance):
    @pytest.fixture
    def storage_url(self, empty_file, tmp_path):
        return f"sqlite:///{shutil.copy(empty_file, tmp_path / 'jobs.db')}"

    @pytest.fixture
    def make_newer_schema(self, storage_url):
        yield from newer_schema(storage_url)

    @pytest.fixture
    def open_unreachable(self, tmp_path):
        (tmp_path / "file").touch()
        return lambda: open_storage(f"sqlite:///{tmp_path}/file/jobs.db")

    @pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
    def open_transaction(self, request, storage_url):
        return request.param(storage_url)


class TestSqliteLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/locks.db"
