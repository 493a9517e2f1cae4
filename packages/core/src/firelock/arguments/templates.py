"""Texts made from a job's arguments by their plain names: `user:{user_id}` → `user:42`; for tags and keys."""

from __future__ import annotations

import functools
import string
from collections.abc import Collection, Mapping
from typing import Final

from firelock.arguments.serializer import JsonValue
from firelock.errors import ArgumentError, TaskError

Pieces = tuple[tuple[str, str | None], ...]
"""Literal text and the name that follows it; None where none does."""

_WORDS: Final = {None: "null", True: "true", False: "false"}


@functools.lru_cache(maxsize=1024)
def pieces(noun: str, template: str) -> Pieces:
    """Return a template taken apart; `noun` is what a message calls it, "Tag".

    Raises:
        TaskError: it holds more than plain names in braces.
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
    """Return the names that a template is made of, as `pieces` finds them."""
    return tuple(name for _, name in pieces(noun, template) if name is not None)


def check_names(noun: str, template: str, parameter_names: Collection[str]) -> None:
    """Prove that a template names only parameters.

    Raises:
        TaskError: it names something else, or holds more than plain names.
    """
    for _, name in pieces(noun, template):
        if name is not None and name not in parameter_names:
            known = ", ".join(parameter_names) or "none"
            raise TaskError(
                f"{noun} {template!r} names {name!r}. Parameters that can be named plainly: {known}"
            )


def text_of(noun: str, template: str, name: str, values: Mapping[str, JsonValue]) -> str:
    """Return the text of one argument in its stored form: numbers and truth values as JSON writes them.

    Raises:
        ArgumentError: it is missing, or no text, number or truth value.
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
