"""Queues: what waits, how long, who listens; pause and resume."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from firelock.storage import State
from firelock_dashboard.access import Permission
from firelock_dashboard.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.visit import Visit

__all__ = ["ROUTES"]


@attrs.frozen
class _Row:
    name: str
    enqueued: int
    processing: int
    scheduled: int
    is_paused: bool
    note: str | None
    oldest_at: datetime | None  # since when the first in line waits


def show_queues(visit: Visit) -> Response:
    """Every queue with what it holds."""
    return visit.page(
        "queues.html", title=visit.text("nav.queues"), section="queues", rows=lambda: _rows(visit)
    )


def _rows(visit: Visit) -> list[_Row]:
    rows = []
    for queue in visit.fire.queues.list():
        oldest_at = None
        if queue.enqueued:
            first = visit.fire.jobs.find(state=State.ENQUEUED, queue=queue.name, limit=1, oldest_first=True)
            oldest_at = next((job.created_at for job in first), None)
        rows.append(
            _Row(
                queue.name,
                queue.enqueued,
                queue.processing,
                queue.scheduled,
                queue.is_paused,
                queue.note,
                oldest_at,
            )  # fmt: skip
        )
    return rows


def pause_queue(visit: Visit) -> Response:
    """No job of the queue is claimed any more."""
    name, note = visit.form.required("queue", limit=64), visit.form.maybe("note", limit=500)
    visit.fire.queues.pause(name, note=note)
    visit.audit("queue paused", name, note=note)
    return visit.done(visit.text("queues.paused", queue=name), to="/queues")


def resume_queue(visit: Visit) -> Response:
    """Jobs of the queue are claimed again."""
    name = visit.form.required("queue", limit=64)
    visit.fire.queues.resume(name)
    visit.audit("queue resumed", name)
    return visit.done(visit.text("queues.resumed", queue=name), to="/queues")


ROUTES = (
    Route("GET", "/queues", Permission.READ, show_queues),
    Route("POST", "/queues/pause", Permission.PAUSE_QUEUE, pause_queue),
    Route("POST", "/queues/resume", Permission.PAUSE_QUEUE, resume_queue),
)
