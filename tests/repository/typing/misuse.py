"""Code that mypy --strict and pyright must refuse. Each line expects its error with both checkers' names.

If an error were no longer reported, its comment would be unused, and both checkers report that. So the file
is only clean if every misuse is detected. `make types` reads this file; it is never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from firelock import Cron, Debounce, Firelock, JobContext, Limit, Retry, Unique

fire = Firelock("memory://")


@fire.task
def create_report(day: str) -> str:
    """A plain task."""
    return day


@fire.task(queue="critical")
async def notify(user_id: int) -> None:
    """An asynchronous task."""


@fire.task
def summarise(context: JobContext, day: str) -> int:
    """A task that receives its job's context."""
    return len(day)


def arguments_are_those_of_the_function() -> None:
    """A wrong type, a missing, unknown or superfluous argument is an error at the caller's line."""
    create_report.enqueue(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    create_report.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    create_report.enqueue("a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    create_report.enqueue(date="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    create_report(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.schedule(timedelta(days=1), "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.schedule("tomorrow", 42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.schedule(42)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    create_report.recur("nightly", Cron.daily(2), 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    create_report.call(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def async_methods_are_equally_strict() -> None:
    """The async methods refuse the same code as the sync methods."""
    await notify.aenqueue("42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job = await notify.aenqueue(42)
    await fire.recurring.aedit("nightly", shedule="0 3 * * *")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await job.athen(create_report, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@fire.task
def maybe_within_a_job(context: JobContext | None, day: str) -> int:
    """A task that may receive its job's context."""
    return len(day)


def optional_context_is_not_an_argument() -> None:
    """Methods omit it. A direct call of the function needs one, which `JobContext.fake()` creates."""
    maybe_within_a_job.enqueue(None, "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    maybe_within_a_job(None, "a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def context_is_not_an_argument() -> None:
    """An enqueue passes no context, but a direct call of the function does."""
    summarise.enqueue(JobContext.fake(), "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    summarise("a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


def options_are_not_mixed_with_arguments() -> None:
    """An option in a method's call, an unknown option and an option with a wrong type are errors."""
    create_report.enqueue("a", queue="bulk")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    notify.using(qeue="bulk")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    notify.using(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.using(on="whenever")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.using("bulk")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Retry(attempts="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def limits_and_keys_are_checked() -> None:
    """An unknown word, a number with a wrong type, a missing wait and a limit outside a list are errors."""
    Limit("tenant", concurrent="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Limit("tenant", 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Limit("tenant", rate=1, period=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Unique("day", until="finished")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Unique("day", keep="newest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Debounce("day")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    notify.using(limits=Limit("x", rate=1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.using(unique=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.using(unique="user:{user_id}")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    notify.using(start_before=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def arguments_stay_typed_after_using() -> None:
    """`using` keeps the function's whole signature."""
    notify.using(queue="bulk").enqueue("42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_state_is_one_of_seven() -> None:
    """A misspelt state is an error and not zero."""
    fire.jobs.counts()["faild"]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    fire.jobs.counts().faild = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    fire.jobs.iterate(limit=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def continuations_accept_the_arguments_of_the_child() -> None:
    """`then` is checked with the child's signature, not the parent's."""
    job = create_report.enqueue("a")
    job.then(notify, "42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.then(notify)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    job.then(print, 42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def results_have_the_type_of_the_function() -> None:
    """A result is not Any."""
    report = create_report.enqueue("a").result()
    notify.enqueue(report)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@fire.resource
def pool() -> Iterator[dict[str, str]]:
    """A resource has the type that it yields."""
    yield {}


@fire.resource  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator]
def no_resource() -> int:
    """A function that yields nothing is not a resource."""
    return 1


@fire.task
def takes_it(key: str, pool: dict[str, str] = pool) -> str:
    """The default has the type of the opened resource."""
    return pool[key]


@fire.task
def takes_another(key: str, pool: list[str] = pool) -> str:  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    """The resource is not a list, so the annotation is wrong."""
    return key


def calls_with_resources_are_checked() -> None:
    """Calls of tasks with resources are checked like any other."""
    takes_it.enqueue(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    takes_it.enqueue("a", ["b"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    takes_it.enqueue("a", pools={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
