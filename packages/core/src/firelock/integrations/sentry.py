"""Sentry: events for the errors of failed jobs, spans for queues, and check-ins for recurring jobs.

This module needs `sentry-sdk` (`pip install "firelock[sentry]"`). Your program must call `sentry_sdk.init`;
without that call, this plugin does nothing. The plugin does not patch any code.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import attrs
import sentry_sdk
from sentry_sdk.crons import capture_checkin
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.scope import use_isolation_scope, use_scope
from sentry_sdk.utils import event_from_exception

from firelock import (
    ConfigurationError,
    Cron,
    Every,
    Firelock,
    JobContext,
    RateLimited,
    State,
    TaskCall,
    TaskInfo,
    hookimpl,
)
from firelock.integrations.carrier import fitting, fitting_alone
from firelock.model.aio import in_thread

if TYPE_CHECKING:
    from sentry_sdk import Scope
    from sentry_sdk._types import MonitorConfig
    from sentry_sdk.tracing import Span

    from firelock import RecurringJob, Settled
    from firelock.storage import ClaimedJob, NewJob, Transition

log = logging.getLogger(__name__)

_ORIGIN: Final = "auto.queue.firelock"
_LOST: Final = frozenset({State.FAILED, State.DELETED})
_OVER: Final = _LOST | {State.SUCCEEDED}
_KNOWN_FOR = 60.0  # seconds for which a definition is cached
_LONGEST_SLUG = 50
_UNITS = (("week", 604_800), ("day", 86_400), ("hour", 3_600), ("minute", 60))


class Sentry:
    """A plugin: `Firelock(url, plugins=[Sentry()])`, along with `sentry_sdk.init(…)`.

    Args:
        every_attempt: whether the error of every failed attempt is reported; otherwise only the error that
            ended the job.
        monitors: the recurring jobs that have a monitor: True for all, their ids, or False for none. A
            monitor is created by its first check-in, and Sentry might charge for it.
        margin: how late a run may begin before Sentry reports it as missed, in whole minutes.
        max_runtime: how long a run may take before Sentry reports it as timed out, if its task has no
            timeout.

    Raises:
        ConfigurationError: If a duration is less than a minute, or `monitors` is a string.
    """

    def __init__(
        self,
        *,
        every_attempt: bool = False,
        monitors: bool | Collection[str] = False,
        margin: timedelta = timedelta(minutes=5),
        max_runtime: timedelta = timedelta(minutes=30),
    ) -> None:
        if isinstance(monitors, str):
            raise ConfigurationError(
                f"monitors must be a bool or a list of ids, got {monitors!r}. Pass True or [{monitors!r}]."
            )
        self._is_for_every_attempt = every_attempt
        self._monitors = monitors
        self._margin, self._max_runtime = _minutes("margin", margin), _minutes("max_runtime", max_runtime)
        self._app: Firelock | None = None
        self._known: dict[str, tuple[float, RecurringJob | None]] = {}
        ignore_logger("firelock.jobs")  # Sentry would create a second event from each failure's log line

    @hookimpl
    def configure_app(self, app: Firelock) -> None:
        """Keep the app, which has the definitions of recurring jobs."""
        self._app = app

    # ---- creation of jobs --------------------------------------------------------------------------------

    @hookimpl
    def enqueue_context(
        self, task: TaskInfo | None, calls: Sequence[TaskCall], created: Sequence[NewJob]
    ) -> _PublishSpan | None:
        """Return the span of a call, which is named `queue.publish`."""
        if not sentry_sdk.get_client().is_active():
            return None
        return _PublishSpan("enqueue_many" if task is None else calls[0].task, created)

    @hookimpl
    def job_options(self, call: TaskCall) -> Mapping[str, object] | None:
        """Return the trace for a job; None for a recurring job, which no caller enqueues."""
        return None if _publishing.get(None) is None else fitting(_trace(), call)

    @hookimpl
    def batch_meta(self) -> Mapping[str, str] | None:
        """Return the trace for a batch, which its continuations receive; a batch has no span."""
        return fitting_alone(_trace()) if sentry_sdk.get_client().is_active() else None

    @hookimpl
    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """Add the jobs to the span."""
        span = _publishing.get(None)
        if span is not None:
            _describe_span(span, jobs)

    # ---- runs of jobs ------------------------------------------------------------------------------------

    @hookimpl
    def job_context(self, job: JobContext, task: TaskInfo) -> _ProcessScope | None:
        """Return the scope and the transaction of a run; the transaction is named `queue.process`."""
        if not sentry_sdk.get_client().is_active():
            return None
        recurring_id = job.recurring_id
        is_watched = recurring_id is not None and job.attempt == 1 and self._watches(recurring_id)
        return _ProcessScope(self, job, task, is_watched)

    @hookimpl
    def attempt_failed(self, job: ClaimedJob, error: BaseException, transition: Transition) -> None:
        """Report the error, in the scope of its run if the run has just ended in this process."""
        client = sentry_sdk.get_client()
        if not client.is_active() or not (self._is_for_every_attempt or transition.to in _LOST):
            return
        event, hint = event_from_exception(
            error, client_options=client.options, mechanism={"type": "firelock", "handled": False}
        )
        ended = _ended.get(None)
        with ExitStack() as scopes:
            if ended is not None and ended.run == (job.id, job.fence):
                scopes.enter_context(use_isolation_scope(ended.isolation))
                scopes.enter_context(use_scope(ended.current))
            else:  # the job's process was killed, or the run never began
                scope = scopes.enter_context(sentry_sdk.isolation_scope())
                _describe(scope, job.id, job.task, job.queue, job.attempt)
            sentry_sdk.capture_event(event, hint=hint)

    @hookimpl
    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """Report the outcomes of recurring jobs to their monitors."""
        if not self._monitors:
            return
        for end in settled:
            job, to = end.job, end.transition.to
            if job.recurring_id is None or to not in _OVER or not self._watches(job.recurring_id):
                continue
            capture_checkin(
                slug_of(job.recurring_id), _check_in_of(job.id), "ok" if to is State.SUCCEEDED else "error",
                end.duration / 1_000_000,
            )  # fmt: skip

    @hookimpl
    def worker_process_stopped(self) -> None:
        """Send the pending reports of this process, or discard them after two seconds."""
        sentry_sdk.flush(timeout=2.0)

    # ---- monitors ----------------------------------------------------------------------------------------

    def _watches(self, recurring_id: str) -> bool:
        return self._monitors is True or (self._monitors is not False and recurring_id in self._monitors)

    def check_in(self, job: JobContext, task: TaskInfo) -> None:
        """Report the start of a run to the monitor of its recurring job; create the monitor if necessary.

        This reads the definition, at most once a minute, and the history of a job that was claimed before.
        """
        if job.recurring_id is None:
            return
        try:
            definition = None if self._has_begun(job) else self._definition(job.recurring_id)
            config = None if definition is None else self._config(definition, task)
        except Exception as error:  # noqa: BLE001 - a failed report must not fail the job
            log.warning("Check-in of recurring job %r failed; continuing: %s", job.recurring_id, error)
            return
        if config is not None:
            capture_checkin(slug_of(job.recurring_id), _check_in_of(job.id), "in_progress", None, config)

    def _has_begun(self, job: JobContext) -> bool:
        """Return whether an earlier run of this attempt has begun.

        After a snooze, a wait or a server shutdown, the job still has the same attempt number. A server that
        stopped might have claimed the job without starting it, so the history is checked.
        """
        if job.fence == 1 or self._app is None:
            return False
        return any(entry.started_at is not None for entry in self._app.storage.history(job.id).entries)

    def _definition(self, recurring_id: str) -> RecurringJob | None:
        read_at, definition = self._known.get(recurring_id, (0.0, None))
        if self._app is not None and (definition is None or monotonic() - read_at > _KNOWN_FOR):
            definition = self._app.recurring.get(recurring_id)
            self._known[recurring_id] = (monotonic(), definition)
        return definition

    def _config(self, definition: RecurringJob, task: TaskInfo) -> MonitorConfig | None:
        schedule = definition.schedule
        config: MonitorConfig = {"checkin_margin": self._margin, "max_runtime": self._max_runtime}
        if task.timeout_seconds is not None:
            config["max_runtime"] = max(1, round(task.timeout_seconds / 60))
        if isinstance(schedule, Every):
            value, unit = _interval(schedule.interval)
            if unit is None:
                return None
            config["schedule"] = {"type": "interval", "value": value, "unit": unit}
            config["timezone"] = "UTC"
        elif isinstance(schedule, Cron) and len(schedule.expression.split()) != _FIELDS_WITH_SECONDS:
            config["schedule"] = {"type": "crontab", "value": schedule.expression}
            config["timezone"] = schedule.tz
        else:
            return None
        return config


_FIELDS_WITH_SECONDS = 6


def slug_of(recurring_id: str) -> str:
    """Return a monitor's slug: the id itself if Sentry accepts it, otherwise a similar name and a digest."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", recurring_id.lower()).strip("-")
    if slug == recurring_id and len(slug) <= _LONGEST_SLUG:
        return slug
    digest = hashlib.sha256(recurring_id.encode()).hexdigest()[:8]
    return f"{slug[: _LONGEST_SLUG - 9]}-{digest}".lstrip("-")


def _check_in_of(job_id: str) -> str:
    """Return the check-in's id, which is the same in all processes and for all attempts of a job."""
    return hashlib.sha256(job_id.encode()).hexdigest()[:32]


def _minutes(name: str, span: timedelta) -> int:
    if not isinstance(span, timedelta) or span < timedelta(minutes=1):
        raise ConfigurationError(f"{name} must be a timedelta of at least one minute, got {span!r}.")
    return round(span / timedelta(minutes=1))


def _interval(span: timedelta) -> tuple[int, Any]:
    """Return the duration in Sentry's format: a number, and the largest unit that divides it.

    The unit is None if no unit divides it.
    """
    seconds = span.total_seconds()
    for unit, size in _UNITS:
        if seconds % size == 0:
            return int(seconds // size), unit
    return 0, None


def _describe(scope: Scope, job_id: str, task: str, queue: str, attempt: int) -> None:
    scope.clear_breadcrumbs()
    scope.set_tag("task", task)
    scope.set_tag("queue", queue)
    scope.set_context("job", {"id": job_id, "attempt": attempt})
    scope.set_transaction_name(task, source="task")


def _trace() -> dict[str, str]:
    """Return the headers of the current trace."""
    headers = {"sentry-trace": sentry_sdk.get_traceparent(), "baggage": sentry_sdk.get_baggage()}
    return {name: value for name, value in headers.items() if value}


def _describe_span(span: Span, jobs: Sequence[NewJob]) -> None:
    """Add the jobs to the span."""
    queues = {job.queue for job in jobs}
    if len(queues) == 1:
        span.set_data("messaging.destination.name", *queues)
    if len(jobs) == 1:
        span.set_data("messaging.message.id", jobs[0].id)
        span.set_data("messaging.message.body.size", len(jobs[0].arguments.encode()))
    else:
        span.set_data("messaging.batch.message_count", len(jobs))


_publishing: ContextVar[Span] = ContextVar("firelock_sentry_publishing")


@attrs.define(eq=False)
class _PublishSpan:
    """The span of a call that stores jobs. A `with` block begins and ends it."""

    _name: str
    _created: Sequence[NewJob]  # jobs that the caller stores later
    _contexts: ExitStack = attrs.Factory(ExitStack)

    def __enter__(self) -> None:
        span = self._contexts.enter_context(
            sentry_sdk.start_span(op="queue.publish", name=self._name, origin=_ORIGIN)
        )
        span.set_data("messaging.system", "firelock")
        self._contexts.callback(_publishing.reset, _publishing.set(span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        span = _publishing.get(None)
        if self._created and span is not None:
            _describe_span(span, self._created)
        self._contexts.__exit__(kind, error, trace)


@attrs.frozen
class _EndedRun:
    """The scopes of the run that ended last in this thread or coroutine."""

    run: tuple[str, int]
    isolation: Scope
    current: Scope


_ended: ContextVar[_EndedRun] = ContextVar("firelock_sentry_ended")


@attrs.define(eq=False)
class _ProcessScope:
    """The scope and the transaction of a run. A `with` or `async with` block begins and ends them."""

    _plugin: Sentry
    _job: JobContext
    _task: TaskInfo
    _is_watched: bool
    _contexts: ExitStack = attrs.Factory(ExitStack)
    _span: Span | None = None

    def __enter__(self) -> None:
        if self._is_watched:
            self._plugin.check_in(self._job, self._task)
        self._begin()

    async def __aenter__(self) -> None:
        if self._is_watched:
            await in_thread(self._plugin.check_in, self._job, self._task)
        self._begin()

    def _begin(self) -> None:
        job = self._job
        scope = self._contexts.enter_context(sentry_sdk.isolation_scope())
        _describe(scope, job.id, job.task, job.queue, job.attempt)
        transaction = sentry_sdk.continue_trace(
            dict(job.meta), op="queue.process", name=job.task, source="task", origin=_ORIGIN
        )
        span = self._span = self._contexts.enter_context(
            sentry_sdk.start_transaction(
                transaction,
                custom_sampling_context={"firelock_job": {"task": job.task, "queue": job.queue}},
            )
        )
        latency = max(0.0, (job.claimed_at - job.enqueued_at).total_seconds())
        for name, value in {
            "messaging.system": "firelock",
            "messaging.message.id": job.id,
            "messaging.destination.name": job.queue,
            "messaging.message.receive.latency": latency * 1_000,
            "messaging.message.retry.count": job.retries,
        }.items():
            span.set_data(name, value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RateLimited):  # not a failure, because the job waits
            kind = error = trace = None
        if self._span is not None:
            self._span.set_status("ok" if error is None else "internal_error")
        isolation, current = sentry_sdk.get_isolation_scope(), sentry_sdk.get_current_scope().fork()
        self._contexts.__exit__(kind, error, trace)
        if error is not None:  # attempt_failed needs the scope after the job's next state is decided
            _ended.set(_EndedRun((self._job.id, self._job.fence), isolation, current))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
