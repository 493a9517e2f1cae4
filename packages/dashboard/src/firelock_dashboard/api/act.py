"""What programs may do; each answer tells what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from firelock import ArgumentError, ConfigurationError, TaskError
from firelock_dashboard.actions import (
    ORDERS,
    SIGNAL_LIMIT,
    cancel,
    change_jobs,
    refusing,
    send_signal,
    server_of,
    set_pause,
    start_operation,
    tell_server,
)
from firelock_dashboard.api import shapes
from firelock_dashboard.api.read import FILTERS, filter_of
from firelock_dashboard.pages.failures import mute_cause, unmute_cause
from firelock_dashboard.pages.tasks import make_job
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.routes import ApiParameter, Route
from firelock_dashboard.security.permissions import Permission

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock.storage import Applied
    from firelock_dashboard.request import Visit

__all__ = ["ROUTES"]

_MOST_IDS = 500
_IDS = ApiParameter("id", "The jobs' ids, at most 500.", "array", is_required=True)
_RECURRING = ApiParameter("id", "The definition's id.", is_required=True)
_CAUSE = ApiParameter("fingerprint", "Which cause.", is_required=True)
_QUEUE = ApiParameter("queue", "Its name.", is_required=True)


# ---- jobs ------------------------------------------------------------------------------------------------


def _given_ids(visit: Visit) -> list[str]:
    ids = visit.form.every("id", limit=_MOST_IDS)
    if not ids:
        raise BadRequest("id is missing; give one or more ids of jobs.")
    return ids


def _answer(visit: Visit, verb: str, ids: Sequence[str], results: Sequence[Applied]) -> Response:
    changed = sum(result.is_applied for result in results)
    visit.audit(f"job.{verb}", f"{changed} jobs", ids=list(ids[:10]), skipped=len(ids) - changed)
    return visit.json({"changed": changed, "results": dict(zip(ids, results, strict=True))})


def _change_jobs(verb: str, permission: Permission, summary: str) -> Route:
    def change(visit: Visit) -> Response:
        ids = _given_ids(visit)
        return _answer(visit, verb, ids, change_jobs(visit, verb, ids))

    return _post(f"/jobs/{verb}", permission, change, summary, _IDS)


def reschedule_jobs(visit: Visit) -> Response:
    ids = _given_ids(visit)
    when: Any = visit.form.span("in") or visit.form.moment("at")
    if when is None:
        raise BadRequest("in and at are missing; give a span as 15m, or an instant.")
    results = visit.fire.jobs.reschedule(ids, when)
    return _answer(visit, "reschedule", ids, results)


def copy_job(visit: Visit) -> Response:
    job_id = visit.form.required("id")
    job = visit.fire.jobs.copy(job_id)
    visit.audit("job.copy", job_id, copy=job.id)
    return visit.json({"id": job.id}, 201)


def answer_signal(visit: Visit) -> Response:
    """The value is JSON, of the signal's type."""
    job_id, name = visit.form.required("job"), visit.form.required("signal", limit=200)
    value, is_early = visit.form.required("value", limit=SIGNAL_LIMIT), visit.form.flag("early")
    is_first = send_signal(visit, job_id, name, value, is_early=is_early)
    return visit.json({"job": job_id, "signal": name, "is_first": is_first})


def begin_operation(visit: Visit) -> Response:
    verb = visit.form.one_of("verb", ("requeue", "delete"), "")
    visit.form.check_filled([*(one.name for one in FILTERS), "argument", "error"])
    visit.require(Permission.DELETE if verb == "delete" else Permission.REQUEUE)
    contains = {name: text for name in ("argument", "error") if (text := visit.form.maybe(name))}
    if "argument" in contains:  # how many match would tell what the arguments are
        visit.require(Permission.VIEW_ARGUMENTS)
    where = filter_of(visit.form)
    if verb == "requeue" and where.state is None and not where.is_retrying:
        raise BadRequest(visit.text("jobs.all_needs_state"))
    operation = start_operation(visit, verb, where, contains=contains)
    return visit.json(shapes.operation_json(operation), 202)


def cancel_operation(visit: Visit) -> Response:
    return visit.json(shapes.operation_json(cancel(visit, visit.places["id"])))


# ---- failures --------------------------------------------------------------------------------------------


def mute_failures(visit: Visit) -> Response:
    fingerprint = visit.form.required("fingerprint")
    cause = mute_cause(visit, fingerprint, visit.form.span("for"), visit.form.maybe("note", limit=500))
    if cause is None:
        raise NotHere(visit.text("failures.unknown"))
    return visit.json({"fingerprint": fingerprint})


def unmute_failures(visit: Visit) -> Response:
    fingerprint = visit.form.required("fingerprint")
    return visit.json({"changed": unmute_cause(visit, fingerprint)})


# ---- queues, recurring, servers, tasks ---------------------------------------------------------------------


def _change_queue(verb: str, summary: str, *parameters: ApiParameter) -> Route:
    def change(visit: Visit) -> Response:
        name, is_paused = visit.form.required("queue"), verb == "pause"
        set_pause(visit, name, visit.form.maybe("note", limit=500), is_paused=is_paused)
        return visit.json({"queue": name, "is_paused": is_paused})

    return _post(f"/queues/{verb}", Permission.PAUSE_QUEUE, change, summary, _QUEUE, *parameters)


def _change_recurring(
    verb: str, permission: Permission, summary: str, told: Callable[[Any], dict[str, object]]
) -> Route:
    def change(visit: Visit) -> Response:
        recurring_id = visit.form.required("id")
        made = getattr(visit.fire.recurring, verb)(recurring_id)
        visit.audit(f"recurring.{verb}", recurring_id)
        return visit.json({"id": recurring_id, **told(made)}, 201 if verb == "trigger" else 200)

    return _post(f"/recurring/{verb}", permission, change, summary, _RECURRING)


def order_server(visit: Visit) -> Response:
    order, server = visit.form.one_of("order", ORDERS, ""), server_of(visit)
    tell_server(visit, server, order)
    return visit.json({"server": server.id, "order": order})


def run_task(visit: Visit) -> Response:
    """Fields `args.NAME` are the arguments, as a form's texts."""
    name = visit.form.required("task")
    if visit.fire.task_named(name) is None:
        raise NotHere(f"Task {name!r} is not registered in this process.")
    with refusing(ArgumentError, ConfigurationError, TaskError):
        return visit.json({"id": make_job(visit, name).id}, 201)


def _post(
    path: str,
    permission: Permission,
    view: Callable[[Visit], Response],
    summary: str,
    *parameters: ApiParameter,
) -> Route:
    return Route("POST", f"/api{path}", permission, view, is_api=True, summary=summary, parameters=parameters)


ROUTES = (
    _change_jobs(
        "requeue", Permission.REQUEUE, "Jobs that are neither enqueued nor processing are enqueued."
    ),
    _change_jobs(
        "delete",
        Permission.DELETE,
        "Jobs are deleted; running ones are told to stop.",
    ),
    _change_jobs(
        "restore",
        Permission.DELETE,
        "Deletes are taken back where nothing was lost by them; others are refused.",
    ),
    _post(
        "/jobs/reschedule",
        Permission.REQUEUE,
        reschedule_jobs,
        "Scheduled jobs become due at another instant.",
        _IDS,
        ApiParameter("in", "A span from now, such as 90s, 15m, 2h, 3d."),
        ApiParameter("at", "An instant.", "date-time"),
    ),
    _post(
        "/jobs/copy",
        Permission.REQUEUE,
        copy_job,
        "A new job like this one is enqueued.",
        ApiParameter("id", "The job's id.", is_required=True),
    ),
    _post(
        "/signals/send",
        Permission.RUN_TASK,
        answer_signal,
        "A job's signal is answered, if nobody was first.",
        ApiParameter("job", "The job's id.", is_required=True),
        ApiParameter("signal", "Its name, with its key where it has one.", is_required=True),
        ApiParameter("value", "JSON of the signal's type.", is_required=True),
        ApiParameter("early", "true: also where the job waits for another signal now.", "boolean"),
    ),
    _post(
        "/operations",
        Permission.READ,
        begin_operation,
        "Everything that matches is requeued or deleted, in the background; needs that permission.",
        ApiParameter("verb", "What to do.", choices=("requeue", "delete"), is_required=True),
        *FILTERS,
        ApiParameter("argument", "A text that the stored arguments hold."),
        ApiParameter("error", "A text that the last error's type or message holds."),
    ),
    _post(
        "/operations/{id}/cancel",
        Permission.READ,
        cancel_operation,
        "The operation ends with the chunk that is under way; needs the permission of its verb.",
    ),
    _post(
        "/failures/mute",
        Permission.REQUEUE,
        mute_failures,
        "The cause is listed apart and in no banner.",
        _CAUSE,
        ApiParameter("for", "A span such as 2h, 7d; where left out until it is unmuted."),
        ApiParameter("note", "Why, for people."),
    ),
    _post(
        "/failures/unmute",
        Permission.REQUEUE,
        unmute_failures,
        "The cause is told of again.",
        _CAUSE,
    ),
    _change_queue(
        "pause", "No job of the queue is claimed any more.", ApiParameter("note", "Why, for people.")
    ),
    _change_queue("resume", "Jobs of the queue are claimed again."),
    _change_recurring(
        "trigger",
        Permission.TRIGGER,
        "A job of the definition is enqueued now.",
        lambda job: {"job": job.id},
    ),
    _change_recurring(
        "pause", Permission.TRIGGER, "It does not run until it is resumed.", lambda _: {"is_paused": True}
    ),
    _change_recurring(
        "resume", Permission.TRIGGER, "It runs again from its next instant.", lambda _: {"is_paused": False}
    ),
    _change_recurring(
        "remove", Permission.EDIT_RECURRING, "The definition is gone.", lambda _: {"is_removed": True}
    ),
    _post(
        "/servers/tell",
        Permission.STOP_SERVER,
        order_server,
        "Within a heartbeat the server does as told.",
        ApiParameter("server", "Its id.", is_required=True),
        ApiParameter("order", "What to do.", choices=ORDERS, is_required=True),
    ),
    _post(
        "/tasks/run",
        Permission.RUN_TASK,
        run_task,
        "A job of the task is enqueued.",
        ApiParameter("task", "Its name.", is_required=True),
        ApiParameter("args.NAME", "The argument NAME as text: dates as ISO, structures as JSON."),
        ApiParameter("queue", "Instead of the task's."),
        ApiParameter("delay", "Run this much later, such as 15m."),
    ),
)
