"""The pages of tasks: the catalogue, the page of a task with its runs, and the form that creates a job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock import (
    ArgumentError,
    ConfigurationError,
    ScheduleError,
    TaskError,
    UnknownTask,
)
from firelock.arguments.references import put_at
from firelock.storage import DURATION_BUCKETS, State
from firelock_dashboard.pages.servers import deleted_running
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.security.redaction import MASK
from firelock_dashboard.stats.history import SPANS
from firelock_dashboard.web.fields import Choice, Integer, Named, Span, Text
from firelock_dashboard.web.formatting import instant
from firelock_dashboard.web.payloads import IN_LISTS, summary
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.responses import Response

    from firelock import Job, TaskEntry
    from firelock.storage import Input, JobRecord
    from firelock_dashboard.stats.history import TaskStats
    from firelock_dashboard.web.request import Visit

_HOURS = 24
_LINE = 240  # the maximum number of characters of a call
_RUNS = 20
_MOST_TASKS = 500
_RUNNING = 500  # the maximum number of running jobs that are counted
_Q, _NAME, _FROM = Text("q", default=""), Text("name", is_required=True), Text("from")
_SPAN = Choice("span", choices=tuple(SPANS), default="24h")
PRIORITY = Integer("priority", "The job's priority, instead of the task's.", least=-100, most=100)
ARGUMENTS = Named(
    "args.NAME", "The argument NAME as a string: dates as ISO, structures as JSON.", may_be_empty=True
)
JOB_QUEUE = Text("queue", "The job's queue, instead of the task's.")
DELAY = Span("delay", "Run the job this much later, for example 15m.")


@attrs.frozen
class _TaskRow:
    name: str
    entry: TaskEntry | None  # None if jobs of the task have ended, but it is not registered anywhere
    stats: TaskStats | None  # None if no job of the task has ended within the hours that are shown
    running: int  # the number of the task's jobs among the counted ones
    is_cut: bool  # whether more jobs run than are counted, which might include jobs of this task
    deleted: int  # the number of the task's deleted jobs that still run
    started_at: datetime | None  # the time when the newest running job was claimed

    @property
    def last_at(self) -> datetime | None:
        """The time when the task's last run ended or, if no run has ended, when a running job was claimed."""
        return self.stats.last_at if self.stats and self.stats.last_at else self.started_at


def show_tasks(visit: Visit) -> Response:
    """Show the tasks that are registered in a server or this process, and other tasks that ran recently."""
    wanted = visit.query.value(_Q).casefold()
    return visit.page(
        "tasks.html", rows=lambda: _rows(visit, wanted),
        wanted=wanted, hours=_HOURS, running_limit=_RUNNING,
    )  # fmt: skip


def _rows(visit: Visit, wanted: str) -> list[_TaskRow]:
    entries = {entry.name: entry for entry in visit.fire.catalogue.list()}
    stats = visit.dashboard.history.tasks(_HOURS)
    running: Counter[str] = Counter()
    started: dict[str, int] = {}
    page = visit.fire.jobs.find(state=State.PROCESSING, limit=_RUNNING)
    for job in page:
        running[job.task] += 1
        started[job.task] = max(job.record().claimed_at or 0, started.get(job.task, 0))
    deleted: Counter[str] = Counter()
    for job in deleted_running(visit, visit.fire.servers.list()):
        deleted[job.task] += 1
        started[job.task] = max(job.record().claimed_at or 0, started.get(job.task, 0))
    known = {*entries, *stats, *running, *deleted}
    names = [name for name in sorted(known) if wanted in name.casefold()]
    return [
        _TaskRow(
            name, entries.get(name), stats.get(name), running[name], page.cursor is not None, deleted[name],
            instant(started.get(name)),
        )
        for name in names[:_MOST_TASKS]
    ]  # fmt: skip


# ---- one task --------------------------------------------------------------------------------------------


def show_task(visit: Visit) -> Response:
    """Show a task with its statistics, its last runs and its description."""
    name = visit.query.value(_NAME)
    span = visit.query.value(_SPAN)
    entry = _entry(visit, name)
    newest = _newest(visit, name)
    if entry is None and not newest:
        raise NotHere(visit.text("tasks.unknown", task=name))
    return visit.page(
        "task.html", title=name, section="tasks", name=name, entry=entry, span=span, spans=tuple(SPANS),
        jobs=lambda: [(job, call_line(visit, job)) for job in newest],
        failed=lambda: _newest(visit, name, State.FAILED),
        stats=lambda: visit.dashboard.history.tasks(_HOURS).get(name), hours=_HOURS,
        series=lambda: visit.dashboard.history.series(span, task=name),
        durations=lambda: _durations(visit, name), can_run=visit.fire.registry.get(name) is not None,
    )  # fmt: skip


def _entry(visit: Visit, name: str) -> TaskEntry | None:
    try:
        return visit.fire.catalogue.get(name)
    except UnknownTask:
        return None


def _newest(visit: Visit, name: str, state: State | None = None) -> list[Job[object]]:
    return list(visit.fire.jobs.find(task=name, state=state, limit=_RUNS))


def call_line(visit: Visit, job: Job[object]) -> str:
    """Return a job's arguments on one line; empty if this visitor may not see them."""
    given = visit.arguments(job.record(), limit=IN_LISTS)
    text = summary(given.value) if isinstance(given.value, dict) else "" if given.is_hidden else given.line
    return text[:_LINE]


def _durations(visit: Visit, name: str) -> list[tuple[float | None, int]]:
    """Return the number of recent runs by the upper bound of their duration; None for longer durations."""
    bounds = [*DURATION_BUCKETS, None]
    stats = visit.dashboard.history.tasks(_HOURS).get(name)
    return list(zip(bounds, stats.histogram if stats else [0] * len(bounds), strict=True))


# ---- run a task ------------------------------------------------------------------------------------------


def show_form(visit: Visit) -> Response:
    """Show the form that creates a job of the task, with the fields from its type hints.

    `from` is the id of a job whose arguments and options are the initial values.
    """
    name, original_id = visit.query.value(_NAME), visit.query.maybe(_FROM)
    if original_id is None:
        return _form(visit, name, {}, "")
    visit.require(Permission.VIEW_ARGUMENTS)
    original = _original(visit, name, original_id)
    outputs = _outputs_of(visit, original)
    values, hidden = _values_of(visit, name, original, outputs)
    return _form(visit, name, values, "", hidden=hidden, missing=_missing_among(outputs))


def _original(visit: Visit, name: str, job_id: str) -> JobRecord:
    """Return the job that is to be run again with changes.

    Raises:
        JobNotFound: If the job is not stored.
        BadRequest: If it is a job of another task.
    """
    job = visit.fire.jobs.get(job_id).record()
    known = visit.fire.registry.get(job.task)
    if known is None or known is not visit.fire.registry.get(name):
        raise BadRequest(visit.text("tasks.other_task", id=job.id, task=name))
    return job


def _outputs_of(visit: Visit, job: JobRecord) -> dict[Input, JobRecord | None]:
    """Return the jobs whose outputs the job uses as arguments, by the positions of these outputs."""
    inputs = () if job.relations is None else job.relations.inputs
    ids = list(dict.fromkeys(one.job_id for one in inputs))
    records = dict(zip(ids, visit.fire.storage.get(ids), strict=True)) if ids else {}
    return {one: records[one.job_id] for one in inputs}


def _missing_among(outputs: Mapping[Input, JobRecord | None]) -> dict[str, str]:
    """Return the parameters whose values are missing, with the job whose output each of them needs."""
    return {
        str(one.path[0]): one.job_id
        for one, source in outputs.items()
        if source is None or source.result is None
    }


def _values_of(
    visit: Visit, name: str, job: JobRecord, outputs: Mapping[Input, JobRecord | None]
) -> tuple[dict[str, str], list[str]]:
    """Return the form values for the job, and the parameters whose values this page may not show.

    The values contain the outputs of other jobs; a parameter with a missing output is left out.
    """
    stored, missing = visit.arguments_value(job), _missing_among(outputs)
    arguments = stored if isinstance(stored, dict) else {}
    for one, source in outputs.items():
        if source is not None and one.path[0] not in missing:
            put_at(arguments, one.path, visit.result(source, limit=None).value)
    arguments = {one: value for one, value in arguments.items() if one not in missing}
    hidden = [one for one, value in arguments.items() if MASK in json.dumps(value, ensure_ascii=False)]
    shown = {one: value for one, value in arguments.items() if one not in hidden}
    values = {f"args.{one}": text for one, text in visit.fire.texts_from_arguments(name, shown).items()}
    info = visit.fire.registry.get(name)
    for option in ("queue", "priority"):
        if info is not None and getattr(job, option) != getattr(info, option):
            values[option] = str(getattr(job, option))
    return {**values, "from": job.id}, hidden


def _form(
    visit: Visit, name: str, values: dict[str, str], problem: str, *, hidden: Sequence[str] = (),
    missing: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    info = visit.fire.registry.get(name)
    if info is None:
        raise NotHere(visit.text("tasks.not_here", task=name))
    return visit.page(
        "task_run.html", title=visit.text("tasks.run_title", task=name), section="tasks", task=info,
        parameters=visit.fire.parameters(name), values=values, problem=problem,
        hidden=hidden, missing=missing or {}, status=400 if problem else 200,
    )  # fmt: skip


def run_task(visit: Visit) -> Response:
    """Enqueue a job of the task with the values of the form."""
    name, original_id = visit.form.value(_NAME), visit.form.maybe(_FROM)
    original = None if original_id is None else _original(visit, name, original_id)
    try:
        job = make_job(visit, name, original)
    except (ArgumentError, ScheduleError, ConfigurationError, TaskError, BadRequest) as error:
        if visit.wants_json:
            raise BadRequest(str(error)) from error
        kept = dict(visit.form.pairs())
        return _form(visit, name, kept, str(error))
    return visit.done(
        visit.text("tasks.ran", task=name), to=f"/jobs/{job.id}", link=visit.url(f"/jobs/{job.id}")
    )


def make_job(visit: Visit, name: str, original: JobRecord | None = None) -> Job[object]:
    """Enqueue a job of the task with the sent values, record it in the audit, and return it.

    A value with a masked secret is refused, because the mask would be stored instead of the secret. Without a
    priority in the form, the job has the priority of the task.

    Args:
        visit: the form, whose fields `args.NAME` are the arguments.
        name: the task.
        original: the job that is run again with changes and whose metadata is copied; None for a new call.
    """
    form = visit.form
    values = form.maybe(ARGUMENTS) or {}
    masked = next((field for field, text in values.items() if MASK in text), None)
    if masked is not None:
        raise BadRequest(
            f"args.{masked} must not contain the mask {MASK}, which replaces a secret; send the value itself."
        )
    job = visit.fire.enqueue_text(
        name, values, queue=form.maybe(JOB_QUEUE), delay=form.maybe(DELAY) or None,
        priority=form.maybe(PRIORITY), meta=None if original is None else original.meta,
        reason=None if original is None else f"run again with changes from {original.id} by {visit.who}",
    )  # fmt: skip
    visit.audit("task.run", name, job=job.id, **({} if original is None else {"from": original.id}))
    return job


ROUTES = (
    Route("GET", "/tasks", Permission.READ, show_tasks, (_Q,)),
    Route("GET", "/tasks/view", Permission.READ, show_task, (_NAME, _SPAN)),
    Route("GET", "/tasks/run", Permission.RUN_TASK, show_form, (_NAME, _FROM)),
    Route(
        "POST",
        "/tasks/run",
        Permission.RUN_TASK,
        run_task,
        form=(_NAME, ARGUMENTS, JOB_QUEUE, DELAY, PRIORITY, _FROM),
        shows_problems=True,
    ),
)
