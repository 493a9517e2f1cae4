"""The Activity page, which shows running and ended operations on many jobs, and the audit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import attrs

from firelock import StorageError
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import cancel, refusing
from firelock_dashboard.web.fields import Cursor, Text
from firelock_dashboard.web.formatting import job_name, short_id, task_name
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import AuditEntry, JsonValue, Operation, Outcome
    from firelock.storage import JobRecord
    from firelock_dashboard.web.request import Visit

_OPERATIONS, _ENTRIES = 10, 50
_OPEN = 3
_CURSOR = Cursor("cursor")
_OPERATION = Text("operation", is_required=True)


def show_activity(visit: Visit) -> Response:
    """Show the operations, newest first, and the audit."""
    cursor = visit.query.maybe(_CURSOR)
    with refusing(StorageError, field="cursor"):
        entries = visit.fire.audit.list(limit=_ENTRIES, cursor=cursor)
    return visit.page(
        "activity.html", entries=entries,
        cursor=cursor, operations=lambda: visit.fire.operations.list(limit=_OPERATIONS).operations,
        outcome=_outcomes(visit), described=partial(_described, visit),
        action=partial(_action, visit), jobs=lambda: _jobs(visit, entries), target=partial(_target, visit),
        details=partial(_details, visit),
    )  # fmt: skip


def _outcomes(visit: Visit) -> Callable[[Operation], Outcome | None]:
    """Return a function that returns the outcome of an operation.

    The function reads jobs only for the three newest requeues whose outcome is not final.
    """
    open_ones: list[str] = []

    def outcome(operation: Operation) -> Outcome | None:
        if operation.outcome is None and operation.verb == "requeue":
            open_ones.append(operation.id)
            if len(open_ones) > _OPEN:
                return None
        return visit.dashboard.watch.outcome(operation)

    return outcome


# ---- links to named objects --------------------------------------------------------------------------------


@attrs.frozen
class NamedLink:
    """The name of an object, and the URL of its page, or None if the object has no page."""

    text: str
    address: str | None = None


@attrs.frozen
class _Fact:
    name: str
    values: Sequence[NamedLink]


# A valid segment of a path: no slash, and not only dots.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:~-]{0,199}")
_LONGEST_FILTER = 20
_LONGEST_ANSWER = 200


def _address_of(visit: Visit, kind: str, name: str) -> str | None:
    """Return the URL of the object with this kind and name, or None for a kind without pages."""
    match kind:
        case "recurring":
            return visit.url("/recurring/view", id=name)
        case "task":
            return visit.url("/tasks/view", name=name)
        case "limit":
            return visit.url("/limits/key", key=name)
        case "state" | "tag":
            return visit.url("/jobs", **{kind: name})
        case "job" | "queue" | "fingerprint" if _SEGMENT.fullmatch(name):
            pages = {"job": "jobs", "queue": "queues", "fingerprint": "failures"}
            return visit.url(f"/{pages[kind]}/{name}")
        case "operation" | "server" if _SEGMENT.fullmatch(name):
            page = "activity" if kind == "operation" else "servers"
            return f"{visit.url(f'/{page}')}#{kind}-{name}"
        case _:
            return None


_KINDS_OF_DETAILS = {
    "job": "job", "copy": "job", "from": "job", "ids": "job", "first_ids": "job", "operation": "operation",
    "made": "job", "server_id": "server", "task": "task", "queue": "queue", "fingerprint": "fingerprint",
}  # fmt: skip
_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_JOBS = {"job", "jobs", "signal"}  # actions whose target is a job, a batch, or a name for several jobs
_BATCH = "batch "  # the prefix of a batch's id in a target


def _described(visit: Visit, operation: Operation) -> list[_Fact]:
    """Return the filter as names and values, without its time bounds."""
    facts: list[_Fact] = []
    for field, value in attrs.asdict(operation.where).items():
        if value is not None and field not in {"since", "until"}:
            name = field.removesuffix("_id")
            # the filter contains the server's name, but the URL requires its id; the list of servers shows
            # both
            kind = {"parent": "job", "server": ""}.get(name, name)
            address = visit.url("/servers") if name == "server" else _address_of(visit, kind, str(value))
            if name == "fingerprint":
                facts.append(
                    _Fact(visit.text("activity.cause"), [NamedLink(_cause_name(visit, str(value)), address)])
                )
            else:
                facts.append(_Fact(name, [NamedLink(str(value), address)]))
    return facts + [_Fact(name, [NamedLink(text)]) for name, text in operation.contains.items()]


def _cause_name(visit: Visit, fingerprint: str) -> str:
    """Return the exception class of a cause if it is known, otherwise its fingerprint."""
    causes = visit.dashboard.watch.causes()  # this call also reads the stored causes
    known = next((one.type for one in causes if one.fingerprint == fingerprint), None)
    kind = known or visit.dashboard.watch.cause_records.type_of(fingerprint)
    return fingerprint if kind is None else task_name(kind)


def _action(visit: Visit, entry: AuditEntry) -> str:
    """Return the action as a verb; for an unknown action, its stored name."""
    key = f"activity.did_{entry.action.replace('.', '_')}"
    detail = entry.detail or {}
    if entry.action == "jobs.delete" and detail.get("stopped") and detail["stopped"] == detail.get("count"):
        key = "activity.did_jobs_stop"
    return visit.text(key) if key in visit.dashboard.texts else entry.action


def _jobs(visit: Visit, entries: Iterable[AuditEntry]) -> Mapping[str, JobRecord]:
    """Return the jobs and batches that a page's entries name and that are still stored, using one read."""
    targets = {entry.target for entry in entries if entry.action.partition(".")[0] in _OF_JOBS}
    ids = sorted(id for target in targets if _JOB_ID.fullmatch(id := target.removeprefix(_BATCH)))
    return {job.id: job for job in visit.fire.storage.get(ids) if job is not None} if ids else {}


def _target(visit: Visit, jobs: Mapping[str, JobRecord], entry: AuditEntry) -> NamedLink:
    """Return the target of an action, with the URL of its page."""
    kind, _, verb = entry.action.partition(".")
    detail = entry.detail or {}
    fingerprint = detail.get("fingerprint")
    name = entry.target
    match kind:
        case "recurring" if verb == "remove":
            kind = ""
        case "server":
            name = str(detail.get("server_id") or name)
        case "cause":
            kind, name = "fingerprint", str(fingerprint or "")
        case "job" | "jobs" if isinstance(fingerprint, str):
            kind, name = "fingerprint", fingerprint
        case "signal" | "job" | "jobs":
            return _named_job(visit, jobs, name, detail.get("task"))
        case "operation":
            return NamedLink(short_id(name), _address_of(visit, kind, name))
    is_known = kind in {"server", "fingerprint", "queue", "recurring", "task", "limit"}
    return NamedLink(entry.target, _address_of(visit, kind, name) if is_known else None)


def _named_job(visit: Visit, jobs: Mapping[str, JobRecord], target: str, task: JsonValue) -> NamedLink:
    """Return a job's task or a batch's name with the end of the id, or any other target unchanged."""
    job_id = target.removeprefix(_BATCH)
    job = jobs.get(job_id)
    if job is not None and job.is_batch:
        return NamedLink(f"{job_name(job)} {short_id(job_id)}", visit.url(f"/batches/{job_id}"))
    name = job.task if job is not None else task
    text = f"{task_name(name)} {short_id(job_id)}" if isinstance(name, str) else target
    return NamedLink(text, _address_of(visit, "job", job_id))


def _details(visit: Visit, entry: AuditEntry) -> Iterator[_Fact]:
    sentence = _sentence(visit, entry.action, entry.detail or {})
    if sentence is not None:
        yield _Fact("", [NamedLink(sentence)])
        return
    for name, value in (entry.detail or {}).items():
        if _is_redundant(entry, name, value):
            continue
        if name == "filter" and isinstance(value, Mapping):
            query = {str(key): str(one) for key, one in list(value.items())[:_LONGEST_FILTER]}
            shown = " ".join(f"{key}:{one}" for key, one in query.items())
            yield _Fact(name, [NamedLink(shown or _value_text(value), visit.url.of("/jobs", query))])
        else:
            kind = _KINDS_OF_DETAILS.get(name, "")
            ones = value if kind and isinstance(value, list) else [value]
            yield _Fact(name.replace("_", " "), [_named_detail(visit, kind, one) for one in ones])


def _is_redundant(entry: AuditEntry, name: str, value: JsonValue) -> bool:
    """Return whether a detail is empty, or repeats the target of the entry."""
    if value is None or value == []:
        return True
    kind = entry.action.partition(".")[0]
    match name:
        case "fingerprint":
            return kind in {"job", "jobs", "cause"}  # the target names the cause and links to it
        case "server_id":
            return kind == "server"
        case "ids" | "first_ids":
            return value == [entry.target]
        case "skipped" | "missing":
            return value == 0
        case "count":
            return value == 1 and (entry.detail or {}).get("ids") == [entry.target]
        case "stopped":
            return value == (entry.detail or {}).get("count")
        case _:
            return False


def _named_detail(visit: Visit, kind: str, value: JsonValue) -> NamedLink:
    if not isinstance(value, str):
        return NamedLink(_value_text(value))
    is_id = kind == "operation" or _JOB_ID.fullmatch(value)
    return NamedLink(short_id(value) if is_id else value, _address_of(visit, kind, value))


def _sentence(visit: Visit, action: str, detail: Mapping[str, JsonValue]) -> str | None:
    """Return the action's details as a sentence, or None if a list of names and values is clear enough."""
    if action in {"limit.set", "limit.reset"} and {"before", "after"} <= detail.keys():
        return visit.text(
            "activity.changed", before=_value_text(detail["before"]), after=_value_text(detail["after"])
        )
    if action != "signal.send" or "signal" not in detail:
        return None
    answer: str | None = None
    if "choice" in detail:
        answer = _value_text(detail["choice"])
    elif "answer" in detail and visit.may(Permission.VIEW_ARGUMENTS):
        answer = visit.redacted(_answer_words(detail["answer"]))[:_LONGEST_ANSWER]
    signal = _value_text(detail["signal"])
    if answer is None:
        return visit.text("activity.answered", signal=signal)
    return visit.text("activity.answered_with", signal=signal, answer=answer)


def _answer_words(value: JsonValue) -> str:
    """Return an answer on one line: "approved, note: ok by phone"."""
    if not isinstance(value, Mapping):
        return _value_text(value)
    return ", ".join(
        (name if one else f"not {name}") if isinstance(one, bool) else f"{name}: {_value_text(one)}"
        for name, one in value.items()
        if one is not None and one != ""
    )


def _value_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- actions on operations ---------------------------------------------------------------------------------


def cancel_operation(visit: Visit) -> Response:
    """Stop the operation after its current chunk."""
    cancel(visit, visit.form.value(_OPERATION))
    return visit.done(visit.text("activity.cancelled"), to="/activity")


ROUTES = (
    Route("GET", "/activity", Permission.READ, show_activity, (_CURSOR,)),
    Route("POST", "/activity/cancel", Permission.READ, cancel_operation, form=(_OPERATION,)),
)
