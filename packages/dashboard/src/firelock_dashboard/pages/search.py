"""The search for a string in names, and in the arguments of jobs.

The palette shows the results while the visitor types, and the page shows them without a script. The number of
results of each kind is limited. Objects whose name is exactly the string are listed first; if there are any,
arguments of jobs are not searched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.storage import Feature, JobFilter, JobRecord
from firelock_dashboard.pages.suggestions import known_tasks, newest_jobs, task_names
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.job_search import Chips, find_page, plan
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.formatting import job_name, short_id, task_name
from firelock_dashboard.web.payloads import IN_LISTS, summary
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.web.request import Visit

_Q = Text("q", default="")

_OF_A_KIND = 5
_GROUPED = 100  # the maximum number of failure causes that are searched
_BATCHES = 500  # the number of newest batches whose names are searched
_KEYS = _OF_A_KIND + 1
_COUNTED = 20  # an offer shows any higher count as "20+"
_LEAST_OF_ID = 4
_LINE = 120
_WORD = re.compile(r"\S+")


@attrs.frozen
class Hit:
    """One search result."""

    text: str
    more: str  # additional text, shown next to `text`
    address: str
    state: str = ""  # the state of a job
    is_exact: bool = False  # whether the string is the whole name, id or key
    is_waited_for: bool = False  # whether the result is a limit for which jobs wait


@attrs.frozen
class HitGroup:
    """The search results of one kind."""

    kind: str  # a key of search.toml: tag, job, batch, task, queue, limit, recurring, server, error, argument
    hits: Sequence[Hit]
    is_by_name: bool = False  # whether the string matches the name or id, not the content
    further: str | None = None  # the URL of all results, if there may be more

    @property
    def has_exact(self) -> bool:
        """Whether the string is the exact name of one of the results."""
        return any(hit.is_exact for hit in self.hits)

    @property
    def is_waited_for(self) -> bool:
        """Whether the string is the exact name of a result for which jobs wait."""
        return any(hit.is_exact and hit.is_waited_for for hit in self.hits)


def groups(visit: Visit, text: str) -> list[HitGroup]:
    """Return the results for a string by kind, exact names first; an empty list for an empty string."""
    if not text.strip():
        return []
    named = [group for group in _by_name(visit, text) if group.hits]
    named.sort(key=lambda group: (not group.has_exact, not group.is_waited_for))
    is_known = any(group.has_exact for group in named)
    held = [_errors(visit, text), *_arguments(visit, text, is_known=is_known)]
    return [*named, *(group for group in held if group.hits)]


# ---- matches by name -------------------------------------------------------------------------------------


def _by_name(visit: Visit, text: str) -> Iterator[HitGroup]:
    """Yield the objects with a matching name by kind, in the order of kinds for equal matches."""
    url, readings = visit.url, visit.dashboard.watch.readings()
    newest = newest_jobs(visit)
    jobs, batches = _by_id(visit, text)
    meant = known_tasks(visit).tags_of(text)
    yield _tags(visit, text, newest, meant)
    yield jobs
    yield _batches(visit, text, batches)
    tasks = ((name, "", url("/tasks/view", name=name)) for name in task_names(visit, newest))
    yield _named("task", text, tasks, url("/tasks", q=text))
    queues = (
        (one.name, visit.text("search.enqueued", count=one.enqueued), url(f"/queues/{one.name}"))
        for one in readings.queues
    )
    # the search uses only the name, because the additional text is a number
    yield _named("queue", text, queues, url("/queues"), by_more=False)
    yield _limits(visit, meant[0] if meant and {" ", "="} & set(text) else text)
    recurring = ((one.id, one.task, url("/recurring/view", id=one.id)) for one in readings.recurring)
    yield _named("recurring", text, recurring, url("/recurring", q=text))
    servers = ((one.name, one.host, f"{url('/servers')}#server-{one.id}") for one in readings.servers)
    yield _named("server", text, servers, url("/servers"))


def _named(
    kind: str, text: str, ones: Iterable[tuple[str, str, str]], further: str, *, by_more: bool = True
) -> HitGroup:
    """Return the items (name, additional text, URL) that contain all words of the string."""
    words = text.casefold().split()
    matches = [
        one
        for one in ones
        if all(word in (f"{one[0]} {one[1]}" if by_more else one[0]).casefold() for word in words)
    ]
    ranked = sorted((_rank(one[0].casefold(), text.casefold()), one) for one in matches)
    hits = [Hit(*one, is_exact=place == 0) for (place, _), one in ranked[:_OF_A_KIND]]
    return HitGroup(kind, hits, is_by_name=True, further=further if len(matches) > _OF_A_KIND else None)


def _rank(name: str, text: str) -> tuple[int, str]:
    """Return the sort key: names equal to the string first, then names that start with it, then others."""
    last = task_name(name)
    if text in {name, last}:
        return 0, name
    return (1 if name.startswith(text) or last.startswith(text) else 2), name


def _by_id(visit: Visit, text: str) -> tuple[HitGroup, list[Hit]]:
    """Return the jobs, and the batches, whose ids start with the string."""
    if len(text) < _LEAST_OF_ID or not _WORD.fullmatch(text):
        return HitGroup("job", ()), []
    page = visit.fire.jobs.page(JobFilter(id_prefix=text), limit=_OF_A_KIND)
    records = [job.record() for job in page]
    jobs = [_job(visit, one, is_exact=one.id == text) for one in records if not one.is_batch]
    batches = [_batch(visit, one, is_exact=one.id == text) for one in records if one.is_batch]
    further = visit.url("/jobs", id=text) if page.cursor else None
    return HitGroup("job", jobs, is_by_name=True, further=further), batches


def _batch(visit: Visit, job: JobRecord, *, is_exact: bool) -> Hit:
    address = visit.url(f"/batches/{job.id}")
    return Hit(job_name(job), short_id(job.id), address, str(job.state), is_exact)


def _batches(visit: Visit, text: str, by_id: Sequence[Hit]) -> HitGroup:
    """Return the batches with this id, then the newest batches with a matching name, best matches first."""
    words, wanted = text.casefold().split(), text.casefold()
    page = visit.fire.batches.list(limit=_BATCHES)
    found = [
        (_rank(batch.name.casefold(), wanted)[0], batch.record())
        for batch in page.batches
        if all(word in batch.name.casefold() for word in words)
    ]
    found.sort(key=lambda one: one[0])  # a stable sort, so newer batches precede older ones of equal rank
    hits = [*by_id, *(_batch(visit, job, is_exact=place == 0) for place, job in found[:_OF_A_KIND])]
    has_more = len(found) > _OF_A_KIND or page.cursor is not None
    further = visit.url("/batches", q=text) if has_more else None
    return HitGroup("batch", hits[:_OF_A_KIND], is_by_name=True, further=further)


def _limits(visit: Visit, text: str) -> HitGroup:
    """Return the limit keys that start with the string, in order, so that an exact match is first."""
    if Feature.LIMITS not in visit.fire.storage.features:
        return HitGroup("limit", ())
    keys = visit.fire.limits.list(text, limit=_KEYS)
    hits = [
        Hit(
            visit.text("search.as_limit", name=one.key),
            visit.text("search.waiting", count=one.waiting),
            visit.url("/limits/key", key=one.key),
            is_exact=one.key == text,
            is_waited_for=one.waiting > 0,
        )
        for one in keys[:_OF_A_KIND]
    ]
    further = visit.url("/limits", prefix=text) if len(keys) > _OF_A_KIND else None
    return HitGroup("limit", hits, is_by_name=True, further=further)


def _tags(visit: Visit, text: str, newest: Iterable[JobRecord], made: Sequence[str]) -> HitGroup:
    """Return the tags that the string may mean, then tags of the newest jobs that contain it."""
    meant = [text, *made]
    counts = [_count(visit, JobFilter(tag=tag)) for tag in meant]
    hits = [
        _tag(visit, tag, _job_count_text(visit, counted), is_exact=True)
        for tag, counted in zip(meant, counts, strict=True)
        if counted != "0"
    ]
    wanted = text.casefold()
    others = {tag for job in newest for tag in job.tags if wanted in tag.casefold()} - set(meant)
    ranked = sorted(others, key=lambda tag: (not tag.casefold().startswith(wanted), tag))
    hits += [_tag(visit, tag, "", is_exact=False) for tag in ranked]
    return HitGroup("tag", hits[:_OF_A_KIND], is_by_name=True)


def _tag(visit: Visit, tag: str, more: str, *, is_exact: bool) -> Hit:
    text = visit.text("search.as_tag", jobs=more) if more else visit.text("search.is_tag")
    return Hit(tag, text, visit.url("/jobs", tag=tag), is_exact=is_exact)


# ---- matches by content ----------------------------------------------------------------------------------


def _job(visit: Visit, job: JobRecord, *, is_exact: bool = False) -> Hit:
    given = visit.arguments(job, limit=IN_LISTS)
    call = summary(given.value) if isinstance(given.value, dict) else "" if given.is_hidden else given.line
    return Hit(
        f"{task_name(job.task)} {short_id(job.id)}", call[:_LINE], visit.url(f"/jobs/{job.id}"),
        "retrying" if job.is_retrying else str(job.state), is_exact,
    )  # fmt: skip


def _job_count_text(visit: Visit, counted: str) -> str:
    return visit.text("search.jobs", count=1 if counted == "1" else 2, number=counted)


def _errors(visit: Visit, text: str) -> HitGroup:
    found = list(_causes(visit, text))
    hits = [
        Hit(f"{task_name(kind)}: {message}"[:_LINE], _job_count_text(visit, str(count)),
            visit.url(f"/failures/{fingerprint}"))
        for kind, message, count, fingerprint in found[:_OF_A_KIND]
    ]  # fmt: skip
    further = visit.url("/jobs", state="failed", error=text) if len(found) > _OF_A_KIND else None
    return HitGroup("error", hits, further=further)


def _causes(visit: Visit, text: str) -> Iterator[tuple[str, str, int, str]]:
    """Yield each cause that contains the string: class, masked message, number of jobs and fingerprint."""
    wanted = text.casefold()
    for group in visit.dashboard.watch.failure_groups(_GROUPED):
        message = visit.redacted(group.message)
        if wanted in f"{group.type}: {message}".casefold():
            yield group.type, message, group.count, group.fingerprint


def _arguments(visit: Visit, text: str, *, is_known: bool) -> Iterator[HitGroup]:
    """Yield the newest jobs with this argument, within the limits of one search.

    If the string is the exact name of an object, the jobs are not searched, and the search is only offered.
    """
    if not visit.may(Permission.VIEW_ARGUMENTS):
        return
    tasks = known_tasks(visit)
    argument = tasks.argument_of(text)
    address = visit.url("/jobs", arg=argument)
    if is_known:
        yield HitGroup("argument", [Hit(visit.text("search.as_argument"), "", address)])
        return
    search_plan = plan(Chips(arguments=(argument,)), visit.now, tasks, visit.arguments_value)
    found = find_page(visit.fire, search_plan, limit=_OF_A_KIND, cursor=None)
    further = address if found.cursor else None
    hits = [_job(visit, job) for job in found.jobs]
    if not hits and found.is_cut:
        hits = [Hit(visit.text("search.search_all"), "", address)]
        further = None
    yield HitGroup("argument", hits, further=further)


# ---- other searches --------------------------------------------------------------------------------------


@attrs.frozen
class Offer:
    """Another search for a string, offered by a list that has found nothing."""

    kind: str  # a key of search.toml
    address: str
    count: str | None  # the number of results, "20+" for more; None if only a search could determine it

    @property
    def is_empty(self) -> bool:
        """Whether this search would not find anything either."""
        return self.count == "0"


def offers(visit: Visit, text: str, *, without: str) -> list[Offer]:
    """Return other searches that might find a string, except the search that was tried."""
    tasks = known_tasks(visit)
    known = tasks.named(text)
    task = known[0] if len(known) == 1 else text
    argument = tasks.argument_of(text)
    tags = tasks.tags_of(text) if {" ", "="} & set(text) else []  # "customer 200" means customer:200
    tag = tags[0] if tags else text
    by_queue = visit.dashboard.counts().by_queue.get(text, {})
    ways: list[tuple[str, str, Callable[[], str | None]]] = [
        ("id", visit.url("/jobs", id=text), lambda: _count(visit, JobFilter(id_prefix=text))),
        ("task", visit.url("/jobs", task=task), lambda: _count(visit, JobFilter(task=task))),
        ("queue", visit.url("/jobs", queue=text), lambda: str(sum(by_queue.values()))),
        ("tag", visit.url("/jobs", tag=tag), lambda: _count(visit, JobFilter(tag=tag))),
        ("error", visit.url("/jobs", error=text), lambda: _failed(visit, text)),
    ]
    if visit.may(Permission.VIEW_ARGUMENTS):
        ways.append(("argument", visit.url("/jobs", arg=argument), lambda: None))
    return [Offer(kind, address, count()) for kind, address, count in ways if kind != without]


def _count(visit: Visit, where: JobFilter) -> str:
    page = visit.fire.jobs.page(where, limit=_COUNTED)
    return f"{len(page)}{'+' if page.cursor else ''}"


def _failed(visit: Visit, text: str) -> str | None:
    """Return the number of failed jobs with this string.

    The result is None if there are no such jobs, because jobs that wait for a retry might contain the string.
    """
    counted = sum(count for _, _, count, _ in _causes(visit, text))
    return str(counted) if counted else None


# ---- the page --------------------------------------------------------------------------------------------


def show_search(visit: Visit) -> Response:
    """Show the results for a string; the palette requests the part `options`."""
    text = visit.query.value(_Q)
    return visit.page(
        "search.html", title=visit.text("search.title"), section="search", text=text,
        argument=lambda: known_tasks(visit).argument_of(text),
        groups=lambda: groups(visit, text),
    )  # fmt: skip


ROUTES = (Route("GET", "/search", Permission.READ, show_search, (_Q,)),)
