"""Persistent background jobs for Python: enqueue, schedule, recur, continue.

Users work with the modules in this folder: `app` (Firelock), `task`, `options`, `retry`, `resource`,
`context`, `settings` and `errors`. The implementation is in the folders, listed here in the order in which a
job passes through them: `arguments/`, `limits/`, `jobs/`, `flows/`, `schedules/`, `storage/` and `server/`.
Their common records and rules are in `model/`. `control/` implements `fire.<name>`, `runtime` contains the
parts of an app that a server uses, and `plugins/` contains the hooks. Other folders: `cli/`, `testing/`,
`integrations/` and `compat/`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str  # the installed version; empty if the package is in an archive or frozen
    from firelock.app import Firelock
    from firelock.arguments.forms import FieldKind, Parameter
    from firelock.arguments.outline import ParameterOutline
    from firelock.arguments.serializer import JsonSerializer, JsonValue, Serializer
    from firelock.context import JobContext, Snooze, current_job
    from firelock.control.audit import AuditEntry
    from firelock.control.catalogue import TaskEntry
    from firelock.control.doctor import Diagnosis
    from firelock.control.jobs import JobCounts
    from firelock.control.limits import LimitName, LimitSource, LimitState, LimitView
    from firelock.control.operations import Operation, Outcome
    from firelock.control.queues import QueueView
    from firelock.control.servers import ServerView
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
    from firelock.flows.batch import Batch
    from firelock.flows.signals import Signal
    from firelock.jobs.blocked_by import KeyWait
    from firelock.jobs.job import FailedAttempt, Job, JobHistoryEntry, JobLogLine, JobPage, JobProgress, Step
    from firelock.jobs.limit_line import KeyPlace, WaitingJob, WaitingLine
    from firelock.limits.limit import Limit, Turns
    from firelock.limits.unique import Debounce, Unique
    from firelock.model.batch import BatchCounts, DeepBatchCounts
    from firelock.model.job import Settled
    from firelock.model.memo import Chunk
    from firelock.model.metrics import METRICS_TYPE, MetricFamily, MetricSample, metrics_text
    from firelock.model.report import Thresholds
    from firelock.model.state import State
    from firelock.options import Call, TaskInfo
    from firelock.plugins.hookspecs import Command, ServerInfo, TaskCall, hookimpl, hookspec
    from firelock.retry import DecisionKind, Retry, RetryDecision, RetryPolicy
    from firelock.schedules.cron import Cron, Every, Misfire, Overlap
    from firelock.schedules.recurring_job import Origin, RecurringJob, Upcoming
    from firelock.server.logs import JobFields, job_fields
    from firelock.settings import Settings
    from firelock.storage import Applied, Finding, PartlyApplied, Severity
    from firelock.storage.locks import Lock, LockProvider
    from firelock.task import Task

_HOMES = {
    "app": ("Firelock",),
    "arguments.forms": ("FieldKind", "Parameter"),
    "arguments.outline": ("ParameterOutline",),
    "arguments.serializer": ("JsonSerializer", "JsonValue", "Serializer"),
    "context": ("JobContext", "Snooze", "current_job"),
    "control.audit": ("AuditEntry",),
    "control.catalogue": ("TaskEntry",),
    "control.doctor": ("Diagnosis",),
    "control.jobs": ("JobCounts",),
    "control.limits": ("LimitName", "LimitState", "LimitView", "LimitSource"),
    "control.operations": ("Operation", "Outcome"),
    "control.queues": ("QueueView",),
    "control.servers": ("ServerView",),
    "errors": (
        "ArgumentError", "ArgumentTooLarge", "BatchFinished", "ConfigurationError", "DuplicateJob",
        "DuplicateTask", "FirelockError", "FormError", "JobCancelled", "JobConflict", "JobDeleted",
        "JobFailed", "JobNotCommitted", "JobNotFound", "JobSuspended", "LockLost", "LockTimeout",
        "PluginError", "RateLimited", "ResultTimeout", "ResultUnavailable", "ScheduleError",
        "SchemaMismatch", "SignatureMismatch", "StepError", "StorageError", "StorageUnavailable",
        "TaskError", "UnknownScheme", "UnknownTask", "UnsupportedFeature",
    ),
    "flows.batch": ("Batch",),
    "flows.signals": ("Signal",),
    "jobs.blocked_by": ("KeyWait",),
    "jobs.limit_line": ("KeyPlace", "WaitingJob", "WaitingLine"),
    "jobs.job": ("FailedAttempt", "Job", "JobLogLine", "JobPage", "JobProgress", "JobHistoryEntry", "Step"),
    "limits.limit": ("Limit", "Turns"),
    "limits.unique": ("Debounce", "Unique"),
    "model.batch": ("DeepBatchCounts", "BatchCounts"),
    "model.job": ("Settled",),
    "model.memo": ("Chunk",),
    "model.metrics": ("METRICS_TYPE", "MetricFamily", "MetricSample", "metrics_text"),
    "model.state": ("State",),
    "options": ("Call", "TaskInfo"),
    "plugins.hookspecs": ("Command", "ServerInfo", "TaskCall", "hookimpl", "hookspec"),
    "retry": ("DecisionKind", "Retry", "RetryDecision", "RetryPolicy"),
    "schedules.cron": ("Cron", "Every", "Misfire", "Overlap"),
    "schedules.recurring_job": ("Origin", "RecurringJob", "Upcoming"),
    "server.logs": ("JobFields", "job_fields"),
    "settings": ("Settings",),
    "model.report": ("Thresholds",),
    "storage": ("Applied", "Finding", "PartlyApplied", "Severity"),
    "storage.locks": ("Lock", "LockProvider"),
    "task": ("Task",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METRICS_TYPE",
    "Applied",
    "ArgumentError",
    "ArgumentTooLarge",
    "AuditEntry",
    "Batch",
    "BatchCounts",
    "BatchFinished",
    "Call",
    "Chunk",
    "Command",
    "ConfigurationError",
    "Cron",
    "Debounce",
    "DecisionKind",
    "DeepBatchCounts",
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
    "JobHistoryEntry",
    "JobLogLine",
    "JobNotCommitted",
    "JobNotFound",
    "JobPage",
    "JobProgress",
    "JobSuspended",
    "JsonSerializer",
    "JsonValue",
    "KeyPlace",
    "KeyWait",
    "Limit",
    "LimitName",
    "LimitSource",
    "LimitState",
    "LimitView",
    "Lock",
    "LockLost",
    "LockProvider",
    "LockTimeout",
    "MetricFamily",
    "MetricSample",
    "Misfire",
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
    "Severity",
    "Signal",
    "SignatureMismatch",
    "Snooze",
    "State",
    "Step",
    "StepError",
    "StorageError",
    "StorageUnavailable",
    "Task",
    "TaskCall",
    "TaskEntry",
    "TaskError",
    "TaskInfo",
    "Thresholds",
    "Turns",
    "Unique",
    "UnknownScheme",
    "UnknownTask",
    "UnsupportedFeature",
    "Upcoming",
    "WaitingJob",
    "WaitingLine",
    "__version__",
    "current_job",
    "hookimpl",
    "hookspec",
    "job_fields",
    "metrics_text",
]


def __getattr__(name: str) -> object:
    """Load a public name at its first use, so that a plugin that needs one hook does not load the app."""
    if name == "__version__":
        from firelock.plugins.loader import installed_version  # noqa: PLC0415 - reads from the disk

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
