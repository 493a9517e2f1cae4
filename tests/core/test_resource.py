"""Resources: how they are declared, used by tasks, refused in calls and replaced in tests."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager, contextmanager

import pytest

from firelock import (
    ConfigurationError,
    Firelock,
    FormError,
    JobContext,
    SignatureMismatch,
    State,
    TaskError,
    current_job,
)
from firelock.testing import Tester, replaced


class Shop:
    """An app with a sync and an async resource, tasks that use them, and notes of openings and closings."""

    def __init__(self):
        self.fire = fire = Firelock("memory://")
        self.notes = notes = []

        @fire.resource
        def pool():
            notes.append("open pool")
            yield "pool"
            notes.append("close pool")

        @fire.resource
        async def client(pool=pool):
            notes.append(f"open client of {pool}")
            yield f"client of {pool}"
            notes.append("close client")

        self.pool, self.client = pool, client

        @fire.task(name="count")
        def count(table: str, limit: int = 5, pool: object = pool) -> str:
            return f"{table} {limit} {pool}"

        @fire.task(name="fetch")
        async def fetch(url: str, *, http: object = client) -> str:
            return f"{url} by {http}"

        @fire.task(name="store")
        def store(context: JobContext, key: str, *, pool: object = pool, **further: str) -> str:
            return f"{key} {pool} {sorted(further)} {sorted(context.kwargs)}"

        self.count, self.fetch, self.store = count, fetch, store


@pytest.fixture
def shop():
    return Shop()


# ---- declaring -------------------------------------------------------------------------------------------


def refused(error, match, declare):
    with pytest.raises(error, match=match):
        declare()


@pytest.mark.parametrize(
    "function",
    [lambda: "a value", dict, [].append, asyncio.sleep],
    ids=["a function", "a class", "a method", "a coroutine function"],
)
def test_resource_must_be_a_generator(shop, function):
    """Only a generator can define how to close what it opened."""
    with pytest.raises(ConfigurationError, match=r"because it is not a generator function\. Use a `def`"):
        shop.fire.resource(function)


def test_resource_parameters_must_have_defaults(shop):
    """A resource is never called with an argument."""

    def bucket(name):
        yield name

    with pytest.raises(TaskError, match="Parameter 'name' of resource 'bucket' has no default"):
        shop.fire.resource(bucket)


def test_sync_function_cannot_use_an_async_resource(shop):
    """A thread cannot use a resource that is opened on the event loop.

    This applies to `def` tasks and to `def` resources.
    """

    def send(url, http=shop.client): ...

    def session(http=shop.client):
        yield http

    with pytest.raises(TaskError, match="Task 'send' is a `def`, but its resource 'client' is opened on"):
        shop.fire.task(name="send")(send)
    with pytest.raises(TaskError, match="Resource 'session' is a `def`, but its resource 'client'"):
        shop.fire.resource(session)


def test_resource_parameters_must_be_last(shop):
    """A positional argument after a resource would be bound to a different parameter than expected."""

    def before(pool=shop.pool, limit=5): ...
    def rest(pool=shop.pool, *names): ...
    def only(pool=shop.pool, /): ...

    with pytest.raises(TaskError, match="Parameter 'limit' of Task 'before' follows the resource 'pool'"):
        shop.fire.task(name="before")(before)
    with pytest.raises(TaskError, match="Parameter 'names' of Task 'rest' follows the resource 'pool'"):
        shop.fire.task(name="rest")(rest)
    with pytest.raises(TaskError, match=r"Resource 'pool' of Task 'only' cannot be passed by name\. Put"):
        shop.fire.task(name="only")(only)


def test_use_of_a_resource_outside_of_a_job_is_refused(shop):
    """The error explains how to get the opened resource."""
    with pytest.raises(AttributeError, match=r"Resource pool has no attribute 'execute'.*resource\(pool\)"):
        shop.pool.execute("SELECT 1")

    assert "<resource pool>" == repr(shop.pool)
    assert shop.pool is inspect.unwrap(shop.pool)


# ---- calls -----------------------------------------------------------------------------------------------


def test_call_that_passes_a_resource_is_refused(shop):
    """Calls must not pass a resource by name, by position or with `**`.

    This includes calls of many jobs and recurring jobs.
    """
    is_resource = "'pool' is a resource, which the worker opens for the job: omit it"
    refused(
        SignatureMismatch, f"was called with 'pool'; {is_resource}", lambda: shop.count.enqueue("t", pool=1)
    )
    refused(
        SignatureMismatch,
        f"takes 2 positional arguments, but 3 were given; {is_resource}",
        lambda: shop.count.enqueue("t", 5, "pool"),
    )
    refused(SignatureMismatch, is_resource, lambda: shop.store.enqueue("key", pool="mine"))
    refused(SignatureMismatch, is_resource, lambda: shop.count.enqueue_many([("t", 5, "pool")]))
    refused(SignatureMismatch, is_resource, lambda: shop.count.recur("id", "@daily", "t", pool=1))
    refused(
        SignatureMismatch,
        is_resource,
        lambda: shop.fire.enqueue_many([shop.count.call("t", pool=shop.pool)]),
    )


def test_form_has_no_field_for_a_resource(shop):
    """The dashboard's form and the command line only show and accept the other parameters."""
    names = [parameter.name for parameter in shop.fire.parameters("count")]

    with pytest.raises(FormError) as wrong:
        shop.fire.enqueue_text("count", {"table": "t", "pool": "mine"})

    assert ["table", "limit"] == names
    assert {"pool": "is a resource, which the worker opens for the job; omit it"} == wrong.value.fields
    assert "pool" not in shop.fire.catalogue.get("count").signature


def test_resource_is_not_stored_with_the_arguments(shop):
    """A stored argument that has the name of a resource is refused."""
    job = shop.count.enqueue("t")
    refused(
        SignatureMismatch,
        "'pool' is a resource",
        lambda: shop.fire.recurring.add_or_update(shop.store.call("k", pool="x"), "id", "@daily"),
    )

    assert '{"table":"t"}' == shop.fire.storage.get([job.id])[0].arguments


# ---- with the tester -------------------------------------------------------------------------------------


def test_jobs_share_an_opened_resource(shop):
    """The resource is open from its first use to the end of the block.

    Resources that it depends on are opened first.
    """
    with Tester(shop.fire) as tester:
        jobs = [shop.count.enqueue("a"), shop.count.enqueue("b", 6), shop.store.enqueue("c", d="e")]
        assert [] == shop.notes
        tester.drain(raises=True)
        assert ["open pool"] == shop.notes

        assert ["a 5 pool", "b 6 pool", "c pool ['d'] ['d']"] == [job.result() for job in jobs]
    assert ["open pool", "close pool"] == shop.notes


def test_async_resource_is_open_as_long_as_its_event_loop(shop):
    """The tester's loop exists for one job. On a running loop, the resource is closed when no job runs."""
    with Tester(shop.fire) as tester:
        job = shop.fetch.enqueue("/a")
        tester.drain(raises=True)
        assert "/a by client of pool" == job.result()
        assert ["open pool", "open client of pool", "close client"] == shop.notes

        async def main():
            job = await shop.fetch.aenqueue("/b")
            await tester.adrain(raises=True)
            return await job.aresult()

        assert "/b by client of pool" == asyncio.run(main())
    assert "close client, close pool" == ", ".join(shop.notes[-2:])


def test_replaced_resource_is_not_opened(shop):
    """Jobs get the replacement, even from `current_job().resource`.

    If two replacements are nested, the inner one is used.
    """

    @shop.fire.task(name="ask")
    async def fetch_both() -> str:
        job = current_job()
        return f"{job.resource(shop.pool)} {await job.aresource(shop.client)}"

    with Tester(shop.fire) as tester, replaced(shop.pool, by="fake"), replaced(shop.client, by="fake client"):
        jobs = [shop.count.enqueue("a"), shop.fetch.enqueue("/b"), fetch_both.enqueue()]
        with replaced(shop.pool, by="inner"):
            assert "t 5 inner" == shop.count("t")
        tester.drain(raises=True)

        assert ["a 5 fake", "/b by fake client", "fake fake client"] == [job.result() for job in jobs]
    assert [] == shop.notes


def test_only_a_resource_can_be_replaced_or_requested(shop):
    """For anything else, the error names the value."""
    with pytest.raises(ConfigurationError, match=r"Expected a resource, got 'pool'\. Use @fire\.resource"):  # noqa: SIM117 - one of them raises
        with replaced("pool", by="fake"):
            pass
    with pytest.raises(ConfigurationError, match="Expected a resource, got None"):
        JobContext.fake().resource(None)


# ---- functions called directly ---------------------------------------------------------------------------


def test_task_called_as_a_function_accepts_a_resource(shop):
    """The resource is passed by name or by position. If it is omitted, a job or a test must provide it."""
    assert "t 5 mine" == shop.count("t", pool="mine")
    assert "t 6 mine" == shop.count("t", 6, "mine")
    assert "k mine [] []" == shop.store(JobContext.fake(), "k", pool="mine")
    assert "/ by mine" == asyncio.run(shop.fetch("/", http="mine"))

    with pytest.raises(
        LookupError, match=r"Resource pool is not open because no worker runs this function\. Pass"
    ):
        shop.count("t")
    with pytest.raises(LookupError, match="Resource client is not open"):
        asyncio.run(shop.fetch("/"))


def test_task_called_inside_a_job_uses_the_resources_of_the_job(shop):
    """A task that calls another one as a function does not have to pass the resources that both use."""

    @shop.fire.task(name="both")
    async def both() -> str:
        return f"{await shop.fetch('/')}, {shop.count('t')}"

    with Tester(shop.fire) as tester:
        job = both.enqueue()
        tester.drain(raises=True)

        assert "/ by client of pool, t 5 pool" == job.result()


def test_async_resource_must_be_awaited(shop):
    """In a thread, reading an async resource raises an error that shows how to await it."""

    @shop.fire.task(name="thread")
    def thread() -> None:
        current_job().resource(shop.client)

    with Tester(shop.fire) as tester:
        thread.enqueue()
        with pytest.raises(LookupError, match=r"await current_job\(\).aresource\(client\)"):
            tester.drain(raises=True)


# ---- opening and closing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_resource_that_failed_to_open_is_opened_by_the_retry(is_async):
    """The first attempt fails with the error that the resource raised."""
    fire, tries = Firelock("memory://"), []

    def begin():
        tries.append(len(tries))
        if len(tries) < 2:
            raise ConnectionError("database is away")

    @fire.resource
    def pool():
        begin()
        yield "pool"

    @fire.resource
    async def apool():
        begin()
        yield "pool"

    @fire.task(name="work")
    async def work(pool: object = apool if is_async else pool) -> object:
        return pool

    with Tester(fire) as tester:
        job = work.enqueue()
        drained = tester.drain()
        assert (1, State.SCHEDULED) == (drained.retried, job.refresh().state)
        assert "database is away" in job.refresh().reason
        tester.clock.advance(hours=1)

        assert "pool" == job.result()


def test_error_of_closing_a_resource_is_logged(caplog):
    """The worker still stops, and the other resources are closed."""
    fire, notes = Firelock("memory://"), []

    @fire.resource
    def first():
        yield 1
        notes.append("first closed")

    @fire.resource
    @contextmanager
    def second(first=first):
        yield first + 1
        raise OSError("cannot be closed")

    @fire.resource
    @asynccontextmanager
    async def third(second=second):
        yield second + 1
        raise OSError("neither")

    @fire.task(name="add")
    async def add(number: int, third: int = third) -> int:
        return number + third

    with Tester(fire) as tester:
        job = add.enqueue(1)
        tester.drain(raises=True)
        assert 4 == job.result()

    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert ["Resource third could not be closed.", "Resource second could not be closed."] == logged
    assert ["first closed"] == notes
