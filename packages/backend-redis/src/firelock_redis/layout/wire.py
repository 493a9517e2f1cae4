"""How a wire format is declared: its fields once, in order, for Python and for the scripts.

A `Text` declares the fields of a text, with what parts them; an `Array` those of JSON, and a NamedTuple words
that stand one behind the other, as arguments and replies of scripts do. `encoding` declares what is stored,
`words` what scripts are told and reply. Scripts name the same fields, and `placed` writes their places.
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
"""Texts of the fields that were asked for, in their order."""


@attrs.frozen
class Field:
    """A part of a text."""

    name: str
    pattern: str  # of Lua
    behind: str  # what parts it from the next one, as a pattern


@attrs.frozen
class Text:
    """A text of fields, each behind what ends the one before."""

    fields: tuple[Field, ...]
    begins: str = "^"  # a pattern of Lua for what stands before it in a longer text

    def captures(self, *names: str) -> str:
        """Return the pattern of Lua that captures these fields.

        Raises:
            ValueError: there is no such field, or they are not named in the order of the text.
        """
        return self.begins + self._captures(names)

    def between(self, first: str, last: str) -> str:
        """Return what stands between the values of two fields while those between them are empty."""
        names = [field.name for field in self.fields]
        parts = self.fields[names.index(first) : names.index(last)]
        return "".join(field.behind for field in parts)

    def write(self, **values: object) -> str:
        """Return a text of these values, one for each field.

        Raises:
            ValueError: there is one for another field, or one is missing.
        """
        if values.keys() != {field.name for field in self.fields}:
            raise ValueError(f"{list(values)} are not {[field.name for field in self.fields]}")
        return "".join(f"{values[field.name]}{field.behind.rstrip('$')}" for field in self.fields)

    def read(self, text: str, *names: str) -> Captured:
        """Return these fields of a text that begins with them, named in their order.

        Raises:
            ValueError: the text is not what was written.
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
                return "".join([*parts, field.behind])
            parts.append(field.behind)
            del wanted[:is_wanted]
        raise ValueError(f"{names} are not fields in this order: {[field.name for field in self.fields]}")


@lru_cache(64)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of Lua as one of Python; those that formats are made of mean the same in both."""
    return re.compile(pattern.replace("%u", "[A-Z]").replace("%", "\\"), re.ASCII | re.DOTALL)


# ---- words and arrays ------------------------------------------------------------------------------------


class Words:
    """Words that stand one behind the other in a list of a script."""

    def __init__(self, fields: tuple[str, ...], first: int = 0) -> None:
        self.fields = fields
        self._first = first  # 0 for places behind that of the first word, 1 behind the one before it

    def place(self, name: str) -> int:
        """Return the place of a field; `width` is how many there are.

        Raises:
            ValueError: there is no such field.
        """
        return len(self.fields) if name == "width" else self._first + self.fields.index(name)


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Array(Words):
    """An array of JSON; a release may append fields, those of a newer one are passed over."""

    def __init__(self, *fields: str, nothing: str = "[]") -> None:
        super().__init__(fields, 1)
        self.nothing = nothing  # an array whose values say nothing
        self._all = fields[-1]
        self._of = {last: attrgetter(*self._up_to(last)) for last in fields[1:]}
        self._given: dict[tuple[str, ...], tuple[str, ...]] = {}

    def write(self, **values: object) -> str:
        """Return these values in the order of the fields, up to the last one that is given; null for others.

        Raises:
            ValueError: there is no such field.
        """
        names = tuple(values)
        order = self._given.get(names)
        if order is None:
            order = self._given[names] = self._up_to(max(names, key=self.fields.index))
        return encode([values.get(name) for name in order])

    def write_of(self, source: object, up_to: str | None = None) -> str:
        """Return the attributes of an object that are named as the fields up to one, else as all."""
        return encode(self._of[up_to or self._all](source))

    def _up_to(self, last: str) -> tuple[str, ...]:
        return self.fields[: self.fields.index(last) + 1]

    def read(self, text: str) -> dict[str, Any]:
        """Return the values by their names, without those that an older release did not write.

        Raises:
            ValueError: it is no JSON.
            TypeError: it is no array.
        """
        found: Sequence[Any] = json.loads(text)
        return dict(zip(self.fields, found, strict=False))


# ---- in scripts ------------------------------------------------------------------------------------------

_NAMED = re.compile(r"\b([A-Z][A-Z_]*)\.(?:(captures|between)\(([a-z_, ]+)\)|([a-z_]+))")


def placed(text: str, formats: Mapping[str, Text | Words]) -> str:
    """Return a script in which the places that it names stand as numbers and patterns.

    `CHANGE.fence` is a place, and `CHANGE.width` how many words there are. `LAST.captures(claimed, due)` is a
    pattern that captures these fields of a text, `LAST.between(changed, due)` what parts them when written.

    Raises:
        ValueError: a format has no such field.
    """

    def written(found: re.Match[str]) -> str:
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

    return _NAMED.sub(written, text)


def _literal(text: str) -> str:
    return (
        "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t") + "'"
    )
