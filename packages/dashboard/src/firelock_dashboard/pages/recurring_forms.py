"""One recurring job: what comes, what was, and the forms that edit it or make a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

import attrs

from firelock import (
    ArgumentError,
    ConfigurationError,
    Cron,
    Every,
    JobConflict,
    Misfire,
    Overlap,
    ScheduleError,
    SignatureMismatch,
    UnknownTask,
)
from firelock_dashboard.access import Permission
from firelock_dashboard.pages.recurring import ID_LIMIT, Row, id_in, known, row_of
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.redaction import MASK
from firelock_dashboard.routes import Route
from firelock_dashboard.schedules import Policies, read_schedule, schedule_text, zone_of

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import AuditEntry, RecurringJob, Upcoming
    from firelock_dashboard.payloads import Payload
    from firelock_dashboard.query import Fields
    from firelock_dashboard.visit import Visit

__all__ = ["ROUTES"]

_NEXT, _PREVIEWED, _RUNS = 10, 5, 20
_SCHEDULE, _ZONE, _ARGUMENTS = 1_000, 64, 64 * 1024
_SEARCHED = 100  # newest entries of the audit, for who changed a definition
_TASKS = 1_000
_PRIORITY = 100
_FIELDS = (
    "id", "version", "task", "schedule", "zone", "overlap", "misfire", "queue", "priority", "arguments",
)  # fmt: skip


# ---- one recurring job -----------------------------------------------------------------------------------


@attrs.frozen
class _Instant:
    at: datetime
    here: str  # in the schedule's zone
    note: str | None


def show_one(visit: Visit) -> Response:
    """A definition, when it fires next, how it ran."""
    job = known(visit, id_in(visit.query))
    row = row_of(job)
    return visit.page(
        "recurring_view.html", title=job.id, section="recurring", row=row, record=job.record,
        upcoming=lambda: _upcoming(visit, row), schedule=None if row.words is None else job.schedule,
        runs=lambda: visit.fire.recurring.runs(job.id, limit=_RUNS),
        arguments=visit.arguments(job.record), redacted=visit.redacted,
    )  # fmt: skip


def _upcoming(visit: Visit, row: Row) -> list[_Instant]:
    if row.words is None:
        return []
    return _in_zone(visit.fire.recurring.upcoming(row.job.schedule, _NEXT, after=visit.now), row.zone)


def _in_zone(found: Sequence[Upcoming], zone: str | None) -> list[_Instant]:
    there = ZoneInfo(zone or "UTC")
    return [
        _Instant(one.at, one.at.astimezone(there).strftime("%a %Y-%m-%d %H:%M:%S %Z"), one.note)
        for one in found
    ]


# ---- the form --------------------------------------------------------------------------------------------


def new_form(visit: Visit) -> Response:
    """An empty form for a definition of an operator's own."""
    values = {"zone": "UTC", "overlap": str(Overlap.ALLOW), "misfire": str(Misfire.ONCE)}
    return _form(visit, None, {**values, "task": visit.query.text("task", limit=ID_LIMIT)}, {})


def edit_form(visit: Visit) -> Response:
    """The form with what the definition says now."""
    job = known(visit, id_in(visit.query))
    return _form(visit, job, _values(job, visit.arguments(job.record)), {})


def _values(job: RecurringJob, arguments: Payload) -> dict[str, str]:
    values = {
        "version": str(job.version), "queue": job.queue, "priority": str(job.priority),
        "arguments": arguments.text if _is_whole(arguments) else "",
    }  # fmt: skip
    try:
        schedule = job.schedule
    except ScheduleError:
        return {**values, "schedule": "", "zone": "UTC", "overlap": "allow", "misfire": "once"}
    return {
        **values, "schedule": schedule_text(schedule), "zone": zone_of(schedule) or "",
        "overlap": str(schedule.overlap), "misfire": str(schedule.misfire),
    }  # fmt: skip


def _is_whole(shown: Payload) -> bool:
    """Tell whether what may be shown of the arguments is all of them, so that it can be edited."""
    if shown.is_hidden or shown.is_cut or shown.value is None:
        return False
    return MASK not in shown.text


def _form(
    visit: Visit,
    job: RecurringJob | None,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    status: int = 200,
) -> Response:
    title = (
        visit.text("recurring.create_title") if job is None else visit.text("recurring.edit_title", id=job.id)
    )
    return visit.page(
        "recurring_form.html", title=title, section="recurring", status=status, job=job, values=values,
        errors=errors, zones=_zones(), tasks=[task.name for task in visit.fire.tasks()[:_TASKS]],
        overlaps=[str(one) for one in Overlap], misfires=[str(one) for one in Misfire],
        preview=_previewed(visit, values.get("schedule", ""), values.get("zone", "")),
        keeps_arguments=job is not None and not _is_whole(visit.arguments(job.record)),
    )  # fmt: skip


@cache
def _zones() -> Sequence[str]:
    return sorted(available_timezones() - {"localtime"})


# ---- the preview -----------------------------------------------------------------------------------------


@attrs.frozen
class _Preview:
    words: str | None = None
    instants: Sequence[_Instant] = ()
    error: str | None = None


def preview(visit: Visit) -> Response:
    """What a schedule that is being typed means; what is wrong with it is no error of the request."""
    fields = visit.query
    found = _previewed(visit, fields.text("schedule"), fields.text("zone", limit=_ZONE))
    return visit.page("recurring_preview.html", title="", section="recurring", preview=found)


def _previewed(visit: Visit, text: str, zone: str) -> _Preview:
    if not text:
        return _Preview()
    try:
        schedule = read_schedule(text, zone, Policies(Overlap.ALLOW, Misfire.ONCE))
    except ScheduleError as error:
        return _Preview(error=str(error))
    found = visit.fire.recurring.upcoming(schedule, _PREVIEWED, after=visit.now)
    return _Preview(schedule.describe(), _in_zone(found, zone_of(schedule)))


# ---- what a form sends -----------------------------------------------------------------------------------


@attrs.frozen
class _Sent:
    """A form as it was sent, and what is wrong with it by field."""

    values: Mapping[str, str]
    errors: dict[str, str]
    schedule: Cron | Every | None = None
    arguments: Mapping[str, object] | Sequence[object] | None = None
    priority: int | None = None


def _read(form: Fields, before: Cron | Every | None) -> _Sent:
    overlap = form.one_of("overlap", [str(one) for one in Overlap], "allow")
    misfire = form.one_of("misfire", [str(one) for one in Misfire], "once")
    values = {
        "schedule": form.text("schedule"), "zone": form.text("zone"), "overlap": overlap,
        "misfire": misfire, "queue": form.text("queue", limit=200),
        "priority": form.text("priority", limit=20), "version": form.text("version", limit=20),
        "arguments": form.text("arguments", limit=_ARGUMENTS), "task": form.text("task", limit=ID_LIMIT),
        "id": form.every("id", limit=1)[0] if "id" in form else "",
    }  # fmt: skip
    errors: dict[str, str] = {}
    schedule = arguments = priority = None
    try:
        schedule = read_schedule(values["schedule"], values["zone"], Policies(overlap, misfire), before)
    except ScheduleError as error:
        errors["zone" if "time zone" in str(error) else "schedule"] = str(error)
    try:
        arguments = _arguments(values["arguments"])
    except BadRequest as error:
        errors["arguments"] = str(error)
    try:
        priority = (
            form.number("priority", 0, least=-_PRIORITY, most=_PRIORITY) if values["priority"] else None
        )
    except BadRequest as error:
        errors["priority"] = str(error)
    return _Sent(values, errors, schedule, arguments, priority)


def _arguments(text: str) -> Mapping[str, object] | Sequence[object] | None:
    """Return the arguments; None for an empty text."""
    if not text:
        return None
    if MASK in text:
        raise BadRequest(
            f"arguments hold {MASK}, which stands for what is not shown; write the value itself."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"arguments are no JSON: {error}.") from error
    if not isinstance(value, dict | list):
        raise BadRequest('arguments are neither an object nor a list; write {"day": "mon"} or ["mon"].')
    return value


def _error_of(error: Exception) -> dict[str, str]:
    """Return what the core refused, by the field that it is about."""
    if isinstance(error, ArgumentError | SignatureMismatch):
        return {"arguments": str(error)}
    text = str(error)
    if isinstance(error, UnknownTask):
        return {"task" if "create it where" in text else "arguments": text}
    places = (("Queue name", "queue"), ("priority", "priority"), ("Recurring id", "id"))
    return {next((field for mark, field in places if mark in text), "schedule"): text}


def edit(visit: Visit) -> Response:
    """The definition is as the form says, if nobody changed it since the form was made."""
    recurring_id = id_in(visit.form)
    version = visit.form.number("version", -1, least=-1, most=999_999_999)
    job = known(visit, recurring_id)
    if version < 0:
        raise BadRequest("version is missing; open the form again.")
    sent = _read(visit.form, _schedule_or_none(job))
    if sent.errors:
        return _form(visit, job, sent.values, sent.errors, status=400)
    try:
        after = visit.fire.recurring.edit(
            recurring_id, schedule=sent.schedule, arguments=sent.arguments, priority=sent.priority,
            queue=sent.values["queue"] or None, by=visit.who, expected_version=version,
        )  # fmt: skip
    except JobConflict as error:
        if job.record.newer is not None:
            raise BadRequest(str(error)) from error
        return _conflict(visit, recurring_id, sent)
    except (ArgumentError, SignatureMismatch, UnknownTask, ConfigurationError, ScheduleError) as error:
        return _form(visit, job, sent.values, _error_of(error), status=400)
    if after.version == version:
        return visit.done(visit.text("recurring.unchanged", id=recurring_id), to="/recurring", kind="note")
    visit.audit("recurring.edit", recurring_id, version=after.version, before=version, schedule=_told(after))
    return visit.done(visit.text("recurring.edited", id=recurring_id), to="/recurring")


def _schedule_or_none(job: RecurringJob) -> Cron | Every | None:
    try:
        return job.schedule
    except ScheduleError:
        return None


def _told(job: RecurringJob) -> str:
    row = row_of(job)
    return f"{row.written or ''} {row.zone or ''}".strip()


def _conflict(visit: Visit, recurring_id: str, sent: _Sent) -> Response:
    """The form as it was sent, with who was quicker; sent again, it changes what they made."""
    job = known(visit, recurring_id)
    entry = _changed_by(visit, recurring_id)
    at = visit.text("recurring.conflict_at", at=_stamp(job))
    who = visit.text("recurring.conflict_by", who=entry.by) if entry else ""
    message = visit.text("recurring.conflict", what=_told(job), at=at, who=who)
    values = {**sent.values, "version": str(job.version)}
    return _form(visit, job, values, {"": message}, status=409)


def _stamp(job: RecurringJob) -> str:
    return datetime.fromtimestamp(job.record.updated_at / 1_000_000, ZoneInfo("UTC")).strftime(
        "%Y-%m-%d %H:%M:%S UTC"
    )


def _changed_by(visit: Visit, recurring_id: str) -> AuditEntry | None:
    """Return the newest entry of the audit about a change of the definition; None for code, or long ago."""
    return next(
        (
            entry
            for entry in visit.fire.audit.list(limit=_SEARCHED)
            if entry.target == recurring_id
            and entry.action.startswith("recurring.")
            and entry.action != "recurring.trigger"
        ),
        None,
    )


def create(visit: Visit) -> Response:
    """A definition of an operator's own is stored."""
    sent = _read(visit.form, None)
    if not sent.values["id"]:
        sent.errors["id"] = visit.text("recurring.no_id")
    if not sent.values["task"]:
        sent.errors["task"] = visit.text("recurring.no_task")
    if sent.errors or sent.schedule is None:
        return _form(visit, None, sent.values, sent.errors, status=400)
    recurring_id = sent.values["id"]
    try:
        job = visit.fire.recurring.create(
            sent.values["task"], recurring_id, sent.schedule, sent.arguments or {},
            queue=sent.values["queue"] or None, priority=sent.priority, by=visit.who,
        )  # fmt: skip
    except JobConflict as error:
        return _form(visit, None, sent.values, {"id": str(error)}, status=409)
    except (ArgumentError, SignatureMismatch, UnknownTask, ConfigurationError, ScheduleError) as error:
        return _form(visit, None, sent.values, _error_of(error), status=400)
    visit.audit("recurring.create", recurring_id, task=job.task, schedule=_told(job))
    return visit.done(visit.text("recurring.created", id=recurring_id), to="/recurring")


ROUTES = (
    Route("GET", "/recurring/view", Permission.READ, show_one, ("id",)),
    Route("GET", "/recurring/new", Permission.EDIT_RECURRING, new_form, ("task",)),
    Route("GET", "/recurring/edit", Permission.EDIT_RECURRING, edit_form, ("id",)),
    Route("GET", "/recurring/preview", Permission.READ, preview, _FIELDS),
    Route("POST", "/recurring/create", Permission.EDIT_RECURRING, create, form=_FIELDS),
    Route("POST", "/recurring/edit", Permission.EDIT_RECURRING, edit, form=_FIELDS),
)
