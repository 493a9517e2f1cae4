"""Across modules: whole servers, started with `fire.server()` on a storage with programmable failures."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from firelock import Firelock, JobContext, Retry, Settings, Snooze, current_job
from firelock.arguments.serializer import JsonSerializer
from firelock.errors import JobCancelled, StorageError, StorageUnavailable
from firelock.model.batch import BATCH_TASK, BatchRules
from firelock.model.dependencies import Relations, write_relations
from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.retry import DecisionKind, RetryDecision
from firelock.storage import ClaimRequest, NewSession, Reconciliation
from firelock.storage.memory import MemoryStorage
from tests.core.fakes import FailingStorage, plugin, until

# with this interval, a test that needed a poll would fail by its time limit
LONG_WAITS = Settings(poll=60, heartbeat=1, session_timeout=30, sweep=60)
QUICK = Settings(poll=0.02, heartbeat=0.2, session_timeout=30, sweep=0.1)


class Crew:
    """A server and the tasks that it runs."""

    def __init__(self, *plugins, workers=2, async_workers=4, settings=LONG_WAITS, storage=None, **options):
        self.storage = storage or FailingStorage()
        self.fire = Firelock(self.storage, plugins=list(plugins), settings=settings, **options)
        self.server = self.fire.server(workers=workers, async_workers=async_workers, name="host:a")
        self.opened, self.came = threading.Event(), []

    def start(self):
        """Start the server and return the crew."""
        self.server.start()
        return self

    def task(self, function=lambda: None, **options):
        """Return a new task."""
        return self.fire.task(name=f"task-{len(self.fire.tasks())}", **options)(function)

    def gated(self, **options):
        """Return a task that waits until the test opens the gate."""

        def work():
            self.came.append(current_job().id)
            assert self.opened.wait(20)

        return self.task(work, **options)

    def agated(self, **options):
        """Return a coroutine task that waits until the test opens the gate."""

        async def work():
            self.came.append(current_job().id)
            while not self.opened.is_set():
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.005)

        return self.task(work, **options)

    def count(self, state):
        """Return the number of jobs in this state."""
        return self.fire.jobs.counts().by_state.get(state, 0)

    def until_all(self, state, jobs):
        """Wait until all jobs are in this state."""
        until(lambda: all(job.refresh().state is state for job in jobs))

    def lose_session(self):
        """End the server's session, as the storage does with the session of a silent server."""
        (record,) = [each for each in self.storage.list_sessions() if each.is_alive]
        self.storage.end_session(record.session.id, None, reason="server lost")

    def close(self):
        self.opened.set()
        self.storage.recover()
        self.server.stop(grace=10)
        self.fire.close()


@pytest.fixture
def make_crew():
    """A function that returns a crew of this size with these plugins; the crews are closed at the end."""
    crews = []

    def make(*plugins, **options):
        crews.append(Crew(*plugins, **options))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


@pytest.fixture
def crew(make_crew):
    """A crew with two threads and four coroutines."""
    return make_crew()


# ---- running jobs ----------------------------------------------------------------------------------------


def test_steps_do_not_wait_for_threads_that_jobs_use(make_crew):
    """Jobs in `asyncio.to_thread` may wait for a job whose steps also need a thread."""
    crew = make_crew(async_workers=20)

    async def nothing(): ...

    async def stepped(job: JobContext):
        await job.astep("one", nothing)

    async def waiting():
        asyncio.get_running_loop().set_default_executor(threads)
        await asyncio.to_thread(waited_for.result, 20)

    waited_for = crew.task(stepped).using(delay=3_600).enqueue()
    jobs = crew.task(waiting).enqueue_many([()] * 10)
    with ThreadPoolExecutor(3) as threads:
        crew.start()
        until(lambda: len(crew.fire.jobs.find(state="processing").jobs) == len(jobs))
        waited_for.requeue()

        crew.until_all(State.SUCCEEDED, [waited_for, *jobs])


def test_many_jobs_take_few_round_trips(make_crew):
    """Jobs are settled in batches, together with the next claim."""
    crew = make_crew(workers=1)
    jobs = crew.task().enqueue_many([()] * 1_000)

    crew.start()

    until(lambda: crew.count(State.SUCCEEDED) == len(jobs))
    assert 250 > len(crew.storage.called["exchange"]) + len(crew.storage.called["apply"])


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
def test_job_is_settled_without_waiting_for_the_poll(crew, is_async):
    """Ended jobs are settled even if other jobs continue for hours. New work is found immediately."""

    async def nothing(): ...

    long, short = (
        crew.agated() if is_async else crew.gated(),
        crew.task(nothing if is_async else lambda: None),
    )
    crew.start()
    busy = long.enqueue()
    until(lambda: crew.came)

    for _ in range(20):
        crew.until_all(State.SUCCEEDED, short.enqueue_many([()] * 2))

    assert State.PROCESSING is busy.refresh().state


def test_no_more_jobs_are_claimed_than_there_are_workers(make_crew):
    """Long jobs stay in the queue until a worker is free, so that other servers can take them."""
    crew = make_crew(settings=Settings(poll=60, claim_ahead=0))
    crew.gated().enqueue_many([()] * 10)

    crew.start()
    until(lambda: len(crew.came) == 2)

    assert (2, 8) == (crew.count(State.PROCESSING), crew.count(State.ENQUEUED))


def test_jobs_waiting_for_a_long_job_are_handed_back(make_crew):
    """Jobs that have waited for 50 ms return to their places in the queue, as if they were never claimed."""
    crew = make_crew(workers=1)
    task, gated = crew.task(), crew.gated()
    task.enqueue_many([()] * 3_000)
    crew.start()
    until(lambda: crew.count(State.PROCESSING) > 5)

    crew.fire.enqueue_many([gated.using(priority=9).call(), *[task.using(priority=8).call()] * 400])
    until(lambda: crew.came, 20)
    until(lambda: crew.count(State.PROCESSING) == 1)

    reasons = {
        transition.reason
        for name in ("apply", "exchange")
        for transitions, *_ in crew.storage.called[name]
        for transition in transitions
    }
    left = list(crew.fire.jobs.find(state="enqueued", limit=500))
    assert "waited too long behind others" in reasons
    assert {(0, 1)} == {(job.attempt, len(job.history())) for job in left if job.priority == 8}


def test_server_without_the_right_to_run_claims_nothing(make_crew, caplog):
    """A server that cannot renew its session in time starts nothing until it can renew again."""
    crew = make_crew(settings=Settings(poll=0.02, heartbeat=0.1, session_timeout=0.6))
    task = crew.task()
    crew.start()
    crew.storage.fail_always("renew", StorageUnavailable("cut off"))
    until(lambda: "starting no jobs until it can" in caplog.text)
    job, before = task.enqueue(), len(crew.storage.called["renew"])
    until(lambda: len(crew.storage.called["renew"]) > before)
    meanwhile = job.refresh().state

    crew.storage.recover()

    crew.until_all(State.SUCCEEDED, [job])
    assert State.ENQUEUED is meanwhile


def test_every_kind_of_outcome_is_reported_and_counted(make_crew):
    """Each outcome is reported once to observers and counted with its name.

    A snooze is reported, but is not counted.
    """
    seen = []

    def fail():
        raise ValueError("boom")

    crew = make_crew(
        plugin(jobs_settled=lambda settled: seen.extend((one.job.id, one.transition.to) for one in settled))
    )
    jobs = [
        crew.task(function, **options).enqueue()
        for function, options in (
            (lambda: None, {}), (fail, {"retry": Retry.never()}), (fail, {}), (lambda: Snooze(3_600), {}),
            (fail, {"retry": Retry.never(on_exceeded="delete")}),
        )
    ]  # fmt: skip
    crew.start()
    until(lambda: len(seen) == len(jobs))

    crew.server.stop()

    outcomes = sorted((one.outcome, one.count) for one in crew.storage.timeline(0, 2**62))
    assert [("deleted", 1), ("failed", 1), ("retried", 1), ("succeeded", 1)] == outcomes
    assert sorted((job.id, job.refresh().state) for job in jobs) == sorted(seen)


def test_claimed_jobs_start_although_the_release_failed(make_crew):
    """Continuations follow their parent immediately.

    If their release fails, the jobs claimed by the same exchange still start.
    """
    crew = make_crew(workers=1)
    parents = crew.gated().enqueue_many([()] * 2)
    children = [parent.then(crew.task()) for parent in parents]
    other = crew.task().enqueue()
    crew.storage.fail("release", StorageUnavailable("away"))
    crew.start()
    until(lambda: crew.came)
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, [*parents, *children, other])
    assert 1 == other.refresh().record().fence


def test_invalid_decision_of_a_policy_fails_the_job(crew, caplog):
    """The worker continues, whatever a policy returns for a failure."""

    class Nonsense:
        def decide(self, job, error):
            return RetryDecision(DecisionKind.RETRY, "soon")

    def fail():
        raise ValueError("boom")

    bad, good = crew.task(fail, retry=Nonsense()).enqueue(), crew.task().enqueue()
    crew.start()

    crew.until_all(State.FAILED, [bad])
    crew.until_all(State.SUCCEEDED, [good])
    assert "its outcome could not be created" in bad.refresh().reason
    assert "TypeError" in caplog.text


# ---- coroutines and threads ------------------------------------------------------------------------------


def test_coroutines_and_threads_share_the_queue(crew, our_threads):
    """Each job runs in a thread or on the event loop, depending on its task.

    The loop starts with the first coroutine and stops with the server.
    """
    seen = {}

    async def awork():
        seen["async def"] = threading.current_thread().name

    first = crew.task(lambda: seen.update({"def": threading.current_thread().name})).enqueue()
    later = crew.task(awork)
    crew.start()
    crew.until_all(State.SUCCEEDED, [first])
    before = our_threads("firelock-loop")
    crew.until_all(State.SUCCEEDED, [later.enqueue()])
    crew.server.stop()

    assert seen["def"].startswith("firelock-worker-")
    assert ("firelock-loop", [], []) == (seen["async def"], before, our_threads("firelock-loop"))


def test_claimed_coroutines_without_a_free_worker_are_not_lost(make_crew):
    """A claim for idle threads may return coroutine jobs.

    These wait for a free worker or return to the queue for another server.
    """
    crew = make_crew(workers=5, async_workers=2)
    jobs = [*crew.agated().enqueue_many([()] * 20), *crew.task().enqueue_many([()] * 5)]

    crew.start()
    until(lambda: len(crew.came) == 2)
    until(lambda: crew.count(State.PROCESSING) == 2)
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, jobs)
    assert 20 == len(set(crew.came))


def test_exception_in_a_callback_does_not_end_the_event_loop(crew, caplog):
    """Even an exception that would end a program does not end the coroutines of other jobs."""

    async def leaves():
        loop = asyncio.get_running_loop()
        later = loop.create_future()
        loop.call_soon(exec, "raise SystemExit(3)")
        loop.call_soon(later.set_result, None)
        await later

    jobs = crew.task(leaves).enqueue_many([()] * 2)

    crew.start()

    crew.until_all(State.SUCCEEDED, jobs)
    assert "SystemExit: 3" in caplog.text


def test_coroutine_that_blocks_the_event_loop_is_logged(crew, caplog):
    """The warning is logged once each time the loop is blocked."""

    async def block():
        until(lambda: "blocked" in caplog.text)

    job = crew.task(block).enqueue()

    crew.start()

    crew.until_all(State.SUCCEEDED, [job])
    assert 1 == caplog.text.count("The event loop has been blocked for")
    assert f"by job {job.id} task-0; use a `def` task, or await." in caplog.text


def test_warning_about_a_blocked_loop_mentions_plugins(make_crew, caplog):
    """A plugin's context runs in the coroutine of the job, so the plugin may be the cause."""

    def block():
        until(lambda: "blocked" in caplog.text)

    async def innocent(): ...

    crew = make_crew(plugin(job_context=block))
    job = crew.task(innocent).enqueue()

    crew.start()

    crew.until_all(State.SUCCEEDED, [job])
    assert f"by job {job.id} task-0 or by a plugin's job_context; use a `def` task" in caplog.text


def test_suspect_coroutine_runs_on_the_loop_without_a_job_process(crew):
    """No job process can load an app that is not in a module.

    Its suspects run on the event loop as usual.
    """
    crew.opened.set()
    job = crew.agated().enqueue()
    for number in range(2):
        session = f"crashed-{number}"
        crew.storage.begin_session(NewSession(session, "server-b", "host:b", "host", 7, 0, 1e6))
        crew.storage.claim(ClaimRequest(None, 1, session, crew.storage.clock()))
        crew.storage.end_session(session, [job.id], reason="its process died")

    crew.start()

    crew.until_all(State.SUCCEEDED, [job])
    assert (2, [job.id]) == (job.refresh().record().crashes, crew.came)


# ---- before a run is visible -----------------------------------------------------------------------------


class SlowJson(JsonSerializer):
    """A serializer that reads arguments only when the test allows it."""

    name = "slow"

    def __init__(self):
        super().__init__()
        self.reading, self.may_read = threading.Event(), threading.Event()

    def loads(self, text):
        self.reading.set()
        assert self.may_read.wait(20)
        return super().loads(text)


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
@pytest.mark.parametrize("what", ["deleted", "lost"])
def test_job_lost_before_its_start_does_not_start(make_crew, is_async, what):
    """A job that has not started cannot be cancelled yet.

    The worker therefore checks once more just before the start and reports the loss.
    """
    slow = SlowJson()

    crew = make_crew(plugin(register_serializers=lambda: {"slow": slow}), serializer="slow", settings=QUICK)
    crew.opened.set()
    task = crew.agated() if is_async else crew.gated()
    job = task.enqueue()
    crew.start()
    assert slow.reading.wait(20)
    if what == "deleted":
        job.delete()
        until(lambda: job.refresh().record().session is None)
    else:
        crew.lose_session()
        # a new claim: the worker has discarded the lost one as well
        until(lambda: job.refresh().record().fence > 1)
    slow.may_read.set()

    crew.until_all(State.DELETED if what == "deleted" else State.SUCCEEDED, [job])
    crew.server.stop()
    assert ([] if what == "deleted" else [job.id]) == crew.came


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
def test_cancelled_batch_ends_when_its_unstarted_member_is_dropped(make_crew, is_async):
    """The member was claimed and is dropped before its start.

    The upkeep would check the batch only much later.
    """
    slow, settings = SlowJson(), attrs.evolve(QUICK, sweep=300)
    crew = make_crew(
        plugin(register_serializers=lambda: {"slow": slow}), serializer="slow", settings=settings
    )
    task = crew.agated() if is_async else crew.gated()
    with crew.fire.batch("import") as batch:
        batch.add(task)
    crew.start()
    assert slow.reading.wait(20)

    batch.delete()
    crew.until_all(State.DELETED, [batch])
    slow.may_read.set()

    assert [] == crew.came


def test_job_deleted_while_it_runs_is_not_logged_as_failed(make_crew, caplog):
    """A failure of a deleted job is not logged, so that it does not raise an alarm."""
    crew = make_crew(settings=QUICK)

    def work(context: JobContext) -> None:
        crew.came.append(context.id)
        until(lambda: context.cancelled)
        raise ValueError(context.cancel_reason)

    job = crew.task(work, retry=Retry.never()).enqueue()
    crew.start()
    until(lambda: crew.came)
    job.delete()

    until(lambda: job.refresh().record().session is None)
    assert State.DELETED is job.refresh().state
    assert [] == [record for record in caplog.records if record.name == "firelock.jobs"]


async def a_moment():
    """Return after other coroutines have had a turn."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.001)


class UnawareStorage(FailingStorage):
    """A storage that does not report lost jobs, so that only a refused write reveals the loss."""

    def reconcile(self, session, held):
        """Report that nothing is lost."""
        return Reconciliation(is_session_lost=False, lost=[], unknown=[])


class Lost:
    """A coroutine whose job is deleted while it runs; only a refused write reports this to the server."""

    def __init__(self, crew):
        self.crew, self.deleted, self.ended, self.errors = crew, threading.Event(), threading.Event(), []

    async def until_deleted(self):
        """Return after the job was deleted."""
        self.crew.came.append(current_job().id)
        while not self.deleted.is_set():
            await a_moment()

    async def stay(self, awaitable=None):
        """Await the argument and then wait forever; record the exception that ends the wait."""
        try:
            if awaitable is not None:
                await awaitable
            await asyncio.get_running_loop().create_future()
        except BaseException as error:
            self.errors.append(type(error))
            raise

    def run(self, function, **options):
        """Delete a job of the function while it runs, and return the job as soon as its run has ended."""

        async def work(job: JobContext):
            try:
                await function(job)
            finally:
                self.ended.set()

        job = self.crew.task(work, retry=Retry.never(), **options).enqueue()
        self.crew.start()
        until(lambda: self.crew.came)
        job.delete()
        self.deleted.set()
        assert self.ended.wait(20)
        until(lambda: not job.refresh().record().is_stopping)
        return job


@pytest.fixture
def lost(make_crew):
    """A coroutine whose job will be deleted."""
    return Lost(make_crew(storage=UnawareStorage()))


@pytest.mark.parametrize("is_much", [False, True], ids=["a word", "much"])
@pytest.mark.parametrize("is_async", [False, True], ids=["emit", "aemit"])
def test_coroutine_is_cancelled_by_a_refused_write_of_its_stream(lost, is_async, is_much):
    """The coroutine is cancelled once, whether a background thread or `emit` itself writes the stream.

    `emit` writes a large amount of data itself.
    """
    text = "word" * (100_000 if is_much else 1)

    async def streams(job):
        await lost.until_deleted()
        await lost.stay(job.aemit(text) if is_async else job.emit(text))

    job = lost.run(streams)

    assert [asyncio.CancelledError] == lost.errors
    assert State.DELETED is job.refresh().state


def test_coroutine_is_cancelled_when_its_background_task_loses_the_job(lost):
    """No code awaits the exception that the step raises in the background task."""

    async def nothing(): ...

    async def works(job):
        await lost.until_deleted()
        background = asyncio.create_task(job.astep("one", nothing))
        try:
            await lost.stay()
        finally:
            await asyncio.wait([background])
            assert isinstance(background.exception(), JobCancelled)

    lost.run(works)

    assert [asyncio.CancelledError] == lost.errors


def test_coroutine_can_clean_up_after_a_step_reports_the_loss(lost):
    """After the exception of the step, the coroutine is not interrupted again."""
    cleaned = []

    async def nothing(): ...

    async def works(job):
        await lost.until_deleted()
        try:
            await job.astep("one", nothing)
        finally:
            for _ in range(10):
                await a_moment()
            cleaned.append(job.id)

    job = lost.run(works)

    assert [job.id] == cleaned


def test_timeout_ends_a_coroutine_that_ignores_the_loss_of_its_job(lost):
    """The coroutine has already received the exception about the loss, so only the timeout cancels it."""

    async def nothing(): ...

    async def works(job):
        await lost.until_deleted()
        with pytest.raises(JobCancelled):
            await job.astep("one", nothing)
        await lost.stay()

    lost.run(works, timeout=0.2)

    assert [asyncio.CancelledError] == lost.errors


def test_start_of_a_long_run_is_stored(make_crew):
    """After one second, the start is stored once while the job still runs."""
    crew = make_crew(settings=QUICK)
    job = crew.gated().enqueue()
    crew.start()
    until(lambda: crew.came)
    before = job.refresh().started_at

    until(lambda: job.refresh().started_at)
    reports = len(crew.storage.called["reconcile"])
    until(lambda: len(crew.storage.called["reconcile"]) > reports)

    starts = [held.started_at for _, helds in crew.storage.called["reconcile"] for held in helds]
    assert (None, 1) == (before, sum(at is not None for at in starts))


# ---- outages ---------------------------------------------------------------------------------------------


def test_outage_is_logged_once(crew, caplog):
    """The beginning and the end of an outage are each logged once.

    Outcomes are kept in the meantime and sent later.
    """
    caplog.set_level(logging.INFO)
    job = crew.gated().enqueue()
    crew.start()
    until(lambda: crew.came)
    for verb in ("apply", "exchange"):
        crew.storage.fail_always(verb, StorageUnavailable("down"))
    crew.opened.set()
    until(lambda: len(crew.storage.called["exchange"]) >= 3)

    crew.storage.recover()

    crew.until_all(State.SUCCEEDED, [job])
    until(lambda: "Storage available again after" in caplog.text)
    assert 1 == caplog.text.count("Storage unavailable; keeping the outcomes of jobs and retrying: down")


def test_longer_pauses_on_a_full_disk_are_logged(crew, caplog):
    """The storage determines the maximum pause between two attempts."""
    error = StorageUnavailable("the disk is full")
    error.longest_pause = 30.0
    crew.storage.fail_always("claim", error)
    crew.task()
    crew.start()

    until(lambda: "The storage logs each refused call, so retries are up to 30 s apart." in caplog.messages)


def test_refused_claim_does_not_lose_outcomes(crew, caplog):
    """If an exchange is refused, its jobs are settled without a claim."""
    job = crew.gated().enqueue()
    crew.start()
    until(lambda: crew.came)
    for verb in ("claim", "exchange"):
        crew.storage.fail_always(verb, StorageError("no such queue"))
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, [job])
    assert "The storage rejected a combined settle and claim; settling first, then claiming." in caplog.text


def test_claim_committed_without_a_reply_is_reconciled_soon(make_crew):
    """The jobs of this claim return to their queue and run long before the next heartbeat.

    At a heartbeat, the reconciliation would find them as well.
    """
    crew = make_crew(settings=attrs.evolve(QUICK, session_timeout=3_000, heartbeat=1_000))
    first = crew.gated().enqueue()
    crew.start()
    until(lambda: crew.came)
    jobs = crew.task().enqueue_many([()] * 3)
    crew.storage.fail("exchange", StorageError("the reply cannot be read"), is_late=True)
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, [first, *jobs])


def test_unexpected_error_does_not_end_the_loops(crew, caplog):
    """Neither the dispatcher's loop nor the loop that waits for work ends. Each error is logged."""
    task = crew.task()
    crew.storage.fail("wait", ArithmeticError("unheard of"))
    crew.storage.fail("claim", *[RuntimeError("a bug of a driver")] * 4)
    crew.start()
    job = task.enqueue()

    crew.until_all(State.SUCCEEDED, [job])
    assert 4 == caplog.text.count("Unexpected error in the dispatcher; continuing.")
    until(lambda: "unheard of" in caplog.text)


class Picky(FailingStorage):
    """A storage that refuses the result "poison" and every end of the banned jobs."""

    def __init__(self):
        super().__init__()
        self.banned = set()
        self.outages = []

    def apply(self, transitions, **options):
        if self.outages and transitions[0].to is State.FAILED:
            raise self.outages.pop()
        for transition in transitions:
            if transition.result == '"poison"' or transition.job_id in self.banned:
                raise StorageError("value too long")
        return MemoryStorage.apply(self, transitions, **options)


@pytest.mark.parametrize("outages", [[], [StorageUnavailable("away")]], ids=["there", "away"])
def test_outcome_that_cannot_be_stored_fails_only_its_job(make_crew, caplog, outages):
    """The job fails with the storage's message as soon as the storage is reachable.

    The outcomes of other jobs are stored unchanged.
    """
    crew = make_crew(storage=Picky())
    crew.storage.outages += outages
    others, bad = crew.task(), crew.task(lambda: "poison")
    jobs = [*others.enqueue_many([()] * 3), bad.enqueue(), *others.enqueue_many([()] * 3)]

    crew.start()
    until(lambda: crew.count(State.SUCCEEDED) + crew.count(State.FAILED) == len(jobs))

    poisoned = jobs.pop(3).refresh()
    expected = "its outcome could not be stored: value too long"
    assert (State.FAILED, expected) == (poisoned.state, poisoned.reason)
    assert ("host:a", True, True) == (
        poisoned.server, poisoned.started_at is not None, poisoned.record().expires_at is not None
    )  # fmt: skip
    assert {State.SUCCEEDED} == {job.refresh().state for job in jobs}
    assert f"The outcome of job {poisoned.id} cannot be stored: value too long" in caplog.text


def test_outcome_that_can_never_be_stored_does_not_block_others(make_crew, caplog):
    """The outcome is discarded, and the next reconciliation finds its job."""
    crew = make_crew(storage=Picky())
    task = crew.task()
    bad, *jobs = task.enqueue_many([()] * 4)
    crew.storage.banned.add(bad.id)

    crew.start()

    crew.until_all(State.SUCCEEDED, jobs)
    assert f"The failure of job {bad.id} cannot be stored" in caplog.text


# ---- stopping --------------------------------------------------------------------------------------------


class SlowClaims(FailingStorage):
    """A storage whose successful claims return only when the test allows it."""

    def __init__(self):
        super().__init__()
        self.has_claimed, self.may_answer = threading.Event(), threading.Event()

    def call(self, verb, args, kwargs):
        answer = super().call(verb, args, kwargs)
        if verb == "claim" and answer.jobs:
            self.has_claimed.set()
            assert self.may_answer.wait(20)
        return answer


def test_stopping_server_waits_for_a_claim_in_progress(make_crew):
    """The claimed jobs are handed back properly, because the server was not lost."""
    crew = make_crew(storage=SlowClaims())

    def heeds(context: JobContext) -> None:
        until(lambda: context.cancelled)
        context.raise_if_cancelled()

    job = crew.task(heeds).enqueue()
    crew.start()
    assert crew.storage.has_claimed.wait(20)
    stopping = threading.Thread(target=crew.server.stop, kwargs={"grace": 0})
    stopping.start()
    until(lambda: [each for each in crew.storage.list_sessions() if each.is_alive])
    crew.storage.may_answer.set()
    stopping.join(20)

    record = job.refresh().record()
    assert (State.ENQUEUED, 0, 0, "server stopping") == (
        record.state, record.attempt, record.crashes, record.reason
    )  # fmt: skip


# ---- steps, waits, batches -------------------------------------------------------------------------------


def new_batch(crew, task, members):
    """Return a batch with this number of members of the task, stored in one operation."""
    storage, now = crew.storage, crew.fire.client.clock.now()
    batch, *ids = storage.new_ids(members + 1)
    relations = write_relations(Relations(batch_id=batch))
    jobs = [NewJob(batch, BATCH_TASK, "{}", "json", "default", 0, State.AWAITING, now, relations_json=_BATCH)]
    jobs += [
        NewJob(one, task.name, "{}", "json", "default", 0, State.ENQUEUED, now, relations_json=relations)
        for one in ids
    ]
    storage.insert(jobs)
    return crew.fire.jobs.get(batch)


_BATCH = write_relations(Relations(batch=BatchRules("import")))


def test_batches_are_checked_at_most_every_20_ms(make_crew):
    """The interval applies however many members end.

    After the last member has ended, the batch does not wait for a sweep.
    """
    crew = make_crew(workers=2)
    task = crew.task(lambda: None)
    batch = new_batch(crew, task, 500)
    began = time.monotonic()

    crew.start()
    crew.until_all(State.SUCCEEDED, [batch])

    most = (time.monotonic() - began) / 0.020 + 2
    assert 1 <= len(crew.storage.called["release"]) <= most


def test_continuations_of_plain_jobs_are_released_immediately(crew):
    """Continuations are released when their parent ends."""
    task = crew.task(lambda: None)
    first = task.enqueue()
    last = first
    for _ in range(20):
        last = last.then(task)

    crew.start()
    crew.until_all(State.SUCCEEDED, [last])

    assert 20 <= len(crew.storage.called["release"])


@pytest.mark.parametrize("is_async", [False, True])
def test_waiting_job_does_not_occupy_a_worker(make_crew, is_async):
    """One worker runs the caller, the called job, and the caller again."""
    crew = make_crew(workers=1, async_workers=1)
    child = crew.task(lambda: 7)

    def call(job: JobContext) -> int:
        job.emit("calls")
        return job.run("child", child)

    async def acall(job: JobContext) -> int:
        await job.aemit("calls")
        return await job.arun("child", child)

    jobs = [crew.task(acall if is_async else call).enqueue() for _ in range(5)]
    crew.start()

    assert [7] * 5 == [job.result(20) for job in jobs]
    assert ["calls", "calls"] == [chunk.data for chunk in crew.storage.read_stream(jobs[0].id, "out")]


def test_emitted_output_is_stored_while_the_job_runs(crew):
    """The output is stored within a moment, even if the task emits nothing more."""

    def talk(job: JobContext) -> None:
        job.emit("said")
        assert crew.opened.wait(20)

    job = crew.task(talk).enqueue()
    crew.start()

    (chunk,) = until(lambda: crew.storage.read_stream(job.id, "out"))
    assert ("said", State.PROCESSING) == (chunk.data, job.refresh().state)


def test_timeout_ends_a_job_that_waits_for_its_steps(make_crew):
    """The timeout applies even if the job requested a suspension and another step does not end."""
    crew = make_crew()

    async def never() -> None:
        await asyncio.Event().wait()

    async def stuck(job: JobContext) -> None:
        await asyncio.gather(job.asleep("night", 3_600), job.astep("never", never))

    job = crew.task(stuck, timeout=0.2, retry=Retry.never()).enqueue()
    crew.start()
    crew.until_all(State.FAILED, [job])

    assert "timed out after 0.2 s" in job.error.message


def test_running_step_is_not_garbage_collected(make_crew):
    """asyncio only keeps weak references to tasks.

    The run must therefore keep a step to which nothing else refers.
    """
    crew = make_crew()

    async def never() -> None:
        await asyncio.Event().wait()

    async def stuck(job: JobContext) -> None:
        await asyncio.gather(job.asleep("night", 3_600), job.astep("never", never))

    job = crew.task(stuck, timeout=0.5, retry=Retry.never()).enqueue()
    crew.start()
    until(lambda: gc.collect() is not None and job.refresh().state in {State.FAILED, State.SCHEDULED})

    assert (State.FAILED, True) == (job.state, "timed out after 0.5 s" in job.error.message)


class SlowLogs(MemoryStorage):
    """A storage in which writing the first lines of a job takes until the end of the job is sent."""

    def __init__(self):
        super().__init__()
        self.is_writing, self.overtaken = threading.Event(), threading.Event()

    def append_logs(self, lines, progress):
        self.is_writing.set()
        self.overtaken.wait(1)
        self.is_writing.clear()
        return super().append_logs(lines, progress)

    def exchange(self, transitions, request):
        self._note(transitions)
        return super().exchange(transitions, request)

    def apply(self, transitions, *, within=None):
        self._note(transitions)
        return super().apply(transitions, within=within)

    def _note(self, transitions):
        if transitions and self.is_writing.is_set():
            self.overtaken.set()


def test_outcome_of_a_job_is_stored_after_its_log_lines():
    """The upkeep thread writes the lines of running jobs.

    A job that ends during such a write waits for its lines.
    """
    storage = SlowLogs()
    fire = Firelock(storage, settings=Settings(poll=0.05))

    @fire.task(name="speaks")
    def speaks(job: JobContext):
        job.log("half way")
        assert storage.is_writing.wait(30)

    job = speaks.enqueue()
    with fire.server(workers=1):
        job.result(timeout=30)

        assert not storage.overtaken.is_set()
        assert [line.text for line in job.log()] == ["half way"]
