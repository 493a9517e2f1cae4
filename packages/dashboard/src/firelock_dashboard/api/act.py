"""The routes of the API that change data; each response reports the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from firelock import ArgumentError, ConfigurationError, TaskError
from firelock.storage import JobFilter
from firelock_dashboard.api import shapes
from firelock_dashboard.api.read import FILTERS, filter_of
from firelock_dashboard.pages.failures import FINGERPRINT, mute_cause, unmute_cause
from firelock_dashboard.pages.recurring import RECURRING_ID
from firelock_dashboard.pages.tasks import ARGUMENTS, DELAY, JOB_QUEUE, PRIORITY, make_job
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import (
    NOTE,
    ORDER,
    QUEUE,
    SERVER,
    SESSION,
    SIGNAL_VALUE,
    TO_PRIORITY,
    TO_QUEUE,
    cancel,
    change_jobs,
    end_process,
    move_jobs,
    move_target,
    refusing,
    send_order,
    send_signal,
    server_of,
    set_pause,
    start_operation,
)
from firelock_dashboard.web.fields import Choice, Field, Flag, Moment, Span, Text, Texts
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock.storage import Applied
    from firelock_dashboard.web.request import Visit

__all__ = ["ROUTES"]

_MOST_IDS = 500
_IDS = Texts("id", "The jobs' ids.", is_required=True, most=_MOST_IDS)
_IN = Span("in", "A duration from now, such as 90s, 15m, 2h, 3d.")
_AT = Moment("at", "The new due time.")
_JOB_ID = Text("id", "The job's id.", is_required=True)
_SIGNALED = Text("job", "The job's id.", is_required=True)
_SIGNAL = Text("signal", "The signal's name, with its key if it has one.", is_required=True)
_EARLY = Flag("early", "true: send the signal even if the job does not wait for it yet.", default=False)
_VERB = Choice("verb", "The action.", choices=("requeue", "delete", "move"), is_required=True)
_ARGUMENT = Text("argument", "A string that the stored arguments contain.")
_ERROR = Text("error", "A string that the last error's type or message contains.")
_FOR = Span("for", "The duration of the mute, such as 2h or 7d. Default: until the cause is unmuted.")
_TASK = Text("task", "The task's name.", is_required=True)


# ---- jobs ------------------------------------------------------------------------------------------------


def _given_ids(visit: Visit) -> list[str]:
    return visit.form.value(_IDS)


def _answer(visit: Visit, verb: str, ids: Sequence[str], results: Sequence[Applied]) -> Response:
    changed = sum(result.is_applied for result in results)
    visit.audit(
        f"job.{verb}", visit.text("jobs.count", count=changed), ids=list(ids[:10]), skipped=len(ids) - changed
    )
    return visit.json({"changed": changed, "results": dict(zip(ids, results, strict=True))})


def _change_jobs(verb: str, permission: Permission, summary: str) -> Route:
    def change(visit: Visit) -> Response:
        ids = _given_ids(visit)
        return _answer(visit, verb, ids, change_jobs(visit, verb, ids))

    return _post(f"/jobs/{verb}", permission, change, summary, _IDS)


def reschedule_jobs(visit: Visit) -> Response:
    ids = _given_ids(visit)
    span, at = visit.form.maybe(_IN), visit.form.maybe(_AT)
    if (span is None) is (at is None):
        raise BadRequest(
            "Exactly one of in and at is required; set in to a duration such as 15m, or at to a time."
        )
    when: Any = at if span is None else span
    results = visit.fire.jobs.reschedule(ids, when)
    return _answer(visit, "reschedule", ids, results)


def move_chosen(visit: Visit) -> Response:
    ids, target = _given_ids(visit), move_target(visit.form)
    return _answer(visit, "move", ids, move_jobs(visit, ids, target))


def copy_job(visit: Visit) -> Response:
    job_id = visit.form.value(_JOB_ID)
    job = visit.fire.jobs.copy(job_id)
    visit.audit("job.copy", job_id, copy=job.id)
    return visit.json({"id": job.id}, 201)


def answer_signal(visit: Visit) -> Response:
    """Send a signal whose value is JSON of the signal's type."""
    job_id, name = visit.form.value(_SIGNALED), visit.form.value(_SIGNAL)
    value, is_early = visit.form.value(SIGNAL_VALUE), visit.form.value(_EARLY)
    is_first = send_signal(visit, job_id, name, value, is_early=is_early)
    return visit.json({"job": job_id, "signal": name, "is_first": is_first})


def begin_operation(visit: Visit) -> Response:
    verb = visit.form.value(_VERB)
    visit.require(Permission.DELETE if verb == "delete" else Permission.REQUEUE)
    contains = {field.name: text for field in (_ARGUMENT, _ERROR) if (text := visit.form.maybe(field))}
    if "argument" in contains:  # the number of matches would reveal the arguments
        visit.require(Permission.VIEW_ARGUMENTS)
    where = filter_of(visit.form)
    if verb == "requeue" and where.state is None and not where.is_retrying:
        raise BadRequest(visit.text("jobs.all_needs_state"))
    target = move_target(visit.form) if verb == "move" else {}
    named = (visit.form.maybe(TO_QUEUE), visit.form.maybe(TO_PRIORITY))
    if verb != "move" and named != (None, None):
        raise BadRequest(f"to_queue and to_priority are only for verb=move, got verb={verb}; remove them.")
    if where == JobFilter(is_retrying=False) and not contains:
        raise BadRequest("retrying=false alone matches nearly every job; add another filter.")
    operation = start_operation(visit, verb, where, contains=contains, to=target)
    return visit.json(shapes.operation_json(operation), 202)


def cancel_operation(visit: Visit) -> Response:
    return visit.json(shapes.operation_json(cancel(visit, visit.places["id"])))


# ---- failures --------------------------------------------------------------------------------------------


def mute_failures(visit: Visit) -> Response:
    fingerprint = visit.form.value(FINGERPRINT)
    cause = mute_cause(visit, fingerprint, visit.form.maybe(_FOR), visit.form.maybe(NOTE))
    if cause is None:
        raise NotHere(visit.text("failures.unknown"))
    return visit.json({"fingerprint": fingerprint})


def unmute_failures(visit: Visit) -> Response:
    fingerprint = visit.form.value(FINGERPRINT)
    return visit.json({"changed": unmute_cause(visit, fingerprint)})


# ---- queues, recurring, servers, tasks ---------------------------------------------------------------------


def _change_queue(verb: str, summary: str, *parameters: Field[Any]) -> Route:
    def change(visit: Visit) -> Response:
        name, is_paused = visit.form.value(QUEUE), verb == "pause"
        set_pause(visit, name, visit.form.maybe(NOTE) if is_paused else None, is_paused=is_paused)
        return visit.json({"queue": name, "is_paused": is_paused})

    return _post(f"/queues/{verb}", Permission.PAUSE_QUEUE, change, summary, QUEUE, *parameters)


def _change_recurring(
    verb: str, permission: Permission, summary: str, fields_of: Callable[[Any], dict[str, object]]
) -> Route:
    def change(visit: Visit) -> Response:
        recurring_id = visit.form.value(RECURRING_ID)
        result = getattr(visit.fire.recurring, verb)(recurring_id)
        visit.audit(f"recurring.{verb}", recurring_id)
        return visit.json({"id": recurring_id, **fields_of(result)}, 201 if verb == "trigger" else 200)

    return _post(f"/recurring/{verb}", permission, change, summary, RECURRING_ID)


def order_server(visit: Visit) -> Response:
    order, server = visit.form.value(ORDER), server_of(visit)
    send_order(visit, server, order)
    return visit.json({"server": server.id, "order": order})


def end_worker_process(visit: Visit) -> Response:
    ended = end_process(visit, visit.form.value(SESSION)).session
    return visit.json({"session": ended.id, "server": ended.server_id, "pid": ended.pid})


def run_task(visit: Visit) -> Response:
    """Enqueue a job of a task; the form's fields `args.NAME` are the job's arguments."""
    name = visit.form.value(_TASK)
    if visit.fire.registry.get(name) is None:
        raise NotHere(
            f"Task {name!r} is not registered in this process; mount the dashboard in the task's app."
        )
    with refusing(ArgumentError, ConfigurationError, TaskError):
        return visit.json({"id": make_job(visit, name).id}, 201)


def _post(
    path: str,
    permission: Permission,
    view: Callable[[Visit], Response],
    summary: str,
    *parameters: Field[Any],
) -> Route:
    return Route("POST", f"/api{path}", permission, view, is_api=True, summary=summary, parameters=parameters)


ROUTES = (
    _change_jobs(
        "requeue", Permission.REQUEUE, "Enqueue those of the jobs that are neither enqueued nor processing."
    ),
    _change_jobs(
        "delete",
        Permission.DELETE,
        "Delete jobs, and order running ones to stop.",
    ),
    _change_jobs(
        "restore",
        Permission.DELETE,
        "Undo deletes of jobs that lost no data; refuse the others.",
    ),
    _post(
        "/jobs/reschedule",
        Permission.REQUEUE,
        reschedule_jobs,
        "Change the due time of scheduled jobs.",
        _IDS,
        _IN,
        _AT,
    ),
    _post(
        "/jobs/move",
        Permission.REQUEUE,
        move_chosen,
        "Move waiting jobs to another queue or priority; refuse processing and ended jobs.",
        _IDS,
        TO_QUEUE,
        TO_PRIORITY,
    ),
    _post(
        "/jobs/copy",
        Permission.REQUEUE,
        copy_job,
        "Enqueue a copy of a job.",
        _JOB_ID,
    ),
    _post(
        "/signals/send",
        Permission.RUN_TASK,
        answer_signal,
        "Send a signal to a job, unless it was sent before.",
        _SIGNALED,
        _SIGNAL,
        SIGNAL_VALUE,
        _EARLY,
    ),
    _post(
        "/operations",
        Permission.READ,
        begin_operation,
        "Requeue, delete or move all matching jobs in the background; requires the permission requeue or "
        "delete (a move requires requeue).",
        _VERB,
        *FILTERS,
        _ARGUMENT,
        _ERROR,
        TO_QUEUE,
        TO_PRIORITY,
    ),
    _post(
        "/operations/{id}/cancel",
        Permission.READ,
        cancel_operation,
        "End an operation after its current chunk; requires the permission of its verb.",
    ),
    _post(
        "/failures/mute",
        Permission.REQUEUE,
        mute_failures,
        "Mute a cause: list it separately, and do not show it in banners.",
        FINGERPRINT,
        _FOR,
        NOTE,
    ),
    _post(
        "/failures/unmute",
        Permission.REQUEUE,
        unmute_failures,
        "Unmute a cause.",
        FINGERPRINT,
    ),
    _change_queue("pause", "Stop claiming jobs of a queue.", NOTE),
    _change_queue("resume", "Claim jobs of a queue again."),
    _change_recurring(
        "trigger",
        Permission.TRIGGER,
        "Enqueue a job of a recurring definition now.",
        lambda job: {"job": job.id},
    ),
    _change_recurring(
        "pause", Permission.TRIGGER, "Pause a definition until it is resumed.", lambda _: {"is_paused": True}
    ),
    _change_recurring(
        "resume",
        Permission.TRIGGER,
        "Resume a definition from its next due time on.",
        lambda _: {"is_paused": False},
    ),
    _change_recurring(
        "remove", Permission.EDIT_RECURRING, "Remove a definition.", lambda _: {"is_removed": True}
    ),
    _post(
        "/servers/order",
        Permission.STOP_SERVER,
        order_server,
        "Send an order to a server, which follows it at its next heartbeat.",
        SERVER,
        ORDER,
    ),
    _post(
        "/servers/end-process",
        Permission.STOP_SERVER,
        end_worker_process,
        "End a worker process, which another one replaces; its jobs have the grace time to finish.",
        SESSION,
    ),
    _post(
        "/tasks/run",
        Permission.RUN_TASK,
        run_task,
        "Enqueue a job of a task.",
        _TASK,
        ARGUMENTS,
        JOB_QUEUE,
        PRIORITY,
        DELAY,
    ),
)
