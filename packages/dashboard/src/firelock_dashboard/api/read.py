"""The routes of the API that read data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from firelock import Batch, State, StorageError
from firelock.storage import JobFilter
from firelock_dashboard.api import shapes
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import operation_of, refusing
from firelock_dashboard.web.fields import Choice, Cursor, Field, Flag, Integer, Moment, Text
from firelock_dashboard.web.formatting import micros
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Firelock, Job
    from firelock_dashboard.web.fields import SentFields
    from firelock_dashboard.web.request import Visit

__all__ = ["FILTERS", "ROUTES", "filter_of"]

_LONGEST = timedelta(hours=24)
_MOST = 500  # the maximum number of objects on one page
_BATCHES_WITHIN = 100  # the maximum number of nested batches whose counts are read

_FILTERS: dict[str, Field[Any]] = {  # query fields by the field names of `JobFilter`
    "state": Choice("state", "Only jobs in this state.", choices=tuple(State)),
    "task": Text("task", "Only jobs of the task with this full name."),
    "queue": Text("queue", "Only jobs of this queue."),
    "tag": Text("tag", "Only jobs with this tag."),
    "server": Text("server", "Only jobs that this server runs or was the last to run."),
    "fingerprint": Text("fingerprint", "Only jobs that failed with this error fingerprint."),
    "recurring_id": Text("recurring", "Only jobs of this recurring definition."),
    "parent_id": Text("parent", "Only continuations of this job."),
    "batch_id": Text("batch", "Only members of this batch."),
    "id_prefix": Text("id", "Only jobs whose id starts with this string."),
    "is_retrying": Flag("retrying", "true: only jobs that wait for a retry; false: only other jobs."),
    "since": Moment(
        "since",
        "Start of the period (inclusive); by the last change of state if `state` is set, else by creation.",
    ),
    "until": Moment("until", "End of the period (exclusive), by the same time as `since`."),
}
FILTERS = tuple(_FILTERS.values())
_LIMIT = Integer("limit", "The page size.", least=1, most=_MOST, default=50)
_CURSOR = Cursor("cursor", "The start of the page: the `cursor` of the previous page.")
_PAGE = (_LIMIT, _CURSOR)
_OLDEST_FIRST = Flag("oldest_first", "true: the oldest jobs first.", default=False)
_BY_DUE = Flag(
    "by_due",
    "true: only scheduled jobs, by due time; with oldest_first, the soonest first.",
    default=False,
)
_SINCE = Moment("since", "Start of the period. Default: an hour before `until`.")
_UNTIL = Moment("until", "End of the period. Default: now.")
_TASK, _QUEUE = Text("task", "Only attempts of this task."), Text("queue", "Only attempts of this queue.")
_AFTER_LINE = Integer("after", "The number of the last line read.", least=0, most=999_999_999, default=0)
_AFTER = Text("after", "The id after which the page begins.", default="")
_SCALED_QUEUE = Text("queue", "The queue. Default: all queues.", limit=64)
_WITHIN = Integer(
    "within", "Seconds; a scheduled job that is due within this time counts as waiting.", least=0,
    most=86_400, default=60,
)  # fmt: skip
_CLEAR_WITHIN = Integer(
    "clear_within", "Seconds within which the backlog must be done.", least=1, most=86_400, default=60
)
_MOST_WORKERS = Integer("most", "The maximum number of workers.", least=1, most=100_000, default=100_000)


def filter_of(fields: SentFields) -> JobFilter:
    """Return the filter that a query or a form describes."""
    given: dict[str, Any] = {name: fields.maybe(field) for name, field in _FILTERS.items()}
    given |= {"since": micros(given["since"]), "until": micros(given["until"])}
    return JobFilter(**given)


def _job(visit: Visit) -> Job[Any]:
    return visit.fire.jobs.get(visit.places["id"])


def _limit(visit: Visit) -> int:
    return visit.query.value(_LIMIT)


# ---- jobs ------------------------------------------------------------------------------------------------


def list_jobs(visit: Visit) -> Response:
    where, limit, cursor = filter_of(visit.query), _limit(visit), visit.query.maybe(_CURSOR)
    is_oldest_first = visit.query.value(_OLDEST_FIRST)
    if visit.query.value(_BY_DUE):
        if where.state not in {None, State.SCHEDULED}:
            raise BadRequest(
                f"by_due is only for scheduled jobs; remove state={where.state}, or remove by_due."
            )
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
    after = visit.query.value(_AFTER_LINE)
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
    batch = _job(visit)
    if not isinstance(batch, Batch):
        raise NotHere(visit.text("batch.none", id=batch.id))
    counts = batch.counts()
    within = batch.counts(deep=True, limit=_BATCHES_WITHIN) if counts.batches else None
    return visit.json(shapes.batch_json(batch.record(), counts, within))


def list_failures(visit: Visit) -> Response:
    groups = visit.dashboard.watch.failure_groups(_MOST)[: _limit(visit)]
    causes = {cause.fingerprint: cause for cause in visit.dashboard.watch.causes()}
    failures = [shapes.failure_json(visit, group, causes.get(group.fingerprint)) for group in groups]
    return visit.json({"failures": failures})


def show_timeline(visit: Visit) -> Response:
    until, since = visit.query.maybe(_UNTIL) or visit.now, visit.query.maybe(_SINCE)
    if since is None:
        try:
            since = until - timedelta(hours=1)
        except OverflowError as error:
            raise BadRequest(
                "until must be at least an hour after the start of the year 1, or set since."
            ) from error
    if since >= until:
        raise BadRequest(f"since must be before until={until.isoformat()}, got {since.isoformat()}.")
    if until - since > _LONGEST:
        raise BadRequest("since and until must be at most 24 hours apart; use a shorter period.")
    rollups = visit.fire.jobs.timeline(
        since, until, task=visit.query.maybe(_TASK), queue=visit.query.maybe(_QUEUE)
    )
    return visit.json({"minutes": [shapes.rollup_json(one) for one in rollups]})


# ---- other lists and views -------------------------------------------------------------------------------


def _list(
    name: str,
    source: Callable[[Firelock], Any],
    shape: Callable[[Any], dict[str, Any]] = attrs.asdict,
    *,
    is_paged: bool = False,
) -> Callable[[Visit], Response]:
    """Return a view that lists all objects of one part of the app, or a page of them."""

    def view(visit: Visit) -> Response:
        if not is_paged:
            return visit.json({name: [shape(one) for one in source(visit.fire).list()]})
        with refusing(StorageError, field="cursor"):
            page = source(visit.fire).list(limit=_limit(visit), cursor=visit.query.maybe(_CURSOR))
        return visit.json({name: [shape(one) for one in page], "cursor": page.cursor})

    return view


def list_audit(visit: Visit) -> Response:
    shape = partial(shapes.audit_json, has_answers=visit.may(Permission.VIEW_ARGUMENTS))
    return _list("entries", lambda fire: fire.audit, shape, is_paged=True)(visit)


def list_recurring(visit: Visit) -> Response:
    limit = _limit(visit)
    found = visit.fire.recurring.list(after=visit.query.value(_AFTER), limit=limit)
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
            "findings": [finding.answer() for finding in visit.dashboard.watch.diagnosis().findings],
            "plugins": [attrs.asdict(plugin) for plugin in visit.fire.plugins.listing()],
        }
    )  # fmt: skip


def show_scale(visit: Visit) -> Response:
    demand = visit.dashboard.scale.demand(
        visit.query.maybe(_SCALED_QUEUE),
        within=visit.query.value(_WITHIN),
        clear_within=visit.query.value(_CLEAR_WITHIN),
        most=visit.query.value(_MOST_WORKERS),
    )
    return visit.json(attrs.asdict(demand))


def _get(
    path: str,
    view: Callable[[Visit], Response],
    summary: str,
    *parameters: Field[Any],
    permission: Permission = Permission.READ,
) -> Route:
    return Route("GET", f"/api{path}", permission, view, is_api=True, summary=summary, parameters=parameters)


ROUTES = (
    _get(
        "/jobs",
        list_jobs,
        "List jobs by time, newest first; one page.",
        *FILTERS,
        *_PAGE,
        _OLDEST_FIRST,
        _BY_DUE,
    ),
    _get("/jobs/counts", count_jobs, "Count the jobs in each state and queue."),
    _get(
        "/jobs/timeline",
        show_timeline,
        "Count the attempts that ended in each minute, by task, queue and outcome; at most 24 hours.",
        _SINCE,
        _UNTIL,
        _TASK,
        _QUEUE,
    ),
    _get("/jobs/{id}", show_job, "Return a job with its arguments and result."),
    _get("/jobs/{id}/history", show_history, "Return the history of a job, oldest entry first."),
    _get(
        "/jobs/{id}/steps", show_steps, "Return the memos of a job, in the order in which they were recorded."
    ),
    _get(
        "/batches/{id}",
        show_batch,
        "Return the progress of a batch. The numbers count its own members, of which `batches` are batches. "
        "`within` also counts the jobs of at most 100 nested batches; it is null if there "
        "are none. To list the members, use /api/jobs with batch=.",
    ),
    _get(
        "/jobs/{id}/errors",
        show_errors,
        "Return the failed attempts of a job with their tracebacks.",
        permission=Permission.VIEW_LOGS,
    ),
    _get(
        "/jobs/{id}/log",
        show_log,
        "Return the log lines and the progress of a job.",
        _LIMIT,
        _AFTER_LINE,
        permission=Permission.VIEW_LOGS,
    ),
    _get(
        "/failures",
        list_failures,
        "Group the newest 10,000 failed jobs by cause; the result is about ten seconds old. The hundred "
        "largest causes also have the time of the first failure, the failures of the last 24 hours, and the "
        "mute.",
        _LIMIT,
    ),
    _get(
        "/queues",
        _list("queues", lambda fire: fire.queues),
        "List the queues with the numbers of their jobs.",
    ),
    _get(
        "/recurring",
        list_recurring,
        "List the recurring definitions in order of id; one page.",
        _LIMIT,
        _AFTER,
    ),
    _get(
        "/scale",
        show_scale,
        "Return the number of workers that one queue or all queues need, for an autoscaler; at most five "
        "seconds old.",
        _SCALED_QUEUE,
        _WITHIN,
        _CLEAR_WITHIN,
        _MOST_WORKERS,
    ),
    _get("/servers", list_servers, "List the servers with their sessions."),
    _get(
        "/tasks",
        _list("tasks", lambda fire: fire.catalogue),
        "List the tasks that are registered in servers or in this process.",
    ),
    _get(
        "/operations",
        _list("operations", lambda fire: fire.operations, shapes.operation_json, is_paged=True),
        "List the operations on many jobs, newest first; one page.",
        *_PAGE,
    ),
    _get("/operations/{id}", show_operation, "Return an operation with its progress."),
    _get(
        "/audit",
        list_audit,
        "List the actions in the audit, newest first; one page.",
        *_PAGE,
    ),
    _get("/system", show_system, "Return the storage, the findings about it, and the plugins."),
)
