"""Declarations of wire formats. Each lists the fields of a format once for Python and the scripts.

A `Text` declares the fields of a string and their separators, and an `Array` the fields of a JSON array. A
NamedTuple declares consecutive values, such as the arguments and replies of scripts. `encoding` declares the
stored formats, and `words` declares the arguments and replies. Scripts use the names of the fields, and
`placed` replaces them with positions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias

import attrs

Captured: TypeAlias = tuple[str, ...]
"""The strings of the requested fields, in their order."""


@attrs.frozen
class Field:
    """A part of a string."""

    name: str
    pattern: str  # a Lua pattern
    separator: str  # the separator after this field, as a pattern


@attrs.frozen
class Text:
    """A string of fields, each followed by its separator."""

    fields: tuple[Field, ...]
    begins: str = "^"  # a Lua pattern for the part of a longer string before this format

    def captures(self, *names: str) -> str:
        """Return the Lua pattern that captures these fields.

        Raises:
            ValueError: If a field does not exist, or the names are not in the order of the fields.
        """
        return self.begins + self._captures(names)

    def between(self, first: str, last: str) -> str:
        """Return the string between the values of two fields if all fields between them are empty."""
        names = [field.name for field in self.fields]
        parts = self.fields[names.index(first) : names.index(last)]
        return "".join(field.separator for field in parts)

    def write(self, **values: object) -> str:
        """Return a string of these values, one for each field.

        Raises:
            ValueError: If a value belongs to an unknown field, or a value is missing.
        """
        if values.keys() != {field.name for field in self.fields}:
            raise ValueError(f"{list(values)} are not {[field.name for field in self.fields]}")
        return "".join(f"{values[field.name]}{field.separator.rstrip('$')}" for field in self.fields)

    def read(self, text: str, *names: str) -> Captured:
        """Return these fields of a string that starts with this format; the names must be in order.

        Raises:
            ValueError: If the string does not have the expected format.
        """
        found = _compiled(self._captures(names)).match(text)
        if found is None:
            raise ValueError(text)
        return found.groups()

    def _captures(self, names: tuple[str, ...]) -> str:
        wanted = list(names)
        parts: list[str] = []
        for field in self.fields:
            is_wanted = field.name == wanted[0]
            parts.append(f"({field.pattern})" if is_wanted else field.pattern)
            if is_wanted and len(wanted) == 1:
                return "".join([*parts, field.separator])
            parts.append(field.separator)
            del wanted[:is_wanted]
        raise ValueError(f"{names} are not fields in this order: {[field.name for field in self.fields]}")


@lru_cache(64)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return the Python pattern for a Lua pattern.

    The pattern elements that the formats use have the same meaning in both languages.
    """
    return re.compile(pattern.replace("%u", "[A-Z]").replace("%", "\\"), re.ASCII | re.DOTALL)


# ---- values and arrays -----------------------------------------------------------------------------------


class Words:
    """Consecutive values in a list that a script reads or returns."""

    def __init__(self, fields: tuple[str, ...], first: int = 0) -> None:
        self.fields = fields
        self._first = first  # 0 if places count from the first value, 1 if from the value before it

    def place(self, name: str) -> int:
        """Return the place of a field; for the name `width`, return the number of fields.

        Raises:
            ValueError: If the field does not exist.
        """
        return len(self.fields) if name == "width" else self._first + self.fields.index(name)


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Array(Words):
    """A JSON array.

    A release may append fields; older releases ignore them.
    """

    def __init__(self, *fields: str, nothing: str = "[]") -> None:
        super().__init__(fields, 1)
        self.nothing = nothing  # the array in which every value is empty
        self._all = fields[-1]
        self._of = {last: attrgetter(*self._up_to(last)) for last in fields[1:]}
        self._given: dict[tuple[str, ...], tuple[str, ...]] = {}

    def write(self, **values: object) -> str:
        """Return the JSON array of these values, up to the last given field; missing values are null.

        Raises:
            ValueError: If a field does not exist.
        """
        names = tuple(values)
        order = self._given.get(names)
        if order is None:
            order = self._given[names] = self._up_to(max(names, key=self.fields.index))
        return encode([values.get(name) for name in order])

    def write_of(self, source: object, up_to: str | None = None) -> str:
        """Return the source's attributes as a JSON array, up to the field `up_to` or the last field."""
        return encode(self._of[up_to or self._all](source))

    def _up_to(self, last: str) -> tuple[str, ...]:
        return self.fields[: self.fields.index(last) + 1]

    def read(self, text: str) -> dict[str, Any]:
        """Return the values by name; fields that an older release did not write are missing.

        Raises:
            ValueError: If the string is not JSON.
            TypeError: If the JSON is not an array.
        """
        found: Sequence[Any] = json.loads(text)
        return dict(zip(self.fields, found, strict=False))


# ---- names in scripts ------------------------------------------------------------------------------------

_NAMED = re.compile(r"\b([A-Z][A-Z_]*)\.(?:(captures|between)\(([a-z_, ]+)\)|([a-z_]+))")


def placed(text: str, formats: Mapping[str, Text | Words]) -> str:
    """Return a script in which the names of fields are replaced with numbers and patterns.

    `CHANGE.fence` becomes a place, and `CHANGE.width` the number of values. `LAST.captures(claimed, due)`
    becomes a pattern that captures these fields of a string. `LAST.between(changed, due)` becomes the string
    between these fields if all fields in between are empty.

    Raises:
        ValueError: If the format does not have this field.
    """

    def replaced(found: re.Match[str]) -> str:
        name, verb, fields, field = found.groups()
        form = formats.get(name)
        if isinstance(form, Array) and field == "nothing":
            return _literal(form.nothing)
        if isinstance(form, Words) and field is not None:
            return str(form.place(field))
        if isinstance(form, Text) and verb is not None:
            named = fields.replace(" ", "").split(",")
            return _literal(form.captures(*named) if verb == "captures" else form.between(*named))
        return found[0]

    return _NAMED.sub(replaced, text)


def _literal(text: str) -> str:
    return (
        "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t") + "'"
    )
