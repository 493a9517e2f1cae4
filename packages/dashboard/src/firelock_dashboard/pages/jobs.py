"""The Jobs and Retries pages, with lists filtered by state and chips, and suggestions while typing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs
from starlette.responses import RedirectResponse, StreamingResponse

from firelock import ConfigurationError, JobNotFound, Retry
from firelock.storage import FINAL_STATES, Applied, JobFilter, JobRecord, MemoKind, State
from firelock_dashboard.pages import search
from firelock_dashboard.pages.suggestions import known_tasks, starts, suggestions
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.job_search import (
    ARGUMENT,
    CHIP_FIELDS,
    SECONDS,
    STATE,
    Chip,
    Chips,
    JobsFound,
    KnownTasks,
    SearchPlan,
    count_up_to,
    every_match,
    find_page,
    plan,
    read_typed,
)
from firelock_dashboard.stats.waiting import Parent, by_end
from firelock_dashboard.web.actions import (
    MANY,
    TO_PRIORITY,
    TO_QUEUE,
    change_jobs,
    move_jobs,
    move_target,
    operation_address,
    start_operation,
)
from firelock_dashboard.web.fields import (
    Choice,
    Cursor,
    Field,
    Flag,
    Integer,
    Moment,
    SentFields,
    SpanOrMoment,
    Text,
    Texts,
)
from firelock_dashboard.web.formatting import instant, iso, span, task_name
from firelock_dashboard.web.payloads import IN_LISTS, summary
from firelock_dashboard.web.request import Undo
from firelock_dashboard.web.routes import BACK, Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import JsonValue
    from firelock.storage import Edge
    from firelock_dashboard.stats.retries import Retrying
    from firelock_dashboard.web.request import Visit

SIZES = (25, 50, 100, 200)
_SIZE = 50
_MOVED = frozenset({State.AWAITING, State.SCHEDULED, State.ENQUEUED})  # the states of jobs that can be moved
_LINE = 240
_PARENTS = 500  # the maximum number of parents that are read for one page
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_Q, _TOP = Text("q", limit=1_000, default=""), Text("top")
_LIMIT = Integer("limit", least=SIZES[0], most=SIZES[-1], default=_SIZE)
_CURSOR, _AT = Cursor("cursor", limit=600), Moment("at")
_TABS = ("", "enqueued", "processing", "scheduled", "retrying", "awaiting", "succeeded", "failed", "deleted")


class ListOrder(StrEnum):
    """The order of a list: by time or, for scheduled jobs, by due time."""

    NEWEST = "newest"
    OLDEST = "oldest"
    SOONEST = "soonest"
    LATEST = "latest"

    @property
    def is_by_due(self) -> bool:
        """Whether the order is by due time."""
        return self in {ListOrder.SOONEST, ListOrder.LATEST}


@attrs.frozen
class _Tab:
    name: str  # a state, "retrying", or empty for all
    address: str
    count: int | Retrying | None
    is_current: bool


@attrs.frozen
class _JobRow:
    record: JobRecord
    state: str  # the displayed state, which may be "retrying"
    call: str | None  # the arguments on one line; None if the visitor may not see them
    attempts: int | None  # the maximum number of attempts
    started_at: datetime | None = None  # the start of a running job, if it is known
    parents: Sequence[Parent] = ()  # the jobs that this job waits for; empty if they were not read

    @property
    def is_requeued(self) -> bool:
        """Whether the job had ended before its current attempt."""
        return was_requeued(self.record)

    @property
    def waits_for(self) -> tuple[str, dict[str, object]] | None:
        """The reason why the job waits, as a key of `jobs.toml` with its values.

        The value is None if only the job's own page shows the reason.
        """
        job = self.record
        if job.state is State.AWAITING:
            kind, _, name = (job.waits_for or "").partition(" ")
            if kind in {MemoKind.SIGNAL, MemoKind.CALL}:
                return f"waits_{kind}", {"name": name}
            return self._waits_for_parents() if job.parents else None
        if job.state is State.ENQUEUED and job.admission is not None and job.admission.limits:
            *keys, last = [one.key for one in job.admission.limits]
            limits = f"{', '.join(keys)} and {last}" if keys else last
            return "waits_limits", {"limits": limits, "count": len(keys) + 1}
        return None

    @property
    def cannot_start(self) -> bool:
        """Whether the job waits for a job that has failed or is no longer stored."""
        missing, failed, _, _ = by_end(self.parents)
        return bool(missing or failed)

    def _waits_for_parents(self) -> tuple[str, dict[str, object]]:
        """Return the key and values of the text about the parents for which the job still waits.

        Parents that have failed or are not stored come first, because they cannot end without help.
        """
        if not self.parents:
            return "waits_parents", {"count": len(self.record.parents)}
        missing, failed, unended, met = by_end(self.parents)
        total = len(self.parents)
        if missing:
            return "waits_gone", {"count": len(missing)}
        if failed:
            values = {"count": len(failed), "task": task_name(failed[0].task or "–")}
            if total == 1:
                return "waits_failed", values
            return "waits_failed_of", {**values, "done": len(met), "all": total}
        return (
            ("waits_left", {"count": len(unended), "all": total})
            if total > 1
            else ("waits_parents", {"count": 1})
        )

    @property
    def seconds(self) -> float | None:
        """The last attempt's duration in seconds; None if none ended or a delete replaced its end time."""
        job = self.record
        if job.state is State.DELETED:
            return None
        ended = job.ended_at if job.is_final else job.changed_at if job.is_retrying else None
        return None if ended is None or job.started_at is None else (ended - job.started_at) / 1_000_000

    @property
    def waits_since(self) -> datetime | None:
        """The time when the job started to run or wait."""
        job = self.record
        match job.state:
            case State.PROCESSING:
                return self.started_at or instant(job.claimed_at)
            case State.ENQUEUED:
                return instant(job.enqueued_at or job.created_at)
            case State.AWAITING:
                return instant(job.created_at)
            case _:
                return None


_ORDER = Choice("order", choices=tuple(ListOrder))
_LIST_FIELDS: tuple[Field[Any], ...] = (*CHIP_FIELDS, _ORDER, _AT)
_PAGED_FIELDS: tuple[Field[Any], ...] = (*_LIST_FIELDS, _LIMIT, _CURSOR)


def _usual(chips: Chips) -> ListOrder:
    if chips.is_retrying or chips.state is State.SCHEDULED:
        return ListOrder.SOONEST
    return ListOrder.OLDEST if chips.state is State.ENQUEUED else ListOrder.NEWEST


@attrs.define(slots=False)
class Listing:
    """A requested list of jobs, and the data of its page."""

    visit: Visit
    chips: Chips
    size: int
    order: ListOrder
    cursor: str | None
    at: datetime  # the time at which ages are calculated

    @classmethod
    def read(cls, visit: Visit, *, is_retrying: bool = False, is_whole: bool = False) -> Listing:
        """Return the list that a query requests; if `is_whole` is true, the list is not divided into pages.

        Raises:
            BadRequest: If a field is invalid.
            Forbidden: If the query contains arguments, and the visitor may not see arguments.
        """
        query = visit.query
        chips = Chips.read(query, is_retrying=is_retrying)
        if chips.arguments:
            visit.require(Permission.VIEW_ARGUMENTS)
        order = query.maybe(_ORDER) or _usual(chips)
        if order.is_by_due and not _usual(chips).is_by_due:
            raise BadRequest(f"order={order} is only for scheduled jobs and retries; use newest or oldest.")
        at = query.maybe(_AT) or visit.now
        if is_whole:
            return cls(visit, chips, _SIZE, order, None, at)
        return cls(visit, chips, query.value(_LIMIT), order, query.maybe(_CURSOR), at)

    @cached_property
    def known(self) -> KnownTasks:
        """The known tasks."""
        return known_tasks(self.visit)

    @property
    def is_oldest_first(self) -> bool:
        """Whether the list is in ascending order of time."""
        return self.order in {ListOrder.OLDEST, ListOrder.SOONEST}

    @property
    def turned(self) -> str:
        """The URL of the list in reverse order."""
        usual = _usual(self.chips)
        ways = (
            (ListOrder.SOONEST, ListOrder.LATEST)
            if self.order.is_by_due
            else (ListOrder.NEWEST, ListOrder.OLDEST)
        )
        other = ways[self.order is ways[0]]
        return self.link(order=None if other is usual else other)

    @cached_property
    def plan(self) -> SearchPlan:
        """The search plan for the chips."""
        return plan(
            self.chips, self.at, self.known, self.visit.arguments_value, by_due=self.order.is_by_due,
            masked=self.visit.redacted,
        )  # fmt: skip

    @cached_property
    def found(self) -> JobsFound:
        """The jobs of the page."""
        return find_page(
            self.visit.fire, self.plan, limit=self.size, cursor=self.cursor, oldest_first=self.is_oldest_first
        )

    @cached_property
    def rows(self) -> list[_JobRow]:
        """The jobs of the page with the data that is shown next to them."""
        started = starts(self.visit, self.found.jobs)
        parents = self._parents()
        return [
            _JobRow(
                job,
                "retrying" if job.is_retrying else job.state.value,
                self._call(job),
                attempts_of(self.visit, job),
                instant(started.get(job.id)),
                parents.get(job.id, ()),
            )
            for job in self.found.jobs
        ]

    def _parents(self) -> dict[str, list[Parent]]:
        """Return the parents that the rows wait for, in one read of at most 500 parents."""
        edges: dict[str, Sequence[Edge]] = {}
        wanted: set[str] = set()
        for job in self.found.jobs:
            if job.state is State.AWAITING and job.waits_for is None and job.parents:
                more = wanted | {edge.parent_id for edge in job.parents}
                if len(more) <= _PARENTS:
                    wanted, edges[job.id] = more, job.parents
        ids = sorted(wanted)
        found = dict(zip(ids, self.visit.fire.storage.get(ids), strict=True)) if ids else {}
        return {
            job_id: [_parent(edge, found[edge.parent_id]) for edge in relations]
            for job_id, relations in edges.items()
        }

    def _call(self, job: JobRecord) -> str | None:
        given = self.visit.arguments(job, limit=IN_LISTS)
        if isinstance(given.value, dict):
            return summary(given.value)
        return None if given.is_hidden else given.line[:_LINE]

    # ---- URLs ----------------------------------------------------------------------------------------------

    def query(self, **more: object) -> dict[str, object]:
        """Return the query fields of this list, without its page."""
        shown = {
            "limit": None if self.size == _SIZE else self.size,
            "order": None if self.order is _usual(self.chips) else self.order,
        }
        return {**self.chips.query(), **shown, **more}

    def link(self, **more: object) -> str:
        """Return the URL of this list with other fields."""
        return self.visit.url.of(self.chips.path, self.query(**more))

    @property
    def older(self) -> str | None:
        """The URL of the next page."""
        if self.found.cursor is None:
            return None
        at = self.at.isoformat() if self.chips.created else None
        return self.link(cursor=self.found.cursor, at=at)

    def without(self, chip: Chip) -> str:
        """Return the URL of the list without one condition."""
        query = self.query() | dict.fromkeys(self.chips.query()) | dict(chip.rest)
        return self.visit.url.of(self.chips.path, query)

    @property
    def added(self) -> str:
        """The number of new rows above the previous first row, with a + if there may be more."""
        ids, top = [job.id for job in self.found.jobs], self.visit.query.maybe(_TOP)
        return str(ids.index(top)) if top in ids else f"{len(ids)}+"

    def may_be_all(self, verb: str) -> bool:
        """Return whether the visitor may start this action on all jobs of the list.

        The list must have enough conditions to prevent an accidental requeue of all jobs.
        """
        is_chosen = self.chips.state is not None or self.chips.is_retrying
        if verb == "move" and self.chips.state not in {None, *_MOVED}:
            return False
        return self.plan.is_whole and (is_chosen or (verb != "requeue" and not self.chips.is_bare))

    def wants_for(self, verb: str) -> str:
        """Return the condition that an action on all jobs of the list requires.

        The condition is a state, a state of waiting jobs, or any filter.
        """
        if verb == "requeue":
            return "state"
        return "waiting" if verb == "move" and self.chips.state is not None else "filter"

    def of_all(self, path: str, **more: object) -> str:
        """Return the URL of a view that applies to all jobs of the list."""
        retrying = "1" if self.chips.is_retrying else None
        return self.visit.url.of(path, {**more, "retrying": retrying, **self.chips.query()})

    # ---- around the rows -----------------------------------------------------------------------------------

    def tabs(self) -> list[_Tab]:
        """Return the tabs of the states, each with its count if it is known without a search."""
        current = "retrying" if self.chips.is_retrying else str(self.chips.state or "")
        counts: dict[str, int | Retrying | None] = {name: self._count(name) for name in _TABS}
        if not self.chips.shown():
            counts["retrying"] = self.visit.dashboard.retrying()
        return [_Tab(name, self._of_state(name), counts[name], name == current) for name in _TABS]

    def _of_state(self, name: str) -> str:
        is_retrying = name == "retrying"
        query = {**self.query(), "state": None if is_retrying or not name else name}
        # the order and the period have another meaning in a list by due time, so the link leaves them out
        if (name in {"scheduled", "retrying"}) != _usual(self.chips).is_by_due:
            query |= dict.fromkeys(("order", "since", "until"))
        return self.visit.url.of("/retries" if is_retrying else "/jobs", query)

    def _count(self, name: str) -> int | None:
        """Return the number of matching jobs in a state; None if only a search could determine it."""
        if name == "retrying" or {chip.name for chip in self.chips.shown()} - {"queue"}:
            return None
        return self._counted(State(name) if name else None, self.chips.queue)

    def _counted(self, state: State | None, queue: str | None) -> int:
        counts = self.visit.dashboard.counts()
        by_state = counts.by_state if queue is None else counts.by_queue.get(queue, {})
        return sum(by_state.values()) if state is None else by_state.get(state, 0)

    @property
    def total(self) -> int | None:
        """The number of jobs in the list; None if only a search could determine it."""
        if len(self.found.jobs) < self.size and self.cursor is None and self.found.cursor is None:
            return len(self.found.jobs)
        return self._count("retrying" if self.chips.is_retrying else str(self.chips.state or ""))

    @property
    def kept(self) -> str | None:
        """The retention of the list's ended jobs; None if the list contains no ended jobs."""
        state = self.chips.state or State.SUCCEEDED
        if self.chips.is_retrying or state not in FINAL_STATES:
            return None
        text, keep = self.visit.text, getattr(self.visit.fire.settings, f"keep_{state}")
        key = "jobs.kept_succeeded" if state is State.SUCCEEDED else "jobs.kept"
        return text(key, state=text(f"states.{state}"), span=span(keep))

    @property
    def searched_of(self) -> int | None:
        """The number of jobs that the search must check; None if it is not known."""
        where = self.plan.where
        if where != JobFilter(state=where.state, queue=where.queue, by_due=where.by_due):
            return None
        return self._counted(where.state, where.queue)

    @cached_property
    def single_condition(self) -> tuple[str, str] | None:
        """The kind and the string of the visitor's search; None if no condition is a search string."""
        chips = self.chips
        argument = next(iter(chips.arguments), None)
        if argument is not None and (path := ARGUMENT.fullmatch(argument)):
            argument = path["value"]
        special = {"argument": argument, "tag": next(iter(chips.tags), None)}
        kinds = ("error", "argument", "task", "id", "tag", "queue", "server", "recurring")
        tried = ((kind, special.get(kind, getattr(chips, kind, None))) for kind in kinds)
        return next(((kind, text) for kind, text in tried if text), None)

    def offers(self) -> list[search.Offer]:
        """Return other searches that might find a string that this list did not find."""
        if self.single_condition is None:
            return []
        kind, text = self.single_condition
        return search.offers(self.visit, text, without=kind)


def _parent(edge: Edge, job: JobRecord | None) -> Parent:
    if job is None:
        return Parent(edge.parent_id, edge.on.value, None)
    return Parent(edge.parent_id, edge.on.value, job.state, job.task)


def was_requeued(job: JobRecord) -> bool:
    """Return whether a job was requeued after some attempts, which resets its number of retries to 0."""
    return job.attempt > job.retries + 1


def attempts_of(visit: Visit, job: JobRecord) -> int | None:
    """Return the maximum number of attempts of a job; None if its policy is unknown here or not a `Retry`."""
    if job.retry is not None:
        try:
            return Retry.from_json(job.retry).attempts + 1
        except ConfigurationError:
            return None
    info = visit.fire.registry.get(job.task)
    return info.retry.attempts + 1 if info is not None and isinstance(info.retry, Retry) else None


# ---- views -------------------------------------------------------------------------------------------------


def show_jobs(visit: Visit, *, is_retrying: bool = False) -> Response:
    """Show all jobs, the jobs that the chips select, or the jobs that wait for a retry."""
    if _Q in visit.query:
        return _from_typed(visit, is_retrying=is_retrying)
    listing = Listing.read(visit, is_retrying=is_retrying)
    state = "retrying" if is_retrying else listing.chips.state
    section = "retries" if is_retrying else f"jobs:{state}" if state else "jobs"
    title = visit.text("nav.jobs")
    if state:
        title = visit.text("jobs.title_state", state=visit.text(f"states.{state}"))
    return visit.page("jobs.html", title=title, section=section, list=listing, sizes=SIZES)


def _kind_of(visit: Visit, word: str) -> str | None:
    """Return the kind of chip (tag or queue) that has this word as an exact value, by one indexed lookup."""
    if len(visit.fire.jobs.page(JobFilter(tag=word), limit=1)):
        return "tag"
    return "queue" if word in visit.dashboard.counts().by_queue else None


def _from_typed(visit: Visit, *, is_retrying: bool) -> Response:
    """Redirect from typed text to the equivalent URL; a whole id redirects to the job."""
    typed = visit.query.value(_Q)
    chips = Chips.read(visit.query, is_retrying=is_retrying)
    if _ID.fullmatch(typed.lower()):
        return RedirectResponse(visit.url(f"/jobs/{typed.lower()}"), 303)
    pairs = read_typed(typed, known_tasks(visit), chips.query(), partial(_kind_of, visit))
    state = dict(pairs).get("state")
    is_retrying = state == "retrying" or (is_retrying and state is None)
    pairs = [pair for pair in pairs if pair != ("state", "retrying")]
    # report an invalid chip now, not after a redirect
    found = Chips.read(SentFields(pairs), is_retrying=is_retrying)
    address = visit.url.of(
        found.path, {name: [one for key, one in pairs if key == name] for name, _ in pairs}
    )
    if len(address) > 8_000:  # noqa: PLR2004 - the length that servers accept
        raise BadRequest("The URL for q is too long; use a shorter text.")
    return RedirectResponse(address, 303)


def suggest(visit: Visit) -> Response:
    """Return completions of the typed text, as options of a list."""
    text = visit.query.value(_Q)
    return visit.page(
        "job_suggestions.html", title=visit.text("jobs.suggestions"), section="jobs",
        options=suggestions(visit, text),
    )  # fmt: skip


EXPORTED = 10_000
_IDS = 500
_FIRST = 10
_VERBS = {"requeue": Permission.REQUEUE, "delete": Permission.DELETE, "move": Permission.REQUEUE}
_TARGET = (TO_QUEUE, TO_PRIORITY)
_ENDED = ("succeeded", "deleted")
_ONE, _SELECTED, _EXPORTED = Text("one"), Texts("id", most=_IDS), Texts("selected", most=_IDS)
_CHOSEN = (_ONE, _SELECTED)
_WHEN = SpanOrMoment("when", is_required=True)
_RETRYING = Flag("retrying")
_VERB = Choice("verb", choices=tuple(_VERBS), default="requeue")
_ALL: tuple[Field[Any], ...] = (_RETRYING, STATE, *_LIST_FIELDS)
_COUNTED_JOBS = Integer("counted", least=0, most=10**12, may_be_empty=True)
_TYPED = Text("typed", default="", may_be_empty=True)
_RESTORABLE = frozenset({State.SCHEDULED, State.ENQUEUED, State.FAILED})
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


# ---- selected jobs ---------------------------------------------------------------------------------------


def requeue(visit: Visit) -> Response:
    """Enqueue the jobs, except those that are enqueued or running."""
    ids = _ids(visit)
    return _answer(visit, "requeue", ids, change_jobs(visit, "requeue", ids))


def delete(visit: Visit) -> Response:
    """Delete the jobs; order running ones to stop."""
    ids = _ids(visit)
    before = visit.fire.storage.get(ids)
    results = change_jobs(visit, "delete", ids)
    lost_nothing = [
        job.id
        for job, result in zip(before, results, strict=True)
        if job is not None and result is Applied.APPLIED and job.state in _RESTORABLE
    ]
    undo = Undo("/jobs/restore", {"id": lost_nothing}) if lost_nothing else None
    stopped = sum(
        job is not None and result.is_applied and job.state is State.PROCESSING
        for job, result in zip(before, results, strict=True)
    )
    if stopped:
        return _answer(visit, "delete", ids, results, undo=undo, stopped=stopped)
    return _answer(visit, "delete", ids, results, undo=undo)


def restore(visit: Visit) -> Response:
    """Undo deletes that lost no data; for a single job, report why this is not possible."""
    ids = _ids(visit)
    results = change_jobs(visit, "restore", ids)
    if len(ids) == 1 and results[0] is Applied.REFUSED:
        why = visit.fire.jobs.why_not_restored(ids)[0]
        raise BadRequest(visit.text("job.not_restored", why=why or "it was changed meanwhile"))
    return _answer(visit, "restore", ids, results)


def reschedule(visit: Visit) -> Response:
    """Change the due time of the scheduled jobs."""
    ids, when = _ids(visit), visit.form.value(_WHEN)
    results = visit.fire.jobs.reschedule(ids, when, reason=f"rescheduled by {visit.who}")
    return _answer(visit, "reschedule", ids, results, when=str(when))


def move(visit: Visit) -> Response:
    """Move the waiting jobs to another queue or priority; for a single job, report why this is not possible.

    Without a target, the response is a form for it, because a browser without scripts shows no dialog.
    """
    ids = _ids(visit)
    named = {name for name, _ in visit.form.pairs()}
    if not visit.wants_json and not named.intersection(field.name for field in _TARGET):
        back = visit.url.back(visit.form.maybe(BACK))
        return visit.page(
            "jobs_move.html", title=visit.text("jobs.move_title"), section="jobs", ids=ids, back=back
        )
    target = move_target(visit.form)
    results = move_jobs(visit, ids, target)
    if len(ids) == 1 and results[0] is Applied.REFUSED:
        why = visit.fire.jobs.why_not_moved(ids)[0]
        raise BadRequest(visit.text("jobs.not_moved", why=why or "it was changed meanwhile"))
    return _answer(visit, "move", ids, results, **{f"to_{name}": value for name, value in target.items()})


def copy(visit: Visit) -> Response:
    """Enqueue a copy of each job."""
    ids = _ids(visit)
    made: list[JsonValue] = []
    for job_id in ids:
        with suppress(JobNotFound):
            made.append(visit.fire.jobs.copy(job_id, reason=f"copied from {job_id} by {visit.who}").id)
    results = [Applied.APPLIED] * len(made) + [Applied.MISSING] * (len(ids) - len(made))
    link = visit.url(f"/jobs/{made[0]}") if len(made) == 1 else None
    return _answer(visit, "copy", ids, results, link=link, made=made[:_FIRST])


def _ids(visit: Visit) -> list[str]:
    """Return the ids in the form: the id of a single row, or the ids of the selected rows."""
    one = visit.form.maybe(_ONE)
    ids = [one] if one else visit.form.maybe(_SELECTED) or []
    if not ids:
        raise BadRequest(visit.text("jobs.none_selected"))
    return list(dict.fromkeys(ids))


def _answer(
    visit: Visit, verb: str, ids: Sequence[str], results: Sequence[Applied], *, link: str | None = None,
    undo: Undo | None = None, **detail: JsonValue,
) -> Response:  # fmt: skip
    """Record the action in the audit, and return the response with the numbers of jobs."""
    applied = sum(result in {Applied.APPLIED, Applied.RELEASE_NEEDED} for result in results)
    missing = sum(result is Applied.MISSING for result in results)
    skipped = len(results) - applied - missing
    target = ids[0] if len(ids) == 1 else visit.text("jobs.count", count=len(ids))
    visit.audit(
        f"jobs.{verb}", target, count=applied, skipped=skipped, missing=missing, ids=list(ids[:_FIRST]),
        **detail,
    )  # fmt: skip
    parts = [visit.text(f"jobs.done_{verb}", count=applied)]
    for key, count in ((f"skipped_{verb}", skipped), ("missing", missing)):
        if count:
            parts.append(visit.text(f"jobs.{key}", count=count))
    kind = "good" if applied else "note"
    return visit.done(" · ".join(parts), to="/jobs", kind=kind, link=link, undo=undo)


# ---- all matching jobs -----------------------------------------------------------------------------------


def _is_retrying(visit: Visit) -> bool:
    """Return whether the request is for the list of retries.

    Raises:
        BadRequest: If the request is for scheduled jobs without retries, for which there is no list.
    """
    is_retrying = visit.query.maybe(_RETRYING)
    if is_retrying is False:
        raise BadRequest(
            "retrying must be true or missing here, because the list of scheduled jobs contains the retries."
        )
    return bool(is_retrying)


def _wished(visit: Visit, verb: str) -> Listing:
    """Return the list for an action on all of its jobs.

    Raises:
        BadRequest: If the action on this list is possible only for selected jobs.
        Forbidden: If the visitor does not have the permission.
    """
    visit.require(_VERBS[verb])
    listing = Listing.read(visit, is_retrying=_is_retrying(visit), is_whole=True)
    if not listing.plan.is_whole:
        raise BadRequest(visit.text("jobs.all_by_selection"))
    if not listing.may_be_all(verb):
        raise BadRequest(visit.text(f"jobs.all_needs_{listing.wants_for(verb)}"))
    return listing


def _counted(visit: Visit, verb: str, listing: Listing) -> _Counted:
    """Return the number of matching jobs by their current state."""
    visit.dashboard.invalidate()  # the confirmation question must show current numbers
    plan, total = listing.plan, listing.total
    if plan.where.state is not None:
        name = "retrying" if plan.where.is_retrying else str(plan.where.state)
        count, is_all = (total, True) if total is not None else count_up_to(visit.fire, plan)
        return _Counted(((name, count),) if count else (), is_all)
    states = [state for state in State if state is not State.DELETED]
    if verb == "move":
        states = [state for state in states if state in _MOVED]
    found = {
        str(state): count_up_to(
            visit.fire, attrs.evolve(plan, where=attrs.evolve(plan.where, state=state)),
            seconds=SECONDS / len(states),
        )
        for state in states
    }  # fmt: skip
    by_state = tuple((name, count) for name, (count, _) in found.items() if count)
    return _Counted(by_state, all(is_all for _, is_all in found.values()))


@attrs.frozen
class _Counted:
    """The number of jobs that an action on all matching jobs affects."""

    by_state: tuple[tuple[str, int], ...]
    is_all: bool  # whether all jobs were counted

    @property
    def total(self) -> int:
        """The minimum number of jobs."""
        return sum(count for _, count in self.by_state)

    @property
    def is_typed(self) -> bool:
        """Whether the visitor must type the number: for many jobs, or if some succeeded or were deleted."""
        return not self.is_all or self.total > MANY or any(name in _ENDED for name, _ in self.by_state)

    def is_known(self, seen: int | None, typed: str) -> bool:
        """Return whether the typed number is the shown number, and the current number is not much larger."""
        digits = "".join(sign for sign in typed if sign.isdigit())
        if seen is None or digits != str(seen):
            return False
        return self.total <= seen + max(MANY // 10, seen // 10)


def confirm_all(visit: Visit) -> Response:
    """Show the action with the number of jobs, and the button that starts it."""
    verb = visit.query.value(_VERB)
    listing = _wished(visit, verb)
    return _ask(visit, verb, listing, _counted(visit, verb, listing))


def _ask(visit: Visit, verb: str, listing: Listing, counted: _Counted, *, problem: str = "") -> Response:
    return visit.page(
        "jobs_all.html", title=visit.text(f"jobs.all_{verb}"), section="jobs", list=listing,
        counted=counted, verb=verb, problem=problem, status=400 if problem else 200,
        act=listing.of_all(f"/jobs/all/{verb}", at=listing.at.isoformat()),
    )  # fmt: skip


def start_all(visit: Visit, verb: str) -> Response:
    """Store the operation and start it; the page of operations shows its progress."""
    listing = _wished(visit, verb)
    counted, chips = _counted(visit, verb, listing), listing.chips.query()
    target = move_target(visit.form) if verb == "move" else None
    if counted.is_typed and not counted.is_known(visit.form.maybe(_COUNTED_JOBS), visit.form.value(_TYPED)):
        problem = visit.text("jobs.all_not_typed", count=counted.total, number=str(counted.total))
        if visit.wants_json:
            raise BadRequest(problem)
        return _ask(visit, verb, listing, counted, problem=problem)
    operation = start_operation(
        visit, verb, listing.plan.where, target=visit.text("jobs.everything"), contains=listing.plan.contains,
        to=target, filter={name: str(value) for name, value in chips.items() if value},
    )  # fmt: skip
    link = operation_address(visit, operation)
    return visit.done(visit.text(f"jobs.started_{verb}"), to="/activity", kind="note", link=link)


# ---- export ----------------------------------------------------------------------------------------------

_COLUMNS = (
    "id", "task", "state", "queue", "priority", "attempt", "tags", "created", "due", "started", "ended",
    "server", "error", "message", "reason", "arguments",
)  # fmt: skip

_FORMS = {
    "csv": ("csv", "text/csv"), "ndjson": ("ndjson", "application/x-ndjson"), "ids": ("txt", "text/plain"),
}  # fmt: skip


_FORMAT = Choice("format", choices=tuple(_FORMS), default="csv")


def export(visit: Visit) -> Response:
    """Export up to 10,000 rows of the list, as CSV, as one JSON object per line, or only the ids."""
    form = visit.query.value(_FORMAT)
    selected = visit.query.maybe(_EXPORTED)
    listing = Listing.read(visit, is_retrying=_is_retrying(visit), is_whole=True)
    jobs = (
        _by_ids(visit, selected)
        if selected
        else every_match(visit.fire, listing.plan, EXPORTED, oldest_first=listing.is_oldest_first)
    )
    lines = (f"{job.id}\n" for job in jobs)
    if form != "ids":
        rows = (_row(visit, job) for job in jobs)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if form == "csv":
            lines = (_line(cells) for cells in chain([_COLUMNS], map(_cells, rows)))
    suffix, kind = _FORMS[form]
    return StreamingResponse(
        lines, media_type=f"{kind}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="jobs.{suffix}"'},
    )  # fmt: skip


def _by_ids(visit: Visit, ids: Sequence[str]) -> Iterator[JobRecord]:
    for job_id in dict.fromkeys(ids):
        with suppress(JobNotFound):
            yield visit.fire.jobs.get(job_id).record()


def _row(visit: Visit, job: JobRecord) -> dict[str, object]:
    error = job.error
    given = visit.arguments(job)
    arguments = given.line if given.reason and not given.is_hidden else given.value
    values = (
        job.id, job.task, job.state.value, job.queue, job.priority, job.attempt, list(job.tags),
        iso(job.created_at), iso(job.due_at), iso(job.started_at), iso(job.ended_at), job.server or "",
        error.type if error else "", visit.redacted(error.message) if error else "",
        visit.redacted(job.reason or ""), arguments,
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def _cells(row: dict[str, object]) -> list[str]:
    arguments = "" if row["arguments"] is None else json.dumps(row["arguments"], ensure_ascii=False)
    tags = " ".join(map(str, row["tags"])) if isinstance(row["tags"], list) else ""
    return [defused(str(value)) for value in {**row, "arguments": arguments, "tags": tags}.values()]


def defused(text: str) -> str:
    """Return the text in a form that no spreadsheet interprets as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(cells: Sequence[str]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow(cells)
    return file.getvalue()


ROUTES = (
    Route("GET", "/jobs", Permission.READ, show_jobs, (_Q, _TOP, STATE, *_PAGED_FIELDS)),
    Route(
        "GET", "/retries", Permission.READ, partial(show_jobs, is_retrying=True), (_Q, _TOP, *_PAGED_FIELDS)
    ),
    Route("GET", "/jobs/suggest", Permission.READ, suggest, (_Q, STATE, *_LIST_FIELDS)),
    Route("POST", "/jobs/requeue", Permission.REQUEUE, requeue, form=_CHOSEN),
    Route("POST", "/jobs/delete", Permission.DELETE, delete, form=_CHOSEN),
    Route("POST", "/jobs/restore", Permission.DELETE, restore, form=_CHOSEN),
    Route("POST", "/jobs/reschedule", Permission.REQUEUE, reschedule, form=(*_CHOSEN, _WHEN)),
    Route("POST", "/jobs/move", Permission.REQUEUE, move, form=(*_CHOSEN, *_TARGET)),
    Route("POST", "/jobs/copy", Permission.REQUEUE, copy, form=_CHOSEN),
    Route("GET", "/jobs/all", Permission.READ, confirm_all, (_VERB, *_ALL), is_strict=True),
    *(
        Route(
            "POST",
            f"/jobs/all/{verb}",
            allowed,
            partial(start_all, verb=verb),
            _ALL,
            (_COUNTED_JOBS, _TYPED, *(_TARGET if verb == "move" else ())),
            is_strict=True,
        )
        for verb, allowed in _VERBS.items()
    ),
    Route("GET", "/jobs/export", Permission.READ, export, (_FORMAT, _EXPORTED, *_ALL), is_strict=True),
)
