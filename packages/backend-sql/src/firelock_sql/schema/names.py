"""The names of the tables. A configurable schema and prefix are inserted into each statement."""

from __future__ import annotations

import re
from typing import Any

import attrs
from sqlalchemy import TableClause, table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import IdentifierPreparer

from firelock import ConfigurationError

PREFIX = "firelock_"
TABLES = frozenset(
    PREFIX + name
    for name in (
        "attempt_errors", "batch_deltas", "batches", "count_deltas", "counts", "edges", "job_tags", "jobs",
        "limit_keys", "locks", "log_lines", "members", "memos", "progress", "records", "recurring",
        "releasing", "rollups", "schema", "sessions", "stream_chunks", "unique_keys",
    )
)  # fmt: skip
"""The names of the tables in `tables.py`."""
SCHEMA_TABLE = PREFIX + "schema"
"""The table that records the versions of the schema."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")

_INDEX = "ix_"  # the prefix of SQLAlchemy's generated index names


@attrs.frozen
class Names:
    """The schema of the tables (None: the connection's default) and the prefix of tables and indexes."""

    schema: str | None = None
    prefix: str = PREFIX

    def __attrs_post_init__(self) -> None:
        for option, value in (("schema", self.schema), ("prefix", self.prefix)):
            if value is not None and not _WORD.match(value):
                raise ConfigurationError(
                    f"{option} must be a name of up to 40 letters, digits and '_', and must not start "
                    f"with a digit, got {value!r}."
                )

    def of(self, name: str) -> str:
        """Return the configured name for a default name of a table or index."""
        for before in ("", _INDEX):
            if name.startswith(before + PREFIX):
                return before + self.prefix + name.removeprefix(before + PREFIX)
        return name


def set_names(dialect: Dialect, names: Names) -> None:
    """Make all statements that are compiled for this dialect use these names."""

    class Preparer(type(dialect.identifier_preparer)):  # type: ignore[misc]  # the dialect's own class
        def schema_for_object(self, element: Any) -> str | None:  # noqa: ANN401 - any schema item
            return names.schema if isinstance(element, TableClause) else getattr(element, "schema", None)

        def quote(self, ident: str, force: Any = None) -> str:  # noqa: ANN401, ARG002 - a deprecated argument
            return str(super().quote(names.of(ident)))

        def quote_schema(self, schema: str) -> str:
            return str(super().quote(schema))  # not one of our tables, regardless of its prefix

    own: Any = dialect
    own.identifier_preparer = Preparer(dialect)
    own.firelock_key = f"{dialect.name}+{dialect.driver} {names.schema}.{names.prefix}"


def table_name(dialect: Dialect, name: str) -> str:
    """Return the name of one of `TABLES` as it is written in statements."""
    preparer: IdentifierPreparer = dialect.identifier_preparer
    return str(preparer.format_table(table(name)))
