"""What Firelock loads by the entry point: one hook for each of the three."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firelock import DecisionKind, JobContext, LockProvider, RetryDecision, Serializer, hookimpl
from firelock_extras.folder_locks import FolderLocks
from firelock_extras.retry_after import RetryAfter
from firelock_extras.zjson import ZjsonSerializer

_retry_after = RetryAfter()


@hookimpl
def retry_decision(job: JobContext, error: BaseException, proposed: RetryDecision) -> RetryDecision | None:
    """A retry comes when the error said that it should; whether there is one is for the job's own policy."""
    return _retry_after.decide(job, error) if proposed.kind is DecisionKind.RETRY else None


@hookimpl
def register_serializers() -> Mapping[str, Serializer]:
    """`Firelock(…, serializer="zjson")` writes large arguments compressed."""
    return {ZjsonSerializer.name: ZjsonSerializer()}


@hookimpl
def register_lock_providers() -> Mapping[str, Callable[[str], LockProvider]]:
    """`Firelock(…, locks="flock:///path/to/folder")` keeps locks in a folder."""
    return {"flock": FolderLocks}
