"""The errors that programs written for Celery raise and catch, and errors for missing counterparts."""

from __future__ import annotations

from firelock.errors import FirelockError, ResultTimeout


class NotMapped(FirelockError, NotImplementedError):
    """A feature of Celery that this module does not have; the message shows what to write with Firelock."""


class NotMappedAttribute(NotMapped, AttributeError):
    """`NotMapped` for an attribute, so that `hasattr` and `getattr` with a default do not find it."""


class RunsTwiceWarning(UserWarning):
    """Warning that a task that Celery runs at most once might run twice here, if its server dies."""


class CeleryError(Exception):
    """The base class of the errors below, as in Celery."""


class RetryAsked(CeleryError):
    """The task requested another run; `Retry` is the name for programs."""

    def __init__(self, exc: BaseException | None, seconds: float) -> None:
        super().__init__(f"retry in {seconds:g} s" if exc is None else f"retry in {seconds:g} s: {exc!r}")
        self.exc = exc
        self.when = seconds


class Ignore(CeleryError):
    """The task ends without a result; its job is deleted."""


class MaxRetriesExceededError(CeleryError):
    """The task requested more retries than it has."""


class TaskRevokedError(CeleryError):
    """The task was revoked or has expired, so that it has no result."""


class TaskExpired(CeleryError):
    """The task did not start before it expired; its job is deleted."""


TimeoutError = ResultTimeout  # noqa: A001 - Celery's name; the built-in one is its base
Retry = RetryAsked
