"""Persistent background jobs for Python: enqueue, schedule, recur, continue.

To read, on a job's way: `task` (functions with their options, the verbs that make jobs of them), `options`,
`arguments/` and `serializer`; `client`, which makes jobs, `storage_access`, what its calls share, and `job`,
the handle of one; `values`, what travels; `storage/`, the contract, and `memory`, its model; `server/`, which
runs jobs; `context`, what a running one may ask and say; `lifecycle` and `retry`, which decide what becomes
of it; `unread`, the parts of it that this release cannot read; `app`, which ties all of it together.

What a call may ask: `limit` and `unique`, of which `keys` makes keys; `waits` says what holds a job back.
What jobs are to others: `ties`, `batch`; `steps`, what a run remembers and waits for, and `fake_steps`
without a server; `signal`, what is sent to it, `approval`, links by which people do; `streams`, what it
emits; `meta`, what travels with it; `resource`, what is open for it. What recurs: `cron/`, `recurring_job`.

Around it: `control/`, everything behind `fire.<name>`; `runtime`, what servers take of an app; `hookspecs`
and `plugins`, doors for strangers; `locks`; `logs` and `metrics`; `settings`; `pages` of what is stored;
`cli/`; `testing/`; `integrations/` and `compat/`. Words: `errors`, `ids`, `clock`, `text`, `aio`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str  # which is installed; empty where none is, as in an archive or a frozen program
    from firelock.app import Firelock
    from firelock.arguments.forms import FieldKind, Parameter
    from firelock.arguments.outline import ParameterOutline
    from firelock.batch import Batch
    from firelock.context import JobContext, Snooze, current_job
    from firelock.control.audit import AuditEntry
    from firelock.control.bulk import Operation, Outcome
    from firelock.control.catalogue import TaskEntry
    from firelock.control.doctor import Diagnosis
    from firelock.control.jobs import JobCounts
    from firelock.control.limits import LimitName, LimitView, NumberSource
    from firelock.control.queues import QueueView
    from firelock.control.servers import ServerView
    from firelock.cron import Cron, Every, Misfire, Overlap
    from firelock.errors import (
        ArgumentError,
        ArgumentTooLarge,
        BatchFinished,
        ConfigurationError,
        DuplicateJob,
        DuplicateTask,
        FirelockError,
        FormError,
        JobCancelled,
        JobConflict,
        JobDeleted,
        JobFailed,
        JobNotCommitted,
        JobNotFound,
        JobSuspended,
        LockLost,
        LockTimeout,
        PluginError,
        RateLimited,
        ResultTimeout,
        ResultUnavailable,
        ScheduleError,
        SchemaMismatch,
        SignatureMismatch,
        StepError,
        StorageError,
        StorageUnavailable,
        TaskError,
        UnknownScheme,
        UnknownTask,
        UnsupportedFeature,
    )
    from firelock.hookspecs import Command, ServerInfo, TaskCall, hookimpl, hookspec
    from firelock.job import FailedAttempt, Job, JobLogLine, JobPage, JobProgress, JobStep, Step
    from firelock.limit import Limit, Turns
    from firelock.locks import Lock, LockProvider
    from firelock.logs import JobFields, job_fields
    from firelock.metrics import METRICS_TYPE, MetricFamily, MetricSample, metrics_text
    from firelock.options import Call, TaskInfo
    from firelock.recurring_job import Origin, RecurringJob, Upcoming
    from firelock.retry import DecisionKind, Retry, RetryDecision, RetryPolicy
    from firelock.serializer import JsonSerializer, JsonValue, Serializer
    from firelock.settings import Settings
    from firelock.signal import Signal
    from firelock.storage import Applied, Finding, PartlyApplied
    from firelock.task import Task
    from firelock.unique import Debounce, Unique
    from firelock.values import Chunk, Settled, State, Tally
    from firelock.waits import KeyWait

_HOMES = {
    "app": ("Firelock",),
    "arguments.forms": ("FieldKind", "Parameter"),
    "arguments.outline": ("ParameterOutline",),
    "batch": ("Batch",),
    "context": ("JobContext", "Snooze", "current_job"),
    "control.audit": ("AuditEntry",),
    "control.bulk": ("Operation", "Outcome"),
    "control.catalogue": ("TaskEntry",),
    "control.doctor": ("Diagnosis",),
    "control.jobs": ("JobCounts",),
    "control.limits": ("LimitName", "LimitView", "NumberSource"),
    "control.queues": ("QueueView",),
    "control.servers": ("ServerView",),
    "cron": ("Cron", "Every", "Misfire", "Overlap"),
    "errors": (
        "ArgumentError", "ArgumentTooLarge", "BatchFinished", "ConfigurationError", "DuplicateJob",
        "DuplicateTask", "FirelockError", "FormError", "JobCancelled", "JobConflict", "JobDeleted",
        "JobFailed", "JobNotCommitted", "JobNotFound", "JobSuspended", "LockLost", "LockTimeout",
        "PluginError", "RateLimited", "ResultTimeout", "ResultUnavailable", "ScheduleError",
        "SchemaMismatch", "SignatureMismatch", "StepError", "StorageError", "StorageUnavailable",
        "TaskError", "UnknownScheme", "UnknownTask", "UnsupportedFeature",
    ),
    "hookspecs": ("Command", "ServerInfo", "TaskCall", "hookimpl", "hookspec"),
    "job": ("FailedAttempt", "Job", "JobLogLine", "JobPage", "JobProgress", "JobStep", "Step"),
    "limit": ("Limit", "Turns"),
    "locks": ("Lock", "LockProvider"),
    "logs": ("JobFields", "job_fields"),
    "metrics": ("METRICS_TYPE", "MetricFamily", "MetricSample", "metrics_text"),
    "options": ("Call", "TaskInfo"),
    "recurring_job": ("Origin", "RecurringJob", "Upcoming"),
    "retry": ("DecisionKind", "Retry", "RetryDecision", "RetryPolicy"),
    "serializer": ("JsonSerializer", "JsonValue", "Serializer"),
    "settings": ("Settings",),
    "signal": ("Signal",),
    "storage": ("Applied", "Finding", "PartlyApplied"),
    "task": ("Task",),
    "unique": ("Debounce", "Unique"),
    "values": ("Chunk", "Settled", "State", "Tally"),
    "waits": ("KeyWait",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METRICS_TYPE",
    "Applied",
    "ArgumentError",
    "ArgumentTooLarge",
    "AuditEntry",
    "Batch",
    "BatchFinished",
    "Call",
    "Chunk",
    "Command",
    "ConfigurationError",
    "Cron",
    "Debounce",
    "DecisionKind",
    "Diagnosis",
    "DuplicateJob",
    "DuplicateTask",
    "Every",
    "FailedAttempt",
    "FieldKind",
    "Finding",
    "Firelock",
    "FirelockError",
    "FormError",
    "Job",
    "JobCancelled",
    "JobConflict",
    "JobContext",
    "JobCounts",
    "JobDeleted",
    "JobFailed",
    "JobFields",
    "JobLogLine",
    "JobNotCommitted",
    "JobNotFound",
    "JobPage",
    "JobProgress",
    "JobStep",
    "JobSuspended",
    "JsonSerializer",
    "JsonValue",
    "KeyWait",
    "Limit",
    "LimitName",
    "LimitView",
    "Lock",
    "LockLost",
    "LockProvider",
    "LockTimeout",
    "MetricFamily",
    "MetricSample",
    "Misfire",
    "NumberSource",
    "Operation",
    "Origin",
    "Outcome",
    "Overlap",
    "Parameter",
    "ParameterOutline",
    "PartlyApplied",
    "PluginError",
    "QueueView",
    "RateLimited",
    "RecurringJob",
    "ResultTimeout",
    "ResultUnavailable",
    "Retry",
    "RetryDecision",
    "RetryPolicy",
    "ScheduleError",
    "SchemaMismatch",
    "Serializer",
    "ServerInfo",
    "ServerView",
    "Settings",
    "Settled",
    "Signal",
    "SignatureMismatch",
    "Snooze",
    "State",
    "Step",
    "StepError",
    "StorageError",
    "StorageUnavailable",
    "Tally",
    "Task",
    "TaskCall",
    "TaskEntry",
    "TaskError",
    "TaskInfo",
    "Turns",
    "Unique",
    "UnknownScheme",
    "UnknownTask",
    "UnsupportedFeature",
    "Upcoming",
    "__version__",
    "current_job",
    "hookimpl",
    "hookspec",
    "job_fields",
    "metrics_text",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for, so that a plugin that needs one hook loads no app."""
    if name == "__version__":
        from firelock.plugins import installed_version  # noqa: PLC0415 - looks at the disk

        value = globals()[name] = installed_version()
        return value
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'firelock' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"firelock.{home}"), name)
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
