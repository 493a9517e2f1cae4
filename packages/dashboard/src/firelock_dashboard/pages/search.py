"""Search: one text, looked for among what is called so, and in what jobs were called with.

The palette shows it while one types, the page shows it without a script; each kind is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.storage import JobFilter, JobRecord
from firelock_dashboard.pages.suggestions import known_tasks, task_names
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.job_search import Chips, find_page, plan
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.formatting import short_id, task_name
from firelock_dashboard.web.payloads import IN_LISTS, summary
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.web.request import Visit

_Q = Text("q", default="")

_OF_A_KIND = 5
_GROUPED = 100  # causes of failures among which a text is looked for
_COUNTED = 20  # above this, an offer says "20+"
_LEAST_OF_ID = 4
_LINE = 120
_WORD = re.compile(r"\S+")


@attrs.frozen
class Hit:
    """One thing that was found."""

    text: str
    more: str  # said beside it
    address: str
    state: str = ""  # of a job


@attrs.frozen
class HitGroup:
    """What was found of one kind."""

    kind: str  # a key of search.toml: task, queue, recurring, server, job, tag, argument, error
    hits: Sequence[Hit]
    is_called_so: bool = False  # by name or id, not by what is in it
    further: str | None = None  # the address of all of them, where there may be more


def groups(visit: Visit, text: str) -> list[HitGroup]:
    """Return what is found for a text, by kind; nothing for an empty one."""
    if not text:
        return []
    found = (
        _jobs(visit, text), *_called_so(visit, text), _tag(visit, text), _errors(visit, text),
        _arguments(visit, text),
    )  # fmt: skip
    return [group for group in found if group is not None and group.hits]


# ---- what is called so -----------------------------------------------------------------------------------


def _named(
    kind: str, text: str, ones: Iterable[tuple[str, str, str]], further: str, *, by_more: bool = True
) -> HitGroup:
    """Return those of (name, what is said beside it, address) whose words hold all words of the text."""
    words = text.casefold().split()
    matches = [
        one
        for one in ones
        if all(word in (f"{one[0]} {one[1]}" if by_more else one[0]).casefold() for word in words)
    ]
    matches.sort(key=lambda one: _rank(one[0].casefold(), text.casefold()))
    hits = [Hit(*one) for one in matches[:_OF_A_KIND]]
    return HitGroup(kind, hits, is_called_so=True, further=further if len(matches) > _OF_A_KIND else None)


def _rank(name: str, text: str) -> tuple[int, str]:
    """Return the place in the order: what is called so, what begins so, what holds it."""
    last = task_name(name)
    if text in {name, last}:
        return 0, name
    return (1 if name.startswith(text) or last.startswith(text) else 2), name


def _called_so(visit: Visit, text: str) -> Iterator[HitGroup]:
    """Yield the tasks, queues, recurring jobs and servers that are called so."""
    url, sight = visit.url, visit.dashboard.watch.sight()
    tasks = ((name, "", url("/tasks/view", name=name)) for name in task_names(visit))
    yield _named("task", text, tasks, url("/tasks", q=text))
    queues = (
        (one.name, visit.text("search.enqueued", count=one.enqueued), url(f"/queues/{one.name}"))
        for one in sight.queues
    )
    # Matched by the name alone: what is said beside it is a number.
    yield _named("queue", text, queues, url("/queues"), by_more=False)
    recurring = ((one.id, one.task, url("/recurring/view", id=one.id)) for one in sight.recurring)
    yield _named("recurring", text, recurring, url("/recurring", q=text))
    servers = ((one.name, one.host, f"{url('/servers')}#server-{one.id}") for one in sight.servers)
    yield _named("server", text, servers, url("/servers"))


def _jobs(visit: Visit, text: str) -> HitGroup | None:
    """Jobs whose id begins so."""
    if len(text) < _LEAST_OF_ID or not _WORD.fullmatch(text):
        return None
    page = visit.fire.jobs.page(JobFilter(id_prefix=text), limit=_OF_A_KIND)
    further = visit.url("/jobs", id=text) if page.cursor else None
    return HitGroup("job", [_job(visit, job.record()) for job in page], is_called_so=True, further=further)


# ---- what is in it ---------------------------------------------------------------------------------------


def _job(visit: Visit, job: JobRecord) -> Hit:
    given = visit.arguments(job, limit=IN_LISTS)
    call = summary(given.value) if isinstance(given.value, dict) else "" if given.is_hidden else given.line
    return Hit(
        f"{task_name(job.task)} {short_id(job.id)}", call[:_LINE], visit.url(f"/jobs/{job.id}"),
        "retrying" if job.is_retrying else str(job.state),
    )  # fmt: skip


def _tag(visit: Visit, text: str) -> HitGroup:
    counted = _count(visit, JobFilter(tag=text))
    hits = [Hit(text, _jobs_said(visit, counted), visit.url("/jobs", tag=text))]
    return HitGroup("tag", hits if counted != "0" else [])


def _jobs_said(visit: Visit, counted: str) -> str:
    return visit.text("search.jobs", count=1 if counted == "1" else 2, number=counted)


def _errors(visit: Visit, text: str) -> HitGroup:
    found = list(_causes(visit, text))
    hits = [
        Hit(f"{task_name(kind)}: {message}"[:_LINE], _jobs_said(visit, str(count)),
            visit.url(f"/failures/{fingerprint}"))
        for kind, message, count, fingerprint in found[:_OF_A_KIND]
    ]  # fmt: skip
    further = visit.url("/jobs", state="failed", error=text) if len(found) > _OF_A_KIND else None
    return HitGroup("error", hits, further=further)


def _causes(visit: Visit, text: str) -> Iterator[tuple[str, str, int, str]]:
    """Yield class, message as shown, number of jobs and fingerprint of the causes that hold the text."""
    wanted = text.casefold()
    for group in visit.dashboard.watch.failure_groups(_GROUPED):
        message = visit.redacted(group.message)
        if wanted in f"{group.type}: {message}".casefold():
            yield group.type, message, group.count, group.fingerprint


def _arguments(visit: Visit, text: str) -> HitGroup | None:
    """The newest jobs that were called with it, as far as one look goes."""
    if not visit.may(Permission.VIEW_ARGUMENTS):
        return None
    asked = plan(Chips(arguments=(text,)), visit.now, known_tasks(visit), visit.arguments_value)
    found = find_page(visit.fire, asked, limit=_OF_A_KIND, cursor=None)
    further = visit.url("/jobs", arg=text) if found.cursor else None
    hits = [_job(visit, job) for job in found.jobs]
    if not hits and found.is_cut:
        hits = [Hit(visit.text("search.go_on"), "", further or "")]
        further = None
    return HitGroup("argument", hits, further=further)


# ---- the same text elsewhere -----------------------------------------------------------------------------


@attrs.frozen
class Offer:
    """Another way to look for a text, from a list that found nothing."""

    kind: str  # a key of search.toml
    address: str
    count: str | None  # how many there are, "20+" for more; None where only a search could tell

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing would be found there either."""
        return self.count == "0"


def offers(visit: Visit, text: str, *, besides: str) -> list[Offer]:
    """Return where else a text may be found, but for the way that was tried."""
    known = known_tasks(visit).named(text)
    task = known[0] if len(known) == 1 else text
    by_queue = visit.dashboard.counts().by_queue.get(text, {})
    ways: list[tuple[str, str, Callable[[], str | None]]] = [
        ("id", visit.url("/jobs", id=text), lambda: _count(visit, JobFilter(id_prefix=text))),
        ("task", visit.url("/jobs", task=task), lambda: _count(visit, JobFilter(task=task))),
        ("queue", visit.url("/jobs", queue=text), lambda: str(sum(by_queue.values()))),
        ("tag", visit.url("/jobs", tag=text), lambda: _count(visit, JobFilter(tag=text))),
        ("error", visit.url("/jobs", error=text), lambda: _failed(visit, text)),
    ]
    if visit.may(Permission.VIEW_ARGUMENTS):
        ways.append(("argument", visit.url("/jobs", arg=text), lambda: None))
    return [Offer(kind, address, count()) for kind, address, count in ways if kind != besides]


def _count(visit: Visit, where: JobFilter) -> str:
    page = visit.fire.jobs.page(where, limit=_COUNTED)
    return f"{len(page)}{'+' if page.cursor else ''}"


def _failed(visit: Visit, text: str) -> str | None:
    """Return how many failed jobs say so; None where none is grouped: one that is retried may."""
    counted = sum(count for _, _, count, _ in _causes(visit, text))
    return str(counted) if counted else None


# ---- the page --------------------------------------------------------------------------------------------


def show_search(visit: Visit) -> Response:
    """What is found for a text; the palette asks for its part `options`."""
    text = visit.query.value(_Q)
    return visit.page(
        "search.html", title=visit.text("search.title"), section="search", text=text,
        groups=lambda: groups(visit, text),
    )  # fmt: skip


ROUTES = (Route("GET", "/search", Permission.READ, show_search, (_Q,)),)
