"""The exceptions of Firelock, in one hierarchy; only errors that callers would catch have their own class."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any


class FirelockError(Exception):
    """The base class of all errors that Firelock raises, except those that end a task from outside."""


# ---- configuration ---------------------------------------------------------------------------------------


class ConfigurationError(FirelockError, ValueError):
    """A setting, URL or option is invalid; nothing was started or stored."""


class UnknownScheme(ConfigurationError):
    """No installed plugin provides a storage for the URL's scheme."""


class PluginError(ConfigurationError):
    """A plugin cannot be loaded, conflicts with another one, misspells a hook or returns an invalid value."""

    plugin: str | None
    """The plugin's name, as listed by `firelock plugins`; None if the error is not about a single plugin."""

    def __init__(self, message: str, *, plugin: str | None = None) -> None:
        super().__init__(message)
        self.plugin = plugin


# ---- tasks and arguments ---------------------------------------------------------------------------------


class TaskError(FirelockError):
    """A task is declared or used incorrectly."""


class DuplicateTask(TaskError):
    """Two functions use the same task name."""


class UnknownTask(TaskError):
    """No task with this name is registered in this app."""


class SignatureMismatch(TaskError, TypeError):
    """A call does not match the function's signature."""


class ArgumentError(FirelockError, TypeError):
    """An argument cannot be stored as JSON and restored to an equal value."""


class ArgumentTooLarge(ArgumentError):
    """The arguments of one job exceed the size limit."""


class FormError(ArgumentError):
    """Values of a form are not valid arguments; `fields` maps the name of each parameter to its problem."""

    def __init__(self, message: str, fields: Mapping[str, str]) -> None:
        super().__init__(message)
        self.fields = fields


class ScheduleError(FirelockError, ValueError):
    """A delay, time, cron expression or time zone is invalid."""


# ---- jobs ------------------------------------------------------------------------------------------------


class JobNotFound(FirelockError, LookupError):
    """No job with this id was found."""


class JobConflict(FirelockError):
    """The state of the job does not allow the requested change."""


class DuplicateJob(JobConflict):
    """Another job has the unique key of this call, whose options request an error in this case.

    Nothing was stored.

    Args:
        message: the description of the conflict.
        job_id: the id of the job that has the key.
    """

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id

    job: Any = None
    """The handle of the job that has the key, a `Job`; the client sets it."""


class BatchFinished(JobConflict):
    """The batch has ended or was cancelled, so nothing can be added to it; nothing was stored."""


class StepError(FirelockError):
    """A step, a wait or its stored value is used incorrectly; the message states the correct use."""


class JobCancelled(BaseException):
    """Raised inside a task that should stop. Do not catch it."""


class JobSuspended(BaseException):
    """Raised inside a task to end its run; the job runs again when its wait ends. Do not catch it."""


class RateLimited(FirelockError):
    """Raised by a task that a service rate-limits: the job runs again later, and the attempt does not count.

    Args:
        retry_after: the delay; a timedelta or seconds, up to a year.
        key: the key of a limit. Until the delay has passed, the limit does not allow any job to start on any
            server. Without a key, only this job waits.
        reason: an explanation for the job's history.

    Raises:
        ValueError: The delay is not a duration, or is negative or longer than a year, or the key is invalid.
    """

    def __init__(
        self, retry_after: datetime.timedelta | float, key: str | None = None, reason: str = ""
    ) -> None:
        super().__init__(retry_after, key, reason)
        seconds = retry_after.total_seconds() if isinstance(retry_after, datetime.timedelta) else retry_after
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not math.isfinite(seconds) or not 0 <= seconds <= _YEAR:
            raise ValueError(
                f"retry_after must be a timedelta or seconds, from 0 to 365 days, got {retry_after!r}."
            )
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY):
            raise ValueError(
                f"key must be the key of a limit, such as 'tenant:7/openai', or None, got {key!r}."
            )
        self.retry_after = datetime.timedelta(seconds=seconds)
        self.key = key
        self.reason = str(reason)

    def __str__(self) -> str:
        """Return the key, the delay and the reason, for example "rate limited by openai for 30 s: quota"."""
        subject = "rate limited" if self.key is None else f"rate limited by {self.key}"
        suffix = f": {self.reason}" if self.reason else ""
        return f"{subject} for {self.retry_after.total_seconds():g} s{suffix}"


_YEAR = 365 * 86_400
_LONGEST_KEY = 512


class JobFailed(FirelockError):
    """The awaited job failed; the message contains its last error."""


class JobDeleted(FirelockError):
    """The awaited job was deleted."""


class ResultTimeout(FirelockError, TimeoutError):
    """The awaited job did not end within the timeout."""


class ResultUnavailable(FirelockError):
    """The job succeeded, but its result was not stored; the message contains the reason."""


class JobNotCommitted(FirelockError):
    """The job was enqueued inside a transaction that has not committed yet, or that was rolled back."""


# ---- locks -----------------------------------------------------------------------------------------------


class LockTimeout(FirelockError, TimeoutError):
    """The lock did not become free within the timeout."""


class LockLost(FirelockError):
    """The lock is no longer held: it expired before it was renewed."""


# ---- storage ---------------------------------------------------------------------------------------------


class StorageError(FirelockError):
    """The storage rejected the request; repeating it does not help."""


class StorageUnavailable(StorageError):
    """The storage is unreachable or busy; trying again might help."""

    is_untouched: bool = False
    """Whether the call certainly wrote nothing. If False, it might have succeeded and lost only its reply."""
    has_waited: bool = False
    """Whether the call has already waited for its full timeout and must not be repeated immediately."""
    longest_pause: float = 5.0
    """The maximum seconds between two tries of a server; higher if tries use space on a full disk."""


class UnsupportedFeature(StorageError):
    """The storage does not provide a requested optional feature."""


class SchemaMismatch(StorageError):
    """The stored schema is older or newer than this code."""
