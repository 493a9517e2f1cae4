"""One attempt and the resulting state of its job."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import timedelta

import attrs
import pytest

from firelock import Firelock, JobContext, Retry, Settings, Snooze, current_job, hookimpl
from firelock.errors import JobCancelled, StorageUnavailable
from firelock.model import lifecycle
from firelock.model.clock import SECOND
from firelock.model.job import ClaimedJob
from firelock.model.lifecycle import Moved
from firelock.model.state import State
from firelock.retry import DecisionKind, RetryDecision
from firelock.server.run import CancelKind, Run
from firelock.storage import HeldClaim
from tests.core.fakes import FailingStorage, Worker, plugin

HOUR = timedelta(hours=1)


@pytest.fixture
def make_app():
    """A function that returns an app with these plugins and a worker for it.

    The apps are closed at the end.
    """
    apps = []

    def make(*plugins, **options):
        fire = Firelock("memory://", plugins=list(plugins), **options)
        apps.append(fire)
        return fire, Worker(fire)

    yield make
    for fire in apps:
        fire.close()


@pytest.fixture
def end_of(make_app):
    """A function that runs another function once as a task and returns the transition of this run."""

    def end(function, *args, plugins=(), **options):
        fire, worker = make_app(*plugins)
        fire.task(name="task", **options)(function).enqueue(*args)
        (job,) = worker.claim()
        return worker.attempt(job).transition

    return end


def raising(error):
    """Return a function that raises this error."""

    def fail():
        raise error

    return fail


# ---- before the run --------------------------------------------------------------------------------------


def test_timeout_of_a_call_overrides_the_task_timeout(make_app):
    """The call's timeout applies, whether it is shorter or longer than the task's."""
    fire, worker = make_app()
    fire.task(name="task", timeout=9)(lambda: None).using(timeout=90).enqueue()
    (job,) = worker.claim()

    assert 90.0 == worker.runner.prepare(job, worker.holder).timeout_seconds


@pytest.mark.parametrize("is_remote", [False, True])
def test_job_of_an_unknown_task_waits_for_another_server(make_app, is_remote):
    """The job is scheduled and its attempt does not count. A remote task is a stub, so it cannot run here."""
    fire, worker = make_app()
    task = fire.task(name="task", remote=is_remote)(lambda: None)
    task.enqueue()
    (job,) = worker.claim()
    if not is_remote:
        job.task = "elsewhere"

    transition = worker.runner.prepare(job, worker.holder).transition

    assert (State.SCHEDULED, True) == (transition.to, transition.gives_back)
    assert "is not registered on server host:a; waiting for a server that has it" in transition.reason
    assert 15 * SECOND == transition.due_at - transition.at


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arguments": "not json"}, "not JSON"),
        ({"arguments": '{"day":7}'}, ": int where str is annotated at $.day"),
        ({"arguments": '{"nobody":1}'}, "nobody"),
        ({"arguments": "[]"}, "The stored arguments of task must be an object, got list"),
    ],
)
def test_unreadable_job_fails_without_a_retry(make_app, changes, words):
    """The reason states why the arguments cannot be read.

    A row with invalid contents does not stop the dispatcher.
    """
    fire, worker = make_app()

    @fire.task(name="task")
    def task(day: str = ""): ...

    task.enqueue()
    (job,) = worker.claim()

    transition = worker.runner.prepare(attrs.evolve(job, **changes), worker.holder).transition

    assert (State.FAILED, None) == (transition.to, transition.retries)
    assert transition.expires_at > transition.at
    assert transition.reason.startswith("arguments cannot be read: ")
    assert words in transition.reason


def test_repeated_waits_of_a_job_are_logged_once(make_app, caplog):
    """Only the first wait of a series is stored in the history and logged.

    After the job's next run, a new series begins.
    """
    _, worker = make_app()
    job = ClaimedJob(
        "job-a", "nobody's", "{}", "json", "default", 0, attempt=2, retries=1, crashes=0, fence=2,
        created_at=0, enqueued_at=60 * SECOND, claimed_at=60 * SECOND,
    )  # fmt: skip
    later = attrs.evolve(job, enqueued_at=120 * SECOND, fence=3)
    retried = attrs.evolve(job, enqueued_at=600 * SECOND, fence=5, attempt=3, retries=2)

    waits = [worker.runner.prepare(one, worker.holder).transition for one in (job, later, retried)]

    assert [False, True, False] == [wait.is_silent for wait in waits]
    assert 2 == sum("Job job-a is put off" in text for text in caplog.messages)


def test_exception_in_a_serializer_does_not_stop_the_worker(make_app):
    """A bug in a plugin's serializer fails the job."""
    from firelock.arguments.serializer import JsonSerializer

    class Buggy(JsonSerializer):
        name = "buggy"

        def loads(self, text):
            raise RuntimeError("a bug")

    fire, worker = make_app(plugin(register_serializers=lambda: {"buggy": Buggy()}), serializer="buggy")
    fire.task(name="task")(lambda: None).enqueue()
    (job,) = worker.claim()

    transition = worker.runner.prepare(job, worker.holder).transition

    assert State.FAILED is transition.to
    assert "RuntimeError" in transition.error.type


# ---- returned values -------------------------------------------------------------------------------------


def test_outcome_contains_the_duration_of_the_run(make_app):
    """The duration is measured in microseconds of the storage's clock."""
    fire, worker = make_app()
    offset = fire.storage

    def take_a_minute():
        offset.clock_offset += 60 * SECOND

    fire.task(name="task")(take_a_minute).enqueue()
    (ended,) = worker.run()

    assert 60 * SECOND <= ended.duration < 61 * SECOND


@pytest.mark.parametrize(
    ("snooze", "wait"),
    [(Snooze(HOUR, "not yet"), 3_600 * SECOND), (Snooze(0.5), SECOND // 2), (Snooze(0), 0)],
)
def test_snoozed_job_runs_again_later(end_of, snooze, wait):
    """A snoozed job's attempt does not count, and it uses no retry."""
    transition = end_of(lambda: snooze)

    assert (State.SCHEDULED, True, None, snooze.reason, wait) == (
        transition.to, transition.gives_back, transition.retries, transition.reason,
        transition.due_at - transition.at,
    )  # fmt: skip


@pytest.mark.parametrize(
    "after", [timedelta(seconds=-1), -1, timedelta(days=366), 1e9, float("nan"), "1 h", None, True]
)
def test_invalid_snooze_duration_raises_an_error(after):
    """An invalid duration raises an error in the task, at the line that passes it."""
    with pytest.raises(
        ValueError, match="The delay of Snooze must be a timedelta or seconds, 0 to 365 days, got "
    ):
        Snooze(after)


# ---- failures --------------------------------------------------------------------------------------------


def test_retry_policy_of_a_call_overrides_the_task_policy(make_app):
    """The retry policy of a call is stored with the job."""
    fire, worker = make_app()
    task = fire.task(name="task", retry=Retry.never())(raising(ValueError("boom")))
    task.using(retry=Retry.fixed(HOUR, attempts=7, jitter=0)).enqueue()

    (ended,) = worker.run()

    assert "retry 1 of 7: ValueError: boom" == ended.transition.reason


def test_job_with_an_unknown_retry_policy_waits_for_a_newer_server(make_app, caplog):
    """The job does not run, because the server could not determine its retry.

    The attempt does not count, and the log contains the reason.
    """
    fire, worker = make_app()
    fire.task(name="task")(raising(ValueError("boom"))).using(retry=Retry()).enqueue()
    (job,) = worker.claim()

    transition = worker.attempt(attrs.evolve(job, retry='{"kind":"adaptive"}')).transition

    reason = "its retry policy cannot be read on server host:a; waiting for a server of a newer release"
    assert (State.SCHEDULED, reason, True) == (transition.to, transition.reason, transition.gives_back)
    assert f"Job {job.id} is put off: {reason}." in caplog.text


def test_job_with_a_retry_policy_that_is_not_json_fails(make_app):
    """No release can read this policy. The error contains the stored string."""
    fire, worker = make_app()
    fire.task(name="task")(raising(ValueError("boom"))).using(retry=Retry()).enqueue()
    (job,) = worker.claim()

    transition = worker.attempt(attrs.evolve(job, retry="ten times")).transition

    assert (State.FAILED, None) == (transition.to, transition.started_at)
    assert "its retry policy cannot be read: 'ten times' is not JSON" == transition.reason


class Policy:
    """A retry policy that returns or raises the given answer and records its calls."""

    def __init__(self, answer):
        self.answer = answer
        self.calls = []

    def decide(self, job, error):
        self.calls.append((job.retries, str(error)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("decision", "to", "reason"),
    [
        (RetryDecision.retry(HOUR), State.SCHEDULED, "retry 1: ValueError: boom"),
        (RetryDecision.retry(HOUR, reason="soon"), State.SCHEDULED, "soon"),
        (RetryDecision.retry(), State.ENQUEUED, "retry 1: ValueError: boom"),
        (RetryDecision.snooze(HOUR), State.SCHEDULED, "ValueError: boom"),
        (RetryDecision.fail(), State.FAILED, "ValueError: boom"),
        (RetryDecision.fail("enough"), State.FAILED, "enough"),
        (RetryDecision.delete(), State.DELETED, "ValueError: boom"),
        (RetryDecision.delete("not wanted"), State.DELETED, "not wanted"),
    ],
)
def test_custom_retry_policy_decides(end_of, decision, to, reason):
    """Any object with a `decide` method is a retry policy. The method gets the job and the exception."""
    policy = Policy(decision)

    transition = end_of(raising(ValueError("boom")), retry=policy)

    assert (to, reason, [(0, "boom")]) == (transition.to, transition.reason, policy.calls)


@pytest.mark.parametrize("decision", [RetryDecision.retry, RetryDecision.snooze])
def test_retry_delay_keeps_its_microseconds(end_of, decision):
    """If the delay were converted to seconds as a float, some waits would become shorter."""
    after = timedelta(microseconds=249)

    transition = end_of(raising(ValueError("boom")), retry=Policy(decision(after=after)))

    assert 249 == transition.due_at - transition.at


@pytest.mark.parametrize("answer", [None, "retry", 7])
def test_default_policy_decides_if_the_policy_returns_none(end_of, answer):
    """The default policy allows ten retries over three days."""
    transition = end_of(raising(ValueError("boom")), retry=Policy(answer))

    assert (State.SCHEDULED, 1) == (transition.to, transition.retries)


def test_exception_in_a_retry_policy_fails_the_job(end_of, caplog):
    """The failed job has a reason, and the log contains the policy's exception."""
    transition = end_of(raising(ValueError("boom")), retry=Policy(RuntimeError("a bug")))

    assert (State.FAILED, "the retry policy raised an exception", "boom") == (
        transition.to, transition.reason, transition.error.message
    )  # fmt: skip
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), JobCancelled("by itself")]
)
def test_any_exception_of_a_task_fails_its_job(end_of, error):
    """The worker continues after any exception of a task."""
    transition = end_of(raising(error))

    assert (State.SCHEDULED, 1) == (transition.to, transition.retries)


# ---- cancellation ----------------------------------------------------------------------------------------


@pytest.fixture
def cancelled_end(make_app):
    """A function that cancels a run while it is running, and returns how it ended."""

    def end(kind, then, **options):
        fire, worker = make_app()
        runs = []

        def task():
            runs[0].cancel(kind, f"cancelled: {kind}")
            runs[0].cancel(CancelKind.LOST, "cancelled again")
            return then(current_job())

        fire.task(name="task", **options)(task).enqueue()
        (job,) = worker.claim()
        runs.append(worker.runner.prepare(job, worker.holder))
        return worker.runner.run(runs[0]).transition

    return end


def obey(job):
    job.raise_if_cancelled()


def test_cancellation_is_recognized_by_its_class(cancelled_end):
    """A subclass of `asyncio.CancelledError` counts as a cancellation.

    The task's own exception class of the same name does not.
    """

    class CancelledError(Exception):
        pass

    class OfALibrary(asyncio.CancelledError):
        pass

    own = cancelled_end(
        CancelKind.STOP, lambda job: raising(CancelledError("the order"))(), retry=Retry.never()
    )
    inherited = cancelled_end(CancelKind.STOP, lambda job: raising(OfALibrary())(), retry=Retry.never())

    assert (State.FAILED, State.ENQUEUED) == (own.to, inherited.to)


def test_failure_by_timeout_has_the_traceback_of_the_task(cancelled_end):
    """The traceback shows where the task was, or what it raised."""
    obeyed = cancelled_end(CancelKind.TIMEOUT, obey, timeout=0.5)
    raised = cancelled_end(CancelKind.TIMEOUT, lambda job: raising(ValueError("boom"))(), timeout=0.5)

    assert "in obey" in obeyed.error.traceback
    assert "ValueError: boom" in raised.error.traceback


def test_run_is_cancelled_only_once():
    """If the executor can force the run to end, it does so only once."""
    stops = []
    run = Run(None, None, JobContext.fake(), None, (), {}, None)
    run.stop = lambda: stops.append("stopped")

    run.cancel(CancelKind.STOP, "stop")
    run.cancel(CancelKind.TIMEOUT, "timeout")

    assert (["stopped"], CancelKind.STOP, "stop") == (stops, run.cancelled, run.context.cancel_reason)


# ---- hooks -----------------------------------------------------------------------------------------------


def deciding(answer, calls=None):
    """Return a plugin that decides about failures and records the arguments of its calls."""

    def decide(job, task, error):
        if calls is not None:
            calls.append((job.args, job.kwargs, task.name, str(error)))
        return answer

    return plugin(retry_decision=decide)


def test_retry_decision_hook_gets_the_decoded_arguments(make_app):
    """The hook gets the positional and the named arguments, the task and the exception."""
    calls = []
    fire, worker = make_app(deciding(None, calls))

    @fire.task(name="task", retry=Retry.never())
    def task(job: JobContext, day: str, *, copies: int):
        raise ValueError("boom")

    task.enqueue("monday", copies=2)
    (ended,) = worker.run()

    assert [(("monday",), {"copies": 2}, "task", "boom")] == calls
    assert State.FAILED is ended.transition.to


@pytest.mark.parametrize(
    "decide",
    [
        RetryDecision.fail,
        RetryDecision.delete,
        lambda text: RetryDecision.retry(reason=text),
        lambda text: RetryDecision.snooze(1, reason=text),
        lambda text: Snooze(1, text),
    ],
    ids=["fail", "delete", "retry", "snooze", "Snooze"],
)
def test_unsupported_characters_in_a_reason_are_escaped(decide):
    """NULs and lone surrogates, which error messages can contain, are escaped.

    Otherwise, the outcome of the job could not be stored.
    """
    assert "a\\0b\\ud800ş" == decide("a\0b\ud800ş").reason


def proposing(found):
    """Return a plugin that records the decision proposed by the policies and returns None."""

    class Proposing:
        @hookimpl
        def retry_decision(self, proposed):
            found.append(proposed)

    return Proposing


@pytest.mark.parametrize(
    ("of_task", "of_call", "expected"),
    [
        (Retry.fixed(60, jitter=0), None, (DecisionKind.RETRY, timedelta(minutes=1))),
        (Retry.fixed(60), Retry.never(), (DecisionKind.FAIL, None)),
        (Retry.never(), Retry.fixed(30, jitter=0), (DecisionKind.RETRY, timedelta(seconds=30))),
        (Retry.never(on_exceeded="delete"), None, (DecisionKind.DELETE, None)),
    ],
)
def test_retry_decision_hook_gets_the_decision_of_the_policies(make_app, of_task, of_call, expected):
    """`proposed` is the decision of the call's or the task's policy.

    It applies if no plugin returns another one.
    """
    found = []
    fire, worker = make_app(proposing(found))
    task = fire.task(name="task", retry=of_task)(raising(ValueError("boom")))
    (task.using(retry=of_call) if of_call else task).enqueue()

    (ended,) = worker.run()

    (proposed,) = found
    assert expected == (proposed.kind, proposed.after)
    assert proposed.reason == ended.transition.reason


def test_policy_is_called_once_per_failure(make_app):
    """The proposed wait contains a random part, and the job waits for exactly this time."""
    found = []
    fire, worker = make_app(proposing(found))
    fire.task(name="task", retry=Retry.fixed(3_600, jitter=1))(raising(ValueError("boom"))).enqueue()

    (ended,) = worker.run()

    (proposed,) = found
    assert proposed.after // timedelta(microseconds=1) == ended.transition.due_at - ended.transition.at


def test_plugin_can_override_a_policy_that_raises(make_app):
    """A plugin can prevent a job from failing because of a broken policy."""

    class Broken:
        def decide(self, job, error, /):
            raise LookupError

    found = []
    fire, worker = make_app(proposing(found))
    fire.task(name="task", retry=Broken())(raising(ValueError("boom"))).enqueue()

    worker.run()

    assert [RetryDecision.fail("the retry policy raised an exception")] == found


def test_invalid_retry_decision_of_a_plugin_is_ignored(end_of, caplog):
    """The next plugin makes the decision, or else the policy.

    The log contains the mistake and the name of the plugin.
    """
    wrong, good = deciding("retry, please"), deciding(RetryDecision.delete("gone"))

    alone = end_of(raising(ValueError("boom")), retry=Retry.never(), plugins=[wrong])
    followed = end_of(raising(ValueError("boom")), retry=Retry.never(), plugins=[good, wrong])

    assert (State.FAILED, State.DELETED) == (alone.to, followed.to)
    assert "returned an unsuitable value of type str from retry_decision" in caplog.text
    assert "#1' of app returned" in caplog.text
    assert "In the plugin, return a RetryDecision, or None. Fix it" in caplog.text


def wrapping(name, log, *, swallows=False, entering=None, leaving=None):
    """Return a plugin that wraps runs and records when its contexts are entered and exited."""

    @contextlib.contextmanager
    def context(job):
        log.append(f"{name} enters {job.attempt}")
        if entering is not None:
            raise entering
        try:
            yield
        except BaseException as error:
            log.append(f"{name} sees {error!r}")
            if not swallows:
                raise
        log.append(f"{name} leaves")
        if leaving is not None:
            raise leaving

    return plugin(job_context=lambda job: context(job))  # noqa: PLW0108 - pluggy matches arguments by name


def coroutine_of(function):
    """Return the same function as a coroutine function."""

    async def task():
        return function()

    return task


@pytest.fixture(params=[False, True], ids=["def", "async def"])
def wrapped_end(request, make_app):
    """A function that runs a function or a coroutine wrapped by plugins, and returns how the run ended."""

    def end(function, *plugins):
        fire, worker = make_app(*plugins)
        fire.task(name="task", retry=Retry.never())(
            coroutine_of(function) if request.param else function
        ).enqueue()
        (job,) = worker.claim()
        run = worker.runner.prepare(job, worker.holder)
        ended = asyncio.run(worker.runner.arun(run)) if request.param else worker.runner.run(run)
        return ended.transition

    return end


def test_contexts_get_the_exception_of_the_task(wrapped_end):
    """The innermost context gets the exception first. After the outermost one, the job fails with it."""
    log = []

    transition = wrapped_end(raising(ValueError("boom")), wrapping("inner", log), wrapping("outer", log))

    assert ["inner sees ValueError('boom')", "outer sees ValueError('boom')"] == log[2:]
    assert ("ValueError", "boom") == (transition.error.type, transition.error.message)


def test_exception_in_a_context_fails_the_attempt(wrapped_end):
    """If entering a context fails, the outer contexts are exited.

    If exiting fails, the result is discarded.
    """
    log = []

    entering = wrapped_end(
        lambda: log.append("runs"),
        wrapping("inner", log, entering=RuntimeError("no")),
        wrapping("outer", log),
    )
    leaving = wrapped_end(lambda: 42, wrapping("alone", [], leaving=RuntimeError("late")))

    assert ["outer enters 1", "inner enters 1", "outer sees RuntimeError('no')"] == log
    assert [(State.FAILED, "no"), (State.FAILED, "late")] == [
        (one.to, one.error.message) for one in (entering, leaving)
    ]


def test_job_succeeds_if_a_context_suppresses_the_exception(wrapped_end):
    """A context can suppress the exception as in any `with` statement; the result is then None."""
    transition = wrapped_end(raising(ValueError("boom")), wrapping("outer", [], swallows=True))

    assert (State.SUCCEEDED, "null") == (transition.to, transition.result)


class Noting:
    """A sync and async context manager that records how and where it is entered and exited."""

    def __init__(self, log):
        self.log = log

    def __enter__(self):
        self.log.append(("enter", threading.get_ident()))

    def __exit__(self, kind, error, traceback):
        self.log.append(("exit", threading.get_ident(), kind))

    async def __aenter__(self):
        self.log.append(("aenter", asyncio.current_task()))

    async def __aexit__(self, kind, error, traceback):
        self.log.append(("aexit", asyncio.current_task(), kind))


class AsyncOnly:
    """An async context manager that cannot be used in a function."""

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, error, traceback):
        return None


@pytest.mark.parametrize(("error", "kind"), [(None, None), (ValueError("boom"), ValueError)])
def test_contexts_of_a_coroutine_are_awaited_if_possible(make_app, error, kind):
    """If a manager supports both kinds, the coroutine's asyncio task enters and exits it with `await`."""
    log = []
    fire, worker = make_app(plugin(job_context=lambda: Noting(log)))

    async def work():
        log.append(("run", asyncio.current_task()))
        if error is not None:
            raise error

    fire.task(name="task", retry=Retry.never())(work).enqueue()
    (job,) = worker.claim()

    asyncio.run(worker.runner.arun(worker.runner.prepare(job, worker.holder)))

    (_, here) = log[0]
    assert [("aenter", here), ("run", here), ("aexit", here, kind)] == log


def test_contexts_of_a_cancelled_coroutine_are_exited(make_app):
    """The contexts can await while the cancellation propagates."""
    log = []
    fire, worker = make_app(plugin(job_context=lambda: Noting(log)))
    started = []

    async def wait_for_ever():
        started[0].set()
        await asyncio.Event().wait()

    fire.task(name="task")(wait_for_ever).enqueue()
    (job,) = worker.claim()
    run = worker.runner.prepare(job, worker.holder)

    async def cancel_soon():
        started.append(asyncio.Event())
        task = asyncio.ensure_future(worker.runner.arun(run))
        run.stop = task.cancel
        await started[0].wait()
        run.cancel(CancelKind.STOP, "server stopping")
        return await task

    ended = asyncio.run(cancel_soon())

    assert State.ENQUEUED is ended.transition.to
    assert [("aenter", log[0][1]), ("aexit", log[0][1], asyncio.CancelledError)] == log


def test_async_context_manager_fails_a_function(end_of):
    """The error states what to return instead."""
    transition = end_of(
        lambda: 42, retry=Retry.never(), plugins=[plugin(job_context=lambda job: AsyncOnly())]
    )

    assert State.FAILED is transition.to
    assert (
        "'Plugin#0' of app returned a value of type AsyncOnly from job_context; only a coroutine can enter "
        "it, but 'task' is a `def` task. If task.is_async is false, return a context manager with __enter__ "
        "and __exit__" in transition.error.message
    )


def test_value_that_is_not_a_context_manager_fails_the_job(end_of):
    """The error contains the type of the value and what to return."""
    transition = end_of(lambda: 42, retry=Retry.never(), plugins=[plugin(job_context=lambda: 7)])

    assert (
        "'Plugin#0' of app returned a value of type int from job_context; return a context manager, or None. "
        "Fix it" in transition.error.message
    )


def test_outcome_that_replaces_a_retry_has_no_due_time(end_of):
    """A job that does not wait for anything is stored without the due time of the replaced retry."""
    electing = plugin(elect_transition=lambda job, proposed: attrs.evolve(proposed, to=State.FAILED))

    transition = end_of(raising(ValueError("boom")), plugins=[electing])

    assert (State.FAILED, None) == (transition.to, transition.due_at)


@pytest.mark.parametrize(
    "elect",
    [
        lambda job, proposed: "deleted",
        lambda job, proposed: attrs.evolve(proposed, job_id="another"),
        lambda job, proposed: attrs.evolve(proposed, session="another"),
        lambda job, proposed: attrs.evolve(proposed, fence=99),
        lambda job, proposed: attrs.evolve(proposed, from_states=frozenset(State)),
        lambda job, proposed: attrs.evolve(proposed, to=State.AWAITING),
        lambda job, proposed: attrs.evolve(proposed, to=State.SCHEDULED),
        lambda job, proposed: lifecycle.delete(job.id, at=1, reason="x", expires_at=None),
    ],
)
def test_invalid_elected_transition_is_ignored(end_of, elect, caplog):
    """If a transition could not be stored or would end another run, it is logged and ignored.

    The proposed transition is used instead.
    """
    transition = end_of(lambda: 42, plugins=[plugin(elect_transition=elect)])

    assert (State.SUCCEEDED, "42") == (transition.to, transition.result)
    assert "Plugin 'Plugin#0' of app returned an unsuitable value of type " in caplog.text
    assert "from elect_transition; continuing as if it had returned None" in caplog.text


def test_plugin_can_replace_every_kind_of_outcome(make_app):
    """The hook is also called for a hand-back, a crash and a snooze."""
    seen = []
    fire, worker = make_app(plugin(elect_transition=lambda job, proposed: seen.append(proposed.to)))
    fire.task(name="task")(lambda: Snooze(HOUR)).enqueue()
    (job,) = worker.claim()
    run = worker.runner.prepare(job, worker.holder)

    worker.runner.run(run)
    worker.runner.hand_back(run, "x")
    worker.runner.crashed(run, "x")

    assert [State.SCHEDULED, State.ENQUEUED, State.ENQUEUED] == seen


# ---- log lines -------------------------------------------------------------------------------------------


def lines_of(caplog):
    """Return the log records about failed jobs."""
    return [record for record in caplog.records if record.name == "firelock.jobs"]


@pytest.fixture
def logged(make_app, caplog):
    """A function that runs a function once as a task, with these arguments, and returns the log records."""
    caplog.set_level("INFO")

    def log(function, *args, plugins=(), settings=None, crashes=0, **options):
        fire, worker = make_app(*plugins, settings=settings)
        fire.task(name="task", queue="mail", **options)(function).enqueue(*args)
        (job,) = worker.claim()
        job.crashes = crashes
        log.ended = worker.attempt(job)
        return lines_of(caplog)

    return log


def test_retry_is_logged_as_one_warning_line(logged):
    """The line contains the job, the attempt, the time of the retry and the error.

    A message with several lines is joined into one line.
    """
    (line,) = logged(raising(ValueError("first\nsecond")), retry=Retry.fixed(30, attempts=3, jitter=0))

    assert "WARNING" == line.levelname
    assert (
        f"Job {logged.ended.job.id} of task 'task' failed in attempt 1, retry 1 in 30 s: "
        "ValueError: first second"
    ) == line.getMessage()
    assert line.exc_info is None


def test_final_failure_is_logged_as_an_error_with_its_traceback(logged):
    """The log shows the line that raised the error, so it can be found without the dashboard."""
    error = ValueError("boom")

    (line,) = logged(raising(error), retry=Retry.never())

    assert "ERROR" == line.levelname
    assert (
        f"Job {logged.ended.job.id} of task 'task' has failed in attempt 1: ValueError: boom"
        == line.getMessage()
    )
    assert (ValueError, error) == line.exc_info[:2]
    assert "fail" == line.exc_info[2].tb_next.tb_frame.f_code.co_name


def test_snoozed_failure_is_logged_as_a_warning(logged):
    """The line states that no retry is used."""
    decision = RetryDecision.snooze(timedelta(seconds=20))

    (line,) = logged(raising(ValueError("boom")), plugins=[deciding(decision)])

    assert ("WARNING", None) == (line.levelname, line.exc_info)
    assert "failed in attempt 1, runs again in 20 s without a retry: ValueError: boom" in line.getMessage()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"plugins": [deciding(RetryDecision.retry(30, reason="the network\nis down"))]},
         "retry 1 in 30 s: ValueError: boom; plugin 'Plugin#0' decided: the network is down"),
        ({"plugins": [deciding(RetryDecision.fail("no use"))]},
         "has failed in attempt 1: ValueError: boom; plugin 'Plugin#0' decided: no use"),
        ({"plugins": [deciding(RetryDecision.fail())]}, "has failed in attempt 1: ValueError: boom"),
        ({"retry": Policy(RetryDecision.delete("not wanted"))},
         "is deleted: ValueError: boom; the retry policy decided: not wanted"),
    ],
)  # fmt: skip
def test_log_line_of_a_failure_contains_the_reason(logged, options, expected):
    """The line contains the reason given by the task's own policy, or by a plugin together with its name.

    The history contains the same reason.
    """
    (line,) = logged(raising(ValueError("boom")), **options)

    assert line.getMessage().endswith(expected)


def test_reason_of_a_replaced_decision_is_not_logged(logged):
    """If a plugin elects another transition with its own reason, only this reason is logged."""

    class Electing:
        @hookimpl
        def elect_transition(self, job, proposed):
            return attrs.evolve(proposed, reason="elected")

    (line,) = logged(
        raising(ValueError("boom")), plugins=[deciding(RetryDecision.fail("no use")), Electing()]
    )

    assert line.getMessage().endswith("has failed in attempt 1: ValueError: boom")


def test_failure_log_record_has_separate_fields(logged):
    """Job, task, queue, attempt, retries, error type, fingerprint and outcome are separate fields."""
    (line,) = logged(raising(ValueError("boom")), retry=Retry.never())

    assert {
        "event": "job_failed",
        "job_id": logged.ended.job.id,
        "task": "task",
        "queue": "mail",
        "attempt": 1,
        "retries": 0,
        "error_type": "ValueError",
        "fingerprint": logged.ended.transition.error.fingerprint,
        "outcome": "failed",
    } == {name: getattr(line, name) for name in line.__dict__.keys() & {*_FIELDS}}


_FIELDS = (
    "event", "job_id", "task", "queue", "attempt", "retries", "error_type", "fingerprint", "outcome"
)  # fmt: skip


def test_failure_log_does_not_contain_arguments(logged, caplog, capsys):
    """No argument of the job is in the line, its fields or the traceback."""

    def fail(word: str):
        raise ValueError(len(word))

    logged(fail, "topsecret", retry=Retry.never(), tags=["word:{word}"])

    assert 1 == len(lines_of(caplog))
    assert "topsecret" not in caplog.text + repr([record.__dict__ for record in caplog.records])


def test_unreadable_arguments_are_not_logged(make_app, caplog):
    """The serializer's message may contain arguments, so the line only names the type of the error."""
    fire, worker = make_app()

    @fire.task(name="task")
    def task(day: str = ""): ...

    task.enqueue()
    (job,) = worker.claim()
    ended = worker.runner.prepare(attrs.evolve(job, arguments='{"topsecret":1}'), worker.holder)

    (line,) = lines_of(caplog)

    assert State.FAILED is ended.transition.to
    assert "topsecret" in ended.transition.reason
    assert ("ERROR", None) == (line.levelname, line.exc_info)
    assert (
        f"Job {job.id} of task 'task' has failed in attempt 1: its arguments cannot be read "
        "(firelock.errors.SignatureMismatch); see its history for the reason" == line.getMessage()
    )
    assert "topsecret" not in caplog.text


@pytest.mark.parametrize(
    ("crashes", "level", "words"),
    [
        (0, "WARNING", "crashed in attempt 1, runs again immediately: its process died: SIGSEGV"),
        (2, "ERROR", "has failed in attempt 1: its process died: SIGSEGV"),
    ],
)
def test_log_level_of_a_crash_depends_on_the_next_state(make_app, caplog, crashes, level, words):
    """A crash is logged as a warning if the job runs again, and as an error if the job fails."""
    fire, worker = make_app()
    fire.task(name="task")(lambda: None).enqueue()
    (job,) = worker.claim()
    job.crashes = crashes
    run = worker.runner.prepare(job, worker.holder)
    worker.runner.start(run)

    worker.runner.crashed(run, "its process died: SIGSEGV")

    (line,) = lines_of(caplog)
    assert level == line.levelname
    assert words in line.getMessage()


@pytest.fixture
def claim_after(make_app):
    """A function that returns a worker and its claim on a job that was lost this many times."""

    def claim(losses, *, reason=Moved.SESSION_LOST, is_started=True, **options):
        fire, worker = make_app()
        fire.task(name="task", **options)(lambda: None).enqueue()
        for number in range(losses):
            lost = Worker(fire, f"lost:{number}")
            (job,) = lost.claim()
            if is_started:
                fire.storage.reconcile(lost.holder.session, [HeldClaim(job.id, job.fence, 1_000)])
            fire.storage.end_session(lost.holder.session, None, reason=reason)
        (job,) = worker.claim()
        return worker, job

    return claim


ALONE = Moved.WORKER_DIED_ALONE.format(how="SIGKILL")
DIED = Moved.WORKER_DIED.format(how="SIGKILL")


@pytest.mark.parametrize(
    ("losses", "options", "words"),
    [
        (10, {}, "was lost while it ran; losses: 10, max_host_losses: 10"),
        (1, {"max_host_losses": 1}, "losses: 1, max_host_losses: 1"),
        (10, {"reason": DIED, "is_started": False}, "losses: 10, max_host_losses: 10"),
        (3, {"reason": ALONE, "is_started": False}, f"3 crashes, the last one alone: {ALONE}"),
    ],
    ids=["lost", "bound", "known", "alone"],
)
def test_job_that_has_crashed_too_often_fails_without_a_start(claim_after, caplog, losses, options, words):
    """The crashes are checked when the job is claimed again, whatever its retry policy is."""
    worker, job = claim_after(losses, **options)

    ended = worker.attempt(job)

    assert (State.FAILED, losses) == (ended.transition.to, job.crashes)
    assert words in ended.transition.reason
    assert ended.transition.started_at is None
    assert words in lines_of(caplog)[0].getMessage()


@pytest.mark.parametrize(
    ("losses", "options"),
    [
        (9, {}),
        (12, {"is_started": False}),
        (12, {"max_host_losses": 13}),
        (9, {"reason": DIED}),
        (2, {"reason": ALONE}),
        (3, {"reason": "ended by an operator"}),
    ],
    ids=["below", "only-claimed", "bound", "not-alone", "two", "other"],
)
def test_job_below_the_crash_limit_starts(claim_after, losses, options):
    """Servers that are lost after claiming a job but before starting it never make the job fail."""
    worker, job = claim_after(losses, **options)

    assert State.SUCCEEDED is worker.attempt(job).transition.to


def test_job_is_handed_back_if_its_crashes_cannot_be_read():
    """The job neither starts nor fails. Its crashes are checked after the next claim."""
    with contextlib.closing(Firelock(FailingStorage())) as fire:
        fire.task(name="task")(lambda: None).enqueue()
        worker = Worker(fire)
        (job,) = worker.claim()
        fire.storage.fail("history", StorageUnavailable("gone"))

        ended = worker.attempt(attrs.evolve(job, crashes=3))

    assert (State.ENQUEUED, True) == (ended.transition.to, ended.transition.gives_back)


def test_failure_after_an_ignored_timeout_is_reported_when_stored(make_app, caplog):
    """The job may have been deleted by then.

    In that case, its outcome is refused, so the job has not failed.
    """
    fire, worker = make_app()
    fire.task(name="task", retry=Retry.never(), timeout=5)(lambda: None).enqueue()
    (job,) = worker.claim()
    run = worker.runner.prepare(job, worker.holder)
    worker.runner.start(run)
    run.cancel(CancelKind.TIMEOUT, "timed out after 5 s")
    run.is_stuck = True

    ended = worker.runner.raised(run, JobCancelled("timed out after 5 s"))
    before = lines_of(caplog)
    ended.log_failure()

    assert (State.FAILED, []) == (ended.transition.to, before)
    assert "has failed in attempt 1" in lines_of(caplog)[0].getMessage()


def test_log_lines_about_failed_jobs_can_be_disabled(logged):
    """`log_failures=False` is for applications that report failures with a plugin."""
    lines = logged(raising(ValueError("boom")), retry=Retry.never(), settings=Settings(log_failures=False))

    assert [] == lines
    assert State.FAILED is logged.ended.transition.to


def test_elected_outcome_is_logged(logged):
    """If a plugin replaces a failure with another outcome, that outcome is logged."""

    def elect(job, proposed):
        return attrs.evolve(proposed, to=State.DELETED)

    (line,) = logged(
        raising(ValueError("boom")), retry=Retry.never(), plugins=[plugin(elect_transition=elect)]
    )

    assert "failed in attempt 1 and is deleted: ValueError: boom" in line.getMessage()
    assert "deleted" == line.outcome
