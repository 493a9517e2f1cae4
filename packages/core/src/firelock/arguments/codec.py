"""The exact conversion of one annotation's values to JSON and back; any other value raises an error.

Values that are already JSON are only checked. All other values are converted by cattrs, which is loaded for
the first such value (`conversion`).
"""

from __future__ import annotations

import re
import types
import typing
from base64 import b64decode, b64encode
from collections import abc
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin
from uuid import UUID

import attrs

from firelock.arguments.serializer import Misfit
from firelock.errors import TaskError

Coder: TypeAlias = Callable[[object], object]
"""One direction of a codec: a function that returns the value's other form, or raises Misfit."""

EXACT_TYPES: Final = frozenset({str, int, float, bool})
"""The annotations whose coder returns every value of exactly that type unchanged."""

_ANYTHING: Final = (Any, object)
LISTS: Final = (list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
DICTS: Final = (dict, abc.Mapping, abc.MutableMapping)


@attrs.frozen
class Codec:
    """The functions that store and restore the values of one annotation."""

    encode: Coder
    decode: Coder
    exact: type | None = None
    """The type whose values both functions return unchanged; None if they check each value."""


# ---- annotations -----------------------------------------------------------------------------------------


def unwrap(annotation: object) -> object:
    """Return the underlying type of a NewType, a type alias, an Annotated or a type variable."""
    while True:
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif get_origin(annotation) is typing.Annotated:
            annotation = get_args(annotation)[0]
        elif type(annotation).__name__ == "TypeAliasType":  # this type exists only in Python 3.12 and later
            annotation = getattr(annotation, "__value__", Any)
        elif isinstance(annotation, TypeVar) and not annotation.__constraints__:
            annotation = Any if annotation.__bound__ is None else annotation.__bound__
        else:
            return annotation


def is_union(annotation: object) -> bool:
    """Return whether the annotation is a union, written as `A | B` or `Union[A, B]`."""
    return get_origin(annotation) in (Union, types.UnionType)


def without_none(annotation: object) -> tuple[object, bool]:
    """Return an annotation without None, and whether it allows None."""
    annotation = unwrap(annotation)
    if not is_union(annotation):
        return annotation, False
    members = [unwrap(member) for member in get_args(annotation)]
    others = [member for member in members if member not in (None, type(None))]
    return (others[0] if len(others) == 1 else annotation), len(others) < len(members)


def is_record(annotation: object) -> bool:
    """Return whether the annotation is an attrs class or a dataclass."""
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and (attrs.has(kind) or is_dataclass(kind))


def describe(annotation: object) -> str:
    """Return the annotation as written in source code."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__ if annotation is not type(None) else "None"
    return str(annotation).replace("typing.", "")


def mismatch(value: object, annotation: object) -> Misfit:
    """Return the error for a value that does not match its annotation."""
    expected = describe(annotation)
    problem = f"{type(value).__name__} where {expected} is annotated"
    return Misfit(problem, value, f"pass {expected}", expected=expected)


# ---- JSON values -----------------------------------------------------------------------------------------


def json_coder_for(annotation: object, owner: str) -> Coder | None:
    """Return `json_coder` of the annotation.

    Raises:
        TaskError: The annotation of `owner` refers to itself.
    """
    try:
        return json_coder(annotation)
    except RecursionError as error:
        raise TaskError(
            f"{owner} has an annotation that refers to itself. Annotate plain JSON as Any"
        ) from error


def json_coder(annotation: object) -> Coder | None:
    """Return the coder of an annotation that consists only of JSON types; None for other annotations.

    The coder is used in both directions.
    """
    annotation = unwrap(annotation)
    if annotation in _ANYTHING:
        return _anything
    if annotation is float:
        return _float
    if annotation in (None, type(None), str, int, bool):
        return _exactly(type(None) if annotation is None else cast("type", annotation), annotation)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in LISTS:
        return _list_coder(annotation, *(arguments or (Any,)))
    if origin in DICTS:
        return _dict_coder(annotation, *(arguments or (str, Any)))
    if origin is Literal:
        return _literal_coder(annotation, arguments)
    return _union_coder(annotation, arguments) if is_union(annotation) else None


def _anything(value: object) -> object:
    return value  # every stored value is passed to check_json, which checks the contents


def _exactly(kind: type, annotation: object) -> Coder:
    def code(value: object) -> object:
        if type(value) is kind:
            return value
        raise mismatch(value, annotation)

    return code


def _float(value: object) -> object:
    if type(value) is float:
        return value
    if type(value) is not int:
        raise mismatch(value, float)
    number = float(value) if value.bit_length() <= 64 else 0.0  # noqa: PLR2004 - larger ones are rejected
    if number == value:
        return number
    raise Misfit(
        f"integer of {value.bit_length()} bits that is not equal to any float", value, "annotate it as int"
    )


def _list_coder(annotation: object, item: object) -> Coder | None:
    code_item = json_coder(item)
    if code_item is None or code_item is _anything:
        return code_item and _exactly(list, annotation)

    def code(value: object) -> object:
        if type(value) is not list:
            raise mismatch(value, annotation)
        done: list[object] = []
        try:
            for inner in value:
                done.append(code_item(inner))  # noqa: PERF401 - an error uses the length as its index
        except Misfit as misfit:
            misfit.under(len(done))
            raise
        return done

    return code


def _dict_coder(annotation: object, key: object, item: object) -> Coder | None:
    code_item = json_coder(item) if unwrap(key) in (str, *_ANYTHING) else None
    if code_item is None or code_item is _anything:
        return code_item and _exactly(dict, annotation)

    def code(value: object) -> object:
        if type(value) is not dict:
            raise mismatch(value, annotation)
        done: dict[object, object] = {}
        at: object = None
        try:
            for at, inner in value.items():
                done[at] = code_item(inner)
        except Misfit as misfit:
            misfit.under(at if type(at) is str else type(at).__name__)
            raise
        return done

    return code


def _literal_coder(annotation: object, values: tuple[object, ...]) -> Coder | None:
    plain = {*EXACT_TYPES, type(None)}
    if not plain.issuperset(map(type, values)):
        return None
    allowed = {(type(value), value) for value in values}

    def code(value: object) -> object:
        if type(value) in plain and (type(value), value) in allowed:
            return value
        raise mismatch(value, annotation)

    return code


def _union_coder(annotation: object, members: tuple[object, ...]) -> Coder | None:
    by_type: dict[type, Coder] = {}
    for member in map(unwrap, members):
        coder = json_coder(member)
        if coder is None or coder is _anything:
            return coder
        kinds = _json_types(member)
        if not kinds.isdisjoint(by_type):
            return None
        by_type.update(dict.fromkeys(kinds, coder))
    if float in by_type:
        by_type.setdefault(int, by_type[float])

    def code(value: object) -> object:
        coder = by_type.get(type(value))
        if coder is None:
            raise mismatch(value, annotation)
        return coder(value)

    return code


def _json_types(member: object) -> set[type]:
    """Return the JSON types that distinguish this member of a union from the others."""
    origin = get_origin(member) or member
    if origin in LISTS:
        return {list}
    if origin in DICTS:
        return {dict}
    if origin is Literal:
        return set(map(type, get_args(member)))
    if is_union(member):
        return set().union(*(_json_types(unwrap(inner)) for inner in get_args(member)))
    return {type(None) if member is None else cast("type", member)}


# ---- values stored as strings ----------------------------------------------------------------------------

_T = TypeVar("_T")

_DURATION: Final = re.compile(r"(-?)PT(\d{1,14})(?:\.(\d{6}))?S", re.ASCII)
_MICROSECOND: Final = timedelta(microseconds=1)


def _text_codec(kind: type[_T], write: Callable[[_T], str], read: Callable[[str], _T]) -> Codec:
    """Return the codec for values of exactly this type.

    Values of a subclass are rejected, because they would be restored as the type itself.
    """

    def encode(value: object) -> str:
        if type(value) is not kind:
            raise mismatch(value, kind)
        return write(value)

    def decode(stored: object) -> _T:
        if type(stored) is not str:
            raise mismatch(stored, kind)
        return read(stored)

    return Codec(encode, decode)


def _write_datetime(value: datetime) -> str:
    if value.utcoffset() is None:
        advice = "add a time zone: datetime.now(UTC), value.replace(tzinfo=UTC)"
        raise Misfit("naive datetime", value, advice)
    return _with_whole_offset(value)


def _read_datetime(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise Misfit("naive datetime", value, "add an offset")
    return value


def _write_time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        problem = "time in a zone whose offset depends on the day"
        raise Misfit(problem, value, "pass a datetime, or a naive time")
    return _with_whole_offset(value)


def _with_whole_offset(value: datetime | time) -> str:
    # CPython 3.11 reads an offset of less than a second as UTC, but no time zone has such an offset.
    if (value.utcoffset() or timedelta()).microseconds:
        raise Misfit("offset from UTC with a fraction of a second", value, "pass value.astimezone(UTC)")
    return value.isoformat()


def _write_timedelta(value: timedelta) -> str:
    seconds, fraction = divmod(abs(value) // _MICROSECOND, 1_000_000)
    sign = "-" if value < timedelta() else ""
    return f"{sign}PT{seconds}.{fraction:06d}S" if fraction else f"{sign}PT{seconds}S"


def _read_timedelta(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise Misfit("not a duration like PT90.500000S", text)
    value = timedelta(seconds=int(found[2]), microseconds=int(found[3] or 0))
    return -value if found[1] else value


def _finite(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise Misfit("Decimal that is not finite", value, "pass None or a string")
    return value


SCALARS: Final[dict[type, Codec]] = {
    date: _text_codec(date, date.isoformat, date.fromisoformat),
    datetime: _text_codec(datetime, _write_datetime, _read_datetime),
    time: _text_codec(time, _write_time, time.fromisoformat),
    timedelta: _text_codec(timedelta, _write_timedelta, _read_timedelta),
    UUID: _text_codec(UUID, str, UUID),
    Decimal: _text_codec(Decimal, lambda value: str(_finite(value)), lambda text: _finite(Decimal(text))),
    bytes: _text_codec(
        bytes, lambda value: b64encode(value).decode(), lambda text: b64decode(text, validate=True)
    ),
}
"""The codec of each type that is stored as a string.

Times are stored in ISO 8601, with an offset but without a zone name; bytes are stored in base64; other values
are stored as returned by `str`.
"""
