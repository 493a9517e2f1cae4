"""The API for authors of storages: the contract, and every record that its verbs accept and return.

Read `contract` first: it defines the verbs and their guarantees. `rules` defines which values each transition
writes, and `batches` defines how the members of a batch are counted. `derived` contains the verbs that can be
implemented with other verbs; its class is the only base class of the storages for SQL and Redis.

`table_storage` implements every verb with `tables`, which do not need to be SQL tables. `relation_tables` and
`keyed_tables` contain its code for batches and keys. `row_storage` implements the tables with ordered rows,
whose keys `short_keys` keeps short, and `memory` implements them with dictionaries. `waiting` contains the
code that waits for work, `own_work` marks the calls of servers, and `locks` contains the locks that
`fire.lock` returns.
"""

from __future__ import annotations

from firelock.errors import (
    BatchFinished,
    DuplicateJob,
    JobNotFound,
    SchemaMismatch,
    StorageError,
    StorageUnavailable,
    UnsupportedFeature,
)
from firelock.model.answers import Applied, Duplicate, Inserted, PartlyApplied, PartlyUnavailable
from firelock.model.batch import BATCH_TASK, BatchCounts, BatchRules
from firelock.model.dependencies import Edge, Input, On, Relations, read_relations, write_relations
from firelock.model.ids import new_id, new_ids
from firelock.model.job import (
    PLAIN_FIELDS,
    ClaimedJob,
    ErrorInfo,
    FailedAttempt,
    FoundJobs,
    HistoryEntry,
    JobFilter,
    JobHistory,
    JobRecord,
    LogLine,
    Move,
    NewJob,
    Progress,
    Standing,
    Transition,
    further_fields,
)
from firelock.model.lifecycle import (
    HISTORY_LIMIT,
    Moved,
    add_duplicate,
    batch_failure_reason,
    bounded_history,
    continuation_target,
    waiting_reason,
)
from firelock.model.limit import (
    Admission,
    KeyState,
    LimitUse,
    UniqueState,
    UniqueUse,
    Until,
    WaitingJobs,
    read_admission,
    write_admission,
)
from firelock.model.memo import (
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Chunk,
    Memo,
    MemoKind,
    NewMemo,
    Remembered,
    memo_words,
)
from firelock.model.record import Record, RecordChange
from firelock.model.report import DURATION_BUCKETS, Counts, FailureGroup, Finding, Rollup, Severity
from firelock.model.session import (
    Claim,
    ClaimRequest,
    Exchange,
    HeldClaim,
    LostClaim,
    NewSession,
    Promotion,
    Reconciliation,
    Renewal,
    SessionRecord,
    Taken,
)
from firelock.model.state import FINAL_STATES, State
from firelock.model.storage import Feature, OpenTransaction, SchemaState
from firelock.model.stored_json import is_damaged
from firelock.storage import batches, rules
from firelock.storage.contract import CONTRACT, Storage, shown_url
from firelock.storage.derived import (
    DerivedStorage,
    add_rollups,
    with_progress,
)
from firelock.storage.memory import MemoryStorage
from firelock.storage.own_work import has_own_connection, is_server_work, server_work
from firelock.storage.row_storage import RowStorage
from firelock.storage.rules import StoredJob
from firelock.storage.short_keys import Rows
from firelock.storage.table_storage import TableStorage
from firelock.storage.tables import MemoSum, StoredSession, Tables
from firelock.storage.waiting import ANY_QUEUE, Waiting, is_of_taken, taken_from

__all__ = [
    "ANY_QUEUE",
    "BATCH_TASK",
    "CONTRACT",
    "DURATION_BUCKETS",
    "FINAL_STATES",
    "HISTORY_LIMIT",
    "MEMOS_BYTES",
    "MEMOS_LIMIT",
    "PLAIN_FIELDS",
    "Admission",
    "Applied",
    "BatchCounts",
    "BatchFinished",
    "BatchRules",
    "Chunk",
    "Claim",
    "ClaimRequest",
    "ClaimedJob",
    "Counts",
    "DerivedStorage",
    "Duplicate",
    "DuplicateJob",
    "Edge",
    "ErrorInfo",
    "Exchange",
    "FailedAttempt",
    "FailureGroup",
    "Feature",
    "Finding",
    "FoundJobs",
    "HeldClaim",
    "HistoryEntry",
    "Input",
    "Inserted",
    "JobFilter",
    "JobHistory",
    "JobNotFound",
    "JobRecord",
    "KeyState",
    "LimitUse",
    "LogLine",
    "LostClaim",
    "Memo",
    "MemoKind",
    "MemoSum",
    "MemoryStorage",
    "Move",
    "Moved",
    "NewJob",
    "NewMemo",
    "NewSession",
    "On",
    "OpenTransaction",
    "PartlyApplied",
    "PartlyUnavailable",
    "Progress",
    "Promotion",
    "Reconciliation",
    "Record",
    "RecordChange",
    "Relations",
    "Remembered",
    "Renewal",
    "Rollup",
    "RowStorage",
    "Rows",
    "SchemaMismatch",
    "SchemaState",
    "SessionRecord",
    "Severity",
    "Standing",
    "State",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "StoredJob",
    "StoredSession",
    "TableStorage",
    "Tables",
    "Taken",
    "Transition",
    "UniqueState",
    "UniqueUse",
    "UnsupportedFeature",
    "Until",
    "Waiting",
    "WaitingJobs",
    "add_duplicate",
    "add_rollups",
    "batch_failure_reason",
    "batches",
    "bounded_history",
    "continuation_target",
    "further_fields",
    "has_own_connection",
    "is_damaged",
    "is_of_taken",
    "is_server_work",
    "memo_words",
    "new_id",
    "new_ids",
    "read_admission",
    "read_relations",
    "rules",
    "server_work",
    "shown_url",
    "taken_from",
    "waiting_reason",
    "with_progress",
    "write_admission",
    "write_relations",
]  # fmt: skip
