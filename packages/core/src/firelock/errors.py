"""One tree of exceptions; a class exists only where a caller would catch it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any


class FirelockError(Exception):
    """Root of every error that Firelock raises on purpose, but for what ends a task from outside."""


# ---- configuration ---------------------------------------------------------------------------------------


class ConfigurationError(FirelockError, ValueError):
    """A setting, URL or option is wrong; nothing was started or stored."""


class UnknownScheme(ConfigurationError):
    """No installed plugin offers a storage for the URL's scheme."""


class PluginError(ConfigurationError):
    """A plugin failed to load, clashes with another one, misspells a hook or returned a wrong value."""

    plugin: str | None
    """Its name, as `firelock plugins` lists it; None if the error is about no single plugin."""

    def __init__(self, message: str, *, plugin: str | None = None) -> None:
        super().__init__(message)
        self.plugin = plugin


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


class BatchFinished(JobConflict):
    """The batch has ended or was cancelled, so that nothing can be added to it; nothing was stored."""


class StepError(FirelockError):
    """A step, a wait or what it remembers is used wrongly; the message says what to do instead."""


class JobCancelled(BaseException):
    """Raised inside a task that was told to stop; let it pass."""


class JobSuspended(BaseException):
    """Raised inside a task whose run ends here, until what it waits for is there; let it pass."""


class RateLimited(FirelockError):
    """Raised by a task that was told to wait: it runs again then, and the attempt does not count.

    Args:
        retry_after: when; a timedelta or seconds, up to a year.
        key: of a limit, which admits no job until then, on any server; without it this job alone waits.
        reason: for people.

    Raises:
        ValueError: the span is negative, above a year or none, or the key is none.
    """

    def __init__(
        self, retry_after: datetime.timedelta | float, key: str | None = None, reason: str = ""
    ) -> None:
        super().__init__(retry_after, key, reason)
        seconds = retry_after.total_seconds() if isinstance(retry_after, datetime.timedelta) else retry_after
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not math.isfinite(seconds) or not 0 <= seconds <= _YEAR:
            raise ValueError(
                f"RateLimited(retry_after={retry_after!r}): pass a timedelta, or seconds, from 0 to 365 days."
            )
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY):
            raise ValueError(
                f"RateLimited(key={key!r}): pass the key of a limit, such as 'tenant:7/openai', or none."
            )
        self.retry_after = datetime.timedelta(seconds=seconds)
        self.key = key
        self.reason = str(reason)

    def __str__(self) -> str:
        """Return what waits, how long and why."""
        what = "rate limited" if self.key is None else f"rate limited by {self.key}"
        told = f": {self.reason}" if self.reason else ""
        return f"{what} for {self.retry_after.total_seconds():g} s{told}"


_YEAR = 365 * 86_400
_LONGEST_KEY = 512


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
    """Whether nothing of the call was written, for certain; otherwise its reply may have been lost."""
    has_waited: bool = False
    """Whether the call has already waited for as long as it may, so that it is not repeated immediately."""
    longest_pause: float = 5.0
    """Seconds between two tries of a server at most; more where each try costs a full disk some space."""


class UnsupportedFeature(StorageError):
    """The storage does not offer an optional feature that was asked for."""


class SchemaMismatch(StorageError):
    """The stored schema is older or newer than this code."""
