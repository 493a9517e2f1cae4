"""Concurrent async calls share a round trip, and each gets its own result."""

from __future__ import annotations

import asyncio
import threading

from firelock.errors import JobNotFound, StorageUnavailable
from firelock.jobs.group_commit import GroupCommit
from firelock.model.dependencies import Edge
from firelock.model.job import NewJob
from firelock.model.state import State
from tests.core.fakes import FailingStorage


class SlowStorage(FailingStorage):
    """A storage whose first insert waits until the test releases it."""

    def __init__(self):
        super().__init__()
        self.began, self.may_go = threading.Event(), threading.Event()

    def insert(self, jobs, *, within=None):
        self.began.set()
        self.may_go.wait(10)
        return super().insert(jobs, within=within)


def job(**fields):
    """Return a job that can be stored."""
    given = {"id": f"job-{next(numbers)}", "state": State.ENQUEUED, **fields}
    return NewJob(
        given.pop("id"), "mail.send", "{}", "json", "default", 0, given.pop("state"), 0, **given
    )  # fmt: skip


numbers = iter(range(1_000_000))


def stored(storage, jobs):
    """Return whether each job is stored."""
    return [record is not None for record in storage.get([one.id for one in jobs])]


async def insert_meanwhile(storage, commit, jobs, act=lambda: None):
    """Insert these jobs while the storage is busy with another insert; return the results of all inserts."""
    first = asyncio.create_task(commit.insert(job()))
    await asyncio.to_thread(storage.began.wait, 10)
    tasks = [first, *(asyncio.create_task(commit.insert(one)) for one in jobs)]
    await asyncio.wait(tasks, timeout=0)
    act()
    storage.may_go.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_insert_has_at_most_500_jobs():
    """More than 500 calls need several inserts, which keep the order."""
    storage = SlowStorage()
    commit, jobs = GroupCommit(storage), [job() for _ in range(1_200)]

    asyncio.run(insert_meanwhile(storage, commit, jobs))
    commit.close()

    _, *inserts = [batch[0] for batch in storage.called["insert"]]
    assert [500, 500, 200] == [len(batch) for batch in inserts]
    assert jobs == [one for batch in inserts for one in batch]


def test_invalid_job_does_not_affect_other_jobs_of_its_batch():
    """If the storage refuses a batch, its jobs are inserted one by one, so each call gets its own result."""
    storage = SlowStorage()
    commit = GroupCommit(storage)
    jobs = [job(), job(state=State.AWAITING, parents=(Edge("nobody"),)), job()]

    answers = asyncio.run(insert_meanwhile(storage, commit, jobs))
    commit.close()

    assert [True, True, JobNotFound, True] == [answer is True or type(answer) for answer in answers]
    assert [True, False, True] == stored(storage, jobs)


def test_outage_causes_two_inserts_per_batch():
    """An unreachable storage is not called for each job. Each call gets a separate error."""
    storage = SlowStorage()
    commit, jobs = GroupCommit(storage), [job() for _ in range(20)]

    def go_down():
        storage.fail_always("insert", StorageUnavailable("down"))

    _, *errors = asyncio.run(insert_meanwhile(storage, commit, jobs, go_down))
    commit.close()

    assert [(StorageUnavailable, "down")] * 20 == [(type(error), str(error)) for error in errors]
    assert 20 == len({id(error) for error in errors})
    assert 4 == len(storage.called["insert"])


def test_calls_from_several_event_loops_get_their_results():
    """Coroutines of two event loops in two threads enqueue through one app."""
    storage = FailingStorage()
    commit, jobs = GroupCommit(storage), [job(), job()]
    others = [threading.Thread(target=asyncio.run, args=(commit.insert(one),)) for one in jobs]

    for other in others:
        other.start()
    for other in others:
        other.join(10)
    commit.close()

    assert [True, True] == stored(storage, jobs)


def test_cancelled_call_does_not_affect_other_calls():
    """The job of the cancelled call might be stored anyway."""
    storage = SlowStorage()
    commit, jobs = GroupCommit(storage), [job(), job()]

    async def enqueue():
        tasks = [asyncio.create_task(commit.insert(one)) for one in jobs]
        await asyncio.to_thread(storage.began.wait, 10)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        storage.may_go.set()
        await tasks[1]

    asyncio.run(enqueue())
    commit.close()

    assert stored(storage, jobs)[1]


def test_results_for_a_closed_event_loop_are_discarded():
    """The next call is processed as usual."""
    storage = SlowStorage()
    commit, lost = GroupCommit(storage), job()
    loop = asyncio.new_event_loop()
    task = loop.create_task(commit.insert(lost))
    loop.run_until_complete(asyncio.wait([task], timeout=0))
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()

    storage.may_go.set()
    asyncio.run(commit.insert(later := job()))
    commit.close()

    assert [True, True] == stored(storage, [lost, later])


def test_close_stores_the_waiting_jobs(our_threads):
    """The jobs of all earlier calls are stored before `close` returns."""
    storage = SlowStorage()
    commit, jobs = GroupCommit(storage), [job() for _ in range(3)]

    async def enqueue():
        tasks = [asyncio.create_task(commit.insert(one)) for one in jobs]
        await asyncio.to_thread(storage.began.wait, 10)
        storage.may_go.set()
        await asyncio.to_thread(commit.close)
        await asyncio.gather(*tasks)

    asyncio.run(enqueue())

    assert [True] * 3 == stored(storage, jobs)
    assert [] == our_threads("firelock-enqueue")
