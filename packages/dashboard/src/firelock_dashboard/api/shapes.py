"""The conversion of the core's values to JSON.

Times are ISO 8601 strings in UTC. Arguments are included only if the visitor may see them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from firelock.storage import MemoKind
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.formatting import iso, job_name

if TYPE_CHECKING:
    from firelock import AuditEntry, DeepBatchCounts, Operation, RecurringJob
    from firelock.storage import (
        BatchCounts,
        ErrorInfo,
        FailureGroup,
        HistoryEntry,
        JobRecord,
        Memo,
        Rollup,
    )
    from firelock_dashboard.stats.causes import Cause
    from firelock_dashboard.web.request import Visit

_MICROS = 1_000_000


def _at(time: Any) -> str | None:  # noqa: ANN401 - micros or a datetime
    return iso(time) or None


def _fields_of(value: object, *names: str) -> dict[str, Any]:
    """Return the named attributes of a value, by default all fields, with times as ISO 8601 strings.

    An attribute is a time if its name is `at` or ends in `_at`.
    """
    names = names or tuple(field.name for field in attrs.fields(type(value)))  # type: ignore[arg-type]
    return {
        name: _at(one) if name == "at" or name.endswith("_at") else one
        for name, one in ((name, getattr(value, name)) for name in names)
    }


def job_json(visit: Visit, job: JobRecord, *, is_whole: bool = False) -> dict[str, Any]:
    """Return a job; `is_whole` adds the result and the fields that only the page of one job shows."""
    arguments = visit.arguments(job, limit=None)
    shown = _fields_of(
        job, "id", "task", "state", "is_retrying", "queue", "priority", "tags", "attempt", "retries",
        "created_at", "due_at", "enqueued_at", "started_at", "ended_at", "changed_at", "server",
    ) | {
        "reason": None if job.reason is None else visit.redacted(job.reason),
        "arguments": arguments.value,
        "arguments_absent": arguments.reason,  # the reason if the arguments are null
        "recurring": job.recurring_id,
        "batch": job.relations.batch_id if job.relations else None,
        "waits_for": job.waits_for,
        "error": error_json(visit, job.error) if job.error else None,
    }  # fmt: skip
    if is_whole:
        result = None if job.result is None else visit.result(job, limit=None)
        shown |= _fields_of(
            job, "crashes", "claimed_at", "nominal_at", "expires_at", "timeout_seconds", "serializer",
            "is_stopping", "session",
        ) | {
            "meta": visit.meta(job),
            "parents": [{"id": edge.parent_id, "on": edge.on} for edge in job.parents],
            "caller": job.relations.caller_id if job.relations else None,
            "result": None if result is None else result.value,
            "result_absent": job.result_absent if result is None else result.reason,
        }  # fmt: skip
    return shown


def memo_json(visit: Visit, memo: Memo) -> dict[str, Any]:
    """Return a memo of a job, with its value if the visitor may see it.

    A sleep, or a signal that was not sent yet, has no value; its `until` is the time when the wait ends.
    """
    is_wait = memo.kind is MemoKind.SLEEP or (memo.kind is MemoKind.SIGNAL and not memo.is_done)
    until = _at(int(memo.value)) if is_wait and memo.value and memo.value.isdecimal() else None
    may_see = visit.may(Permission.VIEW_ARGUMENTS) and memo.value is not None and until is None
    value = visit.redacted(memo.value) if may_see and memo.value is not None else None
    return _fields_of(memo, "kind", "name", "is_done", "at", "started_at", "attempt", "author") | {
        "until": until, "value": value,
    }  # fmt: skip


def batch_json(job: JobRecord, counts: BatchCounts, within: DeepBatchCounts | None) -> dict[str, Any]:
    """Return a batch with the progress of its own members and, in `within`, that of nested batches."""
    return _fields_of(job, "id", "state", "tags", "created_at", "ended_at", "due_at") | {
        "name": job_name(job), "batch": job.relations.batch_id if job.relations else None,
        "progress": round(counts.progress, 6), **_fields_of(counts),
        "within": None if within is None else {"progress": round(within.progress, 6), **_fields_of(within)},
    }  # fmt: skip


def error_json(visit: Visit, error: ErrorInfo) -> dict[str, Any]:
    """Return the error of a failed job, without its traceback."""
    return {"type": error.type, "message": visit.redacted(error.message), "fingerprint": error.fingerprint}


def history_json(visit: Visit, entry: HistoryEntry) -> dict[str, Any]:
    """Return an entry of a job's history."""
    return _fields_of(entry) | {"reason": None if entry.reason is None else visit.redacted(entry.reason)}


def recurring_json(recurring: RecurringJob) -> dict[str, Any]:
    """Return a recurring definition."""
    record = recurring.record
    return _fields_of(
        record, "id", "task", "queue", "priority", "tags", "is_paused", "origin", "next_at", "last_at",
        "last_job_id", "dropped", "version",
    ) | {"schedule": _loaded(record.schedule), "error": recurring.error}  # fmt: skip


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def server_json(server: Any, processing: Mapping[str, int]) -> dict[str, Any]:  # noqa: ANN401 - a ServerView
    """Return a server with its sessions; `processing` has the number of jobs by session."""
    names = ("id", "name", "host", "queues", "workers", "busy", "is_alive", "is_lost", "started_at")
    sessions = [
        _fields_of(one, "is_alive", "is_closing", "expires_at") | _fields_of(one.renewal)
        | _fields_of(one.session, "id", "pid", "version")
        | {"processing": processing.get(one.session.id, 0)}
        for one in server.sessions
    ]  # fmt: skip
    for session in sessions:
        del session["session"]
    return _fields_of(server, *names) | {"sessions": sessions}


def failure_json(visit: Visit, group: FailureGroup, cause: Cause | None) -> dict[str, Any]:
    """Return a group of failures, with the known facts about its cause."""
    return _fields_of(group) | {
        "message": visit.redacted(group.message),
        "first_at": _at(cause.first_at) if cause else None,
        "hours": cause.hours if cause else None,
        "is_new": cause.is_new(visit.now) if cause else None,
        "mute": _fields_of(cause.mute) | {"until": _at(cause.mute.until)} if cause and cause.mute else None,
    }


def rollup_json(rollup: Rollup) -> dict[str, Any]:
    """Return the attempts that ended within a minute."""
    shown = _fields_of(rollup) | {"minute": _at(rollup.minute)}
    shown["duration_seconds"] = shown.pop("duration") / _MICROS
    return shown


def operation_json(operation: Operation) -> dict[str, Any]:
    """Return an operation with its progress."""
    shown, outcome = _fields_of(operation), operation.outcome
    del shown["fence"], shown["cursor"], shown["more"]
    where = {name: value for name, value in attrs.asdict(operation.where).items() if value is not None}
    return shown | {
        "where": where | {name: _at(where[name]) for name in ("since", "until") if name in where},
        "outcome": outcome and _fields_of(outcome, "checked", "missing") | {
            "checked": outcome.checked, "by_state": dict(outcome.by_state),
        },
        "contains": dict(operation.contains),
    }  # fmt: skip


def audit_json(entry: AuditEntry, *, has_answers: bool) -> dict[str, Any]:
    """Return an entry of the audit; only visitors who may see arguments get the answers to signals."""
    hidden = frozenset() if has_answers else {"answer"}
    detail = {name: value for name, value in (entry.detail or {}).items() if name not in hidden}
    return _fields_of(entry) | {"detail": detail}
