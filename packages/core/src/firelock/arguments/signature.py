"""The conversion of a task's calls to stored strings and back.

`compile_binder` reads a function's annotations once and returns a `Binder`. The binder binds each call to the
function's `Signature`, and encodes each argument with the codec of its annotation.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
import types
import typing
import warnings
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from inspect import Parameter
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NoReturn,
    TypeAlias,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
)

import attrs

from firelock.arguments.codec import (
    EXACT_TYPES,
    Codec,
    describe,
    is_record,
    is_union,
    json_coder_for,
    unwrap,
)
from firelock.arguments.references import Reference, encode_around
from firelock.arguments.refusals import advice_for, find_refused, refusal
from firelock.arguments.serializer import JsonValue, Misfit, Serializer, check_json
from firelock.errors import ArgumentError, ArgumentTooLarge, SignatureMismatch, TaskError

if TYPE_CHECKING:
    from cattrs import Converter

_WIDEST_CHARACTER: Final = 4
"""In bytes of UTF-8. A string with fewer characters than a quarter of the limit cannot exceed the limit."""
_LONGEST_DEFAULT: Final = 80  # maximum number of characters of a default in a displayed signature

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_Call: TypeAlias = tuple[tuple[object, ...], dict[str, object]]


class LargeArgumentsWarning(UserWarning):
    """A warning that a task was enqueued with large arguments; it is issued once per task."""


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
    resources: Collection[str] = (),
    namespace: Mapping[str, object] | None = None,
) -> Binder:
    """Return the binder of a function, which converts its calls to stored strings and back.

    `converter` is called when an annotation first needs it. `was_given_context` is the result of
    `takes_context` when the task was registered. `flow_types` are types that the function can return but that
    the server consumes, like Snooze; they are removed from the return annotation. `resources` are parameters
    that the worker supplies: calls do not pass them, and they are not stored. `namespace` contains names for
    annotations that are strings, in addition to those in the function's own module and closure.

    Raises:
        TaskError: The function cannot be a task; an annotation cannot be resolved; the members of a union
            cannot be distinguished in JSON; a parameter other than the first is annotated as JobContext; or
            `takes_context` now has a different result than at registration.
    """
    resolver = _Resolver(function, task, context_type, namespace or {})
    parameters = list(inspect.signature(function).parameters.values())
    has_context = was_given_context
    if has_context is not False:
        has_context = bool(parameters) and resolver.is_context(parameters[0])
        if has_context < bool(was_given_context):
            raise _changed_meaning(task, parameters[0])
        parameters = parameters[has_context:]
    parameters = [each for each in parameters if each.name not in resources]
    converter = functools.cache(converter or make_converter)
    codecs: dict[str, Codec] = {}
    annotations: dict[str, object] = {}
    for parameter in parameters:
        owner = f"parameter {parameter.name!r}"
        meaning = resolver.resolve(parameter.annotation, owner)
        if context_type is not None and context_type in _members(meaning):
            if parameter is parameters[0] and not has_context:
                raise _changed_meaning(task, parameter)
            raise TaskError(f"Task {task!r}: {owner} is a JobContext. Make it the first parameter")
        key, annotation = _stored_as(parameter, meaning)
        codecs[key] = codec_of(annotation, converter, f"Task {task!r}: {owner}")
        annotations[key] = annotation
    return Binder(
        task=task,
        takes_context=has_context,
        signature=signature_of(function.__name__, parameters, resources),
        annotations=annotations,
        codecs=codecs,
        result=_result_codec(resolver, flow_types, converter),
        limit=limit,
        warn_at=warn_at,
        result_limit=result_limit,
        converter=converter,
    )


def _changed_meaning(task: str, first: Parameter) -> TaskError:
    return TaskError(
        f"Task {task!r}: the annotation {first.annotation!r} of parameter {first.name!r} could not be "
        "resolved when the task was registered, and now has another meaning. Define or import its names "
        "above the task."
    )


def returned_codec(function: Callable[..., object], converter: Callable[[], Converter]) -> Codec:
    """Return the codec for the results of a function, according to its return annotation.

    Without an annotation, the codec accepts plain JSON. If the annotation is a coroutine or an awaitable, the
    codec is that of its result.

    Raises:
        TaskError: The annotation cannot be resolved, or has no form in JSON.
    """
    inner: object = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    if inspect.ismethod(inner):
        inner = inner.__func__
    elif not isinstance(inner, types.FunctionType):
        inner = getattr(type(inner), "__call__", inner)  # noqa: B004 - the function itself is needed
    if not isinstance(inner, types.FunctionType) or "return" not in inner.__annotations__:
        return codec_of(Any, converter, "the return value")
    name = inner.__qualname__
    annotation = _Resolver(inner, name, None, {}).resolve(inner.__annotations__["return"], "the return value")
    if get_origin(annotation) in _AWAITED:
        annotation = get_args(annotation)[-1]
    return codec_of(annotation, converter, f"{name}: the return value")


_AWAITED: Final = (Awaitable, Coroutine, types.CoroutineType)


def takes_context(function: Callable[..., object], context_type: type, *, task: str) -> bool:
    """Return whether the function's first parameter is its context, according to its annotation.

    The annotation must be the type, or the type or None, under any imported name. If the annotation's name
    exists only for type checkers, it must be the type's own name, alone or after a dot.

    Raises:
        TaskError: The annotation allows the context and another type, or the parameter cannot be positional.
    """
    parameters = list(inspect.signature(function).parameters.values())
    return bool(parameters) and _Resolver(function, task, context_type, {}).is_context(parameters[0])


def make_converter() -> Converter:
    """Return a cattrs converter that stores values exactly and reads strictly; an app can add types to it."""
    from firelock.arguments.conversion import strict_converter  # noqa: PLC0415 - loads cattrs

    return strict_converter()


def check_callable(function: object) -> None:
    """Check that an object can be a task: a plain `def` or `async def`.

    Raises:
        TaskError: The object is of any other kind. The message contains the replacement.
    """
    name = getattr(function, "__qualname__", None) or repr(type(function).__name__)
    problem = next((problem for is_kind, problem in _NO_TASKS if is_kind(function)), None)
    if problem:
        raise TaskError(f"{name} cannot be a task: it is {problem}.")


def _is_method(function: Any) -> bool:  # noqa: ANN401 - a function, when this is called
    names = list(inspect.signature(function).parameters)
    return names[:1] in (["self"], ["cls"]) and "." in function.__qualname__.rpartition("<locals>.")[2]


_NO_TASKS: Final[tuple[tuple[Callable[[object], bool], str], ...]] = (
    (inspect.isclass, "a class; write a function that creates an instance"),
    (inspect.iscoroutine, "a coroutine, the result of a call; pass the function itself, without ()"),
    (inspect.isgenerator, "a generator, the result of a call; write a function that returns a list"),
    (inspect.ismethod, "a bound method; write a function that accepts an id and loads the object"),
    (
        lambda value: isinstance(value, (functools.partial, functools.partialmethod)),
        "a functools.partial; write a def, or pass the arguments when enqueuing",
    ),
    (
        lambda value: isinstance(value, (staticmethod, classmethod)),
        "a staticmethod or classmethod object; write a function of the module",
    ),
    (inspect.isbuiltin, "a builtin; wrap it in a def with annotated parameters"),
    (inspect.isgeneratorfunction, "a generator function; return a list, or enqueue one job per value"),
    (inspect.isasyncgenfunction, "an async generator function; return a list, or enqueue one job per value"),
    (
        lambda value: callable(value) and not inspect.isfunction(value),
        "a callable object; write a function that calls it",
    ),
    (lambda value: not inspect.isfunction(value), "not a function; decorate a def or async def"),
    (_is_method, "a method; write a function that accepts an id and loads the object"),
)


# ---- annotations -----------------------------------------------------------------------------------------


class _Resolver:
    """A resolver that converts the annotations of one function to types."""

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
        # Firelock's own JsonValue is a recursive type; treat it as plain JSON, like Any.
        aliases = {name: Any for name, value in self._globals.items() if value is JsonValue}
        self._names = {**namespace, **_closure(inner), **aliases}
        self.returned: object = inspect.signature(function).return_annotation

    def resolve(self, annotation: object, owner: str) -> object:
        """Return the type of an annotation; Any without an annotation.

        Raises:
            TaskError: The annotation cannot be resolved.
        """
        if annotation is Parameter.empty:
            return Any
        try:
            return self._hint(annotation, self._names)
        except Exception as error:
            raise self._unresolved(annotation, owner, error) from error

    def _unresolved(self, annotation: object, owner: str, error: Exception) -> TaskError:
        if isinstance(error, RecursionError):
            return TaskError(
                f"Task {self._task!r}: the annotation of {owner} refers to itself. Annotate plain JSON as Any"
            )
        shown = annotation if isinstance(annotation, str) else describe(annotation)
        return TaskError(
            f"Task {self._task!r}: the annotation {shown!r} of {owner} cannot be resolved: {error}. A name "
            "imported under TYPE_CHECKING must also be imported at run time, because it determines the "
            "conversion of arguments."
        )

    def is_context(self, parameter: Parameter) -> bool:
        """Return whether the parameter takes the context.

        Raises:
            TaskError: The parameter also accepts another type, or cannot be positional.
        """
        context, owner = self._context_type, f"Task {self._task!r}: parameter {parameter.name!r}"
        if context is None:
            return False
        meaning = unwrap(self._meaning(parameter.annotation, context))
        members = _members(meaning)
        if context not in members:
            return False
        name = context.__name__
        if {*members} - {context, type(None)}:
            shown = describe(meaning).replace(f"{context.__module__}.{name}", name)
            raise TaskError(f"{owner} is annotated {shown}. Use {name}, or {name} | None")
        if parameter.kind not in _POSITIONAL:
            raise TaskError(f"{owner} is a {name}. Make it the first parameter, passed by position")
        return True

    def _hint(self, annotation: object, names: dict[str, object]) -> object:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(holder, self._globals, names)["it"]

    def _meaning(self, annotation: object, context: type) -> object:
        """Return the meaning of an annotation; None if it cannot be resolved."""
        if annotation is Parameter.empty or isinstance(annotation, type):
            return annotation
        names = dict(self._names)
        while True:
            try:
                return self._hint(annotation, names)
            except NameError as error:  # the name is imported only by type checkers, or is not defined yet
                missing = error.name
                if missing is None or missing in names:
                    return None
                if missing == context.__name__:
                    names[missing] = context
                elif f"{missing}.{context.__name__}" in str(annotation):
                    names[missing] = types.SimpleNamespace(**{context.__name__: context})
                else:
                    return None
            except Exception:  # noqa: BLE001 - `resolve` reports the problem when types are needed
                return None


def _members(meaning: object) -> list[object]:
    """Return the members of a union, or only the type itself if it is not a union."""
    meaning = unwrap(meaning)
    return [unwrap(each) for each in get_args(meaning)] if is_union(meaning) else [meaning]


def _closure(function: types.FunctionType) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return found


def _stored_as(parameter: Parameter, annotation: object) -> tuple[str, object]:
    """Return the stored name and annotation of a parameter; `*args` is a list, and `**kwargs` is a dict."""
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}", list[annotation]  # type: ignore[valid-type]
    if parameter.kind is Parameter.VAR_KEYWORD:
        is_unpacked = get_origin(annotation) is Unpack
        whole = get_args(annotation)[0] if is_unpacked else dict[str, annotation]  # type: ignore[valid-type]
        return f"**{parameter.name}", whole
    return parameter.name, annotation


def _result_codec(
    resolver: _Resolver, flow_types: Sequence[type], converter: Callable[[], Converter]
) -> Codec:
    """Return the codec of the function's results; an invalid annotation does not prevent registration."""
    owner = "the return value"
    try:
        annotation = resolver.resolve(resolver.returned, owner)
        if is_union(annotation):
            members = tuple(each for each in get_args(annotation) if each not in flow_types)
            annotation = Union[members] if members else None  # noqa: UP007 - made from a tuple
        return codec_of(annotation, converter, owner)
    except TaskError as error:
        reason = str(error)

    def refuse(value: object) -> NoReturn:
        raise Misfit(reason, value, "")

    return Codec(refuse, refuse)


# ---- binding ---------------------------------------------------------------------------------------------


@attrs.frozen
class Signature:
    """A function's parameters without its context, with the names and positions that a call may use."""

    name: str
    """The function's own name."""

    shown: str
    """The signature for messages: `create_report(day: str)`."""

    positional: tuple[str, ...]
    positional_only: int
    """The number of parameters at the start of `positional` that cannot be passed by name."""
    keyword_only: tuple[str, ...]
    star: str | None
    """The `*name` of the parameter that accepts further positional arguments."""
    double_star: str | None
    """The `**name` of the parameter that accepts further keyword arguments."""
    defaults: Mapping[str, object]

    required: frozenset[str]
    order: tuple[str, ...]
    """The names under which arguments are stored, in order."""
    _by_name: tuple[str, ...]
    resources: frozenset[str] = frozenset()
    """The further parameters of the function, which the worker supplies."""

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Return the passed arguments by name, in the signature's order, as `inspect.Signature.bind` would.

        Raises:
            SignatureMismatch: The call does not match the signature.
        """
        allowed = len(self.positional)
        bound: dict[str, object] = dict(zip(self.positional, args, strict=False))
        if len(args) > allowed:
            if self.star is None:
                plural = "argument" if allowed == 1 else "arguments"
                hint = f"; {_omit(self.resources)}" if self.resources else ""
                self._refuse(f"takes {allowed} positional {plural}, but {len(args)} were given{hint}")
            bound[self.star] = list(args[allowed:])
        if kwargs:
            bound = self._bind_keywords(bound, kwargs)
        self._require_all(bound)
        return bound

    def _bind_keywords(self, bound: dict[str, object], kwargs: Mapping[str, object]) -> dict[str, object]:
        further: dict[str, object] = {}
        for name, value in kwargs.items():
            if name in self.resources:
                self._refuse(f"was called with {name!r}; {_omit([name])}")
            elif name not in self._by_name:
                further[name] = value
            elif name in bound:
                self._refuse(f"was called with {name!r} twice, by position and by name")
            else:
                bound[name] = value
        if further:
            if self.double_star is None:
                self._refuse_names(further)
            bound[self.double_star] = further
        return {name: bound[name] for name in self.order if name in bound}

    def unbind(self, bound: Mapping[str, object]) -> _Call:
        """Return the call that passes these arguments: the reverse of `bind`. The signature may be newer.

        Raises:
            SignatureMismatch: The signature has changed, so that the arguments no longer match it.
        """
        unknown = bound.keys() - set(self.order)
        missing = self.required - bound.keys()
        parts = [f"{_quoted(sorted(unknown))} is unknown"] if unknown else []
        parts += [f"{_quoted(sorted(missing))} is missing"] if missing else []
        further = cast("list[object]", bound.get(self.star or "", []))
        extra = cast("dict[str, object]", bound.get(self.double_star or "", {}))
        taken = sorted({*self._by_name, *self.resources} & extra.keys())
        parts += [f"{_quoted(taken)} is a parameter now"] if taken and not parts else []
        if parts:
            self._refuse(f"no longer matches the stored arguments: {' and '.join(parts)}")
        args = [*self._positional_values(bound, everything=bool(further)), *further]
        names = (*self.positional[len(args) :], *self.keyword_only)
        return tuple(args), {**{name: bound[name] for name in names if name in bound}, **extra}

    def named_call(self, arguments: Mapping[str, object]) -> _Call:
        """Return the call for arguments by name; positional-only arguments are passed by position.

        The keys `*name` and `**name` contain the values of the variable parameters.

        Raises:
            SignatureMismatch: A name is unknown, or a required argument is missing.
        """
        further = {name: value for name, value in arguments.items() if name not in self.order}
        if given := self.resources & further.keys():
            self._refuse(f"was called with {_quoted(sorted(given))}; {_omit(given)}")
        if further and self.double_star is None:
            self._refuse_names(further)
        self._require_all(arguments)
        args, kwargs = self.unbind({name: value for name, value in arguments.items() if name in self.order})
        return args, {**kwargs, **further}

    def _positional_values(self, bound: Mapping[str, object], *, everything: bool) -> list[object]:
        """Return the positional values before the first gap; fill gaps with defaults only if necessary."""
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

    def _require_all(self, given: Mapping[str, object]) -> None:
        if not self.required <= given.keys():
            missing = [name for name in self.order if name in self.required and name not in given]
            self._refuse(f"was called without {_quoted(missing)}")

    def _refuse(self, what: str) -> NoReturn:
        raise SignatureMismatch(f"{self.shown} {what}")

    def _refuse_names(self, unknown: Iterable[str]) -> NoReturn:
        from difflib import get_close_matches  # noqa: PLC0415 - only for a message

        unknown = list(unknown)
        only = [name for name in unknown if name in self.positional]
        if only:
            self._refuse(f"takes {_quoted(only)} by position only")
        close = get_close_matches(unknown[0], self._by_name, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        self._refuse(f"has no parameter {_quoted(unknown)}{hint}")


def _omit(resources: Collection[str]) -> str:
    are, them = ("is a resource", "it") if len(resources) == 1 else ("are resources", "them")
    names = _quoted(sorted(resources))
    return f"{names} {are}, which the worker opens for the job: omit {them}"


def signature_of(name: str, parameters: Sequence[Parameter], resources: Collection[str] = ()) -> Signature:
    """Return the signature of a function with this name, without its context and its resources."""

    def names(*kinds: object, mark: str = "") -> tuple[str, ...]:
        return tuple(f"{mark}{each.name}" for each in parameters if each.kind in kinds)

    positional, keyword_only = names(*_POSITIONAL), names(Parameter.KEYWORD_ONLY)
    star, double_star = names(Parameter.VAR_POSITIONAL, mark="*"), names(Parameter.VAR_KEYWORD, mark="**")
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return Signature(
        name=name,
        shown=f"{name}{inspect.Signature([_for_people(each) for each in parameters])}",
        positional=positional,
        positional_only=len(names(Parameter.POSITIONAL_ONLY)),
        keyword_only=keyword_only,
        star=next(iter(star), None),
        double_star=next(iter(double_star), None),
        defaults=defaults,
        required=frozenset((*positional, *keyword_only)) - defaults.keys(),
        order=(*positional, *keyword_only, *star, *double_star),
        by_name=names(Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY),
        resources=frozenset(resources),
    )


def _for_people(parameter: Parameter) -> Parameter:
    """Return the parameter for display.

    The annotation is displayed as written. A default that is a plain value is displayed, but cut to 80
    characters.
    """
    if isinstance(parameter.annotation, str):
        parameter = parameter.replace(annotation=_Unquoted(parameter.annotation))
    default = parameter.default
    if default is parameter.empty or default is None:
        return parameter
    text = repr(default) if type(default) in EXACT_TYPES else "..."
    shown = text if len(text) <= _LONGEST_DEFAULT else f"{text[: _LONGEST_DEFAULT - 1]}…"
    return parameter.replace(default=_Unquoted(shown))


@attrs.frozen(repr=False)
class _Unquoted:
    """A string that a signature displays without quotes."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


# ---- calls as strings ------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Binder:
    """The converter of one task's calls to stored strings and back; it is thread-safe."""

    task: str
    takes_context: bool
    """Whether the function's first parameter is its JobContext, which calls do not pass."""
    signature: Signature
    annotations: Mapping[str, object]
    """The resolved type of each parameter, keyed by the name under which it is stored."""
    limit: int
    warn_at: int
    result_limit: int
    _codecs: Mapping[str, Codec]
    _result: Codec
    _converter: Callable[[], Converter]
    _uncounted: int = attrs.field(init=False)
    _has_warned: bool = attrs.field(init=False, default=False)
    _defaults: dict[str, JsonValue] | None = attrs.field(init=False, default=None)
    # A positional call whose arguments have exactly these types needs no other check.
    _names: tuple[str, ...] = attrs.field(init=False)
    _kinds: tuple[type | None, ...] = attrs.field(init=False)
    _fewest: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        required, names = self.signature.required, self.signature.positional
        self._uncounted = min(self.limit, self.warn_at) // _WIDEST_CHARACTER
        self._names = names
        self._kinds = tuple(self._codecs[name].exact for name in names)
        self._fewest = len(required) if required <= set(names) else sys.maxsize

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of stored arguments, in order; `*name` and `**name` for the variable parameters."""
        return self.signature.order

    @property
    def defaults(self) -> Mapping[str, JsonValue]:
        """The defaults in their stored form, for tags; defaults that cannot be stored are omitted."""
        if self._defaults is None:
            self._defaults = {}
            for name, default in self.signature.defaults.items():
                with contextlib.suppress(Misfit):
                    self._defaults[name] = _checked(self._codecs[name].encode(default))
        return self._defaults

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> JsonValue:
        """Return the passed arguments as strict JSON by name; omitted defaults are added when the job runs.

        Raises:
            SignatureMismatch: The call does not match the signature.
            ArgumentError: A value does not match its annotation, or would not be equal after decoding.
        """
        try:
            return _checked(self._encode(args, kwargs))
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit

    def encode_text(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], serializer: Serializer
    ) -> str:
        """Return the string to store for a call.

        Raises:
            SignatureMismatch: The call does not match the signature.
            ArgumentTooLarge: The string is larger than the limit.
            ArgumentError: A value does not match its annotation, or would not be equal after decoding.
        """
        return self.encode_both(args, kwargs, serializer)[1]

    def encode_both(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], serializer: Serializer
    ) -> tuple[Mapping[str, JsonValue], str]:
        """Return the results of `encode` and `encode_text` together; raise the same errors."""
        try:
            value = self._encode(args, kwargs)
            text = write_text(serializer, value)
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit
        if len(text) > self._uncounted:
            self._check_size(text, value)
        return value, text

    def encode_references(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], serializer: Serializer
    ) -> tuple[Mapping[str, JsonValue], str, Sequence[Reference]]:
        """Return the results of `encode_both` for a call with outputs as arguments, and the outputs' places.

        Each output is encoded as null.

        Raises:
            SignatureMismatch: The call does not match the signature.
            ArgumentTooLarge: The string is larger than the limit.
            ArgumentError: Another value does not match its annotation, or an output is in a place that does
                not allow outputs.
        """
        found, name, done = list[Reference](), "", dict[str, object]()
        try:
            for name, value in self.signature.bind(args, kwargs).items():
                done[name] = encode_around(value, self.annotations[name], (name,), self._encode_alone, found)
        except Misfit as misfit:
            raise self._explained(misfit.under(name), args, kwargs) from misfit
        value = cast("dict[str, JsonValue]", done)
        try:
            text = write_text(serializer, value)
        except Misfit as misfit:
            raise self._explained(misfit, args, kwargs) from misfit
        self._check_size(text, value)
        return value, text, found

    def _encode_alone(self, annotation: object, value: object) -> object:
        return codec_of(annotation, self._converter, self.task).encode(value)

    def _encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, JsonValue]:
        given: Iterable[tuple[str, object]]
        if kwargs or not self._fewest <= len(args) <= len(self._names):
            given = self.signature.bind(args, kwargs).items()
        elif self._kinds[: len(args)] == tuple(map(type, args)):
            return dict(zip(self._names, args))  # type: ignore[arg-type]  # noqa: B905 - costs 5 %
        else:
            given = zip(self._names, args, strict=False)
        name, done = "", dict[str, object]()
        try:
            for name, value in given:
                done[name] = self._codecs[name].encode(value)
        except Misfit as misfit:
            misfit.under(name)
            raise
        return cast("dict[str, JsonValue]", done)

    def decode(self, value: JsonValue) -> _Call:
        """Return the call from which these arguments were stored; check it against the current signature.

        Raises:
            SignatureMismatch: The signature has changed, so that the arguments no longer match it.
            ArgumentError: A value no longer matches its annotation.
        """
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ArgumentError(f"The stored arguments of {self.task} must be an object, got {kind}")
        given, stored = tuple(value), value.values()
        is_plain = len(given) >= self._fewest and given == self._names[: len(given)]
        if is_plain and self._kinds[: len(given)] == tuple(map(type, stored)):
            return tuple(stored), {}
        if not is_plain:
            self.signature.unbind(value)  # report unknown or missing names before a value is converted
        name, bound = "", dict[str, object]()
        try:
            for name, each in value.items():
                bound[name] = self._codecs[name].decode(each)
        except Misfit as misfit:
            misfit.under(name)
            raise ArgumentError(
                f"A stored argument does not match {self.signature.shown}: {misfit}"
            ) from misfit
        return (tuple(bound.values()), {}) if is_plain else self.signature.unbind(bound)

    def decode_one(self, name: str, stored: JsonValue) -> object:
        """Return the value of one parameter from its stored form.

        Raises:
            ArgumentError: The stored form does not match the parameter's annotation.
        """
        try:
            return self._codecs[name].decode(stored)
        except Misfit as misfit:
            raise ArgumentError(str(misfit)) from misfit

    def decode_text(self, text: str, serializer: Serializer) -> _Call:
        """Return the call from which a string was stored.

        Raises:
            SignatureMismatch: The signature has changed, so that the arguments no longer match it.
            ArgumentError: The string is damaged, or a value no longer matches its annotation.
        """
        return self.decode(read_text(serializer, text))

    def encode_result_text(self, value: object, serializer: Serializer) -> str:
        """Return the string to store for a result of the task, according to its return annotation.

        Raises:
            ArgumentTooLarge: The string is larger than the limit for results.
            ArgumentError: The result would not be equal after decoding. The message explains why it is not
                stored.
        """
        try:
            text = write_text(serializer, cast("JsonValue", self._result.encode(value)))
        except Misfit as misfit:
            kind = type(value).__name__
            hint = _hint(misfit).replace("the parameter", "the result")
            raise ArgumentError(f"The result of {self.task}, of type {kind}: {misfit}{hint}") from misfit
        if len(text) > self.result_limit // _WIDEST_CHARACTER and _bytes(text) > self.result_limit:
            raise ArgumentTooLarge(
                f"The result of {self.task} has {_bytes(text):,} bytes, above the limit of "
                f"{self.result_limit:,}. Store it elsewhere and return a reference"
            )
        return text

    def decode_result_text(self, text: str, serializer: Serializer) -> object:
        """Return the result from which a string was stored, in the type of the return annotation.

        Raises:
            ArgumentError: The string is damaged, or does not match the current return annotation.
        """
        return self.decode_result(read_text(serializer, text))

    def decode_result(self, value: JsonValue) -> object:
        """Return the result that is stored as this JSON value.

        Raises:
            ArgumentError: The value does not match the current return annotation.
        """
        try:
            return self._result.decode(value)
        except Misfit as misfit:
            raise ArgumentError(
                f"The stored result of {self.task} does not match its annotation: {misfit}"
            ) from misfit

    # ---- error messages ----------------------------------------------------------------------------------

    def _explained(
        self, misfit: Misfit, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> ArgumentError:
        """Return the error for the caller; it contains the parameter, position, type, problem and fix."""
        signature = self.signature
        bound = signature.bind(args, kwargs)
        name = str(misfit.segments[-1])
        where = f"argument {name.lstrip('*')!r} ({self._position(name)})"
        call = f"{signature.name}.enqueue({self._call(bound)})"
        inside = find_refused(bound[name])
        if inside is None and misfit.expected is not None and misfit.culprit is bound[name]:
            kind = type(misfit.culprit).__name__
            return ArgumentError(f"{call}: {where} must be {misfit.expected}, got {kind}")
        if inside is None:
            return ArgumentError(
                f"{call}: {where} of type {type(bound[name]).__name__}: {misfit}{_hint(misfit)}"
            )
        path, culprit = inside
        refused, kind = refusal(culprit), type(culprit).__name__
        assert refused is not None  # noqa: S101 - find_refused has checked this
        if not path and refused.keys and not name.startswith("*"):
            keys = " and ".join(f"{kind.lower()}.{key}" for key in refused.keys)
            return ArgumentError(
                f"{call}: {where} is {refused.noun}; pass {keys} and load the {kind} in the task"
            )
        place = Misfit("", culprit)
        place.segments = [*reversed(path), name]
        within = f", at {place.path}" if path else ""
        return ArgumentError(f"{call} passes {refused.noun} ({kind}) in {where}{within}; {refused.advice}")

    def _call(self, names: Iterable[str]) -> str:
        by_name = self.signature.keyword_only
        return ", ".join(f"{name}={name}" if name in by_name else name for name in names)

    def _position(self, name: str) -> str:
        if name in self._names:
            return f"position {self._names.index(name) + 1}"
        return "further arguments" if name.startswith("*") else "by name"

    def _check_size(self, text: str, value: Mapping[str, JsonValue]) -> None:
        size = _bytes(text)
        if size <= min(self.warn_at, self.limit):
            return
        sizes = {
            name: _bytes(json.dumps(each, ensure_ascii=False, separators=(",", ":")))
            for name, each in value.items()
        }
        largest = max(sizes, key=sizes.__getitem__, default="")
        facts = (
            f"{self.signature.name} has {size:,} bytes of arguments; "
            f"the largest is {largest!r} of {sizes.get(largest, 0):,}"
        )
        fix = "store it elsewhere and pass a reference"
        if size > self.limit:
            raise ArgumentTooLarge(f"{facts}. The limit is {self.limit:,}; {fix}")
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{facts}. Above {self.warn_at:,} bytes, storages become slow; {fix}",
                LargeArgumentsWarning,
                stacklevel=_level_outside(),
            )


@attrs.frozen
class ValueCodec:
    """A codec that converts values of one annotation to stored strings and back, as arguments are."""

    owner: str
    """The description of the values, for messages: "The payload of signal 'approval'"."""
    codec: Codec
    serializer: Serializer

    def encode_text(self, value: object) -> str:
        """Return the string to store.

        Raises:
            ArgumentError: The value does not match the annotation, or would not be equal after decoding.
        """
        try:
            return write_text(self.serializer, cast("JsonValue", self.codec.encode(value)))
        except Misfit as misfit:
            hint = _hint(misfit).replace("annotate the parameter", "annotate it")
            raise ArgumentError(f"{self.owner}, of type {type(value).__name__}: {misfit}{hint}") from misfit

    def decode_text(self, text: str) -> object:
        """Return the value of a stored string.

        Raises:
            ArgumentError: The string is damaged, or does not match the current annotation.
        """
        value = read_text(self.serializer, text)
        try:
            return self.codec.decode(value)
        except Misfit as misfit:
            raise ArgumentError(
                f"{self.owner}, as stored, does not match its annotation: {misfit}"
            ) from misfit


def _hint(misfit: Misfit) -> str:
    advice = misfit.advice if misfit.advice is not None else advice_for(misfit.culprit)
    return f"; {advice}" if advice else ""


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _checked(value: object) -> JsonValue:
    check_json(value)
    return cast("JsonValue", value)


def write_text(serializer: Serializer, value: JsonValue) -> str:
    """Return the string that the serializer writes for a value.

    Raises:
        Misfit: The value is not strict JSON.
    """
    if serializer.is_strict:
        return serializer.dumps(value)
    check_json(value)
    with _blaming(serializer, "failed"):
        return serializer.dumps(value)


def read_text(serializer: Serializer, text: str) -> JsonValue:
    """Return the value of a string that the serializer wrote.

    Raises:
        ArgumentError: The string cannot be read.
    """
    if serializer.is_strict:
        return serializer.loads(text)
    with _blaming(serializer, "cannot read the string"):
        return _checked(serializer.loads(text))


@contextlib.contextmanager
def _blaming(serializer: Serializer, what: str) -> Iterator[None]:
    try:
        yield
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"The serializer {serializer.name!r} {what}: {error}") from error


def _level_outside() -> int:
    """Return the stack level of the caller's own line: the first one outside this package."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - skip_file_prefixes exists from 3.12
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("firelock."):
        level, frame = level + 1, frame.f_back
    return level


def codec_of(annotation: object, converter: Callable[[], Converter], owner: str) -> Codec:
    """Return the codec of an annotation; `owner` is the name of the value in error messages.

    The converter is created when it is needed.

    Raises:
        TaskError: The annotation refers to itself, or the members of a union cannot be distinguished in JSON.
    """
    annotation = unwrap(annotation)
    coder = json_coder_for(annotation, owner)
    if coder is not None:
        return Codec(coder, coder, annotation if annotation in EXACT_TYPES else None)
    _check_unions(annotation, converter, owner)

    @functools.cache
    def converted() -> Codec:
        from firelock.arguments.conversion import converted_codec  # noqa: PLC0415 - loads cattrs

        return converted_codec(annotation, converter())

    return Codec(lambda value: converted().encode(value), lambda stored: converted().decode(stored))


def _check_unions(annotation: object, converter: Callable[[], Converter], owner: str) -> None:
    """Check that the members of a union can be distinguished after they are stored.

    Raises:
        TaskError: The members cannot be distinguished.
    """
    if get_origin(annotation) is Literal:
        return
    members = [unwrap(each) for each in get_args(annotation) if not isinstance(each, list)]
    if is_union(annotation):
        members = [each for each in members if each not in (None, type(None))]
        if len(members) > 1 and not _are_distinguishable(annotation, members, converter):
            raise TaskError(
                f"{owner} is annotated {describe(annotation)}, whose members cannot be distinguished in "
                "JSON. Use one of them, a union of strings, numbers and lists, or attrs classes with "
                "different fields"
            )
    for member in members:
        if member is not Ellipsis and json_coder_for(member, owner) is None:
            _check_unions(member, converter, owner)


def _are_distinguishable(
    union: object, members: Sequence[object], converter: Callable[[], Converter]
) -> bool:
    if not all(map(is_record, members)):
        return False
    try:
        converter().get_structure_hook(union)
    except Exception:  # noqa: BLE001 - any error of cattrs means that they are not distinguishable
        return False
    return True
