"""The storage in memory: its handles and waits, its indexes, and the removal of data.

The kit tests the rules for every storage. These tests cover the rules of this storage only.
"""

from __future__ import annotations

import gc

import pytest

from firelock.model import lifecycle
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On
from firelock.model.job import JobFilter, LogLine, NewJob, Progress
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import (
    ClaimRequest,
    Feature,
    NewSession,
)
from firelock.storage.memory import MemoryStorage

DAY = 86_400 * SECOND
HOLDER = ClaimHolder("session-a", "host:a")


def session(id="session-a", timeout_seconds=1e9):
    """Return a session that outlives its test."""
    return NewSession(id, "server-a", "host:a", "host", 7, 0, timeout_seconds)


def new_job(storage, **fields):
    """Return an enqueued job in the default queue, with these fields changed."""
    given = {"queue": "default", "priority": 0, "state": State.ENQUEUED, "created_at": 1_000, **fields}
    return NewJob(storage.new_ids(1)[0], "tasks.run", "[]", "json", **given)


def insert(storage, **fields):
    """Store a job and return its id."""
    job = new_job(storage, **fields)
    storage.insert([job])
    return job.id


def claim(storage, limit=100, queues=None):
    """Return the jobs that the session could claim."""
    return storage.claim(ClaimRequest(queues, limit, "session-a", 2_000)).jobs


def success(job, expires_at=None):
    """Return the end of a successful run."""
    return lifecycle.succeeded(
        job, HOLDER, at=3_000, started_at=2_500, result="1", result_absent=None, expires_at=expires_at
    )


@pytest.fixture
def storage():
    """Yield a new storage with one session, closed at the end."""
    storage = MemoryStorage()
    storage.begin_session(session())
    yield storage
    storage.close()


# ---- handles ---------------------------------------------------------------------------------------------


def test_handles_with_the_same_name_share_data():
    """Handles with the same name share the data while one of them is open.

    Handles with different names, or without a name, share no data.
    """
    one, other = MemoryStorage("orders"), MemoryStorage("orders")
    nameless = MemoryStorage()
    id, own = insert(one), insert(nameless)

    others = [MemoryStorage("bills").get([id]), MemoryStorage().get([own])]
    one.close()
    of_the_others = [other.get([id]), MemoryStorage("orders").get([id])]
    other.close()
    gc.collect()

    assert [[None]] * 2 == others
    assert [None] not in of_the_others
    assert [None] == MemoryStorage("orders").get([id])


def test_handle_describes_its_storage():
    """The URL of a handle contains its name.

    The storage notifies waiters, and its data exists only in this process.
    """
    storage = MemoryStorage("orders")

    assert ("memory://orders", "memory://") == (storage.url, MemoryStorage().url)
    assert {Feature.NOTIFY, Feature.LIMITS, Feature.UNIQUE} == storage.features
    assert "none: jobs are lost when this process ends" == storage.describe()["durability"]
    assert [] == storage.migrate()


# ---- waiting ---------------------------------------------------------------------------------------------


def pause(storage):
    """Pause the default queue."""
    storage.put_record("queue", "default", '{"paused": true}')


@pytest.mark.parametrize(
    ("queues", "is_paused", "is_woken"),
    [
        (["other"], False, False),
        (["other", "default"], False, True),
        (None, False, True),
        (None, True, False),
        (["default"], True, False),
    ],
)
def test_wait_ends_only_for_claimable_jobs(storage, queues, is_paused, is_woken):
    """A job in another queue, or in a paused one, does not end a wait."""
    if is_paused:
        pause(storage)
    insert(storage)

    assert is_woken is storage.wait(queues, 0)


def test_earlier_due_time_ends_a_wait_once(storage):
    """A wait until the next due time ends when a job with an earlier time is stored, but only once."""
    now = storage.clock()
    insert(storage, state=State.SCHEDULED, due_at=now + 3 * DAY)
    claim(storage)

    insert(storage, state=State.SCHEDULED, due_at=now + 4 * DAY)
    later = storage.wait(None, 0)
    insert(storage, state=State.SCHEDULED, due_at=now + 2 * DAY)
    earlier = [storage.wait(None, 0) for _ in range(2)]

    assert (False, [True, False]) == (later, earlier)


# ---- removal of data -------------------------------------------------------------------------------------


def test_pruning_removes_all_data_of_the_jobs(storage):
    """When all jobs are pruned, none of their indexes, logs or progress remain."""
    parent = insert(storage, queue="a", tags=("red",))
    ids = [
        parent,
        insert(storage, queue="b", state=State.AWAITING, parents=(Edge(parent, On.FINISHED),)),
        insert(storage, queue="c", state=State.AWAITING, parents=(Edge(parent, On.FAILED),)),
        insert(storage, queue="d", state=State.SCHEDULED, due_at=1),
    ]
    storage.append_logs({parent: [LogLine(0, 1, "info", "hello")]}, {parent: Progress(1, 2, 3)})
    storage.promote(10)
    while jobs := claim(storage):
        storage.apply([success(job, expires_at=3_000) for job in jobs])
        storage.release(10)

    storage.prune(10)

    everywhere = [JobFilter(), *(JobFilter(state=state) for state in State), JobFilter(tag="red")]
    assert [[]] * len(everywhere) == [storage.find(where, limit=10).jobs for where in everywhere]
    assert not any(storage.counts().by_state.values())
    assert [] == storage.read_log(parent)
    assert [None] * 4 == storage.get(ids)
    assert (0, []) == (storage.prune(10) + storage.release(10), claim(storage))
