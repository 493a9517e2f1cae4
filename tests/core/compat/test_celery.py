"""The Celery-compatible module compared with Celery: equal calls of equal tasks have equal outcomes."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import threading
import types
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from firelock import ArgumentError, ConfigurationError, Limit, Unique, current_job
from firelock.compat import celery as ours
from firelock.testing import Tester, eventually
from tests.repository.sources import ROOT

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from Celery and kombu
    pytest.mark.filterwarnings("ignore::firelock.compat.celery.RunsTwiceWarning"),
]

DEADLINE = 30.0
IMPORTS = re.compile(r"from celery import .+\nfrom celery\.schedules import .+\nfrom celery\.utils\.log .+\n")
MOVED = "from firelock.compat.celery import Celery, chain, crontab, get_task_logger, group, shared_task\n"


class Broken(Exception):
    """An error that tasks raise."""


class Worse(Broken):
    """An error for which a task is not retried."""


# ---- the same tasks for both -----------------------------------------------------------------------------


def define(app):  # noqa: C901 - a list of tasks
    """Return the tasks of an app by name; `ran` counts the runs."""
    tasks = types.SimpleNamespace(app=app, api=None, ran={})

    def task(**options):
        def register(function):
            made = app.task(name=f"t.{function.__name__}", acks_late=True, **options)(function)
            setattr(tasks, function.__name__, made)
            return made

        return register

    def count(name):
        tasks.ran[name] = tasks.ran.get(name, 0) + 1
        return tasks.ran[name]

    @task()
    def add(x, y=1):
        return x + y

    @task()
    def fail(message):
        raise Broken(message)

    @task(bind=True, max_retries=3, default_retry_delay=0)
    def again(self, key, times):
        count(key)
        if self.request.retries < times:
            raise self.retry(exc=Broken(f"try {self.request.retries}"))
        return [self.request.retries, self.name, self.request.called_directly]

    @task(bind=True, max_retries=1, default_retry_delay=0)
    def again_without_error(self, key):
        count(key)
        self.retry(countdown=0)

    @task(bind=True, default_retry_delay=0)
    def again_for_less(self, key):
        count(key)
        raise self.retry(exc=Broken("no"), max_retries=1)

    @task(autoretry_for=(Broken,), retry_kwargs={"max_retries": 2, "countdown": 0})
    def by_itself(key, times):
        if count(key) <= times:
            raise Broken(f"run {tasks.ran[key]}")
        return tasks.ran[key]

    @task(autoretry_for=(Broken,), dont_autoretry_for=(Worse,), retry_kwargs={"countdown": 0})
    def not_worse(key):
        count(key)
        raise Worse("at once")

    @task(autoretry_for=(Broken,), retry_kwargs={"countdown": 0})
    def other(key):
        count(key)
        raise KeyError(key)

    @task(ignore_result=True)
    def forgetful():
        return 1

    @task(bind=True)
    def arguments(self, *args, **kwargs):
        return [list(self.request.args), dict(self.request.kwargs), list(args), kwargs]

    @task(bind=True)
    def delivered(self):
        return self.request.delivery_info["routing_key"]

    return tasks


@contextmanager
def celery_worker(app):
    """Run a Celery worker in a thread without changing the logging of this process."""
    from celery import signals
    from celery.contrib.testing.worker import start_worker

    def leave_logging(**_):
        """Prevent Celery from configuring logging, which it skips if this signal has a receiver."""

    signals.setup_logging.connect(leave_logging)
    try:
        with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=30):
            yield
    finally:
        signals.setup_logging.disconnect(leave_logging)


@pytest.fixture(scope="module")
def theirs():
    """Yield the tasks on Celery, with a worker in a thread."""
    import celery

    app = celery.Celery("theirs", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(broker_transport_options={"polling_interval": 0.01}, task_default_queue="default")
    app.conf.task_routes = {"t.delivered": {"queue": "default"}}
    api = types.SimpleNamespace(chain=celery.chain, group=celery.group, AsyncResult=app.AsyncResult)
    tasks = define(app)
    tasks.api = api
    with celery_worker(app):
        yield tasks
        # A worker that is being stopped waits two seconds for further messages unless one arrives.
        threading.Timer(0.1, lambda: tasks.add.delay(1)).start()


@pytest.fixture(scope="module")
def moved():
    """Yield the same tasks on Firelock, with a server in this process."""
    app = ours.Celery("moved", broker="memory://celery-table", set_as_current=False)
    tasks = define(app)
    tasks.api = types.SimpleNamespace(chain=ours.chain, group=ours.group, AsyncResult=app.AsyncResult)
    with app.fire as fire, fire.server(workers=4):
        yield tasks


def ended(result):
    """Return the state of a completed result, and its return value or error."""
    try:
        value = result.get(timeout=DEADLINE, propagate=False, interval=0.01)
    except Exception as error:  # noqa: BLE001 - both raise for revoked tasks
        value = error
    return result.state, comparable(value)


def comparable(value):
    """Return a value in a form that both libraries share: an error as its class and message."""
    return [type(value).__name__, *map(str, value.args)] if isinstance(value, BaseException) else value


def raised(call):
    """Return whether the error that a call raises is a TypeError."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the error is the outcome
        call()
    return isinstance(caught.value, TypeError)


def _raised_by(result):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the error is the outcome
        result.get(timeout=DEADLINE, interval=0.01)
    return comparable(caught.value)


def _direct_retry(t):
    with pytest.raises(Broken) as caught:
        t.again("direct", 1)
    return str(caught.value)


def _broken_chain(t):
    last = t.api.chain(t.fail.s("first"), t.add.s(1))()
    raised_by_first = _raised_by(last)  # Celery raises this error before it has marked the later tasks
    state = eventually(lambda: last.state if last.state != "PENDING" else None, within=DEADLINE)
    return raised_by_first, last.parent.state, state


def _linked(t):
    first = t.arguments.apply_async((1,), link=t.again.si("linked", 0))
    first.get(timeout=DEADLINE, interval=0.01)
    return eventually(lambda: t.ran.get("linked"), within=DEADLINE)


def _flags(result):
    ended(result)
    return [result.ready(), result.successful(), result.failed()]


CASES = {
    "a result": lambda t: ended(t.add.delay(2, 3)),
    "a default": lambda t: ended(t.add.delay(2)),
    "by name": lambda t: ended(t.add.apply_async(kwargs={"x": 2, "y": 5})),
    "a call that does not fit": lambda t: raised(t.add.delay),
    "a name that does not exist": lambda t: raised(lambda: t.add.delay(1, z=2)),
    "an error": lambda t: ended(t.fail.delay("no")),
    "an error, raised": lambda t: _raised_by(t.fail.delay("no")),
    "called directly": lambda t: t.add(2, 3),
    "called directly, bound": lambda t: t.again("direct", 0),
    "retry, then done": lambda t: (ended(t.again.delay("a", 2)), t.ran["a"]),
    "retry, none left": lambda t: (ended(t.again.delay("b", 9)), t.ran["b"]),
    "retry without an error": lambda t: (ended(t.again_without_error.delay("c"))[0], t.ran["c"]),
    "retry without an error, class": lambda t: ended(t.again_without_error.delay("c2"))[1][0],
    "retry with a limit of its own": lambda t: (ended(t.again_for_less.delay("d")), t.ran["d"]),
    "retry outside of a job": _direct_retry,
    "autoretry, then done": lambda t: ended(t.by_itself.delay("e", 2)),
    "autoretry, none left": lambda t: (ended(t.by_itself.delay("f", 9)), t.ran["f"]),
    "autoretry, not for this": lambda t: (ended(t.not_worse.delay("g")), t.ran["g"]),
    "autoretry, for others": lambda t: (ended(t.other.delay("h"))[1][0], t.ran["h"]),
    "a result that is ignored": lambda t: t.forgetful.delay().get(timeout=DEADLINE, interval=0.01),
    "arguments of the request": lambda t: ended(t.arguments.delay(1, "x", key=[2])),
    "the queue": lambda t: ended(t.delivered.delay()),
    "a chain": lambda t: ended(t.api.chain(t.add.s(1, 1), t.add.s(5), t.add.s(y=7))()),
    "a chain by bars": lambda t: ended((t.add.s(1, 1) | t.add.si(5, 5) | t.add.s(2)).apply_async()),
    "a chain that breaks": _broken_chain,
    "a group": lambda t: sorted(t.api.group(t.add.s(n, n) for n in range(3))().get(timeout=DEADLINE)),
    "a link": _linked,
    "a signature, called": lambda t: t.add.s(1)(2),
    "a signature with more arguments": lambda t: ended(t.add.s(y=3).delay(4)),
    "a signature's options": lambda t: ended(t.add.s(1, 2).set(countdown=0, queue="default").apply_async()),
    "by the task's name": lambda t: ended(t.app.send_task("t.add", (1, 2))),
    "by the result's id": lambda t: ended(t.api.AsyncResult(t.add.delay(3, 4).id)),
    "an id that nobody knows": lambda t: (t.api.AsyncResult("nobody").state, t.api.AsyncResult("x").ready()),
    "expired": lambda t: ended(t.add.apply_async((1,), expires=datetime.now(UTC) - timedelta(hours=1)))[0],
    "not expired": lambda t: ended(t.add.apply_async((1,), expires=60)),
    "an instant that has passed": lambda t: ended(
        t.add.apply_async((1,), eta=datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=5))
    ),
    "ready, successful, failed": lambda t: _flags(t.add.delay(1)) + _flags(t.fail.delay("no")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_calls_have_the_same_outcome_in_celery_and_firelock(theirs, moved, case):
    assert CASES[case](theirs) == CASES[case](moved)


# ---- the example program ---------------------------------------------------------------------------------


@pytest.fixture
def program(monkeypatch):
    """Load the program as a module in `sys.modules`, because classes of errors are looked up there."""

    def load(*, moved):
        module = compiled("celery_shop", moved=moved)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    return load


def compiled(name, *, moved):
    """Return the example's shop as a module of this name, unchanged or with changed imports."""
    source = (ROOT / "examples" / "celery_shop.py").read_text(encoding="utf-8")
    changed, count = IMPORTS.subn(MOVED, source)
    assert 1 == count
    module = types.ModuleType(name)
    exec(compile(changed if moved else source, f"{name}.py", "exec"), module.__dict__)
    return module


def story(shop):
    """Use the shop and return all output that its user sees."""
    bought = shop.buy(1, "tea", "ann@example.com", fails=2)
    first = bought.get(timeout=DEADLINE, interval=0.01)
    again = shop.reserve.delay(1, "tea").get(timeout=DEADLINE, interval=0.01)
    refused = ended(shop.buy_or_apologise(2, "gold"))
    given_up = ended(shop.charge.delay(1, 9)) if not shop.ORDERS[1]["paid"] else "paid"
    total = shop.total({"tea": 2, "cup": 1})
    report = shop.report.delay("today").get(timeout=DEADLINE, interval=0.01)
    imported = shop.import_prices.delay({"tea": 4.5, "cup": 9.0}).get(timeout=DEADLINE, interval=0.01)
    eventually(lambda: len(shop.SENT) == 2, within=DEADLINE)
    return first, again, refused, given_up, total, report, imported, shop.STOCK, sorted(shop.SENT)


def test_example_program_has_the_same_results_on_both(program):
    """The program is a shop of about 150 lines, of which only the imports are changed."""
    before = program(moved=False)
    before.app.conf.update(
        broker_transport_options={"polling_interval": 0.01}, task_queues=None, task_default_queue="mail"
    )
    with celery_worker(before.app):
        output_before = story(before)
        threading.Timer(0.1, lambda: before.price.delay("tea", 1)).start()
    after = program(moved=True)
    with after.app.fire as fire, fire.server():
        output_after = story(after)
        entries = {one.id: (one.record.task, one.schedule.describe()) for one in fire.recurring.list()}
        queues = {job.task: job.queue for job in fire.jobs.find(limit=100)}

    assert output_before == output_after
    assert "order 1 for ann@example.com" == output_after[0]
    assert {"report every night", "clean carts"} == entries.keys()
    assert ("celery_shop.report", "at 02:30 every day, Europe/Istanbul") == entries["report every night"]
    assert "default" == queues["celery_shop.reserve"]


# ---- settings, options and missing features --------------------------------------------------------------


@pytest.fixture
def app(request):
    """Yield an app with its own storage."""
    made = ours.Celery(broker=f"memory://{request.node.originalname}", set_as_current=False)
    with made.fire:
        yield made


def function(x=1): ...


CHORD = r"is a chord, which has no counterpart: use a flow.*fire\.batch\("


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda app: app.task(rate_limit="10/m")(function), "rate_limit='10/m'.*firelock.Limit"),
        (lambda app: app.task(soft_time_limit=5)(function), "soft_time_limit=5.*raise_if_cancelled"),
        (lambda app: app.task(base=object)(function), "base=.*a function that the tasks call"),
        (lambda app: app.task(on_failure=print)(function), "on_failure=.*hook jobs_settled"),
        (lambda app: app.task(serializer="pickle")(function), "serializer must be .*, got 'pickle'"),
        (lambda app: app.task(function).apply(), "firelock.testing"),
        (lambda app: app.task(function).apply_async(task_id="mine"), "task_id='mine'.*keep result.id"),
        (lambda app: app.task(function).apply_async(headers={"a": "b"}), r"headers=.*using\(meta="),
        (
            lambda app: app.task(function).apply_async(link_error=app.tasks[NAME].s()),
            r"cannot receive the error",
        ),
        (lambda app: app.task(function).retry(args=(2,)), "a retry runs the same job again"),
        (lambda app: app.task(function).retry(throw=False), "throw=False"),
        (lambda app: app.task(function).update_state(state="HALF", meta={"x": 1}), "only progress is stored"),
        (
            lambda app: app.task(function).update_state(
                state="PROGRESS", meta={"current": 1, "total": 2, "file": "a"}
            ),
            "only progress is stored",
        ),
        (
            lambda app: app.task(function).apply_async(time_limit=5),
            "time_limit=5 has no effect on a call of .*, because the task runs in a thread; pass time_limit=",
        ),
        (
            lambda app: app.task(time_limit=9, executor="auto")(function).s().set(time_limit=5).delay(),
            "time_limit=5 has no effect on a call of",
        ),
        (
            lambda app: app.task(function) and app.send_task("elsewhere", time_limit=5),
            "time_limit=5 has no effect",
        ),
        (
            lambda app: ours.chain(app.task(function).s(), ours.group([app.tasks[NAME].s()])),
            r"is a chord.*fire\.batch\(",
        ),
        (
            lambda app: ours.group([app.task(function).s()]) | app.tasks[NAME].s(),
            r"is a chord.*fire\.batch\(",
        ),
        (
            lambda app: (app.task(function).si() | app.tasks[NAME].si().set(countdown=5))(),
            "must not have a countdown",
        ),
        (lambda app: app.conf.update(task_always_eager=True), "task_always_eager=True.*docs/testing.md"),
        (lambda app: app.conf.update(task_serializer="pickle"), "are never pickled"),
        (lambda app: app.conf.update(enable_utc=False), "stored in UTC"),
        (lambda app: app.control.inspect(), r"app\.control\.inspect.*firelock top"),
        (lambda app: app.worker_main(["worker"]), "firelock server module:app.fire"),
        (lambda app: ours.crontab(day_of_week=1, day_of_month=1).to_cron("UTC"), "restricts both day fields"),
        (lambda app: ours.chord, r"chord of Celery has no counterpart: use a flow.*fire\.batch\("),
        (lambda app: app.task(function).apply_async(chord=1), r"chord=1.*fire\.batch\("),
        (lambda app: app.task(function).apply_async(group_id="g"), r"group_id='g'.*fire\.batch\("),
        (lambda app: app.task(function).replace(1), r"'replace' of .*current_job\(\)\.run\("),
        (lambda app: ours.ResultSet, r"ResultSet of Celery .*fire\.batches\.get\(id\)"),
        (lambda app: ours.task_prerun, "hook job_context"),
        (lambda app: ours.worker_ready, "hook server_started"),
        (lambda app: ours.states, "compare result.state with a string"),
        (lambda app: type("Mine", (app.Task,), {}), "'Task' of Celery .*a function that the tasks call"),
        (lambda app: app.signature("t"), r"'signature' of Celery .*app\.tasks\[name\]\.s"),
        (lambda app: app.task(function).chunks([(1,)], 2), r"'chunks' of .*task\.verbs\.enqueue_many"),
        (lambda app: app.task(function).request.hostname, "'hostname' of TaskRequest .*current_job"),
        (lambda app: app.AsyncResult("x").children, "'children' of AsyncResult .*result.job"),
        (lambda app: app.task(function).s().on_error(app.tasks[NAME].si()), r"'on_error' of .*link_error="),
        (
            lambda app: ours.chain(app.task(function).s()).link(app.tasks[NAME].si()),
            "'link' of chain .*link=",
        ),
    ],
)
def test_error_about_an_unsupported_feature_shows_the_replacement(app, call, message):
    """The error is a NotImplementedError, which programs can catch."""
    with pytest.raises(NotImplementedError, match=message):
        call(app)


def test_suggested_replacements_of_chord_and_replace_work(app):
    """A flow of native tasks replaces a chord. A call that the task waits for replaces `replace`."""

    @app.task(name="part", acks_late=True)
    def part(number):
        return number * 10

    @app.task(name="body", acks_late=True)
    def body(numbers):
        return sum(numbers)

    @app.task(name="replaced", acks_late=True)
    def replaced(number):
        return current_job().run("part", part.verbs, number)

    with Tester(app.fire) as tester:
        with app.fire.batch("NAME") as b:
            parts = [b.add(part.verbs, number) for number in (1, 2)]
            last = b.add(body.verbs, [one.output for one in parts])
        instead = replaced.delay(4)
        tester.drain()

        assert (30, 40) == (last.refresh().result(timeout=5), instead.get(timeout=5))
        assert 3 == app.fire.batches.get(b.id).counts().succeeded


def test_unsupported_names_do_not_exist(app):
    """`hasattr` returns False for unsupported names.

    An AttributeError that is raised inside a property keeps its own message.
    """
    task = app.task(function)
    other = ours.Celery(broker="memory://", set_as_current=False)
    other.on_after_configure.connect(lambda made: made.no_such_name)

    assert not hasattr(task, "chunks")
    assert getattr(task, "map", None) is None
    assert not hasattr(task, "chunk")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = other.fire


NAME = f"{__name__}.function"
AMQP = "amqp://me:secret@host//"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda app: app.task(max_retry=3)(function), "Option 'max_retry' is unknown"),
        (lambda app: app.task(function).apply_async(priority=11), "priority must be an integer .*, got 11"),
        (lambda app: app.task(function).apply_async(eta="now"), "eta must be a datetime, got 'now'"),
        (
            lambda app: app.task(function).apply_async(expires="soon"),
            "expires must be a datetime, .*, got 'soon'",
        ),
        (lambda app: app.conf.update(task_rout={}), "Setting 'task_rout' is unknown in .*. Did you mean"),
        (
            lambda app: ours.Celery(broker=AMQP, set_as_current=False).fire,
            "no storage for .* 'amqp'.*FIRELOCK_STORAGE",
        ),
        (
            lambda app: ours.Celery(broker="filesystem://", set_as_current=False).fire,
            "no storage for .* 'filesystem'.*FIRE",
        ),
        (
            lambda app: ours.Celery(broker=f"{AMQP};{AMQP}", set_as_current=False).fire,
            "a single URL.*FIRELOCK_",
        ),
        (lambda app: app.conf.update(CELERY_TASK_SERIALIZER="json"), "Did you mean task_serializer"),
        (lambda app: app.config_from_object({"CELERYBEAT_SCHEDULE": {}}), "Did you mean beat_schedule"),
    ],
)
def test_invalid_setting_or_option_is_refused(app, monkeypatch, call, message):
    """The message contains the value and the fix, but not the password of the broker."""
    monkeypatch.delenv("FIRELOCK_STORAGE", raising=False)

    with pytest.raises(ConfigurationError, match=message) as refused:
        call(app)

    assert "secret" not in str(refused.value)


@pytest.mark.filterwarnings("error::firelock.compat.celery.RunsTwiceWarning")
def test_task_that_may_run_twice_causes_a_warning(app):
    """The warning points to the line of the task. An option of the task or a setting disables the warning."""
    with pytest.warns(ours.RunsTwiceWarning, match=f"Task '{NAME}' might run twice") as caught:
        app.task(function)
    app.task(name="late", acks_late=True)(function)
    app.conf.task_acks_late = True
    app.task(name="all.late")(function)

    assert [(__file__, function.__code__.co_firstlineno)] == [(one.filename, one.lineno) for one in caught]


@pytest.mark.parametrize(
    ("broker", "priority", "stored"),
    [
        ("memory://p", 9, 9),
        ("memory://p", 0, 0),
        ("redis://localhost/0", 9, -9),
        ("redis://localhost/0", 0, 0),
    ],
)
def test_order_of_priorities_is_kept(broker, priority, stored):
    """In Celery, the highest priority is 9, except with Redis, where it is 0."""
    app = ours.Celery(broker=broker, set_as_current=False)

    assert stored == app.options_of("any", {"priority": priority})["priority"]


def test_options_have_priority_in_the_order_call_task_routes_settings():
    """Options of the call have the highest priority, followed by options of the task, routes and settings."""
    app = ours.Celery(broker="memory://routes", set_as_current=False, task_default_queue="rest")
    app.conf.task_routes = {"shop.mail.*": {"queue": "mail", "priority": 3}, "shop.bulk": "bulk"}
    app.task(name="shop.mail.own", queue="own", acks_late=True)(function)

    def queue(name, **given):
        return app.options_of(name, given)["queue"]

    assert ["mail", "bulk", "rest", "own", "now"] == [
        queue("shop.mail.send"), queue("shop.bulk"), queue("other"), queue("shop.mail.own"),
        queue("shop.mail.own", queue="now"),
    ]  # fmt: skip
    assert 3 == app.options_of("shop.mail.own", {})["priority"]


def test_job_is_stored_like_a_job_of_a_native_task(app):
    """A native task with the same name can therefore run the waiting jobs."""
    task = app.task(bind=True, name="shop.add", acks_late=True)(lambda self, x, y=2: x + y)

    job = task.apply_async((1,), {"y": 5}, countdown=60, queue="q").job.record()

    assert ("shop.add", '{"x":1,"y":5}', "q", "scheduled") == (job.task, job.arguments, job.queue, job.state)


def test_tasks_and_calls_accept_limits_and_unique_keys(app):
    task = app.task(
        name="shop.sync", acks_late=True, limits=[Limit("shop:{x}", concurrent=1)], unique=Unique("{x}")
    )(function)

    first, second = task.apply_async((3,)), task.delay(3)
    free = task.apply_async((3,), unique=False, limits=[])

    assert (("shop:3",), "3", first.id) == (first.job.limits, first.job.unique_key, second.id)
    assert ((), None) == (free.job.limits, free.job.unique_key)


def test_step_with_a_result_has_the_options_of_its_task(app):
    """All such steps are jobs of one task. A tag contains the name of the step's own task."""
    first = app.task(name="first", acks_late=True)(function)
    step = app.task(name="step", queue="slow", priority=7, time_limit=9, acks_late=True)(function)

    job = (first.si() | step.s()).apply_async().job.record()

    assert ("celery.with_result_apart", "slow", 7, 9.0, ("task:step",), "awaiting") == (
        job.task, job.queue, job.priority, job.timeout_seconds, job.tags, job.state,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "setting", "executor"),
    [
        ({}, None, "auto"),
        ({"time_limit": 9}, None, "process"),
        ({"time_limit": 9, "executor": "auto"}, None, "auto"),
        ({"executor": "process"}, None, "process"),
        ({}, 9, "process"),
    ],
)
def test_task_with_a_time_limit_runs_in_a_process(app, options, setting, executor):
    """A thread cannot be killed. A task that checks its own time limit can run in a thread."""
    app.conf.task_time_limit = setting

    task = app.task(name="limited", acks_late=True, **options)(function)

    assert executor == str(task.verbs.info.executor)


LIMITED = """
import threading
from firelock.compat.celery import Celery

app = Celery("limited", broker="sqlite:///limited.db")


@app.task(name="hang", time_limit=0.2, acks_late=True)
def hang(before=None):
    threading.Event().wait()


@app.task(name="first", acks_late=True)
def first():
    return 1


if __name__ == "__main__":
    with app.fire, app.fire.server(workers=1):
        for result in (hang.delay(), (first.si() | hang.s()).apply_async()):
            print(result.get(timeout=60, propagate=False), result.state)
"""


def test_time_limit_ends_the_task(tmp_path):
    """As in Celery, this includes a step of a chain.

    The process that runs the task finds the app through the attribute that contains the Celery object.
    """
    (tmp_path / "limited.py").write_text(LIMITED)

    ended = subprocess.run(
        [sys.executable, "limited.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )

    assert "timed out after 0.2 s FAILURE\n" * 2 == ended.stdout, ended.stderr


def test_progress_of_update_state_can_be_read(app):
    """While the task runs, state and info have the values that front ends for Celery expect.

    After the task has ended, they contain its result.
    """
    reported, goes_on = threading.Event(), threading.Event()

    @app.task(bind=True, name="import", acks_late=True)
    def import_rows(self):
        self.update_state(state="PROGRESS", meta={"current": 3, "total": 10, "status": "reading a.csv"})
        reported.set()
        assert goes_on.wait(DEADLINE)
        return 10

    with app.fire.server(workers=1):
        result = import_rows.delay()
        assert reported.wait(DEADLINE)
        eventually(lambda: result.state == "PROGRESS", within=DEADLINE)
        during = (result.info, result.result, result.ready())
        goes_on.set()
        assert 10 == result.get(timeout=DEADLINE)

    info = {"current": 3, "total": 10, "status": "reading a.csv"}
    assert (info, info, False) == during
    assert ("SUCCESS", 10) == (result.state, result.info)


def test_progress_of_a_previous_run_is_not_shown(app):
    """A run that has not stored any progress is STARTED. A job that waits for its retry is RETRY."""
    seen = []

    @app.task(bind=True, name="import", max_retries=1, default_retry_delay=0, acks_late=True)
    def import_rows(self):
        seen.append((results[0].state, results[0].info))
        if self.request.retries:
            return
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 2.5})
        raise self.retry(exc=Broken("once"), countdown=60)

    results = []
    with Tester(app.fire) as tester:
        results.append(import_rows.delay())
        tester.drain()
        waiting = results[0].state
        tester.clock.advance(minutes=2)
        tester.drain()

    assert "RETRY" == waiting
    assert [("STARTED", None)] * 2 == seen


SHARED = """
from firelock import ConfigurationError
from firelock.compat.celery import Celery, shared_task

early = shared_task(name="early", acks_late=True)(lambda: None)
try:
    early.delay()
except ConfigurationError as error:
    print(error)
app = Celery(broker="memory://")
late = shared_task(name="late", acks_late=True)(lambda: None)
with app.fire as fire:
    print(*[fire.jobs.get(one.delay().id).task for one in (early, late)])
print(early.app is late.app is app)
"""


def test_shared_tasks_belong_to_the_created_app():
    """The app can be created before or after the tasks. Without an app, a shared task raises an error.

    The test uses a separate process because the app belongs to the whole process.
    """
    ran = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=False)

    assert "" == ran.stderr
    refused, *printed = ran.stdout.splitlines()
    assert ["early late", "True"] == printed
    assert (
        "Shared task 'early' has no app; create one with Celery(…) in a module that is imported." in refused
    )
    assert 'mysite/celery.py and set FIRELOCK = {"app": "mysite.celery:app.fire"}' in refused


def test_settings_come_from_modules_and_prefixes(tmp_path, monkeypatch):
    """From a module, only the names of settings are read.

    With a prefix, all names that start with it are read.
    """
    (tmp_path / "celeryconfig_t.py").write_text(
        "import os\ntask_default_queue = 'a'\ntimezone = 'Asia/Tokyo'"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = ours.Celery(broker="memory://conf", set_as_current=False)
    app.config_from_object("celeryconfig_t")
    django = types.SimpleNamespace(CELERY_TASK_ACKS_LATE=True, CELERY_WORKER_CONCURRENCY=4, DEBUG=True)
    app.config_from_object(django, namespace="CELERY")

    assert ("a", "Asia/Tokyo", True, 4) == (
        app.conf.task_default_queue, app.conf["timezone"], app.conf.task_acks_late,
        app.conf.worker_concurrency,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="'nonsense'"):
        app.config_from_object(types.SimpleNamespace(CELERY_NONSENSE=1), namespace="CELERY")


def test_imports_include_listed_and_discovered_modules(tmp_path, monkeypatch):
    """A server imports the listed modules.

    It also imports the module `tasks` of each listed package, if it exists.
    """
    for package in ("shop_with_t", "shop_without_t"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "shop_with_t" / "tasks.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    app = ours.Celery(broker="memory://found", set_as_current=False, include=["json"])
    app.autodiscover_tasks(["shop_with_t", "shop_without_t"])

    with app.fire as fire:
        assert ("json", "shop_with_t.tasks") == fire.imports


def test_periodic_tasks_become_declared_recurring_jobs(app, caplog):
    """Periodic tasks are declared by a signal, or as soon as their task is registered.

    A server logs a warning about entries whose task was never registered.
    """
    caplog.set_level("WARNING", logger="firelock.compat.celery")
    app = ours.Celery(broker="memory://periodic", set_as_current=False)
    task = app.task(name="tick", acks_late=True)(function)
    app.conf.beat_schedule = {
        "late": {"task": "late", "schedule": 30.0, "kwargs": {"x": 2}, "options": {"queue": "slow"}},
        "never": {"task": "gone", "schedule": ours.schedule(timedelta(hours=1))},
    }

    @app.on_after_configure.connect
    def setup(sender, **_):
        sender.add_periodic_task(ours.crontab(minute="*/5"), task.s(1), name="ticks")

    with app.fire as fire:
        app.task(name="late", acks_late=True)(function)
        with fire.server():
            pass
        found = {
            one.id: (one.record.task, one.record.queue, one.schedule.describe())
            for one in fire.recurring.list()
        }

    assert {
        "ticks": ("tick", "default", "every 5 minutes, UTC"), "late": ("late", "slow", "every 30 seconds"),
    } == found  # fmt: skip
    assert (
        "Beat entry 'never' does not run, because no imported module has registered its task 'gone'."
        in caplog.text
    )


@pytest.mark.parametrize(
    ("crontab", "cron"),
    [
        (ours.crontab(), "* * * * *"),
        (ours.crontab(minute=0, hour="*/3"), "0 */3 * * *"),
        (ours.crontab(minute=[0, 30], hour={8, 17}, day_of_week="mon-fri"), "0,30 8,17 * * mon-fri"),
        (ours.crontab(0, 0, day_of_month="2-30/2", month_of_year=12), "0 0 2-30/2 12 *"),
    ],
)
def test_crontab_is_converted_to_a_cron_expression(crontab, cron):
    """A crontab and a cron expression have the same five fields."""
    assert (cron, "Asia/Tokyo") == ((made := crontab.to_cron("Asia/Tokyo")).expression, made.tz)


def test_expired_job_is_deleted(moved):
    """The history contains the reason. A recurring job expires relative to its due time."""
    late = moved.add.apply_async((1,), expires=-1)

    with pytest.raises(ours.TaskRevokedError, match="expired at"):
        late.get(timeout=DEADLINE)

    assert "REVOKED" == late.state


def test_task_that_waits_for_another_task_is_refused(moved):
    """The other task might need the worker that the waiting task occupies."""
    other = moved.add.delay(1, 1)
    task = moved.app.task(name="t.waits", acks_late=True)(lambda: other.get(timeout=1))

    outcome = ended(task.delay())

    assert ("FAILURE", "RuntimeError") == (outcome[0], outcome[1][0])


def test_revoke_deletes_the_job(moved):
    """Revoking a job again, or revoking an unknown id, does nothing."""
    result = moved.add.apply_async((1,), countdown=3_600)

    moved.app.control.revoke(result.id)
    result.revoke()
    moved.app.control.revoke("nobody")

    assert "REVOKED" == result.state
    assert {"RETRY", "PENDING"} >= {moved.again.apply_async(("later", 0), countdown=60).state}


@pytest.mark.parametrize(
    "call",
    [
        lambda task: task.apply_async((1,), link_error=task.s()),
        lambda task: task.apply_async((1,), link=task.si().set(countdown=5)),
        lambda task: task.apply_async((1,), link=task.si(object())),
        lambda task: ours.chain(task.s(1), task.s(), task.si(2).set(countdown=5))(),
        lambda task: ours.chain(task.s(1), task.s(x=object()))(),
        lambda task: ours.chain(task.si(1), task.si(2)).apply_async(link_error=task.s()),
        lambda task: ours.group(task.s(1), task.s(object()))(),
    ],
)
def test_refused_call_stores_nothing(app, call):
    """If the caller tries again, no second job is created."""
    task = app.task(function)

    with pytest.raises((NotImplementedError, ConfigurationError, TypeError, ArgumentError)):
        call(task)

    assert app.fire.jobs.counts().total == 0


def test_link_error_of_a_chain_runs_if_any_step_fails():
    """The `link_error` of a chain is attached to each step, and its `link` only to the last step."""
    app = ours.Celery(broker="memory://linked", set_as_current=False)
    ran = []

    @app.task(name="l.note", acks_late=True)
    def note(text):
        ran.append(text)

    @app.task(name="l.fail", acks_late=True)
    def fail():
        raise Broken

    with Tester(app.fire) as tester:
        chained = {"link": note.si("done"), "link_error": note.si("sorry")}
        ours.chain(note.si(1), note.si(2)).apply_async(**chained)
        tester.drain()
        assert ran == [1, 2, "done"]
        ours.chain(note.si(3), fail.si()).apply_async(**chained)
        tester.drain()
        assert ran == [1, 2, "done", 3, "sorry"]


def test_setting_ignores_results():
    """A task can override the setting."""
    app = ours.Celery(broker="memory://ignored", set_as_current=False, task_ignore_result=True)
    ignored = app.task(name="r.ignored", acks_late=True)(lambda: 1)
    kept = app.task(name="r.kept", acks_late=True, ignore_result=False)(lambda: 1)

    with Tester(app.fire) as tester:
        results = ours.group(ignored.s(), kept.s())()
        tester.drain()
        assert results.get() == [None, 1]


@pytest.mark.parametrize("canvas", ["chain", "group"])
def test_timeout_applies_to_all_steps_together(app, monkeypatch, canvas):
    """As in Celery, a step that takes long leaves less time for the later steps."""
    task = app.task(function)
    waited = getattr(ours, canvas)(task.si(1), task.si(2))()
    now, given = [0.0], []
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("firelock.compat.celery.async_result.time", clock)

    def wait(job, timeout=None):
        given.append(timeout)
        now[0] += 7

    monkeypatch.setattr("firelock.jobs.job.Job.result", wait)
    waited.get(timeout=10)

    assert given == [10, 3]


def test_group_result_is_a_sequence(app):
    """The results support indexing and `len`. The group is waiting until the last result has ended."""
    task = app.task(function)
    many = ours.group(task.si(n) for n in range(2))()

    assert len(many) == 2
    many[0].revoke()
    assert many.waiting()
    many[1].revoke()
    assert not many.waiting()


def test_broken_chain_returns_the_error_if_requested(moved):
    """The result is the error of the step that broke the chain."""
    last = ours.chain(moved.fail.s("first"), moved.add.s(1))()

    assert comparable(last.get(timeout=DEADLINE, propagate=False)) == ["Broken", "first"]


def test_broken_chain_is_detected_by_the_id_of_its_last_step(moved):
    """A web request that has only the last id does not wait for a step that never runs."""
    last = ours.chain(moved.fail.s("first"), moved.add.s(1), moved.add.s(2))()
    with pytest.raises(Broken):
        last.get(timeout=DEADLINE)

    found = moved.app.AsyncResult(last.id)

    assert found.ready()
    assert comparable(found.result) == ["Broken", "first"]
    with pytest.raises(Broken, match="first"):
        found.get(timeout=DEADLINE)
    assert moved.app.AsyncResult("nobody").traceback is None


def test_ignore_is_not_retried():
    """As in Celery, `Ignore` ends the task, regardless of `autoretry_for`."""
    app = ours.Celery(broker="memory://ignore", set_as_current=False)

    @app.task(name="i.ignored", autoretry_for=(Exception,), acks_late=True)
    def ignored():
        raise ours.Ignore

    with Tester(app.fire) as tester:
        result = ignored.delay()

        assert tester.drain().deleted == 1
        assert result.state == "REVOKED"


def test_step_with_an_unknown_task_waits_for_another_server():
    """A server with older code must not fail a chain that contains a new task."""
    app = ours.Celery(broker="memory://elsewhere", set_as_current=False)
    task = app.task(name="s.task", acks_late=True)(function)
    step = app.task(name="s.new", acks_late=True)(function)

    with Tester(app.fire) as tester:
        last = ours.chain(task.s(1), step.s())()
        del app.tasks["s.new"]
        tester.drain()
        assert last.state == "PENDING"
        assert "'s.new' is not registered on this server" in last.job.refresh().reason
        app.tasks["s.new"] = step
        tester.clock.advance(seconds=20)
        assert last.state == "SUCCESS"


def test_tester_accepts_a_celery_task(app):
    task = app.task(function)

    with Tester(app.fire) as tester:
        task.delay(5)

        tester.assert_enqueued(task, args=(5,), count=1)
        tester.fail_next(task, Broken("once"))
        assert tester.drain().failed == 1


def test_retry_backoff_doubles_up_to_its_maximum(moved):
    """`retry_backoff` is in seconds. Without jitter, the delays are exact."""
    task = moved.app.task(
        name="t.grows", acks_late=True, autoretry_for=(Broken,), retry_backoff=2, retry_backoff_max=5,
        retry_jitter=False,
    )(lambda: _raise(Broken("x")))  # fmt: skip
    result = task.delay()
    eventually(lambda: result.state == "RETRY", within=DEADLINE)
    record = result.job.refresh().record()

    assert 2.0 == pytest.approx((record.due_at - record.changed_at) / 1_000_000, abs=0.5)


def _raise(error):
    raise error
