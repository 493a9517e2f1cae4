"""Arguments ↔ text by a function's annotations: each is JSON already, or cattrs converts it."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Union, Unpack, cast, get_args, get_origin

import attrs

from firelock import serializer
from firelock.binder import Binder, Codec, LargeArgumentsWarning
from firelock.errors import TaskError
from firelock.fits import EXACT_TYPES, Fit, describe, fit_of, is_union, unwrap
from firelock.guards import check_callable
from firelock.serializer import Misfit
from firelock.shape import shape_of
from firelock.tags import check_tag_templates, format_tags

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = [
    "Binder",
    "LargeArgumentsWarning",
    "check_callable",
    "check_tag_templates",
    "compile_binder",
    "format_tags",
    "make_converter",
    "takes_context",
]

_BY_POSITION: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def compile_binder(
    function: Callable[..., object],
    *,
    task: str,
    converter: Callable[[], Converter] | None = None,
    limit: int = 32 * 1024,
    warn_at: int = 4 * 1024,
    result_limit: int = 256 * 1024,
    context_type: type | None = None,
    was_given_context: bool | None = None,
    flow_types: Sequence[type] = (),
    namespace: Mapping[str, object] | None = None,
) -> Binder:
    """Return what turns calls of the function into stored text and back.

    `converter` is called when an annotation needs it, and no sooner. `was_given_context` is what
    `takes_context` said when the task was registered. `flow_types` are returned by the function but consumed
    by the server, like Snooze, and are left out of the return annotation. `namespace` is where annotations
    written as text are looked up beside the function's own module and closure.

    Raises:
        TaskError: the function cannot be a task, an annotation cannot be resolved, the members of a union
            cannot be told apart in JSON, a JobContext is annotated elsewhere than first, or the first
            parameter turns out to be one, or to be none, though it looked otherwise at registration.
    """
    check_callable(function)
    resolve = _Resolver(function, task, context_type, namespace or {})
    parameters = list(inspect.signature(function).parameters.values())
    has_context = bool(parameters) and resolve.is_context(parameters[0])
    if was_given_context not in {None, has_context}:
        first = parameters[0]
        message = (
            f"Task {task!r}: the annotation {first.annotation!r} of parameter {first.name!r} could not be "
            "resolved when the task was registered, and is taken otherwise now. Define or import what it "
            "names above the task."
        )
        raise TaskError(message)
    if has_context:
        parameters = parameters[1:]
    converter = functools.cache(converter or make_converter)
    codecs: dict[str, Codec] = {}
    annotations: dict[str, object] = {}
    for parameter in parameters:
        name = f"parameter {parameter.name!r}"
        if resolve.is_context(parameter):
            raise TaskError(f"Task {task!r}: {name} is a JobContext; it must be the first parameter")
        annotation = _whole(parameter, resolve(parameter.annotation, name))
        _check_unions(annotation, f"Task {task!r}: {name}", converter)
        codecs[_key(parameter)] = _codec(annotation, converter)
        annotations[_key(parameter)] = annotation
    return Binder(
        shape_of(function.__name__, parameters),
        codecs,
        _result_codec(resolve, flow_types, converter),
        task=task,
        takes_context=has_context,
        annotations=annotations,
        limit=limit,
        warn_at=warn_at,
        result_limit=result_limit,
    )


def takes_context(function: Callable[..., object], context_type: type, *, task: str) -> bool:
    """Tell whether the function's first parameter is its context, by what the annotation means.

    It is where the annotation is the type, or the type or None, under whatever name it was imported. A name
    that exists for type checkers only is taken for the type where it is the type's own, bare or behind a dot.

    Raises:
        TaskError: the annotation allows the context and something else, or no position is there to give it.
    """
    parameters = list(inspect.signature(function).parameters.values())
    return bool(parameters) and _Resolver(function, task, context_type, {}).is_context(parameters[0])


def _key(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    return f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name


def _whole(parameter: inspect.Parameter, annotation: object) -> object:
    """Return the annotation of all that a parameter takes: of `*args` a list, of `**kwargs` a dict."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return list[annotation]  # type: ignore[valid-type]
    if parameter.kind is parameter.VAR_KEYWORD:
        is_unpacked = get_origin(annotation) is Unpack
        return get_args(annotation)[0] if is_unpacked else dict[str, annotation]  # type: ignore[valid-type]
    return annotation


# ---- reading annotations ---------------------------------------------------------------------------------


class _Resolver:
    """Turns the annotations of one function into types."""

    def __init__(
        self,
        function: Callable[..., object],
        task: str,
        context_type: type | None,
        namespace: Mapping[str, object],
    ) -> None:
        inner = cast("types.FunctionType", inspect.unwrap(function))
        self._task = task
        self._context_type = context_type
        self._globals = inner.__globals__
        self._names = {**namespace, **_closure(inner), **_json_alias(inner)}
        self.returned: object = inspect.signature(function).return_annotation

    def __call__(self, annotation: object, owner: str) -> object:
        if annotation is inspect.Parameter.empty:
            return Any
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            return typing.get_type_hints(holder, self._globals, self._names)["it"]
        except RecursionError as error:
            raise TaskError(
                f"Task {self._task!r}: the annotation of {owner} refers to itself. Annotate plain JSON as Any"
            ) from error
        except Exception as error:
            shown = annotation if isinstance(annotation, str) else describe(annotation)
            raise TaskError(
                f"Task {self._task!r}: the annotation {shown!r} of {owner} cannot be resolved: {error}. A "
                "name imported under TYPE_CHECKING must be imported for real, since arguments are "
                "converted by it."
            ) from error

    def is_context(self, parameter: inspect.Parameter) -> bool:
        """Tell whether the parameter takes the context.

        Raises:
            TaskError: it takes something else as well, or cannot be given by position.
        """
        context, owner = self._context_type, f"Task {self._task!r}: parameter {parameter.name!r}"
        if context is None:
            return False
        meaning = unwrap(self._meaning(parameter.annotation, context))
        members = [unwrap(each) for each in get_args(meaning)] if is_union(meaning) else [meaning]
        if not any(each is context for each in members):
            return False
        name = context.__name__
        if any(each is not context and each is not type(None) for each in members):
            shown = describe(meaning).replace(f"{context.__module__}.{name}", name)
            raise TaskError(f"{owner} is annotated {shown}; write {name}, or {name} | None")
        if parameter.kind not in _BY_POSITION:
            raise TaskError(f"{owner} is a {name}; it must be the first parameter, given by position")
        return True

    def _meaning(self, annotation: object, context: type) -> object:
        """Return what the annotation stands for; None where that cannot be told."""
        if annotation is inspect.Parameter.empty or isinstance(annotation, type):
            return annotation
        names, holder = dict(self._names), types.SimpleNamespace(__annotations__={"it": annotation})
        while True:
            try:
                return typing.get_type_hints(holder, self._globals, names)["it"]
            except NameError as error:  # a name that type checkers alone import, or that is not defined yet
                missing = error.name
                if missing is None or missing in names:
                    return None
                if missing == context.__name__:
                    names[missing] = context
                elif f"{missing}.{context.__name__}" in str(annotation):
                    names[missing] = types.SimpleNamespace(**{context.__name__: context})
                else:
                    return None
            except Exception:  # noqa: BLE001 - `__call__` says what is wrong with it, when the types are needed
                return None


def _closure(function: types.FunctionType) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _json_alias(function: types.FunctionType) -> dict[str, object]:
    """Let our own JsonValue, which is an endless type, be annotated: it is plain JSON, as Any is."""
    return {name: Any for name, value in function.__globals__.items() if value is serializer.JsonValue}


def _check_unions(annotation: object, owner: str, converter: Callable[[], Converter]) -> None:
    """Refuse a union whose members cannot be told apart once they are stored."""
    annotation = unwrap(annotation)
    members = get_args(annotation)
    if get_origin(annotation) is Literal or _fits_json(annotation, owner):
        return
    if is_union(annotation):
        members = tuple(each for each in map(unwrap, members) if each not in (None, type(None)))
        if len(members) > 1 and not _are_told_apart(annotation, members, converter):
            raise TaskError(
                f"{owner} is annotated {describe(annotation)}, whose members cannot be told apart in JSON. "
                "Use one of them, a union of text, numbers and lists, or attrs classes with different fields"
            )
    for member in members:
        if member is not Ellipsis and not isinstance(member, list):
            _check_unions(member, owner, converter)


def _fits_json(annotation: object, owner: str) -> bool:
    try:
        return fit_of(annotation) is not None
    except RecursionError as error:
        raise TaskError(
            f"{owner} has an annotation that refers to itself. Annotate plain JSON as Any"
        ) from error


def _are_told_apart(union: object, members: Sequence[object], converter: Callable[[], Converter]) -> bool:
    if not all(_is_record(get_origin(member) or member) for member in members):
        return False
    try:
        converter().get_structure_hook(union)
    except Exception:  # noqa: BLE001 - whatever cattrs raises, it found no way
        return False
    return True


def _is_record(kind: object) -> bool:
    return isinstance(kind, type) and (attrs.has(kind) or is_dataclass(kind))


# ---- codecs ----------------------------------------------------------------------------------------------


def _codec(annotation: object, converter: Callable[[], Converter]) -> Codec:
    fit = fit_of(annotation)
    if fit is not None:
        plain = unwrap(annotation)
        return Codec(fit, fit, plain if plain in EXACT_TYPES else None)
    conversion = _Conversion(annotation, converter)
    return Codec(conversion.encode, conversion.decode)


def _result_codec(
    resolve: _Resolver, flow_types: Sequence[type], converter: Callable[[], Converter]
) -> Codec:
    """Return the codec of what the function returns; a return annotation never hinders its registration."""
    try:
        annotation = resolve(resolve.returned, "what it returns")
        if is_union(annotation):
            members = tuple(each for each in get_args(annotation) if each not in flow_types)
            annotation = Union[members] if members else None  # noqa: UP007 - made from a tuple
        _check_unions(annotation, "what it returns", converter)
        return _codec(annotation, converter)
    except TaskError as error:
        return Codec(_refuse_with(str(error)), _refuse_with(str(error)))


def _refuse_with(reason: str) -> Callable[[object], object]:
    def refuse(value: object) -> object:
        raise Misfit(reason, value, "")

    return refuse


class _Conversion:
    """The codec of an annotation that is not JSON; cattrs is loaded and asked at the first value."""

    def __init__(self, annotation: object, converter: Callable[[], Converter]) -> None:
        self._annotation = unwrap(annotation)
        self._converter = converter
        self._pair: tuple[Fit, Fit] | None = None

    def encode(self, value: object) -> object:
        """Return the value's stored form."""
        encode, _ = self._pair or self._load(value)
        return encode(value)

    def decode(self, stored: object) -> object:
        """Return the value of a stored form."""
        _, decode = self._pair or self._load(stored)
        return decode(stored)

    def _load(self, value: object) -> tuple[Fit, Fit]:
        from firelock.conversion import conversion_of  # noqa: PLC0415 - loads cattrs

        self._pair = conversion_of(self._annotation, self._converter(), value)
        return self._pair


def make_converter() -> Converter:
    """Return a cattrs converter that stores exactly and reads strictly; an app may add types to it."""
    from firelock.converter import strict_converter  # noqa: PLC0415 - loads cattrs

    return strict_converter()
