"""The entry point: which URLs this package opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from firelock import hookimpl

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from firelock.storage import Storage

__all__ = ["register_storages"]


@hookimpl
def register_storages() -> Mapping[str, Callable[[str], Storage]]:
    """Offer SQLite; the driver is loaded when the first one is opened."""
    return {"sqlite": _open_sqlite, "sqlite+pysqlite": _open_sqlite}


def _open_sqlite(url: str | Engine) -> Storage:
    """Open a URL, or the database of a caller's Engine, by connections of our own with our own settings."""
    from firelock_sql.sqlite.opening import open_sqlite  # noqa: PLC0415 - loads the driver

    if isinstance(url, str):
        return open_sqlite(url)
    return open_sqlite(f"sqlite:///{url.url.database or ''}")
