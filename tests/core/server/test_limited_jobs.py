"""Across modules: jobs with limits on a server: rates, rate-limited tasks and late starts."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from datetime import timedelta
from itertools import pairwise

import pytest

from firelock import Firelock, JobContext, Limit, RateLimited, Settings, State, Turns
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import SECOND
from firelock.model.ids import new_id
from firelock.server.run import CancelKind, EndedRun, Run
from firelock.storage import Admission, Claim, LimitUse, NewJob, write_admission
from firelock.testing import Tester
from tests.core.fakes import FailingStorage, Worker, plugin, until

# with this interval, a test that needed a poll would fail by its time limit
LONG_WAITS = Settings(poll=60, heartbeat=1, session_timeout=30, sweep=60)
HOUR = 3_600 * SECOND


def store_job(fire, task, *, arguments="{}", **asks):
    """Store a job of the task with these conditions for its start, and return its id."""
    now = fire.storage.clock()
    job = NewJob(
        new_id(), task.name, arguments, "json", "default", 0, State.ENQUEUED, now,
        admission_json=write_admission(Admission(**asks)),
    )  # fmt: skip
    fire.storage.insert([job])
    return job.id


def on(*keys, cost=1):
    """Return the limits of these keys."""
    return tuple(LimitUse(key, cost) for key in keys)


@pytest.fixture
def fire():
    """An app on a storage with programmable failures."""
    with Firelock(FailingStorage(), settings=LONG_WAITS) as fire:
        yield fire


@pytest.fixture
def serve(fire):
    """A function that starts servers of the app, which are stopped at the end."""
    servers = []

    def start(**options):
        servers.append(fire.server(workers=2, **options))
        servers[-1].start()

    yield start
    for server in servers:
        server.stop(grace=5)


# ---- the next claim --------------------------------------------------------------------------------------


def test_server_sleeps_until_the_rate_allows_a_start(fire, serve):
    """The server waits for the time that the claim returned, and does not claim more often than necessary."""
    task = fire.task(name="task")(lambda: None)
    fire.limits.set("api", rate=20, burst=1)
    ids = [store_job(fire, task, limits=on("api")) for _ in range(4)]

    serve()
    until(lambda: fire.jobs.counts().by_state.get(State.SUCCEEDED) == 4)

    claimed = sorted(job.claimed_at for job in fire.storage.get(ids))
    claims = len(fire.storage.called["claim"]) + len(fire.storage.called["exchange"])
    assert all(45_000 < later - earlier for earlier, later in pairwise(claimed))
    assert claims < 40


def test_changed_limit_starts_waiting_jobs(fire, serve):
    """A sleeping server starts jobs when a limit of zero is raised, and when a paused limit is resumed."""
    task = fire.task(name="task")(lambda: None)
    fire.limits.set("api", concurrent=0)
    fire.limits.pause("smtp")
    jobs = [store_job(fire, task, limits=on(key)) for key in ("api", "smtp")]
    free = store_job(fire, task)

    serve()
    until(lambda: fire.jobs.get(free).state is State.SUCCEEDED)
    waiting = [fire.jobs.get(job).state for job in jobs]
    fire.limits.set("api", concurrent=1)
    fire.limits.resume("smtp")
    until(lambda: all(fire.jobs.get(job).state is State.SUCCEEDED for job in jobs))

    assert [State.ENQUEUED] * 2 == waiting


def test_only_available_key_among_many_full_lanes_is_found_without_a_poll(fire, serve):
    """All other keys are at their limit, but the server finds the job without polling."""
    task = fire.task(name="task")(lambda: None)
    fire.limits.set("full", concurrent=0)
    for number in range(600):
        store_job(fire, task, limits=on(f"full:{number:03}"))
    last = store_job(fire, task, limits=on("open:1"))

    serve()

    until(lambda: fire.jobs.get(last).state is State.SUCCEEDED)


def test_repeated_empty_claims_do_not_cause_a_busy_loop():
    """If claims return no job but request an immediate repetition, the server soon pauses between them."""
    claimed_at, is_over = [], threading.Event()

    class Locked(FailingStorage):
        def claim(self, request):
            claimed_at.append(time.monotonic())
            if len(claimed_at) > 110:
                is_over.set()
                return Claim([])
            return Claim([], next_claim_at=self.clock() - 1)

    with Firelock(Locked(), settings=LONG_WAITS) as fire:
        fire.task(name="task")(lambda: None)
        with fire.server(workers=1):
            assert is_over.wait(20)

    assert 0.08 < claimed_at[109] - claimed_at[104]


def test_limit_applies_across_servers(fire, serve):
    """The limit of a key applies to all servers together. Whenever a job ends, the next one starts."""
    running, most, lock = 0, 0, threading.Lock()

    @fire.task(name="task")
    def task():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.002)
        with lock:
            running -= 1

    fire.limits.set("api", concurrent=2)
    for _ in range(30):
        store_job(fire, task, limits=on("api"))

    serve(name="a")
    serve(name="b")
    until(lambda: fire.jobs.counts().by_state.get(State.SUCCEEDED) == 30)

    assert 2 == most


def test_server_stores_the_limits_of_its_code(fire, serve):
    """The server stores the limits of its code when it starts, so that they can be displayed."""

    @fire.task(name="report", limits=[Limit("tenant:{tenant}", concurrent=3), Turns("region:{region}")])
    def report(tenant: int, region: str): ...

    serve()

    (name,) = fire.limits.names()
    assert ("tenant", "tenant:{tenant}", 3, "code") == (
        name.name,
        name.template,
        name.concurrent,
        name.source,
    )


# ---- rate-limited tasks ----------------------------------------------------------------------------------


def limited(*args, **kwargs):
    """Return a function that raises `RateLimited`."""

    def work():
        raise RateLimited(*args, **kwargs)

    return work


def end_of(fire, function, **options):
    """Return how the first run of the function as a task ended."""
    worker = Worker(fire)
    fire.task(name="task", **options)(function).enqueue()
    (job,) = worker.claim()
    return worker.attempt(job)


def test_rate_limited_job_is_snoozed_without_using_a_retry(fire):
    """The attempt does not count, no retry is used, and the reason contains the duration and the cause."""
    ended = end_of(fire, limited(20, reason="429 of smtp.example"))

    transition = ended.transition
    assert (State.SCHEDULED, True, None, None) == (
        transition.to, transition.gives_back, transition.retries, transition.error,
    )  # fmt: skip
    assert 20 * SECOND == transition.due_at - transition.at
    assert "rate limited for 20 s: 429 of smtp.example" == transition.reason
    assert ended.blocks is None


def test_rate_limited_run_is_not_reported_as_a_failure(caplog):
    """No hook for failures is called, and no log line reports a failure."""
    calls = []
    watching = plugin(
        attempt_failed=lambda job, error, transition: calls.append("failed"),
        retry_decision=lambda job, task, error, proposed: calls.append("decide"),
    )
    with Firelock("memory://", plugins=[watching]) as fire:
        end_of(fire, limited(5, "smtp"))

    assert [] == calls
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_timeout_takes_precedence_over_rate_limited(fire):
    """A task that raises `RateLimited` after its timeout has timed out."""
    worker = Worker(fire)
    fire.task(name="task", timeout=5)(limited(20)).enqueue()
    (job,) = worker.claim()
    run = worker.runner.prepare(job, worker.holder)
    run.cancel(CancelKind.TIMEOUT, "timed out after 5 s")

    assert "TimeoutError" == worker.runner.run(run).transition.error.type


def test_rate_limited_job_blocks_its_key_for_other_jobs(fire, serve):
    """Other jobs with that key wait equally long. Jobs with other keys continue."""
    limited_once = fire.task(name="limited")(limited(3_600, key="tenant:7/openai"))
    plain = fire.task(name="plain")(lambda: None)
    fire.limits.set("tenant/openai", rate=1_000_000, burst=1_000_000)
    first = store_job(fire, limited_once, limits=on("tenant:7/openai"))

    serve()
    until(lambda: fire.jobs.get(first).state is State.SCHEDULED)
    second = store_job(fire, plain, limits=on("tenant:7/openai"))
    third = store_job(fire, plain, limits=on("tenant:8/openai"))
    until(lambda: fire.jobs.get(third).state is State.SUCCEEDED)

    view = fire.limits.get("tenant:7/openai")
    assert State.ENQUEUED is fire.jobs.get(second).state
    assert timedelta(minutes=59) < view.opens_at - fire.jobs.get(first).created_at
    assert (0, "rate limited by tenant:7/openai for 3600 s") == (
        fire.jobs.get(first).record().attempt, fire.jobs.get(first).reason,
    )  # fmt: skip


def test_key_is_blocked_before_its_next_job_can_start(fire, serve):
    """The job is settled after its key is blocked, even if the storage was unreachable at first."""
    storage = fire.storage
    task = fire.task(name="limited")(limited(3_600, key="smtp"))
    storage.fail("block", StorageUnavailable("away"))
    first = store_job(fire, task, limits=on("smtp"))

    serve()
    until(lambda: fire.jobs.get(first).state is State.SCHEDULED)

    assert fire.limits.get("smtp").opens_at is not None
    assert 2 == len(storage.called["block"])


def test_outcome_is_stored_if_the_key_cannot_be_blocked(fire, serve, caplog):
    """Only this job waits, and the log contains the reason."""
    storage = fire.storage
    task = fire.task(name="limited")(limited(3_600, key="smtp"))
    storage.fail("block", StorageError("no such key"))
    first = store_job(fire, task)

    serve()
    until(lambda: fire.jobs.get(first).state is State.SCHEDULED)

    assert "Limit 'smtp' could not be blocked: no such key" in caplog.messages


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "tenant",
            "blocks limit 'tenant', which is not one of its own limits (tenant:7), so similar jobs can",
        ),
        ("tenant:{tenant}", "blocks limit 'tenant:{tenant}', which is not one of its own"),
        ("tenant:7", ""),
    ],
)
def test_blocking_a_key_that_the_job_does_not_use_logs_a_warning(fire, caplog, key, message):
    """A name instead of a key, or a missing `f` before a string, blocks a key that no job uses."""
    limits = [Limit("tenant:{tenant}", concurrent=4)]

    @fire.task(name="work", limits=limits)
    def work(tenant: int) -> None:
        raise RateLimited(20, key)

    work.enqueue(7)
    worker = Worker(fire)
    (job,) = worker.claim()
    ended = worker.attempt(job)

    assert key == ended.blocks[0]
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert bool(message) == bool(warned)
    assert message in "".join(warned)


@pytest.mark.parametrize(
    "given", [{"retry_after": -1}, {"retry_after": "20"}, {"retry_after": float("nan")},
              {"retry_after": timedelta(days=366)}, {"retry_after": True},
              {"retry_after": 1, "key": ""}, {"retry_after": 1, "key": 7}], ids=str,
)  # fmt: skip
def test_invalid_argument_of_rate_limited_raises_an_error(given):
    """The task fails with this error as with any other."""
    with pytest.raises(ValueError, match=r"^(retry_after|key) must be "):
        RateLimited(**given)


def test_rate_limited_can_be_pickled():
    """The error keeps its values when it is sent from one process to another."""
    error = pickle.loads(pickle.dumps(RateLimited(timedelta(seconds=2), "smtp", "busy")))

    assert (timedelta(seconds=2), "smtp", "rate limited by smtp for 2 s: busy") == (
        error.retry_after, error.key, str(error),
    )  # fmt: skip


# ---- start deadlines -------------------------------------------------------------------------------------


def prepared(fire, **asks):
    """Return the result of preparing a newly claimed job."""
    worker = Worker(fire)
    task = fire.task(name="task")(lambda: None)
    job_id = store_job(fire, task, **asks)
    (job,) = worker.claim()
    assert job.id == job_id
    return worker.runner.prepare(job, worker.holder)


@pytest.mark.parametrize("limits", [(), on("api")], ids=["plain", "limited"])
def test_job_not_started_by_its_deadline_is_deleted(fire, limits):
    """The history contains the deadline. The job occupies no limit and is not charged to a rate."""
    fire.limits.set("api", concurrent=1, rate=1, per=60, burst=1)
    before = fire.storage.clock() - 1

    ended = prepared(fire, limits=limits, start_before=before)
    fire.storage.apply([ended.transition])

    assert isinstance(ended, EndedRun)
    (record,) = fire.storage.get([ended.job.id])
    assert (State.DELETED, None) == (record.state, record.started_at)
    assert record.reason.startswith("not started before 20")
    assert record.expires_at is not None
    assert (0, None) == (fire.limits.get("api").running, fire.limits.get("api").opens_at)


def test_start_deadline_counts_from_the_enqueue_time(fire):
    """The job runs before the end of the duration, but not after it."""
    fire.storage.clock_offset += 10 * HOUR
    in_time = prepared(fire, start_within=HOUR)

    worker = Worker(fire, "host:b")
    task = fire.task(name="other")(lambda: None)
    store_job(fire, task, start_within=HOUR)
    fire.storage.clock_offset += HOUR + SECOND
    (job,) = worker.claim()

    assert isinstance(in_time, Run)
    assert State.DELETED is worker.runner.prepare(job, worker.holder).transition.to


def test_storage_clock_decides_about_a_near_deadline(fire):
    """A server with a slow clock does not run a job that is late by the storage's clock."""
    worker = Worker(fire)
    task = fire.task(name="task")(lambda: None)
    fire.client.clock.now()
    store_job(fire, task, start_before=fire.storage.clock() + SECOND)
    (job,) = worker.claim()
    real = fire.storage.clock
    fire.storage.clock = lambda: real() + 2 * SECOND

    ended = worker.runner.prepare(job, worker.holder)

    assert State.DELETED is ended.transition.to


def test_job_is_handed_back_if_the_clock_cannot_be_read(fire):
    """Whether the job may run is unknown, so it returns to its place in the queue."""
    worker = Worker(fire)
    task = fire.task(name="task")(lambda: None)
    fire.client.clock.now()
    store_job(fire, task, start_before=fire.storage.clock() + 4 * SECOND)
    (job,) = worker.claim()
    fire.storage.fail("clock", StorageUnavailable("away"))

    transition = worker.runner.prepare(job, worker.holder).transition

    assert (State.ENQUEUED, True) == (transition.to, transition.gives_back)


def test_started_job_may_start_again_after_its_deadline(fire):
    """A retry or a restart after a crash is not a first start."""
    worker = Worker(fire)
    task = fire.task(name="task")(lambda: None)
    store_job(fire, task, start_before=fire.storage.clock() - 1)
    (job,) = worker.claim()
    job.attempt = 2

    assert isinstance(worker.runner.prepare(job, worker.holder), Run)


def test_late_jobs_are_counted_and_their_continuations_deleted(fire, serve):
    """A continuation that waits for the success of a late job is deleted, as after any other delete."""
    task = fire.task(name="task")(lambda: None)
    job_id = store_job(fire, task, start_before=fire.storage.clock() - 1)
    child = fire.jobs.get(job_id).then(task)

    serve()
    until(lambda: child.refresh().state is State.DELETED)

    assert State.DELETED is fire.jobs.get(job_id).state


# ---- in tests --------------------------------------------------------------------------------------------


def test_tester_clock_applies_to_rates_and_start_deadlines():
    """Limited jobs start as soon as their rate allows it.

    Jobs that are late by then are deleted without a run.
    """
    with Firelock("memory://") as fire:
        ran = []

        @fire.task(name="task")
        def task(job: JobContext):
            ran.append(job.claimed_at)

        with Tester(fire) as tester:
            fire.limits.set("api", rate=1, per=60, burst=1)
            fire.limits.pause("other")
            for _ in range(3):
                store_job(fire, task, limits=on("api"))
            store_job(fire, task, limits=on("other"), start_within=30 * SECOND)

            first = tester.drain()
            second = tester.clock.advance(minutes=5)
            fire.limits.resume("other")
            third = tester.drain()

    assert (1, 2, 1) == (first.succeeded, second.succeeded, third.deleted)
    assert [60, 60] == [round((later - earlier).total_seconds()) for earlier, later in pairwise(ran)]


def test_inline_jobs_wait_for_their_limits():
    """If the outer job uses the same key, or the rate of the key is used up, the job waits for the drain."""
    with Firelock("memory://") as fire:
        leaf = fire.task(name="leaf")(lambda: None)

        @fire.task(name="outer")
        def outer():
            inner.append(store_job(fire, leaf, limits=on("api")))

        inner = []
        with Tester(fire) as tester:
            fire.limits.set("api", concurrent=1)
            with tester.inline():
                first = store_job(fire, outer, limits=on("api"))
            states = [job.state for job in fire.storage.get([first, *inner])]

            assert [State.SUCCEEDED, State.ENQUEUED] == states
            assert 1 == tester.drain().succeeded


def test_tester_snoozes_a_rate_limited_task():
    """The job runs again when the clock advances. With `raises=True`, `drain` does not raise an exception."""
    with Firelock("memory://") as fire:
        calls = []

        @fire.task(name="task")
        def task():
            calls.append(1)
            if len(calls) == 1:
                raise RateLimited(20, key="smtp")

        with Tester(fire) as tester:
            store_job(fire, task, limits=on("smtp"))
            store_job(fire, task, limits=on("smtp"))

            first = tester.drain(raises=True)
            second = tester.clock.advance(seconds=21)

            assert (1, 0) == (first.snoozed, first.succeeded)
            assert 2 == second.succeeded
