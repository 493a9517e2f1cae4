"""`job.output`, a placeholder in a call for the result of another job that has not ended yet.

The stored arguments contain null instead of the placeholder. The position of this null and the job that
supplies the result are stored with the arguments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, cast, get_args, get_origin, get_type_hints, is_typeddict

import attrs

from firelock.arguments.codec import DICTS, LISTS, is_union, mismatch, unwrap
from firelock.arguments.serializer import Misfit
from firelock.errors import ArgumentError

if TYPE_CHECKING:
    from firelock.arguments.serializer import JsonValue
    from firelock.model.dependencies import Input

_DEEPEST = 64  # maximum nesting depth of a stored argument
_SOURCE = "_firelock_source"  # an attribute name that no result can have
_ANYTHING = (Any, object)


class OutputPlaceholder:
    """The placeholder that `job.output` returns; it can only be passed to other jobs."""

    __slots__ = (_SOURCE,)

    def __init__(self, source: object) -> None:
        object.__setattr__(self, _SOURCE, source)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ArgumentError(
            f"{self!r} is a placeholder, not the result itself. Pass the whole placeholder, directly or in a "
            "list, tuple or dict, as an argument of a job that uses the result. To wait for the result here, "
            "use job.result()."
        )

    def __repr__(self) -> str:
        return f"the output of {source_of(self)!r}"

    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __call__ = _refuse
    __int__ = __float__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = __await__ = __aiter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __mod__ = __or__ = _refuse
    __enter__ = __exit__ = __neg__ = __abs__ = __round__ = _refuse
    __eq__ = __hash__ = __str__ = __format__ = __reduce_ex__ = __setattr__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        self._refuse()


class OutputText(str):
    """The string that is displayed in place of another job's result among a job's arguments."""

    __slots__ = ()


def with_outputs(arguments: JsonValue, inputs: Sequence[Input]) -> JsonValue:
    """Return decoded arguments for display, with `<output of JOB>` for each null that an output replaces.

    A position that contains another value is not changed, and a position that does not exist is ignored.
    """
    if not inputs:
        return arguments
    shown = copy.deepcopy(arguments)
    for one in inputs:
        put_at(shown, one.path, OutputText(f"<output of {one.job_id}>"))
    return shown


def put_at(arguments: JsonValue, path: Sequence[str | int], value: JsonValue) -> None:
    """Replace the null at the path with the value; do nothing if there is another value."""
    place: Any = arguments
    with suppress(LookupError, TypeError):
        for key in path[:-1]:
            place = place[key]
        if place[path[-1]] is None:
            place[path[-1]] = value


def source_of(placeholder: OutputPlaceholder) -> Any:  # noqa: ANN401 - a job's handle, whose module imports this one
    """Return the job whose output the placeholder represents."""
    return object.__getattribute__(placeholder, _SOURCE)


@attrs.frozen
class Reference:
    """A position in a call's arguments where the output of another job is inserted."""

    source: Any  # the handle of the other job
    path: tuple[str | int, ...]  # the parameter's name, then the keys and indexes within its JSON value


def holds_output(value: object, depth: int = 0) -> bool:
    """Return whether the value is an output, or contains one in its lists, tuples and dicts."""
    kind = type(value)
    if kind is OutputPlaceholder:
        return True
    if depth > _DEEPEST or kind not in (list, tuple, dict):
        return False
    return any(holds_output(inner, depth + 1) for _, inner in _inner(value))


def sources_in(value: object, depth: int = 0) -> Iterator[Any]:
    """Yield the job handle of each output that the value is or contains in its lists, tuples and dicts."""
    kind = type(value)
    if kind is OutputPlaceholder:
        yield source_of(cast("OutputPlaceholder", value))
    elif depth <= _DEEPEST and kind in (list, tuple, dict):
        for _, inner in _inner(value):
            yield from sources_in(inner, depth + 1)


def _inner(value: Any) -> Iterator[tuple[Any, object]]:  # noqa: ANN401 - a list, tuple or dict
    return iter(value.items()) if type(value) is dict else enumerate(value)


def encode_around(
    value: object,
    annotation: object,
    path: tuple[str | int, ...],
    encode: Callable[[object, object], object],
    found: list[Reference],
) -> object:
    """Return the stored form of a value, with None for each output in it.

    Args:
        value: the argument.
        annotation: the annotation of its parameter.
        path: the position of the value.
        encode: returns the stored form of a value, given an annotation and the value.
        found: receives a reference for each output.

    Raises:
        Misfit: A part of the value does not match its annotation.
    """
    if type(value) is OutputPlaceholder:
        found.append(Reference(source_of(value), path))
        return None
    if not holds_output(value):
        return encode(annotation, value)
    done: list[tuple[str | int, object]] = []
    for (key, inner), meaning in zip(_inner(value), _meanings(value, unwrap(annotation)), strict=True):
        try:
            done.append((key, encode_around(inner, meaning, (*path, key), encode, found)))
        except Misfit as misfit:
            misfit.under(key)
            raise
    return dict(done) if type(value) is dict else [each for _, each in done]


def _meanings(value: Any, annotation: object) -> Sequence[object]:  # noqa: ANN401 - a list, tuple or dict
    """Return the annotation of each item in a list, tuple or dict, in order."""
    if type(value) is dict and not all(type(key) is str for key in value):
        raise Misfit(
            "dict that contains an output and has keys that are not strings", value, "use strings as keys"
        )
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    for member in map(unwrap, members):
        meanings = _meanings_within(value, member, get_origin(member) or member, get_args(member))
        if meanings is not None:
            return meanings
    raise mismatch(value, annotation)


def _meanings_within(
    value: Any,  # noqa: ANN401 - a list, tuple or dict
    annotation: object,
    origin: Any,  # noqa: ANN401 - the origin of the annotation
    arguments: tuple[object, ...],
) -> Sequence[object] | None:
    """Return the items' annotations according to one annotation; None if it does not allow such a value."""
    kind, count = type(value), len(value)
    if annotation in _ANYTHING and kind is not tuple:
        return [Any] * count
    if kind is list and origin in LISTS:
        return [arguments[0] if arguments else Any] * count
    if kind is dict and origin in DICTS:
        return [arguments[1] if arguments else Any] * count
    if kind is dict and is_typeddict(origin):
        hints = get_type_hints(origin)
        is_whole = origin.__required_keys__ <= value.keys() <= hints.keys()
        return [hints[key] for key in value] if is_whole else None
    if kind is not tuple or origin is not tuple:
        return None
    if not arguments or arguments[1:] == (Ellipsis,):
        return [arguments[0] if arguments else Any] * count
    return arguments if len(arguments) == count else None


def check_made_of(what: str, names: Sequence[str | None], found: Sequence[Reference]) -> None:
    """Check that a tag or key is not built from an output, whose value does not exist yet.

    Args:
        what: the tag or key, for the message: "Limit key 'tenant:{tenant}'".
        names: the parameters from which it is built; if None is among them, all parameters.
        found: the outputs among the arguments.

    Raises:
        ArgumentError: The tag or key is built from an output.
    """
    for one in found:
        parameter = str(one.path[0])
        if None in names or parameter in names:
            raise ArgumentError(
                f"{what} uses {parameter!r}, which contains the output of {one.source!r}. This output is "
                "unknown until that job has run. Use arguments that are known when the job is created."
            )
