"""A storage for SQLite, PostgreSQL, MySQL and MariaDB.

Read `storage` first: it lists every verb in the order of the contract, and the class in `verbs/` that has
it. Each verb is one transaction and is written once; insert, claim and settle also have a faster form for
plain jobs in each dialect's storage, in `sqlite/`, `postgresql/` and `mysql/`. `rows/` reads and writes a
job, a batch and a memo, `schema/` has the tables, and `connections/` is what lies between a verb and the
driver. `plugin` offers the storage to Firelock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock_sql.schema.metadata import tables_of

__all__ = ["tables_of"]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: the plugin loads no SQLAlchemy."""
    if name != "tables_of":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from firelock_sql.schema.metadata import tables_of  # noqa: PLC0415 - loads SQLAlchemy

    return tables_of


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return list(__all__)
