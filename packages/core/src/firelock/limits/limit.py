"""Declarations of limits: `Limit` for concurrency and rates, and `Turns` for turns only."""

from __future__ import annotations

from datetime import timedelta

import attrs

from firelock.arguments.templates import pieces
from firelock.errors import ConfigurationError, TaskError
from firelock.limits.settings import LimitSettings
from firelock.model.clock import span_micros
from firelock.model.text import shown

MAX_CONCURRENT = 1_000
MAX_KEY_LENGTH = 100
DIGEST_LENGTH = 20  # length of the string that replaces the end of a long value, including its "~"
_MAX_NUMBER = 1_000_000_000
_LONGEST = timedelta(days=366)


def to_span(option: str, value: object, *, most: timedelta = _LONGEST) -> timedelta:
    """Return a positive duration.

    Raises:
        ConfigurationError: The value is not a positive duration, or it is longer than `most`.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= most.total_seconds():  # type: ignore[operator]
        raise ConfigurationError(
            f"{option} must be a timedelta or seconds, above zero and at most {most.days} days, got "
            f"{shown(value)}."
        )
    span = value if isinstance(value, timedelta) else timedelta(seconds=seconds)  # type: ignore[arg-type]
    if not span:
        raise ConfigurationError(f"{option} must be at least a microsecond, got {shown(value)}.")
    return span


def as_written(value: attrs.AttrsInstance) -> str:
    """Return the call that creates the value, without defaults: `Limit('openai', rate=500, per=60)`."""
    given = []
    for field in attrs.fields(type(value)):
        held = getattr(value, field.name)
        if held != field.default:
            text = f"{held.total_seconds():g}" if isinstance(held, timedelta) else repr(held)
            given.append(text if field.name == "key" else f"{field.name}={text}")
    return f"{type(value).__name__}({', '.join(given)})"


def name_of(template: str) -> str:
    """Return the name of a template's keys, to which their settings belong.

    Each part between "/" is cut before its first ":": `tenant:{tenant_id}/openai` → `tenant/openai`.
    """
    fixed = "".join(literal for literal, _ in pieces("Limit key", template))
    return "/".join(part.partition(":")[0] for part in fixed.split("/"))


def _check_key(key: object) -> str:
    if not isinstance(key, str):
        raise TaskError(f"Limit key must be a string such as 'tenant:{{tenant_id}}', got {shown(key)}.")
    parts = pieces("Limit key", key)
    fixed = "".join(literal for literal, _ in parts)
    names = sum(name is not None for _, name in parts)
    if not fixed.isprintable():
        raise TaskError(f"Limit key {key!r} contains characters that are not printable.")
    before = ""
    for literal, name in parts:
        before += literal
        part = before.rpartition("/")[2]
        if name is not None and ":" not in part:
            raise TaskError(
                f"Limit key {key!r} has no ':' before {{{name}}} in the same part, so each value would need "
                f"its own settings. Use {part or name}:{{{name}}}; the settings belong to the name before "
                "the ':'."
            )
    if not all(name_of(key).split("/")):
        raise TaskError(
            f"Limit key {key!r} has a part without a name. Use for example 'tenant:{{tenant_id}}/openai'."
        )
    most = MAX_KEY_LENGTH - names * DIGEST_LENGTH
    if len(fixed) > most:
        raise TaskError(
            f"Limit key {key!r} must have at most {most} characters in addition to {names} placeholders, got "
            f"{len(fixed)}."
        )
    return key


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigurationError(f"{name} must be an integer from {low:,} to {high:,}, got {shown(value)}.")


def _to_per(value: timedelta | float) -> timedelta:
    return to_span("per", value)


@attrs.frozen(cache_hash=True)
class Turns:
    """Turns between jobs with different keys, for fairness without a limit.

    With `Turns("tenant:{tenant_id}")`, a hundred thousand jobs of one tenant do not delay ten jobs of
    another tenant.

    Args:
        key: a string that can contain parameters of the task, each after a ":": "tenant:{tenant_id}".

    Raises:
        TaskError: The key does not have this form.
    """

    key: str = attrs.field(converter=_check_key)

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def name(self) -> str:
        """The common name of its keys: "tenant"."""
        return name_of(self.key)


@attrs.frozen(cache_hash=True)
class Limit:
    """A limit on how many jobs with a key run at the same time, or how many start per period.

    It applies across tasks and queues. For example `Limit("tenant:{tenant_id}", concurrent=4)` or
    `Limit("openai", rate=90_000, per=60, cost="{tokens}")`. `concurrent` or `rate` is required. The settings
    belong to the name of the key, here `tenant` and `openai`. They can be changed while jobs run, with
    `fire.limits.set`.

    Args:
        key: a string that can contain parameters of the task, each after a ":": "tenant:{tenant_id}/openai".
        concurrent: the number of jobs at the same time, 0 to 1,000. With 0, no job starts.
        rate: the number of units per period. With 0, no job starts.
        per: the period of the rate; a timedelta or seconds.
        burst: the number of units that can be used at the same moment after a pause; by default the units of
            a second, at least 1.
        cost: the units that a start uses: an integer of at least 0, or "{tokens}" for the argument of that
            name.
        strict: with `concurrent=1`, whether the next job starts only after the previous one has ended,
            including its retries.

    Raises:
        ConfigurationError: `concurrent` and `rate` are both missing, or an option is out of range or has no
            effect.
        TaskError: The key or the cost does not have this form.
    """

    key: str = attrs.field(converter=_check_key)
    concurrent: int | None = attrs.field(default=None, kw_only=True)
    rate: int | None = attrs.field(default=None, kw_only=True)
    per: timedelta = attrs.field(default=timedelta(seconds=1), converter=_to_per, kw_only=True)
    burst: int | None = attrs.field(default=None, kw_only=True)
    cost: int | str = attrs.field(default=1, kw_only=True)
    strict: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        mine = f"Limit({self.key!r})"
        if self.concurrent is None and self.rate is None:
            raise ConfigurationError(
                f"{mine} requires concurrent or rate. For turns without a limit, use Turns({self.key!r})."
            )
        if self.concurrent is not None:
            _check_number(f"{mine}: concurrent", self.concurrent, 0, MAX_CONCURRENT)
        if self.rate is not None:
            _check_number(f"{mine}: rate", self.rate, 0, _MAX_NUMBER)
        elif self.burst is not None or self.per != timedelta(seconds=1):
            given = f"per={self.per.total_seconds():g}" if self.burst is None else f"burst={self.burst!r}"
            raise ConfigurationError(f"{mine}: {given} has no effect without a rate. Set rate.")
        if self.burst is not None:
            _check_number(f"{mine}: burst", self.burst, 1, _MAX_NUMBER)
        if not isinstance(self.cost, str):
            _check_number(f"{mine}: cost", self.cost, 0, _MAX_NUMBER)
        elif [literal for literal, name in pieces("Cost", self.cost) if literal or name is None] or (
            len(pieces("Cost", self.cost)) != 1
        ):
            raise TaskError(
                f'{mine}: cost must be an integer or a parameter in braces, such as "{{tokens}}", got '
                f"{self.cost!r}."
            )
        if not isinstance(self.strict, bool):
            raise ConfigurationError(f"{mine}: strict must be True or False, got {shown(self.strict)}.")
        if self.strict and self.concurrent != 1:
            raise ConfigurationError(
                f"{mine}: strict=True requires concurrent=1, because each job starts only after the previous "
                f"one has ended, got concurrent={self.concurrent}."
            )

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def name(self) -> str:
        """The common name of its keys, to which the settings belong: "tenant"."""
        return name_of(self.key)

    @property
    def settings(self) -> LimitSettings:
        """The concurrency, rate, period and burst, without the key and the cost."""
        return LimitSettings(self.concurrent, self.rate, span_micros(self.per), self.burst)
