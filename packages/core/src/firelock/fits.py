"""Annotations that are JSON already: a check for each, made once; no conversion and no cattrs."""

from __future__ import annotations

import types
import typing
from collections import abc
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, TypeVar, Union, cast, get_args, get_origin

from firelock.serializer import Misfit

__all__ = ["EXACT_TYPES", "Fit", "describe", "fit_of", "is_union", "mismatch", "unwrap"]

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
