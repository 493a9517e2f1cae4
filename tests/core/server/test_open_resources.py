"""Resources on a server: opened once per worker process and once per job process, closed at the stop."""

from __future__ import annotations

import asyncio
import os
import threading
from contextvars import ContextVar
from textwrap import dedent

import pytest

from firelock import ConfigurationError, Firelock, JobContext, Settings, State
from firelock.testing import replaced
from tests.core.fakes import FailingStorage, until

SETTINGS = Settings(heartbeat=0.1, session_timeout=2, sweep=0.1, poll=0.2, grace=5)

tenant = ContextVar("tenant", default="nobody")


@pytest.fixture
def fire():
    fire = Firelock(FailingStorage(), settings=SETTINGS)
    yield fire
    fire.close()


async def one_turn():
    """Wait for one turn of the event loop."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


class Kept:
    """The value of a resource; it records where it was opened and closed."""

    def __init__(self):
        self.opened_by = threading.current_thread().name
        self.tenant = tenant.get()
        self.closed_by = None


def a_resource(fire, opened):
    @fire.resource
    def pool():
        opened.append(kept := Kept())
        yield kept
        kept.closed_by = threading.current_thread().name

    return pool


def an_async_resource(fire, opened):
    @fire.resource
    async def client():
        kept = Kept()
        async with asyncio.timeout(None):  # must be exited in the asyncio task that entered it
            opened.append(kept)
            yield kept
            kept.closed_by = threading.current_thread().name

    return client


def test_jobs_of_a_worker_process_share_a_resource(fire):
    """Concurrent jobs open a resource only once, outside of their own contexts.

    It is closed after the server has stopped.
    """
    opened, together = [], threading.Barrier(4)
    pool = a_resource(fire, opened)

    @fire.task(name="work")
    def work(context: JobContext, pool: object = pool) -> int:
        together.wait(10)
        assert context.resource(pool_of_module) is pool
        return id(pool)

    pool_of_module = pool

    tenant.set("acme")
    with fire.server(workers=4, async_workers=1):
        jobs = work.enqueue_many([()] * 4)
        assert 1 == len({job.result(timeout=10) for job in jobs})
        (kept,) = opened
        assert kept.closed_by is None

    assert kept.closed_by is not None
    assert "nobody" == kept.tenant


@pytest.mark.parametrize("takes", ["async", "sync"])
def test_async_resource_is_opened_on_the_event_loop(fire, takes):
    """An async resource is opened and closed on the loop, by one asyncio task.

    Other resources are opened and closed in a thread.
    """
    opened = []
    resource = (an_async_resource if takes == "async" else a_resource)(fire, opened)

    @fire.task(name="work")
    async def work(kept: object = resource) -> str:
        await one_turn()
        return f"{id(kept)} {threading.current_thread().name}"

    with fire.server(workers=1, async_workers=8):
        jobs = work.enqueue_many([()] * 8)
        assert 1 == len({job.result(timeout=10) for job in jobs})
        (kept,) = opened
        ran_in = jobs[0].result().split()[1]

    assert "firelock-loop" == ran_in
    assert (takes == "async") is (kept.opened_by == kept.closed_by == ran_in)
    assert kept.closed_by is not None


def test_timed_out_job_does_not_cancel_the_opening_of_its_resource(fire):
    """The timeout affects only the waiting job.

    The next job uses the resource, which has been opened by then.
    """
    is_opened, opened = threading.Event(), []

    @fire.resource
    async def slow():
        opened.append(1)
        await asyncio.to_thread(is_opened.wait, 10)
        yield "slow"

    @fire.task(name="work")
    async def work(slow: object = slow) -> object:
        return slow

    with fire.server(workers=1, async_workers=2):
        hasty = work.using(timeout=0.01).enqueue()
        until(lambda: hasty.refresh().state is State.SCHEDULED)
        is_opened.set()
        assert "slow" == work.enqueue().result(timeout=10)

    assert "TimeoutError" in hasty.reason
    assert [1] == opened


def test_resource_that_never_opens_does_not_block_the_stop(fire):
    """When the server stops, it cancels the opening of the resource and hands the job back."""
    came = threading.Event()

    @fire.resource
    async def never():
        came.set()
        await asyncio.get_running_loop().create_future()
        yield

    @fire.task(name="work")
    async def work(never: object = never) -> None: ...

    server = fire.server(workers=1, async_workers=1).start()
    job = work.enqueue()
    assert came.wait(10)
    server.stop(grace=0)

    assert State.ENQUEUED is job.refresh().state


def test_replaced_resource_is_used_by_an_embedded_server(fire):
    """The jobs run in the same process, so they use the replacement."""
    opened = []
    pool = a_resource(fire, opened)

    @fire.task(name="work")
    def work(pool: object = pool) -> object:
        return pool

    with replaced(pool, by="fake"), fire.server(workers=1, async_workers=1):
        assert "fake" == work.enqueue().result(timeout=10)
    assert [] == opened


# ---- job processes ---------------------------------------------------------------------------------------

APART = """
import asyncio, os
from firelock import Firelock, Settings

fire = Firelock(os.environ["APART_STORAGE"], settings=Settings(
    heartbeat=0.1, session_timeout=2, sweep=0.1, poll=0.2, grace=5))

def note(what):
    with open(os.environ["APART_NOTES"], "a") as file:
        file.write(f"{what}\\n")

@fire.resource
def pool():
    note("open pool")
    yield "pool"
    note("close pool")

@fire.resource
async def client(pool=pool):
    note("open client")
    yield asyncio.get_running_loop()
    note("close client")

@fire.task(name="sync", executor="process")
def sync(pool: object = pool) -> object:
    return [pool, os.getpid()]

@fire.task(name="asynchronous", executor="process")
async def asynchronous(client: object = client) -> list[object]:
    left = asyncio.create_task(asyncio.Event().wait())  # left behind: it ends with its job
    await asyncio.wait([left], timeout=0.001)
    return [len(asyncio.all_tasks()), client is asyncio.get_running_loop(), os.getpid()]
"""


def test_job_process_opens_its_own_resources(tmp_path, monkeypatch):
    """All jobs of the process share its resources, on one loop that continues between them.

    The resources are closed when the process ends.
    """
    monkeypatch.setenv("APART_STORAGE", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.setenv("APART_NOTES", str(tmp_path / "notes"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "apart_with_resources.py").write_text(dedent(APART))
    import apart_with_resources as app

    with app.fire, app.fire.server(workers=1, async_workers=1):
        first, second = (app.asynchronous.enqueue().result(timeout=30) for _ in range(2))
        last = app.sync.enqueue().result(timeout=30)

    # the job, the asyncio task that it left running, and the task that keeps the client open
    assert [3, True] == first[:2] == second[:2]
    assert ["pool", first[2]] == last
    assert os.getpid() != first[2] == second[2]
    assert ["open pool", "open client", "close client", "close pool"] == (
        (tmp_path / "notes").read_text().splitlines()
    )


# ---- the host's event loop -------------------------------------------------------------------------------


def test_async_jobs_run_on_the_event_loop_of_the_host(fire, our_threads):
    """The jobs run in the host's thread, concurrently with its coroutines.

    Their resources are closed on the host's loop when the server stops.
    """
    opened = []
    client = an_async_resource(fire, opened)

    @fire.task(name="work")
    async def work(client: object = client) -> str:
        await one_turn()
        return threading.current_thread().name

    @fire.task(name="block")
    def block() -> str:
        return threading.current_thread().name

    async def main():
        async with fire.server(workers=1, async_workers=4, loop=asyncio.get_running_loop()):
            jobs = [await work.aenqueue() for _ in range(8)]
            names = {await job.aresult(timeout=10) for job in jobs}
            of_sync_job = await (await block.aenqueue()).aresult(timeout=10)
        return names, of_sync_job

    names, of_sync_job = asyncio.run(main())

    assert {threading.current_thread().name} == names == {opened[0].opened_by} == {opened[0].closed_by}
    assert "firelock-worker-0" == of_sync_job
    assert "firelock-loop" not in our_threads()


def test_jobs_on_the_event_loop_of_the_host_are_cancelled_at_the_stop(fire):
    """When the server stops, it cancels jobs that do not end in time, and hands them back."""

    @fire.task(name="wait")
    async def wait() -> None:
        came.set_result(None)
        await asyncio.get_running_loop().create_future()

    async def main():
        server = fire.server(workers=1, async_workers=4, loop=asyncio.get_running_loop())
        await asyncio.to_thread(server.start)
        job = await wait.aenqueue()
        await came
        await asyncio.to_thread(server.stop, grace=0)
        return await job.arefresh()

    with asyncio.Runner() as runner:
        came = runner.get_loop().create_future()
        assert State.ENQUEUED is runner.run(main()).state


def test_blocking_call_on_the_event_loop_of_the_host_is_refused(fire):
    """`with` and `stop` on the loop that runs the jobs would wait forever, so they are refused.

    The error is raised immediately.
    """
    fire.task(name="work")(lambda: None)

    async def main():
        server = fire.server(loop=asyncio.get_running_loop())
        with pytest.raises(ConfigurationError, match="Use `async with"):
            server.stop()
        with pytest.raises(ConfigurationError, match="runs jobs on this event loop"):  # noqa: SIM117
            with server:
                pass
        assert not server.is_running

    asyncio.run(main())


def test_loop_must_be_an_open_event_loop(fire):
    """A value that is not a loop, or a closed loop, raises a configuration error."""
    loop = asyncio.new_event_loop()
    loop.close()

    with pytest.raises(ConfigurationError, match="loop must be an event loop, got True"):
        fire.server(loop=True)
    with pytest.raises(ConfigurationError, match="is closed"):
        fire.server(loop=loop)


def test_jobs_are_handed_back_if_the_host_closes_its_loop(fire, caplog):
    """If a host closes its loop before it stops the server, the jobs are handed back and do not fail."""

    @fire.task(name="work")
    async def work() -> None: ...

    loop = asyncio.new_event_loop()
    server = fire.server(workers=1, async_workers=1, loop=loop).start()
    loop.close()
    job = work.enqueue()
    until(lambda: "The host closed the event loop" in caplog.text)
    server.stop(grace=0)

    assert (State.ENQUEUED, 0) == (job.refresh().state, fire.storage.get([job.id])[0].attempt)
