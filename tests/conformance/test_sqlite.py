"""The kit on SQLite: every promise of the contract, on a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine

from firelock.plugins import open_storage
from firelock.storage import Storage
from firelock.testing import LockConformance, StorageConformance
from tests.sql.databases import newer_schema


class TestSqlite(StorageConformance):
    @pytest.fixture
    def storage_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/jobs.db"

    @pytest.fixture
    def make_newer_schema(self, storage_url: str) -> Iterator[Callable[[], None]]:
        yield from newer_schema(storage_url)

    @pytest.fixture
    def open_unreachable(self, tmp_path: Path) -> Callable[[], Storage]:
        (tmp_path / "file").touch()
        return lambda: open_storage(f"sqlite:///{tmp_path}/file/jobs.db")

    @pytest.fixture
    def open_transaction(self, storage_url: str) -> Callable[[bool], AbstractContextManager[Connection]]:
        @contextmanager
        def transaction(commits: bool) -> Iterator[Connection]:
            engine = create_engine(storage_url)
            with engine.connect() as connection, connection.begin() as begun:
                yield connection
                if not commits:
                    begun.rollback()
            engine.dispose()

        return transaction


class TestSqliteLocks(LockConformance):
    @pytest.fixture
    def lock_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/locks.db"
