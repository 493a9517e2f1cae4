"""Declarations of one job per key: `Unique` while the job exists, `Debounce` while calls still arrive."""

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
        raise TaskError(f"A unique key is a text such as 'user:{{user_id}}', not {shown(key)}.")
    fixed = "".join(literal for literal, _ in pieces("Unique key", key))
    if not key or not fixed.isprintable() or len(fixed) > MAX_KEY_LENGTH:
        raise TaskError(
            f"Unique key {shown(key)} is refused; its own text is at most {MAX_KEY_LENGTH} printable "
            "characters. Leave it out for the task and all its arguments."
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

    For example `Unique("tenant:{tenant_id}/{day}")`. With `Unique()`, the key is the task and all its
    arguments. A key belongs to its task. The call returns the handle of the job that has the key, with
    `is_new` False.

    Args:
        key: a string that can contain parameters of the task.
        until: the key is taken until the job has "started", "ended" (succeeded, failed or was deleted) or
            "succeeded". With "succeeded", a failed job keeps its key.
        at_least: how long the key stays taken in any case after a job took it, whatever happens to the job; a
            timedelta or seconds.
        keep: "first" leaves the job that has the key unchanged. "last" gives it the call's arguments, tags,
            priority and limits, and requires until="started" without `at_least`.
        conflict: "return" returns the handle of the job that has the key; "raise" raises `DuplicateJob`.

    Raises:
        ConfigurationError: an option is unknown, out of range or conflicts with another option.
        TaskError: the key is not such a string.
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
                'keep="last" replaces the arguments of a job that has not started, so it needs '
                'until="started" and no at_least.'
            )
        if self.keep == "last" and self.conflict == "raise":
            raise ConfigurationError(
                'keep="last" gives the job the arguments of the call, and conflict="raise" refuses the call; '
                "give one of the two."
            )

    def __repr__(self) -> str:
        return as_written(self)


@attrs.frozen(cache_hash=True)
class Debounce:
    """A job that runs once, when its key has received no calls for a while.

    For example `Debounce("doc:{doc_id}", wait=5)`. Without a key, the key is the task and all its arguments.
    Each call delays the job again. `is_new` is True for the call that created the job.

    Args:
        key: a string that can contain parameters of the task.
        wait: the delay after the last call; a timedelta or seconds.
        max_wait: the delay after the first call at which the job runs even if calls still arrive; by default
            ten times `wait`.
        keep: whether the job runs with the arguments of the "last" or of the "first" call.

    Raises:
        ConfigurationError: an option is unknown or out of range, or `max_wait` is shorter than `wait`.
        TaskError: the key is not such a string.
    """

    key: str | None = attrs.field(default=None, converter=_check_key)
    wait: timedelta = attrs.field(kw_only=True, converter=_to_wait)
    max_wait: timedelta | None = attrs.field(default=None, converter=_to_max_wait, kw_only=True)
    keep: KeepText = attrs.field(default="last", kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_choice("keep", self.keep, KeepText)
        if self.max_wait is not None and self.max_wait < self.wait:
            raise ConfigurationError(
                f"max_wait={self.max_wait.total_seconds():g} is shorter than "
                f"wait={self.wait.total_seconds():g}, so that the job would run before its wait is over."
            )

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def longest(self) -> timedelta:
        """The longest delay of the job after the first call."""
        return self.wait * _DEFAULT_WAITS if self.max_wait is None else self.max_wait
