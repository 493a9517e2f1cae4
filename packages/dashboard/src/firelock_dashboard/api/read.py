"""What programs may read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from firelock import State, StorageError
from firelock.storage import JobFilter
from firelock_dashboard.actions import operation_of, refusing
from firelock_dashboard.api import shapes
from firelock_dashboard.formatting import micros
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.routes import ApiParameter, Route
from firelock_dashboard.security.permissions import Permission

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Firelock, Job
    from firelock_dashboard.fields import SentFields
    from firelock_dashboard.request import Visit

__all__ = ["FILTERS", "ROUTES", "filter_of"]

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
    ApiParameter("batch", "Only members of this batch."),
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


def filter_of(fields: SentFields) -> JobFilter:
    """Return the filter that a query or a form describes."""
    return JobFilter(
        state=fields.choice("state", State), task=fields.maybe("task"),
        queue=fields.maybe("queue"), tag=fields.maybe("tag"),
        server=fields.maybe("server"), fingerprint=fields.maybe("fingerprint"),
        recurring_id=fields.maybe("recurring"), parent_id=fields.maybe("parent"),
        id_prefix=fields.maybe("id"), is_retrying=fields.flag("retrying") or None,
        since=micros(fields.moment("since")), until=micros(fields.moment("until")),
        batch_id=fields.maybe("batch"),
    )  # fmt: skip


def _job(visit: Visit) -> Job[Any]:
    return visit.fire.jobs.get(visit.places["id"])


def _limit(visit: Visit) -> int:
    return visit.query.number("limit", 50, least=1, most=_MOST)


# ---- jobs ------------------------------------------------------------------------------------------------


def list_jobs(visit: Visit) -> Response:
    where, limit, cursor = filter_of(visit.query), _limit(visit), visit.query.maybe("cursor", limit=4_000)
    is_oldest_first = visit.query.flag("oldest_first")
    if visit.query.flag("by_due"):
        if where.state not in {None, State.SCHEDULED}:
            raise BadRequest(f"by_due is for scheduled jobs; leave out state={where.state}, or by_due.")
        where = attrs.evolve(where, by_due=True)
    with refusing(StorageError, field="cursor"):
        page = visit.fire.jobs.page(where, limit=limit, cursor=cursor, oldest_first=is_oldest_first)
    return visit.json({"jobs": [shapes.job_json(visit, job.record()) for job in page], "cursor": page.cursor})


def count_jobs(visit: Visit) -> Response:
    return visit.json({"by_state": visit.state_counts(), "by_queue": visit.fire.jobs.counts().by_queue})


def show_job(visit: Visit) -> Response:
    return visit.json(shapes.job_json(visit, _job(visit).record(), is_whole=True))


def show_history(visit: Visit) -> Response:
    entries = visit.fire.storage.history(_job(visit).id).entries
    return visit.json({"history": [shapes.history_json(visit, one) for one in entries]})


def show_errors(visit: Visit) -> Response:
    errors = [
        {
            "attempt": one.attempt, "at": one.at.isoformat(), **shapes.error_json(visit, one.error),
            "traceback": visit.redacted(one.error.traceback or "") or None,
        }
        for one in _job(visit).errors()
    ]  # fmt: skip
    return visit.json({"errors": errors})


def show_log(visit: Visit) -> Response:
    job = _job(visit)
    after = visit.query.number("after", 0, least=0, most=999_999_999)
    lines = [
        attrs.asdict(line) | {"at": line.at.isoformat(), "text": visit.redacted(line.text)}
        for line in job.log(after=after, limit=_limit(visit))
    ]
    progress = job.progress()
    return visit.json({"lines": lines, "progress": None if progress is None else attrs.asdict(progress)})


def show_steps(visit: Visit) -> Response:
    memos = visit.fire.storage.recall(_job(visit).id) or []
    return visit.json({"steps": [shapes.memo_json(visit, one) for one in memos]})


def show_batch(visit: Visit) -> Response:
    job = _job(visit).record()
    tally = visit.fire.storage.tally([job.id])[0]
    if tally is None:
        raise NotHere(visit.text("batch.none", id=job.id))
    return visit.json(shapes.batch_json(job, tally))


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


def _list(
    name: str,
    source: Callable[[Firelock], Any],
    shape: Callable[[Any], dict[str, Any]] = attrs.asdict,
    *,
    is_paged: bool = False,
) -> Callable[[Visit], Response]:
    """Return the view of all that a part of the app lists, or of a page of it."""

    def view(visit: Visit) -> Response:
        if not is_paged:
            return visit.json({name: [shape(one) for one in source(visit.fire).list()]})
        with refusing(StorageError, field="cursor"):
            page = source(visit.fire).list(limit=_limit(visit), cursor=visit.query.maybe("cursor"))
        return visit.json({name: [shape(one) for one in page], "cursor": page.cursor})

    return view


def list_recurring(visit: Visit) -> Response:
    limit = _limit(visit)
    found = visit.fire.recurring.list(after=visit.query.text("after"), limit=limit)
    after = found[-1].id if len(found) == limit else None
    return visit.json({"recurring": [shapes.recurring_json(one) for one in found], "after": after})


def list_servers(visit: Visit) -> Response:
    busy = visit.fire.jobs.find(state=State.PROCESSING, limit=500)
    by_session = Counter(job.record().session or "" for job in busy)
    return visit.json({"servers": [shapes.server_json(one, by_session) for one in visit.fire.servers.list()]})


def show_operation(visit: Visit) -> Response:
    return visit.json(shapes.operation_json(operation_of(visit, visit.places["id"])))


def show_system(visit: Visit) -> Response:
    storage = visit.fire.storage
    return visit.json(
        {
            "version": visit.dashboard.version, "now": visit.now.isoformat(),
            "storage": dict(storage.describe()), "features": sorted(storage.features),
            "schema": attrs.asdict(storage.schema()),
            "findings": [attrs.asdict(finding) for finding in visit.dashboard.watch.diagnosis().findings],
            "plugins": [attrs.asdict(plugin) for plugin in visit.fire.plugins.listing()],
        }
    )  # fmt: skip


def show_scale(visit: Visit) -> Response:
    demand = visit.dashboard.scale.demand(
        visit.query.maybe("queue", limit=64),
        within=visit.query.number("within", 60, least=0, most=86_400),
        clear_within=visit.query.number("clear_within", 60, least=1, most=86_400),
        most=visit.query.number("most", 100_000, least=1, most=100_000),
    )
    return visit.json(attrs.asdict(demand))


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
    _get("/jobs/{id}/steps", show_steps, "What a job remembers, in the order in which it was recorded."),
    _get("/batches/{id}", show_batch, "How far a batch is; its members are /api/jobs with batch=."),
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
    _get("/queues", _list("queues", lambda fire: fire.queues), "Every queue with what it holds."),
    _get(
        "/recurring",
        list_recurring,
        "A page of recurring definitions in order of id.",
        _PAGE[0],
        ApiParameter("after", "The id behind which the page begins."),
    ),
    _get(
        "/scale",
        show_scale,
        "How many workers a queue wants, or all of them, for an autoscaler; some five seconds old.",
        ApiParameter("queue", "Of this queue; of all where left out."),
        ApiParameter("within", "Seconds within which a scheduled job counts as waiting: 60.", "integer"),
        ApiParameter("clear_within", "Seconds in which the backlog is to be done: 60.", "integer"),
        ApiParameter("most", "Workers that are wanted at most.", "integer"),
    ),
    _get("/servers", list_servers, "The servers with their sessions."),
    _get(
        "/tasks", _list("tasks", lambda fire: fire.catalogue), "The tasks that servers or this process know."
    ),
    _get(
        "/operations",
        _list("operations", lambda fire: fire.operations, shapes.operation_json, is_paged=True),
        "A page of operations on many jobs, newest first.",
        *_PAGE,
    ),
    _get("/operations/{id}", show_operation, "One operation as far as it has come."),
    _get(
        "/audit",
        _list("entries", lambda fire: fire.audit, shapes.audit_json, is_paged=True),
        "A page of who did what, newest first.",
        *_PAGE,
    ),
    _get("/system", show_system, "The storage, what is wrong with it, the plugins."),
)
