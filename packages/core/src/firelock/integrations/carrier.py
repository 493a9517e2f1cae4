"""Storage of tracing data in a job's `meta`, limited to the entries that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock import TaskCall

_ROOM = 2_000  # bytes of JSON: slightly less than the limit of a job's meta
_LONGEST_ESCAPE = 6  # maximum bytes of one character
_PUNCTUATION = 8  # bytes of an entry's quotes and separators


def fitting(carrier: Mapping[str, str], call: TaskCall) -> dict[str, dict[str, str]] | None:
    """Return the result of `job_options`: the entries that fit next to the call's own meta, shortest first.

    Tracing data must not cause an error when a job is created, so long baggage is left out. A trace context
    is short enough to fit.
    """
    given = call.options.get("meta")
    meta = _chosen(carrier, dict(given) if isinstance(given, Mapping) else {})
    return {"meta": meta} if meta else None


def fitting_alone(carrier: Mapping[str, str]) -> dict[str, str] | None:
    """Return the result of `batch_meta`: the entries that fit, shortest first."""
    return _chosen(carrier, {}) or None


def _chosen(carrier: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    carrier = {key: text for key, text in carrier.items() if text.isprintable()}
    every = {**own, **carrier}
    if sum((len(key) + len(text)) * _LONGEST_ESCAPE + _PUNCTUATION for key, text in every.items()) <= _ROOM:
        return carrier
    kept: dict[str, str] = {}
    for key in sorted(carrier, key=lambda each: len(carrier[each])):
        value = carrier[key]
        if len(json.dumps({**kept, **own, key: value}).encode()) <= _ROOM:
            kept[key] = value
    return kept
