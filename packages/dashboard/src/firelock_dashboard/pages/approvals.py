"""The page of an approval link, with the question, a button for each answer, and the stored answer.

The page is not in the table of routes, because a visitor with the link needs no session and sees only this
page. A GET changes nothing, because mail scanners follow links.

The link's token is in the fragment of its URL. Therefore a GET of `/approval` returns the same page for every
link. The page's script posts the token, or the visitor pastes the link into its form; the response to this
POST is the page with the question. Links that an earlier release created have the form `/approval/TOKEN`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from starlette.responses import Response

from firelock.flows.approval import APPROVAL, ApprovalLink, find_approval
from firelock.flows.signals import answer
from firelock.storage import Applied, Memo, MemoKind, State
from firelock_dashboard.problems import BadRequest, Forbidden, NotHere
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.formatting import instant, task_name

if TYPE_CHECKING:
    from firelock.storage import JobRecord
    from firelock_dashboard.web.request import Visit

PATH = f"/{APPROVAL}"
PREFIX = f"{PATH}/"  # the prefix of links that contain the token in their path

_TOKEN = Text("token", "The link, or its part after the #.", limit=2_000)
_CHOICE = Text("choice", "The label of the answer.", limit=2_000)
FIELDS = (_TOKEN, _CHOICE)
"""The fields of the page's form."""

_NOT_WAITING = frozenset({State.SUCCEEDED, State.DELETED})


def has_path(path: str) -> bool:
    """Return whether the path belongs to approval links."""
    return path == PATH or path.startswith(PREFIX)


def places_of(path: str) -> dict[str, str]:
    """Return the token in the path, as a value of the route; empty if the path contains no token."""
    return {"token": path.removeprefix(PREFIX)} if path.startswith(PREFIX) else {}


def without_token(path: str) -> str:
    """Return the path without the token, so that it can be logged."""
    return PREFIX if path.startswith(PREFIX) else path


def answer_visit(visit: Visit) -> Response:
    """Return the page of the request's link, or a page with a form for the link if the request has none."""
    is_posted = visit.request.method == "POST"
    if "token" in visit.places:
        return decide(visit) if is_posted else show_question(visit)
    if not is_posted:
        return _entrance(visit)
    return decide(visit) if _CHOICE in visit.form else show_question(visit)


def show_question(visit: Visit) -> Response:
    """Show the link's question, or the stored answer."""
    token = _token(visit)
    return _page(visit, token, _approval(visit, token))


def decide(visit: Visit) -> Response:
    """Send the pressed button's answer as the job's signal, unless the signal was sent before."""
    token = _token(visit)
    approval = _approval(visit, token)
    label = visit.form.value(_CHOICE)
    if label not in approval.choices:
        raise BadRequest(visit.text("approval.no_choice"))
    if visit.dashboard.is_read_only:
        raise Forbidden(visit.text("approval.read_only"))
    who = visit.access.name or approval.name or visit.text("approval.visitor")
    new = answer(
        approval.job_id, approval.signal, approval.choices[label], at=visit.now_micros, author=who
    )  # fmt: skip
    result = visit.fire.storage.remember([new])[0].answer
    if not result.is_applied:
        return _page(visit, token, approval, is_late=result is Applied.TAKEN, status=409)
    visit.fire.audit.record(
        "signal.send", approval.job_id, by=who, origin="approval link",
        detail={"signal": approval.signal, "choice": label},
    )  # fmt: skip
    return _page(visit, token, approval)


def _entrance(visit: Visit) -> Response:
    """Return the page with the form for a link, which is the same for every visitor and every link."""
    html = visit.dashboard.templates.render(
        "approval_link.html", url=visit.url, title=visit.text("approval.link_title"),
        message=visit.text("approval.link_hint"), path=visit.url(PATH),
    )  # fmt: skip
    return Response(html, media_type="text/html; charset=utf-8")


def _token(visit: Visit) -> str:
    """Return the token from the path, or from a posted link: the whole link or the part after its #."""
    if "token" in visit.places:
        return visit.places["token"]
    link = visit.form.value(_TOKEN)
    return link.rpartition("#" if "#" in link else "/")[2]


def _approval(visit: Visit, token: str) -> ApprovalLink:
    found = find_approval(visit.fire.storage, token)
    if found is None:
        raise NotHere(visit.text("approval.none"))
    return found


@attrs.frozen
class _Answered:
    """The answer that is stored under the signal's name."""

    label: str | None  # the label of the choice; None if another value was sent
    is_time_out: bool
    author: str
    at: object


def _page(
    visit: Visit, token: str, approval: ApprovalLink, *, is_late: bool = False, status: int = 200
) -> Response:
    storage = visit.fire.storage
    job = storage.get([approval.job_id])[0]
    answered = None if job is None else _answered(storage.recall(job.id) or [], approval)
    html = visit.dashboard.templates.render(
        "approval.html", url=visit.url, title=approval.question or approval.signal,
        message=_message(visit, job, answered), approval=approval, answered=answered, is_late=is_late,
        is_open=answered is None and _is_waiting(job) and not visit.dashboard.is_read_only,
        expires_at=instant(approval.expires_at), path=visit.url(PATH), token=token,
        task="" if job is None else task_name(job.task),
    )  # fmt: skip
    return Response(html, status, media_type="text/html; charset=utf-8")


def _answered(memos: list[Memo], approval: ApprovalLink) -> _Answered | None:
    for memo in memos:
        if (memo.kind, memo.name, memo.is_done) == (MemoKind.SIGNAL, approval.signal, True):
            labels = (label for label, value in approval.choices.items() if value == memo.value)
            return _Answered(next(labels, None), memo.value is None, memo.author, instant(memo.at))
    return None


def _message(visit: Visit, job: JobRecord | None, answered: _Answered | None) -> str:
    if answered is not None:
        return ""
    if job is None:
        return visit.text("approval.job_not_found")
    if not _is_waiting(job):
        return visit.text("approval.job_ended", state=job.state)
    return visit.text("approval.read_only") if visit.dashboard.is_read_only else ""


def _is_waiting(job: JobRecord | None) -> bool:
    return job is not None and job.state not in _NOT_WAITING
