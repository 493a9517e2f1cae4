"""Tasks: functions that can still be called, with a name, options and typed methods."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import types
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Optional, TypedDict

import pytest

from firelock import Firelock, JobContext, Retry, Settings, State, context
from firelock import JobContext as Ctx
from firelock.arguments.signature import LargeArgumentsWarning
from firelock.errors import ArgumentTooLarge, ConfigurationError, DuplicateTask, ResultUnavailable, TaskError
from firelock.options import Executor, OnRisk
from firelock.task import AsyncContextTask, AsyncTask, ContextTask, Task, main_module_name
from tests.core.fakes import Worker

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def send(to: str, copies: int = 1) -> str:
    """Send a letter."""
    return f"{to}×{copies}"


async def asend(to: str) -> str:
    return f"{to}!"


def with_context(job: JobContext, to: str) -> str:
    return f"{to} at attempt {job.attempt}"


async def awith_context(job: JobContext, to: str) -> str:
    return f"{to} at attempt {job.attempt}!"


# ---- registering -----------------------------------------------------------------------------------------


def test_task_is_named_after_its_function(fire):
    """The name consists of the module and the qualified name, as another process would import it."""
    task = fire.task(send)

    assert (f"{__name__}.send", [task.info]) == (task.name, fire.tasks())


def test_task_without_options_has_the_defaults(fire):
    """The defaults are queue "default", priority 0, ten retries and no timeout.

    `retry=None` and `timeout=None` mean the same.
    """
    for info in (fire.task(send).info, fire.task(name="other", retry=None, timeout=None)(asend).info):
        assert ("default", 0, Retry(), None, (), (), Executor.AUTO, OnRisk.CONTINUE, False) == (
            info.queue, info.priority, info.retry, info.timeout_seconds, info.tags, info.aliases,
            info.executor, info.on_risk, info.is_remote,
        )  # fmt: skip
    assert [10, 3] == [
        info.max_host_losses,
        fire.task(name="hog", max_host_losses=3)(send).info.max_host_losses,
    ]
    assert OnRisk.CANCEL is fire.task(name="careful", on_risk="cancel")(send).info.on_risk


def test_task_of_a_main_program_is_named_after_its_file(fire, monkeypatch):
    """`python app.py` and `firelock server app:fire` use the same name for a task."""
    main = types.ModuleType("__main__")
    main.__file__ = "/srv/shop/app.py"
    monkeypatch.setitem(sys.modules, "__main__", main)

    def local(): ...

    local.__module__, local.__qualname__ = "__main__", "send"

    assert "app.send" == fire.task(local).name


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"__spec__": types.SimpleNamespace(name="shop.jobs.__main__"), "__file__": "x.py"}, "shop.jobs"),
        ({"__spec__": types.SimpleNamespace(name="shop.jobs"), "__file__": "x.py"}, "shop.jobs"),
        ({"__spec__": None, "__file__": "/a/app.py"}, "app"),
        ({"__spec__": None}, "__main__"),
    ],
)
def test_main_module_has_the_name_under_which_it_is_imported(monkeypatch, attributes, name):
    """With `-m`, the module specification contains the name.

    Without it, the stem of the file is the name. An interactive session keeps the name `__main__`.
    """
    main = types.ModuleType("__main__")
    del main.__spec__
    vars(main).update(attributes)
    monkeypatch.setitem(sys.modules, "__main__", main)

    assert name == main_module_name()


def test_local_function_needs_an_explicit_name(fire):
    """No other process could find the function.

    With a name that a server also registers, the function can be a task.
    """

    def local(): ...

    with pytest.raises(
        TaskError, match=r"cannot find .*local because it is a lambda or is defined.*@fire\.task\(name="
    ):
        fire.task(local)
    named = fire.task(name="local")(local)

    assert "local" == named.name


def test_decorated_function_is_shown_with_its_own_location(fire):

    @functools.wraps(send)
    def wrapped(*args, **kwargs):
        return send(*args, **kwargs)

    task = fire.task(name="wrapped")(wrapped)

    assert f"{__file__}:{send.__code__.co_firstlineno}" == task.info.place
    assert "x×2" == task("x", 2)


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (lambda: None, "is a lambda"),
        ("send", "it is not a function; decorate a def"),
    ],
)
def test_only_plain_functions_can_be_tasks(fire, thing, words):
    """Any value except a function raises an error that states what to write instead."""
    with pytest.raises(TaskError, match=words):
        fire.task()(thing)

    assert [] == fire.tasks()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "x" * 201, "{x}"])
@pytest.mark.parametrize("which", ["name", "aliases"])
def test_invalid_task_name_or_alias_is_refused(fire, name, which):
    """The error lists the characters that names and aliases may contain."""
    options = {which: name if which == "name" else [name]}

    with pytest.raises(
        TaskError, match=r"Task name must be 1 to 200 letters, digits, '_', '.', ':' or '-', got "
    ):
        fire.task(**options)(send)

    assert [] == fire.tasks()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": "Mail"}, "Queue name must be 1 to 64 .*, got 'Mail'"),
        ({"queue": None}, "Queue name must be 1 to 64 .*, got None"),
        ({"priority": 101}, "Priority must be an integer from -100 to 100, got 101"),
        ({"priority": True}, "Priority must be an integer from -100 to 100, got True"),
        ({"priority": 1.0}, r"Priority must be an integer from -100 to 100, got 1\.0"),
        ({"timeout": 0}, "timeout must be a timedelta or seconds, above zero and at most 366 days, got 0"),
        ({"timeout": float("nan")}, "timeout must be .*, got nan"),
        ({"timeout": timedelta(days=400)}, r"timeout must be .*, got .*\(days=400\)"),
        ({"timeout": "5"}, "timeout must be .*, got '5'"),
        ({"timeout": True}, "timeout must be .*, got True"),
        ({"keep": -1}, "keep must be a timedelta or seconds, from zero to 3,650 days, got -1"),
        ({"keep": timedelta(days=3_651)}, r"keep must be .*, got datetime.timedelta\(days=3651\)"),
        ({"keep": "30d"}, "keep must be .*, got '30d'"),
        ({"keep": True}, "keep must be .*, got True"),
        ({"keep": float("nan")}, "keep must be .*, got nan"),
        ({"retry": 3}, r"retry must be a policy, got 3. Use retry=Retry\(attempts=3\)"),
        ({"retry": "often"}, r"retry must be a Retry or an object with decide\(job, error\), got 'often'"),
        ({"retry": Retry}, r"retry must be an instance, got the class <class .*Retry'>. Use retry=Retry\(\)"),
        ({"tags": "one"}, r"tags must be a list of strings, got the string 'one'. Use tags=\['one'\]"),
        ({"tags": [7]}, r"Each tag in tags=\[7\] must be a string, got 7"),
        ({"tags": 7}, "tags must be a list of strings, got 7"),
        (
            {"aliases": "old"},
            r"aliases must be a list of strings, got the string 'old'. Use aliases=\['old'\]",
        ),
        ({"aliases": [7]}, r"Each name in aliases=\[7\] must be a string, got 7"),
        ({"executor": "gpu"}, "executor must be one of auto, process, got 'gpu'"),
        ({"on_risk": "panic"}, "on_risk must be one of continue, cancel, got 'panic'"),
        ({"max_host_losses": 0}, "max_host_losses must be an integer from 1 to 1,000, got 0"),
        ({"max_host_losses": True}, "max_host_losses must be an integer from 1 to 1,000, got True"),
        ({"max_host_losses": 1_001}, "max_host_losses must be an integer from 1 to 1,000, got 1001"),
        ({"quee": "mail"}, r"Task option 'quee' is unknown; did you mean 'queue'\?"),
        ({"xyz": "mail"}, "Task option 'xyz' is unknown; use one of name, queue, priority"),
        (
            {"max_retries": 3},
            r"A Firelock task has no option 'max_retries'; use retry=Retry\(attempts=…\)\.",
        ),
        (
            {"bind": True},
            r"has no option 'bind'; use a first parameter annotated JobContext, or current_job\(\)\.",
        ),
    ],
)
def test_invalid_task_option_is_refused(fire, options, words):
    """The error contains the value and the valid ones, and nothing is registered."""
    with pytest.raises(ConfigurationError, match=words):
        fire.task(**options)(send)

    assert [] == fire.tasks()


def test_task_name_can_be_registered_only_once(fire):
    """A function at the same location, as after a reload of its module, replaces the earlier one."""

    def loaded(parameters):
        namespace = {"__name__": __name__}
        exec(compile(f"def send({parameters}): ...", "tasks.py", "exec"), namespace)
        return namespace["send"]

    fire.task(name="mail.send")(loaded("to")).enqueue("x")
    again = fire.task(name="mail.send", queue="bulk")(loaded("to, note"))

    with pytest.raises(
        DuplicateTask, match=r"of .*test_task\.py:.* is already used by tasks\.py:1\. Rename one"
    ):
        fire.task(name="mail.send")(asend)
    with pytest.raises(DuplicateTask):
        fire.task(name="other", aliases=["mail.send"])(asend)

    assert [again.info] == fire.tasks()
    assert "bulk" == again.enqueue("x", note="y").queue


def test_size_limits_come_from_the_settings():
    """The size limits apply to arguments and results."""
    settings = Settings(argument_limit=100, argument_warning=64, result_limit=80)
    with Firelock("memory://", settings=settings) as fire:
        task = fire.task(send)

        with pytest.raises(ArgumentTooLarge, match="The limit is 100"):
            task.enqueue("x" * 100)
        with pytest.warns(LargeArgumentsWarning):
            job = task.enqueue("x" * 79)
        Worker(fire).run()
        with pytest.raises(ResultUnavailable, match="above the limit"):
            job.result()


# ---- calling ---------------------------------------------------------------------------------------------


def test_calling_a_task_runs_its_function(fire):
    """The function runs immediately; a coroutine function returns its coroutine."""
    plain, coroutine = fire.task(send), fire.task(asend)

    assert ("x×1", "x!") == (plain("x"), asyncio.run(coroutine("x")))


def test_direct_call_passes_the_context(fire):
    """A unit test passes a fake context."""
    plain, coroutine = fire.task(with_context), fire.task(awith_context)
    job = JobContext.fake(attempt=3)

    assert ("x at attempt 3", "x at attempt 3!") == (plain(job, "x"), asyncio.run(coroutine(job, "x")))


def test_class_of_a_task_depends_on_its_function(fire):
    """Each combination of sync or async, with or without a context, has its own class."""
    kinds = [type(fire.task(function)) for function in (send, asend, with_context, awith_context)]

    assert [Task, AsyncTask, ContextTask, AsyncContextTask] == kinds


def quoted_context(job: "JobContext"):  # noqa: UP037 - as written in modules without postponed annotations
    return job.attempt


def of_checkers_only(job: firelock.JobContext):  # noqa: F821 - as under TYPE_CHECKING
    return job.attempt


def of_checkers_only_renamed_module(job: fl.JobContext | None):  # noqa: F821 - as under TYPE_CHECKING
    return job.attempt


def renamed_context(job: Ctx):
    return job.attempt


def dotted_context(job: context.JobContext):
    return job.attempt


def optional_context(job: JobContext | None):
    return job.attempt


def context_by_default(job: JobContext | None = None, to: str = "x"):
    return [job and job.attempt, to]


def old_optional_context(job: Optional[JobContext]):  # noqa: UP045 - the older spelling
    return job.attempt


def annotated_context(job: Annotated[JobContext, "of the server"], other: Unheard):  # noqa: F821
    return job.attempt


def wrapped_context(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


class Theirs:
    """A user's module that contains a class named JobContext."""

    class JobContext(TypedDict):
        """A value that callers pass."""

        day: str


def no_parameters(): ...


def their_own_context(job: Theirs.JobContext, day: str): ...


def text_of_that_name(job: Literal["JobContext"]): ...


def real_annotation(job):
    return job.attempt


real_annotation.__annotations__["job"] = JobContext


def real_optional_annotation(job):
    return job.attempt


real_optional_annotation.__annotations__["job"] = JobContext | None


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (quoted_context, True),
        (of_checkers_only, True),
        (of_checkers_only_renamed_module, True),
        (renamed_context, True),
        (dotted_context, True),
        (optional_context, True),
        (context_by_default, True),
        (old_optional_context, True),
        (wrapped_context(renamed_context), True),
        (real_annotation, True),
        (real_optional_annotation, True),
        (no_parameters, False),
        (send, False),
        (their_own_context, False),
        (text_of_that_name, False),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_context_is_recognised_in_every_form_of_annotation(fire, function, takes):
    """The resolved annotation counts, not its spelling. The task and the server use the same result."""
    task = fire.task(function)

    assert takes == task.info.takes_context
    assert takes == fire.registry.binder(task.info).takes_context


def test_context_is_recognised_next_to_unresolvable_annotations(fire):
    """Only the first parameter's annotation is read when the task is registered."""
    task = fire.task(annotated_context)

    assert task.info.takes_context


@pytest.mark.parametrize(
    ("function", "arguments", "result"),
    [
        (renamed_context, (), 1),
        (context_by_default, ("y",), [1, "y"]),
        (send, ("ann",), "ann×1"),
    ],
)
def test_server_passes_the_context_for_every_form_of_annotation(fire, function, arguments, result):
    """Callers omit the context."""
    job = fire.task(function).enqueue(*arguments)

    Worker(fire).run()

    assert State.SUCCEEDED is job.refresh().state, job.error
    assert result == job.result()


def test_class_of_an_application_named_job_context_is_an_argument(fire):
    task = fire.task(their_own_context)

    job = task.enqueue({"day": "x"}, "today")

    assert '{"job":{"day":"x"},"day":"today"}' == job.record().arguments


def late_context(job: LateContext): ...  # noqa: F821 - the mistake under test


def mixed_context(job: JobContext | int): ...


def by_name_only(*, job: JobContext): ...


def many_contexts(*jobs: JobContext): ...


def second_context(day: str, job: JobContext | None = None): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            mixed_context,
            r"parameter 'job' is annotated JobContext \| int. Use JobContext, or JobContext \| None",
        ),
        (by_name_only, "parameter 'job' is a JobContext. Make it the first parameter, passed by position"),
        (
            many_contexts,
            "parameter 'jobs' is a JobContext. Make it the first parameter, passed by position",
        ),
    ],
)
def test_context_that_cannot_be_passed_is_refused(fire, function, message):
    """The error is raised when the task is registered, and states what to write instead."""
    with pytest.raises(TaskError, match=message):
        fire.task(function)


def test_context_must_be_the_first_parameter(fire):
    """The error is raised when the arguments are first read, even if the parameter is optional."""
    task = fire.task(second_context)

    with pytest.raises(TaskError, match=r"parameter 'job' is a JobContext\. Make it the first parameter"):
        task.enqueue("x")


def test_context_class_that_is_defined_after_the_task_is_refused(fire):
    """The error states what to do."""
    task = fire.task(late_context)
    globals()["LateContext"] = JobContext

    with pytest.raises(
        TaskError, match="'LateContext' of parameter 'job' could not be resolved when the task"
    ):
        task.enqueue()

    del globals()["LateContext"]


def test_task_has_the_metadata_of_its_function(fire):
    """Documentation tools show the name, docstring, signature and module of the function."""
    task = fire.task(send)

    assert ("Send a letter.", __name__, "send", "send") == (
        task.__doc__, task.__module__, task.__name__, task.__qualname__
    )  # fmt: skip
    assert ["to", "copies"] == list(inspect.signature(task).parameters)


@pytest.mark.parametrize(
    ("verb", "instead"),
    [
        ("delay", r"use enqueue\(…\)\."),
        ("apply_async", r"use enqueue\(…\), or schedule\(when, …\) for a later time; using\(queue="),
        ("s", r"use call\(…\), or job\.then\(task, …\)"),
        ("send", r"use enqueue\(…\)\."),
    ],
)
def test_method_name_of_another_library_suggests_the_right_method(fire, verb, instead):
    """Neither a task nor a task with options has one of these methods; `hasattr` returns False."""
    task = fire.task(send)

    assert not hasattr(task, verb)
    with pytest.raises(AttributeError, match=f"A Firelock task has no method '{verb}'; {instead}"):
        getattr(task.using(queue="mail"), verb)


def test_unknown_attribute_of_a_task_raises_attribute_error(fire):
    with pytest.raises(AttributeError, match=r"^'Task' object has no attribute 'dealy'$"):
        fire.task(send).dealy  # noqa: B018 - the mistake under test


def test_repr_of_a_task_shows_its_name_and_options(fire):
    """For a task with options, these include the options that were chosen for the call."""
    task = fire.task(name="mail.send")(send)

    assert "<Task mail.send>" == repr(task)
    assert "<TaskVerbs mail.send, queue='bulk', priority=5>" == repr(task.using(queue="bulk", priority=5))


# ---- options of a call -----------------------------------------------------------------------------------


def test_using_after_using_keeps_earlier_options(fire):
    """The task itself does not change."""
    task = fire.task(send)

    chosen = task.using(queue="bulk", tags=["a"]).using(priority=5, queue="mail")

    assert {"queue": "mail", "priority": 5, "tags": ("a",)} == chosen.options.given()
    assert {} == task.options.given()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": "Mail"}, "Queue name must be 1 to 64 .*, got 'Mail'"),
        ({"priority": 10**5000}, "Priority must be .*, got a value of type int"),
        ({"on": "success"}, "on must be one of succeeded, failed, deleted, finished, got 'success'"),
        ({"on": 7}, "on must be one of .*, got 7"),
        ({"tags": [None]}, r"Each tag in tags=\[None\] must be a string, got None"),
        ({"retry": 3}, r"The retry of using\(\) must be a Retry because it is stored with the job, got 3"),
        ({"delay": 5, "at": NOON}, r"using\(\) accepts either delay or at, got delay=5 and at="),
    ],
)
def test_invalid_option_of_a_call_is_refused(fire, options, words):
    """The error is raised in the line that passes the option, before anything is stored."""
    with pytest.raises(ConfigurationError, match=words):
        fire.task(send).using(**options)


def test_delay_and_due_time_exclude_each_other_across_calls(fire):
    """A value from an earlier `using` counts as well. `schedule` replaces both."""
    delayed = fire.task(send).using(delay=5)

    with pytest.raises(ConfigurationError, match="accepts either delay or at"):
        delayed.using(at=NOON)
    job = delayed.schedule(NOON.replace(year=2090), "x")

    assert NOON.replace(year=2090) == job.due_at
