"""Recurring jobs: when they run, how the last runs ended; run now, pause, resume, reset, remove."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from firelock import JobConflict, JobNotFound, ScheduleError, State
from firelock_dashboard.access import Permission
from firelock_dashboard.confirming import ask_first
from firelock_dashboard.lane import Lane, lane_of
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.routes import Route
from firelock_dashboard.schedules import schedule_text, zone_of
from firelock_dashboard.visit import Undo

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Job, RecurringJob
    from firelock_dashboard.query import Fields
    from firelock_dashboard.visit import Visit

__all__ = ["ID_LIMIT", "ROUTES", "Row", "id_in", "known", "row_of"]

ID_LIMIT = 200
_SHOWN = 30  # on a page: each asks for its last runs
_RUNS = 20
_SEARCHED = 2_000  # definitions in which a text is searched
_IN_LANE = 500
_PAGE = 500


@attrs.frozen
class Row:
    """A definition as a line."""

    job: RecurringJob
    mark: str  # its id as a part of an element's id: it may hold anything
    words: str | None  # None where its schedule cannot be read
    written: str | None  # as cron, or as "every 5m"
    zone: str | None

    @property
    def id(self) -> str:
        """Its id."""
        return self.job.id

    @property
    def origin(self) -> str:
        """The key of the text that says where it came from."""
        return "gone" if self.job.is_gone else self.job.origin.name.lower()


@attrs.frozen
class _Tick:
    id: str
    state: str
    at: datetime
    took: float | None  # seconds


@attrs.frozen
class _Runs:
    ticks: list[_Tick]  # oldest first
    typical: float | None  # seconds: the median of those that succeeded


@attrs.frozen
class _Page:
    rows: list[Row]
    next: str | None
    is_cut: bool  # the search ended before the last definition


def row_of(job: RecurringJob) -> Row:
    """Return a definition as it is shown."""
    mark = hashlib.blake2b(job.id.encode(), digest_size=8).hexdigest()
    try:
        schedule = job.schedule
        return Row(job, mark, schedule.describe(), schedule_text(schedule), zone_of(schedule))
    except ScheduleError:
        return Row(job, mark, None, None, None)


# ---- the list --------------------------------------------------------------------------------------------


def show_recurring(visit: Visit) -> Response:
    """The definitions in order of id, and when they fire within a day."""
    after, wanted = visit.query.text("after", limit=ID_LIMIT), visit.query.text("q", limit=ID_LIMIT)
    return visit.page(
        "recurring.html", title=visit.text("nav.recurring"), section="recurring", after=after, wanted=wanted,
        page=lambda: _page(visit, after, wanted), runs=lambda recurring_id: _runs(visit, recurring_id),
        lane=lambda: _lane(visit),
    )  # fmt: skip


def _page(visit: Visit, after: str, wanted: str) -> _Page:
    if not wanted:
        found = visit.fire.recurring.list(after=after, limit=_SHOWN + 1)
        is_cut = False
    else:
        looked = list(islice(_from(visit, after), _SEARCHED + 1))
        matching = [one for one in looked[:_SEARCHED] if _holds(one, wanted.casefold())]
        found, is_cut = matching[: _SHOWN + 1], len(looked) > _SEARCHED and len(matching) <= _SHOWN
    shown = found[:_SHOWN]
    following = shown[-1].id if len(found) > _SHOWN else None
    return _Page([row_of(one) for one in shown], following, is_cut)


def _from(visit: Visit, after: str) -> Iterator[RecurringJob]:
    while page := visit.fire.recurring.list(after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def _holds(job: RecurringJob, wanted: str) -> bool:
    row = row_of(job)
    texts = (job.id, job.task, job.queue, row.words, row.written)
    return any(wanted in text.casefold() for text in texts if text)


def _runs(visit: Visit, recurring_id: str) -> _Runs:
    """Return how the last runs of a definition ended: one read."""
    jobs = visit.fire.recurring.runs(recurring_id, limit=_RUNS)
    ticks = [_Tick(job.id, str(job.state), job.created_at, _took(job)) for job in reversed(jobs)]
    spans = [one.took for one in ticks if one.took is not None and one.state == State.SUCCEEDED]
    return _Runs(ticks, statistics.median(spans) if spans else None)


def _took(job: Job[Any]) -> float | None:
    if job.started_at is None or job.ended_at is None or job.state is State.DELETED:
        return None  # the end of a deleted one is the delete's
    return (job.ended_at - job.started_at).total_seconds()


def _lane(visit: Visit) -> Lane:
    return lane_of(visit.fire.recurring.list(limit=_IN_LANE), visit.now)


# ---- what is done to one ---------------------------------------------------------------------------------


def id_in(fields: Fields) -> str:
    """Return the id that was sent, as it is: it may begin or end with a space.

    Raises:
        BadRequest: it is missing, sent twice, or longer than an id.
    """
    values = fields.every("id", limit=1)
    if not values or not values[0]:
        raise BadRequest("id is missing; give the id of a recurring job.")
    if len(values[0]) > ID_LIMIT or "\0" in values[0]:
        raise BadRequest(f"id has {len(values[0])} characters; an id has 1 to {ID_LIMIT} printable ones.")
    return values[0]


def known(visit: Visit, recurring_id: str) -> RecurringJob:
    """Return the definition.

    Raises:
        NotHere: there is none of this id.
    """
    try:
        return visit.fire.recurring.get(recurring_id)
    except JobNotFound as error:
        raise NotHere(visit.text("recurring.unknown", id=recurring_id)) from error


def trigger(visit: Visit) -> Response:
    """A job of the definition is enqueued now."""
    recurring_id = known(visit, id_in(visit.form)).id
    try:
        job = visit.fire.recurring.trigger(recurring_id)
    except JobConflict as error:
        raise BadRequest(str(error)) from error
    visit.audit("recurring.trigger", recurring_id, job=job.id)
    message = visit.text("recurring.triggered", id=recurring_id)
    return visit.done(message, to="/recurring", link=visit.url(f"/jobs/{job.id}"))


def pause(visit: Visit) -> Response:
    """It does not run until it is resumed."""
    return _changed(visit, "pause", visit.fire.recurring.pause)


def resume(visit: Visit) -> Response:
    """It runs again from its next instant on."""
    return _changed(visit, "resume", visit.fire.recurring.resume)


def _changed(visit: Visit, verb: str, change: Callable[[str], RecurringJob]) -> Response:
    before = known(visit, id_in(visit.form))
    try:
        change(before.id)
    except JobConflict as error:
        raise BadRequest(str(error)) from error
    visit.audit(f"recurring.{verb}", before.id)
    undo = None
    if before.is_paused is (verb == "resume"):
        undo = Undo(f"/recurring/{_OPPOSITES[verb]}", {"id": [before.id]})
    return visit.done(visit.text(f"recurring.{verb}d", id=before.id), to="/recurring", undo=undo)


_OPPOSITES = {"pause": "resume", "resume": "pause"}


def reset(visit: Visit) -> Response:
    """An edit made here is given up for what the code says."""
    recurring_id = known(visit, id_in(visit.form)).id
    try:
        after = visit.fire.recurring.reset(recurring_id, by=visit.who)
    except JobConflict as error:
        raise BadRequest(str(error)) from error
    visit.audit("recurring.reset", recurring_id, version=after.version)
    key = "recurring.awaits_code" if after.awaits_code else "recurring.was_reset"
    return visit.done(visit.text(key, id=recurring_id), to="/recurring")


def remove(visit: Visit) -> Response:
    """The definition is gone; the jobs it made stay."""
    recurring_id = known(visit, id_in(visit.form)).id
    question = visit.text("recurring.confirm_remove", id=recurring_id)
    asked = ask_first(visit, question, visit.text("recurring.remove"), section="recurring")
    if asked is not None:
        return asked
    visit.fire.recurring.remove(recurring_id)
    visit.audit("recurring.remove", recurring_id)
    return visit.done(visit.text("recurring.removed", id=recurring_id), to="/recurring")


ROUTES = (
    Route("GET", "/recurring", Permission.READ, show_recurring, ("after", "q")),
    Route("POST", "/recurring/trigger", Permission.TRIGGER, trigger, form=("id",)),
    Route("POST", "/recurring/pause", Permission.TRIGGER, pause, form=("id",)),
    Route("POST", "/recurring/resume", Permission.TRIGGER, resume, form=("id",)),
    Route("POST", "/recurring/reset", Permission.EDIT_RECURRING, reset, form=("id",)),
    Route("POST", "/recurring/remove", Permission.EDIT_RECURRING, remove, form=("id",)),
)
