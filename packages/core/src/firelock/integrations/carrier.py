"""What travels in a job's `meta` for a system that traces: as much of it as there is room for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock import TaskCall

_ROOM = 2_000  # bytes of JSON: what a job may carry, and a little less


def fitting(carrier: Mapping[str, str], call: TaskCall) -> dict[str, dict[str, str]] | None:
    """Return the answer to `job_options`: what fits beside the call's own meta, the shortest first.

    Telemetry refuses no job: a context is short, and long baggage stays behind.
    """
    given = call.options.get("meta")
    own = dict(given) if isinstance(given, Mapping) else {}
    kept: dict[str, str] = {}
    for key in sorted(carrier, key=lambda each: len(carrier[each])):
        value = carrier[key]
        if value.isprintable() and len(json.dumps({**kept, **own, key: value}).encode()) <= _ROOM:
            kept[key] = value
    return {"meta": kept} if kept else None
