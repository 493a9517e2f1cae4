"""The jobs on which a job depends: its batch, its caller, and the jobs whose results are its arguments."""

from __future__ import annotations

import asyncio

import pytest

from firelock import Firelock, JobContext, Retry
from firelock.errors import StorageUnavailable
from firelock.model.batch import BATCH_TASK, BatchRules
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, Input, On, Relations, write_relations
from firelock.model.job import NewJob
from firelock.model.state import State
from firelock.server.related_jobs import RelatedJobs
from tests.core.fakes import FailingStorage, Worker


@pytest.fixture
def storage():
    """A storage in memory that counts calls, with programmable failures."""
    return FailingStorage()


@pytest.fixture
def fire(storage):
    """An app on this storage."""
    with Firelock(storage) as app:
        yield app


def new_job(fire, task, arguments="{}", state=State.ENQUEUED, parents=(), **relations):
    """Store a job with relations and return its id."""
    job = NewJob(
        fire.storage.new_ids(1)[0], task, arguments, "json", "default", 0, state, fire.client.clock.now(),
        parents=parents, relations_json=write_relations(Relations(**relations)),
    )  # fmt: skip
    fire.storage.insert([job])
    return job.id


def record_of(fire, job_id):
    """Return the stored job."""
    return fire.storage.get([job_id])[0]


# ---- results as arguments --------------------------------------------------------------------------------


def taking(fire, *parents, path=("numbers", 1)):
    """Create a job that takes the results of these parents.

    Return its id and the list of the arguments it was called with.
    """
    given = []

    @fire.task(name="take")
    def take(numbers: list[int]) -> None:
        given.append(numbers)

    inputs = tuple(Input(parent.id, path) for parent in parents)
    edges = tuple(Edge(parent.id, On.SUCCEEDED, carries=True) for parent in parents)
    return new_job(fire, "take", '{"numbers":[1,null,3]}', State.AWAITING, edges, inputs=inputs), given


def test_results_of_parents_are_passed_as_arguments(fire, storage):
    """All results are read with one call, before the arguments are decoded."""
    parent = fire.task(name="two")(lambda: 2).enqueue()
    _, given = taking(fire, parent)
    worker = Worker(fire)
    worker.run()
    gets = len(storage.called["get"])

    worker.run()

    assert [[1, 2, 3]] == given
    assert gets + 1 == len(storage.called["get"])


@pytest.mark.parametrize(
    ("returned", "path", "words"),
    [
        (lambda: {1}, ("numbers", 1), r"job .* \(parent\) has no stored result: the result was not stored"),
        (lambda: 2, ("numbers", 7), "the arguments have no path"),
        (lambda: "two", ("numbers", 1), ": str where int is annotated"),
    ],
)
def test_missing_result_of_a_parent_fails_the_job(fire, returned, path, words):
    """The job fails with the reason and is not retried."""
    parent = fire.task(name="parent")(returned).enqueue()
    job_id, given = taking(fire, parent, path=path)
    worker = Worker(fire)
    worker.run()
    worker.run()

    record = record_of(fire, job_id)
    assert (State.FAILED, []) == (record.state, given)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(record.reason)


def test_removed_result_of_a_parent_fails_the_job(fire):
    """A requeue of the parent, for example, removes its result."""
    parent = fire.task(name="parent")(lambda: 2).enqueue()
    job_id, _ = taking(fire, parent)
    worker = Worker(fire)
    worker.run()
    (claimed,) = worker.claim()
    parent.requeue()

    ended = worker.attempt(claimed)

    assert job_id == claimed.id
    assert "which is not available: it is enqueued" in ended.transition.reason


def test_job_is_handed_back_if_a_result_cannot_be_read(fire, storage):
    """An unreachable storage is not a failure of the job."""
    parent = fire.task(name="parent")(lambda: 2).enqueue()
    taking(fire, parent)
    worker = Worker(fire)
    worker.run()
    (claimed,) = worker.claim()
    storage.fail("get", StorageUnavailable("away"))

    ended = worker.attempt(claimed)

    assert (State.ENQUEUED, True) == (ended.transition.to, ended.transition.gives_back)
    assert "its related jobs could not be read: away" == ended.transition.reason


# ---- cancelled batches and ended callers -----------------------------------------------------------------


def member(fire, batch):
    """Store a job of the batch and return its id."""
    return new_job(fire, "work", batch_id=batch)


def test_member_of_a_cancelled_batch_is_not_started(fire, storage):
    """The jobs were claimed before the cancellation and would start after it.

    A batch is checked at most once a second.
    """
    ran = []
    fire.task(name="work")(lambda: ran.append(1))
    hold = NewJob(
        fire.storage.new_ids(1)[0], BATCH_TASK, "{}", "json", "default", 0, State.AWAITING,
        fire.client.clock.now(), due_at=fire.client.clock.now() + 3_600 * SECOND,
        relations_json=write_relations(Relations(batch=BatchRules("import"))),
    )  # fmt: skip
    storage.insert([hold])
    for _ in range(3):
        member(fire, hold.id)
    worker = Worker(fire)
    claimed = worker.claim()
    fire.jobs.get(hold.id).delete()

    ends = [worker.attempt(job) for job in claimed]

    assert [] == ran
    assert [(State.DELETED, "its batch was cancelled")] * 3 == [
        (end.transition.to, end.transition.reason) for end in ends
    ]
    assert 1 == len(storage.called["batch_counts"])


@pytest.mark.parametrize("is_async", [False, True])
def test_called_job_is_not_started_after_its_caller_has_ended(fire, is_async):
    """Nothing waits for the result of a called job after its caller has ended."""
    ran = []

    async def work() -> None:
        ran.append(1)

    caller = fire.task(name="caller")(lambda: None).enqueue()
    fire.task(name="work")(work if is_async else lambda: ran.append(1))
    job_id = new_job(fire, "work", caller_id=caller.id)
    worker = Worker(fire)
    claimed = {job.id: job for job in worker.claim()}
    fire.storage.apply([worker.attempt(claimed[caller.id]).transition])

    ended = worker.attempt(claimed[job_id])

    assert ([], f"its caller {caller.id} has succeeded") == (ran, ended.transition.reason)


def fail_first(fire):
    """Make the first waiting job fail."""

    @fire.task(name="work", retry=Retry.never())
    def work() -> None:
        raise ValueError("no")

    worker = Worker(fire)
    fire.storage.apply([worker.attempt(worker.claim()[0]).transition])


def test_requeued_member_starts_despite_an_outdated_check(fire):
    """Requeueing the failed member resets its batch. The earlier check of the batch is then outdated."""
    batch = new_job(fire, BATCH_TASK, state=State.AWAITING, batch=BatchRules("import", fails_fast=True))
    failing = new_job(fire, "work", batch_id=batch)
    new_job(fire, "work", batch_id=batch)
    fail_first(fire)
    fire.storage.release(1)  # the failure is registered, and the other member is not swept yet
    related = RelatedJobs(fire.storage, fire.client.serializers)
    assert related.refusal(Relations(batch)) is not None

    fire.jobs.get(failing).requeue()

    assert related.refusal(Relations(batch)) is None


def test_called_job_of_a_requeued_caller_starts_despite_an_outdated_check(fire):
    caller = new_job(fire, "work")
    fail_first(fire)
    related = RelatedJobs(fire.storage, fire.client.serializers)
    assert related.refusal(Relations(caller_id=caller)) is not None

    fire.jobs.get(caller).requeue()

    assert related.refusal(Relations(caller_id=caller)) is None


def test_called_job_starts_while_its_caller_waits(fire):
    """A called job on an event loop also starts while its caller waits."""

    @fire.task(name="work")
    async def work(number: int) -> int:
        return number

    @fire.task(name="caller")
    def caller(job: JobContext) -> list[int]:
        return job.gather("more", [work.call(number) for number in range(20)])

    made = caller.enqueue()
    with fire.server(workers=1, async_workers=5):
        assert [*range(20)] == made.result(30)


@pytest.mark.parametrize("is_related", [False, True], ids=["plain", "related"])
def test_job_that_the_event_loop_cannot_start_is_snoozed(fire, is_related):
    """A task factory of the host may raise any error.

    The job is snoozed with this reason and does not occupy a worker, so the other jobs run.
    """

    @fire.task(name="work")
    async def work() -> int:
        return 7

    caller = fire.task(name="caller")(lambda: None).using(delay=3_600).enqueue()
    unstartable = new_job(fire, "work", caller_id=caller.id if is_related else None)
    plain = [work.enqueue() for _ in range(3)]
    refused = []

    def factory(loop, coroutine, **options):
        # the asyncio task of the first job
        if not refused and coroutine.__qualname__.startswith("AsyncWorkers."):
            refused.append(unstartable)
            coroutine.close()
            raise RuntimeError("no more tasks")
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main():
        asyncio.get_running_loop().set_task_factory(factory)
        async with fire.server(workers=1, async_workers=1, loop=asyncio.get_running_loop()):
            return [await job.aresult(30) for job in plain]

    assert [7, 7, 7] == asyncio.run(main())
    record = record_of(fire, unstartable)
    assert [unstartable] == refused
    assert (State.SCHEDULED, 0) == (record.state, record.attempt)
    assert "could not be started on server" in record.reason
    assert "RuntimeError: no more tasks" in record.reason


def test_async_job_stopped_before_its_start_frees_its_worker(fire, storage):
    """A job that is stopped before its start, or whose relations cannot be read, frees its worker."""

    @fire.task(name="work")
    async def work() -> int:
        await asyncio.to_thread(int)
        return 7

    ended = fire.task(name="done")(lambda: None).enqueue()
    Worker(fire).run()
    stopped = [new_job(fire, "work", caller_id=ended.id) for _ in range(3)]
    plain = work.enqueue()
    with fire.server(workers=1, async_workers=1):
        assert 7 == plain.result(30)

    assert [State.DELETED] * 3 == [record_of(fire, job_id).state for job_id in stopped]
