"""What programs written for Celery raise and catch, and what says that a thing has no counterpart here."""

from __future__ import annotations

from firelock.errors import FirelockError, ResultTimeout


class NotMapped(FirelockError, NotImplementedError):
    """Celery has it and this module does not; the message says how it is written with Firelock."""


class NotMappedAttribute(NotMapped, AttributeError):
    """The same of an attribute, so that `hasattr` and `getattr` with a default find none."""


class RunsTwiceWarning(UserWarning):
    """A task that Celery runs at most once may run twice here, once its server has died."""


class CeleryError(Exception):
    """The base of those below, as in Celery."""


class RetryAsked(CeleryError):
    """The task asked for another run; `Retry` is its name for programs."""

    def __init__(self, exc: BaseException | None, seconds: float) -> None:
        super().__init__(f"retry in {seconds:g} s" if exc is None else f"retry in {seconds:g} s: {exc!r}")
        self.exc = exc
        self.when = seconds


class Ignore(CeleryError):
    """The task ends without a result; its job is deleted."""


class MaxRetriesExceededError(CeleryError):
    """The task asked for more retries than it has."""


class TaskRevokedError(CeleryError):
    """The task was revoked or has expired, so that it has no result."""


class TaskExpired(CeleryError):
    """The task was to run until an instant that is over; its job is deleted."""


TimeoutError = ResultTimeout  # noqa: A001 - Celery's name; the built-in one is its base
Retry = RetryAsked
