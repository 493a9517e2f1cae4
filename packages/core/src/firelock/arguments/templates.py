"""Templates of tags and keys, which contain names of a job's arguments: `user:{user_id}` → `user:42`."""

from __future__ import annotations

import functools
import string
from collections.abc import Collection, Mapping
from typing import Final

from firelock.arguments.serializer import JsonValue
from firelock.errors import ArgumentError, TaskError

Pieces = tuple[tuple[str, str | None], ...]
"""Pairs of a literal string and the name that follows it; None if no name follows."""

_WORDS: Final = {None: "null", True: "true", False: "false"}


@functools.lru_cache(maxsize=1024)
def pieces(noun: str, template: str) -> Pieces:
    """Return the parts of a template; `noun` is its name in messages, such as "Tag".

    Raises:
        TaskError: The template contains more than plain names in braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise TaskError(
            f"{noun} {template!r} is not a valid template: {error}. Use '{{{{' or '}}}}' for a literal brace"
        ) from error
    for _, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise TaskError(
                f"{noun} {template!r} contains more than plain names: use only {{name}} in braces"
            )
    return tuple((literal, name) for literal, name, _, _ in parsed)


def names_in(noun: str, template: str) -> tuple[str, ...]:
    """Return the names in a template, as `pieces` finds them."""
    return tuple(name for _, name in pieces(noun, template) if name is not None)


def check_names(noun: str, template: str, parameter_names: Collection[str]) -> None:
    """Check that a template contains only names of parameters.

    Raises:
        TaskError: The template contains another name, or more than plain names.
    """
    for _, name in pieces(noun, template):
        if name is not None and name not in parameter_names:
            known = ", ".join(parameter_names) or "none"
            raise TaskError(
                f"{noun} {template!r} contains {name!r}, which it cannot use. Usable parameters: {known}"
            )


def text_of(noun: str, template: str, name: str, values: Mapping[str, JsonValue]) -> str:
    """Return the string for one stored argument; numbers and booleans are written as in JSON.

    Raises:
        ArgumentError: The argument is missing, or is not a string, number or boolean.
    """
    value = values.get(name, values)
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, int | float):
        return str(value)
    made = f"{noun} {template!r} uses {name!r}, which is"
    if name not in values:
        raise ArgumentError(f"{made} omitted; its default cannot be stored")
    raise ArgumentError(f"{made} stored as {type(value).__name__}; only strings and numbers can")
