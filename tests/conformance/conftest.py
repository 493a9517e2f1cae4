"""The servers that the kit runs on."""

from __future__ import annotations

from tests.redis.fixtures import cluster, group, member, program, server
from tests.sql.fixtures import (
    mariadb,
    mysql_program,
    pgbouncer,
    postgresql,
    postgresql_program,
    server_database,
    sql_servers,
)

__all__ = [
    "cluster", "group", "mariadb", "member", "mysql_program", "pgbouncer", "postgresql", "postgresql_program",
    "program", "server", "server_database", "sql_servers",
]  # fmt: skip
