"""Claims on PostgreSQL while another transaction holds a snapshot open.

No job is missed, and few old entries of the index are read.
"""

from __future__ import annotations

import re

import pytest

from firelock.storage import Applied, ClaimRequest
from firelock.testing.conformance.scene import Running, hands_back, succeeds
from firelock_sql.postgresql import claim_start
from tests.scenes import scene_at
from tests.sql.postgresql.test_storage_hot_path import plans_of


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


@pytest.fixture
def short_reads(monkeypatch):
    """Let every full read count as slow, after which all reads are short."""
    monkeypatch.setattr(claim_start, "_LONG", -1)
    monkeypatch.setattr(claim_start, "_MICROS_OF_A_JOB", 0)
    monkeypatch.setattr(claim_start, "_IN_A_ROW", 1)
    monkeypatch.setattr(claim_start, "_REST", 1e9)


def ids(claimed):
    """Return the ids of the claimed jobs, in order."""
    return [job.id for job in claimed]


def begun(scene, **options):
    """Return a session that has claimed one job, so that its next reads are short."""
    scene.add(**options)
    holder = scene.begin()
    assert 1 == len(scene.claim(holder, queues=None))
    return holder


@pytest.mark.usefixtures("short_reads")
@pytest.mark.parametrize("queues", [["default"], None])
def test_short_read_claims_by_priority_and_age(scene, queues):
    """A short read finds new levels above, between and below the levels of the claimed jobs."""
    holder = begun(scene, priority=0)
    scene.add(priority=7)
    scene.claim(holder, queues=queues)
    wanted = [scene.add(priority=priority) for priority in (9, 7, 7, 3, 0, 0, -4)]

    assert wanted[:3] == ids(scene.claim(holder, 3, queues=queues))
    assert wanted[3:] == ids(scene.claim(holder, 10, queues=queues))
    assert [] == scene.claim(holder, 10, queues=queues)


@pytest.mark.usefixtures("short_reads")
def test_short_read_finds_new_queues(scene):
    """The names of the new queues come before, between and after those of the queues that were served."""
    holder = begun(scene, queue="d")
    scene.add(queue="h")
    scene.claim(holder, queues=None)
    wanted = {scene.add(queue=queue) for queue in ("a", "d", "f", "h", "k")}

    assert wanted == set(ids(scene.claim(holder, 10, queues=None)))


@pytest.mark.usefixtures("short_reads")
def test_short_reads_serve_queues_in_turn(scene):
    """A queue that is never empty does not delay the others."""
    holder = begun(scene, queue="a")
    for queue in "aaaaabbbbb":
        scene.add(queue=queue)
    scene.claim(holder, 1, queues=None)

    served = [scene.claim(holder, 2, queues=None)[0].queue for _ in range(4)]

    assert {"a", "b"} == set(served[:2]) == set(served[2:])


@pytest.mark.usefixtures("short_reads")
def test_short_reads_serve_only_the_named_queues_in_order(scene):
    """Full reads serve named queues in the same order."""
    holder = begun(scene, queue="a")
    first, second = scene.add(queue="a"), scene.add(queue="b")
    scene.add(queue="c")

    assert [second, first] == ids(scene.claim(holder, 10, queues=["b", "a"]))


@pytest.mark.usefixtures("short_reads")
def test_short_reads_skip_a_paused_queue_until_it_is_resumed(scene):
    """When a paused queue is resumed, its jobs are claimed even if they have waited for a long time."""
    holder = begun(scene)
    waiting = scene.add()
    scene.storage.put_record("queue", "default", '{"paused": true}')
    scene.advance(60)
    assert [] == scene.claim(holder, 10)
    scene.storage.put_record("queue", "default", "{}")

    assert [waiting] == ids(scene.claim(holder, 10))


@pytest.mark.usefixtures("short_reads")
def test_exchange_claims_with_a_short_read(scene):
    """One statement settles jobs, and another statement claims jobs."""
    holder = begun(scene)
    next_id = scene.add()
    job = scene.claim(holder)[0]
    other = scene.add()

    found = scene.storage.exchange(
        [succeeds(Running(job, holder))], ClaimRequest(["default"], 10, holder.session, scene.stamp())
    )

    assert next_id == job.id
    assert [Applied.APPLIED] == found.results
    assert [other] == ids(found.claim.jobs)


def test_reads_become_short_after_several_slow_ones(scene, monkeypatch):
    """The database server reports the duration of each read."""
    monkeypatch.setattr(claim_start, "_LONG", 0)
    monkeypatch.setattr(claim_start, "_MICROS_OF_A_JOB", 0)
    monkeypatch.setattr(claim_start, "_REST", 1e9)
    holder = scene.begin()
    late, *_, job_id = [scene.add() for _ in range(5)]
    jobs = [scene.claim(holder, 1)[0] for _ in range(3)]
    scene.storage.apply([hands_back(Running(jobs[0], holder))])

    assert job_id not in [job.id for job in jobs]
    assert late not in ids(scene.claim(holder, 10))


@pytest.mark.usefixtures("short_reads")
def test_queues_with_ready_jobs_are_read_in_an_order_that_only_one_index_provides(scene, admin):
    """Without this index, the claims of every queue have to sort the ready jobs.

    With any other order, statistics from a time without ready jobs let the planner choose an index that reads
    all ready jobs once for each queue.
    """
    holder = begun(scene)
    scene.add()
    scene.claim(holder, queues=None)  # a short read
    (index,) = admin.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'firelock_ready'").fetchone()
    admin.execute("DROP INDEX firelock_ready")
    try:
        plans = [
            plans_of(scene.storage._database, begin)  # noqa: SLF001 - its connection keeps them
            for begin in ("WITH RECURSIVE turn%", "WITH new%")
        ]
    finally:
        admin.execute(index)

    key = r"Sort Key: \S+\.queue COLLATE \"C\", \S+\.priority DESC, \S+\.enqueued_at$"
    assert all(re.search(key, plan, re.MULTILINE) for (plan,) in plans)
