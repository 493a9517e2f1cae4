"""The databases and servers for the tests of single faults."""

from __future__ import annotations

from tests.redis.fixtures import program, server
from tests.sql.fixtures import (
    admin,
    mariadb,
    mysql_program,
    postgresql,
    postgresql_program,
    server_database,
    sql_servers,
)

__all__ = [
    "admin", "mariadb", "mysql_program", "postgresql", "postgresql_program", "program", "server",
    "server_database", "sql_servers",
]  # fmt: skip
