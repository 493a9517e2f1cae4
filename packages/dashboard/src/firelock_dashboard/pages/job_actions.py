"""What can be done to jobs: some by their ids, or everything that matches; and lists as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import attrs
from starlette.responses import StreamingResponse

from firelock import ConfigurationError, JobNotFound, ScheduleError, State
from firelock.storage import Applied, JobRecord
from firelock_dashboard.access import Permission
from firelock_dashboard.bulk import MANY
from firelock_dashboard.filters import LIST_FIELDS
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.query import Fields
from firelock_dashboard.routes import Route
from firelock_dashboard.searching import SECONDS, count_up_to, every_match
from firelock_dashboard.visit import Undo
from firelock_dashboard.words import iso

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import JsonValue
    from firelock_dashboard.pages.jobs import Listing
    from firelock_dashboard.visit import Visit

__all__ = ["EXPORTED", "ROUTES", "defused"]

EXPORTED = 10_000
_IDS = 500
_FIRST = 10
_VERBS = {"requeue": Permission.REQUEUE, "delete": Permission.DELETE}
_TYPED = ("counted", "typed")
_ENDED = ("succeeded", "deleted")
_CHOSEN = ("one", "id+")
_ALL = ("retrying", "state", *LIST_FIELDS)
_RESTORABLE = frozenset({State.SCHEDULED, State.ENQUEUED, State.FAILED})
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


# ---- some by their ids -----------------------------------------------------------------------------------


def requeue(visit: Visit) -> Response:
    """The jobs are enqueued, each that is neither enqueued nor running."""
    ids = _ids(visit)
    return _answer(visit, "requeue", ids, visit.fire.jobs.requeue(ids, reason=f"requeued by {visit.who}"))


def delete(visit: Visit) -> Response:
    """The jobs are deleted; those that run are told to stop."""
    ids = _ids(visit)
    before = visit.fire.storage.get(ids)
    results = visit.fire.jobs.delete(ids, reason=f"deleted by {visit.who}")
    lost_nothing = [
        job.id
        for job, result in zip(before, results, strict=True)
        if job is not None and result is Applied.APPLIED and job.state in _RESTORABLE
    ]
    undo = Undo("/jobs/restore", {"id": lost_nothing}) if lost_nothing else None
    return _answer(visit, "delete", ids, results, undo=undo)


def restore(visit: Visit) -> Response:
    """Deletes are taken back, where they lost nothing; of one job it is said why not."""
    ids = _ids(visit)
    results = visit.fire.jobs.restore(ids, reason=f"restored by {visit.who}")
    if len(ids) == 1 and results[0] is Applied.REFUSED:
        why = visit.fire.jobs.why_not_restored(ids)[0]
        raise BadRequest(visit.text("job.not_restored", why=why or "it was changed meanwhile"))
    return _answer(visit, "restore", ids, results)


def reschedule(visit: Visit) -> Response:
    """The jobs, each that is scheduled, become due at another time."""
    ids, when = _ids(visit), _when(visit.form)
    try:
        results = visit.fire.jobs.reschedule(ids, when, reason=f"rescheduled by {visit.who}")
    except ScheduleError as error:
        raise BadRequest(str(error)) from error
    return _answer(visit, "reschedule", ids, results, when=str(when))


def copy(visit: Visit) -> Response:
    """A job like each of these is enqueued."""
    ids = _ids(visit)
    made: list[JsonValue] = []
    for job_id in ids:
        try:
            made.append(visit.fire.jobs.copy(job_id, reason=f"copied from {job_id} by {visit.who}").id)
        except JobNotFound:
            continue
    results = [Applied.APPLIED] * len(made) + [Applied.MISSING] * (len(ids) - len(made))
    link = visit.url(f"/jobs/{made[0]}") if len(made) == 1 else None
    return _answer(visit, "copy", ids, results, link=link, made=made[:_FIRST])


def _ids(visit: Visit) -> list[str]:
    """Return the ids of the form: that of its one row, or the selected ones."""
    one = visit.form.maybe("one", limit=200)
    ids = [one] if one else [each for each in visit.form.every("id", limit=_IDS) if each]
    if not ids:
        raise BadRequest(visit.text("jobs.none_selected"))
    if any(len(each) > 200 for each in ids):  # noqa: PLR2004 - as long as `one`
        raise BadRequest("id has more than 200 characters; give ids of jobs.")
    return list(dict.fromkeys(ids))


def _when(form: Fields) -> datetime | timedelta:
    value = form.required("when", limit=60)
    fields = Fields([("when", value.removeprefix("+"))])
    span = fields.span("when") if value[-1].isalpha() and value[:-1].removeprefix("+").isdigit() else None
    moment = fields.moment("when") if span is None else None
    assert span is not None or moment is not None  # noqa: S101 - `required`
    return span if span is not None else moment  # type: ignore[return-value]  # one of them is there


def _answer(
    visit: Visit, verb: str, ids: Sequence[str], results: Sequence[Applied], *, link: str | None = None,
    undo: Undo | None = None, **detail: JsonValue,
) -> Response:  # fmt: skip
    """Record what was done and say it in numbers."""
    applied = sum(result in {Applied.APPLIED, Applied.RELEASING} for result in results)
    missing = sum(result is Applied.MISSING for result in results)
    skipped = len(results) - applied - missing
    target = ids[0] if len(ids) == 1 else visit.text("jobs.count", count=len(ids))
    visit.audit(
        f"jobs.{verb}",
        target,
        count=applied,
        skipped=skipped,
        missing=missing,
        ids=list(ids[:_FIRST]),
        **detail,
    )
    parts = [visit.text(f"jobs.done_{verb}", count=applied)]
    if skipped:
        parts.append(visit.text(f"jobs.skipped_{verb}", count=skipped))
    if missing:
        parts.append(visit.text("jobs.missing", count=missing))
    kind = "good" if applied else "note"
    return visit.done(" · ".join(parts), to="/jobs", kind=kind, link=link, undo=undo)


# ---- everything that matches -----------------------------------------------------------------------------


@attrs.frozen
class _Wish:
    """What is to be done to everything that matches."""

    verb: str
    listing: Listing

    @classmethod
    def read(cls, visit: Visit, verb: str) -> _Wish:
        """Return which jobs the query asks for.

        Raises:
            BadRequest: it asks for something that is done by selecting alone.
            Forbidden: the visitor may not.
        """
        from firelock_dashboard.pages.jobs import Listing  # noqa: PLC0415 - its rows lead here

        visit.require(_VERBS[verb])
        listing = Listing.read(visit, is_retrying=visit.query.flag("retrying"))
        if not listing.plan.is_whole:
            raise BadRequest(visit.text("jobs.all_by_selection"))
        if not listing.may_be_all(verb):
            raise BadRequest(
                visit.text("jobs.all_needs_filter" if verb == "delete" else "jobs.all_needs_state")
            )
        return cls(verb, listing)

    def counted(self, visit: Visit) -> _Counted:
        """Return how many jobs are meant, by the state that they are in now."""
        visit.dashboard.forget()  # what is counted for a question is counted now
        where, total = self.listing.plan.where, self.listing.total
        if where.state is not None:
            name = "retrying" if where.is_retrying else str(where.state)
            count, is_all = (total, True) if total is not None else count_up_to(visit.fire, self.listing.plan)
            return _Counted(((name, count),) if count else (), is_all)
        found: list[tuple[str, int]] = []
        is_whole = True
        states = [state for state in State if state is not State.DELETED]
        for state in states:
            one = attrs.evolve(self.listing.plan, where=attrs.evolve(where, state=state))
            count, is_all = count_up_to(visit.fire, one, seconds=SECONDS / len(states))
            is_whole = is_whole and is_all
            if count:
                found.append((str(state), count))
        return _Counted(tuple(found), is_whole)


@attrs.frozen
class _Counted:
    """How many jobs an action on everything meets."""

    by_state: tuple[tuple[str, int], ...]
    is_all: bool  # there are no more than these

    @property
    def total(self) -> int:
        """How many at least."""
        return sum(count for _, count in self.by_state)

    @property
    def is_typed(self) -> bool:
        """Tell whether the number has to be typed: there are many, or some succeeded or were deleted."""
        return not self.is_all or self.total > MANY or any(name in _ENDED for name, _ in self.by_state)

    def is_known(self, seen: str, typed: str) -> bool:
        """Tell whether what was typed is the number that was shown, and what is there now is about that."""
        digits = "".join(sign for sign in typed if sign.isdigit())
        if not (seen.isascii() and seen.isdigit() and digits == seen):
            return False
        return self.total <= int(seen) + max(MANY // 10, int(seen) // 10)


def confirm_all(visit: Visit) -> Response:
    """What would be done to how many jobs, and the button that does it."""
    wish = _Wish.read(visit, visit.query.one_of("verb", tuple(_VERBS), "requeue"))
    return _ask(visit, wish, wish.counted(visit))


def _ask(visit: Visit, wish: _Wish, counted: _Counted, *, problem: str = "") -> Response:
    return visit.page(
        "jobs_all.html", title=visit.text(f"jobs.all_{wish.verb}"), section="jobs", list=wish.listing,
        counted=counted, verb=wish.verb, problem=problem, status=400 if problem else 200,
        act=visit.url.of(f"/jobs/all/{wish.verb}", {
            "retrying": "1" if wish.listing.chips.is_retrying else None,
            "at": wish.listing.at.isoformat(), **wish.listing.chips.query(),
        }),
    )  # fmt: skip


def requeue_all(visit: Visit) -> Response:
    """Everything that matches is being requeued."""
    return _start(visit, "requeue")


def delete_all(visit: Visit) -> Response:
    """Everything that matches is being deleted."""
    return _start(visit, "delete")


def _start(visit: Visit, verb: str) -> Response:
    """The operation is stored and begun; the page of operations tells how far it is."""
    wish = _Wish.read(visit, verb)
    plan, counted = wish.listing.plan, wish.counted(visit)
    if counted.is_typed and not counted.is_known(
        visit.form.text("counted", limit=20), visit.form.text("typed", limit=20)
    ):
        problem = visit.text("jobs.all_not_typed", number=str(counted.total))
        if visit.wants_json:
            raise BadRequest(problem)
        return _ask(visit, wish, counted, problem=problem)
    try:
        operation = visit.fire.operations.start(
            wish.verb, plan.where, by=visit.who, contains=plan.contains or None
        )
    except ConfigurationError as error:
        raise BadRequest(str(error)) from error
    query: dict[str, JsonValue] = {
        name: str(value) for name, value in wish.listing.chips.query().items() if value
    }
    target = visit.text("jobs.everything")
    visit.audit(f"jobs.{wish.verb}", target, operation=operation.id, filter=query)
    visit.dashboard.runner.start(operation.id)
    link = f"{visit.url('/activity')}#operation-{operation.id}"
    return visit.done(visit.text(f"jobs.started_{wish.verb}"), to="/activity", kind="note", link=link)


# ---- lists as files --------------------------------------------------------------------------------------

_COLUMNS = (
    "id", "task", "state", "queue", "priority", "attempt", "tags", "created", "due", "started", "ended",
    "server", "error", "message", "reason", "arguments",
)  # fmt: skip


def export(visit: Visit) -> Response:
    """The list, at most so many rows of it, as CSV, as a JSON object a line, or as ids alone."""
    from firelock_dashboard.pages.jobs import Listing  # noqa: PLC0415 - its rows lead here

    form = visit.query.one_of("format", ("csv", "ndjson", "ids"), "csv")
    selected = [each for each in visit.query.every("selected", limit=_IDS) if each]
    listing = Listing.read(visit, is_retrying=visit.query.flag("retrying"))
    jobs = (
        _by_ids(visit, selected)
        if selected
        else every_match(visit.fire, listing.plan, EXPORTED, oldest_first=listing.is_oldest_first)
    )
    writers: dict[str, Callable[[Visit, Iterator[JobRecord]], Iterator[str]]] = {
        "csv": _csv, "ndjson": _ndjson, "ids": _only_ids,
    }  # fmt: skip
    kinds = {"csv": "text/csv", "ndjson": "application/x-ndjson", "ids": "text/plain"}
    suffix = "txt" if form == "ids" else form
    return StreamingResponse(
        writers[form](visit, jobs), media_type=f"{kinds[form]}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="jobs.{suffix}"'},
    )  # fmt: skip


def _by_ids(visit: Visit, ids: Sequence[str]) -> Iterator[JobRecord]:
    for job_id in dict.fromkeys(ids):
        try:
            yield visit.fire.jobs.get(job_id).record()
        except JobNotFound:
            continue


def _row(visit: Visit, job: JobRecord) -> dict[str, object]:
    error = job.error
    given = visit.arguments(job)
    arguments = given.line if given.reason and not given.is_hidden else given.value
    values = (
        job.id, job.task, job.state.value, job.queue, job.priority, job.attempt, list(job.tags),
        iso(job.created_at), iso(job.due_at), iso(job.started_at), iso(job.ended_at), job.server or "",
        error.type if error else "", visit.redacted(error.message) if error else "",
        visit.redacted(job.reason or ""), arguments,
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def _csv(visit: Visit, jobs: Iterator[JobRecord]) -> Iterator[str]:
    yield _line(_COLUMNS)
    for job in jobs:
        yield _line(_cells(_row(visit, job)))


def _cells(row: dict[str, object]) -> list[str]:
    arguments = "" if row["arguments"] is None else json.dumps(row["arguments"], ensure_ascii=False)
    tags = " ".join(map(str, row["tags"])) if isinstance(row["tags"], list) else ""
    return [defused(str(value)) for value in {**row, "arguments": arguments, "tags": tags}.values()]


def defused(text: str) -> str:
    """Return the text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(cells: Sequence[str]) -> str:
    file = io.StringIO()
    csv.writer(file).writerow(cells)
    return file.getvalue()


def _ndjson(visit: Visit, jobs: Iterator[JobRecord]) -> Iterator[str]:
    for job in jobs:
        yield json.dumps(_row(visit, job), ensure_ascii=False) + "\n"


def _only_ids(visit: Visit, jobs: Iterator[JobRecord]) -> Iterator[str]:  # noqa: ARG001 - as the others
    for job in jobs:
        yield f"{job.id}\n"


ROUTES = (
    Route("POST", "/jobs/requeue", Permission.REQUEUE, requeue, form=_CHOSEN),
    Route("POST", "/jobs/delete", Permission.DELETE, delete, form=_CHOSEN),
    Route("POST", "/jobs/restore", Permission.DELETE, restore, form=_CHOSEN),
    Route("POST", "/jobs/reschedule", Permission.REQUEUE, reschedule, form=(*_CHOSEN, "when")),
    Route("POST", "/jobs/copy", Permission.REQUEUE, copy, form=_CHOSEN),
    Route("GET", "/jobs/all", Permission.READ, confirm_all, ("verb", *_ALL)),
    Route("POST", "/jobs/all/requeue", Permission.REQUEUE, requeue_all, _ALL, _TYPED),
    Route("POST", "/jobs/all/delete", Permission.DELETE, delete_all, _ALL, _TYPED),
    Route("GET", "/jobs/export", Permission.READ, export, ("format", "selected+", *_ALL)),
)
