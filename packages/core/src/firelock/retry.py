"""Retry policies: what happens to a job after a failed attempt.

Policies are plain data, are stored as JSON and import nothing.
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

    RETRY = "retry"  # it runs again; one more retry is counted
    FAIL = "fail"  # it becomes failed
    DELETE = "delete"  # it becomes deleted
    SNOOZE = "snooze"  # it runs again; the attempt is not counted


class OnExceeded(StrEnum):
    """The end of a job whose retries are used up."""

    FAIL = "fail"
    DELETE = "delete"


@attrs.frozen
class RetryDecision:
    """The decision of a policy or hook about one failed attempt; use the class methods to create one."""

    kind: DecisionKind
    after: timedelta | None = None  # delay before the next run, of retry (None: no delay) and snooze only
    reason: str | None = attrs.field(default=None, converter=attrs.converters.optional(printable))
    """For people, in the job's history; if it is None, the server writes the reason."""

    @classmethod
    def retry(cls, after: Span | None = None, *, reason: str | None = None) -> Self:
        """Return the decision to run again after a delay; None means immediately.

        Raises:
            ConfigurationError: the delay is negative, longer than a year or not a duration.
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
            ConfigurationError: the delay is negative, longer than a year or not a duration.
        """
        return cls(DecisionKind.SNOOZE, _to_span("after", after), reason)


class RetryPolicy(Protocol):
    """An object that decides about failed attempts: the type of a task's `retry=`."""

    def decide(self, job: ClaimedJob, error: BaseException, /) -> RetryDecision | None:
        """Return what happens to the job; None leaves the decision to the default policy.

        Called once per failed attempt, on the server, even after many retries: `job.retries` counts them. An
        exception fails the job.
        """


class HasRetries(Protocol):
    """The fields that `Retry` reads from a job."""

    @property
    def retries(self) -> int:
        """The number of retries since creation or the last requeue."""


class RetryOptions(TypedDict, total=False):
    """The keyword arguments of `Retry` that each of its builders takes in addition to the waits."""

    attempts: int
    jitter: float
    only_on: ExceptionKind | Collection[ExceptionKind]
    except_on: ExceptionKind | Collection[ExceptionKind]
    on_exceeded: OnExceeded | Literal["fail", "delete"]


# ---- checks of values ------------------------------------------------------------------------------------


def _require_number(
    name: str,
    value: Any,  # noqa: ANN401 - any value from a caller
    wanted: str,
    *,
    kinds: type | UnionType = int | float,
    low: int = 0,
    high: float,
) -> None:
    # The comparison rejects values that timedelta cannot take: nan, infinities, numbers of any size.
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ConfigurationError(f"{name}={shown(value)} is {wanted}")


def _to_span(name: str, value: object) -> timedelta:
    if isinstance(value, timedelta) and timedelta(0) <= value <= _LONGEST:
        return value
    wanted = "no wait. Pass a timedelta, or seconds as a number, from 0 to 365 days."
    _require_number(name, value, wanted, high=_LONGEST.total_seconds())
    return timedelta(seconds=cast("float", value))


def _to_attempts(value: int) -> int:
    wanted = f"not a whole number from 0 to {_ATTEMPTS_LIMIT}. It counts the retries after the first run."
    _require_number("attempts", value, wanted, kinds=int, high=_ATTEMPTS_LIMIT)
    return value


def _to_jitter(value: float) -> float:
    wanted = "not a number from 0 to 1. 0.1 spreads each wait by 10 % either way."
    _require_number("jitter", value, wanted, high=1)
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
            f"waits={shown(value)} is not a list of 1 to {_ATTEMPTS_LIMIT} waits. Use Retry.fixed(60) "
            "for one wait, Retry.listed([60, 300]) for several."
        )
    return tuple(_to_span(f"waits[{place}]", wait) for place, wait in enumerate(value))


def _to_on_exceeded(value: OnExceeded | str) -> OnExceeded:
    try:
        return OnExceeded(value)
    except ValueError as error:
        raise ConfigurationError(f"on_exceeded={shown(value)} is unknown. Use 'fail' or 'delete'.") from error


def _to_names(value: ExceptionKind | Collection[ExceptionKind]) -> tuple[str, ...]:
    kinds = [value] if isinstance(value, str | type) else value
    if not isinstance(kinds, list | tuple | set | frozenset) or len(kinds) > _NAMES_LIMIT:
        raise ConfigurationError(
            f"{shown(value)} is no list of up to {_NAMES_LIMIT} exceptions: classes or 'module.Name'."
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
        f"{shown(kind)} is no exception. Pass a class, the name of a built-in one, or 'module.Name' "
        "with the module that defines it."
    )


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# ---- the policy ------------------------------------------------------------------------------------------


@attrs.frozen
class Retry:
    """A number of retries after the first run, with growing waits; the default is ten over three days.

    The last listed wait repeats. An exception is retried if `only_on` is empty or names its class or one of
    its base classes, and `except_on` names none of them.

    Raises:
        ConfigurationError: a value is out of range.
    """

    attempts: int = attrs.field(default=_ATTEMPTS, converter=_to_attempts)
    waits: tuple[timedelta, ...] | Literal["polynomial"] = attrs.field(
        default=None, kw_only=True, converter=_to_waits
    )
    jitter: float = attrs.field(
        default=0.1, kw_only=True, converter=_to_jitter
    )  # share of the wait, in both directions
    only_on: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_to_names)
    except_on: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_to_names)
    on_exceeded: OnExceeded = attrs.field(default=OnExceeded.FAIL, kw_only=True, converter=_to_on_exceeded)

    @classmethod
    def never(cls, *, on_exceeded: OnExceeded | Literal["fail", "delete"] = "fail") -> Self:
        """Return the policy under which the first failure ends the job."""
        return cls(0, on_exceeded=on_exceeded)

    @classmethod
    def fixed(cls, delay: Span, **options: Unpack[RetryOptions]) -> Self:
        """Return the policy with the same wait before each retry."""
        return cls(waits=[_to_span("delay", delay)], **options)

    @classmethod
    def listed(cls, waits: Sequence[Span], **options: Unpack[RetryOptions]) -> Self:
        """Return the policy with these waits; the last one repeats until all `attempts` have been made."""
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
        """Return the policy whose waits grow by a factor up to `longest`, not counting jitter."""
        wait, most = _to_span("first", first), _to_span("longest", longest)
        if not wait or wait > most:
            raise ConfigurationError(f"first={wait} is not above zero and up to longest={most}.")
        _require_number(
            "factor", factor, f"not a number from 1 to {_FACTOR_LIMIT}.", low=1, high=_FACTOR_LIMIT
        )
        waits = [wait]
        for _ in range(_to_attempts(options.get("attempts", _ATTEMPTS)) - 1):
            wait = min(wait * factor, most)
            if wait == waits[-1]:
                break
            waits.append(wait)
        return cls(waits=waits, **options)

    @classmethod
    def polynomial(cls, **options: Unpack[RetryOptions]) -> Self:
        """Return the policy of Hangfire: retry n waits (n - 1)⁴ + 15 + r·n seconds.

        r is a random number from 0 to 29. Ten retries take about four and a half hours. If `jitter` is not
        given, only r is random.
        """
        return cls(waits=_POLYNOMIAL, **(RetryOptions(jitter=0) | options))

    def wait(self, retry_number: int, random: Callable[[], float]) -> timedelta:
        """Return the wait before a retry; the first retry is 1. `random` returns numbers from 0 up to 1.

        Raises:
            ConfigurationError: the number is below 1.
        """
        if retry_number < 1:
            raise ConfigurationError(f"retry_number={retry_number} is below 1, the first retry.")
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
        """Return what happens to the job: a retry if retries are left and the exception may be retried."""
        described = describe_error(error)
        if not self.wants(error):
            return RetryDecision.fail(f"{described} (not retried by policy)")
        if job.retries < self.attempts:
            number = job.retries + 1
            reason = retry_reason(number, self.attempts, error)
            return RetryDecision.retry(self.wait(number, random), reason=reason)
        made = f"all {self.attempts} retries made" if self.attempts else "not retried"
        end = RetryDecision.delete if self.on_exceeded is OnExceeded.DELETE else RetryDecision.fail
        return end(f"{described} ({made})")

    def to_json(self) -> str:
        """Return compact JSON from which `from_json` creates an equal policy; waits are in microseconds."""
        waits = self.waits if isinstance(self.waits, str) else [wait // _MICRO for wait in self.waits]
        return json.dumps(attrs.asdict(self) | {"waits": waits}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the stored policy; no exception class is imported.

        Fields that a newer release added are ignored.

        Raises:
            ConfigurationError: the string was not returned by `to_json`, or contains a value out of range.
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
                f"Stored retry policy {text[:64]!r} cannot be read ({error}). Store it again with to_json()."
            ) from error


_STORED = frozenset(attrs.fields_dict(Retry))


# ---- reasons ---------------------------------------------------------------------------------------------


def retry_reason(retry_number: int, attempts: int | None, error: BaseException) -> str:
    """Return "retry 3 of 10: ConnectionError: …"; pass None as `attempts` if the policy sets no number."""
    of = "" if attempts is None else f" of {attempts}"
    return f"retry {retry_number}{of}: {describe_error(error)}"


def describe_error(error: BaseException) -> str:
    """Return "ConnectionError: …" on one line, the message cut at 200 characters and valid in every storage.

    Works for exceptions whose own `__str__` raises.
    """
    # Cut before the split, because a message can have any size.
    said = shorten(" ".join(message_of(error)[: 2 * _MESSAGE_LIMIT].split()), _MESSAGE_LIMIT)
    name = type(error).__name__
    return f"{name}: {said}" if said else name
