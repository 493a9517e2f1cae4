"""The page that an approval link opens: what is asked, a button for each answer, and who answered.

No route of the table: whoever has the link comes in without a session and sees this page alone. A GET changes
nothing, since scanners of mail follow links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from starlette.responses import Response

from firelock.approval import APPROVAL, ApprovalLink, find_approval
from firelock.signal import answer
from firelock.storage import Applied, Memo, MemoKind, State
from firelock_dashboard.fields import Text
from firelock_dashboard.formatting import instant, task_name
from firelock_dashboard.problems import BadRequest, Forbidden, NotHere

if TYPE_CHECKING:
    from firelock.storage import JobRecord
    from firelock_dashboard.request import Visit

PREFIX = f"/{APPROVAL}/"
_CHOICE = Text("choice", is_required=True, limit=2_000)
FIELDS = (_CHOICE,)
"""The fields of the page's form."""

_OVER = frozenset({State.SUCCEEDED, State.DELETED})


def ask(visit: Visit) -> Response:
    """Show what the link asks, or what was answered."""
    return _page(visit, _approval(visit))


def decide(visit: Visit) -> Response:
    """The job's signal is answered by the button that was pressed, if nobody was first."""
    approval = _approval(visit)
    label = visit.form.value(_CHOICE)
    if label not in approval.choices:
        raise BadRequest(visit.text("approval.no_choice"))
    if visit.dashboard.is_read_only:
        raise Forbidden(visit.text("approval.read_only"))
    who = visit.access.name or approval.name or visit.text("approval.somebody")
    new = answer(
        approval.job_id, approval.signal, approval.choices[label], at=visit.now_micros, author=who
    )  # fmt: skip
    told = visit.fire.storage.remember([new])[0].answer
    if not told.is_applied:
        return _page(visit, approval, is_late=told is Applied.TAKEN, status=409)
    visit.fire.audit.record(
        "signal.send", approval.job_id, by=who, origin="approval link",
        detail={"signal": approval.signal, "choice": label},
    )  # fmt: skip
    return _page(visit, approval)


def _approval(visit: Visit) -> ApprovalLink:
    found = find_approval(visit.fire.storage, visit.places["token"])
    if found is None:
        raise NotHere(visit.text("approval.none"))
    return found


@attrs.frozen
class _Answered:
    """What stands under the signal's name."""

    label: str | None  # of the choice; None for something else that was sent
    is_time_out: bool
    author: str
    at: object


def _page(visit: Visit, approval: ApprovalLink, *, is_late: bool = False, status: int = 200) -> Response:
    storage = visit.fire.storage
    job = storage.get([approval.job_id])[0]
    answered = None if job is None else _answered(storage.recall(job.id) or [], approval)
    html = visit.dashboard.templates.render(
        "approval.html", url=visit.url, title=approval.question or approval.signal,
        message=_said(visit, job, answered), approval=approval, answered=answered, is_late=is_late,
        is_open=answered is None and job is not None and job.state not in _OVER,
        expires_at=instant(approval.expires_at), visit=visit, here=visit.here,
        task="" if job is None else task_name(job.task),
    )  # fmt: skip
    return Response(html, status, media_type="text/html; charset=utf-8")


def _answered(memos: list[Memo], approval: ApprovalLink) -> _Answered | None:
    for memo in memos:
        if (memo.kind, memo.name, memo.is_done) == (MemoKind.SIGNAL, approval.signal, True):
            labels = (label for label, value in approval.choices.items() if value == memo.value)
            return _Answered(next(labels, None), memo.value is None, memo.author, instant(memo.at))
    return None


def _said(visit: Visit, job: JobRecord | None, answered: _Answered | None) -> str:
    if answered is not None:
        return ""
    if job is None:
        return visit.text("approval.gone")
    return visit.text("approval.over", state=job.state) if job.state in _OVER else ""
