"""The data that the plugin sends to Sentry about jobs, recorded by a transport."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta

import pytest
import sentry_sdk
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from firelock import (
    ConfigurationError,
    Cron,
    Every,
    Firelock,
    JobContext,
    JobDeleted,
    JobFailed,
    RateLimited,
    Retry,
    Snooze,
    hookimpl,
)
from firelock.integrations.sentry import Sentry, slug_of
from firelock.model.lifecycle import handed_back
from firelock.testing import Tester
from tests.core.fakes import Worker, unmeasured


class Recording(Transport):
    """A transport that records items instead of sending them."""

    def __init__(self):
        super().__init__()
        self.items = []

    def capture_envelope(self, envelope):
        self.items += [(item.headers["type"], item.payload.json) for item in envelope.items]

    def of(self, kind):
        """Return the payloads of this kind, in order."""
        return [payload for found, payload in self.items if found == kind]


@pytest.fixture
def sent():
    """Initialize the SDK as a program does, with a transport that does not send anything."""
    transport = Recording()
    sentry_sdk.init(
        dsn="http://key@localhost/1", transport=transport, traces_sample_rate=1.0,
        default_integrations=False, integrations=[LoggingIntegration(), DedupeIntegration()],
    )  # fmt: skip
    yield transport
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def make():
    """Return a function that creates an app with the plugin; all apps are closed at the end."""
    apps = []

    def make(*plugins, **options):
        apps.append(Firelock("memory://", plugins=[Sentry(**options), *plugins]))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


def run(app, *jobs):
    """Wait until the jobs have ended."""
    with app.server(workers=2, async_workers=2):
        for job in jobs:
            with suppress(JobFailed, JobDeleted):
                job.result(timeout=20)


def failing(app, *, is_async=False, retry=None):
    """Return a task that fails, by default with one retry."""
    retry = retry or Retry.fixed(0, attempts=1)
    if is_async:

        async def work(secret: str) -> None:
            raise ValueError("boom")
    else:

        def work(secret: str) -> None:
            raise ValueError("boom")

    return app.task(name="work", queue="mail", retry=retry)(work)


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_error_is_reported_once_after_the_last_attempt(sent, make, is_async):
    """The log line of the failure does not cause a second event.

    The event contains the task, the queue and the trace.
    """
    app = make()
    job = failing(app, is_async=is_async).enqueue("hunter2")

    run(app, job)

    (event,) = sent.of("event")
    (exception,) = event["exception"]["values"]
    process = sent.of("transaction")[-1]
    assert ("ValueError", "boom") == (exception["type"], exception["value"])
    assert {"type": "firelock", "handled": False} == exception["mechanism"]
    assert {"task": "work", "queue": "mail"} == event["tags"]
    assert {"id": job.id, "attempt": 2} == {
        name: event["contexts"]["job"][name] for name in ("id", "attempt")
    }
    assert "work" == event["transaction"]
    assert process["contexts"]["trace"]["span_id"] == event["contexts"]["trace"]["span_id"]


def test_option_reports_the_error_of_every_attempt(sent, make):
    """Each event contains the number of the attempt."""
    app = make(every_attempt=True)

    run(app, failing(app).enqueue("x"))

    assert [1, 2] == [event["contexts"]["job"]["attempt"] for event in sent.of("event")]


def test_error_is_not_reported_if_a_retry_succeeds(sent, make):
    """Such an error does not need any action."""
    app = make()
    runs = []

    @app.task(name="work", retry=Retry.fixed(0, attempts=1))
    def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("once")

    run(app, work.enqueue())

    assert [] == sent.of("event")


def test_error_is_reported_if_another_plugin_ends_the_job(sent, make):
    """The other plugin prevents the retry. The order of the plugins does not matter."""
    app = make(Deleting())

    run(app, failing(app).enqueue("x"))

    assert 1 == len(sent.of("event"))


class Deleting:
    """A plugin that deletes failed jobs; the plugins after it are not called."""

    @hookimpl
    def elect_transition(self, proposed):
        from attrs import evolve

        from firelock import State

        return evolve(proposed, to=State.DELETED, retries=None) if proposed.error else None


APART = """
import sentry_sdk
from sentry_sdk.transport import Transport

from firelock import Firelock, Retry
from firelock.integrations.sentry import Sentry


class File(Transport):
    def capture_envelope(self, envelope):
        with open("sent.txt", "a") as file:
            for item in envelope.items:
                words = item.payload.json
                trace = words["contexts"]["trace"]
                found = item.headers["type"], words["tags"]["task"], trace["trace_id"], trace["span_id"]
                print(*found, file=file)


sentry_sdk.init(dsn="http://key@localhost/1", traces_sample_rate=1.0, transport=File)
fire = Firelock("sqlite:///jobs.db", plugins=[Sentry()])


@fire.task(name="work", executor="process", retry=Retry.fixed(0, attempts=1))
def work() -> None:
    raise ValueError("boom")


if __name__ == "__main__":
    with fire.server(workers=1):
        try:
            work.enqueue().result(timeout=60)
        except Exception as error:
            print(type(error).__name__)
"""


@pytest.mark.heavy("starts two processes that import the SDK")
def test_error_in_a_job_process_is_reported_by_that_process(tmp_path):
    """There is one event, in the trace of the last attempt.

    The server's process does not have the exception and does not report it.
    """
    (tmp_path / "apart.py").write_text(APART)

    ran = subprocess.run(
        [sys.executable, "apart.py"], cwd=tmp_path, env=unmeasured(), capture_output=True, text=True,
        check=True, timeout=90,
    )  # fmt: skip

    *transactions, event = (line.split() for line in (tmp_path / "sent.txt").read_text().splitlines())
    assert "JobFailed\n" == ran.stdout
    assert [["transaction", "work"]] * 2 == [each[:2] for each in transactions]
    assert ["event", "work", *transactions[-1][2:]] == event


def test_jobs_have_separate_scopes(sent, make):
    """Tags and breadcrumbs of a job do not appear in events of other jobs or of the program."""
    app = make()

    @app.task(name="work", retry=Retry.never())
    def work(number: int) -> None:
        sentry_sdk.set_tag("own", str(number))
        logging.getLogger("shop").warning("crumb of %d", number)
        raise ValueError(number)

    run(app, *work.enqueue_many([(1,), (2,), (3,)]))
    sentry_sdk.capture_message("of the program")

    *events, other = sent.of("event")
    found = [
        (event["exception"]["values"][0]["value"], event["tags"]["own"],
         [crumb["message"] for crumb in event["breadcrumbs"]["values"]])
        for event in events
    ]  # fmt: skip
    assert [(number, number, [f"crumb of {number}"]) for number in "123"] == sorted(found)
    assert "tags" not in other


def test_arguments_are_not_reported_outside_local_variables(sent, make):
    """Contexts and spans do not contain arguments. SDK options control local variables of frames."""
    app = make()

    run(app, failing(app).enqueue("hunter2"))

    (event,) = sent.of("event")
    del event["exception"]
    assert "hunter2" not in repr((event, sent.of("transaction")))


# ---- spans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_trace_connects_the_request_and_the_job(sent, make, is_async):
    """The queue.publish span is in the request's transaction, and queue.process is its child.

    Both have the attributes that the Queues page of Sentry uses.
    """
    app = make()

    @app.task(name="work", queue="mail")
    def work() -> None: ...

    with sentry_sdk.start_transaction(op="http.server", name="POST /orders"):
        job = asyncio.run(work.aenqueue()) if is_async else work.enqueue()
    run(app, job)

    request, process = sent.of("transaction")
    (publish,) = request["spans"]
    trace = process["contexts"]["trace"]
    assert ("queue.publish", "work", "auto.queue.firelock") == (
        publish["op"], publish["description"], publish["origin"],
    )  # fmt: skip
    assert {
        "messaging.system": "firelock", "messaging.destination.name": "mail", "messaging.message.id": job.id,
        "messaging.message.body.size": 2,
    }.items() <= publish["data"].items()  # fmt: skip
    assert ("queue.process", "work", "ok") == (trace["op"], process["transaction"], trace["status"])
    assert (publish["trace_id"], publish["span_id"]) == (trace["trace_id"], trace["parent_span_id"])
    assert {
        "messaging.system": "firelock", "messaging.destination.name": "mail", "messaging.message.id": job.id,
        "messaging.message.retry.count": 0,
    }.items() <= trace["data"].items()  # fmt: skip
    assert 0 <= trace["data"]["messaging.message.receive.latency"] < 20_000
    assert {"sentry-trace", "baggage"} == set(job.meta)


def test_job_created_by_a_job_belongs_to_the_same_trace(sent, make):
    """The jobs that a task enqueues are published in the task's own transaction."""
    app = make()
    child = app.task(name="child")(lambda: None)
    parent = app.task(name="parent")(lambda: child.enqueue() and None)

    with Tester(app) as tester:  # one after the other; on a server, the child might end first
        parent.enqueue()
        tester.drain()

    first, second = sent.of("transaction")
    assert ["parent", "child"] == [first["transaction"], second["transaction"]]
    assert first["spans"][0]["span_id"] == second["contexts"]["trace"]["parent_span_id"]


def test_trace_includes_members_and_continuations_of_a_batch(sent, make):
    """The span of a member contains the member's id before the member is stored.

    A continuation belongs to the trace of the batch.
    """
    app = make()
    work = app.task(name="work")(lambda: None)

    with sentry_sdk.start_transaction(op="http.server", name="POST /orders"), app.batch("two") as batch:
        member = batch.add(work)
        batch.add_many([work.call(), work.call()])

    (request,) = sent.of("transaction")
    first, second = request["spans"]
    assert (member.id, 2) == (
        first["data"]["messaging.message.id"], second["data"]["messaging.batch.message_count"]
    )  # fmt: skip
    assert [f"{request['contexts']['trace']['trace_id']}-{request['contexts']['trace']['span_id']}"] == [
        batch.meta["sentry-trace"].rpartition("-")[0]
    ]


def test_failed_attempt_has_a_failed_transaction(sent, make):
    """Each attempt has its own transaction."""
    app = make()

    run(app, failing(app).enqueue("x"))

    spans = [transaction["contexts"]["trace"] for transaction in sent.of("transaction")]
    assert [("internal_error", 0), ("internal_error", 1)] == [
        (trace["status"], trace["data"]["messaging.message.retry.count"]) for trace in spans
    ]


def test_plugin_does_nothing_if_the_sdk_is_not_initialized(make):
    """Therefore, a program without a DSN can use the plugin."""
    app = make(monitors=True)

    job = failing(app).enqueue("x")
    run(app, job)

    assert {} == dict(job.meta)


# ---- monitors --------------------------------------------------------------------------------------------


def check_ins(sent):
    return [(each["monitor_slug"], each["status"]) for each in sent.of("check_in")]


def test_recurring_job_checks_in_with_its_schedule(sent, make):
    """The check-in at the start creates the monitor. The check-in at the end has the same id."""
    app = make(monitors=True, margin=timedelta(minutes=3), max_runtime=timedelta(minutes=20))

    @app.task(name="work")
    def work() -> None: ...

    work.recur("nightly", Cron("0 2 * * *", tz="Europe/Istanbul"))
    run(app, app.recurring.trigger("nightly"))

    begin, end = sent.of("check_in")
    assert [("nightly", "in_progress"), ("nightly", "ok")] == check_ins(sent)
    assert begin["check_in_id"] == end["check_in_id"]
    assert end["duration"] >= 0
    assert {
        "schedule": {"type": "crontab", "value": "0 2 * * *"}, "timezone": "Europe/Istanbul",
        "checkin_margin": 3, "max_runtime": 20,
    } == begin["monitor_config"]  # fmt: skip


def test_monitor_receives_only_the_outcome_of_the_last_attempt(sent, make):
    """For the monitor, retries belong to the same run. This run fails only when the job has failed."""
    app = make(monitors=["nightly"])
    task = failing(app)
    task.recur("nightly", Every(timedelta(hours=2)), "x")
    task.recur("unwatched", "@daily", "x")

    run(app, app.recurring.trigger("nightly"), app.recurring.trigger("unwatched"))

    assert [("nightly", "in_progress"), ("nightly", "error")] == check_ins(sent)
    assert {"type": "interval", "value": 2, "unit": "hour"} == sent.of("check_in")[0]["monitor_config"][
        "schedule"
    ]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_job_with_waits_checks_in_once(sent, make, is_async):
    """The job checks in at its first start and at its end, no matter how often it waits.

    Each run has its own transaction.
    """
    app = make(monitors=True)
    day, approval = timedelta(days=1), app.signal("approval", bool)

    if is_async:

        @app.task(name="work")
        async def work(job: JobContext) -> None:
            await job.asleep("a day", day)
            await job.areceive(approval, timeout=None)
    else:

        @app.task(name="work")
        def work(job: JobContext) -> None:
            job.sleep("a day", day)
            job.receive(approval, timeout=None)

    with Tester(app) as tester:
        work.recur("nightly", Cron("0 2 * * *"))
        job = app.recurring.trigger("nightly")
        tester.drain()
        app.recurring.pause("nightly")
        tester.clock.advance(days=1)
        before = check_ins(sent)
        approval.send(job, True)
        tester.drain()

    assert [("nightly", "in_progress")] == before
    assert [("nightly", "in_progress"), ("nightly", "ok")] == check_ins(sent)
    assert ["ok", "ok", "ok"] == [each["contexts"]["trace"]["status"] for each in sent.of("transaction")]


def snoozing(app, ended):
    """Return a task that snoozes once."""

    @app.task(name="work")
    def work() -> Snooze | None:
        if ended:
            return None
        ended.append("snoozed")
        return Snooze(60, reason="later")

    return work


def refused(app, ended):
    """Return a task that raises RateLimited once."""

    @app.task(name="work")
    def work() -> None:
        if not ended:
            ended.append("refused")
            raise RateLimited(retry_after=60)

    return work


def joining(app, ended):
    """Return a task that waits for an existing job, for which no memo is stored."""

    @app.task(name="other")
    def other() -> int:
        return 1

    @app.task(name="work")
    def work(job: JobContext) -> None:
        ended.append(job.join(app.jobs.get(made.id)))

    made = other.using(delay=60).enqueue()
    return work


@pytest.mark.parametrize("putting_off", [snoozing, refused, joining])
def test_postponed_job_checks_in_once(sent, make, putting_off):
    """The job's history shows the postponement, although no memo is stored. No transaction has failed."""
    app, ended = make(monitors=["nightly"]), []

    with Tester(app) as tester:
        putting_off(app, ended).recur("nightly", Cron("0 2 * * *"))
        app.recurring.trigger("nightly")
        app.recurring.pause("nightly")
        tester.drain()
        before = check_ins(sent)
        tester.clock.advance(seconds=60)
        tester.drain()

    assert [("nightly", "in_progress")] == before
    assert [("nightly", "in_progress"), ("nightly", "ok")] == check_ins(sent)
    assert {"ok"} == {each["contexts"]["trace"]["status"] for each in sent.of("transaction")}


def test_job_handed_back_before_its_start_checks_in(sent, make):
    """A claim does not count as a start, because a server that stops might hand the job back."""
    app = make(monitors=True)

    @app.task(name="work")
    def work() -> None: ...

    work.recur("nightly", Cron("0 2 * * *"))
    job = app.recurring.trigger("nightly")
    server = Worker(app)
    (claimed,) = server.claim()
    app.storage.apply(
        [handed_back(claimed, server.holder, at=claimed.claimed_at, started_at=None, reason="it stops")]
    )
    run(app, job)

    assert [("nightly", "in_progress"), ("nightly", "ok")] == check_ins(sent)


def test_job_with_a_signal_before_its_start_checks_in(sent, make):
    """A stored signal does not mean that the run has started."""
    app = make(monitors=True)
    approval = app.signal("approval", bool)

    @app.task(name="work")
    def work(job: JobContext) -> None:
        job.receive(approval, timeout=None)

    work.recur("nightly", Cron("0 2 * * *"))
    job = app.recurring.trigger("nightly")
    approval.send(job, True)
    run(app, job)

    assert [("nightly", "in_progress"), ("nightly", "ok")] == check_ins(sent)


def test_task_timeout_is_the_maximum_runtime_of_its_monitor(sent, make):
    """A schedule with seconds has no monitor, because Sentry does not support seconds."""
    app = make(monitors=True)

    @app.task(name="work", timeout=timedelta(minutes=7))
    async def work() -> None: ...

    work.recur("weekly", Cron.weekly())
    work.recur("often", "*/10 * * * * *")
    run(app, app.recurring.trigger("weekly"), app.recurring.trigger("often"))

    (config,) = [each["monitor_config"] for each in sent.of("check_in") if "monitor_config" in each]
    assert (7, "0 0 * * mon") == (config["max_runtime"], config["schedule"]["value"])


def test_monitor_slug_is_the_id_if_sentry_accepts_it():
    """Otherwise, the slug is similar to the id and unique."""
    ids = ["nightly", "Nightly", "nightly report", "nightly-report", "x" * 80, "Ω"]

    slugs = [slug_of(each) for each in ids]

    assert ["nightly", "nightly-report"] == [slugs[0], slugs[3]]
    assert 6 == len(set(slugs))
    assert all(0 < len(slug) <= 50 and slug.replace("-", "").isalnum() and slug.isascii() for slug in slugs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"margin": 5}, "margin must be a timedelta of at least one minute, got 5"),
        ({"max_runtime": timedelta(seconds=3)}, "max_runtime must be"),
        ({"monitors": "nightly"}, r"Pass True or \['nightly'\]"),
    ],
)
def test_invalid_options_raise(options, words):
    """The message contains the fix."""
    with pytest.raises(ConfigurationError, match=words):
        Sentry(**options)
