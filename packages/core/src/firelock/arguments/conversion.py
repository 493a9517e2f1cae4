"""The conversion of non-JSON values by cattrs; each value is restored and compared when it is stored."""

from __future__ import annotations

import functools
import sys
from collections import Counter, abc, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from datetime import datetime
from enum import Enum, Flag
from pathlib import Path, PurePath
from typing import (
    Any,
    Final,
    NotRequired,
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

from firelock.arguments.codec import EXACT_TYPES, SCALARS, Codec, describe, is_record, json_coder, mismatch
from firelock.arguments.refusals import refusal
from firelock.arguments.serializer import Misfit, check_json

_Structure: TypeAlias = Callable[[Any, Any], object]
_Unstructure: TypeAlias = Callable[[Any], object]

_EXACT_HOOKS: Final = frozenset(codec.encode for codec in SCALARS.values())
"""The hooks that restore exactly the stored value, so that no comparison is necessary."""


def converted_codec(annotation: object, converter: Converter) -> Codec:
    """Return the codec with which the converter stores and restores the values of an annotation."""

    @functools.cache
    def hooks() -> tuple[_Unstructure, _Structure]:
        return converter.get_unstructure_hook(annotation), converter.get_structure_hook(annotation)

    def decode(stored: object) -> object:
        try:
            return hooks()[1](stored, annotation)
        except Exception as error:
            raise _as_misfit(error, stored, annotation) from error

    def encode(value: object) -> object:
        try:
            unstructure, structure = hooks()
            stored = unstructure(value)
            if unstructure in _EXACT_HOOKS:
                return stored
            check_json(stored)
            back = structure(stored, annotation)
            has_changed = not _is_same(value, back)
        except Exception as error:
            raise _as_misfit(error, value, annotation) from error
        if has_changed:
            raise _change(value, back, annotation)
        return stored

    return Codec(encode, decode)


# ---- errors ----------------------------------------------------------------------------------------------


def _change(value: object, back: object, annotation: object) -> Misfit:
    kind = type(value)
    if kind is not type(back):
        return mismatch(value, annotation)
    advice = f"annotate the types of its {'items' if isinstance(value, Collection) else 'fields'}"
    return Misfit(f"a {kind.__name__} that would not be restored to an equal value", value, advice)


def _as_misfit(error: Exception, value: object, annotation: object) -> Misfit:
    """Convert an error from cattrs or from a type's own code to a Misfit with the path from cattrs."""
    if isinstance(error, Misfit):
        return error
    if isinstance(error, ExceptionGroup):
        inner = error.exceptions[0]
        misfit = _as_misfit(inner, value, annotation)
        for note in getattr(inner, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                misfit.under(note.name)
            elif isinstance(note, IterableValidationNote):
                misfit.under(note.index)
        return misfit
    if isinstance(error, AttributeError):
        return mismatch(value, annotation)
    match error:
        case RecursionError():
            advice = "store it elsewhere and pass a reference"
            return Misfit("contains itself or is nested too deep", value, advice)
        case StructureHandlerNotFoundError():
            problem = f"{describe(error.type_)} is not a type that can be stored"
            return Misfit(problem, value, "use a dataclass of plain values")
        case ForbiddenExtraKeysError():
            return Misfit(f"unknown fields {', '.join(sorted(map(repr, error.extra_fields)))}", value, "")
        case KeyError():
            return Misfit(f"{error} is missing", value, "")
    expected = describe(annotation)
    try:
        reason = str(error)
    except Exception:  # noqa: BLE001 - the class is foreign, and its `__str__` can raise
        reason = type(error).__name__
    return Misfit(f"does not fit {expected}: {reason}", value, f"pass {expected}")


# ---- comparison with the original value ------------------------------------------------------------------


def _is_same(sent: object, back: object) -> bool:
    """Return whether a value and its restored form are equal and have the same types at every level.

    The types must be compared because an integer may have been restored as a float.

    Raises:
        ArgumentError: The value contains an object that cannot be an argument, such as an entity.
    """
    kind = type(sent)
    if kind is not type(back):
        return kind is int and type(back) is float and sent == back
    if kind in EXACT_TYPES:
        return bool(sent == back)
    same_kind: Any = back
    if kind is datetime:
        # These values are not compared with ==. In the hour that a time zone repeats, == returns False for
        # the same time in another zone.
        return _by_offset(cast("datetime", sent)) == _by_offset(same_kind)
    if isinstance(sent, Mapping):
        return sent.keys() == same_kind.keys() and all(_is_same(sent[key], same_kind[key]) for key in sent)
    if isinstance(sent, (set, frozenset)):
        return sent == back and Counter(map(type, sent)) == Counter(map(type, same_kind))
    if isinstance(sent, (list, tuple, deque)):
        return len(sent) == len(same_kind) and all(map(_is_same, sent, same_kind))
    if refusal(sent) is not None:
        raise Misfit(f"{kind.__name__} cannot be stored", sent)
    names = _compared_fields(kind)  # type: ignore[arg-type]  # mypy takes type[object] for unhashable
    if names is None:
        return bool(sent == back)
    return all(_is_same(getattr(sent, name), getattr(back, name)) for name in names)


def _by_offset(value: datetime) -> tuple[object, object]:
    return value.utcoffset(), value.replace(tzinfo=None)


@functools.lru_cache(maxsize=1024)
def _compared_fields(kind: type[Any]) -> list[str] | None:
    """Return the names of a record's compared fields; None if the type itself defines equality."""
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind) if field.eq]
    if is_dataclass(kind):
        return [field.name for field in dataclass_fields(kind) if field.compare]
    return None


# ---- the converter ---------------------------------------------------------------------------------------


class _StrictConverter(Converter):
    """A converter that also converts untyped lists and dicts.

    cattrs encounters untyped lists and dicts in classes that contain themselves.
    """

    def unstructure(self, obj: Any, unstructure_as: Any = None) -> Any:  # noqa: ANN401 - as in its base
        """Return the stored form of a value according to its own type or the given type."""
        if unstructure_as is None and type(obj) is list:
            return [self.unstructure(each) for each in obj]
        if unstructure_as is None and type(obj) is dict:
            return {self.unstructure(key): self.unstructure(each) for key, each in obj.items()}
        return super().unstructure(obj, unstructure_as)


def strict_converter() -> Converter:
    """Return a converter for the supported types and containers of them.

    The converter rejects a value that it would have to change.
    """
    converter = _StrictConverter(
        forbid_extra_keys=True,
        unstruct_collection_overrides={abc.Sequence: list, deque: list, abc.Set: _in_order},
    )
    structure_by, unstructure_by = converter.register_structure_hook, converter.register_unstructure_hook
    structures, unstructures = (
        converter.register_structure_hook_factory,
        converter.register_unstructure_hook_factory,
    )
    # JSON inside other types is checked like JSON arguments.
    structures(_is_json, lambda annotation: _reader(_json(annotation)))
    unstructures(_is_json, _json)
    # cattrs looks up these hooks by class, including for subclasses, before it checks any predicate.
    for kind in EXACT_TYPES:
        structure_by(kind, _structure_plain)
        unstructure_by(kind, _unstructure_plain)
    structures(_is_array, _structure_array)
    structures(is_record, _structure_record)
    structures(is_namedtuple, _structure_named_tuple)
    unstructures(is_namedtuple, namedtuple_dict_unstructure_factory)
    structures(is_typeddict, _structure_typed_dict)
    unstructures(is_typeddict, _unstructure_typed_dict)
    structures(_is_enum, _structure_enum)
    unstructures(_is_enum, _unstructure_enum)
    structures(_is_pydantic, lambda _: lambda stored, kind: kind.model_validate(stored))
    unstructures(_is_pydantic, lambda _: lambda model: model.model_dump(mode="json"))
    for kind, codec in SCALARS.items():
        structure_by(kind, _reader(codec.decode))
        unstructure_by(kind, codec.encode)
    for path in (PurePath, Path):
        structure_by(path, _reader(_refuse_path))
        unstructure_by(path, _refuse_path)
    return converter


def _reader(read: _Unstructure) -> _Structure:
    return lambda stored, _: read(stored)


def _is_json(annotation: object) -> bool:
    return json_coder(annotation) is not None


def _json(annotation: object) -> _Unstructure:
    return cast("_Unstructure", json_coder(annotation))


def _structure_plain(value: object, kind: type) -> object:
    if issubclass(kind, Enum):
        return _structure_enum(kind)(value, kind)
    code = json_coder(kind)
    if code is None:
        raise mismatch(value, kind)
    return code(value)


def _unstructure_plain(value: object) -> object:
    return _unstructure_enum(type(value))(value) if isinstance(value, Enum) else value


def _refuse_path(value: object) -> object:
    raise Misfit("a path", value, "annotate str and pass str(path); a server can have another file system")


def _reads(kind: type, annotation: object, read: _Structure) -> _Structure:
    """Return a reader that rejects a value that is not stored as this kind of JSON.

    Without this check, cattrs would also accept values of similar kinds.
    """

    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise mismatch(value, annotation)
        return read(value, annotation)

    return structure


_ARRAYS: Final[Mapping[object, Callable[[Any], object]]] = {
    **dict.fromkeys((list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable), list),
    **dict.fromkeys((set, abc.Set, abc.MutableSet), set),
    **{kind: kind for kind in (deque, tuple, frozenset)},
}


def _is_array(annotation: object) -> bool:
    return (get_origin(annotation) or annotation) in _ARRAYS


def _structure_array(annotation: type[Any], converter: Converter) -> _Structure:
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    build = _ARRAYS[origin]
    if origin is tuple and arguments and arguments[1:] != (Ellipsis,):
        read: _Structure = converter.gen_structure_hetero_tuple(annotation)
    else:
        read = list_structure_factory(annotation, converter)
    return _reads(list, annotation, lambda value, _: build(read(value, annotation)))


def _in_order(values: Iterable[object]) -> list[object]:
    """Return the stored members of a set in a fixed order, so that equal sets have equal strings."""
    return sorted(values, key=repr)


def _structure_record(annotation: type[Any], converter: Converter) -> _Structure:
    return _reads(dict, annotation, converter.gen_structure_attrs_fromdict(annotation))


def _structure_named_tuple(annotation: type[Any], converter: Converter) -> _Structure:
    read = namedtuple_dict_structure_factory(annotation, converter, "from_converter", True)
    return _reads(dict, annotation, read)


def _structure_typed_dict(kind: type, converter: Converter) -> _Structure:
    def reader(hint: object) -> _Unstructure:
        read = converter.get_structure_hook(hint)
        return lambda stored: read(stored, hint)

    return _reader(_typed_dict_hook(kind, reader))


def _unstructure_typed_dict(kind: type, converter: Converter) -> _Unstructure:
    return _typed_dict_hook(kind, converter.get_unstructure_hook)


def _typed_dict_hook(kind: type, hook_of: Callable[[Any], _Unstructure]) -> _Unstructure:
    # The type hints are read because the class ignores Required and NotRequired in postponed annotations.
    hints = get_type_hints(kind, include_extras=True)
    marks = {name: get_origin(hint) for name, hint in hints.items()}
    declared = cast("Collection[str]", getattr(kind, "__required_keys__", ()))
    required = {
        name
        for name, mark in marks.items()
        if mark is Required or (mark is not NotRequired and name in declared)
    }
    for name, mark in marks.items():
        if mark in (Required, NotRequired):
            hints[name] = get_args(hints[name])[0]
    hooks = {name: hook_of(hint) for name, hint in hints.items()}

    def convert(value: object) -> object:
        if type(value) is not dict:
            raise mismatch(value, kind)
        for name in required - value.keys():
            raise Misfit(f"{name!r} is missing", value, "")
        for name in value:
            if name not in hooks:
                raise Misfit(f"unknown key {name!r}", value, f"use the keys {', '.join(hooks)}")
        done: dict[str, object] = {}
        name = ""
        try:
            for name, each in value.items():
                done[name] = hooks[name](each)
        except Exception as error:
            raise _as_misfit(error, value[name], hints[name]).under(name) from error
        return done

    return convert


def _is_enum(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Enum)


def _stored_members(kind: type[Enum]) -> dict[tuple[type, object], Enum]:
    """Return the members of an enum, keyed by their stored form.

    The stored form is the member's value, or its name if a value is not a string, a number or a boolean.
    """
    members = kind.__members__.values()
    has_plain_values = EXACT_TYPES.issuperset(type(member.value) for member in members)
    forms = [member.value if has_plain_values else member.name for member in members]
    return {(type(form), form): member for form, member in zip(forms, members, strict=True)}


def _structure_enum(kind: type[Enum]) -> _Structure:
    members = _stored_members(kind)

    def structure(stored: object, _: object) -> object:
        if type(stored) in EXACT_TYPES:
            member = members.get((type(stored), stored))
            if member is not None:
                return member
            if issubclass(kind, Flag) and type(stored) is int:
                return kind(stored)
        raise Misfit(f"not a member of {kind.__name__}", stored, f"pass {kind.__name__}")

    return structure


def _unstructure_enum(kind: type[Enum]) -> _Unstructure:
    stored = {member: form for (_, form), member in _stored_members(kind).items()}

    def unstructure(member: Enum) -> object:
        if type(member) is not kind:
            raise mismatch(member, kind)
        return stored.get(member, member.value)  # a combination of flags is not a member itself

    return unstructure


def _is_pydantic(annotation: object) -> bool:
    pydantic = sys.modules.get("pydantic")  # if the module is not loaded, there are no models
    return (
        pydantic is not None and isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
    )
