"""Code as users write it: mypy --strict and pyright must accept every line and infer the expected types.

`make types` reads this file; it is never run. Code that must be refused is in misuse.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from firelock import (
    Cron,
    Debounce,
    DuplicateJob,
    Every,
    Firelock,
    Job,
    JobContext,
    JobLogLine,
    KeyWait,
    Limit,
    LimitName,
    LimitView,
    RateLimited,
    Retry,
    Snooze,
    State,
    Turns,
    Unique,
    current_job,
)
from firelock.integrations.django import enqueue_on_commit
from firelock.integrations.django import fire as django_fire
from firelock.integrations.django import task as django_task
from firelock.storage import JobFilter
from firelock.testing import replaced

fire = Firelock("sqlite:///firelock.db")
from_environment = Firelock()


@fire.task
def create_report(day: str) -> str:
    """A plain task."""
    return day


@fire.task(queue="critical", retry=Retry(attempts=5), timeout=timedelta(minutes=2))
async def notify(user_id: int) -> None:
    """An asynchronous task with options."""


@fire.task
async def measure(name: str, *, limit: float = 1.0) -> float:
    """An asynchronous task with a result."""
    return limit


@fire.task
def import_when_ready(path: str) -> int | Snooze:
    """A task that may snooze; a snooze is never its result."""
    return Snooze(timedelta(seconds=5)) if not path else 1


@fire.task(queue="imports")
def wait_with_context(job: JobContext, path: str) -> Snooze | str:
    """A task that may snooze, with a context and options."""
    return path or Snooze(5)


@fire.task
async def poll(job: JobContext, path: str) -> list[str] | Snooze | None:
    """An asynchronous task that may snooze."""
    return [path] if path else None


@fire.task(name="poll.plain")
async def poll_plain(path: str) -> float | Snooze:
    """An asynchronous task that may snooze, without a context."""
    return 1.0 if path else Snooze(5)


def snoozes_are_not_results() -> None:
    """The result of a task that may snooze has only the other types."""
    assert_type(import_when_ready.enqueue("a"), Job[int])
    assert_type(import_when_ready.enqueue("a").result(), int)
    assert_type(wait_with_context.enqueue("a"), Job[str])
    assert_type(poll.enqueue("a"), Job[list[str] | None])
    assert_type(poll_plain.enqueue("a"), Job[float])


async def handles_move_and_delete_with_a_reason(job: Job[int]) -> None:
    """Changes of a job may have a reason."""
    assert_type(job.move(queue="bulk", priority=5, reason="night"), Job[int])
    assert_type(await job.amove(queue="bulk"), Job[int])
    assert_type(job.delete(reason="wrong"), Job[int])
    assert_type(await job.arestore(reason="right"), Job[int])
    fire.jobs.move([job.id], queue="bulk")
    await fire.jobs.amove([job.id], priority=3)
    fire.operations.start("move", JobFilter(queue="default"), by="ada", queue="bulk")


@fire.task(aliases=["reports.old_name"], tags=["day:{day}"], priority=5)
def summarise(context: JobContext, day: str, parts: Sequence[int] = ()) -> int:
    """A task that receives its job's context, which is the first parameter and not an argument."""
    context.log("summarising", level="warning")
    context.progress(1, 2)
    context.raise_if_cancelled()
    assert_type(context.id, str)
    assert_type(context.attempt, int)
    assert_type(context.due_at, datetime)
    assert_type(context.cancelled, bool)
    return len(parts)


@fire.task(name="billing.charge", remote=True)
def charge(invoice: str, cents: int) -> None: ...


@fire.task(executor="process")
def crunch(numbers: list[int]) -> list[int]:
    """A task that runs in a job process."""
    return numbers


openai = Limit("tenant:{tenant_id}/openai", rate=90_000, per=60, burst=500, cost="{tokens}")
tenant = Limit("tenant:{tenant_id}", concurrent=4)
in_order = Limit("ledger", concurrent=1, strict=True)
by_hours = Limit("mail", rate=100, per=timedelta(hours=1))


@fire.task(
    limits=[openai, tenant, Turns("tenant:{tenant_id}/fair")],
    unique=Unique(
        "tenant:{tenant_id}/{day}", until="started", at_least=timedelta(minutes=1), conflict="raise"
    ),
    start_before=timedelta(hours=1),
)
def digest(tenant_id: int, tokens: int, day: str) -> int:
    """A task with limits, a unique key and a deadline."""
    return tokens


@fire.task(
    limits=(in_order,), unique=Debounce("doc:{doc}", wait=5, max_wait=timedelta(minutes=1), keep="first")
)
async def save(doc: int) -> None:
    """An asynchronous task that waits until no more calls come."""


def limits_and_keys_are_ordinary_options() -> None:
    """Limits and keys are options of a task and of a call, and a handle returns those of its job."""
    job = digest.enqueue(7, 350, "mon")
    assert_type(job, Job[int])
    assert_type(job.is_new, bool)
    assert_type(job.limits, tuple[str, ...])
    assert_type(job.unique_key, str | None)
    assert_type(job.start_before, datetime | None)
    assert_type(job.refresh().waits_for, str | None)
    assert_type(fire.jobs.held_by([job.id]), list[list[KeyWait]])
    digest.using(limits=[], unique=False, start_before=datetime(2026, 11, 26, tzinfo=UTC)).enqueue(
        7, 1, "tue"
    )
    digest.using(limits=[tenant], unique=Unique()).enqueue(7, 1, day="tue")
    save.using(unique=Debounce(wait=0.5)).enqueue(3)
    assert_type(fire.declared_limits()["tenant"], Limit)
    assert_type(fire.limits.list("tenant:", limit=10), list[LimitView])
    assert_type(fire.limits.names(), list[LimitName])
    view = fire.limits.set("tenant:7", concurrent=8, rate=None, per=timedelta(minutes=1), burst=5)
    assert_type(view, LimitView)
    assert_type((view.concurrent, view.per, view.opens_at), tuple[int | None, timedelta, datetime | None])
    assert_type(fire.limits.spend("tenant:7/openai", -20), float)
    with fire.lock("gpu", slots=2, timeout=0) as lock:
        assert_type(lock.slot, int | None)
    assert_type(RateLimited(timedelta(seconds=20), key="tenant:7").retry_after, timedelta)
    try:
        digest.enqueue(7, 350, "mon")
    except DuplicateJob as error:
        assert_type(error.job_id, str)


def a_task_is_still_a_function() -> None:
    """A call of a task is a call of the function."""
    assert_type(create_report("2026-11-24"), str)
    assert_type(create_report(day="2026-11-24"), str)
    assert_type(summarise(JobContext.fake(), "2026-11-24"), int)


async def an_async_task_is_still_a_coroutine_function() -> None:
    """The awaited call has the function's result."""
    assert_type(await measure("cpu", limit=2.0), float)


def methods_accept_the_arguments_of_the_function() -> None:
    """Arguments are passed by position or name, with defaults.

    A result has the function's type, awaited or not.
    """
    job = create_report.enqueue("2026-11-24")
    assert_type(job.result(timeout=10), str)
    assert_type(create_report.enqueue(day="2026-11-24").result(), str)
    assert_type(measure.enqueue("cpu", limit=2.0).result(), float)
    assert_type(summarise.enqueue("2026-11-24", [1, 2]).result(), int)
    assert_type(crunch.enqueue([1]).result(), list[int])
    notify.schedule(timedelta(days=1), 42)
    notify.schedule(datetime(2026, 11, 24, tzinfo=UTC), user_id=42)
    create_report.recur("nightly", Cron.daily(2, tz="Europe/Istanbul"), "sales")
    create_report.recur("often", Every(timedelta(minutes=5)), day="sales")
    create_report.recur("hourly", "0 * * * *", "sales")
    create_report.enqueue_many([("2026-11-01",), ("2026-11-02",)])
    fire.enqueue_many([create_report.call("2026-11-01"), charge.call("A-1", cents=100)])


def options_keep_the_arguments_typed(session: object) -> None:
    """`using` changes the options of a call and none of its arguments."""
    urgent = notify.using(queue="bulk", priority=5, tags=["eu"], within=session)
    urgent.enqueue(42)
    report = create_report.using(delay=timedelta(minutes=1), retry=Retry(attempts=0))
    assert_type(report.enqueue("2026-11-24").result(), str)


def continuations_are_typed_by_the_child() -> None:
    """`then` takes a task or a task with options, and the child's own arguments."""
    job = create_report.enqueue("2026-11-24")
    job.then(notify, 42)
    job.then(notify.using(on="failed"), user_id=42)
    assert_type(job.then(summarise, "2026-11-24").result(), int)
    assert_type(job.then(measure, "cpu", limit=3.0).then(create_report, "a").result(), str)
    job.then(charge, "A-1", cents=100)


async def every_method_has_an_async_twin() -> None:
    """The twins have the same arguments and results."""
    await notify.aenqueue(42)
    await notify.aschedule(timedelta(days=1), 42)
    job = await measure.aenqueue("cpu")
    await create_report.arecur("nightly", "0 2 * * *", "sales")
    assert_type(await job.aresult(timeout=1), float)
    assert_type((await job.athen(create_report, "2026-11-24")).id, str)
    await (await job.arefresh()).adelete()
    await (await job.arequeue()).arefresh()
    assert_type(await (await (await job.adelete()).arestore()).aresult(timeout=1), float)
    await fire.jobs.aget(job.id)
    assert_type(await create_report.aenqueue_many([("2026-11-24",)]), list[Job[str]])
    assert_type(await job.alog(after=1), list[JobLogLine])
    await fire.jobs.adelete([job.id], reason="not wanted")
    await fire.operations.arun((await fire.operations.astart("delete", JobFilter(queue="x"), by="ann")).id)
    await fire.recurring.aedit("nightly", schedule="0 3 * * *", by="ann")
    async for recurring in fire.recurring:
        assert_type(recurring.id, str)
    await fire.servers.aorder("a server", "quiet")
    await fire.aclose()
    async for every in fire.jobs.aiterate(state="failed"):
        assert_type(every.id, str)
    async with fire.alock("invoice:7", timeout=5):
        pass
    async with fire.server():
        pass


@fire.task
def take_anything(payload: Any, times: int = 1) -> str:
    """A task whose first parameter would accept a context too."""
    return str(payload) * times


@fire.task(queue="bulk")
async def take_an_object(payload: object, *, times: int = 1) -> str:
    """The same, asynchronous and declared with options."""
    return str(payload) * times


async def first_parameter_of_any_type_is_an_argument() -> None:
    """A first parameter for any object is not taken for the context.

    Such a task's arguments are not checked.
    """
    report: str = take_anything.enqueue(7, times=2).result()  # for mypy it is Any
    report = take_anything(payload=7)
    create_report.enqueue(report)
    assert_type(take_an_object.enqueue(payload=7).result(), str)
    assert_type(await take_an_object(7, times=2), str)


@fire.task
def maybe_within_a_job(context: JobContext | None, day: str) -> int:
    """A task that other code may call without a job."""
    return len(day)


@fire.task(queue="bulk")
async def maybe_later(context: JobContext | None = None, day: str = "today") -> int:
    """The same with defaults."""
    return len(day)


def optional_context_is_omitted() -> None:
    """`JobContext | None` is a context like `JobContext`, and a direct call of the function passes one."""
    assert_type(maybe_within_a_job.enqueue("2026-11-24").result(), int)
    assert_type(maybe_within_a_job(JobContext.fake(), "2026-11-24"), int)
    assert_type(maybe_later.enqueue().result(), int)
    assert_type(maybe_later.enqueue(day="2026-11-24").result(), int)


def handles_and_views() -> None:
    """The reads and actions of operators' code have the expected types."""
    job = create_report.enqueue("2026-11-24")
    assert_type(job.id, str)
    if job.state == "failed":
        job.requeue()
    assert_type(job.refresh().result(timeout=10), str)
    assert_type(job.due_at, datetime)
    assert_type(job.next_due_at, datetime | None)
    assert_type(job.attempt, int)
    job.delete()
    fire.jobs.get(job.id).refresh()
    counts = fire.jobs.counts()
    assert_type(counts.failed, int)
    assert_type(counts["failed"], int)
    assert_type(counts[State.FAILED], int)
    for every in fire.jobs.iterate(state="failed", oldest_first=True):
        assert_type(every.attempt, int)
    for found in fire.jobs.find(state="failed"):
        assert_type(found.id, str)
    for recurring in fire.recurring.list():
        fire.recurring.get(recurring.id)
    fire.recurring.trigger("nightly")
    fire.recurring.pause("nightly")
    fire.recurring.resume("nightly")
    fire.recurring.remove("nightly")
    fire.recurring.sync()
    fire.queues.list()
    fire.queues.pause("bulk")
    fire.queues.resume("bulk")
    fire.servers.list()
    current_job().raise_if_cancelled()


def locks_and_servers() -> None:
    """A lock has a fence. A server runs as a context manager, by explicit calls, or until it ends."""
    with fire.lock("invoice:7", timeout=5) as lock:
        assert_type(lock.fence, int)
        assert_type(lock.lost, bool)
    with fire.server(queues=["critical", "default"], workers=20):
        create_report.enqueue("2026-11-24")
    server = fire.server()
    server.start()
    server.stop()
    server.run()
    with Firelock("memory://") as short:
        short.close()


@fire.recurring("clean-up", "0 2 * * *")
@fire.task
def clean_up() -> None:
    """A recurring job that is declared next to its code."""


class Pool:
    """An object that a worker keeps open."""

    def count(self, table: str) -> int:
        """Return a number, as an example of a use."""
        return len(table)


@fire.resource
def pool() -> Iterator[Pool]:
    """A resource has the type that it yields."""
    yield Pool()


@fire.resource
async def client(pool: Pool = pool) -> AsyncIterator[Pool]:
    """A resource that is opened on the event loop and uses another one."""
    yield pool


@fire.resource
@contextmanager
def managed() -> Generator[Pool]:
    """A resource created with contextlib."""
    yield Pool()


@fire.resource
@asynccontextmanager
async def amanaged() -> AsyncGenerator[Pool]:
    """An async resource created with contextlib."""
    yield Pool()


@fire.task
def count(table: str, limit: int = 5, pool: Pool = pool, *, other: Pool = managed) -> int:
    """A task that uses its worker's open resources."""
    return pool.count(table) + other.count(table) + current_job().resource(managed).count(table)


@fire.task(queue="io")
async def fetch(context: JobContext, url: str, http: Pool = client, *, other: Pool = amanaged) -> int:
    """An asynchronous task with resources and its job's context."""
    assert_type(await context.aresource(client), Pool)
    return http.count(url) + other.count(url)


async def resources_are_not_arguments() -> None:
    """Calls omit resources, a direct call may pass others, and a test replaces them."""
    assert_type(count.enqueue("orders", 5).result(), int)
    assert_type(await (await fetch.aenqueue("/")).aresult(), int)
    assert_type(count("orders", pool=Pool(), other=Pool()), int)
    assert_type(await fetch(JobContext.fake(), "/", Pool(), other=Pool()), int)
    with replaced(pool, by=Pool()):
        count("orders")


@django_task(queue="mail")
def send_receipt(order_id: int, *, copy: bool = False) -> str:
    """A task of a Django project."""
    return str(order_id)


@django_task
async def asend_receipt(order_id: int) -> str:
    """An async task of a Django project."""
    return str(order_id)


def django() -> None:
    """The project's app is an ordinary app. Calls that wait for a commit are checked too."""
    assert_type(django_fire, Firelock)
    assert_type(send_receipt.enqueue(7, copy=True), Job[str])
    assert_type(asend_receipt.using(within="default").enqueue(7), Job[str])
    enqueue_on_commit(send_receipt, 7, copy=True)
    enqueue_on_commit(asend_receipt.using(queue="mail"), 7)
