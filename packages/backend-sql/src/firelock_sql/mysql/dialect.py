"""How statements are written for MySQL and MariaDB, whatever the driver: all of them write values as %s."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from sqlalchemy import FromClause, Index, Table
from sqlalchemy.dialects.mysql.base import MySQLCompiler, MySQLDDLCompiler
from sqlalchemy.dialects.mysql.mariadb import loader
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.engine import Dialect
from typing_extensions import override

from firelock_sql.servers.names import Names, set_names
from firelock_sql.tables import is_of

__all__ = ["DRIVERS", "dialect_of"]

DRIVERS = frozenset({"pymysql", "mysqldb", "aiomysql", "asyncmy"})


class _Compiler(MySQLCompiler):
    """Ties statements to the indexes that they name: statistics of a queue are always out of date."""

    @override
    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        return None if text is None else f"FORCE INDEX ({self.preparer.quote(text)})"


class _Tables(MySQLDDLCompiler):
    """Makes a table with its indexes in one statement, which is done as a whole or not at all."""

    @override
    def create_table_constraints(self, table: Table, **options: Any) -> str:  # type: ignore[override]
        made = super().create_table_constraints(table, **options)  # type: ignore[no-untyped-call]
        indexes = [index for index in table.indexes if is_of(index, self.dialect.name)]
        return ", \n\t".join([made, *(self._index(index) for index in sorted(indexes, key=_name))])

    def _index(self, index: Index) -> str:
        self._verify_index_table(index)
        columns = (
            self.sql_compiler.process(column, include_table=False, literal_binds=True)
            for column in cast("Any", index.expressions)
        )
        return f"INDEX {self._prepared_index_name(index)} ({', '.join(columns)})"


def _name(index: Index) -> str:
    return str(index.name)


class _MySQL(MySQLDialect_pymysql):
    statement_compiler = _Compiler  # type: ignore[assignment]  # its base's is an empty class
    ddl_compiler = _Tables
    makes_indexes_with_tables = True
    supports_statement_cache = False


class _MariaDB(loader("pymysql")):  # type: ignore[misc]  # made by a function
    statement_compiler = _Compiler
    ddl_compiler = _Tables
    makes_indexes_with_tables = True
    supports_statement_cache = False


@lru_cache(maxsize=64)
def dialect_of(product: str, names: Names) -> Dialect:
    """Return the dialect of "mysql" or "mariadb" for tables of these names."""
    dialect: Dialect = (_MariaDB if product == "mariadb" else _MySQL)(paramstyle="format")
    set_names(dialect, names)
    return dialect
