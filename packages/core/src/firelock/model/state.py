"""The states of a job."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The seven states of a job; the value is the stored string."""

    AWAITING = "awaiting"
    SCHEDULED = "scheduled"
    ENQUEUED = "enqueued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"


FINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.DELETED})
