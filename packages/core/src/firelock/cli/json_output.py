"""Conversion of stored values for `--json`, with all fields, names as in the code, and times in ISO 8601."""

from __future__ import annotations

import json
import math
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from firelock.arguments.references import with_outputs
from firelock.model.clock import SECOND, micros
from firelock.model.limit import read_admission
from firelock.model.meta import read_meta
from firelock.model.text import isoformat

if TYPE_CHECKING:
    from firelock.control.servers import ServerView
    from firelock.model.job import JobRecord
    from firelock.model.limit import Admission
    from firelock.schedules.recurring_job import RecurringRecord


def json_value(value: object) -> object:
    """Return a frozen value in a form that JSON can represent."""
    if attrs.has(type(value)):
        return _fields(value)
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    if isinstance(value, datetime):
        return isoformat(micros(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON cannot represent the value
    return value


def _fields(value: object) -> dict[str, object]:
    kind: type = type(value)
    return {field.name: _field(field.name, getattr(value, field.name)) for field in attrs.fields(kind)}


def _field(name: str, value: object) -> object:
    if name.endswith("_at") and isinstance(value, int):
        return isoformat(value)
    return isoformat(value) if name == "at" and isinstance(value, int) else json_value(value)


def json_text(text: str | None, serializer: str) -> object:
    """Return stored JSON as a value; the string itself if it is not JSON or cannot be written as JSON."""
    if text is None or serializer != "json":
        return text
    try:
        value: object = json.loads(text, parse_constant=_reject_constant)
        json.dumps(value)
    except (ValueError, RecursionError):
        return text
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def job_json(record: JobRecord) -> dict[str, object]:
    """Return a job as a dictionary; arguments and result are decoded if its serializer is JSON.

    An argument that another job supplies is shown as the name of that job's output.
    """
    result = json_text(record.result, record.serializer)
    return {**_fields_with_meta(record), "arguments": shown_arguments(record), "result": result}


def shown_arguments(record: JobRecord) -> object:
    """Return a job's arguments as `json_text` does; outputs of other jobs are shown by name."""
    arguments: Any = json_text(record.arguments, record.serializer)
    return arguments if record.relations is None else with_outputs(arguments, record.relations.inputs)


def recurring_json(record: RecurringRecord) -> dict[str, object]:
    """Return a recurring definition as a dictionary, with its schedule and arguments decoded."""
    arguments = json_text(record.arguments, record.serializer)
    return {
        **_fields_with_meta(record),
        "schedule": json_text(record.schedule, "json"),
        "arguments": arguments,
    }


def _fields_with_meta(record: JobRecord | RecurringRecord) -> dict[str, object]:
    fields = _fields(record)
    del fields["meta_json"], fields["admission_json"]
    admission = None if record.admission_json is None else read_admission(record.admission_json)
    return {**fields, "meta": dict(read_meta(record.meta_json)), "admission": _admission_json(admission)}


def _admission_json(admission: Admission | None) -> dict[str, object] | None:
    """Return the limits, unique key and start deadline of a job.

    Durations are in seconds; the unique key is shown without its task's name.
    """
    if admission is None:
        return None
    unique = None if admission.unique is None else dict(_fields(admission.unique))
    if unique is not None:
        unique["key"] = str(unique["key"]).partition(" ")[2]
        for name in ("at_least", "wait", "max_wait"):
            unique[f"{name}_seconds"] = _seconds(unique.pop(name))
    return {
        "limits": json_value(admission.limits), "unique": unique,
        "start_before": isoformat(admission.start_before),
        "start_within_seconds": _seconds(admission.start_within),
    }  # fmt: skip


def _seconds(duration: object) -> float | None:
    return duration / SECOND if isinstance(duration, int) else None


def server_json(server: ServerView, now: int) -> dict[str, object]:
    """Return a server as a dictionary, with the sessions of its worker processes."""
    return {
        **{name: getattr(server, name) for name in ("id", "name", "host", "queues", "workers", "busy")},
        "is_alive": server.is_alive and any(session.expires_at > now for session in server.sessions),
        "is_lost": server.is_lost,
        "started_at": isoformat(min(session.session.started_at for session in server.sessions)),
        "sessions": json_value(server.sessions),
    }
