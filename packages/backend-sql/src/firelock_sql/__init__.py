"""A storage for SQLite, PostgreSQL, MySQL and MariaDB.

Read `storage` first: it lists every verb in the order of the contract, with the class in `verbs/` that
implements it. Each verb is one transaction and is implemented once for all dialects. For plain jobs, the
storage of each dialect also contains faster implementations of insert, claim and settle, in `sqlite/`,
`postgresql/` and `mysql/`. `rows/` reads and writes jobs, batches and memos, `schema/` contains the tables,
and `connections/` is the layer between a verb and the driver. `plugin` registers the storage with Firelock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock_sql.schema.metadata import tables_of

__all__ = ["tables_of"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first used, because the plugin must not load SQLAlchemy."""
    if name != "tables_of":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from firelock_sql.schema.metadata import tables_of  # noqa: PLC0415 - loads SQLAlchemy

    return tables_of


def __dir__() -> list[str]:
    """Return the public names, whether they are loaded or not."""
    return list(__all__)
