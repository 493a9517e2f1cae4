"""The backend for Django's tasks: Django's contract and Firelock's additions."""

from __future__ import annotations

import importlib
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import django
import pytest

from firelock import (
    Every,
    Firelock,
    JobFailed,
    ResultUnavailable,
    SignatureMismatch,
    Turns,
    Unique,
)
from firelock.testing import Tester
from tests.django_process import configure_django

configure_django()

from django.test import override_settings  # noqa: E402 - Django needs its settings first, here and below
from django.utils import timezone  # noqa: E402

from firelock.integrations.django.task_api import (  # noqa: E402
    NAMESPACE,
    InvalidTask,
    InvalidTaskBackend,
    TaskResultDoesNotExist,
    TaskResultStatus,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from firelock.integrations.django.task_backend import (  # noqa: E402
    FirelockTask,
    TaskBackend,
    register_declared,
)

BACKEND = "firelock.integrations.django.TaskBackend"
PLACE = "tests.core.integrations.django.tasks_declared"
READY, RUNNING, SUCCESSFUL, FAILED = (
    TaskResultStatus.READY,
    TaskResultStatus.RUNNING,
    TaskResultStatus.SUCCESSFUL,
    TaskResultStatus.FAILED,
)


# In Django 6.0, the decorator does not accept options, so these options are in the settings.
OPTIONS_BY_PATH = {
    f"{PLACE}.{name}": options
    for name, options in {
        "flaky": {"max_attempts": 3, "backoff": f"{PLACE}.recording_backoff"},
        "aflaky": {"max_attempts": 3, "backoff": f"{PLACE}.recording_backoff"},
        "patient": {"max_attempts": 3},
        "sleepy": {"max_attempts": 3, "backoff": f"{PLACE}.recording_backoff"},
        "reasonable": {"backoff": f"{PLACE}.giving_up"},
        "badly_backed": {"max_attempts": 2, "backoff": f"{PLACE}.broken_backoff"},
        "second_time": {"max_attempts": 2, "backoff": 10},
        "wait": {"timeout": 0.1},
        "await_for_ever": {"timeout": 0.1},
        "tagged": {"tags": ["order:{order_id}"], "keep": timedelta(hours=2)},
        "bounded": {"timeout": timedelta(minutes=5)},
        "limited": {
            "limits": [Turns("order:{order_id}")],
            "unique": Unique("{order_id}"),
            "start_before": timedelta(hours=1),
        },
    }.items()
    if django.VERSION[:2] == (6, 0)
}


def backend_settings(app, **options):
    options["tasks"] = {**OPTIONS_BY_PATH, **options.get("tasks", {})}
    return {"BACKEND": BACKEND, "QUEUES": ["default", "mail"], "OPTIONS": {"app": app, **options}}


@pytest.fixture
def fire():
    """Yield an app in memory.

    With newer Django versions, this file runs alone, without the fixtures of the folders.
    """
    with Firelock("memory://") as app:
        yield app


@pytest.fixture
def options():
    """Return further `OPTIONS` of the backend, which a test class can override."""
    return {}


@pytest.fixture
def tester(fire, options):
    """Yield a Tester for Django's default backend, which is Firelock's; the test runs the jobs."""
    with (
        override_settings(TASKS={"default": backend_settings(fire, **options)}, USE_TZ=True),
        Tester(fire) as tester,
    ):
        yield tester


@pytest.fixture
def tasks(tester):
    """Yield the module of tasks, imported again so that its tasks are declared with the app of this test."""
    sys.modules.pop(PLACE, None)
    yield importlib.import_module(PLACE)
    del sys.modules[PLACE]


@pytest.fixture
def sent_signals():
    """Yield a list of received signals: name, status, number of errors and current exception."""
    received = []

    def connect(name):
        def receiver(sender, task_result, **_):
            assert TaskBackend is sender
            error = sys.exc_info()[1]
            received.append((name, task_result.status, len(task_result.errors), error and str(error)))

        return receiver

    receivers = [
        (task_enqueued, connect("enqueued")),
        (task_started, connect("started")),
        (task_finished, connect("finished")),
    ]
    for signal, receiver in receivers:
        signal.connect(receiver)
    yield received
    for signal, receiver in receivers:
        signal.disconnect(receiver)


# ---- enqueueing and results --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_task_is_enqueued_and_run_and_its_result_is_read(tester, tasks, name):
    """The status of sync and async tasks changes from READY to SUCCESSFUL."""
    task = getattr(tasks, name)

    result = task.enqueue(40)
    before = task.get_result(result.id)
    tester.drain()
    result.refresh()

    assert (READY, 0, [], None) == (before.status, before.attempts, before.worker_ids, before.started_at)
    assert (SUCCESSFUL, 42, 1, [40], {}) == (
        result.status, result.return_value, result.attempts, result.args, result.kwargs
    )  # fmt: skip
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at


def test_result_from_enqueue_equals_the_result_from_get_result(tester, tasks):
    """Both results contain the options that `using` set for this call."""
    later = datetime(2031, 5, 1, tzinfo=UTC)
    task = tasks.send.using(run_after=later, priority=-3)

    result = task.enqueue("ann@example.org")

    assert result == task.get_result(result.id)
    assert ("mail", -3, later) == (result.task.queue_name, result.task.priority, result.task.run_after)
    assert task == result.task


@pytest.mark.anyio
async def test_async_methods_enqueue_get_and_refresh_results(tester, tasks):
    result = await tasks.aadd.aenqueue(1)
    await tester.adrain()
    found = await tasks.aadd.aget_result(result.id)
    await result.arefresh()

    assert (3, found) == (found.return_value, result)


def test_queue_priority_and_run_after_of_a_call_are_stored(tester, tasks, fire):
    """The name of the task is its import path."""
    tasks.send.using(priority=9).enqueue("a")
    tasks.add.using(run_after=datetime(2030, 1, 1, 5, tzinfo=UTC)).enqueue(1)

    tester.assert_enqueued(f"{PLACE}.send", queue="mail", priority=9, args=("a",))
    tester.assert_enqueued(f"{PLACE}.add", queue="default", due_at=timedelta(hours=5))


def test_jobs_run_in_order_of_priority(tester, tasks):
    """A job with a higher priority number runs first."""
    low, high = tasks.add.using(priority=-100).enqueue(1), tasks.add.using(priority=100).enqueue(2)

    tester.drain(limit=1)

    assert (READY, SUCCESSFUL) == (tasks.add.get_result(low.id).status, tasks.add.get_result(high.id).status)


@pytest.mark.parametrize("call", [((1,), {"second": 5}), ((), {"first": 1}), ((1, 2), {}), ((1,), {})])
def test_result_keeps_positional_and_keyword_arguments(tester, tasks, call):
    """Positional arguments are restored although the arguments of a job are stored by name."""
    args, kwargs = call
    result = tasks.add.enqueue(*args, **kwargs)
    found = tasks.add.get_result(result.id)

    assert (list(args), kwargs) == (found.args, found.kwargs)
    assert result == found


@pytest.mark.parametrize("prepare", ["scheduled", "retried", "deleted", "failed"])
def test_job_states_map_to_django_statuses(tester, tasks, fire, prepare):
    """All waiting jobs are READY.

    A job that will never run is FAILED, with an error that gives the reason.
    """
    result = {
        "scheduled": lambda: tasks.add.using(run_after=datetime(2030, 2, 1, tzinfo=UTC)).enqueue(1),
        "retried": tasks.patient.enqueue,
        "deleted": lambda: tasks.add.enqueue(1),
        "failed": tasks.fail.enqueue,
    }[prepare]()
    if prepare == "deleted":
        fire.jobs.get(result.id).delete()
    tester.drain()
    result.refresh()

    status, errors, is_finished = {
        "scheduled": (READY, [], False),
        "retried": (READY, ["LookupError"], False),
        "deleted": (FAILED, ["JobDeleted"], True),
        "failed": (FAILED, ["LookupError"], True),
    }[prepare]
    assert (status, is_finished) == (result.status, result.is_finished)
    assert errors == [error.exception_class.__name__ for error in result.errors]


def test_result_of_a_failed_job_contains_the_traceback(tester, tasks):
    """As in Django's own backends, the traceback is a string that ends with the error."""
    result = tasks.fail.enqueue("missing")
    tester.drain()
    result.refresh()

    (error,) = result.errors
    assert LookupError is error.exception_class
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "  File " in error.traceback
    assert error.traceback.endswith("LookupError: missing\n")
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value


@pytest.mark.parametrize("name", ["context_of", "acontext_of"])
def test_task_with_takes_context_receives_its_context(tester, tasks, name):
    """The context contains the result of the running job. The arguments follow the context."""
    result = getattr(tasks, name).enqueue("a", "b")
    tester.drain()
    result.refresh()

    attempt, found, *_, names = result.return_value
    assert (1, result.id, ["a", "b"]) == (attempt, found, names)


def test_context_contains_errors_of_earlier_attempts(tester, tasks):
    result = tasks.second_time.enqueue()
    tester.clock.advance(seconds=10)
    result.refresh()

    assert [2, ["LookupError"], 2] == result.return_value
    assert timedelta(seconds=10) == result.last_attempted_at - result.started_at


def test_arguments_are_converted_to_json_by_django_s_rules(tester, tasks):
    """A tuple becomes a list, and annotations neither convert nor reject values."""
    result = tasks.anything.enqueue((1, 2), key=(3,))
    sent = tasks.send.enqueue("x")
    tester.drain()
    result.refresh()
    sent.refresh()

    assert ([[1, 2]], {"key": [3]}) == (result.args, result.kwargs)
    assert [[[1, 2]], {"key": [3]}] == result.return_value
    assert "x" == sent.return_value


def test_invalid_arguments_raise_when_a_task_is_enqueued(tester, tasks):
    """Values that are not JSON and calls that do not match the function raise an error. Nothing is stored."""
    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.add.enqueue(datetime.now(UTC))
    with pytest.raises(SignatureMismatch, match=r"add\(first, second=2\) has no parameter 'third'"):
        tasks.add.enqueue(1, third=3)

    tester.refute_enqueued()


def test_return_value_that_is_not_json_fails_the_job(tester, tasks, options):
    """The task has done its work, so it is not run again, even if attempts are left."""
    backend = task_backends["default"]
    result = backend.enqueue(tasks.unprintable, (), {})
    tester.drain()
    result.refresh()

    assert (FAILED, 1, TypeError) == (result.status, result.attempts, result.errors[0].exception_class)


def test_reading_a_result_that_was_not_stored_raises(tester, tasks):
    """The job has succeeded, but its result was too large to store."""
    result = tasks.long_text.enqueue(300_000)
    tester.drain()
    result.refresh()

    assert SUCCESSFUL == result.status
    with pytest.raises(ResultUnavailable, match="above the limit of 262,144"):
        _ = result.return_value


def test_snoozed_task_is_ready_again(tester, tasks):
    """The snoozed run does not count as an attempt."""
    result = tasks.snooze_once.enqueue()
    tester.drain()
    result.refresh()

    assert (READY, 0) == (result.status, result.attempts)


def test_times_are_naive_without_time_zone_support(tester, tasks):
    """With USE_TZ=False, Django uses naive times in the time zone of the settings."""
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        later = datetime(2030, 1, 1, 12)  # noqa: DTZ001 - such a project uses naive times
        result = tasks.add.using(run_after=later).enqueue(1)

        assert (later, result) == (result.task.run_after, tasks.add.get_result(result.id))
        assert datetime(2030, 1, 1, 9) == result.enqueued_at  # noqa: DTZ001
    tester.assert_enqueued(f"{PLACE}.add", due_at=timedelta(hours=3))


def test_unknown_result_raises_does_not_exist(tester, tasks, fire):
    """Reading a missing job or a job of another kind of task raises TaskResultDoesNotExist."""
    other = fire.task(name="other")(lambda: None).enqueue()

    for result_id, word in [("123", "123"), (other.id, "not a Django task")]:
        with pytest.raises(TaskResultDoesNotExist, match=word):
            tasks.add.get_result(result_id)


def test_stored_task_path_is_never_imported(tester, fire):
    """A server runs only declared tasks. A job with another path waits for a server that has its task."""
    assert PLACE not in sys.modules
    other_app = Firelock(fire.storage)
    other_app.task(name=f"{PLACE}.plain", remote=True)(lambda: None).enqueue()

    drained = tester.drain(limit=1)

    assert (1, 1) == (drained.unknown, drained.total)
    assert PLACE not in sys.modules


def test_django_task_can_recur_and_continue_another_job(tester, tasks, fire):
    """The import path of a Django task is its name in Firelock. Its result is read as usual."""
    add = fire.task_named(f"{PLACE}.add")
    add.recur("hourly", Every(timedelta(hours=1)), 1, second=2)
    first = tasks.add.enqueue(3)
    child = fire.jobs.get(first.id).then(add, 4)
    tester.clock.advance(hours=1)

    (recurred,) = fire.jobs.find(recurring="hourly").jobs
    found = [tasks.add.get_result(job.id).return_value for job in (child, recurred)]
    assert [6, 3] == found
    assert tasks.add.get_result(recurred.id).task.run_after == recurred.due_at


# ---- retries ---------------------------------------------------------------------------------------------


def test_task_is_not_retried_by_default(tester, tasks):
    """As with Django's own backends, a task without options for retries runs only once."""
    result = tasks.fail.enqueue()
    tester.drain()
    tester.clock.advance(days=30)
    result.refresh()

    assert (FAILED, 1) == (result.status, result.attempts)


@pytest.mark.parametrize("name", ["flaky", "aflaky"])
def test_max_attempts_and_backoff_control_retries(tester, tasks, name):
    """The result that is passed to the backoff already includes the failed attempt and its error."""
    result = getattr(tasks, name).enqueue("no")
    for _ in range(5):
        tester.clock.advance(seconds=60)
    result.refresh()

    assert [("no", "FAILED", 1, 1), ("no", "FAILED", 2, 2)] == tasks.seen
    assert (FAILED, 3, 3) == (result.status, result.attempts, len(result.errors))


def test_max_attempts_without_backoff_uses_firelock_s_delays(tester, tasks):
    """The delays are one minute, five minutes, fifteen minutes and so on."""
    result = tasks.patient.enqueue()
    tester.clock.advance(minutes=10)
    result.refresh()

    assert (FAILED, 3) == (result.status, result.attempts)


def test_backoff_that_returns_none_stops_retries(tester, tasks):
    result, other = tasks.reasonable.enqueue("hopeless"), tasks.reasonable.enqueue("busy")
    tester.drain()
    result.refresh()
    other.refresh()

    assert (FAILED, READY) == (result.status, other.status)


def test_backoff_that_raises_fails_the_job(tester, tasks, fire, caplog):
    """The history contains the reason, and the log contains the traceback."""
    result = tasks.badly_backed.enqueue()
    tester.drain()
    result.refresh()

    assert FAILED == result.status
    assert "its backoff raised RuntimeError" == fire.jobs.get(result.id).reason
    assert "no idea" in caplog.text


class TestOptionsOfTheBackend:
    """`OPTIONS` set options of tasks if the decorator does not accept them, as in Django 6.0.

    The most specific option wins.
    """

    @pytest.fixture
    def options(self):
        return {
            "max_attempts": 2,
            "backoff": f"{PLACE}.recording_backoff",
            "queues": {"mail": {"max_attempts": 4, "timeout": 30}},
            "tasks": {f"{PLACE}.afail": {"max_attempts": 1}},
        }

    @pytest.mark.parametrize(("name", "queue", "attempts"), [
        ("fail", "default", 2), ("fail", "mail", 4), ("afail", "default", 1), ("flaky", "mail", 3),
    ])  # fmt: skip
    def test_options_of_the_task_override_its_path_and_queue(self, tester, tasks, name, queue, attempts):
        """Options of the task come first, followed by those of its import path, its queue and all tasks."""
        result = getattr(tasks, name).using(queue_name=queue).enqueue("no")
        for _ in range(5):
            tester.clock.advance(seconds=60)
        result.refresh()

        assert attempts == result.attempts

    def test_timeout_of_the_queue_applies_to_its_jobs(self, tester, tasks, fire):
        """The timeout also applies if the queue is set only for a single call."""
        results = [
            tasks.add.enqueue(1),
            tasks.add.using(queue_name="mail").enqueue(1),
            tasks.bounded.enqueue(),
        ]

        timeouts = [fire.jobs.get(result.id).record().timeout_seconds for result in results]
        assert [None, 30.0, None] == timeouts
        assert 300.0 == fire.task_named(f"{PLACE}.bounded").info.timeout_seconds


# ---- signals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_signals_are_sent_on_enqueue_start_and_finish(tester, tasks, sent_signals, name):
    """Each signal contains the result in its state at that time."""
    getattr(tasks, name).enqueue(1)
    tester.drain()

    assert [("enqueued", READY, 0), ("started", RUNNING, 0), ("finished", SUCCESSFUL, 0)] == [
        one[:3] for one in sent_signals
    ]


@pytest.mark.parametrize("name", ["flaky", "aflaky"])
def test_task_finished_is_sent_once_per_job(tester, tasks, sent_signals, name):
    """A retried attempt does not send `task_finished`.

    The last attempt sends the signal while its exception is active.
    """
    getattr(tasks, name).enqueue("no")
    for _ in range(3):
        tester.clock.advance(seconds=60)

    assert ["enqueued", "started", "started", "started", "finished"] == [name for name, *_ in sent_signals]
    assert (FAILED, 3, "no") == sent_signals[-1][1:]


def test_error_of_a_signal_receiver_does_not_affect_the_job(tester, tasks, caplog):
    """The error of the receiver is logged."""

    def receiver(**_):
        raise RuntimeError("receiver")

    for signal in (task_enqueued, task_started, task_finished):
        signal.connect(receiver)
    try:
        result = tasks.add.enqueue(1)
        tester.drain()
    finally:
        for signal in (task_enqueued, task_started, task_finished):
            signal.disconnect(receiver)
    result.refresh()

    assert SUCCESSFUL == result.status
    assert 3 == caplog.text.count("RuntimeError: receiver")


@pytest.mark.parametrize("name", ["sleepy", "asleepy", "careless"])
def test_task_finished_is_not_sent_when_a_run_is_suspended(tester, tasks, sent_signals, caplog, name):
    """Each run sends `task_started`. Only the last run sends `task_finished`.

    This also applies if the task catches the exception that suspends the run.
    """
    result = getattr(tasks, name).enqueue()
    tester.drain()
    result.refresh()
    waiting, sent = result.status, [each[:3] for each in sent_signals]
    tester.clock.advance(days=1)
    result.refresh()

    assert (READY, [("enqueued", READY, 0), ("started", RUNNING, 0)]) == (waiting, sent)
    assert [("started", RUNNING, 0), ("finished", SUCCESSFUL, 0)] == [each[:3] for each in sent_signals[2:]]
    assert (["awake", 1], 1, []) == (result.return_value, result.attempts, result.errors)
    assert [] == tasks.seen
    assert "FAILED" not in caplog.text


class TestOnAServer:
    """Tasks on a server with threads, an event loop and a real clock."""

    @pytest.fixture
    def served(self, fire, options):
        """Yield the module of tasks while a server runs them."""
        with override_settings(TASKS={"default": backend_settings(fire, **options)}, USE_TZ=True):
            sys.modules.pop(PLACE, None)
            tasks = importlib.import_module(PLACE)
            with fire.server(workers=1, async_workers=1):
                yield tasks
            del sys.modules[PLACE]

    @pytest.mark.parametrize("name", ["wait", "await_for_ever"])
    def test_timeout_is_a_failure_and_is_reported_once(self, served, fire, sent_signals, name):
        """The server reports the timeout instead of the exception that stops the task."""
        result = getattr(served, name).enqueue()
        with pytest.raises(JobFailed):
            fire.jobs.get(result.id).result(timeout=60)
        result.refresh()

        assert (FAILED, TimeoutError) == (result.status, result.errors[0].exception_class)
        assert [("enqueued", 0), ("started", 0), ("finished", 1)] == [
            (name, errors) for name, _, errors, _ in sent_signals
        ]

    @pytest.mark.parametrize("name", ["aadd", "acontext_of"])
    def test_coroutines_run_on_the_event_loop_of_the_server(self, served, fire, sent_signals, name):
        """Coroutines send the same signals as other tasks."""
        result = getattr(served, name).enqueue("a") if name == "acontext_of" else served.aadd.enqueue(1)
        fire.jobs.get(result.id).result(timeout=60)
        result.refresh()

        assert (SUCCESSFUL, 1) == (result.status, result.attempts)
        assert ["enqueued", "started", "finished"] == [name for name, *_ in sent_signals]
        assert [None, None, None] == [error for *_, error in sent_signals]


def test_task_finished_is_sent_if_the_job_fails_before_it_runs(tester, tasks, sent_signals):
    """This includes failures in a plugin and timeouts."""
    tester.fail_next(f"{PLACE}.add", TimeoutError("planned"))
    result = tasks.add.enqueue(1)
    tester.drain()
    result.refresh()

    assert [("enqueued", READY, 0), ("finished", FAILED, 1)] == [one[:3] for one in sent_signals]
    assert (FAILED, TimeoutError) == (result.status, result.errors[0].exception_class)


# ---- invalid calls and settings --------------------------------------------------------------------------


def test_call_options_are_validated_by_django_s_rules(tester, tasks):
    """Every backend checks these rules in `validate_task`."""
    refused = {
        "whole number": {"priority": 101},
        "aware datetime": {"run_after": timezone.make_naive(timezone.now())},
        "not valid for backend": {"queue_name": "unknown"},
    }

    for word, change in refused.items():
        with pytest.raises(InvalidTask, match=word):
            tasks.add.using(**change)


def test_invalid_option_raises_when_the_task_is_declared(tester, tasks):
    """Otherwise, only a failing job would show the mistake."""
    for options, word in [
        ({"max_attempts": 0}, "max_attempts must be an integer from 1 .*, got 0"),
        ({"backoff": "nowhere"}, "backoff must be a function .*, got 'nowhere'"),
        ({"backoff": -1}, "backoff must be a function .*, got -1"),
        ({"timeout": "soon"}, "timeout must be .*, got 'soon'"),
        ({"tags": "one"}, "tags must be a list of strings, got the string 'one'"),
        ({"keep": -1}, "keep must be .*, got -1"),
        ({"tags": ["order:{order_id}"]}, "order_id"),
        ({"executor": "gpu"}, "executor must be one of .*, got 'gpu'"),
        ({"limits": Turns("order")}, "limits must be a list, got Turns"),
        ({"unique": "order"}, "unique must be a Unique, a Debounce or False, got 'order'"),
        ({"start_before": 5}, "start_before must be a timedelta, .*, got 5"),
    ]:
        with pytest.raises(InvalidTask, match=word):
            FirelockTask(
                func=tasks.plain,
                priority=0,
                backend="default",
                queue_name="default",
                run_after=None,
                **options,
            )


def test_job_has_the_tags_of_its_task(tester, tasks, fire):
    """Tags can contain parameters, so a page can show the jobs of an object."""
    result = tasks.tagged.enqueue(order_id=7)
    tester.drain()
    result.refresh()

    assert ("order:7",) == fire.jobs.get(result.id).tags
    assert {"order_id": 7} == result.return_value


def test_job_has_the_limits_and_unique_key_of_its_task(tester, tasks, fire, sent_signals):
    """If a job with the key exists, the call returns the result of that job and does not send a signal."""
    first = tasks.limited.enqueue(7)
    second = tasks.limited.enqueue(order_id=7)

    job = fire.jobs.get(first.id)
    assert (("order:7",), "7", True) == (job.limits, job.unique_key, job.start_before is not None)
    assert first.id == second.id
    assert ["enqueued"] == [name for name, *_ in sent_signals]


def test_keep_option_sets_the_retention_of_the_job(tester, tasks, fire):
    result = tasks.tagged.enqueue(1)
    tester.drain()

    record = fire.jobs.get(result.id).record()
    assert timedelta(hours=2) == timedelta(microseconds=record.expires_at - record.ended_at)


def test_function_cannot_be_two_tasks_with_different_options(tester, tasks):
    """Otherwise, it would be unclear which options apply to the jobs of the function."""
    same = FirelockTask(func=tasks.add.func, priority=3, backend="default", queue_name="mail", run_after=None)

    assert "mail" == same.queue_name
    with pytest.raises(InvalidTask, match="a function can be only one task"):
        FirelockTask(
            func=tasks.add.func, priority=0, backend="default", queue_name="default", run_after=None,
            max_attempts=9,
        )  # fmt: skip


@pytest.mark.parametrize(("settings", "word"), [
    ({"OPTIONS": {"max_attempt": 3}}, "Did you mean 'max_attempts'"),
    ({"OPTIONS": {"max_attempts": True}}, "max_attempts must be an integer .*, got True"),
    ({"OPTIONS": {"queues": {"default": {"colour": 1}}}}, r"\['default'\] has an unknown key 'colour'"),
    ({"OPTIONS": {"queues": {"mial": {"timeout": 1}}}}, "contains 'mial', which is not in QUEUES"),
    ({"OPTIONS": {"tasks": ["a"]}}, r"OPTIONS\['tasks'\] must be a mapping of .*, got \['a'\]"),
    ({"OPTIONS": ["a"]}, "must be a mapping"),
    ({"QUEUES": ["Mail"]}, "Queue name must be 1 to 64 .*, got 'Mail'"),
    ({"OPTIONS": {"app": "shop.jobs:fire"}}, "cannot be imported"),
    ({"OPTIONS": {"app": "os.path:join"}}, "must be a Firelock app"),
])  # fmt: skip
def test_invalid_settings_are_reported_by_check_and_first_use(fire, settings, word):
    """Each mistake has a separate message."""
    whole = {"BACKEND": BACKEND, **settings}
    if isinstance(whole.get("OPTIONS", {}), dict):
        whole["OPTIONS"] = {"app": fire, **whole.get("OPTIONS", {})}

    with override_settings(TASKS={"default": whole}):
        backend = task_backends["default"]
        (found,) = backend.check()
        with pytest.raises(InvalidTaskBackend, match=word):
            _ = backend.app

    assert found.is_serious()
    assert found.id in {"firelock.E101", "firelock.E102"}


def test_check_imports_backoff_functions(fire):
    """Otherwise, backoff functions are imported late, because their module can also contain the tasks."""
    settings = backend_settings(
        fire, backoff="nowhere.at_all", queues={"mail": {"backoff": f"{__name__}.BACKEND"}}
    )
    with override_settings(TASKS={"default": settings}):
        messages = [found.msg for found in task_backends["default"].check()]

    assert [True, True] == ["cannot be imported" in messages[0], "is not a function" in messages[1]]


def test_check_reports_nothing_for_valid_settings(tester, tasks):
    assert [] == task_backends["default"].check()


def test_check_warns_about_options_of_an_undeclared_task(fire):
    """Such options have no effect."""
    options = {"app": fire, "tasks": {"shop.tasks.gone": {"timeout": 1}}}
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        (warning,) = task_backends["default"].check()

    assert ("firelock.W102", True) == (warning.id, "shop.tasks.gone" in warning.msg)


def test_check_warns_if_servers_cannot_discover_the_tasks():
    """Tasks are discovered only if Firelock's Django app is installed.

    The test uses a separate process because it creates the app of a project.
    """
    program = f"""
import django
from django.conf import settings
settings.configure(FIRELOCK={{"storage": "memory://"}}, TASKS={{"default": {{"BACKEND": {BACKEND!r}}}}})
django.setup()
from firelock.integrations.django.task_api import task_backends
print([found.id for found in task_backends["default"].check()])
"""
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert "['firelock.W101']" == output.strip()


# ---- tasks of a server -----------------------------------------------------------------------------------


def test_task_of_another_backend_is_registered_too(fire):
    """The method `using(backend=…)` can send such a task to this backend, so servers must have the task."""
    settings = {
        "default": {"BACKEND": f"{NAMESPACE}.backends.immediate.ImmediateBackend"},
        "jobs": backend_settings(fire),
    }
    with override_settings(TASKS=settings), Tester(fire) as tester:
        sys.modules.pop(PLACE, None)
        module = importlib.import_module(f"{PLACE}_plainly")
        register_declared()
        result = module.double.using(backend="jobs").enqueue(4)
        tester.drain()
        result.refresh()

    assert f"{PLACE}_plainly.double" in {info.name for info in fire.tasks()}
    assert ("jobs", 8) == (result.backend, result.return_value)
    assert type(module.double) is not FirelockTask
