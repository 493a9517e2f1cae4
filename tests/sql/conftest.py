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
    """Let a client fold counts only at its thousandth insert, so never while a test measures."""
    monkeypatch.setattr("firelock_sql.storage._first_number", lambda: 0)


@pytest.fixture
def path(tmp_path):
    """The file with the jobs."""
    return tmp_path / "jobs.db"


@pytest.fixture
def scene(path):
    """A storage in the file, with helpers for jobs. A writer waits only briefly for other writers."""
    with scene_at(f"sqlite:///{path}?synchronous=normal&busy_timeout=0.2") as scene:
        yield scene
