"""`tester.clock`: time stands still until a test advances it, and stops at each due time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from firelock import ConfigurationError, Cron, Every, Firelock, JobContext, Retry, State
from firelock.testing import Drained, Tester

START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def one_turn():
    """Wait until the event loop has run once."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


@pytest.fixture
def fire():
    return Firelock("memory://")


@pytest.fixture
def tester(fire):
    with Tester(fire, start=START) as tester:
        yield tester


@pytest.fixture
def clock(tester):
    return tester.clock


@pytest.fixture
def seen():
    return []


@pytest.fixture
def note(fire, clock, seen):
    """Return a task that records when it runs and its due time, relative to the start."""

    def note(context: JobContext) -> None:
        seen.append((clock.now - START, context.due_at - START))

    return fire.task(name="note")(note)


def test_scheduled_job_runs_at_its_due_time(clock, note, seen):
    """The job runs exactly at its due time, because the clock does not move until the test moves it."""
    job = note.schedule(HOUR)

    before = clock.advance(minutes=59)
    after = clock.advance(days=2)

    assert (START, START + HOUR) == (job.created_at, job.due_at)
    assert (Drained(), Drained(succeeded=1)) == (before, after)
    assert [(HOUR, HOUR)] == seen
    assert START + timedelta(days=2, minutes=59) == clock.now


def test_due_jobs_run_before_the_clock_advances(clock, note, seen):
    """An enqueued job runs at the time before the advance."""
    note.enqueue()

    clock.advance(HOUR)

    assert [(timedelta(0), timedelta(0))] == seen


def test_advance_runs_the_retries(fire, clock):
    """Each retry runs when its delay has passed. After the last retry, the job has failed."""

    def fails() -> None:
        raise ValueError

    job = fire.task(name="fails", retry=Retry.listed([60, 600], attempts=2, jitter=0))(fails).enqueue()

    drained = clock.advance(minutes=11)

    assert Drained(retried=2, failed=1) == drained
    assert State.FAILED == job.refresh().state
    assert [0, 60, 660] == [(one.at - job.created_at).total_seconds() for one in job.errors()]


def test_advance_fires_a_recurring_job_at_each_time(clock, note, seen):
    """A recurring job fires as often as it would on servers during the same time."""
    note.recur("hourly", Cron("0 * * * *"))

    drained = clock.advance(hours=3)

    assert Drained(succeeded=3) == drained
    assert [(HOUR * n, HOUR * n) for n in (1, 2, 3)] == seen


def test_jump_runs_no_jobs_and_counts_as_an_outage(tester, clock, note, seen):
    """The misfire policy applies to missed times, so one run replaces many."""
    note.recur("hourly", Every(HOUR))

    clock.jump(hours=5)
    assert [] == seen
    tester.drain()

    assert [(5 * HOUR, 5 * HOUR)] == seen


def test_clock_cannot_go_back(clock):
    """A negative duration and a time in the past are refused."""
    with pytest.raises(ConfigurationError, match="duration must not be negative"):
        clock.advance(hours=-1)
    with pytest.raises(ConfigurationError, match="duration must not be negative"):
        clock.jump(seconds=-1)
    with pytest.raises(ConfigurationError, match="must not go back to"):
        clock.advance_to(START - HOUR)

    assert START == clock.now


def test_units_of_an_advance_are_added(clock):
    """A duration and units can be combined."""
    clock.advance(HOUR, days=1, hours=1, minutes=1, seconds=1.5)

    assert START + timedelta(days=1, hours=2, minutes=1, seconds=1.5) == clock.now


def test_advance_can_raise_the_exception_of_a_task(fire, clock):
    """The clock stops at the time of the failure."""

    def fails() -> None:
        raise ValueError("boom")

    fire.task(name="fails")(fails).schedule(HOUR)

    with pytest.raises(ValueError, match="boom"):
        clock.advance(hours=2, raises=True)

    assert START + HOUR == clock.now


def test_advance_with_too_many_due_times_raises_an_error(clock, note):
    """Advancing a year in seconds does not block the test run."""
    note.recur("seconds", Every(timedelta(seconds=1)))

    with pytest.raises(AssertionError, match=r"passed 2,000 due times.*or jump"):
        clock.advance(days=365)


def test_running_job_can_advance_the_clock(fire, tester, clock, note, seen):
    """While a job advances the clock, no other job runs. Jobs that have become due run afterwards."""

    def slow() -> None:
        clock.advance(hours=2)
        seen.append("slow")

    note.schedule(HOUR)
    fire.task(name="slow")(slow).enqueue()

    tester.drain()

    assert ["slow", (2 * HOUR, HOUR)] == seen


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
def test_job_times_out_by_the_manual_clock(fire, tester, clock, is_async):
    """The task is cancelled as on a server, and its job fails with TimeoutError."""

    def slow(context: JobContext) -> None:
        clock.advance(seconds=61)
        context.raise_if_cancelled()

    async def aslow() -> None:
        clock.advance(seconds=61)
        await one_turn()

    task = fire.task(name="slow", timeout=60, retry=Retry.never())(aslow if is_async else slow)
    job = task.enqueue()

    tester.drain()

    assert State.FAILED == job.refresh().state
    assert "timed out after 60 s" == job.error.message


def test_job_within_its_timeout_continues(fire, tester, clock):
    """A run of exactly a minute does not exceed a timeout of a minute."""

    def slow(context: JobContext) -> bool:
        clock.advance(seconds=60)
        return context.cancelled

    job = fire.task(name="slow", timeout=60)(slow).enqueue()

    tester.drain()

    assert job.result(timeout=0) is False


def test_aadvance_runs_coroutines_on_the_running_loop(fire, clock, seen):
    """This also applies to `aadvance_to`."""

    async def anote() -> None:
        await one_turn()
        seen.append(clock.now - START)

    task = fire.task(name="anote")(anote)

    async def use():
        await task.aschedule(HOUR)
        await task.aschedule(2 * HOUR)
        return await clock.aadvance(hours=1) + await clock.aadvance_to(START + 2 * HOUR)

    drained = asyncio.run(use())

    assert Drained(succeeded=2) == drained
    assert [HOUR, 2 * HOUR] == seen
