"""How statements are written for psycopg, and for connections of callers that use another driver."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import Dialect

from firelock_sql.servers.names import Names, set_names

__all__ = ["DRIVERS", "dialect_of"]

DRIVERS = {
    "psycopg": PGDialect_psycopg,
    "psycopg_async": PGDialect_psycopg,
    "psycopg2": PGDialect_psycopg2,
    "asyncpg": PGDialect_asyncpg,
}


@lru_cache(maxsize=64)
def dialect_of(driver: str, names: Names) -> Dialect:
    """Return the dialect whose statements take their parameters as the driver does, in order."""
    kind = DRIVERS[driver]
    is_numbered = kind is PGDialect_asyncpg
    dialect: Dialect = kind(paramstyle="numeric_dollar" if is_numbered else "format")
    set_names(dialect, names)
    return dialect
