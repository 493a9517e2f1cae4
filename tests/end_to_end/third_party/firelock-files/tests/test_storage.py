"""The kit, with a new file for each test; fsync is off, because no test can detect whether it is called."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from firelock_files import FileStorage

from firelock.testing import LockConformance, RowStorageConformance, ServerConformance


class TestFileStorage(RowStorageConformance):
    """The contract of a storage, and its transactions."""

    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"files://{tmp_path}/jobs?sync=off"

    @pytest.fixture
    def make_newer_schema(self, tmp_path):
        def make():
            with closing(sqlite3.connect(tmp_path / "jobs")) as connection, connection:
                connection.execute("update rows set value = '100' where key = 'layout'")

        return make

    @pytest.fixture
    def open_unreachable(self, tmp_path):
        (tmp_path / "file").touch()
        return lambda: FileStorage(f"files://{tmp_path}/file/jobs")

    @pytest.fixture
    def break_driver(self):
        return lambda storage: storage.connection.close()  # each later call of the driver raises


class TestFileLocks(LockConformance):
    """The locks of the storage, as a lock provider."""

    @pytest.fixture
    def lock_url(self, tmp_path):
        return f"files://{tmp_path}/jobs?sync=off"


class TestFileServer(ServerConformance):
    """The contract of a server, with this storage."""

    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"files://{tmp_path}/jobs?sync=off"
