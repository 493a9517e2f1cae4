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
    """Return for each job whether it is stored."""
    return [record is not None for record in storage.get([one.id for one in jobs])]


async def behind_one(storage, commit, jobs, act=lambda: None):
    """Return the results of async inserts that wait while the storage inserts a job before them."""
    first = asyncio.create_task(commit.insert(job()))
    await asyncio.to_thread(storage.began.wait, 10)
    tasks = [first, *(asyncio.create_task(commit.insert(one)) for one in jobs)]
    await asyncio.wait(tasks, timeout=0)
    act()
    storage.may_go.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_batch_has_a_largest_size():
    """More than 500 calls need several inserts, in order."""
    storage = SlowStorage()
    commit, jobs = GroupCommit(storage), [job() for _ in range(1_200)]

    asyncio.run(behind_one(storage, commit, jobs))
    commit.close()

    _, *inserts = [batch[0] for batch in storage.called["insert"]]
    assert [500, 500, 200] == [len(batch) for batch in inserts]
    assert jobs == [one for batch in inserts for one in batch]


def test_one_bad_job_does_not_refuse_its_neighbours():
    """The jobs of a refused batch are stored one by one, so each call gets the result of its own job."""
    storage = SlowStorage()
    commit = GroupCommit(storage)
    jobs = [job(), job(state=State.AWAITING, parents=(Edge("nobody"),)), job()]

    answers = asyncio.run(behind_one(storage, commit, jobs))
    commit.close()

    assert [True, True, JobNotFound, True] == [answer is True or type(answer) for answer in answers]
    assert [True, False, True] == stored(storage, jobs)


def test_an_outage_is_met_once_a_batch():
    """An unreachable storage is called twice per batch and not for each job. Each call has its own error."""
    storage = SlowStorage()
    commit, jobs = GroupCommit(storage), [job() for _ in range(20)]

    def goes_away():
        storage.fail_always("insert", StorageUnavailable("down"))

    _, *errors = asyncio.run(behind_one(storage, commit, jobs, goes_away))
    commit.close()

    assert [(StorageUnavailable, "down")] * 20 == [(type(error), str(error)) for error in errors]
    assert 20 == len({id(error) for error in errors})
    assert 4 == len(storage.called["insert"])


def test_several_loops_are_answered():
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


def test_a_cancelled_await_hinders_nobody():
    """The other calls of its batch get their results. The job of the cancelled call may be stored."""
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


def test_a_loop_that_has_closed_meanwhile_is_passed_over():
    """A result that no task awaits any more is discarded, and the next call is processed."""
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


def test_closing_stores_what_waits(our_threads):
    """Jobs of calls before the close are stored before the close returns."""
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
