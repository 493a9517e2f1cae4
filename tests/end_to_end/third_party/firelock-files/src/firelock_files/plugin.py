"""What Firelock loads by the entry point: the hooks of this distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firelock import hookimpl
from firelock.storage import Storage


@hookimpl
def register_storages() -> Mapping[str, Callable[[str], Storage]]:
    """The scheme `files` opens a file."""
    from firelock_files.storage import FileStorage  # loaded by the first who wants one

    return {"files": FileStorage}
