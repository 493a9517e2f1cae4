"""Every hook: when it is called, the effect of its return value, and the handling of its exceptions."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import SimpleNamespace

import attrs
import pytest

from firelock import (
    ArgumentError,
    Command,
    ConfigurationError,
    Firelock,
    JobContext,
    JobDeleted,
    JobFailed,
    PluginError,
    Retry,
    RetryDecision,
    Serializer,
    Snooze,
    State,
    UnsupportedFeature,
    current_job,
    hookspec,
)
from firelock.plugins.loader import Plugins
from firelock.storage.memory import MemoryStorage
from firelock.testing import Tester
from tests.core.fakes import plugin, until


@pytest.fixture
def make_app():
    """Return a function that creates an app in memory with these plugins; all apps are closed at the end."""
    apps = []

    def make(*plugins, url="memory://", **options):
        apps.append(Firelock(url, plugins=list(plugins), **options))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


def run(app, job):
    """Run the job on a server until it has ended, and return it."""
    with app.server(workers=1), suppress(JobFailed, JobDeleted):
        job.result(timeout=20)
    return job.refresh()


def add_boom(app, *, retry=None):
    """Return a task that fails, by default without retries."""

    @app.task(name="boom", retry=retry or Retry.never())
    def boom(number: int) -> None:
        raise ValueError(number)

    return boom


def add_work(app):
    """Return a task that succeeds."""

    @app.task(name="work")
    def work(number: int) -> int:
        return number

    return work


# ---- registration ----------------------------------------------------------------------------------------


def test_register_storages_adds_a_url_scheme(make_app):
    """The factory gets the whole URL and returns the app's storage."""
    urls = []

    def factory(url):
        urls.append(url)
        return MemoryStorage()

    app = make_app(plugin(register_storages=lambda: {"scratch": factory}), url="scratch://here?x=1")

    assert ["scratch://here?x=1"] == urls
    assert add_work(app).enqueue(1).refresh().state is State.ENQUEUED


def test_register_serializers_adds_a_serializer_for_new_jobs(make_app):
    """A job stores the name of its serializer, so it can be read again."""

    class Backwards(Serializer):
        name = "backwards"

        def dumps(self, value):
            return json.dumps(value)[::-1]

        def loads(self, text):
            return json.loads(text[::-1])

    app = make_app(plugin(register_serializers=lambda: {"backwards": Backwards()}), serializer="backwards")
    job = add_work(app).enqueue(17)

    ended = run(app, job)

    assert ("backwards", '}71 :"rebmun"{', "71") == (
        ended.record().serializer, ended.record().arguments, ended.record().result,
    )  # fmt: skip
    assert 17 == job.result(timeout=20)


def test_register_lock_providers_replaces_locks_of_the_storage(make_app):
    """Locks use the provider for the scheme of the URL."""
    elsewhere = MemoryStorage()
    app = make_app(plugin(register_lock_providers=lambda: {"else": lambda url: elsewhere}), locks="else://")

    with app.lock("a"):
        is_free_there = elsewhere.acquire_lock("a", "somebody", 30)
        is_free_here = app.storage.acquire_lock("a", "somebody", 30)

    assert (None, 1) == (is_free_there, is_free_here)


def test_register_commands_are_collected_from_every_plugin(make_app):
    """The app has the commands of all its plugins."""

    def command(name):
        return Command(name, "Help.", lambda parser: None, lambda options: 7)

    app = make_app(
        plugin(register_commands=lambda: [command("a"), command("b")]),
        plugin(register_commands=lambda: [command("c")]),
    )

    commands = {found.name: found for found in app.plugins.commands()}
    assert {"a", "b", "c"} <= commands.keys()
    assert 7 == commands["a"].run(argparse.Namespace())


# ---- configuration ---------------------------------------------------------------------------------------


def test_configure_converter_is_called_once_per_app(make_app):
    """The hook is called only when a type needs the converter, which plain JSON arguments do not."""
    seen = []
    app = make_app(plugin(configure_converter=lambda converter: seen.append(converter)))  # noqa: PLW0108

    @app.task(name="plain")
    def plain(number: int) -> None: ...

    @app.task(name="typed")
    def typed(span: timedelta) -> None: ...

    plain.enqueue(1)
    before = len(seen)
    typed.enqueue(timedelta(1))
    typed.enqueue(timedelta(2))

    assert (0, 1) == (before, len(seen))


def test_configure_converter_that_raises_leaves_no_partial_converter(make_app):
    """Neither the current call nor the next call gets an incomplete converter."""

    def refuse():
        raise RuntimeError("no such currency")

    app = make_app(plugin(configure_converter=refuse))

    @app.task(name="typed")
    def typed(span: timedelta) -> None: ...

    for _ in range(2):
        with pytest.raises((RuntimeError, ArgumentError), match="no such currency"):
            typed.enqueue(timedelta(1))


# ---- creating jobs ---------------------------------------------------------------------------------------


def test_job_options_of_the_caller_take_precedence(make_app):
    """After the caller, the plugin that runs first takes precedence, which is the last in the list."""
    app = make_app(
        plugin(job_options=lambda: {"queue": "first", "priority": 1}),
        plugin(job_options=lambda: {"queue": "last"}),
    )
    work = add_work(app)

    plain, given = work.enqueue(1), work.using(queue="caller").enqueue(1)

    assert [("last", 1), ("caller", 1)] == [(job.queue, job.priority) for job in (plain, given)]


def test_job_options_hook_receives_the_call(make_app):
    """The hook receives the task, the arguments and the caller's options."""
    calls = []
    app = make_app(plugin(job_options=lambda task, call: calls.append((task.name, call))))

    add_work(app).using(priority=3).enqueue(1)

    [(name, call)] = calls
    assert ("work", "work", (1,), {}, {"priority": 3}) == (
        name, call.task, call.args, call.kwargs, call.options,
    )  # fmt: skip


def test_job_options_error_is_raised_to_the_caller(make_app):
    """Nothing is stored."""

    def refuse():
        raise LookupError("no tenant")

    app = make_app(plugin(job_options=refuse))

    with pytest.raises(LookupError, match="no tenant"):
        add_work(app).enqueue(1)
    assert {} == dict(app.storage.counts().by_state)


def test_job_options_with_an_unknown_option_raise(make_app):
    """The error contains the name of the hook. An option is valid if `using` accepts it."""
    app = make_app(plugin(job_options=lambda: {"colour": "red"}))

    with pytest.raises(ConfigurationError, match="'Plugin#0' of app returned 'colour' from job_options"):
        add_work(app).enqueue(1)


def test_job_transaction_is_called_once_per_call_that_stores_jobs(make_app):
    """The hook receives the value of `within`. Async methods call it only if the caller passed `within`.

    If the hook returns None, `within` is used unchanged.
    """
    calls = []

    def transaction(storage, within):
        calls.append((storage.url, within))

    app = make_app(plugin(job_transaction=transaction))
    work = add_work(app)

    work.enqueue(1).then(work, 2)
    work.enqueue_many([(number,) for number in range(501)])
    app.enqueue_many([work.call(1), work.call(2)])
    work.recur("nightly", "0 2 * * *", 4)
    app.jobs.copy(app.recurring.trigger("nightly").id)
    with app.batch("b", after=work.enqueue(1)) as batch:
        batch.add(work, 1)
    asyncio.run(await_each(app, work, batch))
    for verb in (
        lambda: work.using(within="mine").aenqueue(4),
        lambda: app.jobs.acopy(batch.members().jobs[0].id, within="mine"),
        lambda: app.recurring.atrigger("nightly", within="mine"),
    ):
        with pytest.raises(UnsupportedFeature):
            asyncio.run(verb())

    assert [*[("memory://", None)] * 8, *[("memory://", "mine")] * 3] == calls


async def await_each(app, work, batch):
    """Call each async method that creates jobs, without a transaction."""
    job = await work.aenqueue(3)
    await job.athen(work, 1)
    await work.aschedule(60, 1)
    await work.aenqueue_many([(1,), (2,)])
    await app.aenqueue_many([work.call(1), work.call(2)])
    await app.aenqueue_text("work", {"number": "1"})
    await app.jobs.acopy(job.id)
    await app.recurring.atrigger("nightly")
    async with app.batch("c") as other:
        await other.aadd(work, 1)
    await batch.aadd(work, 1)
    await batch.aadd_many([work.call(1)])


def test_job_transaction_error_is_raised_to_the_caller(make_app):
    """Nothing is stored."""

    def transaction():
        raise LookupError("no unit of work")

    app = make_app(plugin(job_transaction=transaction))

    with pytest.raises(LookupError, match="no unit of work"):
        add_work(app).enqueue(1)
    assert {} == dict(app.storage.counts().by_state)


def test_jobs_created_reports_each_set_of_jobs_once(make_app):
    """The jobs can come from one call, a chunk of many calls, a continuation, a coroutine or a trigger."""
    batches = []
    app = make_app(plugin(jobs_created=lambda jobs: batches.append(len(jobs))))
    work = add_work(app)

    first = work.enqueue(1)
    work.enqueue_many([(number,) for number in range(501)])
    first.then(work, 2)
    asyncio.run(work.aenqueue(3))
    work.recur("nightly", "0 2 * * *", 4)
    app.jobs.copy(app.recurring.trigger("nightly").id)

    assert [1, 500, 1, 1, 1, 1, 1] == batches


@contextmanager
def noting(name, steps):
    """Record the enter and exit of a context."""
    steps.append(f"enter {name}")
    yield
    steps.append(f"leave {name}")


def test_enqueue_context_surrounds_each_call_that_stores_jobs(make_app):
    """The context receives the calls before any other hook is called.

    It is not entered for jobs that servers or operators create.
    """
    steps = []

    def context(task, calls):
        return noting(f"{task and task.name} {[call.args for call in calls]}", steps)

    app = make_app(plugin(
        enqueue_context=context,
        job_options=lambda: steps.append("options"),
        jobs_created=lambda jobs: steps.append(f"{len(jobs)} created"),
    ))  # fmt: skip
    work, other = add_work(app), app.task(name="other")(lambda: None)

    def recorded(make):
        steps.clear()
        made = make()
        return steps[0].removeprefix("enter "), steps[1:], made

    one = ["options", "1 created"]
    named, order, first = recorded(lambda: work.enqueue(1))
    assert (named, [*one, f"leave {named}"]) == ("work [(1,)]", order)
    for make in (
        lambda: work.schedule(5, 1),
        lambda: asyncio.run(work.aenqueue(1)),
        lambda: first.then(work, 1),
        lambda: asyncio.run(first.athen(work, 1)),
        lambda: app.enqueue_many([work.call(1)])[0],
    ):
        named, order, _ = recorded(make)
        assert ("work [(1,)]", [*one, f"leave {named}"]) == (named, order)
    named, order, _ = recorded(lambda: work.enqueue_many([(1,), (2,)]))
    assert ("work [(1,), (2,)]", ["options", "options", "2 created"]) == (named, order[:-1])
    named, order, _ = recorded(lambda: app.enqueue_many([work.call(1), other.call()]))
    assert ("None [(1,), ()]", ["options", "options", "2 created"]) == (named, order[:-1])
    assert [] == work.enqueue_many([])
    steps.clear()
    work.recur("nightly", "0 2 * * *", 4)
    app.jobs.copy(app.recurring.trigger("nightly").id)
    assert ["options", "1 created", "1 created"] == steps


def test_enqueue_context_exits_with_the_error_of_the_call(make_app):
    """The context can inspect the error.

    It cannot suppress the error, because there is no job to return.
    """
    seen = []

    @contextmanager
    def context():
        try:
            yield
        except TypeError as error:
            seen.append(error)

    app = make_app(plugin(enqueue_context=context))
    work = add_work(app)

    with pytest.raises(ArgumentError) as refused:
        work.enqueue("no number")
    with pytest.raises(PluginError, match="'Plugin#0' of app returned a value of type int from enqueue_con"):
        add_work(make_app(plugin(enqueue_context=lambda: 1))).enqueue(1)

    assert [refused.value] == seen


@pytest.mark.parametrize("is_awaited", [False, True])
def test_enqueue_context_receives_inherited_metadata(make_app, is_awaited):
    """For a continuation, this is the metadata of the parent. For other jobs, it is empty."""
    seen = []
    app = make_app(plugin(enqueue_context=lambda inherited: seen.append(dict(inherited))))
    work = add_work(app)

    first = work.using(meta={"tenant": "acme"}).enqueue(1)
    child = asyncio.run(first.athen(work, 1)) if is_awaited else first.then(work, 1)

    assert [{}, {"tenant": "acme"}] == seen
    assert {"tenant": "acme"} == app.jobs.get(child.id).meta


def test_enqueue_context_contains_jobs_that_are_stored_later(make_app):
    """When the context exits, it contains the jobs that a batch block or a call in a task stores later."""
    exits = []

    @contextmanager
    def context(calls, created):
        yield
        exits.append((len(calls), [job.id for job in created]))

    app = make_app(plugin(enqueue_context=context))
    work = add_work(app)
    child = app.task(name="child")(lambda: None)
    calling = app.task(name="calling")(lambda: current_job().run("child", child))

    with app.batch("three") as batch:
        one = batch.add(work, 1)
        two, three = batch.add_many([work.call(2), work.call(3)])
        behind = one.then(work, 4)
    batch.add(work, 5)  # stored immediately, so only jobs_created reports it
    run(app, calling.using(priority=9).enqueue())

    (called,) = app.jobs.find(task="child").jobs
    assert [(1, [one.id]), (2, [two.id, three.id]), (1, [behind.id])] == exits[:3]
    assert [(1, []), (1, []), (1, [called.id])] == exits[3:]


def test_batch_meta_is_stored_with_the_batch(make_app):
    """Continuations of the batch inherit it, but members do not.

    The value of the plugin that runs first takes precedence.
    """
    names = []
    app = make_app(
        plugin(batch_meta=lambda name: {"tenant": "initech", "of": name}),
        plugin(batch_meta=lambda name: names.append(name) or {"tenant": "acme"}),
        plugin(batch_meta=lambda: None),
    )
    work = add_work(app)

    with app.batch("outer") as outer:
        member = outer.add(work, 1)
        with outer.batch("inner") as inner:
            inner.add(work, 2)
        behind = outer.then(work, 3)
    later = app.batches.get(outer.id).then(work, 4)

    assert ["outer", "inner"] == names
    metas = [dict(app.jobs.get(job.id).meta) for job in (outer, inner, behind, later, member)]
    meta = {"tenant": "acme", "of": "outer"}
    assert [meta, {**meta, "of": "inner"}, meta, meta, {}] == metas


def test_batch_meta_with_an_invalid_name_raises(make_app):
    """The error is raised to the caller, as for job_options. Nothing is stored."""
    app = make_app(plugin(batch_meta=lambda: {"no name": "x"}))

    with pytest.raises(ConfigurationError, match=r"Meta key must be .*, got 'no name'"):
        app.batch("one")

    assert 0 == app.jobs.counts().total


# ---- running jobs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_job_context_exits_normally_when_a_run_is_suspended(make_app, is_async):
    """The context is entered again when the job continues. The suspended run is settled."""
    steps, ends = [], []

    @contextmanager
    def context(job):
        steps.append(("enter", job.attempt, job.suspended))
        yield
        steps.append(("leave", job.attempt, job.suspended))

    def settled(settled):
        ends.extend((str(end.transition.to), end.transition.waits_for) for end in settled)

    app = make_app(plugin(job_context=context, jobs_settled=settled))
    day, approval = timedelta(days=1), app.signal("approval", bool)

    if is_async:

        @app.task(name="waiting")
        async def waiting(job: JobContext) -> None:
            await job.asleep("a day", day)
            await job.areceive(approval, timeout=None)
    else:

        @app.task(name="waiting")
        def waiting(job: JobContext) -> None:
            job.sleep("a day", day)
            job.receive(approval, timeout=None)

    with Tester(app) as tester:
        job = waiting.enqueue()
        tester.drain()
        tester.clock.advance(days=1)
        approval.send(job, True)
        tester.drain()

    assert [("enter", 1, False), ("leave", 1, True)] * 2 + [("enter", 1, False), ("leave", 1, False)] == steps
    assert [("scheduled", "sleep a day"), ("awaiting", "signal approval"), ("succeeded", None)] == ends


def test_job_context_surrounds_the_run(make_app):
    """The context of the plugin that runs first is outermost. A plugin that returns None is skipped."""
    steps = []
    app = make_app(
        plugin(job_context=lambda: noting("inner", steps)),
        plugin(job_context=lambda: None),
        plugin(job_context=lambda job, task: noting(f"outer {task.name} {job.attempt}", steps)),
    )

    @app.task(name="step")
    def step() -> None:
        steps.append("run")

    run(app, step.enqueue())

    assert ["enter outer step 1", "enter inner", "run", "leave inner", "leave outer step 1"] == steps


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("end", ["returns", "raises", "runs out of time", "is deleted"])
def test_job_context_can_close_connections_of_the_thread(make_app, is_async, end):
    """However the run ends, the context exits in the thread of the job.

    Web frameworks need this to close their connections.
    """
    connections, opened = {}, threading.Event()

    @contextmanager
    def context():
        try:
            yield
        finally:
            connections.pop(threading.get_ident(), None)

    def work(job: JobContext) -> None:
        connections[threading.get_ident()] = object()
        opened.set()
        if end == "raises":
            raise ValueError(end)
        until(lambda: end == "returns" or job.cancelled)
        job.raise_if_cancelled()

    async def awork(job: JobContext) -> None:
        connections[threading.get_ident()] = object()
        opened.set()
        if end == "raises":
            raise ValueError(end)
        if end != "returns":
            await asyncio.Event().wait()

    app = make_app(plugin(job_context=lambda: context()))  # noqa: PLW0108 - pluggy passes arguments by name
    timeout = 0.05 if end == "runs out of time" else None
    task = app.task(name="work", retry=Retry.never(), timeout=timeout)(awork if is_async else work)
    with app.server(workers=1, async_workers=1):
        job = task.enqueue()
        assert opened.wait(30)
        if end == "is deleted":
            job.delete()
        with suppress(JobFailed, JobDeleted):
            job.result(timeout=30)

    assert {} == connections


def test_retry_decision_is_called_even_without_remaining_retries(make_app):
    """A plugin can allow or refuse another attempt."""
    calls = []

    def once_more(job, error):
        calls.append((job.args, job.attempt, str(error)))
        return RetryDecision.retry(0) if job.attempt == 1 else RetryDecision.fail("enough")

    app = make_app(plugin(retry_decision=once_more))
    ended = run(app, add_boom(app).enqueue(7))

    assert [((7,), 1, "7"), ((7,), 2, "7")] == calls
    assert (State.FAILED, "enough") == (ended.state, ended.reason)


def test_retry_decision_of_the_first_plugin_takes_precedence(make_app):
    """The last plugin of an app is called first. If it returns None, the next plugin is called.

    Any other decision replaces the retry policy.
    """
    calls = []

    def answer(name, decision):
        def decide():
            calls.append(name)
            return decision

        return plugin(retry_decision=decide)

    app = make_app(
        answer("third", RetryDecision.fail("third")),
        answer("second", RetryDecision.delete("second")),
        answer("first", None),
    )
    ended = run(app, add_boom(app, retry=Retry()).enqueue(1))

    assert (["first", "second"], State.DELETED, "second") == (calls, ended.state, ended.reason)


def test_elect_transition_replaces_the_outcome(make_app):
    """The job gets the state that the plugin has chosen.

    The conditions of the proposed transition still apply.
    """
    proposals = []

    def vanish(job, proposed):
        proposals.append((job.task, proposed.to))
        return attrs.evolve(proposed, to=State.DELETED, reason="elected")

    app = make_app(plugin(elect_transition=vanish))

    ended = run(app, add_boom(app).enqueue(1))

    assert [("boom", State.FAILED)] == proposals
    assert (State.DELETED, "elected") == (ended.state, ended.reason)


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_attempt_failed_receives_the_error_and_the_transition(make_app, is_async):
    """Each failed attempt is reported once. The last attempt is reported with the failed job.

    Exceptions of the hook are logged.
    """
    calls = []

    def failed(job, error, transition):
        calls.append((job.attempt, str(error), str(transition.to)))
        raise RuntimeError("the pager is off")

    app = make_app(plugin(attempt_failed=failed))
    error = ValueError("boom")
    if is_async:

        async def work() -> None:
            raise error
    else:

        def work() -> None:
            raise error

    task = app.task(name="work", retry=Retry.fixed(0, attempts=1))(work)

    assert State.FAILED is run(app, task.enqueue()).state
    assert [(1, "boom", "enqueued"), (2, "boom", "failed")] == calls


def test_attempt_failed_is_called_for_errors_outside_the_task(make_app):
    """If the arguments are unreadable, the error does not contain them."""
    errors = []
    storage = MemoryStorage()
    old = Firelock(storage)
    job = old.task(name="work")(lambda secret: None).enqueue("hunter2")
    app = make_app(plugin(attempt_failed=lambda error: errors.append(str(error))), url=storage)
    add_work(app)

    with app.server(workers=1):
        until(lambda: job.refresh().state is State.FAILED)

    assert 1 == len(errors)
    assert "cannot be read" in errors[0]
    assert "hunter2" not in errors[0]


def test_configure_app_can_add_tasks(make_app):
    """The added tasks belong to the app. An error in the hook prevents the app from starting."""
    brought = plugin(configure_app=lambda app: app.task(name="brought")(lambda: 7))

    app = make_app(brought)

    assert ["brought"] == [task.name for task in app.registry.runnable()]
    with pytest.raises(ZeroDivisionError):
        make_app(plugin(configure_app=lambda: 1 / 0))


def test_jobs_settled_reports_accepted_outcomes(make_app):
    """The outcome of every attempt is reported, including a snooze."""
    ends, runs = [], []
    app = make_app(plugin(jobs_settled=lambda settled: ends.extend(settled)))  # noqa: PLW0108

    @app.task(name="twice")
    def twice() -> str | Snooze:
        runs.append(1)
        return Snooze(timedelta(microseconds=1)) if len(runs) == 1 else "done"

    run(app, twice.enqueue())

    assert [(1, State.SCHEDULED), (1, State.SUCCEEDED)] == [
        (end.job.attempt, end.transition.to) for end in ends
    ]


# ---- servers ---------------------------------------------------------------------------------------------


def test_server_started_and_stopped_receive_the_server(make_app):
    """Both hooks are called after worker_process_started and before worker_process_stopped."""
    calls = []

    def recorder(step):
        return lambda server: calls.append((step, server.name, server.queues, server.workers, server.pid))

    hooks = ["worker_process_started", "server_started", "server_stopped", "worker_process_stopped"]
    app = make_app(plugin(**{hook: recorder(hook) for hook in hooks}))
    add_work(app)
    with app.server(workers=3, queues=["a", "b"], name="here"):
        pass

    assert [(hook, "here", "a,b", 3, os.getpid()) for hook in hooks] == calls


def test_server_stopped_is_called_after_the_jobs_have_ended(make_app):
    """No job is running when the hook is called."""
    states = []
    app = make_app(plugin(server_stopped=lambda: states.append(job.refresh().state)))
    job = add_work(app).enqueue(1)

    run(app, job)

    assert [State.SUCCEEDED] == states


def test_worker_process_started_is_called_before_the_first_job(make_app):
    """The hook can prepare the process."""
    steps = []
    app = make_app(plugin(worker_process_started=lambda: steps.append("ready")))

    @app.task(name="step")
    def step() -> None:
        steps.append("run")

    run(app, step.enqueue())

    assert ["ready", "run"] == steps


# ---- the dashboard, and hook names -----------------------------------------------------------------------


def test_register_hookspecs_defines_hooks_for_other_plugins(make_app):
    """These hooks are called and checked like the hooks of the core."""

    @hookspec
    def greetings(name): ...

    brings = plugin(register_hookspecs=lambda: SimpleNamespace(greetings=greetings))
    app = make_app(brings, plugin(greetings=lambda name: [f"Hello {name}"]))

    assert ["Hello Ada"] == app.plugins.call_each("greetings", name="Ada")
    with pytest.raises(PluginError, match="greetings"):
        make_app(brings, plugin(greetings=lambda place: []))
    with pytest.raises(PluginError, match=r"greeting, .* Did you mean greetings\? Known hooks: .*greetings"):
        make_app(brings, plugin(greeting=lambda name: []))


def test_dashboard_hooks_are_ignored_if_no_dashboard_is_installed():
    """A plugin that extends the dashboard also works without one."""
    plugins = Plugins([plugin(dashboard_pages=lambda: ["a page"])], use_entry_points=False)

    assert ("dashboard_pages",) == plugins.listing()[0].hooks


def test_worker_process_stopped_and_other_errors_do_not_affect_jobs(make_app, caplog):
    """An exception in a hook is logged and counts as the return value None."""

    def broken():
        raise RuntimeError("no idea")

    hooks = ["jobs_created", "elect_transition", "jobs_settled", "retry_decision", "worker_process_stopped"]
    counts = []
    app = make_app(
        plugin(jobs_created=lambda jobs: counts.append(len(jobs))), plugin(**dict.fromkeys(hooks, broken))
    )
    good, bad = run(app, add_work(app).enqueue(1)), run(app, add_boom(app).enqueue(1))

    assert (State.SUCCEEDED, "ValueError: 1 (not retried)") == (good.state, bad.reason)
    assert [1, 1] == counts
    assert [] == [hook for hook in hooks if f"raised an exception in {hook}" not in caplog.text]
    assert {False} == {server.is_alive for server in app.servers.list()}


def test_job_panels_receive_the_job_and_report_errors_per_plugin(make_app):
    """An exception in a plugin affects only the panels of that plugin."""

    def broken(job):
        raise RuntimeError("no panel today")

    good, bad = make_app(
        plugin(job_panels=broken), plugin(job_panels=lambda job: [f"panel of {job}"])
    ).plugins.results("job_panels", job=1)

    assert (("panel of 1",), None) == (good.offered, good.error)
    assert ("Plugin#0", ()) == (bad.plugin, bad.offered)
    assert "'Plugin#0' of app raised an exception in job_panels: RuntimeError: no panel today. Fix it" in str(
        bad.error
    )


def test_dashboard_pages_of_a_plugin_that_raises_are_omitted(make_app, caplog):
    """The pages of the other plugins are collected, beginning with the last plugin. Each error is logged."""

    def broken():
        raise RuntimeError("no pages today")

    def halfway():
        yield "page"
        raise RuntimeError("no more")

    answers = [lambda: ["b", "c"], broken, halfway, lambda: 7, lambda: None, lambda: ["a"]]

    offered = make_app(*[plugin(dashboard_pages=answer) for answer in answers]).plugins.call_each(
        "dashboard_pages"
    )

    assert ["a", "b", "c"] == offered
    assert 3 == len([record for record in caplog.records if "is omitted" in record.getMessage()])


def test_dashboard_permission_uses_the_first_decision(make_app):
    """If all plugins return None, the result is None. An exception denies access."""

    def broken(request):
        raise RuntimeError("no directory")

    knows_nobody = plugin(dashboard_permission=lambda request: None)

    assert "read" == make_app(
        plugin(dashboard_permission=lambda request: "read"), knows_nobody
    ).plugins.call_first("dashboard_permission", request="visitor")
    assert make_app(knows_nobody).plugins.call_first("dashboard_permission", request="visitor") is None
    with pytest.raises(PluginError, match="no directory"):
        make_app(plugin(dashboard_permission=broken)).plugins.call_first(
            "dashboard_permission", request="visitor"
        )


# ---- invalid return values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "answer", "words"),
    [
        ("job_options", [], "a value of type list from job_options; return a mapping of options, or None"),
        (
            "job_options",
            {"quue": "a"},
            r"'quue' from job_options, .* Did you mean queue\? Known options: at, delay",
        ),
        ("job_options", {"within": "a"}, "within from job_options, which only the caller can set"),
        ("job_options", {"priority": "x"}, "an invalid option from job_options: .*'x'"),
        ("job_options", {"meta": "acme"}, "invalid meta from job_options: meta must be a mapping"),
        ("enqueue_context", 7, "a value of type int from enqueue_context; return a context manager, or None"),
        ("job_transaction", "it", "a value of type str from job_transaction; .*OpenTransaction, or None"),
    ],
)
def test_error_for_an_invalid_return_value_contains_the_plugin(make_app, hook, answer, words):
    """The message contains the expected value and the fix. It does not mention the other plugin."""
    good = plugin(job_options=lambda: {"queue": "mail", "meta": {"house": "one"}})
    app = make_app(plugin(**{hook: lambda: answer}), good)

    with pytest.raises(PluginError, match=rf"^Plugin 'Plugin#0' of app returned {words}.*plugins=\[…\]\.$"):
        add_work(app).enqueue(1)
    assert {} == dict(app.storage.counts().by_state)


def test_error_for_invalid_batch_meta_contains_the_plugin(make_app):
    """Nothing is stored."""
    app = make_app(plugin(batch_meta=lambda: {"tenant": 7}))

    with pytest.raises(
        PluginError,
        match="'Plugin#0' of app returned invalid meta from batch_meta: Meta 'tenant' must be a string",
    ):
        app.batch("nightly").__enter__()


@pytest.mark.parametrize(
    ("hook", "call"),
    [
        ("job_options", lambda app: add_work(app).enqueue(1)),
        ("enqueue_context", lambda app: add_work(app).enqueue(1)),
        ("job_transaction", lambda app: add_work(app).enqueue(1)),
        ("batch_meta", lambda app: app.batch("nightly").__enter__()),
    ],
)
def test_error_raised_to_the_caller_has_a_note_with_the_plugin(make_app, hook, call):
    """The exception object is unchanged. The note is added only once, even if the object is raised again."""
    error = LookupError("no tenant")

    def refuse():
        raise error

    app = make_app(plugin(**{hook: refuse}))
    for _ in range(2):
        with pytest.raises(LookupError):
            call(app)

    [note] = error.__notes__
    assert (
        note
        == f"Plugin 'Plugin#0' of app raised this in {hook}. Fix it, or remove it from the app's plugins=[…]."
    )


@pytest.mark.parametrize("hook", ["configure_app", "jobs_created", "server_started"])
def test_error_for_a_returned_coroutine_contains_the_plugin(make_app, caplog, hook):
    """Without the error, a hook that returns a coroutine would silently do nothing."""

    async def report(): ...

    def start():
        app = make_app(plugin(**{hook: report_later}))
        add_work(app).enqueue(1)
        with app.server(workers=1):
            pass

    report_later = lambda: report()  # noqa: E731, PLW0108 - pluggy reads its arguments
    words = (
        f"'Plugin#0' of app returned coroutine from {hook}, but hooks are synchronous, so it is never "
        "awaited."
    )

    if hook == "configure_app":
        with pytest.raises(PluginError, match=words):
            start()
    else:
        start()
        assert words in caplog.text


# ---- hooks that plugins define ---------------------------------------------------------------------------


@hookspec
def tell_joke(topic): ...


def joking(*answers):
    """Return plugins that define a hook and implement it."""
    brings = plugin(register_hookspecs=lambda: SimpleNamespace(tell_joke=tell_joke))
    return [brings, *(plugin(tell_joke=answer) for answer in answers)]


def test_call_each_returns_only_items_of_lists(make_app, caplog):
    """Other values and exceptions are logged and omitted. None counts as an empty list."""
    app = make_app(*joking(lambda: ["a"], lambda: 1 / 0, lambda: "text", lambda: {"a": 1}, lambda: None))

    assert ["a"] == app.plugins.call_each("tell_joke", topic="cats")
    assert "'Plugin#2' of app raised an exception in tell_joke: ZeroDivisionError" in caplog.text
    assert (
        "'Plugin#3' of app returned a value of type str from tell_joke; return a list, or None" in caplog.text
    )
    assert "'Plugin#4' of app returned a value of type dict from tell_joke" in caplog.text


@pytest.mark.parametrize("verb", ["call_each", "call_first", "results"])
def test_calling_an_undefined_hook_raises(make_app, verb):
    """Unknown arguments raise an error too."""
    call = getattr(make_app(*joking(lambda: ["a"])).plugins, verb)

    with pytest.raises(
        PluginError, match=r"No plugin defines a hook 'tell_jok'\. Did you mean tell_joke\? Known hooks: "
    ):
        call("tell_jok", topic="cats")
    with pytest.raises(TypeError, match="tell_joke has these arguments: topic; got: subject"):
        call("tell_joke", subject="cats")
