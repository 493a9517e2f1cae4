"""The Failures page, where jobs that failed with the same error share a row, a traceback and actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import attrs
from starlette.responses import RedirectResponse

from firelock import State
from firelock.storage import JobFilter
from firelock_dashboard.pages.job import JobView
from firelock_dashboard.pages.tasks import call_line
from firelock_dashboard.pages.tracebacks import markdown
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.causes import NO_HOURS, Cause, Mute, by_hour
from firelock_dashboard.web.actions import (
    MANY,
    NOTE,
    confirmation_page,
    operation_address,
    start_operation,
)
from firelock_dashboard.web.fields import Choice, Text
from firelock_dashboard.web.formatting import count_text, instant, shares, stamp, task_name
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Job, JobPage, Outcome
    from firelock_dashboard.web.request import Visit

_GROUPS = 100
_GROUPED = 10_000  # the maximum number of failed jobs that a storage groups, newest first
_OUTCOMES = 3  # the maximum number of requeues whose outcome is shown
_SHOWN_FOR = timedelta(hours=1)
_BATCHES = 100  # the maximum number of failed batches that are counted
_ROWS = 20
_SAMPLE = 200
_LISTED = 20
_FINGERPRINT = 200
_MESSAGE = 300
_TASK = Text("task")
FINGERPRINT = Text("fingerprint", "The cause.", is_required=True)


@attrs.frozen
class Requeue:
    """A requeue of all jobs of a cause, and the current states of these jobs."""

    fingerprint: str
    operation_id: str
    by: str
    at: datetime
    is_running: bool
    outcome: Outcome | None  # None if no job has been requeued yet
    type: str  # the exception class; the fingerprint if it is unknown


@attrs.frozen(slots=False)
class _Causes:
    rows: list[Cause]  # the causes, the most frequent first
    muted: list[Cause]  # muted causes, including those without failed jobs
    failed: int | None  # the number of failed jobs if not all of them were grouped, otherwise None
    is_cut: bool  # whether there are more causes than are shown, or more jobs than are grouped
    requeues: Mapping[str, Requeue]  # the last requeue of each cause, by fingerprint
    gone: list[Requeue]  # requeues of causes without failed jobs; empty if the causes of one task are shown
    batches: int  # the number of failed batches, which count as failed jobs but have no cause of their own
    has_more_batches: bool
    without_cause: int  # the number of other failed jobs, which have no recorded error or are not grouped yet

    @property
    def grouped(self) -> int:
        """The number of jobs in the rows, including the muted ones."""
        return sum(row.count for row in [*self.rows, *self.muted])

    @cached_property
    def shares(self) -> Mapping[str, str]:
        """The share of each cause, by fingerprint; the shares add up to 100 %."""
        rows = [*self.rows, *self.muted]
        percentages = shares([row.count for row in rows])
        return {row.fingerprint: share for row, share in zip(rows, percentages, strict=True)}


def show_failures(visit: Visit) -> Response:
    """Show all causes or those of one task, the most frequent first, and muted causes separately."""
    task = visit.query.maybe(_TASK)
    return visit.page(
        "failures.html", task=task,
        causes=lambda: _causes(visit, task), grouped_limit=_GROUPED, shown=partial(_shown, visit), many=MANY,
    )  # fmt: skip


def _causes(visit: Visit, task: str | None) -> _Causes:
    known = visit.dashboard.watch.causes()
    causes = [one for one in known if task in {None, one.task}]
    requeues = recent_requeues(visit)
    is_cut = sum(one.count > 0 for one in causes) >= _GROUPS
    failed = visit.state_counts()[State.FAILED]
    batches = None if task else visit.fire.batches.list(state=State.FAILED, limit=_BATCHES)
    is_whole = batches is not None and batches.cursor is None and not is_cut and failed <= _GROUPED
    grouped = sum(one.count for one in causes) + (len(batches.batches) if batches else 0)
    return _Causes(
        [one for one in causes if one.mute is None], [one for one in causes if one.mute is not None],
        failed if failed > _GROUPED else None, is_cut, requeues,
        without_rows(requeues, known) if task is None else [],
        len(batches.batches) if batches else 0, bool(batches and batches.cursor),
        max(0, failed - grouped) if is_whole else 0,
    )  # fmt: skip


def recent_requeues(visit: Visit) -> Mapping[str, Requeue]:
    """Return the last requeue of each cause within an hour, by fingerprint; at most three.

    Only the newest operations are searched.
    """
    found: dict[str, Requeue] = {}
    watch = visit.dashboard.watch
    for one in watch.operations():
        cause, age = one.where.fingerprint, visit.now - one.started_at
        if one.verb != "requeue" or cause is None or cause in found or age > _SHOWN_FOR:
            continue
        kind = watch.cause_records.type_of(cause) or cause
        found[cause] = Requeue(
            cause, one.id, one.by, one.started_at, one.is_running, watch.outcome(one), kind
        )
        if len(found) == _OUTCOMES:
            break
    return found


def without_rows(requeues: Mapping[str, Requeue], known: Sequence[Cause]) -> list[Requeue]:
    """Return the requeues of unknown causes, which have no failed jobs now."""
    fingerprints = {one.fingerprint for one in known}
    return [one for fingerprint, one in requeues.items() if fingerprint not in fingerprints]


def _shown(visit: Visit, message: str) -> str:
    return visit.redacted(message)[:_MESSAGE]


# ---- one cause -------------------------------------------------------------------------------------------


@attrs.define(slots=False)
class _CausePage:
    """One cause; each value is read when it is first shown."""

    visit: Visit
    fingerprint: str

    @cached_property
    def sample(self) -> list[Job[Any]]:
        """The newest jobs of the cause."""
        return self._found.jobs

    @property
    def rows(self) -> list[tuple[Job[Any], str]]:
        """The newest jobs, each with its arguments on one line."""
        return [(job, call_line(self.visit, job)) for job in self.sample[:_ROWS]]

    @property
    def is_sample_cut(self) -> bool:
        """Whether there are more jobs than the sample contains."""
        return self._found.cursor is not None

    @cached_property
    def _found(self) -> JobPage:
        return self.visit.fire.jobs.page(_where(self.fingerprint), limit=_SAMPLE)

    @cached_property
    def count(self) -> int:
        """The known number of jobs; `is_more` is whether there might be more."""
        groups = self.visit.dashboard.watch.failure_groups(_GROUPS)
        counted = next((one.count for one in groups if one.fingerprint == self.fingerprint), 0)
        return max(counted, len(self.sample)) if self.is_sample_cut else len(self.sample)

    @property
    def is_more(self) -> bool:
        """Whether there might be more jobs than `count`."""
        failed = self.visit.state_counts()[State.FAILED]
        return self.is_sample_cut and (failed > _GROUPED or self.count <= len(self.sample))

    @property
    def is_many(self) -> bool:
        """Whether the visitor must type the number of jobs before an action on all of them."""
        return self.count > MANY or self.is_more

    @property
    def counted(self) -> str:
        """The number of jobs as shown, for example "10 000+" if the count stopped there."""
        return f"{count_text(self.count)}{'+' if self.is_more else ''}"

    @cached_property
    def newest(self) -> Job[Any]:
        """The newest job, which represents all jobs of the cause."""
        return self.sample[0]

    @property
    def type(self) -> str:
        """The class of the exception."""
        error = self.newest.error
        return error.type if error else "–"

    @property
    def message(self) -> str:
        """The message of the exception, from the newest job."""
        error = self.newest.error
        return self.visit.redacted(error.message) if error else ""

    @cached_property
    def failure(self) -> Any:  # noqa: ANN401 - as the page of a job shows an attempt
        """The last failed attempt of the newest job, with a parsed traceback; None if none is stored."""
        failures = JobView(self.visit, self.newest).failures
        return failures[max(failures)] if failures else None

    @cached_property
    def oldest_at(self) -> datetime | None:
        """The time when the oldest stored job failed."""
        if not self.is_sample_cut:
            return _failed_at(self.sample[-1])
        first = self.visit.fire.jobs.page(_where(self.fingerprint), limit=1, oldest_first=True)
        return next((_failed_at(job) for job in first), None)

    @cached_property
    def known(self) -> Cause | None:
        """The cause from the list of causes, with its first failure and mute; None if it is not listed."""
        causes = self.visit.dashboard.watch.causes()
        return next((one for one in causes if one.fingerprint == self.fingerprint), None)

    @cached_property
    def hours(self) -> tuple[int, ...]:
        """The number of jobs that failed in each of the last 24 hours, including the newest jobs."""
        if self.is_sample_cut:
            return self.visit.dashboard.watch.hours_of(self.fingerprint)
        found = by_hour((job.record() for job in self.sample), self.visit.now)
        return found.get(self.fingerprint, NO_HOURS)

    @property
    def newest_at(self) -> datetime | None:
        """The time when the newest job failed."""
        return _failed_at(self.newest)

    @cached_property
    def tasks(self) -> list[tuple[str, int]]:
        """The tasks within the sample, most frequent first."""
        return Counter(job.task for job in self.sample).most_common(_LISTED)

    @cached_property
    def queues(self) -> list[tuple[str, int]]:
        """The queues within the sample, most frequent first."""
        return Counter(job.queue for job in self.sample).most_common(_LISTED)

    @cached_property
    def report(self) -> str:
        """The cause as Markdown, for an issue."""
        text = self.visit.text
        facts = [
            text("failures.report_count", count=self.counted),
            text("failures.report_seen", first=stamp(self.oldest_at), last=stamp(self.newest_at)),
            text("failures.report_tasks", tasks=_listed(self.tasks)),
            text("failures.report_queues", queues=_listed(self.queues)),
            text("failures.report_newest", job=self.newest.id, fingerprint=self.fingerprint),
        ]
        trace = self.failure.text if self.failure else None
        return markdown(f"{self.type}: {self.message}", facts, trace or self.message)


def _listed(counted: list[tuple[str, int]]) -> str:
    return ", ".join(f"`{name}` ({number})" for name, number in counted)


def _where(fingerprint: str) -> JobFilter:
    return JobFilter(state=State.FAILED, fingerprint=fingerprint)


def _failed_at(job: Job[Any]) -> datetime | None:
    return instant(job.record().changed_at)


def show_failure(visit: Visit) -> Response:
    """Show one cause: a traceback that represents all jobs, the tasks and queues, and the jobs."""
    page = _CausePage(visit, visit.places["fingerprint"][:_FINGERPRINT])
    is_whole = visit.part is None  # the only live region is the navigation, which does not show the cause
    if is_whole and not page.sample:
        raise NotHere(visit.text("failures.unknown"))
    title = task_name(page.type) if is_whole else ""
    return visit.page("failure.html", title=title, section="failures", cause=page, sample_limit=_SAMPLE)


# ---- actions on all jobs of a cause ----------------------------------------------------------------------


def start_on_cause(visit: Visit, verb: str) -> Response:
    """Start an operation on all failed jobs of the cause; for many jobs, the visitor must type the number."""
    fingerprint = visit.form.value(FINGERPRINT)
    visit.dashboard.invalidate()  # the confirmation question must show current numbers
    page = _CausePage(visit, fingerprint)
    if not page.sample:
        return visit.done(visit.text("failures.none_left"), to="/failures", kind="note")
    if page.is_many:
        if visit.wants_json:
            raise BadRequest(visit.text("failures.many", number=page.counted))
        address = visit.url("/jobs/all", verb=verb, state="failed", fingerprint=fingerprint)
        return RedirectResponse(address, 303)
    numbers = {
        "count": page.count, "number": page.counted, "type": task_name(page.type),
        "task": task_name(page.newest.task),
    }  # fmt: skip
    question = visit.text(f"failures.confirm_{verb}", **numbers)
    confirmation = confirmation_page(visit, question, visit.text(f"failures.{verb}"), section="failures")
    if confirmation is not None:
        return confirmation
    operation = start_operation(visit, verb, _where(fingerprint), target=page.type, fingerprint=fingerprint)
    return visit.done(
        visit.text(f"failures.started_{verb}", **numbers),
        to="/failures",
        link=operation_address(visit, operation),
    )


# ---- muting ----------------------------------------------------------------------------------------------

_SPANS = {name: timedelta(hours=hours) for name, hours in (("1h", 1), ("24h", 24), ("7d", 168), ("30d", 720))}
_FOR_EVER = "ever"
_FOR = Choice("for", choices=(*_SPANS, _FOR_EVER), default="7d")


def mute(visit: Visit) -> Response:
    """Mute the cause for a period or until it is unmuted, so that banners do not show it."""
    fingerprint = visit.form.value(FINGERPRINT)
    span = visit.form.value(_FOR)
    note = visit.form.maybe(NOTE)
    cause = mute_cause(visit, fingerprint, _SPANS.get(span), note)
    if cause is None:
        return visit.done(visit.text("failures.none_left"), to="/failures", kind="note")
    return visit.done(visit.text("failures.is_muted_now", type=task_name(cause.type)), to="/failures")


def mute_cause(visit: Visit, fingerprint: str, span: timedelta | None, note: str | None) -> Cause | None:
    """Mute the cause and record this in the audit; return the cause, or None if it has no failed jobs.

    Without a span, the cause is muted until it is unmuted.
    """
    page = _CausePage(visit, fingerprint)
    cause = page.known
    if cause is None and page.sample:  # a rare cause, which is not among the hundred largest
        task, newest_at = page.newest.task, page.newest_at
        cause = Cause(fingerprint, page.type, page.message, task, 1, newest_at, page.oldest_at, (), None)
    if cause is None:
        return None
    try:
        until = None if span is None else visit.now + span
    except OverflowError as error:
        raise BadRequest("for must end before the year 10000; use a shorter span, or remove it.") from error
    visit.dashboard.watch.cause_records.mute(cause, Mute(visit.who, visit.now, note, until))
    visit.audit(
        "cause.mute",
        cause.type,
        fingerprint=fingerprint,
        note=note,
        until=None if until is None else until.isoformat(),
    )
    return cause


def unmute(visit: Visit) -> Response:
    """Unmute the cause."""
    fingerprint = visit.form.value(FINGERPRINT)
    if not unmute_cause(visit, fingerprint):
        return visit.done(visit.text("failures.not_muted"), to="/failures", kind="note")
    return visit.done(visit.text("failures.unmuted"), to="/failures")


def unmute_cause(visit: Visit, fingerprint: str) -> bool:
    """Unmute the cause and record this in the audit; return False if it was not muted."""
    if not visit.dashboard.watch.cause_records.unmute(fingerprint):
        return False
    causes = visit.dashboard.watch.causes()
    kind = next((one.type for one in causes if one.fingerprint == fingerprint), fingerprint)
    visit.audit("cause.unmute", kind, fingerprint=fingerprint)
    return True


ROUTES = (
    Route("GET", "/failures", Permission.READ, show_failures, (_TASK,)),
    Route("GET", "/failures/{fingerprint}", Permission.READ, show_failure),
    *(
        Route("POST", f"/failures/{verb}", allowed, partial(start_on_cause, verb=verb), form=(FINGERPRINT,))
        for verb, allowed in (("requeue", Permission.REQUEUE), ("delete", Permission.DELETE))
    ),
    Route("POST", "/failures/mute", Permission.REQUEUE, mute, form=(FINGERPRINT, _FOR, NOTE)),
    Route("POST", "/failures/unmute", Permission.REQUEUE, unmute, form=(FINGERPRINT,)),
)
