"""Annotations that are JSON already: a check for each, made once; no conversion and no cattrs."""

from __future__ import annotations

import re
import types
import typing
from base64 import b64decode, b64encode
from collections import abc
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

from firelock.serializer import JsonValue, Misfit

__all__ = [
    "EXACT_TYPES",
    "SCALARS",
    "Encode",
    "Fit",
    "describe",
    "fit_of",
    "is_union",
    "mismatch",
    "unwrap",
]

Fit: TypeAlias = Callable[[object], object]
"""Gives the value back, an integer under `float` as float, or raises Misfit; the same in and out."""

EXACT_TYPES: Final = frozenset({str, int, float, bool})
"""Annotations whose fit gives back every value of exactly that type."""

_ANYTHING: Final = (Any, object)
_LISTS: Final = (list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_DICTS: Final = (dict, abc.Mapping, abc.MutableMapping)


def fit_of(annotation: object) -> Fit | None:
    """Return the check for an annotation that is JSON all through; None for one that needs conversion."""
    annotation = unwrap(annotation)
    if annotation in _ANYTHING:
        return _fit_anything
    if annotation is None or annotation is type(None):
        return _fit_none
    if annotation is float:
        return _fit_float
    if annotation in (str, int, bool):
        return _fit_exactly(cast("type", annotation))
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in _LISTS:
        return _fit_list(annotation, arguments)
    if origin in _DICTS:
        return _fit_dict(annotation, arguments)
    if origin is Literal:
        return _fit_literal(annotation, arguments)
    return _fit_union(annotation, arguments) if is_union(annotation) else None


def unwrap(annotation: object) -> object:
    """Return what a NewType, a type alias, an Annotated or a type variable stands for."""
    while True:
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) is typing.Annotated:
            annotation = get_args(annotation)[0]
        elif type(annotation).__name__ == "TypeAliasType":  # exists from Python 3.12 on
            annotation = getattr(annotation, "__value__", Any)
        elif isinstance(annotation, TypeVar) and not annotation.__constraints__:
            annotation = Any if annotation.__bound__ is None else annotation.__bound__
        else:
            return annotation


def is_union(annotation: object) -> bool:
    """Whether the annotation is `A | B` in either spelling."""
    return get_origin(annotation) in (Union, types.UnionType)


def describe(annotation: object) -> str:
    """Return the annotation as its author would write it."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__ if annotation is not type(None) else "None"
    return str(annotation).replace("typing.", "")


def mismatch(value: object, annotation: object) -> Misfit:
    """Return the error for a value that is not of its annotation."""
    expected = describe(annotation)
    return Misfit(f"{type(value).__name__} where {expected} is annotated", value, f"pass {expected}")


# ---- one fit a kind of annotation ------------------------------------------------------------------------


def _fit_anything(value: object) -> object:
    return value  # check_json, which sees all that is stored, looks inside


def _fit_none(value: object) -> object:
    if value is None:
        return None
    raise mismatch(value, None)


def _fit_exactly(kind: type) -> Fit:
    def fit(value: object) -> object:
        if type(value) is kind:
            return value
        raise mismatch(value, kind)

    return fit


def _fit_float(value: object) -> object:
    if type(value) is float:
        return value
    if type(value) is not int:
        raise mismatch(value, float)
    number = float(value) if value.bit_length() <= 64 else 0.0  # noqa: PLR2004 - larger ones are refused anyway
    if number == value:
        return number
    raise Misfit(f"integer of {value.bit_length()} bits that no float equals", value, "annotate it as int")


def _fit_list(annotation: object, arguments: tuple[object, ...]) -> Fit | None:
    item = fit_of(arguments[0]) if arguments else _fit_anything
    if item is None:
        return None

    def fit(value: object) -> object:
        if type(value) is not list:
            raise mismatch(value, annotation)
        done: list[object] = []
        try:
            for inner in value:
                done.append(item(inner))  # noqa: PERF401 - how many are done says where it failed
        except Misfit as misfit:
            misfit.under(len(done))
            raise
        return done

    return fit if item is not _fit_anything else _fit_bare(list, annotation)


def _fit_dict(annotation: object, arguments: tuple[object, ...]) -> Fit | None:
    key, inner_type = arguments or (str, Any)
    item = fit_of(inner_type)
    if item is None or unwrap(key) not in (str, *_ANYTHING):
        return None

    def fit(value: object) -> object:
        if type(value) is not dict:
            raise mismatch(value, annotation)
        done: dict[object, object] = {}
        at: object = None
        try:
            for at, inner in value.items():
                done[at] = item(inner)
        except Misfit as misfit:
            misfit.under(at if type(at) is str else type(at).__name__)
            raise
        return done

    return fit if item is not _fit_anything else _fit_bare(dict, annotation)


def _fit_bare(kind: type, annotation: object) -> Fit:
    def fit(value: object) -> object:
        if type(value) is kind:
            return value
        raise mismatch(value, annotation)

    return fit


def _fit_literal(annotation: object, arguments: tuple[object, ...]) -> Fit | None:
    if not all(value is None or type(value) in EXACT_TYPES for value in arguments):
        return None
    allowed = {(type(value), value) for value in arguments}

    def fit(value: object) -> object:
        if (value is None or type(value) in EXACT_TYPES) and (type(value), value) in allowed:
            return value
        raise mismatch(value, annotation)

    return fit


def _fit_union(annotation: object, arguments: tuple[object, ...]) -> Fit | None:
    by_type: dict[type, Fit] = {}
    for member in map(unwrap, arguments):
        fit = fit_of(member)
        if fit is None:
            return None
        if fit is _fit_anything:
            return fit
        kinds = _json_types(member)
        if not kinds.isdisjoint(by_type):
            return None
        by_type.update(dict.fromkeys(kinds, fit))
    if float in by_type:
        by_type.setdefault(int, by_type[float])

    def fit_one(value: object) -> object:
        fit = by_type.get(type(value))
        if fit is None:
            raise mismatch(value, annotation)
        return fit(value)

    return fit_one


def _json_types(member: object) -> set[type]:
    """Return the types by which JSON tells this member of a union from the others."""
    origin = get_origin(member) or member
    if origin in _LISTS:
        return {list}
    if origin in _DICTS:
        return {dict}
    if origin is Literal:
        return {type(value) for value in get_args(member)}
    if is_union(member):
        return {kind for inner in get_args(member) for kind in _json_types(unwrap(inner))}
    return {type(None) if member is None else cast("type", member)}


Encode: TypeAlias = Callable[[object], JsonValue]
Decode: TypeAlias = Callable[[object], object]

_DURATION: Final = re.compile(r"(-?)PT(\d{1,14})(?:\.(\d{6}))?S", re.ASCII)
_MICROSECOND: Final = timedelta(microseconds=1)


def _encode_datetime(value: object) -> str:
    if type(value) is not datetime:
        raise mismatch(value, datetime)
    offset = value.utcoffset()
    if offset is None:
        advice = "give it a time zone: datetime.now(UTC), value.replace(tzinfo=UTC)"
        raise Misfit("naive datetime", value, advice)
    _check_offset(offset, value)
    return value.isoformat()


def _decode_datetime(stored: object) -> datetime:
    value = datetime.fromisoformat(_text(stored, datetime))
    if value.tzinfo is None:
        raise Misfit("naive datetime", value, "give it an offset")
    return value


def _check_offset(offset: timedelta, value: object) -> None:
    # CPython 3.11 reads an offset of less than a second as UTC, and no zone has one.
    if offset.microseconds:
        raise Misfit("offset from UTC with a fraction of a second", value, "pass value.astimezone(UTC)")


def _encode_date(value: object) -> str:
    if type(value) is not date:
        raise mismatch(value, date)
    return value.isoformat()


def _decode_date(stored: object) -> date:
    return date.fromisoformat(_text(stored, date))


def _encode_time(value: object) -> str:
    if type(value) is not time:
        raise mismatch(value, time)
    offset = value.utcoffset()
    if offset is not None:
        _check_offset(offset, value)
    elif value.tzinfo is not None:
        problem = "time in a zone whose offset depends on the day"
        raise Misfit(problem, value, "pass a datetime, or a naive time")
    return value.isoformat()


def _decode_time(stored: object) -> time:
    return time.fromisoformat(_text(stored, time))


def _encode_timedelta(value: object) -> str:
    if type(value) is not timedelta:
        raise mismatch(value, timedelta)
    seconds, fraction = divmod(abs(value) // _MICROSECOND, 1_000_000)
    sign = "-" if value < timedelta() else ""
    return f"{sign}PT{seconds}.{fraction:06d}S" if fraction else f"{sign}PT{seconds}S"


def _decode_timedelta(stored: object) -> timedelta:
    found = _DURATION.fullmatch(_text(stored, timedelta))
    if found is None:
        raise Misfit("not a duration like PT90.500000S", stored)
    value = timedelta(seconds=int(found[2]), microseconds=int(found[3] or 0))
    return -value if found[1] else value


def _encode_uuid(value: object) -> str:
    if type(value) is not UUID:
        raise mismatch(value, UUID)
    return str(value)


def _decode_uuid(stored: object) -> UUID:
    return UUID(_text(stored, UUID))


def _encode_decimal(value: object) -> str:
    if type(value) is not Decimal:
        raise mismatch(value, Decimal)
    if not value.is_finite():
        raise Misfit("Decimal that is not finite", value, "pass None or a text")
    return str(value)


def _decode_decimal(stored: object) -> Decimal:
    value = Decimal(_text(stored, Decimal))
    if not value.is_finite():
        raise Misfit("Decimal that is not finite", value)
    return value


def _encode_bytes(value: object) -> str:
    if type(value) is not bytes:
        raise mismatch(value, bytes)
    return b64encode(value).decode()


def _decode_bytes(stored: object) -> bytes:
    return b64decode(_text(stored, bytes), validate=True)


def _text(stored: object, kind: type) -> str:
    if type(stored) is not str:
        raise mismatch(stored, kind)
    return stored


SCALARS: Final[dict[type, tuple[Encode, Decode]]] = {
    date: (_encode_date, _decode_date),
    datetime: (_encode_datetime, _decode_datetime),
    time: (_encode_time, _decode_time),
    timedelta: (_encode_timedelta, _decode_timedelta),
    UUID: (_encode_uuid, _decode_uuid),
    Decimal: (_encode_decimal, _decode_decimal),
    bytes: (_encode_bytes, _decode_bytes),
}
"""How each is stored: ISO 8601 for time (an offset, no zone name), base64 for bytes, text for the others."""
