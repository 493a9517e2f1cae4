"""How many jobs of a key run at once, how often one starts, and whose turn it is: `Limit`, `Turns`."""

from __future__ import annotations

from datetime import timedelta

import attrs

from firelock.arguments.templates import pieces
from firelock.errors import ConfigurationError, TaskError
from firelock.model.clock import span_micros
from firelock.model.text import shown

MAX_CONCURRENT = 1_000
MAX_KEY_LENGTH = 100
DIGEST_LENGTH = 20  # of what stands for the rest of a value that is too long, its "~" included
_MAX_NUMBER = 1_000_000_000
_LONGEST = timedelta(days=366)


def to_span(option: str, value: object, *, most: timedelta = _LONGEST) -> timedelta:
    """Return a span above zero.

    Raises:
        ConfigurationError: it is none, or longer than the most.
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
    """Return the call that makes it, without what may be left out: `Limit('openai', rate=500, per=60)`."""
    given = []
    for field in attrs.fields(type(value)):
        held = getattr(value, field.name)
        if held != field.default:
            text = f"{held.total_seconds():g}" if isinstance(held, timedelta) else repr(held)
            given.append(text if field.name == "key" else f"{field.name}={text}")
    return f"{type(value).__name__}({', '.join(given)})"


def name_of(template: str) -> str:
    """Return the name of the keys of a template, which their numbers are known by.

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
    """Jobs of different keys take turns, which is fairness; no number holds any of them back.

    `Turns("tenant:{tenant_id}")`: a tenant's hundred thousand jobs do not stand before another's ten.

    Args:
        key: a text that may name the task's parameters, each behind a ":": "tenant:{tenant_id}".

    Raises:
        TaskError: the key is no such text.
    """

    key: str = attrs.field(converter=_check_key)

    def __repr__(self) -> str:
        return as_written(self)

    @property
    def name(self) -> str:
        """What its keys have in common: "tenant"."""
        return name_of(self.key)


@attrs.frozen(cache_hash=True)
class Limit:
    """How many jobs of a key run at once, and how many start in a time; over tasks and queues.

    `Limit("tenant:{tenant_id}", concurrent=4)`, `Limit("openai", rate=90_000, per=60, cost="{tokens}")`.
    One of `concurrent` and `rate` is required. The numbers belong to the key's name, here `tenant` and
    `openai`, and can be changed while jobs run: `fire.limits.set`.

    Args:
        key: a text that may name the task's parameters, each behind a ":": "tenant:{tenant_id}/openai".
        concurrent: jobs at once, 0 to 1,000; with 0 none starts.
        rate: units that may be used in each `per`; with 0 none starts.
        per: a timedelta or seconds.
        burst: units that may be used at once after a rest; by default a second's worth, at least 1.
        cost: units that a start uses: a whole number from 0, or "{tokens}" for the argument of that name.
        strict: with `concurrent=1`, the next job starts when the former ended, its retries included.

    Raises:
        ConfigurationError: no number is given, or one is out of its bounds or has nothing to work on.
        TaskError: the key or cost is no such text.
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
        """What its keys have in common, and its numbers belong to: "tenant"."""
        return name_of(self.key)

    @property
    def numbers(self) -> tuple[int | None, int | None, int, int | None]:
        """Its concurrent, rate, micros of its `per` and burst; None for what is not limited."""
        return self.concurrent, self.rate, span_micros(self.per), self.burst
