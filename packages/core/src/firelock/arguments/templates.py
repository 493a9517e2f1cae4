"""Strings built from a job's arguments by name: `user:{user_id}` → `user:42`; for tags and keys."""

from __future__ import annotations

import functools
import string
from collections.abc import Collection, Mapping
from typing import Final

from firelock.arguments.serializer import JsonValue
from firelock.errors import ArgumentError, TaskError

Pieces = tuple[tuple[str, str | None], ...]
"""Pairs of literal text and the name that follows it; None if no name follows."""

_WORDS: Final = {None: "null", True: "true", False: "false"}


@functools.lru_cache(maxsize=1024)
def pieces(noun: str, template: str) -> Pieces:
    """Return the parts of a template; `noun` is its name in messages, such as "Tag".

    Raises:
        TaskError: it contains more than plain names in braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TaskError(
            f"{noun} {template!r} is no template: {error}. Write a brace twice to mean itself"
        ) from error
    for _, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise TaskError(
                f"{noun} {template!r} holds more than plain names: use {{name}} and nothing else in braces"
            )
    return tuple((literal, name) for literal, name, _, _ in parsed)


def names_in(noun: str, template: str) -> tuple[str, ...]:
    """Return the names in a template, as `pieces` finds them."""
    return tuple(name for _, name in pieces(noun, template) if name is not None)


def check_names(noun: str, template: str, parameter_names: Collection[str]) -> None:
    """Check that a template contains only names of parameters.

    Raises:
        TaskError: it contains another name, or more than plain names.
    """
    for _, name in pieces(noun, template):
        if name is not None and name not in parameter_names:
            known = ", ".join(parameter_names) or "none"
            raise TaskError(
                f"{noun} {template!r} names {name!r}. Parameters that can be named plainly: {known}"
            )


def text_of(noun: str, template: str, name: str, values: Mapping[str, JsonValue]) -> str:
    """Return the string for one stored argument; numbers and booleans are written as in JSON.

    Raises:
        ArgumentError: it is missing, or is not a string, number or boolean.
    """
    value = values.get(name, values)
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int | float):
        return str(value)
    made = f"{noun} {template!r} is made from {name!r}, which is"
    if name not in values:
        raise ArgumentError(f"{made} omitted; its default cannot be stored")
    raise ArgumentError(f"{made} stored as {type(value).__name__}; only text and numbers can")
