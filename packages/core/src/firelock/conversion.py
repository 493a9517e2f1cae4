"""How an annotation is converted by cattrs, and what is said when that fails; loaded at the first value."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, cast

from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from firelock.fits import Fit, describe, mismatch
from firelock.sameness import is_same
from firelock.scalars import SCALARS
from firelock.serializer import Misfit, check_json

__all__ = ["as_misfit", "conversion_of"]


def conversion_of(annotation: object, converter: Converter, value: object) -> tuple[Fit, Fit]:
    """Return how values of an annotation are stored and how they come back; errors name `value`.

    Raises:
        ArgumentError: the annotation holds a type that cannot be stored.
    """
    try:
        unstructure = converter.get_unstructure_hook(annotation)
        structure = converter.get_structure_hook(annotation)
    except Exception as error:
        raise as_misfit(error, value, annotation) from error

    def decode(stored: object) -> object:
        try:
            return structure(stored, annotation)
        except Exception as error:
            raise as_misfit(error, stored, annotation) from error

    def encode(value: object) -> object:
        try:
            stored = unstructure(value)
        except Exception as error:
            raise as_misfit(error, value, annotation) from error
        if unstructure in _SCALAR_HOOKS:
            return stored
        check_json(stored)
        try:
            back = structure(stored, annotation)
            same = is_same(value, back)
        except Exception as error:
            raise as_misfit(error, value, annotation) from error
        if not same:
            raise _changed(value, back, annotation)
        return stored

    return encode, decode


_SCALAR_HOOKS: Final = frozenset(encode for encode, _ in SCALARS.values())
"""Each gives back exactly what it took, so that nothing need be compared."""


def _changed(value: object, back: object, annotation: object) -> Misfit:
    kind = type(value)
    if kind is not type(back):
        return mismatch(value, annotation)
    advice = "annotate what it holds" if isinstance(value, Collection) else "annotate what its fields hold"
    return Misfit(f"a {kind.__name__} that would not come back equal", value, advice)


def as_misfit(error: Exception, value: object, annotation: object) -> Misfit:
    """Return what cattrs or a type's own code found wrong, with the path that cattrs noted on the way."""
    if isinstance(error, Misfit):
        return error
    if isinstance(error, ExceptionGroup):
        inner = error.exceptions[0]
        misfit = as_misfit(cast("Exception", inner), value, annotation)
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                misfit.under(note.name)
            elif isinstance(note, IterableValidationNote):
                misfit.under(note.index)
        return misfit
    if isinstance(error, RecursionError):
        return Misfit(
            "contains itself or is nested too deep", value, "store it elsewhere and pass a reference"
        )
    if isinstance(error, AttributeError):
        return mismatch(value, annotation)
    problem, advice = _problem_of(error, describe(annotation))
    return Misfit(problem, value, advice)


def _problem_of(error: Exception, shown: str) -> tuple[str, str | None]:
    if isinstance(error, StructureHandlerNotFoundError):
        return f"{describe(error.type_)} is not a type that can be stored", "use a dataclass of plain values"
    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown fields {', '.join(sorted(map(repr, error.extra_fields)))}", ""
    if isinstance(error, KeyError):
        return f"{error} is missing", ""
    try:
        reason = str(error)
    except Exception:  # noqa: BLE001 - the error is of a stranger's class, and so is its text
        reason = type(error).__name__
    return f"does not fit {shown}: {reason}", f"pass {shown}"
