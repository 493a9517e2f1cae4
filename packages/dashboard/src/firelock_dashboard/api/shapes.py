"""Values of the core as JSON: instants as ISO texts in UTC, arguments as the visitor may see them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from firelock_dashboard.formatting import iso

if TYPE_CHECKING:
    from firelock import AuditEntry, Operation, Outcome, RecurringJob
    from firelock.storage import ErrorInfo, FailureGroup, HistoryEntry, JobRecord, Rollup
    from firelock_dashboard.request import Visit
    from firelock_dashboard.stats.causes import Cause

__all__ = [
    "audit_json",
    "error_json",
    "failure_json",
    "history_json",
    "job_json",
    "operation_json",
    "recurring_json",
    "rollup_json",
    "server_json",
]

_MICROS = 1_000_000


def _at(instant: Any) -> str | None:  # noqa: ANN401 - micros or a datetime
    return iso(instant) or None


def job_json(visit: Visit, job: JobRecord, *, is_whole: bool = False) -> dict[str, Any]:
    """Return a job; whole with its result and what only one job's page shows."""
    arguments = visit.arguments(job, limit=None)
    shown: dict[str, Any] = {
        "id": job.id,
        "task": job.task,
        "state": str(job.state),
        "is_retrying": job.is_retrying,
        "reason": None if job.reason is None else visit.redacted(job.reason),
        "queue": job.queue,
        "priority": job.priority,
        "tags": list(job.tags),
        "arguments": arguments.value,
        "arguments_absent": arguments.reason,  # why they are null, where they are
        "attempt": job.attempt,
        "retries": job.retries,
        "created_at": _at(job.created_at),
        "due_at": _at(job.due_at),
        "enqueued_at": _at(job.enqueued_at),
        "started_at": _at(job.started_at),
        "ended_at": _at(job.ended_at),
        "changed_at": _at(job.changed_at),
        "server": job.server,
        "recurring": job.recurring_id,
        "error": error_json(visit, job.error) if job.error else None,
    }
    if is_whole:
        result = None if job.result is None else visit.result(job, limit=None)
        shown |= {
            "crashes": job.crashes,
            "claimed_at": _at(job.claimed_at),
            "nominal_at": _at(job.nominal_at),
            "expires_at": _at(job.expires_at),
            "timeout_seconds": job.timeout_seconds,
            "serializer": job.serializer,
            "is_stopping": job.is_stopping,
            "parents": [{"id": edge.parent_id, "on": str(edge.on)} for edge in job.parents],
            "result": None if result is None else result.value,
            "result_absent": job.result_absent if result is None else result.reason,
        }
    return shown


def error_json(visit: Visit, error: ErrorInfo) -> dict[str, Any]:
    """Return how a job failed, without its traceback."""
    return {"type": error.type, "message": visit.redacted(error.message), "fingerprint": error.fingerprint}


def history_json(visit: Visit, entry: HistoryEntry) -> dict[str, Any]:
    """Return a step of a job's life."""
    return attrs.asdict(entry) | {
        "reason": None if entry.reason is None else visit.redacted(entry.reason),
        "state": str(entry.state), "at": _at(entry.at), "claimed_at": _at(entry.claimed_at),
        "started_at": _at(entry.started_at),
    }  # fmt: skip


def recurring_json(recurring: RecurringJob) -> dict[str, Any]:
    """Return a recurring definition."""
    record = recurring.record
    return {
        "id": record.id,
        "task": record.task,
        "schedule": _loaded(record.schedule),
        "queue": record.queue,
        "priority": record.priority,
        "tags": list(record.tags),
        "is_paused": record.is_paused,
        "origin": record.origin,
        "next_at": _at(record.next_at),
        "last_at": _at(record.last_at),
        "last_job_id": record.last_job_id,
        "dropped": record.dropped,
        "error": recurring.error,
        "version": record.version,
    }


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def server_json(server: Any, processing: Mapping[str, int]) -> dict[str, Any]:  # noqa: ANN401 - a ServerView
    """Return a server with its sessions; `processing` counts jobs by session."""
    return {
        "id": server.id,
        "name": server.name,
        "host": server.host,
        "queues": server.queues,
        "workers": server.workers,
        "busy": server.busy,
        "is_alive": server.is_alive,
        "is_lost": server.is_lost,
        "started_at": _at(server.started_at),
        "sessions": [
            {
                "id": one.session.id,
                "pid": one.session.pid,
                "version": one.session.version,
                "is_alive": one.is_alive,
                "expires_at": _at(one.expires_at),
                "processing": processing.get(one.session.id, 0),
                **{name: value for name, value in attrs.asdict(one.renewal).items() if name != "session"},
            }
            for one in server.sessions
        ],
    }


def failure_json(visit: Visit, group: FailureGroup, cause: Cause | None) -> dict[str, Any]:
    """Return a group of failures, with what is known of its cause."""
    mute = cause.mute if cause else None
    return attrs.asdict(group) | {
        "newest_at": _at(group.newest_at), "message": visit.redacted(group.message),
        "first_at": _at(cause.first_at) if cause else None,
        "hours": list(cause.hours) if cause else None,
        "is_new": cause.is_new(visit.now) if cause else None,
        "mute": None if mute is None else {
            "by": mute.by, "at": _at(mute.at), "note": mute.note, "until": _at(mute.until),
        },
    }  # fmt: skip


def rollup_json(rollup: Rollup) -> dict[str, Any]:
    """Return what ended within a minute."""
    shown = attrs.asdict(rollup) | {"minute": _at(rollup.minute), "histogram": list(rollup.histogram)}
    shown["duration_seconds"] = shown.pop("duration") / _MICROS
    return shown


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    states = {str(state): number for state, number in outcome.by_state.items()}
    return {"looked_at": outcome.looked_at, "by_state": states, "missing": outcome.missing}


def operation_json(operation: Operation) -> dict[str, Any]:
    """Return an operation as far as it has come."""
    shown = attrs.asdict(operation)
    del shown["fence"], shown["cursor"]
    return shown | {
        "verb": str(operation.verb), "state": str(operation.state), "started_at": _at(operation.started_at),
        "updated_at": _at(operation.updated_at), "ended_at": _at(operation.ended_at),
        "where": {
            name: _at(value) if name in {"since", "until"} else value
            for name, value in attrs.asdict(operation.where).items() if value is not None
        },
        "outcome": None if operation.outcome is None else _outcome_json(operation.outcome),
        "contains": dict(operation.contains), "first_ids": list(operation.first_ids),
    }  # fmt: skip


def audit_json(entry: AuditEntry) -> dict[str, Any]:
    """Return what somebody did."""
    return attrs.asdict(entry) | {"at": _at(entry.at), "detail": dict(entry.detail or {})}
