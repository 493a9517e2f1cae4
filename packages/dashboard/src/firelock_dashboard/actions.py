"""The question before an action that cannot be taken back, for visitors without JavaScript.

With it the page asks in a dialog, and the script says that somebody was asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import JsonValue, Operation
    from firelock.storage import JobFilter
    from firelock_dashboard.request import Visit

__all__ = [
    "MANY",
    "ask_first",
    "operation_address",
    "start_operation",
]

_SURE = "sure"


def ask_first(visit: Visit, question: str, verb: str, *, section: str) -> Response | None:
    """Return a page that asks and sends the same form again; None where the visitor was asked.

    Args:
        visit: the action.
        question: what is about to happen, in numbers where there are any.
        verb: what stands on the button.
        section: where the page belongs.
    """
    if visit.wants_json or visit.form.flag(_SURE):
        return None
    fields = [
        (name, value) for name in visit.form.names() if name != _SURE for value in visit.form.every(name)
    ]
    return visit.page(
        "confirm.html", title=verb, section=section, question=question, verb=verb,
        path=visit.request.scope["path"].removeprefix(visit.request.scope.get("root_path", "")),
        fields=fields, back=visit.url.back(visit.form.maybe("back")),
    )  # fmt: skip


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
