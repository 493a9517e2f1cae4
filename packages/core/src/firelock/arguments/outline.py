"""Calls with JSON arguments, for programs without the task's code or in another language.

If the code is available, its annotations determine how the values are converted. Otherwise, the values are
converted according to an outline of the annotations that a server has published: `ParameterOutline` is one
published parameter, and `stub_of` returns a function with these parameters, whose binder performs the same
checks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import attrs

from firelock.arguments.codec import EXACT_TYPES, SCALARS, without_none
from firelock.errors import ArgumentError

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue
    from firelock.arguments.signature import Binder

_ANY: Final = "any"
_UNKNOWN: Final = ...  # a default that exists only in the code
_TYPES: Final[Mapping[str, object]] = {
    **{kind.__name__: kind for kind in (str, int, float, bool, *SCALARS)},
    "list": list[Any],
    "dict": dict[str, Any],
    _ANY: Any,
}


@attrs.frozen
class ParameterOutline:
    """The type of a task's parameter, to the extent that JSON can express it."""

    name: str  # stored name; `*name` and `**name` for the variable parameters
    type: str  # the form in JSON: "str", "int", "date", …, "list", "dict" or "any"
    # the stored values of an enum or a Literal; otherwise empty
    choices: tuple[str | int | float | bool, ...]
    is_required: bool  # whether the parameter has no default
    is_optional: bool  # whether null is allowed
    is_keyword_only: bool


def outline_of(binder: Binder) -> list[ParameterOutline]:
    """Return the outline of a task's parameters, in order, without its context."""
    return [_outline(binder, name, annotation) for name, annotation in binder.annotations.items()]


def _outline(binder: Binder, name: str, annotation: object) -> ParameterOutline:
    inner, is_optional = without_none(annotation)
    choices = _choices(inner)
    signature = binder.signature
    return ParameterOutline(
        name,
        _ANY if choices else _type_of(inner),
        choices,
        name in signature.required,
        is_optional or None in get_args(inner) * (get_origin(inner) is Literal),
        name in signature.keyword_only,
    )


def _choices(annotation: object) -> tuple[Any, ...]:
    """Return the JSON values of an enum or a Literal; empty if they are not plain values."""
    if isinstance(annotation, type) and issubclass(annotation, Enum) and not issubclass(annotation, Flag):
        values: Sequence[object] = [member.value for member in annotation]
    elif get_origin(annotation) is Literal:
        values = [value for value in get_args(annotation) if value is not None]
    else:
        return ()
    return tuple(values) if EXACT_TYPES.issuperset(map(type, values)) else ()


def _type_of(annotation: object) -> str:
    kind = get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return _ANY
    if kind in EXACT_TYPES or kind in SCALARS:
        return kind.__name__
    if kind in (list, tuple, set, frozenset):
        return "list"
    return "dict" if kind is dict else _ANY  # the form of other classes depends on the converter


def stub_of(
    name: str, outlines: Sequence[ParameterOutline], defaults: Mapping[str, JsonValue] | None = None
) -> Callable[..., None]:
    """Return a function that does nothing and has the outlined parameters, for a task with `remote=True`.

    `defaults` are the published defaults, in their stored form.
    """

    def stub(*_: object, **__: object) -> None:
        """Do nothing, because the task's code is in another program."""

    stub.__name__ = stub.__qualname__ = name
    told = defaults or {}
    parameters = [_parameter(one, told.get(one.name, _UNKNOWN)) for one in outlines]
    stub.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return stub


def _parameter(outline: ParameterOutline, default: object) -> inspect.Parameter:
    annotation = Literal[outline.choices] if outline.choices else _TYPES.get(outline.type, Any)
    if outline.is_optional and annotation is not Any:
        annotation = annotation | None  # type: ignore[operator]
    kinds = inspect.Parameter
    match outline.name.count("*"):
        case 1:
            return kinds(outline.name[1:], kinds.VAR_POSITIONAL)
        case 2:
            return kinds(outline.name[2:], kinds.VAR_KEYWORD)
    kind = kinds.KEYWORD_ONLY if outline.is_keyword_only else kinds.POSITIONAL_OR_KEYWORD
    if outline.is_required:
        default = kinds.empty
    elif isinstance(default, str) and (codec := SCALARS.get(_TYPES.get(outline.type))) is not None:  # type: ignore[call-overload]
        default = codec.decode(default)
    return kinds(outline.name, kind, annotation=annotation, default=default)


def call_of_json(binder: Binder, arguments: JsonValue) -> tuple[tuple[object, ...], Mapping[str, object]]:
    """Return the call for JSON arguments: an object contains arguments by name, a list by position.

    Raises:
        SignatureMismatch: The call does not match the signature.
        ArgumentError: A value does not match its annotation, or `arguments` is neither an object nor a list.
    """
    signature = binder.signature
    match arguments:
        case dict():
            bound = signature.bind(*signature.named_call(arguments))
        case list():
            bound = signature.bind(arguments, {})
        case _:
            raise ArgumentError(
                f"The arguments of {signature.shown} must be an object by name or a list in order, got "
                f"{arguments!r}."
            )
    values: dict[str, object] = {}
    for name, value in bound.items():
        try:
            values[name] = binder.decode_one(name, value)  # type: ignore[arg-type]  # all of it is JSON
        except ArgumentError as error:
            problem = str(error).removesuffix(" at $")
            raise ArgumentError(f"Argument {name.lstrip('*')!r} of {signature.name}: {problem}") from error
    return signature.unbind(values)
