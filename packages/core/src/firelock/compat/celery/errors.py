"""The errors that programs written for Celery raise and catch, and errors for missing counterparts."""

from __future__ import annotations

from firelock.errors import FirelockError, ResultTimeout


class NotMapped(FirelockError, NotImplementedError):
    """An error for a feature of Celery that has no counterpart; the message contains the replacement."""


class NotMappedAttribute(NotMapped, AttributeError):
    """`NotMapped` for an attribute, so that `hasattr` and `getattr` with a default do not find it."""


class RunsTwiceWarning(UserWarning):
    """A warning about a task that Celery runs at most once; Firelock runs it again if its server dies."""


class CeleryError(Exception):
    """The base class of the errors below, as in Celery."""


class RetryRequested(CeleryError):
    """A task's request for another run; programs refer to it as `Retry`."""

    def __init__(self, exc: BaseException | None, seconds: float) -> None:
        super().__init__(f"retry in {seconds:g} s" if exc is None else f"retry in {seconds:g} s: {exc!r}")
        self.exc = exc
        self.when = seconds


class Ignore(CeleryError):
    """A task's request to end without a result; its job is deleted."""


class MaxRetriesExceededError(CeleryError):
    """The task requested a retry, but none is left."""


class TaskRevokedError(CeleryError):
    """The task was revoked or has expired, so it has no result."""


class TaskExpired(CeleryError):
    """The task did not start before it expired; its job is deleted."""


TimeoutError = ResultTimeout  # noqa: A001 - Celery's name; the built-in one is its base
Retry = RetryRequested
