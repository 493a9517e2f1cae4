"""Three features for Firelock: support for Retry-After, compressed arguments, and locks in a folder."""

from __future__ import annotations

from firelock_extras.folder_locks import FolderLocks
from firelock_extras.retry_after import RetryAfter
from firelock_extras.zjson import ZjsonSerializer

__all__ = ["FolderLocks", "RetryAfter", "ZjsonSerializer"]
