"""Three small things for Firelock: honour Retry-After, compress large arguments, lock by a folder."""

from __future__ import annotations

from firelock_extras.folder_locks import FolderLocks
from firelock_extras.retry_after import RetryAfter
from firelock_extras.zjson import ZjsonSerializer

__all__ = ["FolderLocks", "RetryAfter", "ZjsonSerializer"]
