"""The Recurring page: due times, last runs, and actions to run, pause, resume, reset and remove."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo, available_timezones

import attrs

from firelock import (
    ArgumentError,
    ConfigurationError,
    Cron,
    Every,
    JobConflict,
    Misfire,
    Overlap,
    ScheduleError,
    SignatureMismatch,
    State,
    UnknownTask,
)
from firelock_dashboard.problems import BadRequest
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.security.redaction import MASK
from firelock_dashboard.web.actions import confirmation_page
from firelock_dashboard.web.fields import SPAN_UNITS, Choice, Integer, Text
from firelock_dashboard.web.formatting import stamp
from firelock_dashboard.web.request import Undo
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Job, RecurringJob, Upcoming
    from firelock_dashboard.web.fields import SentFields
    from firelock_dashboard.web.payloads import Payload
    from firelock_dashboard.web.request import Visit

_SHOWN = 30  # the maximum number of definitions on a page; the last runs of each are read
_RUNS = 20
_SEARCHED = 2_000  # the maximum number of definitions that are searched for a string
_IN_TIMELINE = 500
_PAGE = 500


@attrs.frozen
class RecurringRow:
    """A definition as a row."""

    job: RecurringJob
    mark: str  # the id, encoded for use as an HTML id because it may contain any characters
    words: str | None  # the schedule in words; None if it cannot be read
    written: str | None  # a cron expression, or "every 5m"
    zone: str | None


@attrs.frozen
class _Runs:
    jobs: list[tuple[Job[Any], float | None]]  # the jobs, oldest first, each with its duration in seconds
    typical: float | None  # the median duration of the succeeded runs in seconds

    @property
    def states(self) -> Counter[str]:
        """The number of runs in each state."""
        return Counter(str(job.state) for job, _ in self.jobs)


@attrs.frozen
class _RecurringPage:
    rows: list[RecurringRow]
    next: str | None
    is_cut: bool  # whether the search ended before the last definition


def row_of(job: RecurringJob) -> RecurringRow:
    """Return a definition as a row."""
    mark = hashlib.blake2b(job.id.encode(), digest_size=8).hexdigest()
    schedule = _schedule_of(job)
    if schedule is None:
        return RecurringRow(job, mark, None, None, None)
    return RecurringRow(job, mark, schedule.describe(), schedule_text(schedule), zone_of(schedule))


def _schedule_of(job: RecurringJob) -> Cron | Every | None:
    """Return the schedule of a definition, or None if it cannot be read."""
    try:
        return job.schedule
    except ScheduleError:
        return None


# ---- the list --------------------------------------------------------------------------------------------


def show_recurring(visit: Visit) -> Response:
    """Show the definitions in order of id, and the times when they fire within a day."""
    after, wanted = visit.query.value(_AFTER), visit.query.value(_Q)
    return visit.page(
        "recurring.html", after=after, wanted=wanted,
        page=lambda: _page(visit, after, wanted), runs=lambda recurring_id: _runs(visit, recurring_id),
        timeline=lambda: timeline_of(visit.fire.recurring.list(limit=_IN_TIMELINE), visit.now),
    )  # fmt: skip


def _page(visit: Visit, after: str, wanted: str) -> _RecurringPage:
    is_cut = False
    if not wanted:
        found = visit.fire.recurring.list(after=after, limit=_SHOWN + 1)
    else:
        examined = list(islice(_from(visit, after), _SEARCHED + 1))
        found = [one for one in examined[:_SEARCHED] if _holds(one, wanted.casefold())]
        is_cut = len(examined) > _SEARCHED and len(found) <= _SHOWN
    shown = found[:_SHOWN]
    following = shown[-1].id if len(found) > _SHOWN else None
    return _RecurringPage(list(map(row_of, shown)), following, is_cut)


def _from(visit: Visit, after: str) -> Iterator[RecurringJob]:
    while page := visit.fire.recurring.list(after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def _holds(job: RecurringJob, wanted: str) -> bool:
    row = row_of(job)
    texts = (job.id, job.task, job.queue, row.words, row.written)
    return any(wanted in text.casefold() for text in texts if text)


def _runs(visit: Visit, recurring_id: str) -> _Runs:
    """Return the results of the last runs of a definition, with one read."""
    runs = visit.fire.recurring.runs(recurring_id, limit=_RUNS)
    jobs = [(job, _took(job)) for job in reversed(runs)]
    spans = [took for job, took in jobs if took is not None and job.state is State.SUCCEEDED]
    return _Runs(jobs, statistics.median(spans) if spans else None)


def _took(job: Job[Any]) -> float | None:
    if job.started_at is None or job.ended_at is None or job.state is State.DELETED:
        return None  # the stored end time of a deleted job is that of the delete, not of the run
    return (job.ended_at - job.started_at).total_seconds()


# ---- actions on one definition ---------------------------------------------------------------------------


def trigger(visit: Visit) -> Response:
    """Enqueue a job of the definition now."""
    recurring_id = visit.form.value(RECURRING_ID)
    job = visit.fire.recurring.trigger(recurring_id)
    visit.audit("recurring.trigger", recurring_id, job=job.id)
    return visit.done(
        visit.text("recurring.triggered", id=recurring_id), to="/recurring", link=visit.url(f"/jobs/{job.id}")
    )


def set_paused(visit: Visit, verb: str) -> Response:
    """Pause the definition until it is resumed, or resume it from its next due time on."""
    before = visit.fire.recurring.get(visit.form.value(RECURRING_ID))
    getattr(visit.fire.recurring, verb)(before.id)
    visit.audit(f"recurring.{verb}", before.id)
    undo = None
    if before.is_paused is (verb == "resume"):
        back = "pause" if verb == "resume" else "resume"
        undo = Undo(f"/recurring/{back}", {"id": [before.id]})
    return visit.done(visit.text(f"recurring.{verb}d", id=before.id), to="/recurring", undo=undo)


def reset(visit: Visit) -> Response:
    """Replace an edit made in the dashboard with the definition in the code."""
    recurring_id = visit.form.value(RECURRING_ID)
    after = visit.fire.recurring.reset(recurring_id, by=visit.who)
    visit.audit("recurring.reset", recurring_id, version=after.version)
    key = "recurring.awaits_code" if after.awaits_code else "recurring.was_reset"
    return visit.done(visit.text(key, id=recurring_id), to="/recurring")


def remove(visit: Visit) -> Response:
    """Remove the definition; its existing jobs remain."""
    recurring_id = visit.fire.recurring.get(visit.form.value(RECURRING_ID)).id
    question = visit.text("recurring.confirm_remove", id=recurring_id)
    confirmation = confirmation_page(visit, question, visit.text("recurring.remove"), section="recurring")
    if confirmation is not None:
        return confirmation
    visit.fire.recurring.remove(recurring_id)
    visit.audit("recurring.remove", recurring_id)
    return visit.done(visit.text("recurring.removed", id=recurring_id), to="/recurring")


_NEXT, _PREVIEWED = 10, 5
_ENTRIES = 100  # the number of newest audit entries that are searched for the author of a change
_TASKS = 1_000
_AFTER, _Q = Text("after", default=""), Text("q", default="")
RECURRING_ID = Text("id", "The definition's id.", is_required=True, is_stripped=False)
_NEW_ID = Text("id", is_stripped=False)
_TASK = Text("task", default="")
_SCHEDULE, _ZONE = Text("schedule", limit=4_000, default=""), Text("zone", default="")
_OVERLAP = Choice("overlap", choices=tuple(Overlap), default=Overlap.ALLOW)
_MISFIRE = Choice("misfire", choices=tuple(Misfire), default=Misfire.ONCE)
_QUEUE = Text("queue")
_PRIORITY = Integer("priority", least=-100, most=100)
_ARGUMENTS = Text("arguments", limit=64 * 1024)
_VERSION = Integer("version", least=0, most=999_999_999)
_FORM = (_TASK, _SCHEDULE, _ZONE, _OVERLAP, _MISFIRE, _QUEUE, _PRIORITY, _ARGUMENTS)


# ---- one recurring job -----------------------------------------------------------------------------------


@attrs.frozen
class _Instant:
    at: datetime
    here: str  # the time in the schedule's zone
    note: str | None


def show_one(visit: Visit) -> Response:
    """Show a definition with its next due times and its last runs."""
    job = visit.fire.recurring.get(visit.query.value(RECURRING_ID))
    row = row_of(job)
    return visit.page(
        "recurring_view.html", title=job.id, section="recurring", row=row, record=job.record,
        upcoming=lambda: _upcoming(visit, row), schedule=None if row.words is None else job.schedule,
        runs=lambda: visit.fire.recurring.runs(job.id, limit=_RUNS),
        arguments=visit.arguments(job.record), meta=visit.meta(job), redacted=visit.redacted,
    )  # fmt: skip


def _upcoming(visit: Visit, row: RecurringRow) -> list[_Instant]:
    if row.words is None:
        return []
    return _in_zone(visit.fire.recurring.upcoming(row.job.schedule, _NEXT, after=visit.now), row.zone)


def _in_zone(found: Sequence[Upcoming], zone: str | None) -> list[_Instant]:
    there = ZoneInfo(zone or "UTC")
    return [
        _Instant(one.at, one.at.astimezone(there).strftime("%a %Y-%m-%d %H:%M:%S %Z"), one.note)
        for one in found
    ]


# ---- the form --------------------------------------------------------------------------------------------


_DEFAULTS = {"zone": "UTC", "overlap": str(Overlap.ALLOW), "misfire": str(Misfire.ONCE)}


def new_form(visit: Visit) -> Response:
    """Show an empty form for an operator's own definition."""
    return _form(visit, None, {**_DEFAULTS, "task": visit.query.value(_TASK)}, {})


def edit_form(visit: Visit) -> Response:
    """Show the form with the current values of a definition."""
    job = visit.fire.recurring.get(visit.query.value(RECURRING_ID))
    return _form(visit, job, _values(job, visit.arguments(job.record)), {})


def _values(job: RecurringJob, arguments: Payload) -> dict[str, str]:
    values = {
        "version": str(job.version), "queue": job.queue, "priority": str(job.priority),
        "arguments": arguments.text if _is_whole(arguments) else "",
    }  # fmt: skip
    schedule = _schedule_of(job)
    if schedule is None:
        return {**_DEFAULTS, **values, "schedule": ""}
    return {
        **values, "schedule": schedule_text(schedule), "zone": zone_of(schedule) or "",
        "overlap": str(schedule.overlap), "misfire": str(schedule.misfire),
    }  # fmt: skip


def _is_whole(shown: Payload) -> bool:
    """Return whether the shown arguments are complete, so that they can be edited."""
    return not (shown.is_hidden or shown.is_cut or shown.value is None or MASK in shown.text)


def _form(
    visit: Visit,
    job: RecurringJob | None,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    status: int = 200,
) -> Response:
    key = "recurring.create_title" if job is None else "recurring.edit_title"
    return visit.page(
        "recurring_form.html", title=visit.text(key, id=job and job.id), section="recurring", status=status,
        job=job, values=values, errors=errors, zones=_zones(),
        tasks=[task.name for task in visit.fire.tasks()[:_TASKS]],
        overlaps=list(Overlap), misfires=list(Misfire),
        preview=_previewed(visit, values.get("schedule", ""), values.get("zone", "")),
        keeps_arguments=job is not None and not _is_whole(visit.arguments(job.record)),
    )  # fmt: skip


@cache
def _zones() -> Sequence[str]:
    return sorted(available_timezones() - {"localtime"})


# ---- the preview -----------------------------------------------------------------------------------------


@attrs.frozen
class _Preview:
    words: str | None = None
    instants: Sequence[_Instant] = ()
    error: str | None = None


def preview(visit: Visit) -> Response:
    """Show the meaning of a schedule while it is typed; an invalid schedule is not a bad request."""
    fields = visit.query
    found = _previewed(visit, fields.value(_SCHEDULE), fields.value(_ZONE))
    return visit.page("recurring_preview.html", title="", section="recurring", preview=found)


def _previewed(visit: Visit, text: str, zone: str) -> _Preview:
    if not text:
        return _Preview()
    try:
        schedule = read_schedule(text, zone)
    except ScheduleError as error:
        return _Preview(error=str(error))
    found = visit.fire.recurring.upcoming(schedule, _PREVIEWED, after=visit.now)
    return _Preview(schedule.describe(), _in_zone(found, zone_of(schedule)))


# ---- a sent form -----------------------------------------------------------------------------------------


@attrs.frozen
class _Sent:
    """A sent form, with its problems by field."""

    values: Mapping[str, str]
    errors: dict[str, str]
    schedule: Cron | Every | None
    arguments: Mapping[str, object] | Sequence[object] | None
    priority: int | None


T = TypeVar("T")


def _read(form: SentFields, before: Cron | Every | None) -> _Sent:
    overlap, misfire = form.value(_OVERLAP), form.value(_MISFIRE)
    values = {
        **{field.name: form.text(field) for field in (_NEW_ID, _VERSION, *_FORM)},
        "overlap": str(overlap), "misfire": str(misfire),
    }  # fmt: skip
    errors: dict[str, str] = {}

    def tried(field: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (ScheduleError, BadRequest) as error:
            errors["zone" if "time zone" in str(error) else field] = str(error)
            return None

    return _Sent(
        values, errors,
        tried(
            "schedule",
            lambda: read_schedule(
                values["schedule"], values["zone"], before, overlap=overlap, misfire=misfire
            ),
        ),
        tried("arguments", lambda: _arguments(values["arguments"])),
        tried("priority", lambda: form.maybe(_PRIORITY)),
    )  # fmt: skip


def _arguments(text: str) -> Mapping[str, object] | Sequence[object] | None:
    """Return the arguments, or None for an empty string."""
    if not text:
        return None
    if MASK in text:
        raise BadRequest(
            f"arguments must not contain the mask {MASK}, which replaces a hidden value; send that value."
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"arguments must be JSON: {error}.") from error
    if not isinstance(value, dict | list):
        raise BadRequest(
            'arguments must be a JSON object or list; use for example {"day": "mon"} or ["mon"].'
        )
    return value


_REFUSED = (ArgumentError, SignatureMismatch, UnknownTask, ConfigurationError, ScheduleError)


def _error_of(error: Exception, *, unknown_task: str) -> dict[str, str]:
    """Return the message of a core error by the form's field; an `UnknownTask` belongs to `unknown_task`."""
    text = str(error)
    if isinstance(error, ArgumentError | SignatureMismatch):
        return {"arguments": text}
    if isinstance(error, UnknownTask):
        return {unknown_task: text}
    places = (("queue name", "queue"), ("priority", "priority"), ("recurring id", "id"))
    return {next((field for mark, field in places if mark in text.lower()), "schedule"): text}


def edit(visit: Visit) -> Response:
    """Change the definition to the values of the form, unless it was changed after the form was opened."""
    recurring_id = visit.form.value(RECURRING_ID)
    version, job = visit.form.value(_VERSION), visit.fire.recurring.get(recurring_id)
    sent = _read(visit.form, _schedule_of(job))
    if sent.errors:
        return _form(visit, job, sent.values, sent.errors, status=400)
    try:
        after = visit.fire.recurring.edit(
            recurring_id, schedule=sent.schedule, arguments=sent.arguments, priority=sent.priority,
            queue=sent.values["queue"] or None, by=visit.who, expected_version=version,
        )  # fmt: skip
    except JobConflict:
        if job.record.newer is not None:
            raise
        return _conflict(visit, recurring_id, sent)
    except _REFUSED as error:
        return _form(visit, job, sent.values, _error_of(error, unknown_task="arguments"), status=400)
    if after.version == version:
        return visit.done(visit.text("recurring.unchanged", id=recurring_id), to="/recurring", kind="note")
    visit.audit(
        "recurring.edit", recurring_id, version=after.version, before=version, schedule=_schedule_words(after)
    )
    return visit.done(visit.text("recurring.edited", id=recurring_id), to="/recurring")


def _schedule_words(job: RecurringJob) -> str:
    row = row_of(job)
    return f"{row.written or ''} {row.zone or ''}".strip()


def _conflict(visit: Visit, recurring_id: str, sent: _Sent) -> Response:
    """Return the sent form with the author of the conflicting change.

    If the visitor sends the form again, it overwrites that change.
    """
    job = visit.fire.recurring.get(recurring_id)
    changes = (
        entry
        for entry in visit.fire.audit.list(limit=_ENTRIES)
        if entry.target == recurring_id
        and entry.action.startswith("recurring.")
        and entry.action != "recurring.trigger"
    )
    entry = next(changes, None)  # None if the code changed the definition, or if the change is too old
    at = visit.text("recurring.conflict_at", at=stamp(job.record.updated_at))
    who = visit.text("recurring.conflict_by", who=entry.by) if entry else ""
    message = visit.text("recurring.conflict", what=_schedule_words(job), at=at, who=who)
    return _form(visit, job, {**sent.values, "version": str(job.version)}, {"": message}, status=409)


def create(visit: Visit) -> Response:
    """Store an operator's own definition."""
    sent = _read(visit.form, None)
    for field in ("id", "task"):
        if not sent.values[field]:
            sent.errors[field] = visit.text(f"recurring.no_{field}")
    if sent.errors or sent.schedule is None:
        return _form(visit, None, sent.values, sent.errors, status=400)
    recurring_id = sent.values["id"]
    try:
        job = visit.fire.recurring.create(
            sent.values["task"], recurring_id, sent.schedule, sent.arguments or {},
            queue=sent.values["queue"] or None, priority=sent.priority, by=visit.who,
        )  # fmt: skip
    except JobConflict as error:
        return _form(visit, None, sent.values, {"id": str(error)}, status=409)
    except _REFUSED as error:
        return _form(visit, None, sent.values, _error_of(error, unknown_task="task"), status=400)
    visit.audit("recurring.create", recurring_id, task=job.task, schedule=_schedule_words(job))
    return visit.done(visit.text("recurring.created", id=recurring_id), to="/recurring")


_BUCKET = timedelta(minutes=10)
_DAY = timedelta(hours=24)
_MOST_POINTS = 4_000  # the maximum number of times and buckets computed for one timeline
_TICK = timedelta(microseconds=1)
_PILE = 3


@attrs.frozen
class Bucket:
    """A period of ten minutes."""

    starts_at: datetime
    count: int  # the number of jobs created in this period
    ids: tuple[str, ...]  # the ids of the definitions that fire in this period


@attrs.frozen
class Timeline:
    """A day, from the start of the current ten minutes on."""

    buckets: tuple[Bucket, ...]
    left_out: int  # the number of definitions that fire within the day but would take too long to compute

    @property
    def instants(self) -> int:
        """The number of jobs created in all buckets."""
        return sum(bucket.count for bucket in self.buckets)

    @property
    def most(self) -> int:
        """The largest number of jobs in a bucket."""
        return max((bucket.count for bucket in self.buckets), default=0)

    def is_piled(self, bucket: Bucket) -> bool:
        """Return whether unusually many jobs are created in a bucket.

        These are at least three jobs, and at least three quarters of the number in the fullest bucket.
        """
        return bucket.count >= _PILE and bucket.count >= self.most * 3 / 4

    @property
    def has_piles(self) -> bool:
        """Whether unusually many jobs are created in any bucket."""
        return any(map(self.is_piled, self.buckets))

    def piles(self) -> list[Bucket]:
        """Return the five fullest buckets of two jobs or more, fullest first.

        The list is empty if the timeline leaves out any definitions.
        """
        if self.left_out:
            return []
        return sorted((one for one in self.buckets if one.count > 1), key=lambda one: -one.count)[:5]


def timeline_of(jobs: Iterable[RecurringJob], now: datetime) -> Timeline:
    """Return the numbers of jobs that these definitions create within a day; paused ones create none.

    Equal schedules are computed once, the least frequent ones first, until 4,000 times or buckets are
    computed. This is enough for 27 different schedules that fire every minute.
    """
    start = now.replace(minute=now.minute // 10 * 10, second=0, microsecond=0)
    ids_of: dict[Cron | Every, list[str]] = {}
    for job in jobs:
        schedule = None if job.is_paused else _schedule_of(job)
        if schedule is not None:
            ids_of.setdefault(schedule, []).append(job.id)
    totals = {schedule: schedule.count(now, start + _DAY - _TICK) for schedule in ids_of}
    counts = [0] * (_DAY // _BUCKET)
    ids: list[list[str]] = [[] for _ in counts]
    left_out, points = 0, _MOST_POINTS
    for schedule in sorted(ids_of, key=lambda one: totals[one]):
        points -= min(totals[schedule], len(counts))
        if points < 0:
            left_out += len(ids_of[schedule])
            continue
        for place, count in _fired(schedule, totals[schedule], start, now).items():
            counts[place] += count * len(ids_of[schedule])
            ids[place] += ids_of[schedule]
    buckets = [
        Bucket(start + place * _BUCKET, count, tuple(ids[place])) for place, count in enumerate(counts)
    ]
    return Timeline(tuple(buckets), left_out)


def _fired(schedule: Cron | Every, total: int, start: datetime, now: datetime) -> Counter[int]:
    """Return how often a schedule fires in each bucket, computed by time or bucket, whichever is cheaper."""
    found: Counter[int] = Counter()
    if total <= _DAY // _BUCKET:
        at = schedule.next_after(now)
        while at is not None and at < start + _DAY:
            found[(at - start) // _BUCKET] += 1
            at = schedule.next_after(at)
        return found
    for place in range((now - start) // _BUCKET, _DAY // _BUCKET):
        began = start + place * _BUCKET
        found[place] = schedule.count(max(now, began - _TICK), began + _BUCKET - _TICK)
    return +found


_EVERY = re.compile(
    r"every\s+(?P<number>\d{1,9}(?:\.\d{1,6})?)?\s*(?P<unit>s|m|min|h|d|w|seconds?|minutes?|hours?|days?|weeks?)",
    re.IGNORECASE,
)
_CRON = 1_000  # the maximum number of characters; the cron parser has its own limit


def read_schedule(
    text: str,
    zone: str,
    before: Cron | Every | None = None,
    *,
    overlap: str = Overlap.ALLOW,
    misfire: str = Misfire.ONCE,
) -> Cron | Every:
    """Return the schedule of `0 2 * * *` in a zone, or of `every 5m`, which has no zone.

    A form does not contain the limit of misfires and the anchor of an interval, so these are the values of
    the previous schedule.

    Raises:
        ScheduleError: If the string, the zone or an option is not valid.
    """
    limit = 100 if before is None else before.misfire_limit
    if span := _EVERY.fullmatch(text.strip()):
        seconds = float(span["number"] or 1) * SPAN_UNITS[span["unit"][0].lower()]
        if seconds > timedelta.max.total_seconds():
            raise ScheduleError(
                f"schedule={text[:40]!r} is longer than 2.7 million years; use a shorter interval."
            )
        interval = timedelta(seconds=seconds)
        every = Every(interval, misfire=misfire, misfire_limit=limit, overlap=overlap)
        return attrs.evolve(every, anchor=before.anchor) if isinstance(before, Every) else every
    if len(text) > _CRON:
        raise ScheduleError(f"schedule must have at most {_CRON:,} characters, got {len(text):,}.")
    return Cron(text, tz=zone or "UTC", misfire=misfire, misfire_limit=limit, overlap=overlap)


def schedule_text(schedule: Cron | Every) -> str:
    """Return a string that `read_schedule` parses to an equal schedule, except for zone and policies."""
    if isinstance(schedule, Cron):
        return schedule.expression
    seconds = schedule.interval.total_seconds()
    for unit in ("w", "d", "h", "m"):
        if not seconds % SPAN_UNITS[unit]:
            return f"every {seconds / SPAN_UNITS[unit]:.0f}{unit}"
    text = f"{seconds:.6f}".rstrip("0").rstrip(".")
    return f"every {text}s"


def zone_of(schedule: Cron | Every) -> str | None:
    """Return the time zone of a cron schedule; None for an interval."""
    return schedule.tz if isinstance(schedule, Cron) else None


ROUTES = (
    Route("GET", "/recurring", Permission.READ, show_recurring, (_AFTER, _Q)),
    Route("POST", "/recurring/trigger", Permission.TRIGGER, trigger, form=(RECURRING_ID,)),
    *(
        Route(
            "POST",
            f"/recurring/{verb}",
            Permission.TRIGGER,
            partial(set_paused, verb=verb),
            form=(RECURRING_ID,),
        )
        for verb in ("pause", "resume")
    ),
    Route("POST", "/recurring/reset", Permission.EDIT_RECURRING, reset, form=(RECURRING_ID,)),
    Route("POST", "/recurring/remove", Permission.EDIT_RECURRING, remove, form=(RECURRING_ID,)),
    Route("GET", "/recurring/view", Permission.READ, show_one, (RECURRING_ID,)),
    Route("GET", "/recurring/new", Permission.EDIT_RECURRING, new_form, (_TASK,)),
    Route("GET", "/recurring/edit", Permission.EDIT_RECURRING, edit_form, (RECURRING_ID,)),
    Route("GET", "/recurring/preview", Permission.READ, preview, (_SCHEDULE, _ZONE)),
    Route(
        "POST",
        "/recurring/create",
        Permission.EDIT_RECURRING,
        create,
        form=(_NEW_ID, *_FORM),
        shows_problems=True,
    ),
    Route(
        "POST",
        "/recurring/edit",
        Permission.EDIT_RECURRING,
        edit,
        form=(RECURRING_ID, _VERSION, *_FORM),
        shows_problems=True,
    ),
)
