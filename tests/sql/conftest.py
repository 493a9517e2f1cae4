"""The databases that these tests run on."""

from __future__ import annotations

from tests.sql.fixtures import (
    admin,
    mariadb,
    mysql_program,
    pgbouncer,
    postgresql,
    postgresql_program,
    sql_servers,
)

__all__ = [
    "admin", "mariadb", "mysql_program", "pgbouncer", "postgresql", "postgresql_program", "sql_servers",
]  # fmt: skip
