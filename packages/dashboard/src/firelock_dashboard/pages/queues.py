"""The Queues page: waiting jobs, wait times, rates and servers, and actions to pause, resume and empty."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from firelock import State
from firelock.control.findings import Readings, Waiting
from firelock.jobs.blocked_by import KeyReads, held_heads
from firelock.limits import lane_of
from firelock.storage import JobFilter
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import (
    NOTE,
    QUEUE,
    operation_address,
    set_pause,
    start_operation,
)
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.formatting import instant
from firelock_dashboard.web.payloads import IN_LISTS, summary
from firelock_dashboard.web.request import Undo
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.responses import Response

    from firelock import KeyWait, QueueView, ServerView
    from firelock.storage import JobRecord
    from firelock_dashboard.stats.history import Rates
    from firelock_dashboard.web.request import Visit

_SHOWN = 25  # the maximum number of queues on a page; the longest waiting job of each is read
_HEAD = 20
_KEYS = 10  # the maximum number of limit keys read for the first jobs; each read scans every lane
_CALL = 200  # the maximum number of characters of a call
_EXAMINED = 200  # the number of waiting jobs from which the next jobs and the tasks are determined
_AFTER, _TYPED = Text("after", default=""), Text("typed")


class Clearing(StrEnum):
    """Whether all waiting jobs of a queue will start, or why they might not; the worst case is first."""

    UNSERVED = "unserved"  # never: no server claims from it
    GROWING = "growing"  # never: jobs are added at least as fast as they end
    HELD = "held"  # unknown: limits delay its first jobs
    STANDING = "standing"  # unknown: no job has ended recently
    IN_TIME = "in_time"
    NOTHING = "nothing"  # no job waits, or the queue is paused


@attrs.frozen
class QueueRow:
    """A queue as a row: its jobs, its rates and its servers."""

    view: QueueView
    oldest_at: datetime | None  # when the first job that no limit delays began to wait
    held: int  # the number of jobs at the head of the queue that wait for a limit; at most 100
    held_at: datetime | None  # when the first job that waits for a limit began to wait
    out_per_minute: float
    in_per_minute: float | None  # None until it is known
    listeners: list[ServerView]

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.view.name

    @property
    def total(self) -> int:
        """The number of the queue's jobs that have not ended."""
        return _jobs_in(self.view)

    @property
    def slots(self) -> int:
        """The maximum number of jobs that can run at the same time; shared with the servers' other queues."""
        return sum(one.workers for one in self.listeners)

    @property
    def state(self) -> str:
        """The queue's state; "unserved" if jobs wait and no server claims any."""
        if self.view.is_paused:
            return "paused"
        if self.listeners:
            return "served"
        return "unserved" if self.view.enqueued else "idle"

    @property
    def is_growing(self) -> bool:
        """Whether jobs are added at least as fast as they end, so that the queue never becomes empty."""
        return self.in_per_minute is not None and self.in_per_minute >= self.out_per_minute > 0

    @property
    def clears(self) -> Clearing:
        """Whether all waiting jobs will start, or the reason why they might not."""
        if not self.view.enqueued or self.view.is_paused:
            return Clearing.NOTHING
        if not self.listeners:
            return Clearing.UNSERVED
        if self.held:
            return Clearing.HELD
        if self.is_growing:
            return Clearing.GROWING
        return Clearing.IN_TIME if self.out_per_minute else Clearing.STANDING

    @property
    def clears_in(self) -> timedelta | None:
        """The time until all waiting jobs have started at the current rate; None if unknown."""
        if self.clears is not Clearing.IN_TIME:
            return None
        left_per_minute = self.out_per_minute - (self.in_per_minute or 0.0)
        return timedelta(minutes=self.view.enqueued / left_per_minute)


@attrs.frozen
class _QueuesPage:
    queues: list[QueueRow]
    total: int
    most: int  # the number of jobs in the fullest queue of all pages, which is the scale of all bars
    after: str | None  # the name after which the next page begins


def show_queues(visit: Visit) -> Response:
    """Show every queue with its jobs."""
    after = visit.query.value(_AFTER)
    return visit.page(
        "queues.html", after=after,
        page=lambda: _page(visit, after),
    )  # fmt: skip


def _page(visit: Visit, after: str) -> _QueuesPage:
    views = visit.fire.queues.list()
    left = [view for view in views if view.name > after]
    shown = left[:_SHOWN]
    readings = _readings_of(visit, shown)
    rates = visit.dashboard.history.queues(minutes=10)
    queues = [queue_row(view, readings, rates) for view in shown]
    most = max((_jobs_in(view) for view in views), default=0)
    return _QueuesPage(queues, len(views), most, shown[-1].name if len(left) > _SHOWN else None)


def _jobs_in(view: QueueView) -> int:
    return view.processing + view.enqueued + view.scheduled


def _readings_of(visit: Visit, views: Sequence[QueueView]) -> Readings:
    """Return the servers, and the waits of the first jobs of these queues with their reasons."""
    jobs, now = visit.fire.jobs, visit.now_micros
    heads = {
        view.name: job.record()
        for view in views
        if view.enqueued
        for job in jobs.find(state=State.ENQUEUED, queue=view.name, limit=1, oldest_first=True)
    }
    # The last change of an enqueued job is the time when it entered its queue, or its due time.
    oldest = {name: head.changed_at for name, head in heads.items()}
    held = held_heads(visit.fire.storage, heads.values(), now)
    return Readings(now, servers=visit.fire.servers.list(), waiting=Waiting(oldest, held=held))


def queue_row(view: QueueView, readings: Readings, rates: Mapping[str, Rates]) -> QueueRow:
    """Return a queue as a row."""
    rate, since, head = rates.get(view.name), readings.waits_since(view.name), readings.held.get(view.name)
    out, into = (0.0, None) if rate is None else (rate.out_per_minute, rate.in_per_minute)
    return QueueRow(
        view, instant(since), 0 if head is None else head.count,
        None if head is None else instant(readings.oldest.get(view.name)), out, into,
        readings.listening(view.name),
    )  # fmt: skip


# ---- one queue -------------------------------------------------------------------------------------------


@attrs.frozen
class _HeadRow:
    """One of the first waiting jobs."""

    job: JobRecord
    call: str  # the arguments on one line
    held_by: list[KeyWait]  # the limits that delay the job


@attrs.frozen
class _Head:
    """The first waiting jobs, and the tasks among the waiting jobs."""

    rows: list[_HeadRow]
    is_read: bool  # whether all limits of the rows were read; if not, limits may delay more jobs
    tasks: list[tuple[str, int]]  # most frequent first
    examined: int
    is_partial: bool  # whether more jobs wait than were checked


def show_queue(visit: Visit) -> Response:
    """Show one queue with its statistics, its next jobs and its servers."""
    name = visit.places["name"]
    views = {view.name: view for view in visit.fire.queues.list()}
    if name not in views:
        raise NotHere(visit.text("queues.unknown", queue=name))
    readings = _readings_of(visit, [views[name]])
    return visit.page(
        "queue.html", title=visit.text("queues.title", queue=name), section="queues", name=name,
        queue=lambda: queue_row(views[name], readings, visit.dashboard.history.queues(minutes=10)),
        head=lambda: _head(visit, views[name]), waiting=lambda: views[name].enqueued,
        others=lambda: [(one, one.state_at(readings.now)) for one in readings.alive if one.listens_to(name)],
    )  # fmt: skip


def _head(visit: Visit, view: QueueView) -> _Head:
    """Return the next jobs among the oldest waiting ones, in the order in which they start."""
    if not view.enqueued:
        return _Head([], is_read=True, tasks=[], examined=0, is_partial=False)
    oldest = visit.fire.jobs.find(state=State.ENQUEUED, queue=view.name, limit=_EXAMINED, oldest_first=True)
    first = _in_turns([job.record() for job in oldest])[:_HEAD]
    used = dict.fromkeys(key for job in first for key in _keys(job))
    read = frozenset(islice(used, _KEYS))
    keys = KeyReads(visit.fire.storage, visit.now_micros)
    return _Head(
        [_HeadRow(job, _call(visit, job), keys.waits(job, among=read)) for job in first],
        is_read=len(used) == len(read),
        tasks=Counter(job.task for job in oldest).most_common(),
        examined=len(oldest), is_partial=oldest.cursor is not None,
    )  # fmt: skip


def _in_turns(oldest: Sequence[JobRecord]) -> list[JobRecord]:
    """Return jobs in the order in which they start: by priority and age, and in turns if they have limits.

    Among jobs with limits, the first job of each set of limits starts first, then the second of each, as in
    the line of a limit (`firelock.limits.line`).
    """
    ordered = sorted(oldest, key=lambda job: -job.priority)
    ranks = Counter[str]()
    turns: list[tuple[int, str, JobRecord]] = []
    for job in ordered:
        lane = lane_of(job.admission)
        if lane is not None:
            turns.append((ranks[lane], lane, job))
            ranks[lane] += 1
    limited = iter(sorted(turns, key=lambda turn: turn[:2]))
    return [job if lane_of(job.admission) is None else next(limited)[2] for job in ordered]


def _keys(job: JobRecord) -> list[str]:
    return [] if job.admission is None else [use.key for use in job.admission.limits]


def _call(visit: Visit, job: JobRecord) -> str:
    given = visit.arguments(job, limit=IN_LISTS)
    text = summary(given.value) if isinstance(given.value, dict) else "" if given.is_hidden else given.line
    return text[:_CALL]


# ---- actions on queues -----------------------------------------------------------------------------------


def pause_queue(visit: Visit) -> Response:
    """Pause the queue, so that its jobs are not claimed."""
    name, note = _named(visit), visit.form.maybe(NOTE)
    set_pause(visit, name, note, is_paused=True)
    undo = Undo("/queues/resume", {"queue": [name]})
    return visit.done(visit.text("queues.paused", queue=name), to="/queues", undo=undo)


def resume_queue(visit: Visit) -> Response:
    """Resume the queue, so that its jobs are claimed again."""
    name = _named(visit)
    before = next((view for view in visit.fire.queues.list() if view.name == name), None)
    set_pause(visit, name, None, is_paused=False)
    undo = None
    if before is not None and before.is_paused:
        undo = Undo("/queues/pause", {"queue": [name], "note": [before.note or ""]})
    return visit.done(visit.text("queues.resumed", queue=name), to="/queues", undo=undo)


def delete_waiting(visit: Visit) -> Response:
    """Start an operation that deletes all waiting jobs of the queue.

    The visitor must type the queue's name, which prevents an accidental delete.
    """
    name = _named(visit)
    if visit.form.maybe(_TYPED) != name:
        raise BadRequest(visit.text("queues.not_typed", queue=name))
    waiting = next((view.enqueued for view in visit.fire.queues.list() if view.name == name), 0)
    if not waiting:
        return visit.done(visit.text("queues.nothing_waits", queue=name), to=f"/queues/{name}", kind="note")
    operation = start_operation(visit, "delete", JobFilter(state=State.ENQUEUED, queue=name), target=name)
    return visit.done(
        visit.text("queues.deleting", count=waiting, queue=name),
        to=f"/queues/{name}",
        link=operation_address(visit, operation),
    )


def _named(visit: Visit) -> str:
    return visit.form.value(QUEUE)


ROUTES = (
    Route("GET", "/queues", Permission.READ, show_queues, (_AFTER,)),
    Route("GET", "/queues/{name}", Permission.READ, show_queue),
    Route("POST", "/queues/pause", Permission.PAUSE_QUEUE, pause_queue, form=(QUEUE, NOTE)),
    Route("POST", "/queues/resume", Permission.PAUSE_QUEUE, resume_queue, form=(QUEUE,)),
    Route("POST", "/queues/delete", Permission.DELETE, delete_waiting, form=(QUEUE, _TYPED)),
)
