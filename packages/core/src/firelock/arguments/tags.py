"""Tags that are built from a job's arguments: `user:{user_id}` → `user:42`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from firelock.arguments.serializer import JsonValue
from firelock.arguments.templates import check_names, pieces, text_of
from firelock.errors import ArgumentError, TaskError

MAX_TAGS: Final = 20
MAX_TAG_LENGTH: Final = 100


def check_tag_templates(templates: Sequence[str], parameter_names: Collection[str]) -> None:
    """Check that every template is a valid tag and contains only names of parameters, as `{name}`.

    Raises:
        TaskError: The number of templates is too large, or a template contains an unknown name or a field
            that accesses part of a value.
    """
    if isinstance(templates, str):
        raise TaskError(f"tags must be a list, got the string {templates!r}. Use tags=[{templates!r}]")
    if len(templates) > MAX_TAGS:
        raise TaskError(f"A job can have at most {MAX_TAGS} tags, got {len(templates)}")
    for template in templates:
        if not isinstance(template, str):
            raise TaskError(f"A tag must be a string, got {type(template).__name__}")
        check_names("Tag", template, parameter_names)
        literals, names = zip(*pieces("Tag", template), strict=True) if template else ((), ())
        fixed = "".join(literals)
        problem = _problem_with(fixed) if fixed or not any(names) else None
        if problem:
            raise TaskError(f"Tag {template!r} {problem}")


def format_tags(
    templates: Sequence[str],
    bound: JsonValue | Mapping[str, JsonValue],
    *,
    defaults: Mapping[str, JsonValue] | None = None,
) -> tuple[str, ...]:
    """Return the tags for arguments in their stored form, as `Binder.encode` returns them.

    The tags are in order and without duplicates. Numbers and booleans are written as in JSON. The default of
    an omitted argument is used.

    Raises:
        ArgumentError: A value is not a string, number or boolean, or makes a tag too long or unprintable.
    """
    if not templates:
        return ()
    values = {**(defaults or {}), **(bound if isinstance(bound, Mapping) else {})}
    return tuple(dict.fromkeys(_format(template, values) for template in templates))


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Check plain tags by the same rules, and return them; braces have no special meaning in plain tags."""
    return format_tags([tag.replace("{", "{{").replace("}", "}}") for tag in tags], {}, defaults={})


def _format(template: str, values: Mapping[str, JsonValue]) -> str:
    tag = "".join(
        literal if name is None else literal + text_of("Tag", template, name, values)
        for literal, name in pieces("Tag", template)
    )
    problem = _problem_with(tag)
    if problem:
        raise ArgumentError(f"Tag {template!r} {problem}, with these arguments")
    return tag


def _problem_with(tag: str) -> str | None:
    if not tag:
        return "is empty"
    if len(tag) > MAX_TAG_LENGTH:
        return f"has {len(tag)} characters; at most {MAX_TAG_LENGTH} are allowed"
    return None if tag.isprintable() else "contains characters that are not printable"
