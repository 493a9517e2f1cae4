"""`Tester`: jobs run when a test requests it, as a server would run them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from firelock import (
    ConfigurationError,
    Firelock,
    JobContext,
    JobFailed,
    Retry,
    Snooze,
    State,
    StorageUnavailable,
    UnknownTask,
)
from firelock.model.job import NewJob
from firelock.testing import Drained, Tester
from tests.core.fakes import plugin


async def one_turn():
    """Wait until the event loop has run once."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


class Shop:
    """An app with a task of each kind, and the list of their notes."""

    def __init__(self, **options):
        self.fire = Firelock("memory://", **options)
        self.notes = []

        def note(text: str) -> str:
            self.notes.append(text)
            return text.upper()

        async def anote(text: str) -> str:
            await one_turn()
            return note(text)

        def fail(text: str) -> None:
            raise ValueError(note(text).lower())

        self.note, self.anote = self.fire.task(name="note")(note), self.fire.task(name="anote")(anote)
        self.fail = self.fire.task(name="fail", retry=Retry.fixed(60, attempts=2, jitter=0))(fail)


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def tester(shop):
    with Tester(shop.fire) as tester:
        yield tester


# ---- draining --------------------------------------------------------------------------------------------


def test_enqueued_job_runs_only_in_a_drain(shop, tester):
    """An enqueued job waits until the test runs it. After the run, its outcome is stored."""
    job = shop.note.enqueue("a")
    before = list(shop.notes)

    drained = tester.drain()

    assert [] == before
    assert Drained(succeeded=1) == drained
    assert "A" == job.result(timeout=0)
    assert ["a"] == shop.notes


def test_drain_continues_until_no_job_is_due(shop, tester):
    """Jobs that jobs enqueue, their continuations and immediate retries run in the same drain."""

    def fails_once(context: JobContext) -> None:
        shop.note.enqueue(f"run {context.attempt}")
        if context.attempt == 1:
            raise ValueError

    task = shop.fire.task(name="fails_once", retry=Retry.fixed(0))(fails_once)
    task.enqueue().then(shop.note, "then")

    drained = tester.drain()

    assert Drained(succeeded=4, retried=1) == drained
    assert ["run 1", "run 2", "then"] == shop.notes


def test_retried_job_runs_after_the_enqueued_jobs(shop, tester):
    """A job with an immediate retry is placed after the enqueued jobs, although no time has passed."""

    def waits() -> None:
        if not shop.notes:
            raise LookupError

    shop.fire.task(name="waits", retry=Retry.fixed(0))(waits).enqueue()
    shop.note.enqueue("a")

    drained = tester.drain()

    assert Drained(succeeded=2, retried=1) == drained


def test_waiting_for_a_missing_result_fails_immediately(shop, tester):
    """No server runs the job while a test waits, so the wait fails immediately.

    The error explains what to do.
    """
    job = shop.note.enqueue("a")

    with pytest.raises(AssertionError, match=r"is enqueued, and no server runs it .* tester\.drain"):
        job.result()

    tester.drain()
    assert "A" == job.result()


def test_drain_counts_every_kind_of_outcome(shop, tester):
    """Each attempt is counted once, by the new state of its job."""

    def snoozes(context: JobContext) -> Snooze | None:
        return Snooze(timedelta(hours=1))

    def deletes_itself(context: JobContext) -> None:
        shop.fire.jobs.get(context.id).delete()

    def gives_up() -> None:
        raise ValueError

    shop.note.enqueue("a")
    shop.fail.enqueue("b")
    shop.fire.task(name="snoozes")(snoozes).enqueue()
    shop.fire.task(name="deletes_itself")(deletes_itself).enqueue()
    shop.fire.task(name="gives_up", retry=Retry.never())(gives_up).enqueue()
    shop.fire.task(name="dropped", retry=Retry.never(on_exceeded="delete"))(gives_up).enqueue()
    shop.fire.task(name="elsewhere", remote=True)(gives_up).enqueue()

    drained = tester.drain()

    expected = Drained(succeeded=1, failed=1, retried=1, snoozed=1, deleted=1, unknown=1, refused=1)
    assert expected == drained
    assert 7 == drained.total


def test_drain_can_be_limited_to_a_number_of_jobs(shop, tester):
    """With a limit, the remaining jobs stay enqueued."""
    jobs = shop.note.enqueue_many([("a",), ("b",), ("c",)])

    drained = tester.drain(limit=2)

    assert Drained(succeeded=2) == drained
    assert ["a", "b"] == shop.notes
    assert State.ENQUEUED == jobs[2].refresh().state


def test_drain_can_be_limited_to_queues(shop, tester):
    """Only jobs in the named queues run, in the order of the queues."""
    shop.note.enqueue("default")
    shop.note.using(queue="second").enqueue("second")
    shop.note.using(queue="first").enqueue("first")

    tester.drain(queues=["first", "second"])

    assert ["first", "second"] == shop.notes


def test_drain_can_raise_the_exception_of_a_task(shop, tester):
    """The drain raises the original error.

    The outcome of the job is stored, and the remaining jobs stay enqueued.
    """
    job = shop.fail.enqueue("a")
    rest = shop.note.enqueue("b")

    with pytest.raises(ValueError, match=r"^a$") as caught:
        tester.drain(raises=True)

    assert "fail" == caught.traceback[-1].name
    assert State.SCHEDULED == job.refresh().state
    assert State.ENQUEUED == rest.refresh().state


def test_unreadable_job_fails_and_can_raise_job_failed(shop, tester):
    """No task raised an error, so JobFailed contains the reason."""
    broken = NewJob("broken", "note", "{", "json", "default", 0, State.ENQUEUED, 0)
    tester.storage.insert([broken])

    with pytest.raises(JobFailed, match="arguments cannot be read"):
        tester.drain(raises=True)

    assert State.FAILED == shop.fire.jobs.get("broken").state


def test_endless_chain_of_jobs_raises_an_error(shop, tester):
    """A job that enqueues itself repeatedly does not block the test run."""

    def again() -> None:
        task.enqueue()

    task = shop.fire.task(name="again")(again)
    task.enqueue()

    with pytest.raises(AssertionError, match="5,000 jobs were run and more are due, next a job of again"):
        tester.drain()

    assert 1 == shop.fire.jobs.counts().by_state[State.ENQUEUED]


def test_pytest_outcome_in_a_task_ends_the_test(shop, tester):
    """A skip, a failure or Ctrl-C inside a task does not count as a failure of the task."""

    def skips() -> None:
        pytest.skip("inside")

    shop.fire.task(name="skips")(skips).enqueue()

    with pytest.raises(pytest.skip.Exception, match="inside"):
        tester.drain()


def test_log_and_progress_of_a_job_are_stored(shop, tester):
    """The log and the progress can be read as usual."""

    def speaks(context: JobContext) -> None:
        context.log("half way")
        context.progress(1, 2)

    job = shop.fire.task(name="speaks")(speaks).enqueue()

    tester.drain()

    assert ["half way"] == [line.text for line in job.log()]
    assert (1, 2) == ((progress := job.progress()).done, progress.total)


def test_hooks_are_called_as_on_a_server():
    """A plugin wraps the run and is notified when the job ends."""
    seen = []
    watching = plugin(
        job_context=lambda task: seen.append(task.name),
        jobs_settled=lambda settled: seen.extend(one.transition.to for one in settled),
    )
    shop = Shop(plugins=[watching])
    with Tester(shop.fire) as tester:
        shop.note.enqueue("a")

        tester.drain()

    assert ["note", State.SUCCEEDED] == seen


def test_drain_of_an_async_task_in_an_event_loop_is_refused(shop, tester):
    """`drain` cannot wait for a coroutine in an event loop. The job does not change, and `adrain` runs it."""

    async def use():
        await shop.anote.aenqueue("a")
        with pytest.raises(ConfigurationError, match=r"await tester\.adrain"):
            tester.drain()
        return await tester.adrain()

    drained = asyncio.run(use())

    assert Drained(succeeded=1) == drained
    assert ["a"] == shop.notes
    assert 1 == tester.enqueued("anote")[0].job.record().attempt


def test_adrain_runs_tasks_of_both_kinds(shop, tester):
    """Coroutines and functions run, and a result can be awaited afterwards."""

    async def use():
        job = await shop.anote.aenqueue("a")
        await shop.note.aenqueue("b")
        return await tester.adrain(), await job.aresult()

    assert (Drained(succeeded=2), "A") == asyncio.run(use())
    assert ["a", "b"] == shop.notes


def test_adrain_can_raise_the_exception_of_a_task(shop, tester):
    """`adrain` raises the original error as `drain` does."""

    async def use():
        await shop.fail.aenqueue("a")
        await tester.adrain(raises=True)

    with pytest.raises(ValueError, match=r"^a$"):
        asyncio.run(use())


# ---- inline runs -----------------------------------------------------------------------------------------


def test_every_kind_of_enqueue_runs_the_job_inline(shop, tester):
    """One job, many jobs, a continuation and calls of several tasks run inline."""
    with tester.inline():
        job = shop.note.enqueue("one")
        first, _ = shop.note.enqueue_many([("a",), ("b",)])
        first.then(shop.note, "c")
        shop.fire.enqueue_many([shop.note.call("d"), shop.anote.call("e")])

    assert ["one", "a", "b", "c", "d", "e"] == shop.notes
    assert (State.SUCCEEDED, "ONE") == (job.state, job.result(timeout=0))


def test_inline_runs_released_continuations(shop, tester):
    """A continuation that is created inside its parent runs when the parent has ended."""

    def parent(context: JobContext) -> None:
        shop.fire.jobs.get(context.id).then(shop.note, "child")
        shop.notes.append("parent")

    task = shop.fire.task(name="parent")(parent)

    with tester.inline():
        task.enqueue()

    assert ["parent", "child"] == shop.notes


def test_inline_failure_is_raised_by_the_enqueue(shop, tester):
    """The task's own error is raised after the outcome of its job was stored."""
    with tester.inline(), pytest.raises(ValueError, match=r"^a$"):
        shop.fail.enqueue("a")

    assert State.SCHEDULED == tester.enqueued("fail")[0].job.state


def test_inline_failures_can_be_suppressed(shop, tester):
    """With raises=False, the state of the job shows the failure."""
    with tester.inline(raises=False):
        job = shop.fail.enqueue("a")

    assert State.SCHEDULED == job.state
    assert "ValueError: a" in job.reason


def test_inline_inner_failure_does_not_fail_the_outer_job(shop, tester):
    """As on a server, the outer job succeeds. The outermost enqueue raises the error."""

    def outer() -> None:
        shop.fail.enqueue("inner")
        shop.notes.append("outer goes on")

    task = shop.fire.task(name="outer")(outer)

    with tester.inline(), pytest.raises(ValueError, match="inner"):
        task.enqueue()

    assert ["inner", "outer goes on"] == shop.notes
    assert State.SUCCEEDED == tester.enqueued("outer")[0].job.state


def test_inline_runs_only_jobs_made_due_inside_the_block(shop, tester):
    """Only jobs that become due because of an enqueue inside the block run there."""
    before = shop.note.enqueue("before")

    with tester.inline():
        later = shop.note.schedule(60, "later")
    after = shop.note.enqueue("after")

    assert [] == shop.notes
    assert [State.ENQUEUED, State.SCHEDULED, State.ENQUEUED] == [
        job.refresh().state for job in (before, later, after)
    ]


def test_inline_respects_a_paused_queue(shop, tester):
    """A server would not run the job either."""
    shop.fire.queues.pause("default")

    with tester.inline():
        job = shop.note.enqueue("a")

    assert State.ENQUEUED == job.state


def test_inline_aenqueue_awaits_the_job(shop, tester):
    """Async code uses `aenqueue`. When it returns, both kinds of tasks have run."""

    async def use():
        with tester.inline():
            return [await shop.anote.aenqueue("a"), await shop.note.aenqueue("b")]

    jobs = asyncio.run(use())

    assert ["a", "b"] == shop.notes
    assert [State.SUCCEEDED, State.SUCCEEDED] == [job.state for job in jobs]


def test_inline_async_task_can_enqueue_another_job(shop, tester):
    """The inner job runs on the same loop, inside the outer one."""

    async def outer() -> None:
        await shop.anote.aenqueue("inner")
        shop.notes.append("outer")

    task = shop.fire.task(name="outer")(outer)

    with tester.inline():
        task.enqueue()

    assert ["inner", "outer"] == shop.notes


# ---- failures --------------------------------------------------------------------------------------------


def test_next_runs_of_a_task_can_be_made_to_fail(shop, tester):
    """The requested number of runs raises an error instead of running, and the next retry runs."""
    tester.fail_next(shop.note, ConnectionError("down"), times=1)
    tester.fail_next("anote", TimeoutError)
    job = shop.note.using(retry=Retry.fixed(0)).enqueue("a")
    other = shop.anote.using(retry=Retry.never()).enqueue("b")

    drained = tester.drain()

    assert Drained(succeeded=1, retried=1, failed=1) == drained
    assert ["a"] == shop.notes
    assert "ConnectionError" == job.errors()[0].error.type
    assert "TimeoutError" == other.errors()[0].error.type


def test_failing_an_unknown_task_is_refused(shop, tester):
    """A misspelled name would never cause a failure."""
    with pytest.raises(UnknownTask, match="'mote' is not registered"):
        tester.fail_next("mote", ValueError())


def test_job_survives_the_loss_of_a_server(shop, tester):
    """The job is enqueued again without having run; a crash is counted, but the attempt is not."""
    shop.note.enqueue("a")

    job = tester.lose_server()

    record = job.record()
    assert (State.ENQUEUED, 0, 1) == (record.state, record.attempt, record.crashes)
    assert [] == shop.notes
    assert Drained(succeeded=1) == tester.drain()


def test_server_can_be_lost_after_the_task_has_run(shop, tester):
    """The outcome of the job was not stored, so the task runs twice.

    An idempotent task must tolerate this.
    """
    shop.note.enqueue("a")

    tester.lose_server(after_running=True)
    tester.drain()

    assert ["a", "a"] == shop.notes


def test_losing_a_server_needs_a_due_job(shop, tester):
    """The message lists the jobs that were enqueued instead."""
    shop.note.schedule(60, "a")

    with pytest.raises(AssertionError, match="needs a due job, but none is due") as caught:
        tester.lose_server()

    assert "note('a')" in str(caught.value)


def test_storage_can_be_made_to_fail(shop, tester):
    """The code under test gets StorageUnavailable, but the tester itself continues."""
    job = shop.note.enqueue("a")
    tester.storage.fail_next("insert", times=2)  # a call that fails once is sent again
    tester.storage.fail_next("claim")
    tester.storage.fail_next("apply")

    with pytest.raises(StorageUnavailable):
        shop.note.enqueue("b")

    assert Drained(succeeded=1) == tester.drain()
    assert ["a"] == shop.notes
    assert "A" == job.result(timeout=0)


# ---- apps ------------------------------------------------------------------------------------------------


def test_app_gets_its_own_storage_back(shop):
    """After the block, the app has its own storage, clock and jobs again."""
    storage, clock = shop.fire.storage, shop.fire.client.clock
    job = shop.note.enqueue("own")

    with Tester(shop.fire) as tester:
        shop.note.enqueue("tested")
        tested = tester.enqueued()

    assert ["note"] == [one.task for one in tested]
    assert storage is shop.fire.storage
    assert clock is shop.fire.client.clock
    assert [job] == list(shop.fire.jobs.find())
    assert [] == shop.notes


def test_locks_belong_to_the_storage_of_the_tester(shop):
    """A lock that is held in the block is not held outside of it."""
    with Tester(shop.fire), shop.fire.lock("a") as inside:
        fences = [inside.fence]
    with shop.fire.lock("a", timeout=0) as outside:
        fences.append(outside.fence)

    assert [1, 1] == fences


def test_testers_can_be_nested(shop):
    """The inner block has its own jobs. After it, the outer block has its jobs again."""
    with Tester(shop.fire) as outer:
        shop.note.enqueue("outer")
        with Tester(shop.fire) as inner:
            shop.note.enqueue("inner")
            inner.drain()
        outer.drain()

    assert ["inner", "outer"] == shop.notes


def test_apps_can_share_a_tester():
    """The app that has the task runs the job that a client created with a stub."""
    client, server = Firelock("memory://"), Firelock("memory://")

    def charge(amount: int) -> int:
        return -amount

    stub = client.task(name="charge", remote=True)(charge)
    server.task(name="charge")(charge)

    with Tester(client, server) as tester:
        job = stub.enqueue(7)
        drained = tester.drain()

        assert Drained(succeeded=1) == drained
        assert -7 == job.result(timeout=0)


def test_enqueue_in_a_transaction_is_accepted(shop, tester):
    """Code that enqueues in its own transaction can be tested without its database."""
    job = shop.note.using(within=object()).enqueue("a")

    tester.drain()

    assert State.SUCCEEDED == job.refresh().state


def test_tester_needs_an_app():
    """Without an app there is nothing to test."""
    with pytest.raises(ConfigurationError, match="needs at least one app"):
        Tester()
