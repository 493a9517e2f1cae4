"""The databases for the tests of an added field."""

from __future__ import annotations

from tests.redis.fixtures import program, server
from tests.sql.fixtures import (
    mariadb,
    mysql_program,
    postgresql,
    postgresql_program,
    server_database,
    sql_servers,
)

__all__ = [
    "mariadb", "mysql_program", "postgresql", "postgresql_program", "program", "server", "server_database",
    "sql_servers",
]  # fmt: skip
