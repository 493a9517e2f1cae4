"""Spans and metrics of jobs, as recorded by the SDK's in-memory exporters."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise

import pytest
from celery import Celery
from celery.app.trace import build_tracer
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from firelock import (
    ArgumentError,
    ConfigurationError,
    Firelock,
    JobContext,
    JobFailed,
    Retry,
    Snooze,
    State,
    StorageError,
    current_job,
)
from firelock.integrations.opentelemetry import DURATION_BUCKETS, OpenTelemetry
from firelock.testing import Tester
from tests.core.fakes import unmeasured, until


class Traced:
    """An app with the plugin, and the telemetry that its providers have recorded."""

    def __init__(self, storage="memory://", **options):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        plugin = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)
        self.app = Firelock(storage, plugins=[plugin])
        self.tracer = self.tracers.get_tracer("host")

    def run(self, *jobs):
        """Wait until the jobs have ended."""
        with self.app.server(workers=2, async_workers=2):
            for job in jobs:
                with suppress(JobFailed):
                    job.result(timeout=20)

    def spans(self, name):
        """Return the ended spans with this name, in the order in which they ended."""
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name):
        (found,) = self.spans(name)
        return found

    def points(self, name):
        """Return the data points of a metric, one for each set of attributes."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def close(self):
        self.app.close()
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def make():
    """Return a function that creates an app with the plugin; all apps are closed at the end."""
    made = []

    def make(*args, **options):
        made.append(Traced(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def traced(make):
    """Return an app with the plugin and its default options."""
    return make()


def is_child(span, parent):
    """Return whether the span is a direct child of the other."""
    return span.parent is not None and (span.parent.span_id, span.context.trace_id) == (
        parent.context.span_id, parent.context.trace_id,
    )  # fmt: skip


def links_to(span):
    return [link.context.span_id for link in span.links]


# ---- a single trace --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_trace_connects_request_job_and_spans_of_the_task(traced, is_async):
    """Each span is the child of the span that caused it. Spans of the task are children of its run."""

    @traced.app.task(name="child", queue="mail")
    def child() -> None: ...

    if is_async:

        @traced.app.task(name="parent")
        async def parent() -> None:
            with traced.tracer.start_as_current_span("inside"):
                await child.aenqueue()
    else:

        @traced.app.task(name="parent")
        def parent() -> None:
            with traced.tracer.start_as_current_span("inside"):
                child.enqueue()

    with traced.tracer.start_as_current_span("request"):
        job = asyncio.run(parent.aenqueue()) if is_async else parent.enqueue()
        then = job.then(child.using(queue="later"))
    traced.run(job, then)
    traced.run()

    names = ["request", "send default", "process default", "inside", "send mail", "process mail"]
    spans = [traced.span(name) for name in names]
    assert all(is_child(span, previous) for previous, span in pairwise(spans))
    assert is_child(traced.span("send later"), spans[0])
    assert is_child(traced.span("process later"), traced.span("send later"))
    assert 1 == len({span.context.trace_id for span in traced.exporter.get_finished_spans()})


def test_continuation_joins_the_trace_of_its_parent(traced):
    """No span is active when the continuation is created, so the trace is read from the parent's metadata."""

    @traced.app.task(name="work")
    def work() -> None: ...

    job = work.enqueue()
    job.then(work.using(queue="later"))

    first, second = traced.span("send default"), traced.span("send later")
    assert first.parent is None
    assert is_child(second, first)


PROGRAM = """
from apart import exporter, fire, leaf, tracer, work

with tracer.start_as_current_span("request"):
    job = work.enqueue()
with fire.server(workers=1):
    print(job.result(timeout=60), job.meta["traceparent"])
"""
APART = """
from firelock import Firelock
from firelock.integrations.opentelemetry import OpenTelemetry
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
tracer = trace.get_tracer("host")
fire = Firelock("sqlite:///jobs.db", plugins=[OpenTelemetry()])

@fire.task(name="work", executor="process")
def work() -> str:
    inner = leaf.enqueue()
    (sent,) = exporter.get_finished_spans()
    current = trace.get_current_span()
    assert sent.parent.span_id == current.get_span_context().span_id
    return " ".join([
        current.name, format(current.parent.span_id, "016x"), format(current.context.trace_id, "032x"),
        inner.meta["traceparent"].split("-")[1],
    ])

@fire.task(name="leaf", queue="other")
def leaf() -> None: ...
"""


def test_trace_includes_a_job_in_a_separate_process(tmp_path):
    """The context is stored with the job. Jobs that the process creates continue the trace."""
    (tmp_path / "apart.py").write_text(APART)

    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=unmeasured(), capture_output=True, text=True,
        check=True, timeout=90,
    )  # fmt: skip

    *name, parent, trace_id, inner, traceparent = ran.stdout.split()
    assert ["process", "default"] == name
    assert [trace_id, parent] == traceparent.split("-")[1:3]
    assert trace_id == inner


def test_run_ignores_the_current_span_of_the_worker(traced):
    """A traced program might run jobs that other programs created."""
    seen = []

    @traced.app.task(name="work")
    def work() -> None:
        seen.append(baggage.get_baggage("of"))

    with Tester(traced.app) as tester:
        work.enqueue()
        token = context.attach(baggage.set_baggage("of", "host"))
        with traced.tracer.start_as_current_span("host"):
            tester.drain()
        context.detach(token)

    assert is_child(traced.span("process default"), traced.span("send default"))
    assert traced.span("host").context.trace_id != traced.span("process default").context.trace_id
    assert [None] == seen


# ---- child or link ---------------------------------------------------------------------------------------


def send_and_run(traced, *, wait=timedelta(0), fails=False, **options):
    """Return the span that sent a job, and the spans of its runs after this wait."""
    runs = []

    @traced.app.task(name="work", retry=Retry.fixed(0, attempts=1))
    def work() -> None:
        runs.append(current_job().attempt)
        if fails and len(runs) == 1:
            raise ValueError("once")

    job = work.using(**options).enqueue()
    traced.app.storage.clock_offset += int(wait.total_seconds() * 1_000_000)
    traced.run(job)
    return traced.span("send default"), traced.spans("process default")


def tie(sent, ran):
    if is_child(ran, sent):
        return "parent"
    assert ran.parent is None
    assert sent.context.trace_id != ran.context.trace_id
    return "link" if links_to(ran) == [sent.context.span_id] else "none"


@pytest.mark.parametrize(
    ("correlation", "relations"),
    [
        ("auto", {"soon": "parent", "late": "link", "delayed": "link", "retry": "link"}),
        ("parent", {"soon": "parent", "late": "parent", "delayed": "parent", "retry": "parent"}),
        ("link", {"soon": "link", "late": "link", "delayed": "link", "retry": "link"}),
    ],
)
def test_retried_or_late_run_is_linked_instead_of_a_child(make, correlation, relations):
    """By default, a run is a child span. A retry, or a run more than an hour later, is linked."""
    hour, more = timedelta(hours=1), timedelta(hours=1, seconds=1)
    soon = send_and_run(make(correlation=correlation), wait=timedelta(minutes=50))
    late = send_and_run(make(correlation=correlation), wait=more)
    delayed = send_and_run(make(correlation=correlation), wait=more, delay=hour)
    retried = send_and_run(make(correlation=correlation), fails=True)

    found = {
        "soon": tie(soon[0], *soon[1]), "late": tie(late[0], *late[1]),
        "delayed": tie(delayed[0], *delayed[1]), "retry": tie(retried[0], retried[1][1]),
    }  # fmt: skip
    assert relations == found
    assert [1, 2] == [span.attributes["firelock.attempt"] for span in retried[1]]


def test_run_of_a_recurring_job_starts_a_new_trace(traced):
    """The span in which the job was defined ended long ago.

    A context in the definition's metadata is linked.
    """

    @traced.app.task(name="work")
    def work() -> None: ...

    with traced.tracer.start_as_current_span("start-up"):
        work.recur("nightly", "0 2 * * *")
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    work.using(meta={"traceparent": own}).recur("weekly", "0 2 * * 1")
    traced.run(traced.app.recurring.trigger("nightly"))
    traced.run(traced.app.recurring.trigger("weekly"))

    nightly, weekly = traced.spans("process default")
    assert (None, []) == (nightly.parent, links_to(nightly))
    assert (None, [0xB7AD6B7169203331]) == (weekly.parent, links_to(weekly))
    assert "nightly" == nightly.attributes["firelock.recurring_id"]


def test_unknown_correlation_raises():
    """The message lists the valid values."""
    with pytest.raises(ConfigurationError, match='correlation must be one of "auto"'):
        OpenTelemetry(correlation="child")


# ---- names and attributes of spans -----------------------------------------------------------------------


def test_spans_follow_the_messaging_conventions(traced):
    """The conventions define the kind, operation, destination and message.

    Attributes that are not in the conventions start with `firelock.`.
    """
    sent, (ran,) = send_and_run(traced)

    common = {"messaging.system": "firelock", "messaging.destination.name": "default"}
    job_id = sent.attributes["messaging.message.id"]
    assert (SpanKind.PRODUCER, SpanKind.CONSUMER) == (sent.kind, ran.kind)
    assert {
        **common, "messaging.operation.name": "send", "messaging.operation.type": "send",
        "messaging.message.id": job_id, "firelock.task": "work",
    } == dict(sent.attributes)  # fmt: skip
    assert {
        **common, "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.message.id": job_id, "firelock.task": "work", "firelock.attempt": 1,
        "firelock.queue_wait": ran.attributes["firelock.queue_wait"],
        "messaging.client.id": ran.attributes["messaging.client.id"],
    } == dict(ran.attributes)  # fmt: skip
    assert 0 <= ran.attributes["firelock.queue_wait"] < 20
    assert "https://opentelemetry.io/schemas/1.44.0" == sent.instrumentation_scope.schema_url


def test_span_of_a_failed_attempt_contains_the_exception(traced):
    """The span of the retry does not contain the error of the first attempt."""
    _, (first, second) = send_and_run(traced, fails=True)

    (event,) = first.events
    assert ("ValueError", StatusCode.ERROR) == (first.attributes["error.type"], first.status.status_code)
    assert ("exception", "once") == (event.name, event.attributes["exception.message"])
    assert (StatusCode.UNSET, ()) == (second.status.status_code, second.events)


def test_span_of_a_cancelled_attempt_contains_the_reason(traced):
    """A timeout counts as a failure. The cancellation of a deleted job does not."""
    begun = threading.Event()

    @traced.app.task(name="slow", queue="slow", timeout=timedelta(milliseconds=50), retry=Retry.never())
    async def slow() -> None:
        await asyncio.Event().wait()

    @traced.app.task(name="long")
    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    with traced.app.server(workers=1, async_workers=2):
        late, unwanted = slow.enqueue(), long.enqueue()
        assert begun.wait(20)
        unwanted.delete()
        with pytest.raises(JobFailed):
            late.result(timeout=20)
        until(lambda: traced.spans("process default"))

    timed_out, deleted = traced.span("process slow"), traced.span("process default")
    assert ("timeout", StatusCode.ERROR) == (timed_out.attributes["error.type"], timed_out.status.status_code)
    assert "error.type" not in deleted.attributes
    assert StatusCode.UNSET == deleted.status.status_code
    assert "firelock.cancelled" in deleted.attributes


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_span_ends_with_an_error_if_the_enqueue_fails(traced, is_async):
    """If an argument is invalid or the storage is closed, the span and the caller both receive the error."""

    @traced.app.task(name="work")
    def work(number: int) -> None: ...

    with pytest.raises(ArgumentError):
        asyncio.run(work.aenqueue("one")) if is_async else work.enqueue("one")
    traced.app.storage.close()
    with pytest.raises(StorageError):
        asyncio.run(work.aenqueue(1)) if is_async else work.enqueue(1)

    refused, failed = traced.spans("send default")
    assert "firelock.errors.ArgumentError" == refused.attributes["error.type"]
    assert failed.attributes["error.type"].startswith("firelock.errors.Storage")
    assert {StatusCode.ERROR} == {span.status.status_code for span in (refused, failed)}
    assert not trace.get_current_span().get_span_context().is_valid


def test_jobs_enqueued_together_share_a_span(traced):
    """The span contains the number of jobs. Each run is a child of it."""

    @traced.app.task(name="work")
    def work(number: int) -> None: ...

    jobs = work.enqueue_many([(1,), (2,)])
    traced.run(*jobs)

    sent, ran = traced.span("send default"), traced.spans("process default")
    assert 2 == sent.attributes["messaging.batch.message_count"]
    assert "messaging.message.id" not in sent.attributes
    assert [True, True] == [is_child(span, sent) for span in ran]


def test_bulk_spans_creates_a_span_per_job(make):
    """Each job's span is the parent of its run, and the call's span is linked to all of them."""
    traced = make(bulk_spans=True)
    work = traced.app.task(name="work")(lambda number: None)
    other = traced.app.task(name="other", queue="mail")(lambda: None)

    with traced.tracer.start_as_current_span("request"):
        jobs = traced.app.enqueue_many([work.call(1), other.call()])
    traced.run(*jobs)

    call, first, second = traced.span("send"), traced.span("create default"), traced.span("create mail")
    assert (SpanKind.CLIENT, SpanKind.PRODUCER) == (call.kind, first.kind)
    assert [first.context.span_id, second.context.span_id] == links_to(call)
    assert [job.id for job in jobs] == [span.attributes["messaging.message.id"] for span in (first, second)]
    assert all(is_child(span, traced.span("request")) for span in (call, first, second))
    assert is_child(traced.span("process default"), first)
    assert is_child(traced.span("process mail"), second)


def test_bulk_spans_end_if_the_call_fails(make):
    """If one argument is invalid, the spans of the valid calls end too."""
    traced = make(bulk_spans=True)

    @traced.app.task(name="work")
    def work(number: int) -> None: ...

    with pytest.raises(ArgumentError):
        work.enqueue_many([(1,), ("two",)])

    spans = [*traced.spans("create default"), traced.span("send default")]
    assert 3 == len(spans)
    assert {"ERROR"} == {span.status.status_code.name for span in spans}


def test_spans_of_added_members_contain_the_batch_id(traced):
    """The spans also have the usual attributes. This includes members that are added after the block."""
    work = traced.app.task(name="work")(lambda: None)

    with traced.app.batch("three") as batch:
        one = batch.add(work)
        batch.add_many([work.call(), work.call()])
    two = batch.add(work)

    ids = [
        (span.attributes.get("messaging.message.id"), span.attributes.get("messaging.batch.message_count"))
        for span in traced.spans("send default")
    ]
    assert [(one.id, None), (None, 2), (two.id, None)] == ids
    assert {("work", batch.id)} == {
        (span.attributes["firelock.task"], span.attributes["firelock.batch_id"])
        for span in traced.spans("send default")
    }


def test_bulk_spans_creates_a_span_per_member(make):
    """Each span ends when its member is added, even though the block stores the member later."""
    traced = make(bulk_spans=True)
    work = traced.app.task(name="work")(lambda: None)

    with traced.app.batch("two") as batch:
        members = batch.add_many([work.call(), work.call()])

    assert [job.id for job in members] == [
        span.attributes["messaging.message.id"] for span in traced.spans("create default")
    ]


def test_continuation_of_a_batch_joins_the_trace_of_the_batch(traced):
    """A continuation of an outer or inner batch joins the trace even if no span is active.

    The batches themselves have no spans.
    """
    work = traced.app.task(name="work")(lambda: None)

    with traced.tracer.start_as_current_span("request"), traced.app.batch("outer") as outer:
        inner = outer.batch("inner")
    for batch in (outer, inner):
        traced.app.batches.get(batch.id).then(work)

    first, second = traced.spans("send default")
    assert is_child(first, traced.span("request"))
    assert is_child(second, traced.span("request"))
    assert 3 == len(traced.exporter.get_finished_spans())


def test_span_of_a_called_job_contains_the_job_id(traced):
    """The span is a child of the calling run and the parent of the called job's run."""
    work = traced.app.task(name="work", queue="called")(lambda: None)
    calling = traced.app.task(name="calling")(lambda: current_job().run("work", work))

    job = calling.enqueue()
    traced.run(job)

    sent, ran = traced.span("send called"), traced.span("process called")
    (called,) = traced.app.jobs.find(task="work").jobs
    assert ("work", called.id) == (
        sent.attributes["firelock.task"], sent.attributes["messaging.message.id"]
    )  # fmt: skip
    assert is_child(sent, traced.spans("process default")[0])
    assert is_child(ran, sent)


# ---- context propagation ---------------------------------------------------------------------------------


def test_baggage_is_stored_with_the_context(traced):
    """The task can read the caller's baggage even if its run is only linked to the trace."""
    seen = []

    @traced.app.task(name="work", retry=Retry.fixed(0, attempts=1))
    def work() -> None:
        seen.append(baggage.get_baggage("tenant"))
        if len(seen) == 1:
            raise ValueError

    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        job = work.enqueue()
    finally:
        context.detach(token)
    traced.run(job)

    assert ["acme", "acme"] == seen


def test_oversized_telemetry_metadata_is_omitted(traced):
    """The longest entries are omitted first. The job is still stored."""

    @traced.app.task(name="work")
    def work() -> None: ...

    token = context.attach(baggage.set_baggage("long", "x" * 3_000))
    try:
        roomy = work.enqueue()
        full = work.using(meta={"own": "y" * 1_990}).enqueue()
    finally:
        context.detach(token)

    assert ["traceparent"] == list(roomy.meta)
    assert ["own"] == list(full.meta)


def test_trace_context_from_the_caller_is_kept(traced):
    """The plugin does not replace a context in the caller's metadata."""

    @traced.app.task(name="work")
    def work() -> None: ...

    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = work.using(meta={"traceparent": own}).enqueue()

    assert {"traceparent": own} == dict(job.meta)


def test_no_context_is_stored_without_an_sdk():
    """The OpenTelemetry API alone does not create a context."""
    with Firelock("memory://", plugins=[OpenTelemetry()]) as app:

        @app.task(name="work")
        def work() -> int:
            return 1

        job = work.enqueue()
        with app.server(workers=1):
            assert 1 == job.result(timeout=20)

    assert {} == dict(job.meta)


# ---- metrics ---------------------------------------------------------------------------------------------


def test_metrics_count_sent_and_consumed_jobs(traced):
    """The attributes are the queue, the task and the error type. They do not include ids."""
    send_and_run(traced, fails=True)

    attributes = {
        "messaging.system": "firelock",
        "messaging.destination.name": "default",
        "firelock.task": "work",
    }
    sending = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    running = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    sent, consumed = (traced.points(f"messaging.client.{name}.messages") for name in ("sent", "consumed"))
    took, ran = (traced.points(f"messaging.{name}.duration") for name in ("client.operation", "process"))
    del_task = {key: value for key, value in attributes.items() if key != "firelock.task"}
    assert [(1, {**attributes, **sending})] == [(point.value, dict(point.attributes)) for point in sent]
    assert [(1, {**del_task, **sending})] == [(point.count, dict(point.attributes)) for point in took]
    for points, figure in ((consumed, "value"), (ran, "count")):
        assert [
            (1, {**attributes, **running, "error.type": "ValueError"}), (1, {**attributes, **running}),
        ] == [(getattr(point, figure), dict(point.attributes)) for point in points]  # fmt: skip
    assert {DURATION_BUCKETS} == {point.explicit_bounds for point in ran}


def test_workers_occupied_after_a_timeout_are_counted(traced):
    """Such a worker is counted under its queue and task until its job ends."""
    gate, started = threading.Event(), threading.Event()

    @traced.app.task(name="deaf", timeout=0.05)
    def deaf() -> None:
        started.set()
        gate.wait(30)

    job = deaf.enqueue()
    with traced.app.server(workers=1):
        try:
            assert started.wait(20)
            until(lambda: traced.points("firelock.workers.stuck"))
            (point,) = traced.points("firelock.workers.stuck")
        finally:
            gate.set()
        until(lambda: job.refresh().state is not State.PROCESSING)
        after = traced.points("firelock.workers.stuck")

    assert (1, "default", "deaf", []) == (
        point.value, point.attributes["messaging.destination.name"], point.attributes["firelock.task"], after,
    )  # fmt: skip


def test_batch_does_not_count_as_a_sent_job(traced):
    """The members and continuations of the batch are counted."""
    work = traced.app.task(name="work")(lambda: None)

    with traced.app.batch("two") as batch:
        batch.add_many([work.call(), work.call()])
        batch.then(work)

    sent = traced.points("messaging.client.sent.messages")
    assert [("work", 3)] == [(point.attributes["firelock.task"], point.value) for point in sent]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_run_that_ends_in_a_wait_is_marked_and_not_counted(traced, is_async):
    """A run that ends in a wait does not use an attempt, and its span is not a failure.

    Only the last run is counted as an attempt.
    """
    day = timedelta(days=1)

    if is_async:

        @traced.app.task(name="sleepy")
        async def sleepy(job: JobContext) -> None:
            await job.asleep("a day", day)
    else:

        @traced.app.task(name="sleepy")
        def sleepy(job: JobContext) -> None:
            job.sleep("a day", day)

    with Tester(traced.app) as tester:
        sleepy.enqueue()
        tester.drain()
        before = traced.points("messaging.client.consumed.messages")
        tester.clock.advance(days=1)

    first, last = traced.spans("process default")
    consumed, took = (
        traced.points(f"messaging.{name}") for name in ("client.consumed.messages", "process.duration")
    )
    assert (True, StatusCode.UNSET, ()) == (
        first.attributes["firelock.suspended"], first.status.status_code, first.events
    )  # fmt: skip
    assert ([1, 1], False) == (
        [span.attributes["firelock.attempt"] for span in (first, last)],
        "firelock.suspended" in last.attributes,
    )
    assert ([], [1], [1]) == (before, [point.value for point in consumed], [point.count for point in took])


def test_snoozed_run_is_not_counted_as_an_attempt(traced):
    """The Prometheus plugin counts in the same way."""
    runs = []

    @traced.app.task(name="sleepy")
    def sleepy() -> Snooze | None:
        runs.append(1)
        return Snooze(60) if len(runs) == 1 else None

    with Tester(traced.app) as tester:
        sleepy.enqueue()
        tester.drain()
        tester.clock.advance(minutes=1)

    assert [1] == [point.value for point in traced.points("messaging.client.consumed.messages")]


# ---- comparison with Celery ------------------------------------------------------------------------------


@pytest.fixture
def celery_spans():
    """Return a function that runs an instrumented Celery task and returns its spans, the producer's first."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    CeleryInstrumentor().instrument(tracer_provider=tracers)
    app = Celery("shop", broker="memory://", backend="cache+memory://")

    @app.task(name="shop.work")
    def work():
        raise ValueError("boom")

    def spans():
        work.apply_async()
        with app.connection_for_read() as connection, connection.SimpleQueue("celery") as line:
            headers = line.get(timeout=5).headers
        task_id = headers["id"]
        tracer = build_tracer(work.name, work, app=app)
        tracer(task_id, (), {}, {"id": task_id, "traceparent": headers["traceparent"]})
        return exporter.get_finished_spans()

    yield spans
    CeleryInstrumentor().uninstrument()
    tracers.shutdown()


def test_spans_have_the_same_relations_as_those_of_celery(traced, celery_spans):
    """Kinds, parents, message ids and errors are the same.

    The documentation lists the names of spans and attributes that differ.
    """
    sent, ran = celery_spans()
    ours, (first, _) = send_and_run(traced, fails=True)

    for send, run in ((sent, ran), (ours, first)):
        assert (SpanKind.PRODUCER, SpanKind.CONSUMER) == (send.kind, run.kind)
        assert is_child(run, send)
        assert send.attributes["messaging.message.id"] == run.attributes["messaging.message.id"]
        assert StatusCode.ERROR == run.status.status_code
        assert ["exception"] == [event.name for event in run.events]
    assert ("apply_async/shop.work", "run/shop.work") == (sent.name, ran.name)
    assert ("send default", "process default") == (ours.name, first.name)
    assert ("shop.work", "work") == (ran.attributes["celery.task_name"], first.attributes["firelock.task"])
