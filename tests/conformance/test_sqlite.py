"""The kit on SQLite: every promise of the contract, on a file."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine

from firelock.plugins import open_storage
from firelock.testing import LockConformance, StorageConformance
from tests.sql.databases import newer_schema


class TestSqlite(StorageConformance):
    @pytest.fixture
    def storage_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/jobs.db"

    @pytest.fixture
    def make_newer_schema(self, storage_url):
        yield from newer_schema(storage_url)

    @pytest.fixture
    def open_unreachable(self, tmp_path):
        (tmp_path / "file").touch()
        return lambda: open_storage(f"sqlite:///{tmp_path}/file/jobs.db")

    @pytest.fixture
    def open_transaction(self, storage_url):
        @contextmanager
        def transaction(commits):
            engine = create_engine(storage_url)
            with engine.connect() as connection, connection.begin() as begun:
                yield connection
                if not commits:
                    begun.rollback()
            engine.dispose()

        return transaction


class TestSqliteLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/locks.db"
