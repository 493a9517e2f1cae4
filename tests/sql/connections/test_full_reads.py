"""Reads that skip old entries of an index while a transaction holds a snapshot open on PostgreSQL."""

from __future__ import annotations

import pytest

from firelock.storage import HeldClaim, State, StorageError
from firelock.testing.conformance.scene import deletes
from firelock_sql.connections import full_reads
from firelock_sql.connections.full_reads import EARLIEST, LATE, DueFloor, FullReadSchedule, HeldReadSchedule
from firelock_sql.postgresql import storage as postgresql_storage
from tests.scenes import scene_at

HOUR = 3_600


class Clock:
    """A monotonic clock that a test moves."""

    now = 100.0

    def __call__(self):
        """Return the current time."""
        return self.now


# ---- the time of full reads ------------------------------------------------------------------------------


def test_full_reads_pause_after_several_slow_ones():
    """A fast read resets the number of slow reads. The pause is a multiple of the slow read's duration."""
    clock = Clock()
    schedule = FullReadSchedule(20, 0.01, clock)
    for seconds in (0.02, 0.02, 0.01, 0.02, 0.02):
        schedule.record(seconds)
        assert schedule.is_due

    schedule.record(0.5)
    is_due = []
    for clock.now in (100.0, 109.9, 110.0):
        is_due.append(schedule.is_due)

    assert is_due == [False, False, True]


def test_full_reads_pause_again_after_one_slow_one():
    """A slow read right after a pause shows that the cause still exists."""
    clock = Clock()
    schedule = FullReadSchedule(20, 0.01, clock)
    for _ in range(3):
        schedule.record(0.5)

    clock.now += 10
    schedule.record(0.5)

    assert not schedule.is_due


def test_expected_claim_ends_the_pause_of_full_reads():
    """A claim whose reply was lost must be found soon."""
    schedule = HeldReadSchedule(0.01, Clock())
    for _ in range(3):
        schedule.record(0.5)

    schedule.read_fully_next()

    assert schedule.is_due


def test_floor_of_due_jobs_exists_while_full_reads_pause():
    """The floor is some seconds before the latest enqueue. A fast full read resets it."""
    clock = Clock()
    floor = DueFloor(0.01, clock)
    starts = []
    for seconds, instant in ((0.5, 1), (0.5, 2), (0.5, LATE), (0.0, 3 * LATE)):
        begin = floor.begin()
        floor.record(begin, seconds)
        floor.passed(begin, instant)
        starts.append(floor.start)
    clock.now += 10
    begin = floor.begin()
    floor.record(begin, 0.001)
    floor.passed(begin, 9 * LATE)

    assert (starts, begin) == ([EARLIEST, EARLIEST, 0, 2 * LATE], EARLIEST)
    assert floor.start == EARLIEST


def test_database_without_old_entries_is_read_fully():
    """If the database keeps no old entries in its indexes, slow reads have other causes."""
    floor = DueFloor()
    for _ in range(10):
        floor.record(floor.begin(), 60.0)
        floor.passed(floor.begin(), 10 * LATE)

    assert floor.start == EARLIEST


# ---- on PostgreSQL ---------------------------------------------------------------------------------------


@pytest.fixture
def scene(postgresql, monkeypatch):
    """A storage in which every full read counts as slow.

    After it, reads stay partial until a test ends this.
    """
    monkeypatch.setattr(postgresql_storage, "LONG_SECONDS", -1)
    monkeypatch.setattr(full_reads, "_IN_A_ROW", 1)
    for rest in ("_REST", "_REST_OF_HELD"):
        monkeypatch.setattr(full_reads, rest, 1e9)
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


def test_jobs_that_become_due_above_the_floor_are_found(scene):
    """Claims and `promote` find jobs that become due, however many jobs a call moves."""
    scene.storage.promote(1)
    early, middle, late = (scene.schedule(seconds) for seconds in (-2, 60, HOUR))
    first, last = scene.record(early).due_at, scene.record(late).due_at
    shown = scene.storage.claim(scene.request(scene.begin(), 0)).next_due_at

    scene.advance(120)
    promotions = [scene.storage.promote(1) for _ in range(3)]

    assert shown == first
    assert [one.promoted for one in promotions] == [1, 1, 0]
    assert promotions[2].next_due_at == last
    assert {scene.state(early), scene.state(middle)} == {State.ENQUEUED}


def test_backlog_of_due_jobs_stays_above_the_floor(scene):
    """The floor is never later than the due time of a job that did not fit into one call."""
    jobs = [scene.schedule(number) for number in range(6)]
    scene.storage.promote(1)
    scene.advance(HOUR)

    promoted = [scene.storage.promote(2).promoted for _ in range(4)]

    assert promoted == [2, 2, 1, 0]
    assert {scene.record(job).state for job in jobs} == {State.ENQUEUED}


def test_job_due_before_the_floor_waits_for_a_full_read(scene):
    """A job that was already long overdue when it was stored is an exception."""
    scene.storage.promote(1)
    late = scene.schedule(-HOUR)
    missed = scene.storage.promote(10).promoted

    scene.storage._due_floor._schedule.read_fully_next()  # noqa: SLF001 - as after the pause

    assert (missed, scene.storage.promote(10).promoted) == (0, 1)
    assert scene.record(late).state is State.ENQUEUED


def test_reconciliation_between_full_reads_finds_lost_jobs(scene):
    """Between full reads, a reconciliation checks the jobs that the caller names."""
    holder = scene.begin()
    for _ in range(3):
        scene.add()
    lost, held, other = (HeldClaim(job.id, job.fence, None) for job in scene.claim(holder, 3))
    scene.reconcile(holder, [])
    scene.settle(deletes(lost.job_id))

    found = scene.reconcile(holder, [lost, held])

    assert [one.held for one in found.lost] == [lost]
    assert found.unknown == []
    assert other.job_id != held.job_id


def test_claim_with_a_lost_reply_is_found_by_the_next_reconciliation(scene, admin):
    """Because the connection of the claim was lost, the storage reads all jobs of the session."""
    holder = scene.begin()
    scene.add()
    (job,) = scene.claim(holder, 1)
    scene.reconcile(holder, [])
    assert scene.reconcile(holder, []).unknown == []
    admin.execute("ALTER TABLE firelock_sessions RENAME TO firelock_away")
    try:
        with pytest.raises(StorageError):
            scene.claim(holder, 1)
    finally:
        admin.execute("ALTER TABLE firelock_away RENAME TO firelock_sessions")

    assert [one.id for one in scene.reconcile(holder, []).unknown] == [job.id]
