"""One job: what it was called with, how its life went, what it logged, why it waits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response

from firelock import JobNotFound
from firelock.storage import JobFilter
from firelock_dashboard.access import Permission
from firelock_dashboard.job_view import JobPage
from firelock_dashboard.problems import NotHere
from firelock_dashboard.routes import Route
from firelock_dashboard.words import iso, short_id, task_name

if TYPE_CHECKING:
    from firelock import Job
    from firelock_dashboard.payloads import Payload
    from firelock_dashboard.visit import Visit

__all__ = ["ROUTES"]

_PART = re.compile(r"[0-9a-f-]{4,36}")
_NEWEST = 500  # jobs whose ids are looked at for an end
_LOG_KEPT = 1_000
_SHOWN = 200


def show_job(visit: Visit) -> Response:
    """One job; a part of an id that is one job's alone leads to it."""
    job_id = visit.places["id"]
    try:
        handle = visit.fire.jobs.get(job_id)
    except JobNotFound as error:
        if visit.wants_json:
            raise NotHere(visit.text("job.gone_one", id=job_id[:_SHOWN])) from error
        return _gone(visit, job_id)
    page = JobPage(visit, handle)
    title = f"{task_name(page.job.task)} {short_id(page.job.id)}"
    return visit.page("job.html", title=title, section="jobs", page=page, job=page.job)


def _gone(visit: Visit, job_id: str) -> Response:
    found = _whole_id(visit, job_id)
    if found is not None:
        return RedirectResponse(visit.url(f"/jobs/{found}"), 303)
    return visit.page(
        "job_gone.html", title=visit.text("job.gone"), section="jobs", status=404, wanted=job_id[:_SHOWN]
    )


def _whole_id(visit: Visit, part: str) -> str | None:
    """Return the one id that begins so, or ends so among the newest; None where none or several do."""
    if not _PART.fullmatch(part):
        return None
    begin = visit.fire.jobs.page(JobFilter(id_prefix=part), limit=2)
    if len(begin) > 0:
        return begin.jobs[0].id if len(begin) == 1 else None
    newest = visit.fire.jobs.page(JobFilter(), limit=_NEWEST)
    ends = [job.id for job in newest if job.id.endswith(part)]
    return ends[0] if len(ends) == 1 else None


def _stored(visit: Visit) -> Job[object]:
    try:
        return visit.fire.jobs.get(visit.places["id"])
    except JobNotFound as error:
        raise NotHere(visit.text("job.gone_one", id=visit.places["id"][:_SHOWN])) from error


def download_log(visit: Visit) -> Response:
    """What the job logged, as text."""
    lines = _stored(visit).log(limit=_LOG_KEPT)
    text = "".join(
        f"{iso(line.at)} {line.level:<8} [{line.attempt}] {_one_line(visit, line.text)}\n" for line in lines
    )
    return _file(text, "log.txt", "text/plain")


def _one_line(visit: Visit, text: str) -> str:
    clean = visit.redacted(text)
    return (
        clean
        if clean.isprintable()
        else "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in clean)
    )


def download_arguments(visit: Visit) -> Response:
    """What the job was called with, whole."""
    return _payload(visit.arguments(_stored(visit).record(), limit=None), "arguments")


def download_result(visit: Visit) -> Response:
    """What the job returned, whole."""
    record = _stored(visit).record()
    if record.result is None:
        raise NotHere(visit.text("job.no_result_file", id=record.id))
    return _payload(visit.result(record, limit=None), "result")


def _payload(payload: Payload, name: str) -> Response:
    is_json = payload.reason is None
    return _file(
        payload.text,
        f"{name}.{'json' if is_json else 'txt'}",
        "application/json" if is_json else "text/plain",
    )


def _file(text: str, name: str, kind: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, 200, headers, f"{kind}; charset=utf-8")


ROUTES = (
    Route("GET", "/jobs/{id}", Permission.READ, show_job, ("after",)),
    Route("GET", "/jobs/{id}/log", Permission.VIEW_LOGS, download_log),
    Route("GET", "/jobs/{id}/arguments", Permission.VIEW_ARGUMENTS, download_arguments),
    Route("GET", "/jobs/{id}/result", Permission.VIEW_ARGUMENTS, download_result),
)
