"""What pages and the API do alike: asking first, and changes with their entry in the audit."""

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


def ask_first(visit: Visit, question: str, verb: str, *, section: str) -> Response | None:
    """Return a page that asks and sends the same form again; None where the visitor was asked.

    Args:
        visit: the action.
        question: what is about to happen, in numbers where there are any.
        verb: what stands on the button.
        section: where the page belongs.
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
SESSION = Text("session", "The session of the worker process, which its jobs name.", is_required=True)
ORDER = Choice("order", "What to do.", choices=ORDERS, is_required=True)

TO_QUEUE = Text("to_queue", "The queue that the jobs are moved to. Default: their present queue.")
TO_PRIORITY = Integer(
    "to_priority", "The new priority of the jobs. Default: their present priority.", least=-100, most=100,
    may_be_empty=True,
)  # fmt: skip

MANY = 1_000
"""The number of jobs above which it is typed before anything is done to them."""


_ANSWER = 500  # characters of an answer that the audit holds

SIGNAL_VALUE = Text("value", "JSON of the signal's type.", is_required=True, limit=256 * 1_024)
"""What a signal is answered with."""


def start_operation(
    visit: Visit, verb: str, where: JobFilter, *, target: str | None = None,
    contains: Mapping[str, str] | None = None, to: Mapping[str, Any] | None = None, **detail: JsonValue,
) -> Operation:  # fmt: skip
    """The operation is stored, is in the audit and has begun; it goes on when this process ends.

    Args:
        visit: whose it is.
        verb: requeue, delete or move.
        where: which jobs.
        target: what people call these jobs, for the audit: a queue, a cause; a program calls them nothing.
        contains: texts that are in what is shown of each.
        to: of a move, as `move_target` returns it.
        detail: what else the audit is to tell.

    Raises:
        BadRequest: there is no such operation.
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
    """Return where a form moves jobs to, as `fire.jobs.move` takes it.

    Raises:
        BadRequest: it names neither a queue nor a priority.
    """
    target = {"queue": fields.maybe(TO_QUEUE), "priority": fields.maybe(TO_PRIORITY)}
    if target["queue"] is None and target["priority"] is None:
        raise BadRequest("A move needs a target: send to_queue, to_priority or both.")
    return target


def move_jobs(visit: Visit, ids: Sequence[str], target: Mapping[str, Any]) -> Sequence[Applied]:
    """Move the jobs in the visitor's name; return what became of each.

    Raises:
        BadRequest: the target cannot be a queue.
    """
    with refusing(ConfigurationError, field="to_queue"):
        return visit.fire.jobs.move(ids, reason=f"moved by {visit.who}", **target)


def operation_of(visit: Visit, operation_id: str) -> Operation:
    """Return the operation.

    Raises:
        NotHere: there is none of this id.
    """
    operation = visit.fire.operations.get(operation_id)
    if operation is None:
        raise NotHere(visit.text("activity.no_operation", operation=operation_id))
    return operation


def cancel(visit: Visit, operation_id: str) -> Operation:
    """The operation ends with the chunk that is under way; return it.

    Raises:
        NotHere: there is none of this id.
        Forbidden: the visitor may not do what it does.
    """
    operation = operation_of(visit, operation_id)
    visit.require(Permission.DELETE if operation.verb == "delete" else Permission.REQUEUE)
    visit.audit("operation.cancel", operation_id)
    return visit.fire.operations.cancel(operation_id, by=visit.who)


def operation_address(visit: Visit, operation: Operation) -> str:
    """Return where the operation is shown."""
    return f"{visit.url('/activity')}#operation-{operation.id}"


@contextmanager
def refusing(*kinds: type[FirelockError], field: str = "") -> Iterator[None]:
    """What the core refuses with one of these is the visitor's mistake, in the core's words."""
    try:
        yield
    except StorageUnavailable:
        raise
    except kinds as error:
        raise BadRequest(f"{field}: {error}" if field else str(error)) from error


def change_jobs(visit: Visit, verb: str, ids: Sequence[str]) -> Sequence[Applied]:
    """The jobs are requeued, deleted or restored, in the visitor's name; return what became of each."""
    jobs = visit.fire.jobs
    change = {"requeue": jobs.requeue, "delete": jobs.delete, "restore": jobs.restore}[verb]
    return change(ids, reason=f"{verb}d by {visit.who}")


def send_signal(visit: Visit, job_id: str, name: str, text: str, *, is_early: bool = False) -> bool:
    """The job's signal is answered, unless somebody was first; tell whether it is.

    Args:
        visit: who answers.
        job_id: the job that waits for it, or will.
        name: the signal's, with its key where it has one.
        text: JSON of the signal's type.
        is_early: though the job waits for another signal now.

    Raises:
        NotHere: no such job is stored.
        BadRequest: the text is no JSON or not of the signal's type, or the job takes no signal, or waits for
            another one.
    """
    try:
        json.loads(text)
    except ValueError as error:
        raise BadRequest(f"value={text[:200]!r} is no JSON: {error}.") from error
    job, known = visit.fire.storage.get([job_id])[0], visit.fire.signal_named(name)
    if (why := why_not_answered(job, name, text, known, is_early=is_early)) is not None:
        raise BadRequest(why)
    told = visit.fire.storage.remember([answer(job_id, name, text, at=visit.now_micros, author=visit.who)])[0]
    if told.answer is Applied.MISSING:
        raise NotHere(f"Job {job_id} is not stored.")
    if told.answer is Applied.REFUSED:
        raise BadRequest(f"Job {job_id} takes no signal: it has ended, or remembers as much as it may.")
    if told.answer.is_applied:
        task = None if job is None else job.task
        visit.audit("signal.send", job_id, signal=name, task=task, answer=_shown_answer(visit, text, task))
    return told.answer.is_applied


def _shown_answer(visit: Visit, text: str, task: str | None) -> JsonValue:
    """Return an answer as the audit may hold it: redacted, and cut to 500 characters of JSON."""
    value = visit.dashboard.redactor.value(json.loads(text), task)
    told = json.dumps(value, ensure_ascii=False)
    return value if len(told) <= _ANSWER else f"{told[:_ANSWER]}…"


def server_of(visit: Visit) -> ServerView:
    """Return the server that a form names.

    Raises:
        NotHere: there is none of this id.
        BadRequest: it is gone, and hears nothing.
    """
    server_id = visit.form.value(SERVER)
    server = next((one for one in visit.fire.servers.list() if one.id == server_id), None)
    if server is None:
        raise NotHere(visit.text("servers.unknown", server=server_id))
    if server.state_at(visit.now_micros).is_gone:
        raise BadRequest(visit.text("servers.is_lost", server=server.name))
    return server


def tell_server(visit: Visit, server: ServerView, order: str) -> None:
    """The server hears at its next heartbeat that it is to be quiet, to go on, or to stop."""
    visit.fire.servers.tell(server.id, order)
    visit.audit(f"server.{order}", server.name, server_id=server.id)


def end_process(visit: Visit, session: str) -> SessionRecord:
    """End a worker process within a heartbeat; another one takes its place. Return its session.

    Raises:
        NotHere: no living worker process has this session.
    """
    try:
        ended = visit.fire.servers.end_process(session)
    except ConfigurationError as error:
        raise NotHere(str(error)) from error
    told = ended.session
    visit.audit("server.end_process", told.server, server_id=told.server_id, session=session, pid=told.pid)
    return ended


def set_pause(visit: Visit, queue: str, note: str | None, *, is_paused: bool) -> None:
    """The queue is paused, with the note, or goes on; the audit tells of it.

    Raises:
        BadRequest: that is no name of a queue.
    """
    with refusing(ConfigurationError, field="queue"):
        if is_paused:
            visit.fire.queues.pause(queue, note=note, by=visit.who)
        else:
            visit.fire.queues.resume(queue)
    visit.audit(f"queue.{'pause' if is_paused else 'resume'}", queue, **({"note": note} if is_paused else {}))
