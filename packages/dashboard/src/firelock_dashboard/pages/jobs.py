"""Jobs and retries: lists by state and chips, page by page, with suggestions while one types."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import attrs
from starlette.responses import RedirectResponse

from firelock import ConfigurationError, Retry
from firelock.storage import JobFilter, JobRecord, State
from firelock_dashboard import knowledge
from firelock_dashboard.access import Permission
from firelock_dashboard.calls import summary
from firelock_dashboard.filters import ARGUMENT, LIST_FIELDS, Chip, Chips, Plan, plan
from firelock_dashboard.pages import search
from firelock_dashboard.payloads import IN_LISTS
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.routes import Route
from firelock_dashboard.searching import Found, find_page
from firelock_dashboard.typed import Known, read_typed
from firelock_dashboard.words import instant

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import JsonValue
    from firelock_dashboard.visit import Visit

__all__ = ["ROUTES", "SIZES", "Listing", "attempts_of"]

SIZES = (25, 50, 100, 200)
_SIZE = 50
_TYPED = 1_000
_TAGS = 2
_LINE = 240
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TABS = ("", "enqueued", "processing", "scheduled", "retrying", "awaiting", "succeeded", "failed", "deleted")


class Order(StrEnum):
    """How a list is ordered: by time, or, where jobs are scheduled, by when they are due."""

    NEWEST = "newest"
    OLDEST = "oldest"
    SOONEST = "soonest"
    LATEST = "latest"

    @property
    def is_by_due(self) -> bool:
        """Tell whether it is by when jobs are due."""
        return self in {Order.SOONEST, Order.LATEST}


@attrs.frozen
class _Tab:
    name: str  # a state, "retrying", or empty for all
    address: str
    count: int | None
    is_current: bool


@attrs.frozen
class _Row:
    record: JobRecord
    state: str  # as it is shown: a state, or "retrying"
    call: str | None  # the arguments on one line; None where they may not be seen
    attempts: int | None  # how many it may have
    started_at: datetime | None = None  # of one that runs, as far as it shows

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that have room."""
        return self.record.tags[:_TAGS]

    @property
    def further_tags(self) -> tuple[str, ...]:
        """The tags that have none."""
        return self.record.tags[_TAGS:]

    @property
    def seconds(self) -> float | None:
        """How long its last attempt took; None where it has none that ended, or a delete hides its end."""
        job = self.record
        if job.state is State.DELETED:
            return None
        ended = job.ended_at if job.is_final else job.changed_at if job.is_retrying else None
        return None if ended is None or job.started_at is None else (ended - job.started_at) / 1_000_000

    @property
    def waits_since(self) -> datetime | None:
        """Since when it has been running or waiting for a worker."""
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


@attrs.define(slots=False)
class Listing:
    """A list as it is asked for, and what its page shows of it."""

    visit: Visit
    chips: Chips
    size: int
    order: Order
    cursor: str | None
    at: datetime  # the instant from which ages count

    @classmethod
    def read(cls, visit: Visit, *, is_retrying: bool = False) -> Listing:
        """Return the list that a query asks for.

        Raises:
            BadRequest: a field is wrong.
            Forbidden: arguments are asked for by somebody who may not see them.
        """
        query = visit.query
        chips = Chips.read(query, is_retrying=is_retrying)
        if chips.arguments:
            visit.require(Permission.VIEW_ARGUMENTS)
        size = query.number("limit", _SIZE, least=SIZES[0], most=SIZES[-1])
        is_scheduled = chips.is_retrying or chips.state is State.SCHEDULED
        order = query.choice("order", Order) or (Order.SOONEST if is_scheduled else Order.NEWEST)
        if order.is_by_due and not is_scheduled:
            raise BadRequest(f"order={order} is for scheduled jobs and retries; give newest or oldest.")
        cursor = query.maybe("cursor", limit=600)
        return cls(visit, chips, size, order, cursor, query.moment("at") or visit.now)

    @cached_property
    def known(self) -> Known:
        """What is known of tasks."""
        return knowledge.known_tasks(self.visit)

    @property
    def is_by_due(self) -> bool:
        """Tell whether the list is in order of when its jobs are due."""
        return self.order.is_by_due

    @property
    def is_oldest_first(self) -> bool:
        """Tell whether the list's time ascends."""
        return self.order in {Order.OLDEST, Order.SOONEST}

    @property
    def turned(self) -> str:
        """The address of the list in the other direction."""
        other = {
            Order.NEWEST: Order.OLDEST, Order.OLDEST: Order.NEWEST,
            Order.SOONEST: Order.LATEST, Order.LATEST: Order.SOONEST,
        }[self.order]  # fmt: skip
        return self.link(order=None if other is self._usual else other)

    @property
    def _usual(self) -> Order:
        is_scheduled = self.chips.is_retrying or self.chips.state is State.SCHEDULED
        return Order.SOONEST if is_scheduled else Order.NEWEST

    @cached_property
    def plan(self) -> Plan:
        """How the chips are answered."""
        return plan(
            self.chips, self.at, self.known, self._arguments, by_due=self.is_by_due,
            masked=self.visit.redacted,
        )  # fmt: skip

    def _arguments(self, job: JobRecord) -> JsonValue:
        return self.visit.arguments_value(job)

    @cached_property
    def found(self) -> Found:
        """The jobs of the page."""
        return find_page(
            self.visit.fire, self.plan, limit=self.size, cursor=self.cursor, oldest_first=self.is_oldest_first
        )

    @cached_property
    def rows(self) -> list[_Row]:
        """The jobs of the page with what stands beside them."""
        started = knowledge.starts(self.visit, self.found.jobs)
        return [
            _Row(
                job,
                "retrying" if job.is_retrying else job.state.value,
                self._call(job),
                attempts_of(self.visit, job),
                instant(started.get(job.id)),
            )
            for job in self.found.jobs
        ]

    def _call(self, job: JobRecord) -> str | None:
        given = self.visit.arguments(job, limit=IN_LISTS)
        if isinstance(given.value, dict):
            return summary(given.value)
        return None if given.is_hidden else given.line[:_LINE]

    # ---- addresses -----------------------------------------------------------------------------------------

    def query(self, **more: object) -> dict[str, object]:
        """Return the fields that ask for this list, without its page."""
        shown = {
            "limit": None if self.size == _SIZE else self.size,
            "order": None if self.order is self._usual else self.order,
        }
        return {**self.chips.query(), **shown, **more}

    def link(self, **more: object) -> str:
        """Return the address of this list with other fields."""
        return self.visit.url.of(self.chips.path, self.query(**more))

    @property
    def older(self) -> str | None:
        """The address of what lies behind this page."""
        if self.found.cursor is None:
            return None
        at = self.at.isoformat() if self.chips.created else None
        return self.link(cursor=self.found.cursor, at=at)

    def without(self, chip: Chip) -> str:
        """Return the address of the list without one condition."""
        query = self.query() | dict.fromkeys(self.chips.query()) | dict(chip.rest)
        return self.visit.url.of(self.chips.path, query)

    @property
    def added(self) -> str:
        """How many rows stand before the one that a page has at its top; with a + where there may be more."""
        ids, top = [job.id for job in self.found.jobs], self.visit.query.maybe("top", limit=200)
        return str(ids.index(top)) if top in ids else f"{len(ids)}+"

    def may_be_all(self, verb: str) -> bool:
        """Tell whether the verb may be for every job of the list: nothing is run again by a slip."""
        is_chosen = self.chips.state is not None or self.chips.is_retrying
        return self.plan.is_whole and (is_chosen or (verb == "delete" and not self.chips.is_bare))

    def everything(self, verb: str) -> str:
        """Return the address that asks what is to be done to every job of the list."""
        retrying = "1" if self.chips.is_retrying else None
        return self.visit.url.of("/jobs/all", {"verb": verb, "retrying": retrying, **self.chips.query()})

    def export(self, form: str) -> str:
        """Return the address of the list as a file."""
        retrying = "1" if self.chips.is_retrying else None
        return self.visit.url.of("/jobs/export", {"format": form, "retrying": retrying, **self.chips.query()})

    # ---- what surrounds the rows ---------------------------------------------------------------------------

    def tabs(self) -> list[_Tab]:
        """Return the tabs of the states, each with its count where the counts say it."""
        current = "retrying" if self.chips.is_retrying else str(self.chips.state or "")
        return [_Tab(name, self._of_state(name), self._count(name), name == current) for name in _TABS]

    def _of_state(self, name: str) -> str:
        is_retrying = name == "retrying"
        query = {**self.query(), "state": None if is_retrying or not name else name}
        # By due or by change: neither order nor window mean the same in the other.
        if (name in {"scheduled", "retrying"}) != (self._usual is Order.SOONEST):
            query |= dict.fromkeys(("order", "since", "until"))
        return self.visit.url.of("/retries" if is_retrying else "/jobs", query)

    def _count(self, name: str) -> int | None:
        """Return how many jobs of a state are meant; None where only a search could tell."""
        chips = {chip.name for chip in self.chips.shown()}
        if name == "retrying" or chips - {"queue"}:
            return None
        counts = self.visit.dashboard.counts()
        by_state = counts.by_queue.get(self.chips.queue, {}) if self.chips.queue else counts.by_state
        return sum(by_state.values()) if not name else by_state.get(State(name), 0)

    @property
    def total(self) -> int | None:
        """How many jobs the list has; None where only a search could tell."""
        if len(self.found.jobs) < self.size and self.cursor is None and self.found.cursor is None:
            return len(self.found.jobs)
        return self._count("retrying" if self.chips.is_retrying else str(self.chips.state or ""))

    @property
    def searched_back_to(self) -> datetime | None:
        """Where in time the search ended that its bounds cut."""
        return instant(self.found.last_at) if self.found.is_cut else None

    @property
    def searched_of(self) -> int | None:
        """How many jobs the search has before it; None where nobody has counted them."""
        where = self.plan.where
        if where != JobFilter(state=where.state, queue=where.queue, by_due=where.by_due):
            return None
        counts = self.visit.dashboard.counts()
        by_state = counts.by_state if where.queue is None else counts.by_queue.get(where.queue, {})
        return sum(by_state.values()) if where.state is None else by_state.get(where.state, 0)

    @property
    def looked_for(self) -> str | None:
        """The text that is looked for; None where the conditions are no texts of a person."""
        return self._looked_for[1] if self._looked_for else None

    @cached_property
    def _looked_for(self) -> tuple[str, str] | None:
        chips = self.chips
        argument = next(iter(chips.arguments), None)
        if argument is not None and (path := ARGUMENT.fullmatch(argument)):
            argument = path["value"]
        tried = (
            ("error", chips.error), ("argument", argument), ("task", chips.task), ("id", chips.id),
            ("tag", next(iter(chips.tags), None)), ("queue", chips.queue), ("server", chips.server),
            ("recurring", chips.recurring),
        )  # fmt: skip
        return next(((kind, text) for kind, text in tried if text), None)

    def offers(self) -> list[search.Offer]:
        """Return where else the text may be found that this list did not find."""
        if self._looked_for is None:
            return []
        kind, text = self._looked_for
        return search.offers(self.visit, text, besides=kind)

    @property
    def is_by_change(self) -> bool:
        """Tell whether the list is in order of the last change, else of creation."""
        return self.plan.where.state is not None


def attempts_of(visit: Visit, job: JobRecord) -> int | None:
    """Return how many attempts a job may have; None where its policy is unknown here or no `Retry`."""
    if job.retry is not None:
        try:
            return Retry.from_json(job.retry).attempts + 1
        except ConfigurationError:
            return None
    info = visit.fire.registry.get(job.task)
    return info.retry.attempts + 1 if info is not None and isinstance(info.retry, Retry) else None


# ---- views -------------------------------------------------------------------------------------------------


def show_jobs(visit: Visit) -> Response:
    """Every job, or those that the chips ask for."""
    return _show(visit, is_retrying=False)


def show_retries(visit: Visit) -> Response:
    """Jobs that wait for a retry."""
    return _show(visit, is_retrying=True)


def _show(visit: Visit, *, is_retrying: bool) -> Response:
    if "q" in visit.query:
        return _from_typed(visit, is_retrying=is_retrying)
    listing = Listing.read(visit, is_retrying=is_retrying)
    state = "retrying" if is_retrying else listing.chips.state
    section = "retries" if is_retrying else f"jobs:{state}" if state else "jobs"
    title = (
        visit.text("jobs.title_state", state=visit.text(f"states.{state}"))
        if state
        else visit.text("nav.jobs")
    )
    return visit.page("jobs.html", title=title, section=section, list=listing, sizes=SIZES)


def _from_typed(visit: Visit, *, is_retrying: bool) -> Response:
    """Typed text becomes the address that says the same; one whole id opens its job."""
    typed = visit.query.text("q", limit=_TYPED)
    chips = Chips.read(visit.query, is_retrying=is_retrying)
    if _ID.fullmatch(typed.lower()):
        return RedirectResponse(visit.url(f"/jobs/{typed.lower()}"), 303)
    pairs = dict[str, list[str]]()
    for name, value in read_typed(typed, knowledge.known_tasks(visit), chips.query()):
        pairs.setdefault(name, []).append(value)
    path = "/retries" if is_retrying and "state" not in pairs else "/jobs"
    if pairs.get("state") == ["retrying"]:
        path = "/retries"
        del pairs["state"]
    address = visit.url.of(path, dict(pairs))
    _check(address, path, pairs)
    return RedirectResponse(address, 303)


def _check(address: str, path: str, pairs: dict[str, list[str]]) -> None:
    """A chip that is wrong is told now, not behind a redirect."""
    from firelock_dashboard.query import Fields  # noqa: PLC0415 - for this check alone

    if len(address) > 8_000:  # noqa: PLR2004 - what servers take as an address
        raise BadRequest("q makes an address that is too long; leave something out.")
    Chips.read(Fields.parse(urlencode(pairs, doseq=True)), is_retrying=path == "/retries")


def suggest(visit: Visit) -> Response:
    """How the text in the box may go on, as options of its list."""
    text = visit.query.text("q", limit=_TYPED)
    return visit.page(
        "job_suggestions.html", title=visit.text("jobs.suggestions"), section="jobs",
        options=knowledge.suggestions(visit, text),
    )  # fmt: skip


ROUTES = (
    Route("GET", "/jobs", Permission.READ, show_jobs, ("q", "top", "state", *LIST_FIELDS)),
    Route("GET", "/retries", Permission.READ, show_retries, ("q", "top", *LIST_FIELDS)),
    Route("GET", "/jobs/suggest", Permission.READ, suggest, ("q", "state", *LIST_FIELDS)),
)
