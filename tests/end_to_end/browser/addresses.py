"""The addresses of the dashboard's GET routes, with their parameters filled from the storage."""

from __future__ import annotations

from urllib.parse import quote

from firelock import State
from firelock.model.batch import BATCH_TASK
from firelock.storage import JobFilter

# Routes whose responses are not pages: fragments, downloads and JSON.
NO_PAGES = {
    "/history.json", "/live.json", "/navigation", "/jobs/suggest", "/jobs/export", "/jobs/{id}/log",
    "/jobs/{id}/arguments", "/jobs/{id}/result", "/jobs/{id}/stream", "/recurring/preview",
    "/system/bundle", "/metrics",
}  # fmt: skip


def page_routes(table):
    """Return the paths in the table whose responses are pages."""
    return [
        route.path
        for route in table
        if route.method == "GET" and route.path not in NO_PAGES and not route.path.startswith("/api")
    ]


def addresses(fire):
    """Return addresses by the paths of their routes, with several per route if the page has several forms."""
    job = _jobs(fire)
    task = fire.jobs.get(job[State.SUCCEEDED]).task
    made = _made_by_a_recurring_job(fire)
    recurring = quote(next(iter(fire.recurring.list())).id)
    cause = fire.jobs.failure_groups(1)[0].fingerprint
    queue = fire.queues.list()[0].name
    return {
        "/": ["/", "/?span=live", "/?kind=latency", "/?span=30d"],
        "/search": ["/search", "/search?q=mail", "/search?q=nowhere"],
        "/jobs": ["/jobs", "/jobs?state=failed", "/jobs?state=processing&q=queue:reports", "/jobs?q=nothing"],
        "/retries": ["/retries"],
        "/jobs/all": ["/jobs/all?state=failed&verb=requeue"],
        "/jobs/{id}": [f"/jobs/{one}" for one in (*job.values(), made, *_waiting(fire))],
        "/batches": ["/batches", "/batches?state=open", "/batches?q=nobody"],
        "/batches/{id}": [f"/batches/{one}" for one in _batches(fire)],
        "/failures": ["/failures"],
        "/failures/{fingerprint}": [f"/failures/{cause}"],
        "/queues": ["/queues"],
        "/queues/{name}": [f"/queues/{queue}"],
        "/limits": ["/limits", "/limits?prefix=nobody"],
        "/limits/key": ["/limits/key?key=tenant:7", "/limits/key?key=tenant"],
        "/limits/unique": ["/limits/unique"],
        "/recurring": ["/recurring"],
        "/recurring/view": [f"/recurring/view?id={recurring}"],
        "/recurring/new": ["/recurring/new"],
        "/recurring/edit": [f"/recurring/edit?id={recurring}"],
        "/tasks": ["/tasks"],
        "/tasks/view": [f"/tasks/view?name={task}"],
        "/tasks/run": [f"/tasks/run?name={task}"],
        "/servers": ["/servers"],
        "/activity": ["/activity"],
        "/system": ["/system"],
        "/settings": ["/settings"],
        "/x/{name}": ["/x/lanes"],
    }


def _jobs(fire):
    """Return the id of one job in each state that has jobs."""
    found = {}
    for state in State:
        for one in fire.jobs.find(state=state, limit=100):
            if one.record().relations is None:  # members of a batch have their own pages
                found[state] = one.id
                break
    return found


def _waiting(fire):
    """Return the id of a suspended job, if there is one."""
    waiting = fire.jobs.find(state=State.AWAITING, limit=100)
    return [job.id for job in waiting if job.record().waits_for][:1]


def _batches(fire):
    """Return the ids of two batches, one of which is a flow."""
    page = fire.storage.find(JobFilter(task=BATCH_TASK), limit=2)
    return [job.id for job in page.jobs]


def _made_by_a_recurring_job(fire):
    for one in fire.recurring.list():
        for job in fire.jobs.find(recurring=one.id, limit=1):
            return job.id
    raise AssertionError("no recurring job has made a job yet")
