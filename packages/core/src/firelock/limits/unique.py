"""Declarations of one job per key: `Unique`, and `Debounce`, which also delays the job while calls arrive."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, get_args

import attrs

from firelock.arguments.templates import pieces
from firelock.errors import ConfigurationError, TaskError
from firelock.limits.limit import MAX_KEY_LENGTH, as_written, to_span
from firelock.model.text import shown

UntilText = Literal["started", "ended", "succeeded"]
KeepText = Literal["first", "last"]
ConflictText = Literal["return", "raise"]

_DEFAULT_WAITS = 10  # default `max_wait` of a debounced job, in multiples of `wait`
_LONGEST_WAIT = timedelta(days=3_660)


def _check_key(key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str):
        raise TaskError(f"Unique key must be a string such as 'user:{{user_id}}', got {shown(key)}.")
    fixed = "".join(literal for literal, _ in pieces("Unique key", key))
    if not key or not fixed.isprintable() or len(fixed) > MAX_KEY_LENGTH:
        raise TaskError(
            f"Unique key must not be empty and must have at most {MAX_KEY_LENGTH} printable characters in "
            f"addition to its placeholders, got {shown(key)}. Omit it for the task and all its arguments."
        )
    return key


def _check_choice(option: str, value: object, choices: Any) -> None:  # noqa: ANN401 - a Literal
    known = get_args(choices)
    if value not in known:
        raise ConfigurationError(f"{option} must be one of {', '.join(known)}, got {shown(value)}.")


def _to_at_least(value: timedelta | float | None) -> timedelta | None:
    return None if value is None else to_span("at_least", value)


def _to_wait(value: timedelta | float) -> timedelta:
    return to_span("wait", value)


def _to_max_wait(value: timedelta | float | None) -> timedelta | None:
    return None if value is None else to_span("max_wait", value, most=_LONGEST_WAIT)


@attrs.frozen(cache_hash=True)
class Unique:
    """One job per key: a call while another job has the key does not create a second job.

    For example `Unique("tenant:{tenant_id}/{day}")`. With `Unique()`, the key consists of the task and all
    its arguments. A key belongs to its task. The call returns the handle of the job that has the key, with
    `is_new` False.

    Args:
        key: a string that can contain parameters of the task.
        until: the key is taken until the job has "started", "ended" (succeeded, failed or was deleted) or
            "succeeded". With "succeeded", a failed job keeps its key.
        at_least: the minimum duration for which a job has the key, even if the job ends earlier; a timedelta
            or seconds.
        keep: "first" leaves the job that has the key unchanged. "last" replaces its arguments, tags, priority
            and limits with those of the call, and requires until="started" without `at_least`.
        conflict: "return" returns the handle of the job that has the key; "raise" raises `DuplicateJob`.

    Raises:
        ConfigurationError: An option is unknown, out of range or conflicts with another option.
        TaskError: The key does not have this form.
    """

    key: str | None = attrs.field(default=None, converter=_check_key)
    until: UntilText = attrs.field(default="ended", kw_only=True)
    at_least: timedelta | None = attrs.field(default=None, converter=_to_at_least, kw_only=True)
    keep: KeepText = attrs.field(default="first", kw_only=True)
    conflict: ConflictText = attrs.field(default="return", kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_choice("until", self.until, UntilText)
        _check_choice("keep", self.keep, KeepText)
        _check_choice("conflict", self.conflict, ConflictText)
        if self.keep == "last" and (self.until != "started" or self.at_least is not None):
            raise ConfigurationError(
                'keep="last" requires until="started" and no at_least, because it replaces the arguments of '
                "a job that has not started."
            )
        if self.keep == "last" and self.conflict == "raise":
            raise ConfigurationError(
                'keep="last" replaces the arguments of the job, but conflict="raise" rejects the call. Use '
                "only one of them."
            )

    def __repr__(self) -> str:
        return as_written(self)


@attrs.frozen(cache_hash=True)
class Debounce:
    """A job that runs once, after its key has not received any calls for a while.

    For example `Debounce("doc:{doc_id}", wait=5)`. Without `key`, the key consists of the task and all its
    arguments. Each call delays the job again. `is_new` is True for the call that created the job.

    Args:
        key: a string that can contain parameters of the task.
        wait: the delay after the last call; a timedelta or seconds.
        max_wait: the maximum delay after the first call, after which the job runs even if calls still arrive;
            by default ten times `wait`.
        keep: whether the job runs with the arguments of the "last" or of the "first" call.

    Raises:
        ConfigurationError: An option is unknown or out of range, or `max_wait` is shorter than `wait`.
        TaskError: The key does not have this form.
    """

    key: str | None = attrs.field(default=None, converter=_check_key)
    wait: timedelta = attrs.field(kw_only=True, converter=_to_wait)
    max_wait: timedelta | None = attrs.field(default=None, converter=_to_max_wait, kw_only=True)
    keep: KeepText = attrs.field(default="last", kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_choice("keep", self.keep, KeepText)
        if self.max_wait is not None and self.max_wait < self.wait:
            raise ConfigurationError(
                f"max_wait must be at least wait ({self.wait.total_seconds():g} s), got "
                f"{self.max_wait.total_seconds():g} s."
            )

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def longest(self) -> timedelta:
        """The longest delay of the job after the first call."""
        return self.wait * _DEFAULT_WAITS if self.max_wait is None else self.max_wait
