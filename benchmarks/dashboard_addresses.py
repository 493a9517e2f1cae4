"""All read-only addresses of the dashboard, with parameters from the stored jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

import attrs

from benchmarks.dashboard_visitor import Visitor
from firelock import Firelock, Job, State

_LIVE = re.compile(rb'data-live="([a-z_]+)"')


@attrs.frozen
class Address:
    """An address that can be requested."""

    kind: str  # page, fragment, filter or api
    target: str


def addresses(fire: Firelock, visitor: Visitor) -> Iterator[Address]:
    """Yield all pages and their live regions, lists by each condition, and lists of the JSON API."""
    jobs = _jobs(fire)
    for page in _pages(fire, jobs):
        yield Address("page", page)
        named = _LIVE.findall(visitor.get(page).body)
        joint = "&" if "?" in page else "?"
        for part in dict.fromkeys(name.decode() for name in named):
            yield Address("fragment", f"{page}{joint}part={part}")
    for condition in _filters(fire, jobs):
        yield Address("filter", f"/jobs?{urlencode(condition)}")
    for path in _lists(jobs):
        yield Address("api", path)


def _jobs(fire: Firelock) -> dict[State, Job[object]]:
    """Return the newest job in each state that has jobs."""
    return {state: job for state in State for job in fire.jobs.find(state=state, limit=1)}


def _pages(fire: Firelock, jobs: dict[State, Job[object]]) -> Iterator[str]:
    task = quote(jobs[State.SUCCEEDED].task)
    recurring = quote(next(iter(fire.recurring.list())).id)
    yield from ("/", "/?span=live", "/?kind=latency", "/?span=7d", "/?span=30d")
    yield from ("/jobs", *(f"/jobs?state={state}" for state in jobs), "/jobs?limit=200", "/jobs?order=oldest")
    yield from ("/retries", "/jobs/all?state=failed&verb=requeue", "/jobs/suggest?q=shop")
    yield from (f"/jobs/{job.id}" for job in jobs.values())
    yield "/failures"
    yield from (f"/failures/{group.fingerprint}" for group in fire.jobs.failure_groups(2))
    yield "/queues"
    yield from (f"/queues/{quote(queue.name)}" for queue in fire.queues.list())
    yield from ("/recurring", f"/recurring/view?id={recurring}", "/recurring/new")
    yield from (f"/recurring/edit?id={recurring}", "/recurring/preview?schedule=every+5+minutes")
    yield from ("/tasks", f"/tasks/view?name={task}", f"/tasks/view?name={task}&span=7d")
    yield from (f"/tasks/run?name={task}", "/servers", "/activity", "/system", "/settings")
    yield from ("/history.json?span=24h", "/history.json?span=30d", "/live.json")


def _filters(fire: Firelock, jobs: dict[State, Job[object]]) -> Iterator[dict[str, str]]:
    """Yield conditions that use an index, conditions that are tested for each job, and both together."""
    job, failed = jobs[State.SUCCEEDED], jobs[State.FAILED]
    tagged = next(
        one for one in fire.jobs.find(state=State.SUCCEEDED, limit=500) if "order:" in str(one.tags)
    )
    order = next(tag for tag in tagged.tags if tag.startswith("order:"))
    number, month_ago = order.partition(":")[2], datetime.now(UTC) - timedelta(days=30)
    states: tuple[dict[str, str], ...] = ({}, {"state": "succeeded"}, {"state": "failed"})
    for state in states:
        yield from ({**state, **condition} for condition in (
            {"tag": order}, {"tag": "dhl"}, {"tag": "nobody"},
            {"arg": f"order_id:{number}"}, {"task": tagged.task, "arg": f"order_id:{number}"},
            {"arg": f"quantity:{number}"}, {"arg": "nowhere-to-be-found"},
            {"task": job.task}, {"task": failed.task}, {"task": "unknown"},
            {"queue": job.queue}, {"queue": "mail"}, {"queue": "unknown"},
            {"task": job.task, "queue": job.queue},
            {"server": job.record().server or ""}, {"error": "Timeout"}, {"error": "nothing says so"},
            {"id": job.id[:8]}, {"id": job.id}, {"id": "ffffffff"},
            {"created": "<1h"}, {"created": ">30d"}, {"created": "<7d", "task": job.task},
            {"since": f"{month_ago:%Y-%m-%dT%H:%M:%SZ}"}, {"recurring": next(iter(fire.recurring.list())).id},
            {"fingerprint": fire.jobs.failure_groups(1)[0].fingerprint},
        ))  # fmt: skip


def _lists(jobs: dict[State, Job[object]]) -> Iterator[str]:
    job = jobs[State.SUCCEEDED]
    yield from ("/api/jobs", "/api/jobs?limit=500", "/api/jobs?oldest_first=1", "/api/jobs?retrying=1")
    yield from (f"/api/jobs?state={state}" for state in jobs)
    yield from (f"/api/jobs?task={quote(job.task)}", f"/api/jobs?queue={job.queue}", "/api/jobs?tag=dhl")
    yield from ("/api/jobs/counts", "/api/jobs/timeline", f"/api/jobs/timeline?task={quote(job.task)}")
    yield from (f"/api/jobs/{job.id}{path}" for path in ("", "/history", "/errors", "/log"))
    yield from (
        f"/api/{name}"
        for name in (
            "failures", "failures?limit=500", "queues", "recurring", "servers", "tasks", "operations",
            "audit", "system", "openapi.json",
        )
    )  # fmt: skip
