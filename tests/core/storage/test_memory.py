"""The storage in memory: its handles and waiters, its indexes, and what it leaves behind.

What every storage promises is proven by the kit; here is what is true of this one alone.
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
    """A session that outlives its test."""
    return NewSession(id, "server-a", "host:a", "host", 7, 0, timeout_seconds)


def new_job(storage, **fields):
    """An enqueued job of the default queue, with these fields changed."""
    given = {"queue": "default", "priority": 0, "state": State.ENQUEUED, "created_at": 1_000, **fields}
    return NewJob(storage.new_ids(1)[0], "tasks.run", "[]", "json", **given)


def insert(storage, **fields):
    """The id of a job that is stored now."""
    job = new_job(storage, **fields)
    storage.insert([job])
    return job.id


def claim(storage, limit=100, queues=None):
    """What the session could claim."""
    return storage.claim(ClaimRequest(queues, limit, "session-a", 2_000)).jobs


def success(job, expires_at=None):
    """The end of a run that returned."""
    return lifecycle.succeeded(
        job, HOLDER, at=3_000, started_at=2_500, result="1", result_absent=None, expires_at=expires_at
    )


@pytest.fixture
def storage():
    """A store of its own with one session, closed at the end."""
    storage = MemoryStorage()
    storage.begin_session(session())
    yield storage
    storage.close()


# ---- handles ---------------------------------------------------------------------------------------------


def test_handles_of_one_name_share_a_store():
    """For as long as one of them is open; of another name, or of none, they share nothing."""
    one, other = MemoryStorage("orders"), MemoryStorage("orders")
    nameless = MemoryStorage()
    id, own = insert(one), insert(nameless)

    strangers = [MemoryStorage("bills").get([id]), MemoryStorage().get([own])]
    one.close()
    of_the_others = [other.get([id]), MemoryStorage("orders").get([id])]
    other.close()
    gc.collect()

    assert [[None]] * 2 == strangers
    assert [None] not in of_the_others
    assert [None] == MemoryStorage("orders").get([id])


def test_a_handle_says_what_it_is():
    """Its URL names the store; it wakes waiters, and neither survives its process nor is seen by another."""
    storage = MemoryStorage("orders")

    assert ("memory://orders", "memory://") == (storage.url, MemoryStorage().url)
    assert {Feature.NOTIFY, Feature.LIMITS, Feature.UNIQUE} == storage.features
    assert "none: jobs are gone when this process ends" == storage.describe()["durability"]
    assert [] == storage.migrate()


# ---- waiting ---------------------------------------------------------------------------------------------


def pause(storage):
    """The default queue is paused."""
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
def test_only_work_that_a_claim_would_take_counts(storage, queues, is_paused, is_woken):
    """A job of another queue, or of a paused one, ends no wait."""
    if is_paused:
        pause(storage)
    insert(storage)

    assert is_woken is storage.wait(queues, 0)


def test_an_earlier_due_instant_ends_a_wait_once(storage):
    """Who sleeps until the next due instant hears of an earlier one, and not again of the same."""
    now = storage.clock()
    insert(storage, state=State.SCHEDULED, due_at=now + 3 * DAY)
    claim(storage)

    insert(storage, state=State.SCHEDULED, due_at=now + 4 * DAY)
    later = storage.wait(None, 0)
    insert(storage, state=State.SCHEDULED, due_at=now + 2 * DAY)
    earlier = [storage.wait(None, 0) for _ in range(2)]

    assert (False, [True, False]) == (later, earlier)


# ---- bounded work ----------------------------------------------------------------------------------------


def test_pruned_jobs_leave_nothing_behind(storage):
    """When every job is pruned, no index, log or progress of any of them is left."""
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
