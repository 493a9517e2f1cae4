"""Honour `Retry-After`: whoever was told when to come back comes back then."""

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
    """Retries a job when its error says so; answers None, "not mine", to every other error.

    An error says so by `retry_after`, a timedelta or a number of seconds, or by `response.headers`, as the
    errors of HTTP clients do. Waits are at most a day. After twenty retries it is no longer its business
    either: the next policy decides, so that nobody is asked for ever. The hook (see `plugin`) asks it for
    the wait where the job's own policy would retry; a task's `retry=` takes it as well.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now

    def decide(self, job: _HasRetries, error: BaseException, /) -> RetryDecision | None:
        """Return when the job runs again, None where the error does not say."""
        wait = self._wait(error) if job.retries < _RETRIES_LIMIT else None
        if wait is None:
            return None
        wait = min(max(wait, timedelta(0)), _LONGEST)
        return RetryDecision.retry(wait, reason=f"told to come back after {wait.total_seconds():g} s")

    def _wait(self, error: BaseException) -> timedelta | None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        for said in (getattr(error, "retry_after", None), headers.get("Retry-After")):
            if isinstance(said, timedelta):
                return said
            if isinstance(said, int | float) and isfinite(said):
                return timedelta(seconds=min(said, _LONGEST.total_seconds()))
            if isinstance(said, str):
                return self._read(said)
        return None

    def _read(self, text: str) -> timedelta | None:
        """Return the span of RFC 9110 §10.2.3: seconds or a date; None for any other text."""
        if text.isascii() and text.isdigit():
            return timedelta(seconds=min(int(text[:9]), _LONGEST.total_seconds()))
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) - self._now()
