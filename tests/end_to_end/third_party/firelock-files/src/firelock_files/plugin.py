"""The module that the entry point names: the hooks of this distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firelock import hookimpl
from firelock.storage import Storage


@hookimpl
def register_storages() -> Mapping[str, Callable[[str], Storage]]:
    """Register the scheme `files`, which opens a file."""
    from firelock_files.storage import FileStorage  # imported only when a storage is opened

    return {"files": FileStorage}
