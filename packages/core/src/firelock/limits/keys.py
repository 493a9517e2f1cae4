"""The limits, unique key and start deadline of a call, with keys that are built from its arguments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import attrs

from firelock.arguments.serializer import JsonValue
from firelock.arguments.templates import Pieces, check_names, pieces, text_of
from firelock.errors import ArgumentError, ConfigurationError, FirelockError
from firelock.limits.limit import DIGEST_LENGTH, MAX_KEY_LENGTH, Limit, Turns, to_span
from firelock.limits.unique import Debounce, Unique
from firelock.model.clock import micros, span_micros
from firelock.model.limit import Admission, UniqueUse, Until, read_admission, write_admission
from firelock.model.text import shown

MAX_LIMITS = 4
_MAX_TOGETHER = 512  # maximum total number of characters in a job's limit keys
_MAX_COST = 1_000_000_000
_REMEMBERED = 1_000  # maximum number of cached combinations of arguments per task


def to_limits(limits: Iterable[Limit | Turns] | None) -> tuple[Limit | Turns, ...]:
    """Return limits as a tuple, in the order in which a job uses them: those without a placeholder first.

    Raises:
        ConfigurationError: The value is not a list of limits, is too long, or contains a key twice.
    """
    if limits is None:
        return ()
    if isinstance(limits, Limit | Turns):
        raise ConfigurationError(f"limits must be a list, got {limits!r}. Use limits=[{limits!r}].")
    if isinstance(limits, str) or not isinstance(limits, Iterable):
        raise ConfigurationError(f"limits must be a list of Limit and Turns objects, got {shown(limits)}.")
    given = tuple(limits)
    for each in given:
        if not isinstance(each, Limit | Turns):
            raise ConfigurationError(
                f"limits must contain only Limit and Turns objects, got {shown(each)}. Use for example "
                'Limit("tenant:{tenant_id}", concurrent=4).'
            )
    if len(given) > MAX_LIMITS:
        raise ConfigurationError(f"A job can have at most {MAX_LIMITS} limits, got {len(given)}.")
    if len({each.key for each in given}) < len(given):
        raise ConfigurationError(
            f"limits={shown(list(given))} contains a key twice. Use a single Limit for each key."
        )
    return tuple(sorted(given, key=lambda each: _has_names(each.key)))


def to_unique(unique: Unique | Debounce | Literal[False] | None) -> Unique | Debounce | Literal[False] | None:
    """Return the `unique` option; False removes it. Raise ConfigurationError for any other value."""
    if unique is None or unique is False or isinstance(unique, Unique | Debounce):
        return unique
    raise ConfigurationError(
        f"unique must be a Unique, a Debounce or False, got {shown(unique)}. Use Unique(), Unique(key) or "
        "Debounce(key, wait=5)."
    )


def to_start_before(value: timedelta | datetime | None) -> timedelta | datetime | None:
    """Return a start deadline: a duration after the job becomes enqueued, or an aware datetime.

    Raises:
        ConfigurationError: The value is neither of them, or the duration is not positive.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        return to_span("start_before", value)
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    raise ConfigurationError(
        "start_before must be a timedelta, counted from the time when the job becomes enqueued, or an aware "
        f"datetime, got {shown(value)}."
    )


def _has_names(template: str) -> bool:
    return any(name is not None for _, name in pieces("Limit key", template))


def partition_key_of(admission: Admission) -> str | None:
    """Return the stored key whose partition contains the job, on storages with partitions."""
    if admission.unique is not None:
        return admission.unique.key
    return admission.limits[0].key if admission.limits else None


# ---- keys of a call --------------------------------------------------------------------------------------


@attrs.frozen
class CallAdmission:
    """The limits, unique key and start deadline of one call."""

    text: str | None  # the result of `write_admission`; None for a call without limits, key or deadline
    # The key whose partition contains the job, on storages with partitions; see `partition_key_of`.
    colocated_with: str | None
    first_wait: int | None = None  # the delay of a debounced job, in microseconds; None for other jobs

    @property
    def admission(self) -> Admission:
        """The parsed `text`."""
        return Admission() if self.text is None else read_admission(self.text)


@attrs.frozen
class KeyMaker:
    """The builder of the keys of a task's calls, created once for its limits and unique key.

    The builder writes the stored string directly, without intermediate objects, because each object would
    slow down bulk enqueues.
    """

    owner: str  # the name to which the task's unique keys belong
    limits: tuple[Limit | Turns, ...]
    unique: Unique | Debounce | None
    _first_wait: int | None = attrs.field(init=False)
    _tail: str = attrs.field(init=False)  # the part of the stored string after the unique key
    _names: tuple[str, ...] = attrs.field(init=False)  # the arguments that the limits use
    _known: dict[tuple[JsonValue, ...], tuple[str, str]] = attrs.field(init=False, factory=dict, eq=False)

    @_first_wait.default
    def _wait(self) -> int | None:
        unique = self.unique
        if not isinstance(unique, Debounce):
            return None
        return min(span_micros(unique.wait), span_micros(unique.longest))

    @_tail.default
    def _written(self) -> str:
        if self.unique is None:
            return "null"
        text = write_admission(Admission(unique=_use_of(self.unique)))
        return (text or "").removeprefix('[[],[""').removesuffix(",null,null]")

    @_names.default
    def _named(self) -> tuple[str, ...]:
        templates = [limit.key for limit in self.limits]
        templates += [cost for limit in self.limits if isinstance(cost := getattr(limit, "cost", None), str)]
        names = (name for template in templates for _, name in pieces("Limit key", template))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def asked(
        self,
        arguments: Mapping[str, JsonValue],
        defaults: Mapping[str, JsonValue],
        start_before: timedelta | datetime | None,
    ) -> CallAdmission:
        """Return the limits, unique key and start deadline of a call.

        Args:
            arguments: the arguments by name, in their stored form, as `Binder.encode` returns them.
            defaults: the omitted arguments, in the same form.
            start_before: the deadline, as `to_start_before` returns it.

        Raises:
            ArgumentError: A value cannot be part of a key, or a cost is not an integer of at least 0.
        """
        values = {**defaults, **arguments} if defaults else arguments
        before = within = "null"
        if isinstance(start_before, timedelta):
            within = str(span_micros(start_before))
        elif start_before is not None:
            before = str(micros(start_before))
        partition_key, uses = self._uses(values) if self.limits else (None, "")
        unique = self._tail
        if self.unique is not None:
            template = self.unique.key
            key = _digest(values) if template is None else _unique_key(template, values)
            partition_key = f"{self.owner} {key}"
            unique = f"[{_quoted(partition_key)}{unique}"
        elif start_before is None and partition_key is None:
            return CallAdmission(None, None)
        return CallAdmission(f"[[{uses}],{unique},{before},{within}]", partition_key, self._first_wait)

    def _uses(self, values: Mapping[str, JsonValue]) -> tuple[str, str]:
        """Return the first key, and the stored string of all keys; results are cached by their arguments."""
        given = tuple([values.get(name) for name in self._names])
        for value in given:  # 1, 1.0 and True are equal as dictionary keys, but produce different limit keys
            if not (type(value) is int or (type(value) is str and len(value) <= MAX_KEY_LENGTH)):
                return self._made_uses(values)
        uses = self._known.get(given)
        if uses is None:
            uses = self._made_uses(values)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[given] = uses
        return uses

    def _made_uses(self, values: Mapping[str, JsonValue]) -> tuple[str, str]:
        uses: dict[str, tuple[int, bool]] = {}
        for limit in self.limits:
            key = _limit_key(limit.key, values)
            cost, is_strict = _cost(limit, values), isinstance(limit, Limit) and limit.strict
            if key in uses:  # two templates produced the same key, which is used only once
                cost, is_strict = cost + uses[key][0], is_strict or uses[key][1]
            uses[key] = cost, is_strict
        if sum(map(len, uses)) > _MAX_TOGETHER:
            raise ArgumentError(
                f"The keys of the limits must have at most {_MAX_TOGETHER} characters in total, got "
                f"{sum(map(len, uses))} with these arguments: {shown(list(uses))}"
            )
        written = [f"[{_quoted(key)},{cost},{is_strict:d}]" for key, (cost, is_strict) in uses.items()]
        return next(iter(uses)), ",".join(written)


_quoted = json.encoder.encode_basestring  # a string in JSON, as `write_admission` writes it


def _use_of(unique: Unique | Debounce) -> UniqueUse:
    """Return the stored form of a unique option, without its key."""
    if isinstance(unique, Debounce):
        return UniqueUse(
            "",
            Until.DUE,
            keeps_last=unique.keep == "last",
            wait=span_micros(unique.wait),
            max_wait=span_micros(unique.longest),
        )
    at_least = 0 if unique.at_least is None else span_micros(unique.at_least)
    return UniqueUse("", Until(unique.until), at_least, unique.keep == "last", unique.conflict == "raise")


@lru_cache(maxsize=1024)
def key_maker(
    owner: str,
    limits: tuple[Limit | Turns, ...],
    unique: Unique | Debounce | None,
    parameters: tuple[str, ...],
) -> KeyMaker:
    """Return the builder of a task's keys, whose templates may contain only parameters of the task.

    Raises:
        TaskError: A template contains another name.
    """
    for limit in limits:
        check_names("Limit key", limit.key, parameters)
        if isinstance(limit, Limit) and isinstance(limit.cost, str):
            check_names("Cost", limit.cost, parameters)
    if unique is not None and unique.key is not None:
        check_names("Unique key", unique.key, parameters)
    return KeyMaker(owner, limits, unique)


def check_declared(limits: Iterable[Limit | Turns], others: Mapping[str, Limit]) -> dict[str, Limit]:
    """Return the limits and `others`, keyed by the name to which their settings belong.

    Raises:
        ConfigurationError: A name has two different settings.
    """
    known = dict(others)
    for limit in limits:
        if isinstance(limit, Turns):
            continue
        other = known.setdefault(limit.name, limit)
        if other.settings != limit.settings:
            raise ConfigurationError(
                f"Limit {limit.name!r} is declared with different settings: {other!r} and {limit!r}. Use the "
                "same settings, or another name for one of them."
            )
    return known


def check_known(limits: Iterable[Limit | Turns], declared: Mapping[str, Limit]) -> None:
    """Check that limits passed for one call have the settings that a task declares.

    Raises:
        ConfigurationError: A task declares other settings, or no task declares this name.
    """
    for limit in limits:
        if isinstance(limit, Turns):
            continue
        other = declared.get(limit.name)
        if other is None:
            raise ConfigurationError(
                f"using(limits=…): {limit!r} is not declared by any task, so its settings are unknown to "
                f"servers. Add it to @fire.task(limits=[…]), or use Turns({limit.key!r}) and set the limit "
                f"with fire.limits.set({limit.name!r}, …)."
            )
        if other.settings != limit.settings:
            raise ConfigurationError(
                f"using(limits=…): the settings of {limit!r} differ from the declared {other!r}. Use the "
                "declared settings, or change them for all jobs with fire.limits.set()."
            )


# ---- declarations for programs without the application's code --------------------------------------------

_KINDS: Mapping[str, type[Limit | Turns | Unique | Debounce]] = {
    kind.__name__: kind for kind in (Limit, Turns, Unique, Debounce)
}
_MICRO = timedelta(microseconds=1)


def facts_of(declared: Limit | Turns | Unique | Debounce) -> dict[str, JsonValue]:
    """Return a declaration as JSON."""
    fields = attrs.asdict(declared).items()
    facts = {name: value // _MICRO if isinstance(value, timedelta) else value for name, value in fields}
    return {**facts, "kind": type(declared).__name__}


def declared_of(facts: Mapping[str, Any]) -> Limit | Turns | Unique | Debounce | None:
    """Return the declaration from `facts_of`, without fields of a newer release; None for an unknown kind."""
    kind = _KINDS.get(facts["kind"])
    if kind is None:
        return None
    given: dict[str, Any] = {
        name: timedelta(microseconds=value) if name in _SPANS and value is not None else value
        for name, value in facts.items()
        if name in attrs.fields_dict(kind)
    }
    try:
        return kind(**given)
    except (TypeError, FirelockError):
        return None


_SPANS = {"per", "at_least", "wait", "max_wait"}


# ---- strings of keys -------------------------------------------------------------------------------------


def _filled(noun: str, template: str, values: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
    """Return each literal with the value after it; "/" in a value becomes %2F because "/" separates parts."""
    taken_apart: Pieces = pieces(noun, template)
    filled = []
    for literal, name in taken_apart:
        text = "" if name is None else text_of(noun, template, name, values)
        if "%" in text or "/" in text:
            text = text.replace("%", "%25").replace("/", "%2F")
        filled.append((literal, text))
    return filled


def _limit_key(template: str, values: Mapping[str, JsonValue]) -> str:
    filled = _filled("Limit key", template, values)
    key = "".join([literal + text for literal, text in filled])
    if not key.isprintable():
        raise ArgumentError(
            f"Limit key {template!r} contains characters that are not printable, with these arguments"
        )
    excess = len(key) - MAX_KEY_LENGTH
    if excess <= 0:
        return key
    # Shorten the last values first, so that the key's name and beginning stay as long as possible.
    for place in reversed(range(len(filled))):
        literal, text = filled[place]
        if excess > 0 and len(text) > DIGEST_LENGTH:
            cut = f"{text[: max(0, len(text) - excess - DIGEST_LENGTH)]}{_tail(text)}"
            excess -= len(text) - len(cut)
            filled[place] = literal, cut
    return "".join(literal + text for literal, text in filled)


def _unique_key(template: str, values: Mapping[str, JsonValue]) -> str:
    key = "".join(literal + text for literal, text in _filled("Unique key", template, values))
    if not key or not key.isprintable():
        problem = "contains characters that are not printable" if key else "is empty"
        raise ArgumentError(f"Unique key {template!r} {problem}, with these arguments")
    return key if len(key) <= MAX_KEY_LENGTH else f"{key[: MAX_KEY_LENGTH - DIGEST_LENGTH]}{_tail(key)}"


def _tail(text: str) -> str:
    """Return the string that replaces the end of a string that is too long."""
    return f"~{hashlib.sha256(text.encode()).hexdigest()[: DIGEST_LENGTH - 1]}"


def _digest(values: Mapping[str, JsonValue]) -> str:
    """Return the key of all arguments, independent of their order and of omitted defaults."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _cost(limit: Limit | Turns, values: Mapping[str, JsonValue]) -> int:
    if isinstance(limit, Turns):
        return 1
    cost = limit.cost
    if isinstance(cost, int):
        return cost
    name = pieces("Cost", cost)[0][1] or ""
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COST:
        raise ArgumentError(
            f"The cost {cost} of limit {limit.key!r} must be an integer from 0 to {_MAX_COST:,}, got "
            f"{shown(value)}"
        )
    return value
