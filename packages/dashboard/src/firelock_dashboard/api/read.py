"""What programs may read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import attrs

from firelock import JobNotFound, State, StorageError
from firelock.storage import JobFilter, JobRecord
from firelock_dashboard.actions import refusing
from firelock_dashboard.api import shapes
from firelock_dashboard.formatting import micros
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.routes import ApiParameter, Route
from firelock_dashboard.security.permissions import Permission

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.responses import Response

    from firelock_dashboard.request import Visit

__all__ = ["FILTERS", "ROUTES", "filter_of", "job_of"]

_LONGEST = timedelta(hours=24)
_MOST = 500  # in one page

FILTERS = (
    ApiParameter("state", "Only jobs in this state.", choices=tuple(State)),
    ApiParameter("task", "Only jobs of this task, by its whole name."),
    ApiParameter("queue", "Only jobs of this queue."),
    ApiParameter("tag", "Only jobs with this tag."),
    ApiParameter("server", "Only jobs that this server holds or held last."),
    ApiParameter("fingerprint", "Only failures of this kind."),
    ApiParameter("recurring", "Only jobs of this recurring definition."),
    ApiParameter("parent", "Only continuations of this job."),
    ApiParameter("id", "Only jobs whose id begins so."),
    ApiParameter("retrying", "Only jobs that wait for a retry.", "boolean"),
    ApiParameter(
        "since",
        "Not before; by the last change of state where a state is given, else by creation.",
        "date-time",
    ),
    ApiParameter("until", "Before; by the same time.", "date-time"),
)
_PAGE = (
    ApiParameter("limit", "How many, 1 to 500; 50 where left out.", "integer"),
    ApiParameter("cursor", "Where the next page begins, as the last one named it."),
)


def filter_of(visit: Visit, *, is_form: bool = False) -> JobFilter:
    """Return the filter that the query, or the form, describes."""
    fields = visit.form if is_form else visit.query
    return JobFilter(
        state=fields.choice("state", State), task=fields.maybe("task", limit=200),
        queue=fields.maybe("queue", limit=64), tag=fields.maybe("tag", limit=200),
        server=fields.maybe("server", limit=200), fingerprint=fields.maybe("fingerprint", limit=200),
        recurring_id=fields.maybe("recurring", limit=200), parent_id=fields.maybe("parent", limit=100),
        id_prefix=fields.maybe("id", limit=100), is_retrying=True if fields.flag("retrying") else None,
        since=_micros(fields.moment("since")), until=_micros(fields.moment("until")),
    )  # fmt: skip


def _micros(moment: datetime | None) -> int | None:
    return None if moment is None else micros(moment)


def job_of(visit: Visit, job_id: str) -> JobRecord:
    """Return the record of a job.

    Raises:
        NotHere: no such job is stored.
    """
    try:
        return visit.fire.jobs.get(job_id).record()
    except JobNotFound as error:
        raise NotHere(str(error)) from error


def _limit(visit: Visit) -> int:
    return visit.query.number("limit", 50, least=1, most=_MOST)


# ---- jobs ------------------------------------------------------------------------------------------------


def list_jobs(visit: Visit) -> Response:
    where, limit, cursor = filter_of(visit), _limit(visit), visit.query.maybe("cursor")
    is_oldest_first = visit.query.flag("oldest_first")
    if visit.query.flag("by_due"):
        if where.state not in {None, State.SCHEDULED}:
            raise BadRequest(f"by_due is for scheduled jobs; leave out state={where.state}, or by_due.")
        where = attrs.evolve(where, by_due=True)
    with refusing(StorageError, field="cursor"):
        page = visit.fire.jobs.page(where, limit=limit, cursor=cursor, oldest_first=is_oldest_first)
    jobs = [shapes.job_json(visit, job.record()) for job in page]
    return visit.json({"jobs": jobs, "cursor": page.cursor})


def count_jobs(visit: Visit) -> Response:
    counts = visit.fire.jobs.counts()
    by_queue = {
        queue: {str(state): number for state, number in states.items()}
        for queue, states in counts.by_queue.items()
    }
    return visit.json(
        {"by_state": {str(state): counts.by_state.get(state, 0) for state in State}, "by_queue": by_queue}
    )


def show_job(visit: Visit) -> Response:
    return visit.json(shapes.job_json(visit, job_of(visit, visit.places["id"]), is_whole=True))


def show_history(visit: Visit) -> Response:
    job = job_of(visit, visit.places["id"])
    return visit.json(
        {"history": [shapes.history_json(visit, one) for one in visit.fire.storage.history(job.id).entries]}
    )


def show_errors(visit: Visit) -> Response:
    job = visit.fire.jobs.get(job_of(visit, visit.places["id"]).id)
    errors = [
        {
            "attempt": one.attempt, "at": one.at.isoformat(), **shapes.error_json(visit, one.error),
            "traceback": visit.redacted(one.error.traceback or "") or None,
        }
        for one in job.errors()
    ]  # fmt: skip
    return visit.json({"errors": errors})


def show_log(visit: Visit) -> Response:
    job = visit.fire.jobs.get(job_of(visit, visit.places["id"]).id)
    after = visit.query.number("after", 0, least=0, most=999_999_999)
    lines = [
        {"number": line.number, "at": line.at.isoformat(), "level": line.level,
         "text": visit.redacted(line.text),
         "attempt": line.attempt}
        for line in job.log(after=after, limit=_limit(visit))
    ]  # fmt: skip
    progress = job.progress()
    return visit.json({"lines": lines, "progress": None if progress is None else attrs.asdict(progress)})


def list_failures(visit: Visit) -> Response:
    groups = visit.dashboard.watch.failure_groups(_MOST)[: _limit(visit)]
    causes = {cause.fingerprint: cause for cause in visit.dashboard.watch.causes()}
    failures = [shapes.failure_json(visit, group, causes.get(group.fingerprint)) for group in groups]
    return visit.json({"failures": failures})


def show_timeline(visit: Visit) -> Response:
    until = visit.query.moment("until") or visit.now
    since = visit.query.moment("since") or until - timedelta(hours=1)
    if since >= until:
        raise BadRequest(f"since={since.isoformat()} is not before until={until.isoformat()}.")
    if until - since > _LONGEST:
        raise BadRequest("since and until are more than 24 hours apart; ask for less at once.")
    rollups = visit.fire.jobs.timeline(
        since, until, task=visit.query.maybe("task"), queue=visit.query.maybe("queue")
    )
    return visit.json({"minutes": [shapes.rollup_json(one) for one in rollups]})


# ---- the rest --------------------------------------------------------------------------------------------


def list_queues(visit: Visit) -> Response:
    return visit.json({"queues": [attrs.asdict(queue) for queue in visit.fire.queues.list()]})


def list_recurring(visit: Visit) -> Response:
    limit = _limit(visit)
    found = visit.fire.recurring.list(after=visit.query.text("after", limit=200), limit=limit)
    return visit.json(
        {
            "recurring": [shapes.recurring_json(one) for one in found],
            "after": found[-1].id if len(found) == limit else None,
        }
    )


def list_servers(visit: Visit) -> Response:
    busy = visit.fire.jobs.find(state=State.PROCESSING, limit=500)
    by_session = Counter(job.record().session or "" for job in busy)
    return visit.json({"servers": [shapes.server_json(one, by_session) for one in visit.fire.servers.list()]})


def list_tasks(visit: Visit) -> Response:
    return visit.json({"tasks": [attrs.asdict(task) for task in visit.fire.catalogue.list()]})


def list_operations(visit: Visit) -> Response:
    limit, cursor = _limit(visit), visit.query.maybe("cursor", limit=100)
    with refusing(StorageError, field="cursor"):
        page = visit.fire.operations.list(limit=limit, cursor=cursor)
    return visit.json({"operations": [shapes.operation_json(one) for one in page], "cursor": page.cursor})


def show_operation(visit: Visit) -> Response:
    operation = visit.fire.operations.get(visit.places["id"])
    if operation is None:
        raise NotHere(visit.text("activity.no_operation", operation=visit.places["id"]))
    return visit.json(shapes.operation_json(operation))


def list_audit(visit: Visit) -> Response:
    limit, cursor = _limit(visit), visit.query.maybe("cursor", limit=100)
    with refusing(StorageError, field="cursor"):
        page = visit.fire.audit.list(limit=limit, cursor=cursor)
    return visit.json({"entries": [shapes.audit_json(entry) for entry in page], "cursor": page.cursor})


def show_system(visit: Visit) -> Response:
    storage = visit.fire.storage
    return visit.json(
        {
            "version": visit.dashboard.version,
            "now": visit.now.isoformat(),
            "storage": dict(storage.describe()),
            "features": sorted(storage.features),
            "schema": attrs.asdict(storage.schema()),
            "findings": [attrs.asdict(finding) for finding in visit.dashboard.watch.diagnosis().findings],
            "plugins": [attrs.asdict(plugin) for plugin in visit.fire.plugins.listing()],
        }
    )


def _get(
    path: str,
    view: Callable[[Visit], Response],
    summary: str,
    *parameters: ApiParameter,
    permission: Permission = Permission.READ,
) -> Route:
    return Route("GET", f"/api{path}", permission, view, is_api=True, summary=summary, parameters=parameters)


ROUTES = (
    _get(
        "/jobs",
        list_jobs,
        "A page of jobs in order of time, newest first.",
        *FILTERS,
        *_PAGE,
        ApiParameter("oldest_first", "In the other order.", "boolean"),
        ApiParameter(
            "by_due",
            "Scheduled jobs alone, in order of when they are due; with oldest_first the soonest first.",
            "boolean",
        ),
    ),
    _get("/jobs/counts", count_jobs, "How many jobs are in each state and queue."),
    _get(
        "/jobs/timeline",
        show_timeline,
        "What ended in each minute, by task, queue and outcome; 24 hours at most.",
        ApiParameter("since", "An hour before `until` where left out.", "date-time"),
        ApiParameter("until", "Now where left out.", "date-time"),
        ApiParameter("task", "Only of this task."),
        ApiParameter("queue", "Only of this queue."),
    ),
    _get("/jobs/{id}", show_job, "One job with arguments and result."),
    _get("/jobs/{id}/history", show_history, "A job's steps, oldest first."),
    _get(
        "/jobs/{id}/errors",
        show_errors,
        "A job's failed attempts with tracebacks.",
        permission=Permission.VIEW_LOGS,
    ),
    _get(
        "/jobs/{id}/log",
        show_log,
        "What a job logged, and its progress.",
        _PAGE[0],
        ApiParameter("after", "The number of the last line seen.", "integer"),
        permission=Permission.VIEW_LOGS,
    ),
    _get(
        "/failures",
        list_failures,
        "Failed jobs by cause, of the newest 10,000, some ten seconds old; of the hundred largest also since "
        "when it is known, its last 24 hours, and whether it is muted.",
        _PAGE[0],
    ),
    _get("/queues", list_queues, "Every queue with what it holds."),
    _get(
        "/recurring",
        list_recurring,
        "A page of recurring definitions in order of id.",
        _PAGE[0],
        ApiParameter("after", "The id behind which the page begins."),
    ),
    _get("/servers", list_servers, "The servers with their sessions."),
    _get("/tasks", list_tasks, "The tasks that servers or this process know."),
    _get("/operations", list_operations, "A page of operations on many jobs, newest first.", *_PAGE),
    _get("/operations/{id}", show_operation, "One operation as far as it has come."),
    _get("/audit", list_audit, "A page of who did what, newest first.", *_PAGE),
    _get("/system", show_system, "The storage, what is wrong with it, the plugins."),
)
