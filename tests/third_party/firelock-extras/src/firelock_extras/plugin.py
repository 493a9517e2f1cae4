"""What Firelock loads by the entry point: one hook for each of the three."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firelock import JobContext, LockProvider, RetryDecision, Serializer, hookimpl
from firelock_extras.folder_locks import FolderLocks
from firelock_extras.retry_after import RetryAfter
from firelock_extras.zjson import ZjsonSerializer

_retry_after = RetryAfter()


@hookimpl
def retry_decision(job: JobContext, error: BaseException) -> RetryDecision | None:
    """An attempt that was told when to come back is retried then; all others are somebody else's."""
    return _retry_after.decide(job, error)


@hookimpl
def register_serializers() -> Mapping[str, Serializer]:
    """`Firelock(…, serializer="zjson")` writes large arguments compressed."""
    return {ZjsonSerializer.name: ZjsonSerializer()}


@hookimpl
def register_lock_providers() -> Mapping[str, Callable[[str], LockProvider]]:
    """`Firelock(…, locks="flock:///path/to/folder")` keeps locks in a folder."""
    return {"flock": FolderLocks}
