"""Across modules: every invalid call to an app raises one clear error and stores nothing.

Invalid options, plugins, settings, schedules, locks and arguments are tested with their modules.
"""

from __future__ import annotations

import asyncio
from datetime import date

import attrs
import pytest

from firelock import Cron, Firelock, JobContext
from firelock.errors import (
    ArgumentError,
    ConfigurationError,
    FirelockError,
    JobConflict,
    JobNotFound,
    ResultUnavailable,
    ScheduleError,
    SignatureMismatch,
    StorageError,
    TaskError,
    UnsupportedFeature,
)
from tests.core.fakes import FailingStorage, Worker


def send(to: str, copies: int = 1) -> str:
    return to


def by_context(job: JobContext, *, word: str): ...


class Desk:
    """An app with a task, and a worker for its jobs."""

    def __init__(self):
        self.storage = FailingStorage()
        self.fire = Firelock(self.storage)
        self.send = self.fire.task(name="send")(send)
        self.by_context = self.fire.task(name="by_context")(by_context)
        self.worker = Worker(self.fire)


@pytest.fixture
def desk():
    """An app with a task and a worker, closed at the end."""
    desk = Desk()
    yield desk
    desk.fire.close()


BAD = [
    (
        lambda desk: Firelock("memory://u:secret@[host"),
        ConfigurationError,
        "The URL of scheme 'memory' cannot be parsed; check its brackets and its port.",
    ),
    (
        lambda desk: Firelock(""),
        ConfigurationError,
        'No storage is specified. Use Firelock("sqlite:///jobs.db")',
    ),
    (
        lambda desk: desk.fire.server(queues="a:0"),
        ConfigurationError,
        "a weight must be an integer from 1 to 1000, got '0'",
    ),
    (
        lambda desk: desk.fire.task(name="t", tags=["user:{user}"])(send).enqueue("x"),
        TaskError,
        "Tag 'user:{user}' contains 'user', which it cannot use. Usable parameters: to, copies",
    ),
    (
        lambda desk: desk.send.using(tags=["a\0"]).enqueue("x"),
        ArgumentError,
        "characters that are not printable",
    ),
    (
        lambda desk: desk.send.using(on="failed").enqueue("x"),
        ConfigurationError,
        "on='failed' is only for a job that waits for another job; use it with job.then(…) or after=.",
    ),
    (
        lambda desk: desk.send.using(within=object()).enqueue("x"),
        UnsupportedFeature,
        "does not support transactions. Enqueue without within=",
    ),
    (
        lambda desk: desk.fire.enqueue_many([desk.send.call("x"), desk.send.using(within=desk).call("y")]),
        ConfigurationError,
        "must all have the same within=; use one enqueue_many for each transaction.",
    ),
    (
        lambda desk: desk.fire.enqueue_many([desk.send.call("x"), desk.send]),
        TaskError,
        "fire.enqueue_many() accepts only calls from task.call(…), got <Task send>.",
    ),
    (
        lambda desk: desk.send.using(at=date(2090, 1, 1)).enqueue("x"),
        ScheduleError,
        "at must be an aware datetime, got datetime.date(2090, 1, 1).",
    ),
    (
        lambda desk: desk.fire.servers.order("id", "restart"),
        ConfigurationError,
        "Order 'restart' is unknown; use quiet, resume or stop.",
    ),
    (lambda desk: desk.send.recur("id", "* * * *", "x"), ScheduleError, "'* * * *'"),
    (
        lambda desk: desk.send.recur("id", Cron("0 2 * * *", tz="Mars/X"), "x"),
        ScheduleError,
        "Unknown time zone 'Mars/X'. Use an IANA name",
    ),
    (
        lambda desk: desk.send.enqueue(),
        SignatureMismatch,
        "send(to: str, copies: int = 1) was called without 'to'",
    ),
    (lambda desk: desk.by_context.enqueue(JobContext.fake(), word="x"), SignatureMismatch, "by_context"),
    (
        lambda desk: desk.send.enqueue(7),
        ArgumentError,
        "send.enqueue(to): argument 'to' (position 1) must be str, got int",
    ),
]


@pytest.mark.parametrize(("act", "kind", "words"), BAD, ids=[words[:30] for _, _, words in BAD])
def test_invalid_call_raises_one_error_and_stores_nothing(desk, act, kind, words):
    """The error's class shows what to catch; its message contains the problem, the value and the fix."""
    with pytest.raises(FirelockError) as caught:
        act(desk)

    assert kind is type(caught.value)
    assert words in str(caught.value)
    assert 1_000 > len(str(caught.value))
    assert {} == desk.fire.storage.counts().by_state
    assert ([], []) == (desk.fire.recurring.list(), desk.fire.queues.list())


def test_refused_action_on_a_job_changes_nothing(desk):
    """The job's state must allow the action, and the arguments of a continuation must be valid."""
    job = desk.send.enqueue("x").delete()
    before = job.refresh().record()

    with pytest.raises(JobConflict, match=r"is deleted; it cannot be deleted: it is already deleted\."):
        job.delete()
    with pytest.raises(SignatureMismatch, match="'to'"):
        job.then(desk.send)

    assert (before, 1) == (job.refresh().record(), sum(desk.fire.jobs.counts().by_state.values()))


def test_continuation_of_an_unknown_parent_is_refused(desk):
    """The error names both jobs, and nothing is stored."""
    parent = desk.send.enqueue("x")
    desk.storage.clear()

    with pytest.raises(JobNotFound, match=f"cannot wait for job {parent.id}, because that job is not stored"):
        parent.then(desk.send, "y")

    assert {} == desk.fire.storage.counts().by_state


@attrs.frozen
class Unsupported:
    """A class that the converter does not support."""

    inner: object


def untrue() -> int:
    return None


@pytest.mark.parametrize(
    "function",
    [
        untrue,
        *[
            lambda result=result: result
            for result in (Unsupported(object()), object(), {1, 2}, float("nan"), "x" * 300_000, lambda: None)
        ],
    ],
)
def test_job_with_a_result_that_cannot_be_stored_succeeds(desk, function):
    """Reading the result raises an error with the reason."""
    job = desk.fire.task(name="gives")(function).enqueue()

    desk.worker.run()

    assert "succeeded" == job.refresh().state
    with pytest.raises(
        ResultUnavailable, match=rf"{job.id} \(gives\) succeeded: the result was not stored: "
    ):
        job.result()


def test_every_method_of_a_closed_app_raises_an_error(desk):
    """The error is raised immediately; no method hangs or seems to work."""
    job = desk.send.enqueue("x")
    desk.fire.close()

    for verb in (
        lambda: desk.send.enqueue("x"),
        lambda: desk.send.enqueue_many([("x",)]),
        lambda: desk.send.schedule(5, "x"),
        lambda: desk.send.recur("id", "0 2 * * *", "x"),
        lambda: asyncio.run(desk.send.aenqueue("x")),
        lambda: asyncio.run(job.aresult()),
        job.refresh,
        job.result,
        job.requeue,
        job.delete,
        lambda: job.then(desk.send, "x"),
        desk.fire.jobs.find,
        desk.fire.jobs.counts,
        desk.fire.queues.list,
        desk.fire.servers.list,
        desk.fire.recurring.list,
        desk.fire.server().start,
        desk.fire.lock("x").__enter__,
    ):
        with pytest.raises(StorageError, match=r"closed; (open|create) a new"):
            verb()
