"""Queues: what waits, how long, how fast it goes, who listens; pause, resume, and emptying one."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from firelock import State
from firelock.control.findings import Sight, Waiting
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

_SHOWN = 25  # queues on a page: each is asked for the job that waits longest
_HEAD = 20
_KEYS = 10  # of limits that the first jobs ask for: each read walks every lane
_CALL = 200  # characters of a call
_LOOKED_AT = 200  # waiting jobs among which the next ones and the tasks are told
_AFTER, _TYPED = Text("after", default=""), Text("typed")


class Clearing(StrEnum):
    """Whether a queue's waiting jobs will all have started at some time; the worst comes first."""

    UNSERVED = "unserved"  # never: no server listens to it
    GROWING = "growing"  # never: as many jobs come as go
    HELD = "held"  # nobody can say: limits hold its first jobs
    STANDING = "standing"  # nobody can say: none has ended lately
    IN_TIME = "in_time"
    NOTHING = "nothing"  # no job waits, or it is paused


@attrs.frozen
class QueueRow:
    """A queue as a line: what it holds, how it moves, who listens."""

    view: QueueView
    oldest_at: datetime | None  # since when the first waits that no limit holds
    held: int  # jobs before it that limits hold; 100 at most
    held_at: datetime | None  # since when the first of these waits
    out_per_minute: float
    in_per_minute: float | None  # None until it is known
    listeners: list[ServerView]

    @property
    def name(self) -> str:
        """Its name."""
        return self.view.name

    @property
    def total(self) -> int:
        """How many jobs it holds that are not at their end."""
        return _jobs_in(self.view)

    @property
    def slots(self) -> int:
        """How many of its jobs could run at once, shared with the servers' other queues."""
        return sum(one.workers for one in self.listeners)

    @property
    def state(self) -> str:
        """How it is: unserved where jobs wait and nobody takes any."""
        if self.view.is_paused:
            return "paused"
        if self.listeners:
            return "served"
        return "unserved" if self.view.enqueued else "idle"

    @property
    def is_growing(self) -> bool:
        """Tell whether as many jobs come as go, or more, so that it never clears."""
        return self.in_per_minute is not None and self.in_per_minute >= self.out_per_minute > 0

    @property
    def clears(self) -> Clearing:
        """Whether what waits in it will have started at some time, and what prevents that."""
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
        """How long what waits takes at the rate of now; None where nobody can say."""
        if self.clears is not Clearing.IN_TIME:
            return None
        left_per_minute = self.out_per_minute - (self.in_per_minute or 0.0)
        return timedelta(minutes=self.view.enqueued / left_per_minute)


@attrs.frozen
class _QueuesPage:
    queues: list[QueueRow]
    total: int
    most: int  # jobs of the fullest queue of all pages: the bars of all have this one scale
    after: str | None  # the name behind which the next page begins


def show_queues(visit: Visit) -> Response:
    """Every queue with what it holds."""
    after = visit.query.value(_AFTER)
    return visit.page(
        "queues.html", after=after,
        page=lambda: _page(visit, after),
    )  # fmt: skip


def _page(visit: Visit, after: str) -> _QueuesPage:
    views = visit.fire.queues.list()
    left = [view for view in views if view.name > after]
    shown = left[:_SHOWN]
    sight = _sight(visit, shown)
    rates = visit.dashboard.history.queues(minutes=10)
    queues = [queue_row(view, sight, rates) for view in shown]
    most = max((_jobs_in(view) for view in views), default=0)
    return _QueuesPage(queues, len(views), most, shown[-1].name if len(left) > _SHOWN else None)


def _jobs_in(view: QueueView) -> int:
    return view.processing + view.enqueued + view.scheduled


def _sight(visit: Visit, views: Sequence[QueueView]) -> Sight:
    """Return who listens, and how long the first jobs of these queues wait and for what."""
    jobs, now = visit.fire.jobs, visit.now_micros
    heads = {
        view.name: job.record()
        for view in views
        if view.enqueued
        for job in jobs.find(state=State.ENQUEUED, queue=view.name, limit=1, oldest_first=True)
    }
    # A job came into its queue when it changed last: for a scheduled one that is when it was due.
    oldest = {name: head.changed_at for name, head in heads.items()}
    held = held_heads(visit.fire.storage, heads.values(), now)
    return Sight(now, servers=visit.fire.servers.list(), waiting=Waiting(oldest, held=held))


def queue_row(view: QueueView, sight: Sight, rates: Mapping[str, Rates]) -> QueueRow:
    """Return a queue as a line."""
    rate, since, head = rates.get(view.name), sight.waits_since(view.name), sight.held.get(view.name)
    out, into = (0.0, None) if rate is None else (rate.out_per_minute, rate.in_per_minute)
    return QueueRow(
        view, instant(since), 0 if head is None else head.count,
        None if head is None else instant(sight.oldest.get(view.name)), out, into, sight.listening(view.name),
    )  # fmt: skip


# ---- one queue -------------------------------------------------------------------------------------------


@attrs.frozen
class _HeadRow:
    """One of the first jobs that wait."""

    job: JobRecord
    call: str  # its arguments in one line
    held_by: list[KeyWait]  # limits that hold it


@attrs.frozen
class _Head:
    """The first jobs that wait, and the tasks among those that do."""

    rows: list[_HeadRow]
    is_read: bool  # all limits of the rows were read; otherwise more of them may be held
    tasks: list[tuple[str, int]]  # most frequent first
    looked_at: int
    is_partial: bool  # more wait than were looked at


def show_queue(visit: Visit) -> Response:
    """One queue: its figures, what is next, who listens."""
    name = visit.places["name"]
    views = {view.name: view for view in visit.fire.queues.list()}
    if name not in views:
        raise NotHere(visit.text("queues.unknown", queue=name))
    sight = _sight(visit, [views[name]])
    return visit.page(
        "queue.html", title=visit.text("queues.title", queue=name), section="queues", name=name,
        queue=lambda: queue_row(views[name], sight, visit.dashboard.history.queues(minutes=10)),
        head=lambda: _head(visit, views[name]), waiting=lambda: views[name].enqueued,
        others=lambda: [(one, one.state_at(sight.now)) for one in sight.alive if one.listens_to(name)],
    )  # fmt: skip


def _head(visit: Visit, view: QueueView) -> _Head:
    """The first jobs in the order in which they start, among the oldest that wait."""
    if not view.enqueued:
        return _Head([], is_read=True, tasks=[], looked_at=0, is_partial=False)
    oldest = visit.fire.jobs.find(state=State.ENQUEUED, queue=view.name, limit=_LOOKED_AT, oldest_first=True)
    first = _in_turns([job.record() for job in oldest])[:_HEAD]
    used = dict.fromkeys(key for job in first for key in _keys(job))
    read = frozenset(islice(used, _KEYS))
    keys = KeyReads(visit.fire.storage, visit.now_micros)
    return _Head(
        [_HeadRow(job, _call(visit, job), keys.waits(job, among=read)) for job in first],
        is_read=len(used) == len(read),
        tasks=Counter(job.task for job in oldest).most_common(),
        looked_at=len(oldest), is_partial=oldest.cursor is not None,
    )  # fmt: skip


def _in_turns(oldest: Sequence[JobRecord]) -> list[JobRecord]:
    """Return jobs in the order in which they start: by priority and age, where those with limits take turns.

    Among these the first of each set of limits comes first, then the second of each, as in the line of a
    limit (`firelock.limits.line`).
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


# ---- what is done to them --------------------------------------------------------------------------------


def pause_queue(visit: Visit) -> Response:
    """No job of the queue is claimed any more."""
    name, note = _named(visit), visit.form.maybe(NOTE)
    set_pause(visit, name, note, is_paused=True)
    undo = Undo("/queues/resume", {"queue": [name]})
    return visit.done(visit.text("queues.paused", queue=name), to="/queues", undo=undo)


def resume_queue(visit: Visit) -> Response:
    """Jobs of the queue are claimed again."""
    name = _named(visit)
    before = next((view for view in visit.fire.queues.list() if view.name == name), None)
    set_pause(visit, name, None, is_paused=False)
    undo = None
    if before is not None and before.is_paused:
        undo = Undo("/queues/pause", {"queue": [name], "note": [before.note or ""]})
    return visit.done(visit.text("queues.resumed", queue=name), to="/queues", undo=undo)


def delete_waiting(visit: Visit) -> Response:
    """An operation deletes all that waits in the queue; its name was typed, so that it is no slip."""
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
