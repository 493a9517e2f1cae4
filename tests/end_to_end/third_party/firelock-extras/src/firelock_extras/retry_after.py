"""Support for `Retry-After`: a retry runs after the wait that the error requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Protocol

from firelock import RetryDecision

_LONGEST = timedelta(days=1)
_RETRIES_LIMIT = 20


class _HasRetries(Protocol):
    @property
    def retries(self) -> int: ...


class RetryAfter:
    """A retry policy that follows the wait in an error; for any other error it returns None.

    An error requests a wait with `retry_after`, which is a timedelta or a number of seconds, or with
    `response.headers`, as the errors of HTTP clients do. The maximum wait is one day. After twenty retries
    the policy returns None, so that the next policy decides and no service is called forever. The hook (see
    `plugin`) uses this policy for the wait if the job's own policy would retry. A task's `retry=` accepts it
    as well.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now

    def decide(self, job: _HasRetries, error: BaseException, /) -> RetryDecision | None:
        """Return the time of the next run, or None if the error does not request one."""
        wait = self._wait(error) if job.retries < _RETRIES_LIMIT else None
        if wait is None:
            return None
        wait = min(max(wait, timedelta(0)), _LONGEST)
        return RetryDecision.retry(wait, reason=f"the service requested a wait of {wait.total_seconds():g} s")

    def _wait(self, error: BaseException) -> timedelta | None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        for value in (getattr(error, "retry_after", None), headers.get("Retry-After")):
            if isinstance(value, timedelta):
                return value
            if isinstance(value, int | float) and isfinite(value):
                return timedelta(seconds=min(value, _LONGEST.total_seconds()))
            if isinstance(value, str):
                return self._read(value)
        return None

    def _read(self, text: str) -> timedelta | None:
        """Return the wait as in RFC 9110 §10.2.3 (seconds or a date), or None for any other string."""
        if text.isascii() and text.isdigit():
            return timedelta(seconds=min(int(text[:9]), _LONGEST.total_seconds()))
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) - self._now()
