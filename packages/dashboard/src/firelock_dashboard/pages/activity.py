"""Activity: running and ended operations on many jobs, and who did what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from firelock import StorageError, StorageUnavailable
from firelock_dashboard.access import Permission
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Operation
    from firelock_dashboard.visit import Visit

__all__ = ["ROUTES"]

_OPERATIONS, _ENTRIES = 10, 50


def show_activity(visit: Visit) -> Response:
    """The operations, newest first, and the audit."""
    cursor = visit.query.maybe("cursor", limit=100)
    try:
        entries = visit.fire.audit.list(limit=_ENTRIES, cursor=cursor)
    except StorageUnavailable:
        raise
    except StorageError as error:
        raise BadRequest(f"cursor: {error}") from error
    return visit.page(
        "activity.html", title=visit.text("nav.activity"), section="activity", entries=entries,
        cursor=cursor, operations=lambda: visit.fire.operations.list(limit=_OPERATIONS).operations,
        described=_described,
    )  # fmt: skip


def _described(operation: Operation) -> list[tuple[str, str]]:
    """Return the filter as names and values; the instants that bound it are left out."""
    where = attrs.asdict(operation.where)
    told = [
        (name.removesuffix("_id"), str(value))
        for name, value in where.items()
        if value is not None and name not in {"since", "until"}
    ]
    return told + list(operation.contains.items())


def cancel_operation(visit: Visit) -> Response:
    """The operation ends with the chunk that is under way."""
    operation_id = visit.form.required("operation", limit=100)
    operation = visit.fire.operations.get(operation_id)
    if operation is None:
        raise NotHere(visit.text("activity.no_operation", operation=operation_id))
    visit.require(Permission.DELETE if operation.verb == "delete" else Permission.REQUEUE)
    visit.fire.operations.cancel(operation_id, by=visit.who)
    visit.audit("operation.cancel", operation_id)
    return visit.done(visit.text("activity.cancelled"), to="/activity")


ROUTES = (
    Route("GET", "/activity", Permission.READ, show_activity),
    Route("POST", "/activity/cancel", Permission.READ, cancel_operation),
)
