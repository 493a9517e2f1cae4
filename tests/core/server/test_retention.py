"""One worker process per storage removes expired jobs, in slices, as fast as they expire."""

from __future__ import annotations

import pytest

from firelock import Firelock
from firelock.errors import StorageUnavailable
from firelock.model.clock import SECOND
from firelock.server.retention import LEASE, Retention
from firelock.storage import NewSession
from tests.core.fakes import FailingStorage

SELDOM, TTL = 15.0, 30.0


class Process:
    """A worker process with the retention routine, and a clock that only `prune` and the test advance."""

    def __init__(self, storage):
        self.storage = storage
        self.now, self.ended, self.is_over = 1_000.0, 0, False
        self.retention = Retention(
            storage, seldom=SELDOM, lease_seconds=TTL, ended=lambda: self.ended,
            is_over=lambda: self.is_over, clock=lambda: self.now,
        )  # fmt: skip
        self.limits = []

    def lasting(self, seconds, left=10**9):
        """Set the number of remaining jobs and the number of seconds that the removal of each job takes."""
        self.left = left

        def prune(limit):
            self.limits.append(limit)
            gone = min(limit, self.left)
            self.left -= gone
            self.now += seconds * gone
            return gone

        self.storage.prune = prune
        return self

    def slice(self):
        """Run a slice and return the seconds until the next one."""
        return self.retention.run_slice()


@pytest.fixture
def storage():
    """A storage in memory whose clock the tests advance."""
    return FailingStorage()


@pytest.fixture
def process(storage):
    """A worker process."""
    return Process(storage)


# ---- the lease -------------------------------------------------------------------------------------------


def test_only_the_process_with_the_lease_removes_jobs(storage, process):
    """The other processes try again after six sweeps."""
    other = Process(storage)

    process.slice()
    pauses = [other.slice() for _ in range(3)]

    assert [SELDOM] * 3 == pauses
    assert 1 == len(storage.called["prune"])


def test_lease_of_a_process_that_died_goes_to_the_next_one(storage, process):
    """The next process acquires the lease as soon as the lease has expired."""
    other = Process(storage)
    process.slice()

    pruned = []
    for seconds in (TTL - 1, 2):
        storage.clock_offset += int(seconds * SECOND)
        other.slice()
        pruned.append(len(storage.called["prune"]))

    assert [1, 2] == pruned


def test_process_that_has_lost_its_lease_removes_no_more_jobs(storage, process):
    """The lease is renewed before each slice."""
    other = Process(storage)
    process.slice()
    storage.clock_offset += int((TTL + 1) * SECOND)
    other.slice()
    pruned = len(storage.called["prune"])

    pause = process.slice()

    assert (pruned, SELDOM) == (len(storage.called["prune"]), pause)


def test_lease_is_renewed_by_each_slice(storage, process):
    """A process keeps the lease as long as it continues to remove jobs."""
    other = Process(storage)
    for _ in range(5):
        process.slice()
        storage.clock_offset += int(0.6 * TTL * SECOND)

    assert SELDOM == other.slice()


def test_stopping_process_releases_its_lease(storage, process):
    """The next process does not have to wait until the lease expires."""
    other = Process(storage)
    process.slice()

    process.retention.hand_over()
    other.slice()

    assert 2 == len(storage.called["prune"])
    assert storage.acquire_lock(LEASE, "somebody else", 1) is None


def test_process_without_the_lease_does_not_call_the_storage(storage, process):
    """A process without the lease releases nothing. An outage during the release is harmless."""
    process.retention.hand_over()
    before = len(storage.called["release_lock"])
    process.slice()
    storage.fail_always("release_lock", StorageUnavailable("down"))

    process.retention.hand_over()

    assert (0, 1) == (before, len(storage.called["release_lock"]))


# ---- slices ----------------------------------------------------------------------------------------------


def test_slice_ends_after_a_fifth_of_a_second(process):
    """Between two slices, the other routines of the thread run and the lease is renewed."""
    process.lasting(0.0001)
    began = process.now

    process.slice()

    assert 0.2 <= process.now - began <= 0.3


def test_slices_that_leave_jobs_follow_each_other_faster(process):
    """At first, the pause is three times as long as a slice; in the end, it is as long as the slice."""
    process.lasting(0.0001)
    rests = []
    for _ in range(30):
        began = process.now
        rests.append(process.slice() / (process.now - began))

    assert 3.0 == pytest.approx(rests[0])
    assert 1.0 == pytest.approx(rests[-1])
    assert sorted(rests, reverse=True) == pytest.approx(rests)


def test_pauses_stay_short_while_jobs_expire_quickly(process):
    """A single slice that leaves no jobs lengthens the pause by only one step.

    Otherwise, the backlog would oscillate.
    """
    process.lasting(0.001)
    for _ in range(20):
        process.slice()
    process.left = 0
    process.slice()
    process.left = 10**9

    began = process.now
    rest = process.slice() / (process.now - began)

    assert rest <= 2


def test_pauses_grow_again_after_a_backlog(process):
    """Some time after the last slice that left jobs, the pauses of a new backlog are long again."""
    process.lasting(0.001)
    for _ in range(100):
        process.slice()
    process.left = 0
    for _ in range(10):
        process.slice()
    process.left = 10**9

    began = process.now
    rest = process.slice() / (process.now - began)

    assert 3.0 == pytest.approx(rest)


@pytest.mark.parametrize(("seconds", "jobs"), [(0.01, 100), (0.0002, 200), (0.0000001, 500)])
def test_number_of_jobs_per_call_depends_on_their_removal_time(process, seconds, jobs):
    """A call delays other work, so it removes few jobs if they are slow to remove."""
    process.lasting(seconds, left=50_000)

    for _ in range(10):
        process.slice()

    assert jobs / 2 <= process.limits[-1] <= jobs


def test_pauses_grow_while_no_job_expires(process):
    """The pauses grow from one second to six sweeps."""
    process.lasting(0, left=0)

    pauses = [process.slice() for _ in range(8)]

    assert pauses[0] < 2.5
    assert 0.8 * SELDOM <= pauses[-1] <= 1.2 * SELDOM


@pytest.mark.parametrize("reason", ["expired", "ended"])
def test_pause_is_a_second_while_jobs_expire_or_end(process, reason):
    """With longer pauses, jobs that are kept for one second would remain for a quarter of a minute."""
    process.lasting(0, left=0)
    for _ in range(8):
        process.slice()

    if reason == "expired":
        process.left = 1
    else:
        process.ended += 1

    assert process.slice() <= 1.2


def test_pauses_grow_during_an_outage(storage, process):
    """The routine continues when the storage is reachable again."""
    storage.fail_always("prune", StorageUnavailable("down"))

    pauses = [process.slice() for _ in range(6)]
    storage.recover()
    process.slice()

    assert [2.0, 4.0, 8.0, 15.0, 15.0, 15.0] == pauses
    assert 7 == len(storage.called["prune"])


def test_stopping_process_ends_its_slice(process):
    """A stopping process does not make another call."""
    process.lasting(0.0001)
    process.is_over = True

    process.slice()

    assert [] == process.limits


# ---- orders ----------------------------------------------------------------------------------------------


def test_orders_to_servers_that_have_ended_are_deleted(storage, process):
    """An order to a live server remains until the server has obeyed it."""
    for name in ("living", "lost"):
        storage.begin_session(NewSession(name, f"server-{name}", name, "host", 7, 0, 1e9))
    storage.end_session("lost", None, reason="killed")
    with Firelock(storage) as fire:
        for name in ("living", "lost", "unknown"):
            fire.servers.order(f"server-{name}", "quiet")

        process.slice()

        assert ["server-living"] == [one.key for one in storage.list_records("server_order")]
