"""Indexes, partial ones where a database has such, and what takes their place where it has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Column, Index
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.elements import ColumnElement

__all__ = ["PREFIX", "is_of", "make_index"]

PREFIX = "firelock_"
_MYSQL = frozenset({"mysql", "mariadb"})
_POSTGRESQL = frozenset({"postgresql"})
_FOR = "firelock: dialects"  # in an index's `info`: those that have it, where not all do

_Columns = ColumnElement[Any] | Column[Any]


def make_index(
    name: str,
    *columns: _Columns,
    where: ColumnElement[bool] | None = None,
    whole: Sequence[_Columns] | None = None,
    ordered: Sequence[_Columns] | None = None,
) -> None:
    """Make an index.

    Args:
        where: the rows that are in it, where a database has partial ones; every row for None.
        whole: MySQL's, which has none, and sorts only by all that an index ends with.
        ordered: PostgreSQL's, where rows have no number that ends every index.
    """
    partial = [Index(PREFIX + name, *columns, sqlite_where=where, postgresql_where=where)]
    if ordered is not None:
        partial[0].info[_FOR] = frozenset({"sqlite"})
        own = Index(PREFIX + name, *ordered, sqlite_where=where, postgresql_where=where)
        own.info[_FOR] = _POSTGRESQL
        partial.append(own)
    elif whole is not None:
        partial[0].info[_FOR] = frozenset({"sqlite", "postgresql"})
    if whole is not None:
        partial.append(Index(PREFIX + name, *whole, info={_FOR: _MYSQL}))
    for index in partial:
        if _FOR in index.info:
            index.ddl_if(callable_=cast("Any", _is_for))


def _is_for(_ddl: object, index: Any, _bind: object, *, dialect: Dialect, **_: object) -> bool:  # noqa: ANN401 - an Index
    return is_of(index, dialect.name)


def is_of(index: Index, dialect: str) -> bool:
    """Tell whether a database of this dialect has the index."""
    return _FOR not in index.info or dialect in index.info[_FOR]
