"""How an annotation is converted by cattrs, and what is said when that fails; loaded at the first value."""

from __future__ import annotations

import functools
import sys
from collections import Counter, abc, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from datetime import datetime
from enum import Enum, Flag
from pathlib import Path, PurePath
from typing import (
    Any,
    Final,
    NotRequired,
    Protocol,
    Required,
    TypeAlias,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import attrs
from cattrs import Converter
from cattrs.cols import (
    is_namedtuple,
    list_structure_factory,
    namedtuple_dict_structure_factory,
    namedtuple_dict_unstructure_factory,
)
from cattrs.errors import (
    AttributeValidationNote,
    ForbiddenExtraKeysError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from firelock.arguments.codec import EXACT_TYPES, SCALARS, Fit, describe, fit_of, mismatch
from firelock.arguments.refusals import refusal
from firelock.serializer import Misfit, check_json

__all__ = [
    "as_misfit",
    "conversion_of",
    "is_same",
    "strict_converter",
]


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


Structure: TypeAlias = Callable[[Any, Any], object]
Unstructure: TypeAlias = Callable[[Any], object]

_ARRAYS: Final[dict[object, Callable[[list[object]], object]]] = {
    list: list,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Collection: list,
    abc.Iterable: list,
    deque: deque,
    tuple: tuple,
    set: set,
    abc.Set: set,
    abc.MutableSet: set,
    frozenset: frozenset,
}


class _StrictConverter(Converter):
    """Looks into lists and dicts without a type, which cattrs meets in classes that hold themselves."""

    def unstructure(self, obj: Any, unstructure_as: Any = None) -> Any:  # noqa: ANN401 - as in its base
        """Return the stored form of a value by its own type, or by the given one."""
        if unstructure_as is None and type(obj) is list:
            return [self.unstructure(each) for each in obj]
        if unstructure_as is None and type(obj) is dict:
            return {self.unstructure(key): self.unstructure(each) for key, each in obj.items()}
        return super().unstructure(obj, unstructure_as)


def strict_converter() -> Converter:
    """Return a converter that refuses what it would have to change, for our types and containers of them."""
    arrays = (abc.Sequence, deque)
    converter = _StrictConverter(
        forbid_extra_keys=True,
        unstruct_collection_overrides={**dict.fromkeys(arrays, list), abc.Set: _in_order},
    )
    _register_json(converter)
    _register_containers(converter)
    _register_records(converter)
    converter.register_structure_hook_factory(_is_enum, _structure_enum)
    converter.register_unstructure_hook_factory(_is_enum, _unstructure_enum)
    converter.register_unstructure_hook_factory(_is_pydantic, lambda _: _dump_model)
    converter.register_structure_hook_factory(_is_pydantic, lambda _: _validate_model)
    for kind, (encode, decode) in SCALARS.items():
        converter.register_unstructure_hook(kind, encode)
        converter.register_structure_hook(kind, _structure_by(decode))
    for path in (PurePath, Path):
        converter.register_unstructure_hook(path, _refuse_path)
        converter.register_structure_hook(path, lambda value, _: _refuse_path(value))
    return converter


def _register_json(converter: Converter) -> None:
    """JSON inside of other types is checked by the same fits as JSON arguments."""

    def is_json(annotation: object) -> bool:
        return fit_of(annotation) is not None

    def structure(annotation: object) -> Structure:
        return _structure_by(cast("Fit", fit_of(annotation)))

    converter.register_structure_hook_factory(is_json, structure)
    converter.register_unstructure_hook_factory(is_json, lambda annotation: cast("Fit", fit_of(annotation)))
    # cattrs asks these by class before it asks any predicate, for their subclasses as well.
    for kind in EXACT_TYPES:
        converter.register_structure_hook(kind, _structure_plain)
        converter.register_unstructure_hook(kind, _unstructure_plain)


def _structure_by(read: Callable[[object], object]) -> Structure:
    return lambda value, _: read(value)


def _structure_plain(value: object, kind: type) -> object:
    if issubclass(kind, Enum):
        return _structure_enum(kind)(value, kind)
    fit = fit_of(kind)
    if fit is None:
        raise mismatch(value, kind)
    return fit(value)


def _unstructure_plain(value: object) -> object:
    return _unstructure_enum(type(value))(value) if isinstance(value, Enum) else value


def _refuse_path(value: object) -> object:
    raise Misfit("a path", value, "annotate str and pass str(path); a server may see another file system")


# ---- containers ------------------------------------------------------------------------------------------


def _register_containers(converter: Converter) -> None:
    def is_array(annotation: object) -> bool:
        return (get_origin(annotation) or annotation) in _ARRAYS

    def structure_array(annotation: type[Any], converter: Converter) -> Structure:
        origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
        build = _ARRAYS[origin]
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis) and arguments:  # noqa: PLR2004
            read: Structure = converter.gen_structure_hetero_tuple(annotation)
        else:
            read = list_structure_factory(annotation, converter)

        def structure(value: object, _: object) -> object:
            if type(value) is not list:
                raise mismatch(value, annotation)
            return build(cast("list[object]", read(value, annotation)))

        return structure

    converter.register_structure_hook_factory(is_array, structure_array)


def _in_order(values: Iterable[object]) -> list[object]:
    """Return a set's stored members in an order of their own, so that equal sets give equal text."""
    return sorted(values, key=repr)


# ---- records ---------------------------------------------------------------------------------------------


def _register_records(converter: Converter) -> None:
    def is_record(annotation: object) -> bool:
        kind = get_origin(annotation) or annotation
        return isinstance(kind, type) and (attrs.has(kind) or is_dataclass(kind))

    def structure_record(annotation: type[Any], converter: Converter) -> Structure:
        return _from_object(annotation, converter.gen_structure_attrs_fromdict(annotation))

    def structure_named_tuple(annotation: type[Any], converter: Converter) -> Structure:
        read = namedtuple_dict_structure_factory(annotation, converter, "from_converter", True)
        return _from_object(annotation, read)

    converter.register_structure_hook_factory(is_record, structure_record)
    converter.register_structure_hook_factory(is_namedtuple, structure_named_tuple)
    converter.register_unstructure_hook_factory(is_namedtuple, namedtuple_dict_unstructure_factory)
    converter.register_structure_hook_factory(is_typeddict, _structure_typed_dict)
    converter.register_unstructure_hook_factory(is_typeddict, _unstructure_typed_dict)


def _from_object(annotation: object, read: Structure) -> Structure:
    def structure(value: object, _: object) -> object:
        if type(value) is not dict:
            raise mismatch(value, annotation)
        return read(value, annotation)

    return structure


def _typed_dict_fields(kind: type) -> dict[str, tuple[object, bool]]:
    """Return each key's annotation and whether it must be there.

    Read from the hints: where annotations are postponed, the class itself overlooks Required and NotRequired.
    """
    fields: dict[str, tuple[object, bool]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        mark = get_origin(hint)
        if mark in (Required, NotRequired):
            fields[name] = (get_args(hint)[0], mark is Required)
        else:
            fields[name] = (hint, name in cast("Collection[str]", getattr(kind, "__required_keys__", ())))
    return fields


def _structure_typed_dict(kind: type, converter: Converter) -> Structure:
    fields = _typed_dict_fields(kind)
    hooks = {name: (converter.get_structure_hook(hint), hint) for name, (hint, _) in fields.items()}
    required = {name for name, (_, is_required) in fields.items() if is_required}

    def structure(value: object, _: object) -> object:
        known = _known_keys(value, kind, fields.keys(), required)
        done: dict[str, object] = {}
        name = ""
        try:
            for name, each in known.items():
                hook, hint = hooks[name]
                done[name] = hook(each, hint)
        except Exception as error:
            raise as_misfit(error, known[name], hooks[name][1]).under(name) from error
        return done

    return structure


def _unstructure_typed_dict(kind: type, converter: Converter) -> Unstructure:
    fields = _typed_dict_fields(kind)
    hooks = {name: converter.get_unstructure_hook(hint) for name, (hint, _) in fields.items()}
    required = {name for name, (_, is_required) in fields.items() if is_required}

    def unstructure(value: object) -> object:
        known = _known_keys(value, kind, fields.keys(), required)
        return {name: hooks[name](each) for name, each in known.items()}

    return unstructure


def _known_keys(
    value: object, kind: type, names: Collection[str], required: Collection[str]
) -> dict[str, object]:
    if type(value) is not dict:
        raise mismatch(value, kind)
    for name in required:
        if name not in value:
            raise Misfit(f"{name!r} is missing", value, "")
    for name in value:
        if name not in names:
            raise Misfit(f"unknown key {name!r}", value, f"known are {', '.join(names)}")
    return value


# ---- enums and models ------------------------------------------------------------------------------------


def _is_enum(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def _stored_members(kind: type[Enum]) -> dict[tuple[type, object], Enum]:
    """Return the members by their stored form: the value, or the name where a value is no text or number."""
    members = list(kind.__members__.values())
    if all(type(member.value) in EXACT_TYPES for member in members):
        return {(type(member.value), member.value): member for member in members}
    return {(str, member.name): member for member in members}


def _structure_enum(kind: type[Enum]) -> Structure:
    members = _stored_members(kind)

    def structure(stored: object, _: object) -> object:
        if type(stored) in EXACT_TYPES:
            member = members.get((type(stored), stored))
            if member is not None:
                return member
            if issubclass(kind, Flag) and type(stored) is int:
                return kind(stored)
        raise Misfit(f"no member of {kind.__name__}", stored, f"pass {kind.__name__}")

    return structure


def _unstructure_enum(kind: type[Enum]) -> Unstructure:
    stored = {member: form for (_, form), member in _stored_members(kind).items()}

    def unstructure(member: Enum) -> object:
        if type(member) is not kind:
            raise mismatch(member, kind)
        return stored.get(member, member.value)  # combined flags are no members of their own

    return unstructure


def _is_pydantic(annotation: object) -> bool:
    pydantic = sys.modules.get("pydantic")  # a model cannot exist before its library is loaded
    return (
        pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    )


class _Model(Protocol):
    """What we use of a pydantic model."""

    def model_dump(self, *, mode: str) -> object: ...

    @classmethod
    def model_validate(cls, stored: object) -> object: ...


def _dump_model(model: _Model) -> object:
    return model.model_dump(mode="json")


def _validate_model(stored: object, kind: type[_Model]) -> object:
    return kind.model_validate(stored)


_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def is_same(sent: object, back: object) -> bool:
    """Whether the two are equal and of the same types all through; an integer may have come back as float.

    Raises:
        ArgumentError: an entity or the like is inside, which only looks like a plain record.
    """
    kind = type(sent)
    if kind is not type(back):
        return kind is int and type(back) is float and sent == back
    if kind in _PLAIN:
        return sent == back
    if kind is datetime:
        # Not by ==: in the hour that a zone repeats, an instant is unequal to itself in any other zone.
        one, other = cast("datetime", sent), cast("datetime", back)
        return one.utcoffset() == other.utcoffset() and one.replace(tzinfo=None) == other.replace(tzinfo=None)
    if isinstance(sent, Mapping):
        other_mapping = cast("Mapping[object, object]", back)
        return sent.keys() == other_mapping.keys() and all(
            is_same(sent[key], other_mapping[key]) for key in sent
        )
    if isinstance(sent, (set, frozenset)):
        return sent == back and Counter(map(type, sent)) == Counter(
            map(type, cast("Collection[object]", back))
        )
    if isinstance(sent, (list, tuple, deque)):
        other_items = cast("Sequence[object]", back)
        return len(sent) == len(other_items) and all(map(is_same, sent, other_items))
    if refusal(sent) is not None:
        raise Misfit(f"{kind.__name__} cannot be stored", sent)
    names = _compared_fields(kind)  # type: ignore[arg-type]  # mypy takes type[object] for unhashable
    if names is None:
        return bool(sent == back)
    return all(is_same(getattr(sent, name), getattr(back, name)) for name in names)


@functools.lru_cache(maxsize=1024)
def _compared_fields(kind: type[Any]) -> list[str] | None:
    """Return the fields that make up a record's value; None where the type itself says what equal means."""
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind) if field.eq]
    if is_dataclass(kind):
        return [field.name for field in dataclass_fields(kind) if field.compare]
    return None
