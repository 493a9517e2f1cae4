"""A parked end is sent again until it is stored, and does not delay other jobs."""

from __future__ import annotations

import logging
import threading

import pytest

from firelock import Firelock, RateLimited, Settings, current_job
from firelock.control.findings import list_findings, take_readings
from firelock.errors import StorageUnavailable
from firelock.model.job import ClaimedJob, Transition
from firelock.model.state import State
from firelock.server.parked_ends import PARKED_LIMIT, ParkedEnds
from firelock.server.run import EndedRun
from firelock.storage import Applied
from tests.core.fakes import FailingStorage, until

SETTINGS = Settings(poll=0.05, heartbeat=1, session_timeout=30, sweep=60, claim_ahead=0)


class LockingStorage(FailingStorage):
    """The storage in memory, in which the test locks rows of jobs and limit keys for other transactions."""

    def __init__(self):
        super().__init__()
        self.locked = set()
        self.is_everything_locked = False
        self.is_locked_once = False  # each lock is released after the first settle that it blocks
        self.busy = []  # ids of jobs whose settles were blocked by a lock

    def is_busy(self, transition):
        """Return whether the transition is a settle of a locked job."""
        is_locked = self.is_everything_locked or transition.job_id in self.locked
        return transition.session is not None and is_locked

    def apply(self, transitions, *, within=None):
        """See `Storage.apply`."""
        busy = [self.is_busy(one) for one in transitions]
        self.busy += [one.job_id for one, is_busy in zip(transitions, busy, strict=True) if is_busy]
        free = [one for one, is_busy in zip(transitions, busy, strict=True) if not is_busy]
        if self.is_locked_once:
            self.locked.difference_update(self.busy)
        results = iter(super().apply(free, within=within) if free else [])
        return [Applied.BUSY if is_busy else next(results) for is_busy in busy]

    def block(self, key, *, until):
        """See `Storage.block`."""
        if key in self.locked:
            self.busy.append(key)
            return False
        return super().block(key, until=until)


class Shop:
    """An application with its own server on a storage with locks."""

    def __init__(self, *, workers=1, settings=SETTINGS):
        self.storage = LockingStorage()
        self.fire = fire = Firelock(self.storage, settings=settings)
        self.server = fire.server(workers=workers, async_workers=1)
        self.gate, self.ran = threading.Event(), []

        @fire.task(name="note")
        def note() -> None:
            self.ran.append(current_job().id)

        @fire.task(name="wait")
        def wait() -> None:
            self.ran.append(current_job().id)
            assert self.gate.wait(20)

        self.note, self.wait = note, wait

    def lock(self, *jobs):
        """Lock the rows of these jobs from now on."""
        self.storage.locked.update(job.id for job in jobs)

    def until_parked(self, job):
        """Wait until the server has tried twice to store the end of the job."""
        until(lambda: self.storage.busy.count(job.id) >= 2)

    def until_all(self, state, *jobs):
        """Wait until all the jobs are in the state."""
        until(lambda: all(job.refresh().state is state for job in jobs))


def parked_in(readings):
    """Return how many ends are parked, for each server that the doctor finds."""
    return [one.values["parked"] for one in list_findings(readings) if one.code == "parked_ends"]


@pytest.fixture
def make_shop():
    """A function that opens a shop; each shop is closed after the test."""
    shops = []

    def make(**options):
        shops.append(Shop(**options))
        return shops[-1]

    yield make
    for shop in shops:
        shop.gate.set()
        shop.storage.locked.clear()
        shop.storage.is_everything_locked = False
        shop.storage.recover()
        shop.server.stop(grace=10)
        shop.fire.close()


@pytest.fixture
def shop(make_shop):
    """A shop with one worker."""
    return make_shop()


def test_other_jobs_run_while_a_row_is_locked(shop):
    """The only worker and the dispatcher are free for other jobs. The locked job ends only once."""
    locked = shop.note.enqueue()
    shop.lock(locked)
    shop.server.start()
    shop.until_parked(locked)

    shop.until_all(State.SUCCEEDED, *shop.note.enqueue_many([()] * 20))
    assert locked.refresh().state is State.PROCESSING
    shop.storage.locked.clear()
    shop.until_all(State.SUCCEEDED, locked)

    assert shop.ran.count(locked.id) == 1
    assert [entry.state for entry in locked.history()] == [State.ENQUEUED, State.SUCCEEDED]


def test_end_whose_row_was_locked_for_a_moment_is_not_parked(shop):
    """If the row was locked at only one attempt, the end is stored with the next exchange."""
    job = shop.note.enqueue()
    shop.lock(job)
    shop.storage.is_locked_once = True
    shop.server.start()

    shop.until_all(State.SUCCEEDED, job)

    assert shop.storage.busy == [job.id]
    assert "firelock-sender" not in {thread.name for thread in threading.enumerate()}


def test_parked_end_is_counted_after_it_is_stored(make_shop):
    """The statistics contain the parked end once."""
    shop = make_shop()
    locked = shop.note.enqueue()
    shop.lock(locked)
    shop.server.start()
    shop.until_parked(locked)
    shop.storage.locked.clear()
    shop.until_all(State.SUCCEEDED, locked)

    shop.server.stop(grace=10)

    (rollup,) = shop.storage.timeline(0, shop.storage.clock() * 2)
    assert (rollup.outcome, rollup.count) == ("succeeded", 1)


def test_parked_ends_are_reported_with_the_session(shop):
    """The doctor of any program reports the server and the number of its parked ends."""
    job = shop.note.enqueue()
    shop.lock(job)
    shop.server.start()
    shop.until_parked(job)

    assert [1] == until(lambda: parked_in(take_readings(shop.fire.runtime, knows_tasks=True)))


def test_returned_job_is_parked_if_its_row_is_locked(shop):
    """If the reply to a claim was lost, the job is returned to its queue.

    It runs when the lock is released.
    """
    job = shop.note.enqueue()
    shop.lock(job)
    shop.storage.fail("claim", StorageUnavailable("the reply is lost"), is_late=True)
    shop.server.start()
    shop.until_parked(job)

    shop.until_all(State.SUCCEEDED, shop.note.enqueue())
    shop.storage.locked.clear()
    shop.until_all(State.SUCCEEDED, job)

    assert shop.ran.count(job.id) == 1


def test_job_with_a_parked_end_can_be_deleted_and_requeued(shop):
    """The parked end is refused, and the job runs again."""
    job = shop.note.enqueue()
    shop.lock(job)
    shop.server.start()
    shop.until_parked(job)

    job.delete()
    job.requeue()
    shop.storage.locked.clear()
    until(lambda: shop.ran.count(job.id) == 2)

    shop.until_all(State.SUCCEEDED, job)


def test_parked_ends_of_a_lost_session_are_discarded(shop):
    """The job runs again in the next session, and its previous outcome is not stored."""
    job = shop.note.enqueue()
    shop.lock(job)
    shop.server.start()
    shop.until_parked(job)
    (record,) = [each for each in shop.storage.list_sessions() if each.is_alive]

    shop.storage.end_session(record.session.id, None, reason="server lost")
    shop.storage.locked.clear()
    until(lambda: shop.ran.count(job.id) == 2)

    shop.until_all(State.SUCCEEDED, job)
    (record,) = shop.storage.get([job.id])
    assert record.crashes == 1


def test_stopping_server_waits_for_a_parked_end(shop):
    """A lock that is released within the grace time does not cause a second run."""
    job = shop.note.enqueue()
    shop.lock(job)
    shop.server.start()
    shop.until_parked(job)
    met = len(shop.storage.busy)

    stopping = threading.Thread(target=shop.server.stop, kwargs={"grace": 60})
    stopping.start()
    until(lambda: len(shop.storage.busy) > met + 1)
    shop.storage.locked.clear()
    stopping.join(60)

    assert job.refresh().state is State.SUCCEEDED
    assert shop.ran.count(job.id) == 1


def test_stopping_server_names_the_jobs_whose_ends_are_not_stored(shop, caplog):
    """After the grace time, only the locked job runs again."""
    job, other = shop.note.enqueue_many([()] * 2)
    shop.lock(job)
    shop.server.start()
    shop.until_all(State.SUCCEEDED, other)
    shop.until_parked(job)

    with caplog.at_level(logging.WARNING):
        shop.server.stop(grace=0)

    assert f"The outcome of job {job.id} was not stored" in caplog.text
    assert (job.refresh().state, other.refresh().state) == (State.ENQUEUED, State.SUCCEEDED)
    (record,) = shop.storage.get([job.id])
    assert record.crashes == 0


def test_too_many_parked_ends_stop_claims(make_shop, caplog):
    """At most 1,000 ends are parked, plus the ends of jobs that are running at that moment.

    No jobs are claimed until fewer ends are parked.
    """
    shop = make_shop(workers=4)
    shop.storage.is_everything_locked = True
    jobs = shop.note.enqueue_many([()] * (PARKED_LIMIT + 500))
    shop.server.start()
    until(lambda: f"{PARKED_LIMIT} ends wait" in caplog.text or "claiming no jobs" in caplog.text)

    held = shop.fire.jobs.counts().by_state[State.PROCESSING]
    assert PARKED_LIMIT <= held < PARKED_LIMIT + 500
    shop.storage.is_everything_locked = False

    shop.until_all(State.SUCCEEDED, *jobs)
    assert len(shop.ran) == len(jobs)


def test_locked_limit_key_delays_only_the_job_that_blocks_it(shop):
    """The key is blocked before the outcome of the job is stored."""

    @shop.fire.task(name="throttled")
    def throttled() -> None:
        raise RateLimited(3_600, key="api")

    job = throttled.enqueue()
    shop.storage.locked.add("api")
    shop.server.start()
    until(lambda: "api" in shop.storage.busy)

    shop.until_all(State.SUCCEEDED, shop.note.enqueue())
    assert job.refresh().state is State.PROCESSING
    shop.storage.locked.clear()
    shop.until_all(State.SCHEDULED, job)

    assert [key.key for key in shop.storage.find_keys()] == ["api"]


# ---- the sender alone --------------------------------------------------------------------------------------


class Sender:
    """A sender of parked ends whose clock and results are set by a test."""

    def __init__(self):
        self.now, self.result, self.sent, self.answers = 0.0, Applied.BUSY, [], []
        self.parked = ParkedEnds(self.apply, lambda end: True, self.answer, lambda: self.now)

    def apply(self, transitions):
        """Return the set result for a transition."""
        self.sent.append(self.now)
        return [self.result]

    def answer(self, parked, result):
        """Record a result."""
        self.answers.append((parked.end.job.id, result))


@pytest.fixture
def sender():
    """A sender whose thread ends after the test."""
    sender = Sender()
    yield sender
    sender.parked.stop(10)


def ended_run(job_id="job"):
    """Return an end of a job."""
    job = ClaimedJob(
        job_id, "note", "[]", "json", "default", 0, attempt=1, retries=0, crashes=0, fence=1,
        created_at=0, enqueued_at=0, claimed_at=0,
    )  # fmt: skip
    return EndedRun(job, Transition(job_id, frozenset({State.PROCESSING}), "one", 1, State.SUCCEEDED, 0))


def test_long_lock_is_logged_once(sender, caplog):
    """A warning after 5 seconds names the job, and another line reports when the end is stored."""
    sender.parked.park(ended_run())

    for seconds, logged in ((6.0, "has waited 6 s"), (12.0, "")):
        sender.now, sent = seconds, len(sender.sent)
        sender.parked.hurry(["job"])
        until(lambda sent=sent, logged=logged: len(sender.sent) > sent and logged in caplog.text)
    sender.now, sender.result = 20.0, Applied.APPLIED
    with caplog.at_level(logging.INFO):
        sender.parked.hurry(["job"])
        until(lambda: sender.answers)

    assert caplog.text.count("has waited") == 1
    assert "The outcome of job job is stored, after 20 s." in caplog.text


def test_stored_end_is_not_sent_again(sender):
    """An end is removed as soon as the storage has returned a result for it."""
    sender.result = Applied.APPLIED
    for job_id in ("one", "two"):
        sender.parked.park(ended_run(job_id))
        sender.now += 1
        sender.parked.hurry([job_id])
    until(lambda: len(sender.answers) == 2)

    sender.now += 60
    sender.parked.hurry_all()

    assert [("one", Applied.APPLIED), ("two", Applied.APPLIED)] == sorted(sender.answers)
    assert len(sender.sent) == 2


def test_attempts_blocked_by_locks_are_spaced_apart(sender):
    """Locked rows cost one attempt every 0.1 s.

    Ends that can be stored do not wait. When the server stops, no end waits.
    """
    names = ["one", "two", "three"]
    for job_id in names:
        sender.parked.park(ended_run(job_id))
    sender.now = 1.0
    sender.parked.hurry(names)
    for number in (1, 2, 3):
        until(lambda number=number: len(sender.sent) == number)
        sender.now += 0.1

    assert pytest.approx([1.0, 1.1, 1.2]) == sender.sent

    sender.parked.hurry_all()
    until(lambda: len(sender.sent) >= 6)
    sender.result, sender.now = Applied.APPLIED, 9.0
    until(lambda: len(sender.answers) == 3)
