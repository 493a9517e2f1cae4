"""The question before an action that cannot be taken back, for visitors without JavaScript.

With it the page asks in a dialog, and the script says that somebody was asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock_dashboard.visit import Visit

__all__ = ["ask_first"]

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
