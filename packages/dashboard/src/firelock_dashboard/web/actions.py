"""Actions that pages and the API share: confirmations, and changes with their audit entries."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from firelock import ConfigurationError, FirelockError, StorageUnavailable
from firelock.flows.signals import answer, why_not_answered
from firelock.storage import Applied
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.fields import Choice, Integer, SentFields, Text
from firelock_dashboard.web.routes import BACK, SURE

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import JsonValue, Operation, ServerView
    from firelock.storage import JobFilter, SessionRecord
    from firelock_dashboard.web.request import Visit


def confirmation_page(visit: Visit, question: str, verb: str, *, section: str) -> Response | None:
    """Return a confirmation page that sends the same form again, or None if the visitor has confirmed.

    Args:
        visit: the action.
        question: the consequences, with numbers if there are any.
        verb: the label of the button.
        section: the section of the page.
    """
    if visit.wants_json or visit.form.maybe(SURE):
        return None
    fields = [(name, value) for name, value in visit.form.pairs() if name != SURE.name]
    return visit.page(
        "confirm.html", title=verb, section=section, question=question, verb=verb,
        path=visit.request.scope["path"].removeprefix(visit.request.scope.get("root_path", "")),
        fields=fields, back=visit.url.back(visit.form.maybe(BACK)),
    )  # fmt: skip


ORDERS = ("quiet", "resume", "stop")  # to a server
QUEUE = Text("queue", "The queue's name.", is_required=True)
NOTE = Text("note", "The reason, for people.", limit=500, may_be_empty=True)
SERVER = Text("server", "The server's id.", is_required=True)
SESSION = Text("session", "The session of the worker process, as in its jobs.", is_required=True)
ORDER = Choice("order", "The order.", choices=ORDERS, is_required=True)

TO_QUEUE = Text("to_queue", "The queue that the jobs are moved to. Default: their present queue.")
TO_PRIORITY = Integer(
    "to_priority", "The new priority of the jobs. Default: their present priority.", least=-100, most=100,
    may_be_empty=True,
)  # fmt: skip

MANY = 1_000
"""The number of jobs above which the visitor must type it before the action runs."""


_ANSWER = 500  # the maximum number of characters of an answer in the audit

SIGNAL_VALUE = Text("value", "JSON of the signal's type.", is_required=True, limit=256 * 1_024)
"""The value that is sent as the signal's answer."""


def start_operation(
    visit: Visit, verb: str, where: JobFilter, *, target: str | None = None,
    contains: Mapping[str, str] | None = None, to: Mapping[str, Any] | None = None, **detail: JsonValue,
) -> Operation:  # fmt: skip
    """Store the operation, record it in the audit and start it.

    If this process ends first, another process of the dashboard continues the operation.

    Args:
        visit: the visit of the operation's author.
        verb: requeue, delete or move.
        where: the filter of the jobs.
        target: a name of these jobs for the audit, for example a queue or a cause; None for the API.
        contains: strings that the shown data of each job must contain.
        to: the target of a move, as `move_target` returns it.
        detail: further details for the audit.

    Raises:
        BadRequest: If the core refuses the operation.
    """
    with refusing(ConfigurationError):
        operation = visit.fire.operations.start(
            verb, where, by=visit.who, contains=contains or None, **(to or {})
        )
    if target is None:
        visit.audit(f"operation.{verb}", operation.id, **_given(to))
    else:
        visit.audit(
            f"jobs.{verb}",
            target,
            operation=operation.id,
            expected=operation.expected,
            **_given(to),
            **detail,
        )
    visit.dashboard.runner.start(operation.id)
    return operation


def _given(to: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"to_{name}": value for name, value in (to or {}).items() if value is not None}


def move_target(fields: SentFields) -> dict[str, Any]:
    """Return the target of a move from a form, as keyword arguments of `fire.jobs.move`.

    Raises:
        BadRequest: If the form contains neither a queue nor a priority.
    """
    target = {"queue": fields.maybe(TO_QUEUE), "priority": fields.maybe(TO_PRIORITY)}
    if target["queue"] is None and target["priority"] is None:
        raise BadRequest("A move needs a target; send to_queue, to_priority or both.")
    return target


def move_jobs(visit: Visit, ids: Sequence[str], target: Mapping[str, Any]) -> Sequence[Applied]:
    """Move the jobs on behalf of the visitor, and return the result of each.

    Raises:
        BadRequest: If the target is not a valid queue name.
    """
    with refusing(ConfigurationError, field="to_queue"):
        return visit.fire.jobs.move(ids, reason=f"moved by {visit.who}", **target)


def operation_of(visit: Visit, operation_id: str) -> Operation:
    """Return the operation with this id.

    Raises:
        NotHere: If no operation has this id.
    """
    operation = visit.fire.operations.get(operation_id)
    if operation is None:
        raise NotHere(visit.text("activity.no_operation", operation=operation_id))
    return operation


def cancel(visit: Visit, operation_id: str) -> Operation:
    """Stop the operation after its current chunk, and return it.

    Raises:
        NotHere: If no operation has this id.
        Forbidden: If the visitor does not have the permission for the operation's verb.
    """
    operation = operation_of(visit, operation_id)
    visit.require(Permission.DELETE if operation.verb == "delete" else Permission.REQUEUE)
    visit.audit("operation.cancel", operation_id)
    return visit.fire.operations.cancel(operation_id, by=visit.who)


def operation_address(visit: Visit, operation: Operation) -> str:
    """Return the URL at which the operation is shown."""
    return f"{visit.url('/activity')}#operation-{operation.id}"


@contextmanager
def refusing(*kinds: type[FirelockError], field: str = "") -> Iterator[None]:
    """Convert these errors of the core to a `BadRequest` with the core's message."""
    try:
        yield
    except StorageUnavailable:
        raise
    except kinds as error:
        raise BadRequest(f"{field}: {error}" if field else str(error)) from error


def change_jobs(visit: Visit, verb: str, ids: Sequence[str]) -> Sequence[Applied]:
    """Requeue, delete or restore the jobs on behalf of the visitor; return the result of each."""
    jobs = visit.fire.jobs
    change = {"requeue": jobs.requeue, "delete": jobs.delete, "restore": jobs.restore}[verb]
    return change(ids, reason=f"{verb}d by {visit.who}")


def send_signal(visit: Visit, job_id: str, name: str, text: str, *, is_early: bool = False) -> bool:
    """Send the signal to the job, unless it was sent before; return whether this answer was stored.

    Args:
        visit: the visit of the person who sends the signal.
        job_id: the job that waits for the signal, or will wait for it.
        name: the signal's name, with its key if it has one.
        text: JSON of the signal's type.
        is_early: whether to send the signal even if the job does not wait for it yet.

    Raises:
        NotHere: If the job is not stored.
        BadRequest: If the string is not JSON or not of the signal's type, or if the job cannot accept the
            signal or waits for another one.
    """
    try:
        json.loads(text)
    except ValueError as error:
        raise BadRequest(f"value must be JSON, got {text[:200]!r}: {error}.") from error
    job, known = visit.fire.storage.get([job_id])[0], visit.fire.signal_named(name)
    if (why := why_not_answered(job, name, text, known, is_early=is_early)) is not None:
        raise BadRequest(why)
    memo = answer(job_id, name, text, at=visit.now_micros, author=visit.who)
    stored = visit.fire.storage.remember([memo])[0]
    if stored.answer is Applied.MISSING:
        raise NotHere(f"Job {job_id} was not found.")
    if stored.answer is Applied.REFUSED:
        raise BadRequest(f"Job {job_id} cannot accept a signal: it has ended, or its memos are full.")
    if stored.answer.is_applied:
        task = None if job is None else job.task
        visit.audit("signal.send", job_id, signal=name, task=task, answer=_shown_answer(visit, text, task))
    return stored.answer.is_applied


def _shown_answer(visit: Visit, text: str, task: str | None) -> JsonValue:
    """Return an answer for the audit: redacted, and cut to 500 characters of JSON."""
    value = visit.dashboard.redactor.value(json.loads(text), task)
    dumped = json.dumps(value, ensure_ascii=False)
    return value if len(dumped) <= _ANSWER else f"{dumped[:_ANSWER]}…"


def server_of(visit: Visit) -> ServerView:
    """Return the server that a form names.

    Raises:
        NotHere: If no server has this id.
        BadRequest: If the server has ended or is lost, and therefore cannot follow an order.
    """
    server_id = visit.form.value(SERVER)
    server = next((one for one in visit.fire.servers.list() if one.id == server_id), None)
    if server is None:
        raise NotHere(visit.text("servers.unknown", server=server_id))
    if server.state_at(visit.now_micros).is_gone:
        raise BadRequest(visit.text("servers.is_lost", server=server.name))
    return server


def send_order(visit: Visit, server: ServerView, order: str) -> None:
    """Order the server, at its next heartbeat, to claim no more jobs, to resume, or to stop."""
    visit.fire.servers.order(server.id, order)
    visit.audit(f"server.{order}", server.name, server_id=server.id)


def end_process(visit: Visit, session: str) -> SessionRecord:
    """End a worker process within a heartbeat, and return its session; another process replaces it.

    Raises:
        NotHere: If no running worker process has this session.
    """
    try:
        ended = visit.fire.servers.end_process(session)
    except ConfigurationError as error:
        raise NotHere(str(error)) from error
    record = ended.session
    visit.audit(
        "server.end_process", record.server, server_id=record.server_id, session=session, pid=record.pid
    )  # fmt: skip
    return ended


def set_pause(visit: Visit, queue: str, note: str | None, *, is_paused: bool) -> None:
    """Pause the queue with the note, or resume it, and record this in the audit.

    Raises:
        BadRequest: If the queue's name is not valid.
    """
    with refusing(ConfigurationError, field="queue"):
        if is_paused:
            visit.fire.queues.pause(queue, note=note, by=visit.who)
        else:
            visit.fire.queues.resume(queue)
    visit.audit(f"queue.{'pause' if is_paused else 'resume'}", queue, **({"note": note} if is_paused else {}))
