"""What a job was called with and what it returned, as a visitor may see it: decoded, redacted, cut."""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs

from firelock import JsonValue, Serializer
from firelock_dashboard.redaction import Redactor

__all__ = ["IN_DETAIL", "IN_LISTS", "Payload", "hidden", "payload_of", "value_of"]

IN_LISTS = 4 * 1024  # characters
IN_DETAIL = 64 * 1024


@attrs.frozen
class Payload:
    """A stored value for people."""

    text: str = ""  # indented JSON, or the stored text where it cannot be read; cut to the limit
    line: str = ""  # the same on one line
    value: JsonValue = None  # decoded and redacted; None where it cannot be read or may not be seen
    reason: str | None = None  # why `value` is None: it may not be seen, or cannot be read
    is_hidden: bool = False  # the visitor may not see it: there is no text either
    is_cut: bool = False  # there is more than `text` holds: offer a download
    size: int = 0  # characters, whole


def hidden(reason: str) -> Payload:
    """Return what a visitor gets who may not see the value."""
    return Payload(reason=reason, is_hidden=True)


def payload_of(
    stored: object,
    serializer: str,
    *,
    serializers: Mapping[str, Serializer],
    redactor: Redactor,
    task: str,
    limit: int | None,
) -> Payload:
    """Return the stored text as a value, redacted; text that cannot be read is given raw, with the reason.

    Stored text is judged, never trusted: whoever writes to the storage may have left anything.
    """
    text = stored if isinstance(stored, str) else str(stored)
    reader = serializers.get(serializer)
    if reader is None:
        return _raw(
            text,
            f"It was stored by the serializer {serializer!r}, which is not installed here.",
            redactor,
            task,
            limit,
        )
    try:
        value = redactor.value(reader.loads(text), task)
        shown = json.dumps(value, ensure_ascii=False, indent=2)
        line = json.dumps(value, ensure_ascii=False)
    except Exception as error:  # noqa: BLE001 - a stranger's serializer, a stranger's text
        return _raw(text, f"It cannot be read: {error}", redactor, task, limit)
    return _cut(Payload(shown, line, value, size=len(shown)), limit)


def value_of(
    stored: object, serializer: str, *, serializers: Mapping[str, Serializer], redactor: Redactor, task: str
) -> JsonValue:
    """Return the stored text as a value, redacted; None where it cannot be read.

    What `payload_of` returns as its value, without texts to show: for those who look through many jobs.
    """
    reader = serializers.get(serializer)
    if reader is None:
        return None
    try:
        return redactor.value(reader.loads(stored if isinstance(stored, str) else str(stored)), task)
    except Exception:  # noqa: BLE001 - a stranger's serializer, a stranger's text
        return None


def _raw(text: str, reason: str, redactor: Redactor, task: str, limit: int | None) -> Payload:
    clean = redactor.text(text, task)
    said = redactor.text(reason[:500], task)
    return _cut(Payload(clean, " ".join(clean.split()), None, said, size=len(clean)), limit)


def _cut(payload: Payload, limit: int | None) -> Payload:
    if limit is None or (len(payload.text) <= limit and len(payload.line) <= limit):
        return payload
    return attrs.evolve(payload, text=payload.text[:limit], line=payload.line[:limit], is_cut=True)
