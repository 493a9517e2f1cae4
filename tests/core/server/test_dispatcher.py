"""The loop of a child: settles in batches, claims what there is room for, and loses nothing in an outage."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import timedelta

import pytest

from firelock import Firelock, Retry, Settings, current_job, hookimpl
from firelock.context import Console
from firelock.errors import StorageError, StorageUnavailable
from firelock.hookspecs import ServerInfo
from firelock.memory import MemoryStorage
from firelock.queue_choice import parse_queues
from firelock.server.attempt import CancelKind, Runner
from firelock.server.dispatcher import Dispatcher
from firelock.server.shared_memory import Board
from firelock.server.upkeep import Metrics
from firelock.server.workers import AsyncWorkers, Desk, ThreadWorkers
from firelock.storage import NewSession
from firelock.values import Holder, State
from tests.core.fakes import FailingStorage, until

FOR_EVER = 1e9
SETTINGS = Settings(poll=60, heartbeat=1, session_timeout=30)  # a test that needs the poll fails by its time


class Crew:
    """A dispatcher with its executors, and everything it reports."""

    def __init__(self, *plugins, workers=2, async_workers=4, queues=None, settings=SETTINGS, storage=None):
        self.storage = storage or FailingStorage()
        self.fire = Firelock(self.storage, plugins=list(plugins), settings=settings)
        self.board = Board.create(workers + async_workers)
        self.board.grant(FOR_EVER)
        self.workers, self.async_workers, self.queues = workers, async_workers, queues
        self.metrics = Metrics()
        self.lost, self.contacts, self.due = [], [], []
        self.opened = threading.Event()
        self.app_spec = None
        self.came = []

    def start(self, session="session-a"):
        """Jobs are run from now on."""
        console = Console(self.fire.client.clock.now)
        server = ServerInfo("server-a", "host:a", "*", self.workers, 7)
        self.desk = Desk(
            Runner(self.fire.runtime, console), console, self.board, server, self.app_spec, self.wake
        )  # fmt: skip
        self.threads = ThreadWorkers(self.desk, self.workers)
        self.coroutines = AsyncWorkers(self.desk, self.async_workers, self.workers)
        self.dispatcher = Dispatcher(
            self.fire.runtime, self.desk, threads=self.threads, coroutines=self.coroutines,
            queues=parse_queues(self.queues), metrics=self.metrics,
        )  # fmt: skip
        self.dispatcher.on_session_lost = self.lost.append
        self.dispatcher.on_contact = self.contacts.append
        self.dispatcher.on_next_due = self.due.append
        self.dispatcher.start(self.begin(session))
        return self

    def wake(self):
        """The dispatcher, which is made after its desk, is woken."""
        self.dispatcher.wake()

    def begin(self, session):
        """A session has begun; return it as a holder."""
        self.storage.begin_session(NewSession(session, "server-a", "host:a", "host", 7, 0, 1e6))
        return Holder(session, "host:a")

    def task(self, function=lambda: None, **options):
        """A new task."""
        return self.fire.task(name=f"task-{len(self.fire.tasks())}", **options)(function)

    def gated(self, **options):
        """A task that waits until the test opens the gate."""

        def work():
            self.came.append(current_job().id)
            assert self.opened.wait(20)

        return self.task(work, **options)

    def agated(self, **options):
        """The same as a coroutine."""

        async def work():
            self.came.append(current_job().id)
            while not self.opened.is_set():
                await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.005)

        return self.task(work, **options)

    def enqueue(self, task, number=1):
        """So many jobs of the task, and the word that there is work."""
        jobs = task.enqueue_many([()] * number)
        if hasattr(self, "dispatcher"):
            self.dispatcher.work_came()
        return jobs

    def state(self, job):
        return job.refresh().state

    def until_all(self, state, jobs):
        """All of them are in the state."""
        until(lambda: all(self.state(job) is state for job in jobs))

    def close(self):
        self.opened.set()
        self.storage.mend()
        if hasattr(self, "dispatcher"):
            self.dispatcher.quiet(is_quiet=True)
            until(lambda: not self.dispatcher.runs())
            assert self.dispatcher.stop(10)
            self.threads.close(10)
            self.coroutines.close(10)
        self.board.close()
        self.fire.close()


@pytest.fixture
def make_crew():
    """Returns a crew of this size with these plugins; closed at the end."""
    crews = []

    def make(*plugins, **options):
        crews.append(Crew(*plugins, **options))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


@pytest.fixture
def crew(make_crew):
    """A crew of two threads and four coroutines."""
    return make_crew()


# ---- running ---------------------------------------------------------------------------------------------


def test_jobs_are_claimed_run_and_settled(crew):
    """What was there at the start, and what comes later; nothing is held in the end."""
    task = crew.task()
    before = crew.enqueue(task, 3)
    crew.start()
    crew.until_all(State.SUCCEEDED, before)

    after = crew.enqueue(task, 3)

    crew.until_all(State.SUCCEEDED, after)
    until(lambda: crew.dispatcher.holds_nothing)
    assert (6, 0, []) == (crew.dispatcher.settled, crew.dispatcher.refused, crew.dispatcher.runs())


def test_many_jobs_take_few_round_trips(make_crew):
    """Ends are settled in batches, together with the next claim."""
    crew = make_crew(workers=1)
    jobs = crew.enqueue(crew.task(), 1_000)

    crew.start()

    crew.until_all(State.SUCCEEDED, jobs[-1:])
    until(lambda: crew.dispatcher.holds_nothing)
    assert 250 > len(crew.storage.called["exchange"]) + len(crew.storage.called["apply"])


def test_an_end_is_settled_without_waiting_for_the_poll(crew):
    """Also while other jobs go on: a result is there when it is there."""
    crew.start()
    busy = crew.enqueue(crew.gated())
    until(lambda: crew.came)

    quick = crew.enqueue(crew.task())

    crew.until_all(State.SUCCEEDED, quick)
    assert State.PROCESSING is crew.state(busy[0])


def test_a_coroutine_s_end_is_settled_without_waiting_for_the_poll(make_crew):
    """Also while other coroutines go on, for hours perhaps."""

    async def quick(): ...

    crew = make_crew()
    long, short = crew.agated(), crew.task(quick)
    crew.start()
    busy = crew.enqueue(long)
    until(lambda: crew.came)

    for _ in range(3):
        crew.until_all(State.SUCCEEDED, crew.enqueue(short, 5))

    assert State.PROCESSING is crew.state(busy[0])


def test_an_idle_loop_asks_nobody(crew):
    """Between polls it waits until it is woken."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    calls = len(crew.storage.called["claim"])

    crew.dispatcher.wake()
    until(lambda: len(crew.storage.called["claim"]) > calls and crew.dispatcher.is_idle)

    assert calls + 1 == len(crew.storage.called["claim"])


def test_work_that_is_announced_while_the_loop_is_busy_is_found(crew):
    """It does not wait then."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)

    for _ in range(50):
        jobs = crew.enqueue(crew.fire.registry and crew.task(), 2)
        crew.until_all(State.SUCCEEDED, jobs)

    assert 100 == crew.dispatcher.settled


def test_queues_are_claimed_as_chosen(make_crew):
    """Jobs of other queues stay where they are."""
    crew = make_crew(queues="critical,default")
    mine = crew.enqueue(crew.task(queue="critical"))
    others = crew.enqueue(crew.task(queue="bulk"))

    crew.start()
    crew.until_all(State.SUCCEEDED, mine)

    assert State.ENQUEUED is crew.state(others[0])


def test_no_more_is_claimed_than_there_are_workers(crew):
    """Jobs of seconds stay in the queue until a worker is free, for other servers to take."""
    jobs = crew.enqueue(crew.gated(), 10)

    crew.start()
    until(lambda: len(crew.came) == 2)

    until(lambda: sum(crew.state(job) is State.ENQUEUED for job in jobs) == 8)
    until(lambda: crew.dispatcher.is_idle)
    assert 8 == sum(crew.state(job) is State.ENQUEUED for job in jobs)


def test_what_waits_behind_a_long_job_is_handed_back(make_crew):
    """After 50 ms: to its place in the queue, as if it had never been claimed."""
    crew = make_crew(workers=1)
    task, gated = crew.task(), crew.gated()
    crew.enqueue(task, 3_000)
    crew.start()
    until(lambda: crew.threads.waiting > 5)

    crew.fire.enqueue_many([gated.using(priority=9).call(), *[task.using(priority=8).call()] * 400])
    until(lambda: crew.came, 20)
    until(lambda: not crew.threads.waiting and crew.dispatcher.is_idle)

    reasons = {
        transition.reason
        for name in ("apply", "exchange")
        for transitions, *_ in crew.storage.called[name]
        for transition in transitions
    }
    left = list(crew.fire.jobs.find(state="enqueued", limit=500))
    assert "waited too long behind others" in reasons
    assert {(0, 1)} == {(job.attempt, len(job.history())) for job in left if job.priority == 8}
    assert 1 == crew.fire.jobs.counts().by_state[State.PROCESSING]


def test_without_the_right_to_run_nothing_is_claimed(crew):
    """When it is granted again the queue is looked at."""
    crew.board.grant(0)
    jobs = crew.enqueue(crew.task())
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    before = (crew.state(jobs[0]), len(crew.storage.called["claim"]))

    crew.board.grant(FOR_EVER)
    crew.dispatcher.wake()

    crew.until_all(State.SUCCEEDED, jobs)
    assert (State.ENQUEUED, 0) == before


def test_the_next_due_instant_is_passed_on(crew):
    """Each claim says when to look again at the latest."""
    crew.task().schedule(timedelta(hours=1))

    crew.start()
    until(lambda: crew.due)

    assert crew.fire.storage.clock() < crew.due[0]


def test_observers_learn_of_settled_batches(make_crew):
    """Each accepted end once, with its duration; statistics count it."""
    seen = []

    class Observer:
        @hookimpl
        def jobs_settled(self, settled):
            seen.extend((one.job.id, one.transition.to, one.duration >= 0) for one in settled)

    crew = make_crew(Observer)
    jobs = crew.enqueue(crew.task(), 5)
    crew.start()
    crew.until_all(State.SUCCEEDED, jobs)
    until(lambda: crew.dispatcher.holds_nothing)
    crew.metrics.flush(crew.storage)

    assert sorted((job.id, State.SUCCEEDED, True) for job in jobs) == sorted(seen)
    assert [("succeeded", 5)] == [(one.outcome, one.count) for one in crew.storage.timeline(0, 2**62)]


def test_every_kind_of_end_is_counted_by_its_name(crew):
    """Succeeded, failed, deleted, retried; a snooze is no end."""
    from firelock import Snooze

    def fail():
        raise ValueError("boom")

    for function, options in (
        (lambda: None, {}), (fail, {"retry": Retry.never()}), (fail, {}), (lambda: Snooze(3_600), {}),
        (fail, {"retry": Retry.never(on_exceeded="delete")}),
    ):  # fmt: skip
        crew.enqueue(crew.task(function, **options))
    crew.start()
    until(lambda: crew.dispatcher.settled == 5)
    crew.metrics.flush(crew.storage)

    outcomes = sorted(one.outcome for one in crew.storage.timeline(0, 2**62))
    assert ["deleted", "failed", "retried", "succeeded"] == outcomes


def test_continuations_are_released_with_their_parent_s_end(crew):
    """At once, without waiting for the upkeep."""
    parent = crew.task().enqueue()
    child = parent.then(crew.task())

    crew.start()

    crew.until_all(State.SUCCEEDED, [parent, child])


# ---- coroutines and threads ------------------------------------------------------------------------------


def test_coroutines_and_threads_share_the_queue(crew):
    """Each job goes where its task runs."""
    seen = {}

    def work():
        seen["def"] = threading.current_thread().name

    async def awork():
        seen["async def"] = threading.current_thread().name

    jobs = [*crew.enqueue(crew.task(work)), *crew.enqueue(crew.task(awork))]
    crew.start()
    crew.until_all(State.SUCCEEDED, jobs)

    assert seen["def"].startswith("firelock-worker-")
    assert "firelock-loop" == seen["async def"]


def test_only_so_many_coroutines_run(make_crew):
    """An app of coroutines alone claims as many as have a place."""
    crew = make_crew(async_workers=3)
    jobs = crew.enqueue(crew.agated(), 10)

    crew.start()
    until(lambda: len(crew.came) == 3)
    until(lambda: crew.dispatcher.is_idle)
    waiting = sum(crew.state(job) is State.ENQUEUED for job in jobs)
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, jobs)
    assert 7 == waiting


def test_more_coroutines_than_places_lose_no_job(make_crew):
    """A claim for idle threads may bring coroutines: they wait for a place, or go back to the queue."""
    crew = make_crew(workers=5, async_workers=2)
    jobs = [*crew.enqueue(crew.agated(), 20), *crew.enqueue(crew.task(), 5)]

    crew.start()
    until(lambda: len(crew.came) == 2)
    until(lambda: crew.fire.jobs.counts().by_state.get(State.PROCESSING) == 2)
    crew.opened.set()
    crew.dispatcher.wake()

    crew.until_all(State.SUCCEEDED, jobs)
    assert 25 == crew.dispatcher.settled
    assert 20 == len(set(crew.came))


def test_a_full_house_of_coroutines_does_not_hold_the_queue(make_crew):
    """Another server finds what this one has no place for."""
    crew = make_crew(workers=5, async_workers=1)
    jobs = crew.enqueue(crew.agated(), 10)
    crew.enqueue(crew.task())
    crew.start()
    until(lambda: crew.came)
    other = crew.begin("session-of-another")

    until(lambda: len(crew.storage.claim(None, 20, other.session, 0).jobs) >= 1)
    taken = sum(crew.state(job) is State.PROCESSING for job in jobs)

    assert taken >= 2


# ---- outages ---------------------------------------------------------------------------------------------


def test_an_end_is_kept_through_an_outage(crew, caplog):
    """It is sent until the storage has answered; the outage is told once, and so is its end."""
    caplog.set_level(logging.INFO)
    crew.start()
    jobs = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.storage.fail_always("apply", StorageUnavailable("down"))
    crew.opened.set()
    until(lambda: len(crew.contacts) >= 2)
    during = crew.state(jobs[0])

    crew.storage.mend()

    crew.until_all(State.SUCCEEDED, jobs)
    until(lambda: crew.contacts[-1])
    assert (State.PROCESSING, [False, False, True]) == (during, [*crew.contacts[:2], crew.contacts[-1]])
    assert 1 == caplog.text.count("Storage unavailable, keeping what has ended and trying again: down")
    assert 1 == caplog.text.count("Storage is back.")


def test_an_end_whose_answer_was_lost_is_settled_once(make_crew):
    """It is sent again, and the storage says that it was there already."""
    seen = []

    class Observer:
        @hookimpl
        def jobs_settled(self, settled):
            seen.extend(one.job.id for one in settled)

    crew = make_crew(Observer)
    crew.start()
    jobs = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.storage.fail("apply", StorageUnavailable("reply lost"), is_late=True)
    crew.opened.set()

    until(lambda: crew.dispatcher.settled)
    crew.metrics.flush(crew.storage)

    assert ([jobs[0].id], 0) == (seen, crew.dispatcher.refused)
    assert [1] == [one.count for one in crew.storage.timeline(0, 2**62)]
    assert [State.ENQUEUED, State.SUCCEEDED] == [step.state for step in jobs[0].history()]


def test_a_claim_whose_answer_was_lost_is_handed_back(crew):
    """Nobody would ever run those jobs: they are found by comparing, go back and are claimed anew."""
    jobs = crew.enqueue(crew.task(), 2)
    crew.storage.fail("claim", StorageUnavailable("reply lost"), is_late=True)

    crew.start()

    crew.until_all(State.SUCCEEDED, jobs)
    assert {(1, 2)} == {(job.refresh().attempt, job.refresh().record().fence) for job in jobs}


def test_what_runs_is_not_handed_back_by_a_comparison(crew):
    """Only what this child does not hold."""
    crew.start()
    jobs = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.storage.fail("claim", StorageUnavailable("down"))
    crew.dispatcher.wake()
    until(lambda: crew.storage.called["reconcile"])
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, jobs)
    assert 1 == len(crew.came)


def test_a_claim_that_is_refused_loses_no_end(crew, caplog):
    """Where an exchange is refused the ends are settled alone."""
    crew.start()
    jobs = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.storage.fail_always("claim", StorageError("no such queue"))
    crew.opened.set()
    until(lambda: "An exchange was refused; settling first, claiming in the next turn." in caplog.text)
    crew.storage.mend()

    crew.until_all(State.SUCCEEDED, jobs)


def test_an_error_that_nobody_knows_does_not_end_the_loop(crew, caplog):
    """It is logged, the loop goes on, and it does not flood the log."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    crew.storage.fail_always("claim", RuntimeError("a bug of a driver"))
    jobs = crew.enqueue(crew.task())
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.5)
    logged = caplog.text.count("The dispatcher met an error that it does not know; it goes on.")

    crew.storage.mend()

    crew.until_all(State.SUCCEEDED, jobs)
    assert 1 <= logged <= 4


# ---- ends that the storage refuses -----------------------------------------------------------------------


class Picky(FailingStorage):
    """A storage that takes no result that says poison, or nothing at all of the jobs it bans."""

    def __init__(self):
        super().__init__()
        self.banned = set()
        self.outages = []

    def apply(self, transitions):
        if self.outages and transitions[0].to is State.FAILED:
            raise self.outages.pop()
        for transition in transitions:
            if transition.result == '"poison"' or transition.job_id in self.banned:
                raise StorageError("value too long")
        return MemoryStorage.apply(self, transitions)


def test_an_end_that_cannot_be_stored_fails_its_job_alone(make_crew, caplog):
    """With the storage's words; its neighbours' ends are stored as they are."""
    crew = make_crew(storage=Picky())
    bad = crew.task(lambda: "poison")
    jobs = [*crew.enqueue(crew.task(), 3), *crew.enqueue(bad), *crew.enqueue(crew.task(), 3)]

    crew.start()
    until(lambda: all(crew.state(job) in (State.SUCCEEDED, State.FAILED) for job in jobs))

    poisoned = jobs.pop(3).refresh()
    assert (State.FAILED, "its end could not be stored: value too long") == (poisoned.state, poisoned.reason)
    assert ("host:a", True, True) == (
        poisoned.server, poisoned.started_at is not None, poisoned.record().expires_at is not None
    )  # fmt: skip
    assert {State.SUCCEEDED} == {crew.state(job) for job in jobs}
    assert f"The end of job {poisoned.id} cannot be stored: value too long" in caplog.text


def test_an_end_that_cannot_be_stored_at_all_hinders_no_other(make_crew, caplog):
    """It is given up: its job is found by the next comparison."""
    crew = make_crew(storage=Picky())
    (bad,) = crew.enqueue(crew.task())
    crew.storage.banned.add(bad.id)
    jobs = crew.enqueue(crew.task(), 3)

    crew.start()

    crew.until_all(State.SUCCEEDED, jobs)
    assert f"Nothing can be stored about job {bad.id}" in caplog.text


def test_an_outage_meanwhile_gives_up_no_end(make_crew):
    """What the storage does not take is told to it once it answers again."""
    crew = make_crew(storage=Picky())
    crew.storage.outages.append(StorageUnavailable("away"))

    (bad,) = crew.enqueue(crew.task(lambda: "poison"))
    crew.start()

    crew.until_all(State.FAILED, [bad])
    assert [] == crew.storage.outages
    assert "its end could not be stored: value too long" == bad.refresh().reason


def test_a_late_end_is_refused_and_counted(crew):
    """A job that was deleted while it ran stays deleted."""
    crew.start()
    (job,) = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    job.delete()

    crew.opened.set()
    until(lambda: crew.dispatcher.refused)

    assert (State.DELETED, 0) == (crew.state(job), crew.dispatcher.settled)
    assert job.refresh().record().session is None


def test_a_delete_reaches_a_running_job(crew):
    """Within a second or so it is told to end."""
    seen = []

    def work():
        job = current_job()
        crew.came.append(job.id)
        until(lambda: job.cancelled)
        seen.append(job.cancel_reason)
        job.raise_if_cancelled()

    crew.start()
    (job,) = crew.enqueue(crew.task(work))
    until(lambda: crew.came)
    (run,) = crew.dispatcher.runs()
    run.started -= 2
    job.delete()
    until(lambda: not crew.dispatcher.is_idle or crew.dispatcher.wake() or seen)

    until(lambda: crew.dispatcher.wake() or seen)
    until(lambda: crew.dispatcher.refused)

    assert ["deleted, or taken from this server"] == seen
    assert State.DELETED is crew.state(job)


@pytest.mark.parametrize("is_deleted", [True, False])
def test_of_a_job_that_was_told_it_is_lost_only_an_end_that_counts_is_a_failure(crew, caplog, is_deleted):
    """Who deletes a running job calls nobody out of bed; and no failure that the storage took is left out."""

    def work():
        job = current_job()
        crew.came.append(job.id)
        until(lambda: job.cancelled)
        raise ValueError(job.cancel_reason)

    crew.start()
    (job,) = crew.enqueue(crew.task(work, retry=Retry.never()))
    until(lambda: crew.came)
    if is_deleted:
        job.delete()
    (run,) = crew.dispatcher.runs()

    run.cancel(CancelKind.LOST, "who knows")
    until(lambda: crew.dispatcher.wake() or crew.dispatcher.refused or crew.dispatcher.settled)

    lines = [record.getMessage() for record in caplog.records if record.name == "firelock.jobs"]
    failed = [f"Job {job.id} of task 'task-0' has failed in attempt 1: ValueError: who knows"]
    assert ([] if is_deleted else failed) == lines
    assert (State.DELETED if is_deleted else State.FAILED) is crew.state(job)


def test_a_job_that_was_deleted_before_it_started_does_not_start(crew):
    """Its holder's word that nobody runs it ends the tail."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    prepare, may_go = crew.desk.runner.prepare, threading.Event()

    def slowly(job, holder):
        crew.came.append(job.id)
        may_go.wait(10)
        return prepare(job, holder)

    crew.desk.runner.prepare = slowly
    (job,) = crew.enqueue(crew.task())
    until(lambda: crew.came)
    job.delete()
    crew.storage.fail("claim", StorageUnavailable("down"))
    until(lambda: crew.dispatcher.wake() or job.refresh().record().session is None)
    may_go.set()
    until(lambda: crew.dispatcher.refused)

    assert State.DELETED is crew.state(job)


def test_a_long_run_is_shown_as_started(crew):
    """From a second on its start is written while it still runs, once."""
    crew.start()
    (job,) = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    before = job.refresh().started_at
    (run,) = crew.dispatcher.runs()

    run.started -= 2
    until(lambda: crew.dispatcher.wake() or job.refresh().started_at)
    told = len(crew.storage.called["reconcile"])
    until(lambda: crew.dispatcher.wake() or len(crew.storage.called["reconcile"]) > told)

    starts = [held.started_at for _, helds in crew.storage.called["reconcile"] for held in helds]
    assert (None, run.started_at) == (before, job.refresh().record().started_at)
    assert [run.started_at] == [at for at in starts if at is not None]


# ---- sessions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found_by", ["claim", "reconcile"])
def test_a_lost_session_is_told_and_another_adopted(crew, found_by):
    """What ran is cancelled and its end refused; what comes is run for the new session."""
    crew.start()
    (job,) = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.storage.end_session("session-a", None, reason="server lost")
    if found_by == "reconcile":
        crew.storage.fail("claim", StorageUnavailable("down"))
    until(lambda: crew.dispatcher.wake() or crew.lost)
    (run,) = crew.dispatcher.runs()
    before = run.cancelled

    crew.dispatcher.adopt(crew.begin("session-b"))
    until(lambda: run.cancelled)
    crew.opened.set()

    crew.until_all(State.SUCCEEDED, [job])
    assert (None, ["session-a"]) == (before, crew.lost)
    assert (1, 2) == (crew.dispatcher.refused, len(crew.came))
    assert "host:a" == job.refresh().server


def test_what_waited_for_a_lost_session_is_dropped(make_crew):
    """It is nobody's here any more, and nothing of it is sent."""
    crew = make_crew(workers=1)
    crew.board.grant(FOR_EVER)
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.storage.end_session("session-a", None, reason="server lost")

    crew.dispatcher.adopt(crew.begin("session-b"))
    until(lambda: crew.dispatcher.runs()[0].cancelled)
    crew.opened.set()

    until(lambda: crew.dispatcher.holds_nothing and not crew.dispatcher.runs())
    assert crew.dispatcher.refused >= 1


# ---- stopping --------------------------------------------------------------------------------------------


def test_a_quiet_dispatcher_claims_nothing(crew):
    """What runs goes on and is settled; afterwards it may claim again."""
    crew.start()
    running = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.dispatcher.quiet(is_quiet=True)
    waiting = crew.enqueue(crew.task())
    crew.opened.set()
    crew.until_all(State.SUCCEEDED, running)
    until(lambda: crew.dispatcher.is_idle)
    during = crew.state(waiting[0])

    crew.dispatcher.quiet(is_quiet=False)

    crew.until_all(State.SUCCEEDED, waiting)
    assert State.ENQUEUED is during


def test_a_quiet_dispatcher_is_drained_when_nothing_runs_or_waits(crew):
    """Ends that are not settled yet do not count: nobody has to wait for a storage in order to stop."""
    crew.start()
    until(lambda: crew.dispatcher.is_drained)
    crew.enqueue(crew.gated(), 4)
    until(lambda: len(crew.came) == 2)
    busy = crew.dispatcher.is_drained
    crew.storage.fail_always("apply", StorageUnavailable("down"))
    crew.dispatcher.quiet(is_quiet=True)
    crew.opened.set()

    until(lambda: crew.dispatcher.is_drained)

    assert (False, False) == (busy, crew.dispatcher.holds_nothing)


def test_an_abandoned_job_is_handed_back_under_its_own_feet(crew):
    """Somebody else may run it now; its late end is refused."""
    crew.start()
    (job,) = crew.enqueue(crew.gated())
    until(lambda: crew.came)
    crew.dispatcher.quiet(is_quiet=True)

    crew.dispatcher.abandon("server stopped while the job was running")

    crew.until_all(State.ENQUEUED, [job])
    until(lambda: crew.dispatcher.holds_nothing)
    crew.opened.set()
    until(lambda: crew.dispatcher.refused)
    again = job.refresh()
    assert (0, "server stopped while the job was running") == (again.attempt, again.reason)


def test_stopping_ends_the_loop(crew, our_threads):
    """Also one that waits for its poll."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)

    assert crew.dispatcher.stop(10)
    assert [] == our_threads("firelock-dispatcher")


def test_a_loop_that_hangs_in_the_storage_cannot_be_stopped(crew):
    """Stop says so when its time is over."""
    answer = threading.Event()
    claim = crew.storage.claim
    crew.storage.claim = lambda *args: answer.wait(10) and claim(*args)
    crew.start()
    until(lambda: not crew.dispatcher.is_idle)

    stopped = crew.dispatcher.stop(0.01)
    answer.set()

    assert (False, True) == (stopped, crew.dispatcher.stop(10))


def test_a_claim_that_was_never_started_is_handed_back_when_the_server_gives_up(crew):
    """A job that is not yet in a worker's hands goes back as if it had not been claimed."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    prepare, may_go = crew.desk.runner.prepare, threading.Event()

    def slowly(job, holder):
        crew.came.append(job.id)
        may_go.wait(10)
        return prepare(job, holder)

    crew.desk.runner.prepare = slowly
    (job,) = crew.enqueue(crew.task())
    until(lambda: crew.came)
    crew.dispatcher.quiet(is_quiet=True)

    crew.dispatcher.abandon("server stopped while the job was running")

    crew.until_all(State.ENQUEUED, [job])
    may_go.set()
    until(lambda: crew.dispatcher.holds_nothing)
    assert (0, 1) == (job.refresh().attempt, len(job.history()))


def test_an_app_without_tasks_yet_claims_for_its_threads(make_crew):
    """What it does not know goes back to wait for a server that does."""
    crew = make_crew()
    other = Firelock(crew.storage)
    (job,) = other.task(name="elsewhere")(lambda: None).enqueue_many([()])

    crew.start()

    until(lambda: job.refresh().state is State.SCHEDULED)
    assert "waiting for one that knows it" in job.refresh().reason


def test_waiting_for_a_dry_queue_ends_with_a_claim_that_brings_too_little(crew):
    """Or with its time, while workers are busy."""
    crew.start()
    until(lambda: crew.dispatcher.is_idle)
    crew.dispatcher.work_came()
    crew.dispatcher.wait_until_dry(60)
    crew.enqueue(crew.gated(), 5)
    until(lambda: len(crew.came) == 2)
    crew.dispatcher.work_came()
    began = time.monotonic()

    crew.dispatcher.wait_until_dry(0.02)

    assert 0.01 < time.monotonic() - began < 30
