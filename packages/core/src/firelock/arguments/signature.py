"""Arguments ↔ text by a function's annotations: each is JSON already, or cattrs converts it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import string
import sys
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Union, Unpack, cast, get_args, get_origin

import attrs

from firelock import serializer
from firelock.arguments.codec import EXACT_TYPES, Fit, describe, fit_of, is_union, unwrap
from firelock.arguments.refusals import advice_for, check_callable, find_refused, refusal
from firelock.errors import ArgumentError, ArgumentTooLarge, SignatureMismatch, TaskError
from firelock.serializer import JsonValue, Misfit, Serializer, check_json

if TYPE_CHECKING:
    from cattrs import Converter

__all__ = [
    "MAX_TAGS",
    "MAX_TAG_LENGTH",
    "Binder",
    "Codec",
    "LargeArgumentsWarning",
    "Shape",
    "check_callable",
    "check_tag_templates",
    "compile_binder",
    "format_tags",
    "make_converter",
    "shape_of",
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
        from firelock.arguments.conversion import conversion_of  # noqa: PLC0415 - loads cattrs

        self._pair = conversion_of(self._annotation, self._converter(), value)
        return self._pair


def make_converter() -> Converter:
    """Return a cattrs converter that stores exactly and reads strictly; an app may add types to it."""
    from firelock.arguments.conversion import strict_converter  # noqa: PLC0415 - loads cattrs

    return strict_converter()


_WIDEST_CHARACTER: Final = 4
"""Bytes of UTF-8: text of fewer than a quarter of the limit's characters needs no counting."""


class LargeArgumentsWarning(UserWarning):
    """A task was enqueued with large arguments; warned once a task."""


@attrs.frozen
class Codec:
    """How the values of one annotation are stored and given back; both raise Misfit."""

    encode: Fit
    decode: Fit
    exact: type | None = None
    """The type whose every value both sides give back unchanged; None where they look closer."""


class Binder:
    """Turns the calls of one task into stored text and back; made once a task, safe for many threads."""

    def __init__(
        self,
        shape: Shape,
        codecs: Mapping[str, Codec],
        result: Codec,
        *,
        task: str,
        takes_context: bool,
        annotations: Mapping[str, object],
        limit: int,
        warn_at: int,
        result_limit: int,
    ) -> None:
        self.task = task
        self.takes_context = takes_context
        """Whether the function's first parameter is its JobContext, which no call gives."""
        self.shape = shape
        self.annotations = annotations
        """What each parameter takes, resolved, by the name that it is stored under."""
        self.limit = limit
        self.warn_at = warn_at
        self.result_limit = result_limit
        self._codecs = codecs
        self._encoders = {name: codec.encode for name, codec in codecs.items()}
        self._result = result
        self._uncounted = min(limit, warn_at) // _WIDEST_CHARACTER
        self._has_warned = False
        self._defaults: dict[str, JsonValue] | None = None
        # Of a call by position the types alone say that it fits, when they are exactly these.
        self._names = shape.positional
        self._kinds = tuple(codecs[name].exact for name in shape.positional)
        self._fewest = len(shape.required) if shape.required <= set(shape.positional) else sys.maxsize

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names that arguments are stored under, in order; `*name` and `**name` for the variable ones."""
        return self.shape.order

    @property
    def defaults(self) -> Mapping[str, JsonValue]:
        """The defaults in their stored form, for tags, without those that could not be stored."""
        if self._defaults is None:
            self._defaults = self._stored_defaults()
        return self._defaults

    # ---- arguments ---------------------------------------------------------------------------------------

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> JsonValue:
        """Return the given arguments as strict JSON by name; defaults are left for the run to fill.

        Raises:
            SignatureMismatch: the call does not fit the signature.
            ArgumentError: a value does not fit its annotation, or would not come back equal.
        """
        try:
            value = self._encode(args, kwargs)
            check_json(value)
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit
        return value

    def encode_text(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], serializer: Serializer
    ) -> str:
        """Return the text to store for a call.

        Raises:
            SignatureMismatch: the call does not fit the signature.
            ArgumentTooLarge: the text is larger than the limit.
            ArgumentError: a value does not fit its annotation, or would not come back equal.
        """
        try:
            value = self._encode(args, kwargs)
            text = _dumps(serializer, value)
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit
        if len(text) > self._uncounted:
            self._check_size(text, value)
        return text

    def decode(self, value: JsonValue) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return stored arguments as the call they came from, checked against the signature of today.

        Raises:
            SignatureMismatch: the signature has changed so that they no longer fit.
            ArgumentError: a value no longer fits its annotation.
        """
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ArgumentError(f"The stored arguments of {self.task} are a {kind}, not an object")
        given, stored = tuple(value), value.values()
        is_plain = len(given) >= self._fewest and given == self._names[: len(given)]
        if is_plain and self._kinds[: len(given)] == tuple(map(type, stored)):
            return tuple(stored), {}
        if not is_plain:
            self.shape.unbind(dict(value))  # says what is unknown or missing before anything is converted
        name, bound = "", dict[str, object]()
        try:
            for name, each in value.items():
                bound[name] = self._codecs[name].decode(each)
        except Misfit as misfit:
            misfit.under(name)
            message = f"A stored argument of {self.shape.shown} does not fit: {misfit}"
            raise ArgumentError(message) from misfit
        return (tuple(bound.values()), {}) if is_plain else self.shape.unbind(bound)

    def decode_one(self, name: str, stored: JsonValue) -> object:
        """Return the value of one parameter's stored form.

        Raises:
            ArgumentError: it does not fit the parameter's annotation.
        """
        try:
            return self._codecs[name].decode(stored)
        except Misfit as misfit:
            raise ArgumentError(str(misfit)) from misfit

    def decode_text(self, text: str, serializer: Serializer) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return stored text as the call it came from.

        Raises:
            SignatureMismatch: the signature has changed so that they no longer fit.
            ArgumentError: the text is damaged, or a value no longer fits its annotation.
        """
        return self.decode(_loads(serializer, text))

    # ---- results -----------------------------------------------------------------------------------------

    def encode_result(self, value: object) -> JsonValue:
        """Return what the task returned as strict JSON, by its return annotation.

        Raises:
            ArgumentError: it would not come back equal; the message is the reason why it is absent.
        """
        try:
            stored = cast("JsonValue", self._result.encode(value))
            check_json(stored)
        except Misfit as misfit:
            kind = type(value).__name__
            advice = misfit.advice if misfit.advice is not None else advice_for(misfit.culprit)
            hint = f"; {advice.replace('the parameter', 'the result')}" if advice else ""
            raise ArgumentError(f"The result of {self.task}, of type {kind}: {misfit}{hint}") from misfit
        return stored

    def encode_result_text(self, value: object, serializer: Serializer) -> str:
        """Return the text to store for a result.

        Raises:
            ArgumentTooLarge: the text is larger than the limit for results.
            ArgumentError: it would not come back equal.
        """
        text = _dumps(serializer, self.encode_result(value))
        if len(text) > self.result_limit // _WIDEST_CHARACTER:
            size = _bytes(text)
            if size > self.result_limit:
                raise ArgumentTooLarge(
                    f"The result of {self.task} is {size:,} bytes, above the limit of {self.result_limit:,}; "
                    "store it elsewhere and return a reference"
                )
        return text

    def decode_result(self, value: JsonValue) -> object:
        """Return a stored result as the type of the return annotation.

        Raises:
            ArgumentError: it does not fit the return annotation of today.
        """
        try:
            return self._result.decode(value)
        except Misfit as misfit:
            raise ArgumentError(f"The stored result of {self.task} does not fit: {misfit}") from misfit

    def decode_result_text(self, text: str, serializer: Serializer) -> object:
        """Return stored text as the result it came from.

        Raises:
            ArgumentError: the text is damaged, or does not fit the return annotation of today.
        """
        return self.decode_result(_loads(serializer, text))

    # ---- inside ------------------------------------------------------------------------------------------

    def _encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> JsonValue:
        given: Iterable[tuple[str, object]]
        if kwargs or not self._fewest <= len(args) <= len(self._names):
            given = self.shape.bind(args, kwargs).items()
        elif self._kinds[: len(args)] == tuple(map(type, args)):
            return dict(zip(self._names, args))  # type: ignore[arg-type]  # noqa: B905 - the keyword costs 5 %
        else:
            given = zip(self._names, args, strict=False)
        encoders = self._encoders
        name, done = "", dict[str, object]()
        try:
            for name, value in given:
                done[name] = encoders[name](value)
        except Misfit as misfit:
            misfit.under(name)
            raise
        return cast("JsonValue", done)

    def _stored_defaults(self) -> dict[str, JsonValue]:
        done: dict[str, JsonValue] = {}
        for name, default in self.shape.defaults.items():
            with contextlib.suppress(Misfit):
                stored = self._encoders[name](default)
                check_json(stored)
                done[name] = cast("JsonValue", stored)
        return done

    def _explained(
        self, misfit: Misfit, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> ArgumentError:
        """Return the error for the caller: parameter, position, type, what is wrong and what to do."""
        bound = self.shape.bind(args, kwargs)
        name = str(misfit.steps[-1])
        value = bound[name]
        inside = find_refused(value)
        where = f"argument {name.lstrip('*')!r} ({self._position(name)})"
        call = f"{self.shape.name}.enqueue({self._call(bound)})"
        if inside is None:
            advice = misfit.advice if misfit.advice is not None else advice_for(misfit.culprit)
            hint = f"; {advice}" if advice else ""
            return ArgumentError(f"{call}: {where} of type {type(value).__name__}: {misfit}{hint}")
        path, culprit = inside
        refused = refusal(culprit)
        assert refused is not None  # noqa: S101 - find_refused looked
        if not path and refused.keys and name in (*self.shape.positional, *self.shape.keyword_only):
            keys = [f"{name}.{key}" for key in refused.keys]
            instead = self._call(bound, **{name: ", ".join(keys)})
            return ArgumentError(
                f"{call} passes {refused.noun} as {where}; pass {' and '.join(keys)} and load the "
                f"{type(culprit).__name__} inside the task: {self.shape.name}.enqueue({instead})"
            )
        place = Misfit("", culprit)
        place.steps = [*reversed(path), name]
        within = f", at {place.path}" if path else ""
        kind = type(culprit).__name__
        return ArgumentError(f"{call} passes {refused.noun} ({kind}) in {where}{within}; {refused.advice}")

    def _position(self, name: str) -> str:
        if name in self.shape.positional:
            return f"position {self.shape.positional.index(name) + 1}"
        return "further arguments" if name.startswith("*") else "by name"

    def _call(self, bound: Mapping[str, object], **instead: str) -> str:
        shown: list[str] = []
        for name in bound:
            text = instead.get(name, name)
            shown.append(f"{name}={text}" if name in self.shape.keyword_only else text)
        return ", ".join(shown)

    def _check_size(self, text: str, value: JsonValue) -> None:
        size = _bytes(text)
        if size <= self.warn_at and size <= self.limit:
            return
        sizes = {name: _bytes(json.dumps(each, ensure_ascii=False)) for name, each in _items(value)}
        largest = max(sizes, key=sizes.__getitem__, default="")
        facts = (
            f"{self.shape.name} has {size:,} bytes of arguments; "
            f"the largest is {largest!r} of {sizes.get(largest, 0):,}"
        )
        fix = "store it elsewhere and pass a reference"
        if size > self.limit:
            raise ArgumentTooLarge(f"{facts}. The limit is {self.limit:,}: {fix}")
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{facts}. From {self.warn_at:,} on storages get slow: {fix}",
                LargeArgumentsWarning,
                stacklevel=_level_outside(),
            )


def _items(value: JsonValue) -> list[tuple[str, JsonValue]]:
    return list(value.items()) if isinstance(value, dict) else []


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _dumps(serializer: Serializer, value: JsonValue) -> str:
    if serializer.is_strict:
        return serializer.dumps(value)
    check_json(value)
    try:
        text = serializer.dumps(value)
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"The serializer {serializer.name!r} failed: {error}") from error
    return text


def _loads(serializer: Serializer, text: str) -> JsonValue:
    if serializer.is_strict:
        return serializer.loads(text)
    try:
        value = serializer.loads(text)
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"The serializer {serializer.name!r} cannot read the text: {error}") from error
    check_json(value)
    return value


def _level_outside() -> int:
    """Return the stack level of the caller's own line: the first one outside this package."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - skip_file_prefixes exists from 3.12
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("firelock."):
        level, frame = level + 1, frame.f_back
    return level


_LONGEST_DEFAULT: Final = 80  # characters of a default that a signature shows
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@attrs.frozen
class Shape:
    """A signature without its context: which names a call may give, and where they go."""

    name: str
    """The function's own name."""

    shown: str
    """`create_report(day: str)`, for people."""

    positional: tuple[str, ...]
    positional_only: int
    """How many of `positional`, from the front, cannot be given by name."""
    keyword_only: tuple[str, ...]
    star: str | None
    """`*name` of the parameter that takes further positional arguments."""
    double_star: str | None
    """`**name` of the parameter that takes further keyword arguments."""
    defaults: Mapping[str, object]

    required: frozenset[str] = attrs.field(init=False)
    order: tuple[str, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        names = (*self.positional, *self.keyword_only)
        stars = tuple(name for name in (self.star, self.double_star) if name)
        object.__setattr__(self, "required", frozenset(names) - self.defaults.keys())
        object.__setattr__(self, "order", (*names, *stars))

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Return the given arguments by name, in the signature's order, as `Signature.bind` would.

        Raises:
            SignatureMismatch: the call does not fit.
        """
        positional = self.positional
        bound: dict[str, object] = dict(zip(positional, args, strict=False))
        if len(args) > len(positional):
            if self.star is None:
                self._refuse_count(len(args))
            bound[self.star] = list(args[len(positional) :])
        if kwargs:
            bound = self._bind_keywords(bound, kwargs)
        if not self.required <= bound.keys():
            missing = [name for name in self.order if name in self.required and name not in bound]
            self._refuse(f"was called without {_quoted(missing)}")
        return bound

    def _bind_keywords(self, bound: dict[str, object], kwargs: Mapping[str, object]) -> dict[str, object]:
        by_name = {*self.positional[self.positional_only :], *self.keyword_only}
        further: dict[str, object] = {}
        for name, value in kwargs.items():
            if name not in by_name:
                further[name] = value
            elif name in bound:
                self._refuse(f"was given {name!r} twice, by position and by name")
            else:
                bound[name] = value
        if further:
            if self.double_star is None:
                self._refuse_names(further)
            bound[self.double_star] = further
        return {name: bound[name] for name in self.order if name in bound}

    def unbind(self, bound: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the call that gives these arguments: `bind` backwards, for a signature that may be newer.

        Raises:
            SignatureMismatch: the signature has changed so that they no longer fit.
        """
        unknown = bound.keys() - set(self.order)
        missing = self.required - bound.keys()
        if unknown or missing:
            parts = [f"{_quoted(sorted(unknown))} is unknown"] if unknown else []
            parts += [f"{_quoted(sorted(missing))} is missing"] if missing else []
            self._refuse(f"no longer fits the stored arguments: {' and '.join(parts)}")
        further = cast("list[object]", bound.get(self.star, []) if self.star else [])
        args = [*self._positional_values(bound, everything=bool(further)), *further]
        names = (*self.positional[len(args) :], *self.keyword_only)
        kwargs = {name: bound[name] for name in names if name in bound}
        extra = cast("dict[str, object]", bound.get(self.double_star, {}) if self.double_star else {})
        taken = {*self.positional[self.positional_only :], *self.keyword_only} & extra.keys()
        if taken:
            self._refuse(f"no longer fits the stored arguments: {_quoted(sorted(taken))} is a parameter now")
        return tuple(args), {**kwargs, **extra}

    def named_call(self, arguments: Mapping[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the call of arguments that are all given by name; a positional-only one goes by position.

        `*name` and `**name` stand for what the variable parameters take.

        Raises:
            SignatureMismatch: a name is unknown, or one that is needed is missing.
        """
        further = {name: value for name, value in arguments.items() if name not in self.order}
        if further and self.double_star is None:
            self._refuse_names(further)
        missing = [name for name in self.order if name in self.required and name not in arguments]
        if missing:
            self._refuse(f"was called without {_quoted(missing)}")
        args, kwargs = self.unbind({name: value for name, value in arguments.items() if name in self.order})
        return args, {**kwargs, **further}

    def _positional_values(self, bound: Mapping[str, object], *, everything: bool) -> list[object]:
        """Give by position what stands before the first gap; fill gaps only where there is no other way."""
        only = [index for index in range(self.positional_only) if self.positional[index] in bound]
        needed = len(self.positional) if everything else max(only, default=-1) + 1
        values: list[object] = []
        for index, name in enumerate(self.positional):
            if name in bound:
                values.append(bound[name])
            elif index < needed:
                values.append(self.defaults[name])
            else:
                break
        return values

    def _refuse(self, what: str) -> NoReturn:
        raise SignatureMismatch(f"{self.shown} {what}")

    def _refuse_count(self, given: int) -> NoReturn:
        allowed = len(self.positional)
        plural = "argument" if allowed == 1 else "arguments"
        self._refuse(f"takes {allowed} {plural} by position, {given} were given")

    def _refuse_names(self, unknown: Iterable[str]) -> NoReturn:
        from difflib import get_close_matches  # noqa: PLC0415 - for a message alone

        unknown = list(unknown)
        only = [name for name in unknown if name in self.positional]
        if only:
            self._refuse(f"takes {_quoted(only)} by position only")
        known = (*self.positional[self.positional_only :], *self.keyword_only)
        close = get_close_matches(unknown[0], known, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        self._refuse(f"has no parameter {_quoted(unknown)}{hint}")


def shape_of(name: str, parameters: Sequence[inspect.Parameter]) -> Shape:
    """Return the shape of a function of that name, its context parameter left out."""
    by_kind = {
        kind: tuple(each.name for each in parameters if each.kind is kind)
        for kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
    }
    only = by_kind[inspect.Parameter.POSITIONAL_ONLY]
    star = [f"*{each.name}" for each in parameters if each.kind is inspect.Parameter.VAR_POSITIONAL]
    double_star = [f"**{each.name}" for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD]
    return Shape(
        name=name,
        shown=f"{name}{inspect.Signature([_for_people(each) for each in parameters])}",
        positional=(*only, *by_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD]),
        positional_only=len(only),
        keyword_only=by_kind[inspect.Parameter.KEYWORD_ONLY],
        star=star[0] if star else None,
        double_star=double_star[0] if double_star else None,
        defaults={each.name: each.default for each in parameters if each.default is not each.empty},
    )


def _for_people(parameter: inspect.Parameter) -> inspect.Parameter:
    """Show annotations as they are written, and only those defaults whose text is short and harmless."""
    if isinstance(parameter.annotation, str):
        parameter = parameter.replace(annotation=_Shown(parameter.annotation))
    default = parameter.default
    if default is parameter.empty or default is None:
        return parameter
    if type(default) not in EXACT_TYPES:
        return parameter.replace(default=_Shown("..."))
    text = repr(default)
    is_short = len(text) <= _LONGEST_DEFAULT
    return parameter if is_short else parameter.replace(default=_Shown(f"{text[: _LONGEST_DEFAULT - 1]}…"))


@attrs.frozen(repr=False)
class _Shown:
    """Stands in a signature for a text that is not to be quoted."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


MAX_TAGS: Final = 20
MAX_TAG_LENGTH: Final = 100


def check_tag_templates(templates: Sequence[str], parameter_names: Collection[str]) -> None:
    """Prove that every template is a possible tag and names only parameters, plainly: `{name}`.

    Raises:
        TaskError: too many templates, an unknown name, or a field that reaches inside a value.
    """
    if isinstance(templates, str):
        raise TaskError(f"tags is the text {templates!r}. Give a list: tags=[{templates!r}]")
    if len(templates) > MAX_TAGS:
        raise TaskError(f"{len(templates)} tags; a job has at most {MAX_TAGS}")
    for template in templates:
        if not isinstance(template, str):
            raise TaskError(f"A tag is text, not {type(template).__name__}")
        fixed = "".join(literal for literal, _ in _pieces(template))
        names = [name for _, name in _pieces(template) if name is not None]
        for name in names:
            if name not in parameter_names:
                known = ", ".join(parameter_names) or "none"
                raise TaskError(
                    f"Tag {template!r} names {name!r}. Parameters that can be named plainly: {known}"
                )
        problem = _problem_with(fixed) if fixed or not names else None
        if problem:
            raise TaskError(f"Tag {template!r} {problem}")


def format_tags(
    templates: Sequence[str], bound: JsonValue, *, defaults: Mapping[str, JsonValue] | None = None
) -> tuple[str, ...]:
    """Return the tags for arguments in their stored form, as `Binder.encode` gives them: in order, each once.

    Numbers and truth values stand as JSON writes them. An argument that was omitted counts as its default.

    Raises:
        ArgumentError: a value is no text, number or truth value, or makes a tag too long or unprintable.
    """
    if not templates:
        return ()
    given = bound if isinstance(bound, dict) else {}
    values = {**defaults, **given} if defaults else given
    return tuple(dict.fromkeys(_format(template, values) for template in templates))


def _format(template: str, bound: Mapping[str, JsonValue]) -> str:
    done: list[str] = []
    for literal, name in _pieces(template):
        done.append(literal)
        if name is not None:
            done.append(_text_of(template, name, bound))
    tag = "".join(done)
    problem = _problem_with(tag)
    if problem:
        raise ArgumentError(f"Tag {template!r} {problem}, with these arguments")
    return tag


def _text_of(template: str, name: str, bound: Mapping[str, JsonValue]) -> str:
    if name not in bound:
        raise ArgumentError(
            f"Tag {template!r} is made from {name!r}, which is omitted; its default cannot be stored"
        )
    value = bound[name]
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, (int, float)):
        return str(value)
    kind = type(value).__name__
    raise ArgumentError(
        f"Tag {template!r} is made from {name!r}, which is stored as {kind}; only text and numbers can"
    )


@functools.lru_cache(maxsize=1024)
def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Split a template into literal text and the plain name that follows it."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TaskError(
            f"Tag {template!r} is no template: {error}. Write a brace twice to mean itself"
        ) from error
    for _, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise TaskError(
                f"Tag {template!r} holds more than plain names: use {{name}} and nothing else in braces"
            )
    return [(literal, name) for literal, name, _, _ in parsed]


def _problem_with(tag: str) -> str | None:
    if not tag:
        return "is empty"
    if len(tag) > MAX_TAG_LENGTH:
        return f"is {len(tag)} characters long; at most {MAX_TAG_LENGTH} are allowed"
    if not tag.isprintable():
        return "holds characters that cannot be printed"
    return None
