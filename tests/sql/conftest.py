"""The databases that these tests run on."""

from __future__ import annotations

import pytest

from tests.scenes import scene_at
from tests.sql.fixtures import (
    admin,
    mariadb,
    mysql_program,
    pgbouncer,
    postgresql,
    postgresql_program,
    server_database,
    sql_servers,
)

__all__ = [
    "admin", "mariadb", "mysql_program", "pgbouncer", "postgresql", "postgresql_program", "server_database",
    "sql_servers",
]  # fmt: skip


@pytest.fixture(autouse=True)
def clients_fold_late(monkeypatch):
    """A client folds counts with its thousandth insert, and not, by chance, with one that a test measures."""
    monkeypatch.setattr("firelock_sql.storage._first_number", lambda: 0)


@pytest.fixture
def path(tmp_path):
    """The file of the jobs."""
    return tmp_path / "jobs.db"


@pytest.fixture
def scene(path):
    """A store in the file with jobs at hand; a writer waits for others no more than a moment."""
    with scene_at(f"sqlite:///{path}?synchronous=normal&busy_timeout=0.2") as scene:
        yield scene
