"""Declarations of limits: `Limit` for concurrency and rates, `Turns` for turns alone."""

from __future__ import annotations

from datetime import timedelta

import attrs

from firelock.arguments.templates import pieces
from firelock.errors import ConfigurationError, TaskError
from firelock.model.clock import span_micros
from firelock.model.text import shown

MAX_CONCURRENT = 1_000
MAX_KEY_LENGTH = 100
DIGEST_LENGTH = 20  # of the string that replaces the end of a value that is too long, including its "~"
_MAX_NUMBER = 1_000_000_000
_LONGEST = timedelta(days=366)


def to_span(option: str, value: object, *, most: timedelta = _LONGEST) -> timedelta:
    """Return a positive duration.

    Raises:
        ConfigurationError: the value is not a positive duration, or it is longer than `most`.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= most.total_seconds():  # type: ignore[operator]
        raise ConfigurationError(
            f"{option}={shown(value)} is refused; pass a timedelta or seconds, above zero and up to "
            f"{most.days} days."
        )
    span = value if isinstance(value, timedelta) else timedelta(seconds=seconds)  # type: ignore[arg-type]
    if not span:
        raise ConfigurationError(f"{option}={shown(value)} is less than a microsecond; pass a longer span.")
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
        raise TaskError(f"A limit's key is a text such as 'tenant:{{tenant_id}}', not {shown(key)}.")
    taken_apart = pieces("Limit key", key)
    fixed = "".join(literal for literal, _ in taken_apart)
    names = sum(name is not None for _, name in taken_apart)
    if not fixed.isprintable():
        raise TaskError(f"Limit key {key!r} holds characters that cannot be printed.")
    before = ""
    for literal, name in taken_apart:
        before += literal
        part = before.rpartition("/")[2]
        if name is not None and ":" not in part:
            raise TaskError(
                f"Limit key {key!r}: {{{name}}} has no ':' before it in its part, so that each value would "
                f"have numbers of its own. Write {part or name}:{{{name}}}; what stands before the ':' is "
                "the name that the numbers belong to."
            )
    if not all(name_of(key).split("/")):
        raise TaskError(f"Limit key {key!r} has a part without a name; write 'tenant:{{tenant_id}}/openai'.")
    most = MAX_KEY_LENGTH - names * DIGEST_LENGTH
    if len(fixed) > most:
        raise TaskError(
            f"Limit key {key!r} has {len(fixed)} characters of its own; at most {most} are allowed beside "
            f"{names} placeholders."
        )
    return key


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigurationError(
            f"{name}={shown(value)} is refused; use a whole number from {low:,} to {high:,}."
        )


def _to_per(value: timedelta | float) -> timedelta:
    return to_span("per", value)


@attrs.frozen(cache_hash=True)
class Turns:
    """Turns of jobs with different keys, which is fairness without any limit.

    With `Turns("tenant:{tenant_id}")`, a hundred thousand jobs of one tenant do not delay ten jobs of
    another.

    Args:
        key: a string that can contain parameters of the task, each after a ":": "tenant:{tenant_id}".

    Raises:
        TaskError: the key is not such a string.
    """

    key: str = attrs.field(converter=_check_key)

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def name(self) -> str:
        """The name that its keys have in common: "tenant"."""
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
        concurrent: jobs at the same time, 0 to 1,000; with 0 no job starts.
        rate: units that may be used per `per`; with 0 no job starts.
        per: a timedelta or seconds.
        burst: units that may be used at the same moment after a pause; by default the units of a second, at
            least 1.
        cost: units that a start uses: an integer of at least 0, or "{tokens}" for the argument of that name.
        strict: with `concurrent=1`, the next job starts only after the previous one has ended, including its
            retries.

    Raises:
        ConfigurationError: `concurrent` and `rate` are both missing, or an option is out of range or has no
            effect.
        TaskError: the key or the cost is not such a string.
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
                f"{mine} has no number, so that it would limit nothing. Give concurrent or rate; for turns "
                f"alone write Turns({self.key!r})."
            )
        if self.concurrent is not None:
            _check_number(f"{mine}: concurrent", self.concurrent, 0, MAX_CONCURRENT)
        if self.rate is not None:
            _check_number(f"{mine}: rate", self.rate, 0, _MAX_NUMBER)
        elif self.burst is not None or self.per != timedelta(seconds=1):
            given = f"per={self.per.total_seconds():g}" if self.burst is None else f"burst={self.burst!r}"
            raise ConfigurationError(f"{mine}: {given} says something of a rate, and none is given.")
        if self.burst is not None:
            _check_number(f"{mine}: burst", self.burst, 1, _MAX_NUMBER)
        if not isinstance(self.cost, str):
            _check_number(f"{mine}: cost", self.cost, 0, _MAX_NUMBER)
        elif [literal for literal, name in pieces("Cost", self.cost) if literal or name is None] or (
            len(pieces("Cost", self.cost)) != 1
        ):
            raise TaskError(
                f"{mine}: cost={self.cost!r} is no name of a parameter; write a whole number, or "
                'cost="{tokens}".'
            )
        if not isinstance(self.strict, bool):
            raise ConfigurationError(f"{mine}: strict={shown(self.strict)} is neither True nor False.")
        if self.strict and self.concurrent != 1:
            raise ConfigurationError(
                f"{mine}: strict=True keeps jobs in the order in which they end, one by one: it needs "
                f"concurrent=1, not {self.concurrent}."
            )

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def name(self) -> str:
        """The name that its keys have in common, to which the settings belong: "tenant"."""
        return name_of(self.key)

    @property
    def numbers(self) -> tuple[int | None, int | None, int, int | None]:
        """The concurrency, rate, `per` in microseconds, and burst; None for each that is not limited."""
        return self.concurrent, self.rate, span_micros(self.per), self.burst
