"""Retry policies, which decide what happens to a job after a failed attempt.

A policy is plain data and is stored as JSON. Reading it does not import any module.
"""

from __future__ import annotations

import builtins
import json
import random as randomness
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack, cast

import attrs

from firelock.errors import ConfigurationError
from firelock.model.job import ClaimedJob
from firelock.model.text import message_of, printable, shorten, shown

Span = timedelta | float  # a number is seconds
ExceptionKind = type[BaseException] | str  # a string is "module.Name", with the module that defines it

DEFAULT_WAITS = tuple(
    timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 120, 240, 480, 720, 1440, 1440)
)
_POLYNOMIAL: Literal["polynomial"] = "polynomial"
_ATTEMPTS, _ATTEMPTS_LIMIT = 10, 1000
_LONGEST = timedelta(days=365)
_NAMES_LIMIT, _NAME_LIMIT = 100, 300
_JSON_LIMIT = 100_000
_MESSAGE_LIMIT = 200
_FACTOR_LIMIT = 100
_MICRO = timedelta(microseconds=1)


class DecisionKind(StrEnum):
    """What happens to a job after a failed attempt."""

    RETRY = "retry"  # the job runs again, and the retry is counted
    FAIL = "fail"  # the job is marked as failed
    DELETE = "delete"  # the job is deleted
    SNOOZE = "snooze"  # the job runs again, and the attempt is not counted


class OnExceeded(StrEnum):
    """What happens to a job whose retries are used up."""

    FAIL = "fail"
    DELETE = "delete"


@attrs.frozen
class RetryDecision:
    """The decision of a policy or hook about one failed attempt; use the class methods to create one."""

    kind: DecisionKind
    after: timedelta | None = None  # delay before the next run (None for no delay); only for retry and snooze
    reason: str | None = attrs.field(default=None, converter=attrs.converters.optional(printable))
    """The explanation in the job's history; if it is None, the server writes one."""

    @classmethod
    def retry(cls, after: Span | None = None, *, reason: str | None = None) -> Self:
        """Return the decision to run again after a delay; None means immediately.

        Raises:
            ConfigurationError: The delay is not a duration, or is negative or longer than a year.
        """
        return cls(DecisionKind.RETRY, None if after is None else _to_span("after", after), reason)

    @classmethod
    def fail(cls, reason: str | None = None) -> Self:
        """Return the decision to fail the job."""
        return cls(DecisionKind.FAIL, None, reason)

    @classmethod
    def delete(cls, reason: str | None = None) -> Self:
        """Return the decision to delete the job."""
        return cls(DecisionKind.DELETE, None, reason)

    @classmethod
    def snooze(cls, after: Span, *, reason: str | None = None) -> Self:
        """Return the decision to run again after a delay without counting the attempt.

        Raises:
            ConfigurationError: The delay is not a duration, or is negative or longer than a year.
        """
        return cls(DecisionKind.SNOOZE, _to_span("after", after), reason)


class RetryPolicy(Protocol):
    """An object that decides what happens after failed attempts: the type of a task's `retry=`."""

    def decide(self, job: ClaimedJob, error: BaseException, /) -> RetryDecision | None:
        """Return the decision about the job, or None to use the default policy.

        The server calls this method once per failed attempt, regardless of the number of retries
        (`job.retries`). If the method raises an exception, the job fails.
        """


class HasRetries(Protocol):
    """The fields that `Retry` reads from a job."""

    @property
    def retries(self) -> int:
        """The number of retries since creation or the last requeue."""


class RetryOptions(TypedDict, total=False):
    """The keyword arguments of `Retry` that its class methods accept in addition to the waits."""

    attempts: int
    jitter: float
    only_on: ExceptionKind | Collection[ExceptionKind]
    except_on: ExceptionKind | Collection[ExceptionKind]
    on_exceeded: OnExceeded | Literal["fail", "delete"]


# ---- validation ------------------------------------------------------------------------------------------


def _require_number(
    name: str,
    value: Any,  # noqa: ANN401 - any value from a caller
    wanted: str,
    *,
    kinds: type | UnionType = int | float,
    low: int = 0,
    high: float,
    hint: str = "",
) -> None:
    # The comparison also rejects values that timedelta does not accept: nan, infinities and huge numbers.
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ConfigurationError(f"{name} must be {wanted}, got {shown(value)}.{hint}")


def _to_span(name: str, value: object) -> timedelta:
    if isinstance(value, timedelta) and timedelta(0) <= value <= _LONGEST:
        return value
    wanted = "a timedelta or a number of seconds, from 0 to 365 days"
    _require_number(name, value, wanted, high=_LONGEST.total_seconds())
    return timedelta(seconds=cast("float", value))


def _to_attempts(value: int) -> int:
    wanted = f"an integer from 0 to {_ATTEMPTS_LIMIT}, the number of retries after the first attempt"
    _require_number("attempts", value, wanted, kinds=int, high=_ATTEMPTS_LIMIT)
    return value


def _to_jitter(value: float) -> float:
    hint = " For example, 0.1 spreads each wait by 10 % in both directions."
    _require_number("jitter", value, "a number from 0 to 1", high=1, hint=hint)
    return float(value)


def _to_waits(
    value: Sequence[Span] | Literal["polynomial"] | None,
) -> tuple[timedelta, ...] | Literal["polynomial"]:
    if value is None:
        return DEFAULT_WAITS
    if value == _POLYNOMIAL:
        return _POLYNOMIAL
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _ATTEMPTS_LIMIT:
        raise ConfigurationError(
            f"waits must be a list of 1 to {_ATTEMPTS_LIMIT} waits, got {shown(value)}. Use Retry.fixed(60) "
            "for one wait or Retry.listed([60, 300]) for several waits."
        )
    return tuple(_to_span(f"waits[{place}]", wait) for place, wait in enumerate(value))


def _to_on_exceeded(value: OnExceeded | str) -> OnExceeded:
    try:
        return OnExceeded(value)
    except ValueError as error:
        raise ConfigurationError(f"on_exceeded must be 'fail' or 'delete', got {shown(value)}.") from error


def _to_names(value: ExceptionKind | Collection[ExceptionKind]) -> tuple[str, ...]:
    kinds = [value] if isinstance(value, str | type) else value
    if not isinstance(kinds, list | tuple | set | frozenset) or len(kinds) > _NAMES_LIMIT:
        raise ConfigurationError(
            f"only_on and except_on must be lists of up to {_NAMES_LIMIT} exceptions, as classes or strings "
            f"'module.Name', got {shown(value)}."
        )
    names = [_to_name(kind) for kind in kinds]
    return tuple(sorted(names) if isinstance(kinds, set | frozenset) else names)


def _to_name(kind: object) -> str:
    if isinstance(kind, str):
        parts = kind.split(".")
        if len(parts) == 1:
            kind = getattr(builtins, kind, kind)
        elif len(kind) <= _NAME_LIMIT and all(part.isidentifier() or part == "<locals>" for part in parts):
            return kind
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return _qualified(kind)
    raise ConfigurationError(
        "Each exception in only_on and except_on must be a class, the name of a built-in class, or "
        f"'module.Name' with the module that defines the class, got {shown(kind)}."
    )


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# ---- the policy ------------------------------------------------------------------------------------------


@attrs.frozen
class Retry:
    """A policy with a number of retries and the waits before them; by default, ten retries over three days.

    The last wait in the list is repeated. An exception is retried if `only_on` is empty or contains its class
    or one of its base classes, and `except_on` does not contain any of them.

    Raises:
        ConfigurationError: A value is out of range.
    """

    attempts: int = attrs.field(default=_ATTEMPTS, converter=_to_attempts)
    waits: tuple[timedelta, ...] | Literal["polynomial"] = attrs.field(
        default=None, kw_only=True, converter=_to_waits
    )
    jitter: float = attrs.field(
        default=0.1, kw_only=True, converter=_to_jitter
    )  # fraction of the wait that is randomly added or subtracted
    only_on: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_to_names)
    except_on: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_to_names)
    on_exceeded: OnExceeded = attrs.field(default=OnExceeded.FAIL, kw_only=True, converter=_to_on_exceeded)

    @classmethod
    def never(cls, *, on_exceeded: OnExceeded | Literal["fail", "delete"] = "fail") -> Self:
        """Return a policy without retries: the first failure ends the job."""
        return cls(0, on_exceeded=on_exceeded)

    @classmethod
    def fixed(cls, delay: Span, **options: Unpack[RetryOptions]) -> Self:
        """Return a policy that waits for the same time before each retry."""
        return cls(waits=[_to_span("delay", delay)], **options)

    @classmethod
    def listed(cls, waits: Sequence[Span], **options: Unpack[RetryOptions]) -> Self:
        """Return a policy with these waits; the last one repeats until all `attempts` have been made."""
        return cls(waits=waits, **options)

    @classmethod
    def exponential(
        cls,
        first: Span,
        *,
        factor: float = 2,
        longest: Span = timedelta(hours=24),
        **options: Unpack[RetryOptions],
    ) -> Self:
        """Return a policy whose waits grow by a factor up to `longest`, not counting jitter."""
        wait, most = _to_span("first", first), _to_span("longest", longest)
        if not wait or wait > most:
            raise ConfigurationError(f"first must be above zero and at most longest ({most}), got {wait}.")
        _require_number("factor", factor, f"a number from 1 to {_FACTOR_LIMIT}", low=1, high=_FACTOR_LIMIT)
        waits = [wait]
        for _ in range(_to_attempts(options.get("attempts", _ATTEMPTS)) - 1):
            wait = min(wait * factor, most)
            if wait == waits[-1]:
                break
            waits.append(wait)
        return cls(waits=waits, **options)

    @classmethod
    def polynomial(cls, **options: Unpack[RetryOptions]) -> Self:
        """Return Hangfire's policy: the wait before retry n is (n - 1)⁴ + 15 + r·n seconds.

        r is a random number from 0 to 29. Ten retries take about four and a half hours. Unless `jitter` is
        passed, the waits have no other random part.
        """
        return cls(waits=_POLYNOMIAL, **(RetryOptions(jitter=0) | options))

    def wait(self, retry_number: int, random: Callable[[], float]) -> timedelta:
        """Return the wait before a retry; the first retry is 1. `random` returns numbers from 0 up to 1.

        Raises:
            ConfigurationError: The retry number is below 1.
        """
        if retry_number < 1:
            raise ConfigurationError(f"retry_number must be at least 1, got {retry_number}.")
        if isinstance(self.waits, tuple):
            wait = self.waits[min(retry_number, len(self.waits)) - 1]
        else:
            wait = timedelta(seconds=(retry_number - 1) ** 4 + 15 + int(random() * 30) * retry_number)
        if self.jitter:
            wait *= 1 + self.jitter * (2 * random() - 1)
        return min(wait, _LONGEST)

    def wants(self, error: BaseException) -> bool:
        """Return whether `only_on` and `except_on` allow a retry after an exception of this class."""
        names = {_qualified(kind) for kind in type(error).__mro__}
        return (not self.only_on or not names.isdisjoint(self.only_on)) and names.isdisjoint(self.except_on)

    def decide(
        self, job: HasRetries, error: BaseException, *, random: Callable[[], float] = randomness.random
    ) -> RetryDecision:
        """Return the decision about the job: a retry if retries are left and the exception may be retried."""
        described = describe_error(error)
        if not self.wants(error):
            return RetryDecision.fail(f"{described} (not retried by policy)")
        if job.retries < self.attempts:
            number = job.retries + 1
            reason = retry_reason(number, self.attempts, error)
            return RetryDecision.retry(self.wait(number, random), reason=reason)
        made = {0: "not retried", 1: "its only retry made"}.get(
            self.attempts, f"all {self.attempts} retries made"
        )
        end = RetryDecision.delete if self.on_exceeded is OnExceeded.DELETE else RetryDecision.fail
        return end(f"{described} ({made})")

    def to_json(self) -> str:
        """Return compact JSON from which `from_json` creates an equal policy; waits are in microseconds."""
        waits = self.waits if isinstance(self.waits, str) else [wait // _MICRO for wait in self.waits]
        return json.dumps(attrs.asdict(self) | {"waits": waits}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the stored policy without importing the exception classes.

        Fields that were added by a newer release are ignored.

        Raises:
            ConfigurationError: The string was not written by `to_json`, or contains a value out of range.
        """
        try:
            if len(text) > _JSON_LIMIT:
                raise ValueError(f"{len(text):,} characters")
            stored = json.loads(text)
            if stored["waits"] != _POLYNOMIAL:
                stored["waits"] = [wait * _MICRO for wait in stored["waits"]]
            return cls(**{name: value for name, value in stored.items() if name in _STORED})
        except ConfigurationError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ConfigurationError(
                f"The stored retry policy {text[:64]!r} is invalid ({error}). Store it again with to_json()."
            ) from error


_STORED = frozenset(attrs.fields_dict(Retry))


# ---- explanations ----------------------------------------------------------------------------------------


def retry_reason(retry_number: int, attempts: int | None, error: BaseException) -> str:
    """Return "retry 3 of 10: ConnectionError: …"; pass None as `attempts` if the policy has no maximum."""
    of = "" if attempts is None else f" of {attempts}"
    return f"retry {retry_number}{of}: {describe_error(error)}"


def describe_error(error: BaseException) -> str:
    """Return "ConnectionError: …" on one line, with a message that every storage can store.

    The message is cut to 200 characters. The function also works if the exception's `__str__` raises.
    """
    # A message can have any size, so cut it before it is split.
    said = shorten(" ".join(message_of(error)[: 2 * _MESSAGE_LIMIT].split()), _MESSAGE_LIMIT)
    name = type(error).__name__
    return f"{name}: {said}" if said else name
