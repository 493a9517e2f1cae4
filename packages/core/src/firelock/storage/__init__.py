"""The storage authors' door: the contract and every value that passes through it."""

from __future__ import annotations

from firelock.errors import (
    JobNotFound,
    SchemaMismatch,
    StorageError,
    StorageUnavailable,
    UnsupportedFeature,
)
from firelock.job import (
    FINAL_STATES,
    Attempt,
    ClaimedJob,
    Edge,
    ErrorInfo,
    HistoryEntry,
    JobRecord,
    LogLine,
    NewJob,
    On,
    Progress,
    State,
)
from firelock.lifecycle import (
    HISTORY_LIMIT,
    Transition,
    Upkeep,
    bounded_history,
    continuation_target,
    waiting_reason,
)
from firelock.storage import selection, steps
from firelock.storage.contract import CONTRACT, Storage
from firelock.storage.defaults import add_rollups, forget_job, next_recurring_at, prune_rollups
from firelock.storage.steps import StoredJob
from firelock.storage.values import (
    DURATION_BUCKETS,
    Applied,
    Claim,
    Counts,
    Exchange,
    FailureGroup,
    Feature,
    Finding,
    Held,
    JobFilter,
    NewSession,
    Page,
    Promotion,
    Reconciliation,
    Record,
    RecurringRecord,
    Renewal,
    Rollup,
    SchemaState,
    SessionRecord,
    Taken,
)

__all__ = [
    "CONTRACT", "DURATION_BUCKETS", "FINAL_STATES", "HISTORY_LIMIT", "Applied", "Attempt", "Claim",
    "ClaimedJob", "Counts", "Edge", "ErrorInfo", "Exchange", "FailureGroup", "Feature", "Finding", "Held",
    "HistoryEntry", "JobFilter", "JobNotFound", "JobRecord", "LogLine", "NewJob", "NewSession", "On", "Page",
    "Progress", "Promotion", "Reconciliation", "Record", "RecurringRecord", "Renewal", "Rollup",
    "SchemaMismatch", "SchemaState", "SessionRecord", "State", "Storage", "StorageError",
    "StorageUnavailable", "StoredJob", "Taken", "Transition", "UnsupportedFeature", "Upkeep", "add_rollups",
    "bounded_history", "continuation_target", "forget_job", "next_recurring_at", "prune_rollups",
    "selection", "steps", "waiting_reason",
]  # fmt: skip
