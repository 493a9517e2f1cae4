"""The page of a job, which shows its call, its history, its log, and the reasons why it waits."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from itertools import accumulate, islice, pairwise
from operator import or_
from typing import TYPE_CHECKING

import attrs
from starlette.responses import RedirectResponse, Response

from firelock import (
    ArgumentError,
    ConfigurationError,
    FormError,
    JobNotFound,
    Retry,
    StepError,
)
from firelock.control.findings import lacks_task
from firelock.control.servers import is_overdue
from firelock.flows.signals import TIMED_OUT
from firelock.storage import DURATION_BUCKETS, FINAL_STATES, JobFilter, JobRecord, Memo, MemoKind, State
from firelock_dashboard.pages.jobs import attempts_of, was_requeued
from firelock_dashboard.pages.servers import WorkerProcess, end_question, worker_process
from firelock_dashboard.pages.stream import FROM_OFFSET, STREAM, StreamPart, read_part
from firelock_dashboard.pages.suggestions import starts
from firelock_dashboard.pages.tasks import ARGUMENTS
from firelock_dashboard.pages.tracebacks import Trace, markdown, read_traceback
from firelock_dashboard.problems import BadRequest, NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.stats.job_search import pages_of
from firelock_dashboard.stats.waiting import COUNTED, JobWait, Parent, Reason, explain
from firelock_dashboard.web.actions import SIGNAL_VALUE, confirmation_page, refusing, send_signal
from firelock_dashboard.web.extensions import JobPanel, rendered
from firelock_dashboard.web.fields import Integer, Text
from firelock_dashboard.web.formatting import instant, iso, job_name, short_id, span, stamp, task_name
from firelock_dashboard.web.payloads import IN_LISTS, Node, ShownCall, call_of, summary, tree
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from firelock import (
        FailedAttempt,
        Job,
        JobHistoryEntry,
        JobLogLine,
        JobProgress,
        JsonValue,
        KeyPlace,
        Parameter,
        ServerView,
    )
    from firelock.storage import JobRecord
    from firelock_dashboard.stats.history import TaskStats
    from firelock_dashboard.web.payloads import Payload
    from firelock_dashboard.web.request import Visit

_PART = re.compile(r"[0-9a-f-]{4,36}")
_NEWEST = 500  # the number of newest jobs that are searched for the end of an id
_LOG_KEPT = 1_000
_SHOWN = 200
_STEP = 220  # the maximum number of characters of a step's kind and name
_ONE = Text("one", is_required=True)
_AGAIN = Text("step", is_required=True, limit=_STEP)
_SIGNAL = Text("signal", is_required=True, limit=_STEP)
_VALUE_TEXT = attrs.evolve(SIGNAL_VALUE, is_required=False, may_be_empty=True)
_AFTER = Integer("after", default=0, least=0, most=999_999_999)  # the number of a log line


def show_job(visit: Visit) -> Response:
    """Show one job; a part of an id that matches only one job redirects to that job."""
    try:
        page = JobView(visit, _stored(visit))
    except JobNotFound:
        if visit.wants_json:
            raise
        return _not_found(visit, visit.places["id"])
    if page.job.is_batch:
        return RedirectResponse(visit.url(f"/batches/{page.job.id}"), 303)
    title = f"{task_name(page.job.task)} {short_id(page.job.id)}"
    return visit.page("job.html", title=title, section="jobs", page=page, job=page.job)


def _not_found(visit: Visit, job_id: str) -> Response:
    found = _whole_id(visit, job_id)
    if found is not None:
        return RedirectResponse(visit.url(f"/jobs/{found}"), 303)
    return visit.page(
        "job_gone.html", title=visit.text("job.gone"), section="jobs", status=404, wanted=job_id[:_SHOWN]
    )


def _whole_id(visit: Visit, part: str) -> str | None:
    """Return the only id that begins with this string, or ends with it among the newest jobs.

    The result is None unless exactly one id matches.
    """
    if not _PART.fullmatch(part):
        return None
    begin = visit.fire.jobs.page(JobFilter(id_prefix=part), limit=2)
    if len(begin) > 0:
        return begin.jobs[0].id if len(begin) == 1 else None
    newest = visit.fire.jobs.page(JobFilter(), limit=_NEWEST)
    ends = [job.id for job in newest if job.id.endswith(part)]
    return ends[0] if len(ends) == 1 else None


def _stored(visit: Visit) -> Job[object]:
    return visit.fire.jobs.get(visit.places["id"])


def stop_question(visit: Visit, others: int | None) -> str:
    """Return the confirmation question for stopping a job, with the number of other jobs in its process."""
    tail = ""
    if others is not None:
        key = "jobs.confirm_running_others" if others else "jobs.confirm_running_alone"
        tail = f"{visit.text(key, count=others)} "
    return visit.text("jobs.confirm_running", grace=span(visit.fire.settings.grace), others=tail)


def run_again_from(visit: Visit) -> Response:
    """Requeue the job from this step on, without the memos that it has recorded since."""
    job_id, step = visit.form.value(_ONE), visit.form.value(_AGAIN)
    question = visit.text("job.confirm_again", name=step)
    if confirmation := confirmation_page(visit, question, visit.text("job.step_again"), section="jobs"):
        return confirmation
    with refusing(StepError, field="step"):
        visit.fire.jobs.get(job_id).requeue(from_step=step)
    visit.audit("job.requeue", job_id, step=step)
    return visit.done(visit.text("job.again", id=short_id(job_id), name=step), to=f"/jobs/{job_id}")


@attrs.frozen
class AnswerForm:
    """The form that answers the signal that a job waits for."""

    job_id: str
    signal: str
    fields: Sequence[Parameter] | None  # the fields; None if the signal is not registered in this process
    values: Mapping[str, str] = attrs.field(factory=dict)  # the sent values, by field
    problems: Mapping[str, str] = attrs.field(factory=dict)  # by field
    problem: str = ""  # a problem with the whole answer


def _answer_form(visit: Visit, job_id: str, name: str) -> AnswerForm:
    known = visit.fire.signal_named(name)
    return AnswerForm(job_id, name, None if known is None else known.parameters())


def answer_signal(visit: Visit) -> Response:
    """Send the signal that the job waits for, unless it was sent before.

    The answer consists of the fields of the signal's type, `args.NAME`, or of JSON in `value`. If a field is
    invalid, the form is shown again, unless a program requested JSON.
    """
    job_id, name = visit.form.value(_ONE), visit.form.value(_SIGNAL)
    text, fields = visit.form.maybe(_VALUE_TEXT), visit.form.maybe(ARGUMENTS)
    try:
        is_first = send_signal(visit, job_id, name, _payload_text(visit, name, text, fields))
    except (ArgumentError, BadRequest) as error:
        if visit.wants_json:
            raise BadRequest(str(error)) from error
        return _wrong_answer(visit, _answer_form(visit, job_id, name), error)
    message = visit.text("job.answered" if is_first else "job.answered_late", name=name)
    return visit.done(message, to=f"/jobs/{job_id}", kind="good" if is_first else "note")


def _payload_text(visit: Visit, name: str, text: str | None, fields: Mapping[str, str] | None) -> str:
    """Return the JSON of an answer.

    Raises:
        BadRequest: If nothing was sent, or only fields although the signal is not registered in this process.
        ArgumentError: If a field is invalid.
    """
    known = visit.fire.signal_named(name)
    if text is not None or known is None or fields is None:
        if text is None:
            raise BadRequest("value is missing; send JSON of the signal's type.")
        return text
    return known.encode(known.payload_from_text(fields))


def _wrong_answer(visit: Visit, form: AnswerForm, error: ArgumentError | BadRequest) -> Response:
    """Return the form with the sent values and the problem next to each invalid field."""
    values = visit.form.maybe(ARGUMENTS) or {}
    problems: dict[str, str] = {}
    if form.fields is None:
        values, problems = {"value": visit.form.maybe(_VALUE_TEXT) or ""}, {"value": str(error)}
    elif isinstance(error, FormError):
        problems = dict(error.fields)
    shown = attrs.evolve(form, values=values, problems=problems, problem="" if problems else str(error))
    title = visit.text("job.answer", name=form.signal)
    return visit.page("job_answer.html", title=title, section="jobs", form=shown, status=400)


def download_log(visit: Visit) -> Response:
    """Return the job's log as a text file."""
    lines = _stored(visit).log(limit=_LOG_KEPT)
    text = "".join(
        f"{iso(line.at)} {line.level:<8} [{line.attempt}] {_one_line(visit, line.text)}\n" for line in lines
    )
    return _file(text, "log.txt", "text/plain")


def _one_line(visit: Visit, text: str) -> str:
    clean = visit.redacted(text)
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in clean)


def download_arguments(visit: Visit) -> Response:
    """Return all arguments of the job as a file."""
    return _payload(visit.arguments(_stored(visit).record(), limit=None), "arguments")


def download_result(visit: Visit) -> Response:
    """Return the whole result of the job as a file."""
    record = _stored(visit).record()
    if record.result is None:
        raise NotHere(visit.text("job.no_result_file", id=record.id))
    return _payload(visit.result(record, limit=None), "result")


def _payload(payload: Payload, name: str) -> Response:
    suffix, kind = ("json", "application/json") if payload.reason is None else ("txt", "text/plain")
    return _file(payload.text, f"{name}.{suffix}", kind)


def _file(text: str, name: str, kind: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, 200, headers, f"{kind}; charset=utf-8")


ROUTES = (
    Route("GET", "/jobs/{id}", Permission.READ, show_job, (_AFTER, STREAM, FROM_OFFSET)),
    Route("POST", "/jobs/again", Permission.REQUEUE, run_again_from, form=(_ONE, _AGAIN)),
    Route(
        "POST",
        "/jobs/signal",
        Permission.RUN_TASK,
        answer_signal,
        form=(_ONE, _SIGNAL, _VALUE_TEXT, ARGUMENTS),
    ),
    Route("GET", "/jobs/{id}/log", Permission.VIEW_LOGS, download_log),
    Route("GET", "/jobs/{id}/arguments", Permission.VIEW_ARGUMENTS, download_arguments),
    Route("GET", "/jobs/{id}/result", Permission.VIEW_ARGUMENTS, download_result),
)


_MADE_FROM = re.compile(r"(?:copied|run again with changes) from (?P<id>[A-Za-z0-9_-]{1,64})(?: by |$)")
_RETRY = re.compile(r"retry [0-9]+(?: of [0-9]+)?(?=: )")
_CHILDREN = 20
_PARENTS = 20  # the maximum number of parents that are listed
_PARENTS_READ = 500
_PARENT_CALL = 120  # the maximum number of characters of a parent's arguments
_LOG = 200  # lines per request
_LOG_FIRST = 500
_AHEAD_PAGES = 4
_VALUE = 400  # the maximum number of characters of a stored value
_WAITS_SHOWN = 6
_RATE_MINUTES = 10
_STOPS_WITHIN = 30  # seconds; a function that still runs after this time does not check its cancellation
_ORDERS = 50  # the number of newest audit entries that are searched for a request to end a worker process
_FEWEST_RUNS = 20  # minimum number of runs for a comparison, because the p95 of fewer runs is the slowest run


@attrs.frozen
class _Failure:
    """A failed attempt with its parsed traceback."""

    attempt: int
    at: datetime
    type: str
    message: str
    text: str | None  # the whole traceback, redacted; None if none exists or the visitor may not see it
    traces: list[Trace]
    markdown: str


@attrs.define(slots=False)
class JobView:
    """The data of a job's page; each value is read when it is first shown."""

    visit: Visit
    handle: Job[object]

    @cached_property
    def job(self) -> JobRecord:
        """The job."""
        return self.handle.record()

    @property
    def state(self) -> str:
        """The displayed state."""
        return "retrying" if self.job.is_retrying else self.job.state.value

    @cached_property
    def attempts(self) -> int | None:
        """The maximum number of attempts."""
        return attempts_of(self.visit, self.job)

    @property
    def attempts_text(self) -> str:
        """The number of the job's attempts and their maximum, in words."""
        number, most, text = self.job.attempt, self.attempts, self.visit.text
        newest = next((shown for shown in self.entries if shown.entry.attempt is not None), None)
        if self.job.waits_for is not None and newest is not None and not newest.is_counted:
            number = newest.entry.attempt or 0
            if newest.is_requeued or (most and number > most):
                attempts = text("job.attempts_requeued", number=number)
            else:
                attempts = text("job.attempts_of", number=number, most=most) if most else str(number)
            return text("job.attempts_suspended", attempts=attempts)
        if number == 0 and self.job.is_final:
            return text("job.attempts_never")
        if number == 0:
            return text("job.attempts_none") if not most else text("job.attempts_none_of", most=most)
        if was_requeued(self.job):
            return text("job.attempts_requeued", number=number)
        return text("job.attempts_of", number=number, most=most) if most else str(number)

    def attempt_text(self, number: int, *, is_requeued: bool) -> str:
        """Return the name of an attempt; numbering continues after a requeue, which restores all retries."""
        most, text = self.attempts, self.visit.text
        if is_requeued or (most and number > most):
            return text("job.attempt_requeued", number=number)
        return (
            text("job.attempt_of_most", number=number, most=most)
            if most
            else text("job.attempt_of", number=number)
        )

    def ended_attempt(self, shown: ShownEntry) -> str:
        """Return the name of the attempt that ended with an entry, and whether it was not counted."""
        attempt = self.attempt_text(shown.entry.attempt or 0, is_requeued=shown.is_requeued)
        if shown.is_counted:
            return attempt
        ends = {State.AWAITING: "suspended", State.ENQUEUED: "interrupted"}
        return self.visit.text(f"job.attempt_{ends.get(shown.entry.state, 'uncounted')}", attempt=attempt)

    @property
    def now_attempt(self) -> str:
        """The name of the running attempt."""
        return self.attempt_text(self.job.attempt, is_requeued=was_requeued(self.job))

    @property
    def retry_words(self) -> str:
        """The job's own retry policy in words, or its stored form if the policy is not a `Retry`."""
        stored = self.job.retry or ""
        try:
            retry = Retry.from_json(stored)
        except ConfigurationError:
            return self.visit.redacted(stored[:_VALUE])
        if not retry.attempts:
            return self.visit.text("job.retry_never")
        waits = self.visit.text("job.retry_growing")
        if not isinstance(retry.waits, str):
            shown = ", ".join(map(span, retry.waits[:_WAITS_SHOWN]))
            waits = f"{shown}, …" if len(retry.waits) > _WAITS_SHOWN else shown
        return self.visit.text("job.retry_words", count=retry.attempts, waits=waits)

    # ---- call ----------------------------------------------------------------------------------------------

    @cached_property
    def given(self) -> Payload:
        """The job's arguments, as far as this visitor may see them."""
        return self.visit.arguments(self.job)

    @property
    def meta(self) -> JsonValue:
        """The job's metadata, as far as this visitor may see it."""
        return self.visit.meta(self.job)

    @cached_property
    def call(self) -> ShownCall | None:
        """The call as code; None if the arguments are unreadable or hidden from the visitor."""
        value = self.given.value
        return call_of(self.job.task, value, self._using()) if isinstance(value, dict) else None

    def _using(self) -> dict[str, JsonValue]:
        """Return the options in which the job differs from its task, if the task is registered here."""
        job, info = self.job, self.visit.fire.registry.get(self.job.task)
        if info is None:
            return {}
        options = (
            ("queue", job.queue, info.queue), ("priority", job.priority, info.priority),
            ("timeout", job.timeout_seconds, info.timeout_seconds),
        )  # fmt: skip
        return {name: own for name, own, usual in options if own != usual and own is not None}

    @cached_property
    def returned(self) -> Payload | None:
        """The job's result, as far as this visitor may see it; None if there is none."""
        return None if self.job.result is None else self.visit.result(self.job)

    @property
    def result(self) -> Node | None:
        """The job's result as a tree; None if it cannot be shown as one."""
        returned = self.returned
        return None if returned is None or returned.reason is not None else tree(returned.value)

    @property
    def may_change(self) -> bool:
        """Whether this visitor may run the job again with changes.

        The task must be registered in this process, and the visitor must be able to see the arguments.
        """
        return (
            self.visit.may(Permission.RUN_TASK)
            and isinstance(self.given.value, dict)
            and self.visit.fire.registry.get(self.job.task) is not None
        )

    @property
    def copied_from(self) -> str | None:
        """The id of the job of which this job is a copy or a changed run, according to its first entry."""
        reason = self.entries[-1].entry.reason if self.entries else None
        found = _MADE_FROM.match(reason or "")
        return found["id"] if found else None

    # ---- history -------------------------------------------------------------------------------------------

    @cached_property
    def entries(self) -> list[ShownEntry]:
        """The entries of the job's history, newest first."""
        return entries_of(self.handle.history(), self.job)

    @cached_property
    def started_at(self) -> datetime | None:
        """The start of the job's last attempt, or None if it is unknown."""
        if self.job.state is not State.PROCESSING:
            return instant(self.job.started_at)
        return instant(starts(self.visit, [self.job]).get(self.job.id))

    @property
    def enqueued_at(self) -> datetime | None:
        """The time when the job was last enqueued.

        After a hand-back, the stored time is earlier than this one, because it determines the job's position
        in the queue.
        """
        stored = instant(self.job.enqueued_at)
        entered = next(
            (shown.entry.at for shown in self.entries if shown.entry.state is State.ENQUEUED), None
        )
        return max((at for at in (stored, entered) if at is not None), default=None)

    @cached_property
    def phases(self) -> list[Phase]:
        """The phases of the job's history, to scale.

        The time when a stopped run ended is not stored, so the time of its last log line or progress is used
        instead.
        """
        history = [shown.entry for shown in reversed(self.entries)]
        return phases_of(
            self.job, history, self.visit.now, started_at=self.started_at, failed_at=self.failed_at,
            last_sign=self.last_sign if self.was_stopped else None,
        )  # fmt: skip

    @cached_property
    def was_stopped(self) -> bool:
        """Whether a delete stopped the job's last run, which has since ended at an unknown time.

        This is not the case if a worker deleted the job after its last failure, because the worker then
        stores an error with the attempt.
        """
        if self.job.state is not State.DELETED or self.job.is_stopping or not self.entries:
            return False
        last = self.entries[0].entry
        return last.state is State.DELETED and last.started_at is not None and last.at not in self.failed_at

    @property
    def ended_label(self) -> str:
        """The label of the job's last timestamp, as a key of `job.toml`."""
        if self.job.is_stopping or self.was_stopped:
            return "stop_requested"
        return "deleted_at" if self.job.state is State.DELETED else "ended"

    @cached_property
    def places(self) -> list[KeyPlace]:
        """The positions of an enqueued job in the lines of its limits.

        If only one limit delays the job, its position is the same as on the page of that limit. This position
        does not count jobs that others overtake if they are on the same page of the line.
        """
        if self.job.state is not State.ENQUEUED:
            return []
        limits = self.visit.fire.limits
        places = limits.places(self.job.id)
        holding = [place for place in places if place.wait is not None]
        if len(holding) == 1 and len(places) > 1 and 0 < (holding[0].ahead or 0) < COUNTED:
            (place,) = holding
            line = limits.line(place.key, limit=(place.ahead or 0) + 1)
            own = next((one for one in line.jobs if one.job.id == self.job.id), None)
            if own is not None and own.turn is not None:
                wait = next((wait for wait in own.waits if wait.key == place.key), None)
                nearer = attrs.evolve(
                    place, ahead=own.turn, wait=wait, starts_at=own.starts_at, starts_by=own.starts_by
                )
                return [nearer if one is place else one for one in places]
        return places

    @cached_property
    def failed_at(self) -> frozenset[datetime]:
        """The times of failed attempts; a wait after a failure is for a retry, and other waits are sleeps."""
        return frozenset(failed.at for failed in self.handle.errors())

    @property
    def sums(self) -> Mapping[str, float]:
        """The seconds spent in each kind of phase."""
        sums = defaultdict[str, float](float)
        for phase in self.phases:
            sums[phase.kind] += phase.seconds
        return sums

    @cached_property
    def failures(self) -> Mapping[int, _Failure]:
        """The job's failed attempts by number."""
        return {failed.attempt: failed for failed in map(self._failure, self.handle.errors())}

    def reason_of(self, entry: JobHistoryEntry) -> str | None:
        """Return an entry's reason; the reason of a retry omits the error, which the traceback shows."""
        retry = _RETRY.match(entry.reason or "")
        return retry[0] if retry and entry.attempt in self.failures else entry.reason

    def _failure(self, failed: FailedAttempt) -> _Failure:
        error, clean = failed.error, self.visit.redacted
        may_see = self.visit.may(Permission.VIEW_LOGS)
        text = clean(error.traceback) if error.traceback is not None and may_see else None
        message = clean(error.message)
        facts = (
            f"Task: `{self.job.task}`", f"Job: `{self.job.id}`",
            f"Attempt: {failed.attempt} at {stamp(failed.at)}", f"Server: {self.job.server or '–'}",
        )  # fmt: skip
        report = markdown(f"{error.type}: {message}", facts, text or message)
        traces = read_traceback(text) if text else []
        return _Failure(failed.attempt, failed.at, error.type, message, text, traces, report)

    @cached_property
    def memos(self) -> list[ShownMemo]:
        """The job's memos, in the order in which they were recorded."""
        may_see = self.visit.may(Permission.VIEW_ARGUMENTS)
        return [
            ShownMemo(memo, self._memo_text(memo) if may_see else None)
            for memo in self.visit.fire.storage.recall(self.job.id) or []
        ]

    def _memo_text(self, memo: Memo) -> str | None:
        """Return the value of a memo, redacted and shortened; None if it would not be useful to a reader."""
        if memo.value is None:
            return self.visit.text("job.timed_out") if memo.author == TIMED_OUT else None
        if not memo.is_done and memo.kind is not MemoKind.CALL:
            return None
        if memo.kind is MemoKind.SLEEP:
            return iso(int(memo.value))
        text = self.visit.dashboard.redactor.text(memo.value)
        return text if len(text) <= _VALUE else f"{text[:_VALUE]}…"

    @property
    def signal(self) -> str | None:
        """The signal that the job waits for, or None."""
        kind, _, name = (self.job.waits_for or "").partition(" ")
        return name if kind == MemoKind.SIGNAL and not self.job.is_final else None

    @property
    def answer(self) -> AnswerForm:
        """The form with which a visitor sends the signal that the job waits for."""
        return _answer_form(self.visit, self.job.id, self.signal or "")

    @property
    def may_run_from(self) -> bool:
        """Whether this visitor may run the job again from one of its steps."""
        is_free = self.job.state is not State.PROCESSING
        return is_free and not self.job.is_stopping and self.visit.may(Permission.REQUEUE)

    # ---- output --------------------------------------------------------------------------------------------

    @cached_property
    def progress(self) -> JobProgress | None:
        """The job's reported progress."""
        return self.handle.progress()

    @property
    def speed(self) -> float | None:
        """The amount of work that the job does per second; None if unknown."""
        started_at, progress = self.started_at, self.progress
        if progress is None or started_at is None:
            return None
        seconds = (progress.at - started_at).total_seconds()
        if seconds < 1:  # too short a period to measure the speed, so use the time since the start
            seconds = (self.visit.now - started_at).total_seconds()
        return progress.done / seconds if seconds >= 1 and progress.done > 0 else None

    @property
    def left(self) -> timedelta | None:
        """The remaining time at the current speed; None if unknown."""
        if self.progress is None or not self.speed or self.job.state is not State.PROCESSING:
            return None
        return timedelta(seconds=min(max(0.0, self.progress.total - self.progress.done) / self.speed, 10**9))

    @cached_property
    def log(self) -> list[JobLogLine]:
        """The job's log lines after the number in the query; without a number, the newest lines."""
        after = self.visit.query.value(_AFTER)
        if not self.visit.may(Permission.VIEW_LOGS):
            return []
        if after:
            return self.handle.log(after=after, limit=_LOG)
        return self.handle.log(limit=_LOG_KEPT)[-_LOG_FIRST:]

    @cached_property
    def stream(self) -> StreamPart | None:
        """The requested part of the job's stream, by default the end; None if this visitor may not see it."""
        return read_part(self.visit, self.job) if self.visit.may(Permission.VIEW_LOGS) else None

    @property
    def is_stream_named(self) -> bool:
        """Whether the visitor requested a stream by name, which is then shown even if it is empty."""
        return STREAM in self.visit.query

    # ---- related jobs, servers and limits ------------------------------------------------------------------

    @cached_property
    def parents(self) -> list[Parent]:
        """The jobs that this job waits or waited for."""
        edges = self.job.parents[:_PARENTS_READ]
        found = self.visit.fire.storage.get([edge.parent_id for edge in edges]) if edges else []
        return [
            Parent(edge.parent_id, edge.on.value, None)
            if job is None
            else Parent(edge.parent_id, edge.on.value, job.state, job.task, self._call_of(job))
            for edge, job in zip(edges, found, strict=True)
        ]

    @property
    def short_call(self) -> str:
        """The job's call on one line."""
        return self._call_of(self.job)

    def _call_of(self, job: JobRecord) -> str:
        """Return the name of a job for a sentence: the task, and any arguments that the visitor may see."""
        if job.is_batch:
            return self.visit.text("job.the_batch", name=job_name(job))
        given = self.visit.arguments(job, limit=IN_LISTS)
        call = summary(given.value, _PARENT_CALL) if isinstance(given.value, dict) else ""
        return f"{task_name(job.task)}({call})" if call else f"{task_name(job.task)} {short_id(job.id)}"

    @property
    def listed_parents(self) -> list[Parent]:
        """The first parents, which are listed on the page."""
        return self.parents[:_PARENTS]

    @cached_property
    def batch_name(self) -> str | None:
        """The name of the batch that contains the job; None if the batch is no longer stored."""
        relations = self.job.relations
        if relations is None or relations.batch_id is None:
            return None
        batch = self.visit.fire.storage.get([relations.batch_id])[0]
        return None if batch is None else job_name(batch)

    @cached_property
    def children(self) -> tuple[list[JobRecord], bool]:
        """The job's continuations, and whether there are more."""
        page = self.visit.fire.jobs.page(JobFilter(parent_id=self.job.id), limit=_CHILDREN, oldest_first=True)
        return [child.record() for child in page], page.cursor is not None

    @property
    def delete_loses(self) -> str:
        """The data that would be lost if the job were deleted, as the end of a key of `jobs.toml`.

        A delete that loses data cannot be undone.
        """
        if self.children[0]:
            return "children"
        return self.job.state.value if self.job.state in {State.SUCCEEDED, State.AWAITING} else "one"

    @cached_property
    def why_not_restored(self) -> str | None:
        """The reason why deleting the job cannot be undone, as a clause; None if it can be undone."""
        return self.visit.fire.jobs.why_not_restored([self.job.id])[0]

    @cached_property
    def warnings(self) -> list[tuple[str, dict[str, object]]]:
        """The job's problems, as keys of `job.toml` with their values."""
        job, now, found = self.job, self.visit.now_micros, list[str]()
        if job.state is State.PROCESSING:
            sessions = (session for server in self._servers for session in server.sessions)
            held = next((one for one in sessions if one.session.id == job.session), None)
            if held is not None and held.is_closing:
                found.append("warn_closing")
            elif held is None or not held.is_alive or held.expires_at < now:
                found.append("warn_lost")
            elif is_overdue(held, now):
                found.append("warn_overdue")
            elif self.started_at is None:
                found.append("warn_claimed")
        values: dict[str, object] = {"server": job.server or "–"}
        if job.is_stopping:
            values["since_request"] = span(self._since_order)
            found.append(self._tail(values))
        return [(key, values) for key in found]

    def _tail(self, values: dict[str, object]) -> str:
        """Return the key of the sentence about a run that continues after it was ordered to stop.

        The age of the run's last sign of life is added to `values`.
        """
        sign = self.last_sign
        if sign is None:
            return "warn_tail"
        values["span"] = span(self.visit.now - sign)
        is_ignored = (sign - instant(self.job.changed_at)).total_seconds() > _STOPS_WITHIN
        return "warn_tail_ignores" if is_ignored else "warn_tail_runs"

    @property
    def _since_order(self) -> timedelta:
        """The time since the job was ordered to stop."""
        return self.visit.now - instant(self.job.changed_at)

    @property
    def stop_words(self) -> str:
        """The effect that stopping the job has on its worker process, as a key of `job.toml`."""
        over = self._since_order.total_seconds() - self.visit.fire.settings.grace
        return "process_waits" if over < 0 else "process_due" if over <= _STOPS_WITHIN else "process_stays"

    @cached_property
    def holder(self) -> WorkerProcess | None:
        """The worker process that still runs the deleted job; None if the run has ended."""
        if not self.job.is_stopping:
            return None
        return worker_process(self.visit, self._servers, self.job.session)

    @property
    def end_question(self) -> str:
        """The confirmation question for ending the worker process that runs the job."""
        return "" if self.holder is None else end_question(self.visit, self.holder)

    @cached_property
    def end_ordered_at(self) -> datetime | None:
        """The time when that worker process was ordered to end, from one read of the newest audit entries."""
        if self.holder is None or not self.holder.may_be_ended:
            return None
        session = self.holder.session
        orders = (
            entry.at
            for entry in self.visit.fire.audit.list(limit=_ORDERS)
            if entry.action == "server.end_process" and (entry.detail or {}).get("session") == session
        )
        return next(orders, None)

    @property
    def is_end_overdue(self) -> bool:
        """Whether the worker process still runs some time after it was ordered to end."""
        ordered_at = self.end_ordered_at
        return ordered_at is not None and (self.visit.now - ordered_at).total_seconds() > _STOPS_WITHIN

    @property
    def others(self) -> int | None:
        """The number of other jobs of the same worker process at its last heartbeat; None if unknown."""
        found = (one for server in self._servers for one in server.living(self.visit.now_micros))
        record = next((one for one in found if one.session.id == self.job.session), None)
        return None if record is None else max(0, record.renewal.busy - 1)

    @property
    def stop_question(self) -> str:
        """The confirmation question for stopping the job."""
        return stop_question(self.visit, self.others)

    @cached_property
    def last_sign(self) -> datetime | None:
        """The time of the newest log line or progress since the job was ordered to stop, if there is any."""
        job = self.job
        if not (job.is_stopping or self.was_stopped):
            return None
        lines = self.handle.log(limit=_LOG_KEPT)[-1:]
        signs = [line.at for line in lines] + ([self.progress.at] if self.progress else [])
        newest = max(signs, default=None)
        return newest if newest is not None and newest > instant(job.changed_at) else None

    @cached_property
    def _servers(self) -> list[ServerView]:
        return self.visit.fire.servers.list()

    @property
    def server_id(self) -> str | None:
        """The id of the server that runs the job or was the last to run it, if the server is still known."""
        named = [one.id for one in self._servers if one.name == self.job.server]
        return named[-1] if named else None

    @cached_property
    def reasons(self) -> list[Reason]:
        """The reasons why a waiting job is not running."""
        if self.job.state not in {State.AWAITING, State.SCHEDULED, State.ENQUEUED}:
            return []
        return explain(self._snapshot())

    def _snapshot(self) -> JobWait:
        job, visit = self.job, self.visit
        queue = next((one for one in visit.fire.queues.list() if one.name == job.queue), None)
        ahead, is_cut, per_minute = None, False, None
        if job.state is State.ENQUEUED:
            ahead, is_cut = self._ahead()
            per_minute = self._per_minute()
        is_paused = queue is not None and queue.is_paused
        is_known = visit.fire.registry.get(job.task) is not None
        return JobWait(
            job, visit.now, is_paused=is_paused, note=queue.note if queue and is_paused else None,
            servers=self._servers, ahead=ahead, is_ahead_cut=is_cut,
            per_minute=per_minute, parents=tuple(self.parents),
            places=self.places, holders=self._holders(),
            is_registered=is_known or (False if lacks_task(job) else None),
        )  # fmt: skip

    def _holders(self) -> dict[str, datetime]:
        """Return the start times of jobs that alone hold one of this job's limits, using one read."""
        waits = [place.wait for place in self.places if place.wait is not None]
        alone = list({wait.holders[0] for wait in waits if len(wait.holders) == 1})
        found = self.visit.fire.storage.get(alone) if alone else []
        return {
            job.id: instant(job.claimed_at)
            for job in found
            if job is not None and job.state is State.PROCESSING and job.claimed_at is not None
        }

    def _ahead(self) -> tuple[int, bool]:
        """Return how many jobs of the queue were enqueued before this job, and whether there are more.

        Priorities are ignored.
        """
        where = JobFilter(state=State.ENQUEUED, queue=self.job.queue, until=self.job.changed_at)
        pages = list(islice(pages_of(self.visit.fire, where), _AHEAD_PAGES))
        return sum(map(len, pages)), pages[-1].cursor is not None

    def _per_minute(self) -> float | None:
        until = self.visit.now.replace(second=0, microsecond=0)
        rollups = self.visit.fire.jobs.timeline(
            until - timedelta(minutes=_RATE_MINUTES), until, queue=self.job.queue
        )
        return sum(one.count for one in rollups) / _RATE_MINUTES or None

    @property
    def stats(self) -> TaskStats | None:
        """The statistics of the task's attempts of the last day; None if there are too few to compare."""
        stats = self.visit.dashboard.history.tasks(24).get(self.job.task)
        return stats if stats is not None and stats.runs >= _FEWEST_RUNS else None

    @property
    def seconds(self) -> float | None:
        """The duration in seconds of the job's last attempt, which may still be running; None if unknown."""
        if self.job.state is State.PROCESSING:
            return None if self.started_at is None else (self.visit.now - self.started_at).total_seconds()
        if self.job.is_stopping or self.was_stopped:
            return None  # the run did not end when the job was deleted
        return next((shown.took for shown in self.entries if shown.entry.attempt is not None), None)

    @property
    def pace(self) -> str | None:
        """The speed of the last attempt compared with the task: slower, usual or quicker; None if unknown."""
        seconds, stats = self.seconds, self.stats
        if seconds is None or stats is None or stats.p50 is None or stats.p95 is None:
            return None
        if seconds > stats.p95:
            return "slower"
        if stats.p50 <= DURATION_BUCKETS[0]:
            return None  # the shortest durations share a bucket, so they cannot be compared
        if seconds > stats.p50:
            return "usual"
        lower = DURATION_BUCKETS[bisect_left(DURATION_BUCKETS, stats.p50) - 1]  # start of the median's bucket
        return "quicker" if seconds <= lower else None

    @cached_property
    def panels(self) -> list[tuple[str, str, bool]]:
        """The panels of plugins, each with a title, the content, and whether the content is an error."""
        visit, failed = self.visit, self.visit.text("job.panel_failed")
        panels: list[tuple[str, str, bool]] = []
        plugins = visit.fire.plugins
        for answer in plugins.results("job_panels", job=self.handle):
            if answer.error is not None:
                panels.append((failed, visit.redacted(str(answer.error))[:1_000], True))
            for panel in answer.offered:
                if isinstance(panel, JobPanel):
                    title = str.__str__(panel.title) if isinstance(panel.title, str) else failed
                    name = f"Plugin {answer.plugin!r}: the panel {title!r:.80}"
                    made = rendered(visit, lambda panel=panel: panel.render(visit, self.handle), name)  # type: ignore[misc]
                    panels.append((title, *made))
                else:
                    kind = type(panel).__name__
                    wrong = f"must return JobPanel objects from job_panels, got a {kind}."
                    wrong = str(plugins.fault(answer.plugin, wrong))
                    panels.append((failed, visit.redacted(wrong)[:1_000], True))
        return panels


@attrs.frozen
class ShownMemo:
    """One memo of the job."""

    memo: Memo
    text: str | None  # the value; None if there is none or the visitor may not see it

    @property
    def took(self) -> float | None:
        """The seconds from the start of the step until it was recorded; None if unknown."""
        memo = self.memo
        is_known = memo.is_done and memo.started_at is not None
        return max(0, memo.at - memo.started_at) / 1_000_000 if is_known and memo.started_at else None


_WAITS = {
    State.AWAITING: "awaiting",
    State.SCHEDULED: "scheduled",
    State.ENQUEUED: "enqueued",
    State.PROCESSING: "processing",
}
_LEAST = 0.4  # the minimum width of a segment in per cent of the bar, so that it is visible


@attrs.define
class Phase:
    """A period of the job's history, on a bar with a width of 100."""

    kind: str  # awaiting, scheduled, enqueued, processing or retrying
    start: datetime
    end: datetime
    x: float = 0.0
    width: float = 0.0

    @property
    def seconds(self) -> float:
        """The duration of the phase."""
        return (self.end - self.start).total_seconds()


@attrs.frozen
class ShownEntry:
    """An entry of the history with values derived from the neighbouring entries."""

    entry: JobHistoryEntry
    since: float | None  # seconds since the previous entry; None for the first
    waited: float | None  # seconds between the claim and the start of the attempt that ended here
    took: float | None  # the duration of this attempt in seconds
    is_requeued: bool = False  # whether the job had ended before and was requeued
    is_counted: bool = True  # whether the attempt counts; otherwise the next attempt has the same number


def entries_of(history: Sequence[JobHistoryEntry], job: JobRecord) -> list[ShownEntry]:
    """Return the entries, newest first."""
    ends = [None, *(entry.at for entry in history)]
    counted = _counted(history, job)
    has_ended = accumulate((entry.state in FINAL_STATES for entry in history), or_, initial=False)
    shown = [
        ShownEntry(
            entry, _seconds(previous_at, entry.at), _seconds(entry.claimed_at, entry.started_at),
            _seconds(entry.started_at, entry.at), is_requeued=has_ended_before, is_counted=is_counted,
        )
        for previous_at, entry, has_ended_before, is_counted in zip(
            ends, history, has_ended, counted, strict=False
        )
    ]  # fmt: skip
    return shown[::-1]


def _counted(history: Sequence[JobHistoryEntry], job: JobRecord) -> list[bool]:
    """Return whether the attempt of each entry counts; the number of an uncounted attempt is used again."""
    next_number = job.attempt if job.state is State.PROCESSING else job.attempt + 1
    counted: list[bool] = []
    for entry in reversed(history):
        counted.append(entry.attempt is None or entry.attempt < next_number)
        if entry.attempt is not None:
            next_number = entry.attempt
    return counted[::-1]


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max(timedelta(), end - start).total_seconds()


def phases_of(
    job: JobRecord, history: Sequence[JobHistoryEntry], now: datetime, *, started_at: datetime | None = None,
    failed_at: Collection[datetime] = (), last_sign: datetime | None = None,
) -> list[Phase]:  # fmt: skip
    """Return the phases of the job's history, without the time between its completion and a requeue.

    `started_at` is the start of a running job if its record does not contain it yet. `last_sign` is the time
    of the last sign of life of a run that continued after the job was deleted. A wait in the queue is one
    phase, because the times spent waiting for a limit, a worker and a server are not stored separately.
    """
    phases = _phases(job, history, now, instant(job.started_at) or started_at, failed_at)
    if last_sign is not None and phases and phases[-1].kind == "processing":
        phases[-1].end = max(last_sign, phases[-1].end)
    whole = sum(one.seconds for one in phases)
    widths = [max(_LEAST, 100 * one.seconds / whole) for one in phases]
    scale, x = 100 / (sum(widths) or 1), 0.0
    for phase, width in zip(phases, widths, strict=True):
        phase.x, phase.width = x, width * scale
        x += phase.width
    return phases


def _phases(
    job: JobRecord, history: Sequence[JobHistoryEntry], now: datetime, started_at: datetime | None,
    failed_at: Collection[datetime],
) -> list[Phase]:  # fmt: skip
    found: list[Phase] = []

    def add(kind: str, start: datetime, end: datetime) -> None:
        if found and found[-1].kind == kind and found[-1].end == start:
            found[-1].end = max(start, end)
        elif end > start:
            found.append(Phase(kind, start, end))

    def spent(previous: JobHistoryEntry, end: datetime, started: datetime | None) -> None:
        add(_kind(previous, failed_at), previous.at, started or end)
        if started is not None:
            add("processing", started, end)

    for previous, entry in pairwise(history):
        if previous.state not in FINAL_STATES:
            has_run = entry.attempt is not None
            spent(previous, entry.at, entry.started_at or entry.claimed_at or entry.at if has_run else None)
    if found and job.is_stopping and found[-1].kind == "processing":
        found[-1].end = max(now, found[-1].end)
    if history and not job.is_final and history[-1].state not in FINAL_STATES:
        spent(history[-1], now, (started_at or now) if job.state is State.PROCESSING else None)
    return found


def _kind(entry: JobHistoryEntry, failed_at: Collection[datetime]) -> str:
    """Return the kind of the phase after this entry; a wait after a failed attempt is "retrying"."""
    if entry.state is State.SCHEDULED and entry.at in failed_at:
        return "retrying"
    return _WAITS.get(entry.state, "enqueued")
