"""Forms for a task's parameters or a signal's payload, and the conversion of their strings to values."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, EnumType, StrEnum
from typing import TYPE_CHECKING, Final, Literal, get_args, get_origin

import attrs

from firelock.arguments.codec import SCALARS, describe, is_record, unwrap, without_none
from firelock.arguments.signature import compile_binder
from firelock.errors import ArgumentError, FormError, TaskError
from firelock.model.text import shown

if TYPE_CHECKING:
    from cattrs import Converter

    from firelock.arguments.serializer import JsonValue
    from firelock.arguments.signature import Binder


class FieldKind(StrEnum):
    """The kind of a field, which determines how its string is converted."""

    TEXT = "text"  # the string itself; also for values that are stored as strings, such as a UUID
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"  # true, yes, on, 1 or false, no, off, 0
    DATE = "date"  # ISO 8601
    DATETIME = "datetime"  # ISO 8601 with an offset from UTC
    ENUM = "enum"  # one of the listed choices
    JSON = "json"  # any other JSON value


_KINDS: Final[Mapping[object, FieldKind]] = {
    str: FieldKind.TEXT,
    int: FieldKind.INTEGER,
    float: FieldKind.NUMBER,
    Decimal: FieldKind.NUMBER,
    bool: FieldKind.BOOLEAN,
    date: FieldKind.DATE,
    datetime: FieldKind.DATETIME,
}


@attrs.frozen
class Parameter:
    """One parameter of a task, as a field of a form."""

    name: str  # stored name; `*name` and `**name` for the variable parameters
    annotation_text: str  # annotation as in the source code; "Any" if the parameter has none
    kind: FieldKind
    choices: tuple[str, ...]  # the names of an enum's members, or the values of a Literal; otherwise empty
    default_text: str | None  # the default as a string; None if there is no default or it has no string form
    is_required: bool  # whether the parameter has no default
    is_optional: bool = False  # whether None is allowed; an empty string means None


def parameters_of(binder: Binder) -> list[Parameter]:
    """Return the parameters of a task in order, without its context."""
    return [_parameter(binder, name, annotation) for name, annotation in binder.annotations.items()]


def _parameter(binder: Binder, name: str, annotation: object) -> Parameter:
    inner, is_optional = without_none(annotation)
    kind, choices = _kind_of(inner), _choices(inner)
    return Parameter(
        name,
        describe(annotation),
        kind,
        tuple(choices),
        _default_text(binder, name, kind, choices) if name in binder.signature.defaults else None,
        name in binder.signature.required,
        is_optional,
    )


def _default_text(binder: Binder, name: str, kind: FieldKind, choices: Mapping[str, object]) -> str | None:
    default = binder.signature.defaults[name]
    if default is None:
        return ""
    if kind is FieldKind.ENUM:
        return _choice_of(default, choices)
    stored = binder.defaults.get(name)
    if stored is None:  # no string would be converted to this default
        return None
    return stored if isinstance(stored, str) and kind is not FieldKind.JSON else json.dumps(stored)


def texts_of(binder: Binder, stored: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return stored arguments as the strings that `typed_arguments` would convert back.

    Values without such a string are omitted, as are names that are no longer parameters.
    """
    texts = {
        parameter.name: _stored_text(binder, parameter, stored[parameter.name])
        for parameter in parameters_of(binder)
        if parameter.name in stored
    }
    return {name: text for name, text in texts.items() if text is not None}


def _stored_text(binder: Binder, parameter: Parameter, stored: JsonValue) -> str | None:
    if stored is None and parameter.is_optional:
        return ""
    if parameter.kind is FieldKind.ENUM:
        try:
            value = binder.decode_one(parameter.name, stored)
        except ArgumentError:  # the choice no longer exists
            return None
        return _choice_of(value, _choices(without_none(binder.annotations[parameter.name])[0]))
    if parameter.kind is FieldKind.JSON or not isinstance(stored, str):
        return json.dumps(stored, ensure_ascii=False)
    return stored


# ---- annotations -----------------------------------------------------------------------------------------


def _kind_of(annotation: object) -> FieldKind:
    if annotation in _KINDS:
        return _KINDS[annotation]
    if _choices(annotation) or (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return FieldKind.ENUM
    return FieldKind.TEXT if annotation in SCALARS else FieldKind.JSON


def _choices(annotation: object) -> dict[str, object]:
    """Return the values of an enum or a Literal, keyed by their strings; empty for other annotations."""
    if get_origin(annotation) is Literal:
        return {_literal_text(value): value for value in get_args(annotation)}
    return dict(annotation.__members__) if isinstance(annotation, EnumType) else {}


def _literal_text(value: object) -> str:
    if isinstance(value, Enum):
        return value.name
    return value if isinstance(value, str) else json.dumps(value)


def _choice_of(value: object, choices: Mapping[str, object]) -> str | None:
    return next((text for text, choice in choices.items() if choice == value), None)


# ---- conversion ------------------------------------------------------------------------------------------


def typed_arguments(binder: Binder, values: Mapping[str, str]) -> dict[str, object]:
    """Convert the strings of a form to arguments by name.

    A parameter without a string is omitted, so its default applies. An empty string means None if None is
    allowed, and an empty string if the parameter accepts strings; otherwise it is ignored.

    Raises:
        FormError: A string cannot be converted, a name is unknown, or a required parameter has no string. The
            error's `fields` contain all problems.
    """
    known = {parameter.name: parameter for parameter in parameters_of(binder)}
    fields = {name: _unknown(binder, name) for name in values if name not in known}
    arguments: dict[str, object] = {}
    for name, parameter in known.items():
        text = values.get(name)
        if text is not None and not isinstance(text, str):
            fields[name] = f"must be a string, got {shown(text)}"
        elif text == "" and parameter.is_optional:
            arguments[name] = None
        elif text is None or (text == "" and parameter.kind is not FieldKind.TEXT):
            if parameter.is_required:
                fields[name] = f"is required; enter {_expected(parameter)}"
        else:
            try:
                arguments[name] = _read(binder, parameter, text)
            except (ValueError, LookupError, ArithmeticError, RecursionError, ArgumentError) as error:
                own = f" ({error})" if isinstance(error, ArgumentError | json.JSONDecodeError) else ""
                fields[name] = f"{shown(text)} is invalid{own}; enter {_expected(parameter)}"
    if fields:
        wrong = "; ".join(f"{name}: {problem}" for name, problem in fields.items())
        raise FormError(f"Arguments do not match {binder.task}. {wrong}.", fields)
    return arguments


def _unknown(binder: Binder, name: str) -> str:
    if name in binder.signature.resources:
        return "is a resource, which the worker opens for the job; omit it"
    return f"is not a parameter of {binder.signature.shown}"


def _read(binder: Binder, parameter: Parameter, text: str) -> object:
    inner, _ = without_none(binder.annotations[parameter.name])
    if parameter.kind is FieldKind.ENUM:
        return _choices(inner)[text]
    if parameter.kind in (FieldKind.TEXT, FieldKind.JSON):
        stored = text if parameter.kind is FieldKind.TEXT else json.loads(text)
        return binder.decode_one(parameter.name, stored)
    read, _ = _READERS[parameter.kind]
    return Decimal(text.strip()) if inner is Decimal else read(text.strip())


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(text)
    return instant


_TRUTHS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

_READERS: Final[Mapping[FieldKind, tuple[Callable[[str], object], str]]] = {
    FieldKind.INTEGER: (int, "a whole number"),
    FieldKind.NUMBER: (_finite, "a number, such as 1.5"),
    FieldKind.BOOLEAN: (lambda text: _TRUTHS[text.lower()], "true or false"),
    FieldKind.DATE: (date.fromisoformat, "a date, such as 2026-11-25"),
    FieldKind.DATETIME: (
        _instant,
        "a date and time with an offset, such as 2026-11-25T10:00:00+00:00",
    ),
}


def _expected(parameter: Parameter) -> str:
    if parameter.kind is FieldKind.ENUM:
        return f"one of {', '.join(parameter.choices)}"
    if parameter.kind in _READERS:
        return _READERS[parameter.kind][1]
    return f"{'a string' if parameter.kind is FieldKind.TEXT else 'JSON'} for {parameter.annotation_text}"


# ---- one value -------------------------------------------------------------------------------------------


@attrs.frozen
class ValueForm:
    """A form for one value, with the fields of its attrs class or dataclass, or a single field `value`."""

    owner: str  # the description of the value, for messages: "The payload of signal 'approval'"
    binder: Binder
    record: Callable[..., object] | None  # creates the value from the fields; None if the field is the value

    def parameters(self) -> list[Parameter]:
        """Return the fields of the form, in order."""
        return parameters_of(self.binder)

    def read(self, texts: Mapping[str, str]) -> object:
        """Return the value that the strings of a form describe.

        Raises:
            FormError: A string is invalid, as in `typed_arguments`, or the class rejects the values; in the
                latter case, `fields` is empty.
        """
        try:
            arguments = typed_arguments(self.binder, texts)
        except FormError as error:
            wrong = "; ".join(f"{name}: {problem}" for name, problem in error.fields.items())
            raise FormError(f"{self.owner} is invalid. {wrong}.", error.fields) from error
        if self.record is None:
            return arguments["value"]
        try:
            return self.record(**arguments)
        except Exception as error:
            raise FormError(f"{self.owner} cannot be created from these fields: {error}", {}) from error


def form_of_value(annotation: object, owner: str, converter: Callable[[], Converter]) -> ValueForm:
    """Return the form for a value of an annotation.

    If the type of one of a class's fields has no form, or cannot be resolved by its name, the form has a
    single JSON field.
    """
    kind = unwrap(annotation)
    if is_record(kind) and isinstance(kind, type):
        with suppress(TaskError, NameError):
            return ValueForm(owner, _binder_of(kind.__name__, owner, _fields_of(kind), converter), kind)
    only = inspect.Parameter("value", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    return ValueForm(owner, _binder_of(describe(kind), owner, [only], converter), None)


def _binder_of(
    name: str, owner: str, fields: Sequence[inspect.Parameter], converter: Callable[[], Converter]
) -> Binder:
    def stub(**_: object) -> None:
        """Represent the class, because its own signature lacks the defaults from factories."""

    stub.__name__ = stub.__qualname__ = name
    stub.__signature__ = inspect.Signature(list(fields))  # type: ignore[attr-defined]
    return compile_binder(stub, task=owner, converter=converter, was_given_context=False)


def _fields_of(kind: type) -> list[inspect.Parameter]:
    """Return the parameters of a record's constructor.

    The default `...` represents a default that depends on the instance.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field])
        for field, name, default in _constructor_fields(kind)
    ]


def _constructor_fields(kind: type) -> Iterator[tuple[str, str, object]]:
    """Yield each field's name, its parameter name in the constructor, and its default."""
    empty = inspect.Parameter.empty
    if attrs.has(kind):
        for field in attrs.fields(kind):
            if field.init:
                default: object = empty if field.default is attrs.NOTHING else field.default
                if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # it is a class
                    default = ... if field.default.takes_self else field.default.factory()
                yield field.name, field.alias or field.name, default
        return
    for one in dataclasses.fields(kind):
        if one.init:
            default = empty if one.default is dataclasses.MISSING else one.default
            if one.default_factory is not dataclasses.MISSING:
                default = one.default_factory()
            yield one.name, one.name, default
