"""The databases that these tests run on."""

from __future__ import annotations

from tests.sql.fixtures import mariadb, mysql_program, pgbouncer, postgresql, postgresql_program, sql_servers

__all__ = ["mariadb", "mysql_program", "pgbouncer", "postgresql", "postgresql_program", "sql_servers"]
