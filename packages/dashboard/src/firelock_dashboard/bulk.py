"""An action on every job that matches, started from a page: stored, audited, and carried out behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firelock import JsonValue, Operation
    from firelock.storage import JobFilter
    from firelock_dashboard.visit import Visit

__all__ = ["MANY", "operation_address", "start_operation"]

MANY = 1_000
"""The number of jobs above which it is typed before anything is done to them."""


def start_operation(
    visit: Visit, verb: str, where: JobFilter, *, target: str, **detail: JsonValue
) -> Operation:
    """The operation is stored, is in the audit and has begun; it goes on when this process ends.

    Args:
        visit: whose it is.
        verb: requeue or delete.
        where: which jobs.
        target: what people call these jobs, for the audit: a queue, a cause.
        detail: what else the audit is to tell.
    """
    operation = visit.fire.operations.start(verb, where, by=visit.who)
    visit.audit(f"jobs.{verb}", target, operation=operation.id, expected=operation.expected, **detail)
    visit.dashboard.runner.start(operation.id)
    return operation


def operation_address(visit: Visit, operation: Operation) -> str:
    """Return where the operation is shown."""
    return f"{visit.url('/activity')}#operation-{operation.id}"
