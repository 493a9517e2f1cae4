"""OpenTelemetry: metrics, and traces that follow a request to its jobs and to the jobs that these create.

This module needs only `opentelemetry-api` (`pip install "firelock[otel]"`). The SDK of the process exports
spans and metrics; without an SDK they are discarded. Names are those of the messaging conventions in version
1.44 of OpenTelemetry's semantic conventions. These conventions are still marked "Development", so names might
change in a later version of Firelock. Names that the conventions do not define begin with `firelock.`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from enum import StrEnum
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final

import attrs
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.metrics import Observation
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from firelock import (
    ConfigurationError,
    JobCancelled,
    JobContext,
    RateLimited,
    TaskCall,
    TaskInfo,
    hookimpl,
)
from firelock.integrations.carrier import fitting, fitting_alone
from firelock.plugins.observers import counts_in_memory
from firelock.storage import BATCH_TASK

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from firelock import Settled
    from firelock.storage import NewJob

CONVENTIONS: Final = "1.44.0"
"""The version of OpenTelemetry's semantic conventions that names and attributes follow."""

DURATION_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
)  # fmt: skip
"""Upper bounds of `messaging.process.duration`, in seconds; those of the conventions end at 10."""

_SCHEMA = f"https://opentelemetry.io/schemas/{CONVENTIONS}"
_SYSTEM = "firelock"
_LONGEST_CHILD = timedelta(hours=1)  # maximum time since the job's creation; a longer trace is not useful


class Correlation(StrEnum):
    """The relation between the span of a run and the span that created its job."""

    AUTO = "auto"
    PARENT = "parent"
    LINK = "link"


class OpenTelemetry:
    """A plugin: `Firelock(url, plugins=[OpenTelemetry()])`.

    The trace context of the enqueuing code is stored in the job's `meta`. The process's own propagator writes
    and reads this context: `traceparent`, `tracestate` and, if it fits, `baggage`.

    Args:
        correlation: "parent" makes a run a child of the span that sent its job. "link" starts a separate
            trace with a link to that span. "auto" is "parent", but "link" for runs that start more than an
            hour after their job was created, for retries, and for jobs of recurring jobs.
        bulk_spans: whether each job of an `enqueue_many` has its own span; otherwise they share one.
        tracer_provider: by default the process's own.
        meter_provider: by default the process's own.

    Raises:
        ConfigurationError: If the correlation is unknown.
    """

    def __init__(
        self,
        *,
        correlation: Correlation | str = Correlation.AUTO,
        bulk_spans: bool = False,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        try:
            self._correlation = Correlation(correlation)
        except ValueError:
            known = ", ".join(f'"{each}"' for each in Correlation)
            raise ConfigurationError(f"correlation must be one of {known}, got {correlation!r}.") from None
        self._has_bulk_spans = bulk_spans
        self._providers = (tracer_provider, meter_provider)
        self._tracer = trace.get_tracer(__name__, CONVENTIONS, tracer_provider, _SCHEMA)
        meter = metrics.get_meter(__name__, CONVENTIONS, meter_provider, _SCHEMA)
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Jobs stored.")
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Attempts that ended."
        )
        self._sending_seconds = meter.create_histogram(
            "messaging.client.operation.duration", "s", "Duration of calls that store jobs."
        )
        self._running: set[_ProcessSpan] = set()
        meter.create_observable_up_down_counter(
            "firelock.workers.stuck", [self._count_stuck], "{worker}",
            "Workers occupied by a job past its timeout.",
        )  # fmt: skip
        self._process_seconds = meter.create_histogram(
            "messaging.process.duration", "s", "Duration of attempts.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )  # fmt: skip

    # ---- creation of jobs --------------------------------------------------------------------------------

    @hookimpl
    def enqueue_context(
        self,
        task: TaskInfo | None,
        calls: Sequence[TaskCall],
        inherited: Mapping[str, str],
        created: Sequence[NewJob],
    ) -> _SendSpan:
        """Return the span of a call, which is named `send QUEUE`."""
        queue = calls[0].options.get("queue") or (task.queue if task is not None else None)
        ambient = get_current()
        if inherited and not trace.get_current_span(ambient).get_span_context().is_valid:
            ambient = propagate.extract(inherited, ambient)  # a continuation is part of its parent's trace
        return _SendSpan(
            self, self._tracer, self._sending_seconds, ambient, None if queue is None else str(queue),
            len(calls), created, creates=self._has_bulk_spans and len(calls) > 1,
        )  # fmt: skip

    @hookimpl
    def job_options(self, task: TaskInfo, call: TaskCall) -> Mapping[str, object] | None:
        """Return the trace context for a job; None for a recurring job, which no caller enqueues."""
        sending = _sending.get(None)
        if sending is None or sending.plugin is not self:
            return None
        carrier: dict[str, str] = {}
        propagate.inject(carrier, sending.context_for(task, call))
        return fitting(carrier, call)

    @hookimpl
    def batch_meta(self) -> Mapping[str, str] | None:
        """Return the trace context for a batch, which its continuations receive; a batch has no span."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return fitting_alone(carrier)

    @hookimpl
    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """Count the jobs, and add them to their span."""
        for (queue, task), count in Counter((job.queue, job.task) for job in jobs).items():
            if task != BATCH_TASK:  # a batch never runs
                self._sent.add(count, {**_attributes("send", queue), "firelock.task": task})
        sending = _sending.get(None)
        if sending is not None and sending.plugin is self:
            sending.stored(jobs)

    # ---- runs of jobs ------------------------------------------------------------------------------------

    @hookimpl
    def job_context(self, job: JobContext) -> _ProcessSpan:
        """Return the span of a run, which is named `process QUEUE`."""
        created = propagate.extract(job.meta, Context())
        creation = trace.get_current_span(created).get_span_context()
        links = []
        if creation.is_valid and not self._is_child(job):
            created = trace.set_span_in_context(trace.INVALID_SPAN, created)  # keep baggage
            links = [Link(creation)]
        return _ProcessSpan(self._tracer, job, created, links, self._running)

    def _count_stuck(self, _: CallbackOptions) -> Iterator[Observation]:
        """Yield the number of runs that continue after their timeout, by queue and task."""
        late = Counter(
            (span.job.queue, span.job.task) for span in list(self._running) if _is_out_of_time(span.job)
        )
        for (queue, task), count in late.items():
            yield Observation(count, {**_attributes("process", queue), "firelock.task": task})

    def _is_child(self, job: JobContext) -> bool:
        if self._correlation is not Correlation.AUTO:
            return self._correlation is Correlation.PARENT
        if job.attempt > 1 or job.recurring_id is not None:
            return False
        return job.claimed_at - job.created_at <= _LONGEST_CHILD

    @hookimpl
    @counts_in_memory
    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """Count the attempts and record their durations, but skip runs that do not count as attempts."""
        for end in settled:
            if not end.transition.started_at or end.transition.gives_back:  # not counted as an attempt
                continue
            attributes = {**_attributes("process", end.job.queue), "firelock.task": end.job.task}
            if end.transition.error is not None:
                attributes["error.type"] = end.transition.error.type
            self._consumed.add(1, attributes)
            self._process_seconds.record(end.duration / 1_000_000, attributes)

    @hookimpl
    def worker_process_stopped(self) -> None:
        """Flush the spans and metrics that this process has recorded."""
        tracers, meters = self._providers
        _flush(tracers or trace.get_tracer_provider())
        _flush(meters or metrics.get_meter_provider())


def _flush(provider: object) -> None:
    flush = getattr(provider, "force_flush", None)  # only the SDK's providers have this method
    if flush is not None:
        flush()


def _attributes(operation: str, queue: str | None) -> dict[str, str]:
    """Return the attributes that all spans and metrics of an operation have."""
    attributes = {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    if queue is not None:
        attributes["messaging.destination.name"] = queue
    return attributes


def _name(operation: str, queue: str | None) -> str:
    return operation if queue is None else f"{operation} {queue}"


def _record(span: Span, error: BaseException) -> str:
    """Mark the span as failed by this error; return the type of the error."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.record_exception(error)
    span.set_attribute("error.type", name)
    span.set_status(Status(StatusCode.ERROR, name))
    return name


_sending: ContextVar[_SendSpan] = ContextVar("firelock_opentelemetry_sending")


@attrs.define(eq=False)
class _SendSpan:
    """The span of a call that stores jobs. A `with` block begins and ends it, even if nothing is stored."""

    plugin: OpenTelemetry  # the plugin that created this span: an app can have two, for two providers
    _tracer: trace.Tracer
    _seconds: metrics.Histogram
    _ambient: Context
    _queue: str | None  # None if the queue is unknown, or if there are several
    _count: int
    _created_jobs: Sequence[NewJob]  # jobs that the caller stores later
    creates: bool  # whether each job has its own span
    _span: Span = trace.INVALID_SPAN
    _job_spans: list[Span] = attrs.Factory(list)  # the spans of jobs that are not stored yet
    _begun: float = 0.0
    _tokens: tuple[Token[Context], Token[_SendSpan]] | None = None

    def __enter__(self) -> None:
        attributes: dict[str, str | int] = {**_attributes("send", self._queue)}
        if self._count > 1:
            attributes["messaging.batch.message_count"] = self._count
        # If each job has its own span, the jobs' spans are the producers, and this span represents the call.
        kind = SpanKind.CLIENT if self.creates else SpanKind.PRODUCER
        self._span = self._tracer.start_span(
            _name("send", self._queue), self._ambient, kind=kind, attributes=attributes
        )
        self._begun = perf_counter()
        self._tokens = (attach(trace.set_span_in_context(self._span, self._ambient)), _sending.set(self))

    def context_for(self, task: TaskInfo, call: TaskCall) -> Context:
        """Return the trace context for the job of this call."""
        if not self.creates:
            return get_current()
        queue = str(call.options.get("queue") or task.queue)
        span = self._tracer.start_span(
            _name("create", queue), self._ambient, kind=SpanKind.PRODUCER,
            attributes={**_attributes("create", queue), "firelock.task": call.task},
        )  # fmt: skip
        self._job_spans.append(span)
        self._span.add_link(span.get_span_context())
        return trace.set_span_in_context(span, self._ambient)

    def stored(self, jobs: Sequence[NewJob]) -> None:
        """Add the jobs that have just been stored to the span, in the order of their calls."""
        queues, tasks = {job.queue for job in jobs}, {job.task for job in jobs}
        if len(queues) == 1 and self._queue not in queues:
            (self._queue,) = queues
            self._span.update_name(_name("send", self._queue))
            self._span.set_attribute("messaging.destination.name", self._queue)
        if len(tasks) == 1:
            self._span.set_attribute("firelock.task", *tasks)
        if self._count == 1:
            self._span.set_attribute("messaging.message.id", jobs[0].id)
        batches = {None if job.relations is None else job.relations.batch_id for job in jobs}
        if len(batches) == 1 and (batch_id := batches.pop()) is not None:
            self._span.set_attribute("firelock.batch_id", batch_id)
        for job, span in zip(jobs, self._job_spans, strict=False):
            span.set_attribute("messaging.message.id", job.id)
            span.end()
        del self._job_spans[: len(jobs)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._tokens is not None:
            attached, sending = self._tokens
            _sending.reset(sending)
            detach(attached)
        if self._created_jobs:
            self.stored(self._created_jobs)
        attributes = _attributes("send", self._queue)
        if error is not None:
            attributes["error.type"] = _record(self._span, error)
            for span in self._job_spans:
                span.set_status(Status(StatusCode.ERROR, attributes["error.type"]))
                span.end()
        self._span.end()
        self._seconds.record(perf_counter() - self._begun, attributes)


@attrs.define(eq=False)
class _ProcessSpan:
    """The span of a run, which is active only in the job's own context. A `with` block begins and ends it."""

    _tracer: trace.Tracer
    job: JobContext
    _context: Context
    _links: list[Link]
    _running: set[_ProcessSpan]  # all open spans of the plugin
    _span: Span = trace.INVALID_SPAN
    _token: Token[Context] | None = None

    def __enter__(self) -> None:
        job = self.job
        attributes: dict[str, str | int | float] = {
            **_attributes("process", job.queue),
            "messaging.message.id": job.id,
            "firelock.task": job.task,
            "firelock.attempt": job.attempt,
            "firelock.queue_wait": max(0.0, (job.claimed_at - job.enqueued_at).total_seconds()),
        }
        if job.server:
            attributes["messaging.client.id"] = job.server
        if job.recurring_id is not None:
            attributes["firelock.recurring_id"] = job.recurring_id
        self._span = self._tracer.start_span(
            _name("process", job.queue), self._context, SpanKind.CONSUMER, attributes, self._links
        )
        self._token = attach(trace.set_span_in_context(self._span, self._context))
        self._running.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._running.discard(self)
        if self._token is not None:
            detach(self._token)
        if self.job.suspended:
            self._span.set_attribute("firelock.suspended", True)
        elif error is not None:
            self._record_end(error)
        self._span.end()

    def _record_end(self, error: BaseException) -> None:
        reason = self.job.cancel_reason if self.job.cancelled else ""
        if _is_out_of_time(self.job):
            self._span.set_attribute("error.type", "timeout")
            self._span.set_status(Status(StatusCode.ERROR, reason))
        elif reason and (isinstance(error, JobCancelled) or type(error).__name__ == "CancelledError"):
            self._span.set_attribute("firelock.cancelled", reason)  # deleted, or stopped with the server
        elif isinstance(error, RateLimited):
            self._span.set_attribute("firelock.rate_limited", str(error))  # not a failure: the job waits
        else:
            _record(self._span, error)


def _is_out_of_time(job: JobContext) -> bool:
    return job.cancelled and job.cancel_reason.startswith("timed out")
