"""The module that the entry point names: one hook for each of the three features."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firelock import DecisionKind, JobContext, LockProvider, RetryDecision, Serializer, hookimpl
from firelock_extras.folder_locks import FolderLocks
from firelock_extras.retry_after import RetryAfter
from firelock_extras.zjson import ZjsonSerializer

_retry_after = RetryAfter()


@hookimpl
def retry_decision(job: JobContext, error: BaseException, proposed: RetryDecision) -> RetryDecision | None:
    """Return the wait that the error requests; the job's own policy decides whether there is a retry."""
    return _retry_after.decide(job, error) if proposed.kind is DecisionKind.RETRY else None


@hookimpl
def register_serializers() -> Mapping[str, Serializer]:
    """Register the serializer for `Firelock(…, serializer="zjson")`, which compresses large arguments."""
    return {ZjsonSerializer.name: ZjsonSerializer()}


@hookimpl
def register_lock_providers() -> Mapping[str, Callable[[str], LockProvider]]:
    """Register the locks in a folder for `Firelock(…, locks="flock:///path/to/folder")`."""
    return {"flock": FolderLocks}
