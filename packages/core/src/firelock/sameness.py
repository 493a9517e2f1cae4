"""Whether a value has come back unchanged: equal, and of the same types all through."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from datetime import datetime
from typing import Any, Final, cast

import attrs

from firelock.guards import refusal
from firelock.serializer import Misfit

__all__ = ["is_same"]


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
