"""One tree of exceptions; a class exists only where a caller would catch it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FirelockError(Exception):
    """Root of every error that Firelock raises on purpose."""


# ---- configuration ---------------------------------------------------------------------------------------


class ConfigurationError(FirelockError, ValueError):
    """A setting, URL or option is wrong; nothing was started or stored."""


class UnknownScheme(ConfigurationError):
    """No installed plugin offers a storage for the URL's scheme."""


class PluginError(ConfigurationError):
    """A plugin failed to load, clashes with another one or misspells a hook."""


# ---- tasks and arguments ---------------------------------------------------------------------------------


class TaskError(FirelockError):
    """A task is declared or used wrongly."""


class DuplicateTask(TaskError):
    """Two functions claim one task name."""


class UnknownTask(TaskError):
    """No task of that name is registered in this app."""


class SignatureMismatch(TaskError, TypeError):
    """A call does not fit the function's signature."""


class ArgumentError(FirelockError, TypeError):
    """An argument cannot be stored as JSON and come back equal."""


class ArgumentTooLarge(ArgumentError):
    """The arguments of one job are larger than the limit."""


class FormError(ArgumentError):
    """Texts of a form are no arguments; `fields` says what is wrong with each by the parameter's name."""

    def __init__(self, message: str, fields: Mapping[str, str]) -> None:
        super().__init__(message)
        self.fields = fields


class ScheduleError(FirelockError, ValueError):
    """A delay, instant, cron expression or time zone is wrong."""


# ---- jobs ------------------------------------------------------------------------------------------------


class JobNotFound(FirelockError, LookupError):
    """No job of that id is stored."""


class JobConflict(FirelockError):
    """The job's state does not allow what was asked."""


class DuplicateJob(JobConflict):
    """Another job has the unique key of this call, which was to be refused then; nothing was stored.

    Args:
        message: what happened.
        job_id: of the job that has the key.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id

    job: Any = None
    """The handle of that job, a `Job`; the client sets it."""


class JobFailed(FirelockError):
    """The awaited job ended failed; the message carries its last error."""


class JobDeleted(FirelockError):
    """The awaited job was deleted."""


class ResultTimeout(FirelockError, TimeoutError):
    """The awaited job had not ended when the time was over."""


class ResultUnavailable(FirelockError):
    """The job succeeded, but its result was not stored; the message says why."""


class JobNotCommitted(FirelockError):
    """The job was enqueued inside a transaction that has not committed yet, or that was rolled back."""


# ---- locks -----------------------------------------------------------------------------------------------


class LockTimeout(FirelockError, TimeoutError):
    """The lock was not free within the time given."""


class LockLost(FirelockError):
    """The lock is no longer ours: its life ended before it was renewed."""


# ---- storage ---------------------------------------------------------------------------------------------


class StorageError(FirelockError):
    """The storage refused; trying again will not help."""


class StorageUnavailable(StorageError):
    """The storage cannot be reached or is busy; trying again may help."""

    is_untouched: bool = False
    """Whether the storage knows that nothing of the call was written, so that no reply can have been lost."""


class UnsupportedFeature(StorageError):
    """The storage does not offer an optional feature that was asked for."""


class SchemaMismatch(StorageError):
    """The stored schema is older or newer than this code."""
