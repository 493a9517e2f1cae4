"""Where the tables are: a schema and a prefix of the user's choice, put into every statement's text."""

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
"""The names that `tables.py` gives them."""
SCHEMA_TABLE = PREFIX + "schema"
"""The table of versions."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")

_INDEX = "ix_"  # SQLAlchemy's own names of indexes begin so


@attrs.frozen
class Names:
    """A schema, none for the connection's own, and what the name of each table and index begins with."""

    schema: str | None = None
    prefix: str = PREFIX

    def __attrs_post_init__(self) -> None:
        for option, value in (("schema", self.schema), ("prefix", self.prefix)):
            if value is not None and not _WORD.match(value):
                raise ConfigurationError(
                    f"{option}={value!r} is no name; use up to 40 letters, digits and '_', no digit first."
                )

    def of(self, name: str) -> str:
        """Return the name that stands for one of ours."""
        for before in ("", _INDEX):
            if name.startswith(before + PREFIX):
                return before + self.prefix + name.removeprefix(before + PREFIX)
        return name


def set_names(dialect: Dialect, names: Names) -> None:
    """Statements compiled for the dialect from now on name the tables so."""

    class Preparer(type(dialect.identifier_preparer)):  # type: ignore[misc]  # the dialect's own class
        def schema_for_object(self, element: Any) -> str | None:  # noqa: ANN401 - any schema item
            return names.schema if isinstance(element, TableClause) else getattr(element, "schema", None)

        def quote(self, ident: str, force: Any = None) -> str:  # noqa: ANN401, ARG002 - deprecated in SQLAlchemy
            return str(super().quote(names.of(ident)))

        def quote_schema(self, schema: str) -> str:
            return str(super().quote(schema))  # whatever it begins with, it is no table of ours

    own: Any = dialect
    own.identifier_preparer = Preparer(dialect)
    own.firelock_key = f"{dialect.name}+{dialect.driver} {names.schema}.{names.prefix}"


def table_name(dialect: Dialect, name: str) -> str:
    """Return the name of one of `TABLES` as it stands in statements."""
    preparer: IdentifierPreparer = dialect.identifier_preparer
    return str(preparer.format_table(table(name)))
