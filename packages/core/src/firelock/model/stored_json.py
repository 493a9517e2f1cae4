"""Functions for stored JSON that is damaged or was written by a newer release."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

UNREADABLE = (TypeError, ValueError, LookupError, RecursionError)
STRING_OR_NULL = frozenset({str, type(None)})
INTEGER_OR_NULL = frozenset({int, type(None)})
STRING_OR_INTEGER = frozenset({str, int})
_T = TypeVar("_T")


def read_or_none(read: Callable[[Any], _T], said: object) -> _T | None:
    """Return the result of `read` for a value; None if the value cannot be read."""
    try:
        return read(said)
    except UNREADABLE:
        return None


def list_or_empty(text: str) -> list[Any]:
    """Return the list in a stored JSON string; an empty list if it contains something else."""
    said = read_or_none(json.loads, text)
    return said if isinstance(said, list) else []


def is_damaged(text: object) -> bool:
    """Return whether a stored string is not JSON, so that no release can read it.

    A newer release may have written JSON that this release cannot read. In that case, a server postpones the
    job instead of failing it.
    """
    if not isinstance(text, str):
        return True
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
