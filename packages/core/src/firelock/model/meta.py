"""The metadata of a job (short strings by name): its validation, and its conversion to a JSON string."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from firelock.errors import ConfigurationError
from firelock.model.text import printable, shown

META_LIMIT: Final = 2_048  # bytes of UTF-8, as stored
NO_META: Final[Mapping[str, str]] = MappingProxyType({})

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def check_meta(meta: object) -> Mapping[str, str]:
    """Return a read-only copy of a job's metadata.

    Raises:
        ConfigurationError: The value is not a mapping; a key is not a name of 1 to 64 characters from `a-z
            A-Z 0-9 _ . -` that begins with a letter; a value is not a printable string; or the whole is
            larger than 2 KiB as JSON.
    """
    if not isinstance(meta, Mapping):
        raise ConfigurationError(
            f'meta must be a mapping of names to strings, such as {{"tenant": "acme"}}, got {shown(meta)}.'
        )
    for key, value in meta.items():
        if not isinstance(key, str) or not _KEY.match(key):
            raise ConfigurationError(
                "Meta key must be 1 to 64 characters from a-z, A-Z, 0-9, '_', '.', '-' and begin with a "
                f"letter, got {shown(key)}."
            )
        if not isinstance(value, str):
            raise ConfigurationError(
                f"Meta {key!r} must be a string, such as {str(value)[:60]!r}, got {shown(value)}."
            )
        if not value.isprintable():
            raise ConfigurationError(
                f"Meta {key!r} contains characters that are not printable: {shown(value)}."
            )
    copy = dict(meta)
    write_meta(copy)
    return MappingProxyType(copy)


def write_meta(meta: Mapping[str, str]) -> str | None:
    """Return the stored string of checked metadata: JSON in the order of keys; None if it is empty.

    Equal metadata produces equal strings.

    Raises:
        ConfigurationError: The string is larger than 2 KiB.
    """
    if not meta:
        return None
    text = _encode(dict(meta))
    if len(text) > META_LIMIT // 4 and (size := len(text.encode())) > META_LIMIT:
        key = max(meta, key=lambda name: len(meta[name].encode()))
        raise ConfigurationError(
            f"The meta of a job must have at most {META_LIMIT:,} bytes as JSON, got {size:,}. The largest "
            f"value is {key!r}: {shown(meta[key])}. Pass an id, and load the data inside the task."
        )
    return text


def read_meta(text: str | None) -> Mapping[str, str]:
    """Return the metadata that `write_meta` wrote, read-only; empty for any other string."""
    if text is None:
        return NO_META
    try:
        found = json.loads(text).items()
    except (AttributeError, TypeError, ValueError, RecursionError):
        return NO_META
    return MappingProxyType({printable(key): printable(value) for key, value in found})
