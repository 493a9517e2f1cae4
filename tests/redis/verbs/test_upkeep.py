"""Upkeep in Redis: no leftovers of pruned jobs, correct results with outdated lists, and bounded reads."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On
from firelock.model.job import LogLine, Progress
from firelock.model.lifecycle import Moved
from firelock.model.state import State
from firelock.storage import HeldClaim, Renewal, StorageUnavailable
from firelock.testing.conformance.scene import (
    DAY,
    HOUR,
    Running,
    deletes,
    fails,
    requeues,
    retries,
    snoozes,
    succeeds,
)
from firelock_redis.connections.database import RedisDatabase
from firelock_redis.connections.url import parse_url
from tests.redis.databases import keys_of
from tests.scenes import scene_at

PARTITIONS = 4
OPTIONS = f"partitions={PARTITIONS}"
KEPT = {"layout", "seq", "ends", "edges", "fences", "served", "turn", "odd"}
MINUTE = 60 * SECOND
AT_ONCE = 250  # dependencies, due jobs or expired jobs of one script


@pytest.fixture
def scene(server, request):
    """An empty storage with one partition, unless the test sets options."""
    server.empty()
    with scene_at(server.socket_url(getattr(request, "param", ""))) as scene:
        yield scene


alone_and_parted = pytest.mark.parametrize("scene", ["", OPTIONS], ids=["alone", "parted"], indirect=True)


def in_partition(number, place):
    """Return the id of the job with this number, in this partition."""
    return f"{number:030x}-{place:02x}"


def prune_all(scene):
    """Prune until nothing is left to prune; return the number of pruned jobs."""
    pruned = 0
    while number := scene.storage.prune(1_000):
        pruned += number
    return pruned


def release_all(scene):
    """Release until no job waits for an ended job."""
    while scene.storage.release(1_000):
        pass


def keys_without_end(server):
    """Return the keys that do not expire, without the part up to the partition's colon."""
    client = server.client()
    return {key.partition("}:")[2] for key in client.keys("*") if client.ttl(key) == -1}


# ---- no leftovers ------------------------------------------------------------------------------------------


def live_through_everything(scene):
    """Let jobs of every kind end with an expiry time; return how many there were."""
    at = scene.now()
    holder, dying = scene.begin("a"), scene.begin("dying")
    ids = [in_partition(number, number % PARTITIONS) for number in range(3 * PARTITIONS)]
    scene.storage.insert([scene.new_job(id=id, tags=("eu", "big")) for id in ids])
    runs = [Running(job, holder) for job in scene.claim(holder, len(ids))]
    scene.storage.append_logs(
        {run.id: [LogLine(0, 1, "INFO", "hello")] for run in runs}, {runs[0].id: Progress(1.0, 2.0, 5)}
    )
    for place, run in enumerate(runs):
        end = (retries, snoozes, fails)[place % 3](run)
        scene.settle(attrs.evolve(end, due_at=at) if end.to is State.SCHEDULED else end)
    children = [
        scene.continuation(id, on=on, tags=("eu",)) for id in ids[:4] for on in (On.FINISHED, On.FAILED)
    ]
    children += [scene.continuation(one) for one in children[:4]]
    fired = scene.add(recurring_id="nightly", queue="other", state=State.SCHEDULED, due_at=at)
    scene.storage.promote(1_000)
    scene.claim(dying, 2)
    scene.storage.end_session(dying.session, None, reason="killed")
    runs = [Running(job, holder) for job in scene.claim(holder, 1_000, queues=None)]
    scene.storage.apply([deletes(runs[0].id), requeues(runs[0].id)])  # a tail, until the session ends
    for run in runs[1:]:
        scene.settle(succeeds(run, expires_at=at + HOUR))
    release_all(scene)
    everything = [*ids, *children, fired]
    scene.storage.apply([deletes(id, expires_at=at + HOUR) for id in everything])
    release_all(scene)
    scene.storage.end_session(holder.session, None, reason="stopped")
    return len(everything)


@alone_and_parted
def test_pruned_jobs_and_sessions_leave_only_counters(scene, server):
    """After all jobs and sessions were pruned, only counters whose values must never repeat are left."""
    number = live_through_everything(scene)
    # children are kept as long as their parents, whose ends have times from callers' clocks
    scene.advance(100 * 365 * DAY / SECOND)

    pruned = prune_all(scene)

    assert number == pruned
    assert set() == keys_without_end(server) - KEPT


def test_queue_without_jobs_is_forgotten(scene, server):
    """A queue is counted as long as it has a job, and no longer after its last job was deleted."""
    at = scene.now()
    pruned, kept = scene.add(queue="mail"), [scene.add(queue="default") for _ in range(2)]
    scene.storage.apply([deletes(id, expires_at=at) for id in (pruned, kept[0])])

    scene.storage.prune(10)

    assert {"default"} == set(scene.storage.counts().by_queue)
    assert {"default"} == set(server.client().smembers("firelock:{0}:queues"))


def test_tail_is_deleted_with_its_pruned_job(scene, server):
    """No tail remains even if the job is pruned while its session is still running it."""
    running = scene.run(scene.begin())
    scene.settle(deletes(running.id, expires_at=scene.now()))

    pruned = scene.storage.prune(10)

    assert (1, False) == (pruned, any(key.startswith("tails:") for key in keys_of(server)))
    assert [] == scene.storage.reconcile(running.holder.session, []).unknown


# ---- outdated lists ----------------------------------------------------------------------------------------


def test_last_expiry_of_a_job_applies(scene):
    """If a job has ended more than once, the expiry time that was set last applies, and no earlier one."""
    at = scene.now()
    later = scene.settle(deletes(scene.add(), expires_at=at + HOUR))
    never = scene.settle(deletes(scene.add(), expires_at=at + HOUR))
    for job_id, expires_at in ((later, at + 9 * HOUR), (never, None)):
        scene.storage.apply([requeues(job_id), deletes(job_id, expires_at=expires_at)])
    scene.advance(2 * 3_600)

    first = scene.storage.prune(10)
    scene.advance(8 * 3_600)
    second = scene.storage.prune(10)

    assert (0, 1, [None]) == (first, second, scene.storage.get([later]))
    assert State.DELETED == scene.state(never)


def test_job_that_ended_twice_is_pruned_once(scene):
    """Two entries for one job, in the same minute or in different ones, are counted as one job."""
    at = scene.now()
    ids = scene.add_many(2)
    for job_id, expiries in ((ids[0], (at, at)), (ids[1], (at - HOUR, at))):
        for expires_at in expiries:
            scene.storage.apply([requeues(job_id), deletes(job_id, expires_at=expires_at)])

    assert [2, 0] == [scene.storage.prune(10), scene.storage.prune(10)]


def test_job_that_expires_later_this_minute_is_checked_once(scene, server):
    """Jobs that expire in the current minute are listed separately and are pruned when they expire."""
    now = scene.now()
    scene.advance((now // MINUTE * MINUTE + MINUTE - now) / SECOND)  # so that a minute begins now
    at = scene.now()
    ids = scene.add_many(2)
    scene.storage.apply([deletes(id, expires_at=at + 40 * SECOND + place) for place, id in enumerate(ids)])

    early = scene.storage.prune(10)
    apart = keys_of(server)
    scene.advance(40)
    in_time = scene.storage.prune(10)

    assert (0, 2) == (early, in_time)
    assert ("soon" in apart, any(key.startswith("x:") for key in apart)) == (True, False)


def test_job_requeued_before_its_expiry_is_not_pruned(scene):
    """The job may already have been listed separately for its expiry time."""
    scene.advance(60 - scene.now() % MINUTE / SECOND)
    job_id = scene.settle(deletes(scene.add(), expires_at=scene.now() + 40 * SECOND))
    scene.storage.prune(10)
    scene.settle(requeues(job_id))
    scene.advance(120)

    assert (0, State.ENQUEUED) == (scene.storage.prune(10), scene.state(job_id))


# ---- dependencies ------------------------------------------------------------------------------------------


def test_release_skips_children_that_continue_to_wait(scene, server):
    """If `release` handles one child at a time, it skips these children and reaches the others."""
    parent = scene.add()
    waiting = [scene.continuation(parent) for _ in range(3)]
    wanted = scene.continuation(parent, on=On.FAILED)
    scene.settle(fails(scene.run(scene.begin(), parent)))

    released = [scene.storage.release(1) for _ in range(6)]

    assert ([1, 1, 1, 1, 0, 0], State.ENQUEUED) == (released, scene.state(wanted))
    assert [State.AWAITING] * 3 == [scene.state(child) for child in waiting]
    assert {"checked", "releasing"}.isdisjoint(keys_of(server))


def test_second_end_of_a_parent_checks_all_children_again(scene):
    """The stored progress is valid only until the parent ends again.

    After that, all children are checked again.
    """
    parent = scene.add()
    first, second = scene.continuation(parent), scene.continuation(parent)
    holder = scene.begin()
    scene.settle(fails(scene.run(holder, parent)))
    scene.storage.release(1)
    scene.settle(requeues(parent))
    scene.settle(succeeds(scene.run(holder, parent)))

    checked = scene.storage.release(10)

    assert (2, [State.ENQUEUED] * 2) == (checked, [scene.state(first), scene.state(second)])


def awaiting(scene, *edges):
    """Store a job that waits for these ends; return its id."""
    return scene.add(state=State.AWAITING, parents=edges)


def test_parent_named_twice_moves_its_child_once(scene, server):
    """A child may name its parent twice, with the same condition or with two different ones.

    It is moved once, and no keys remain.
    """
    parent = scene.add()
    same = scene.continuation(parent, parent, on=On.DELETED)
    both = awaiting(scene, Edge(parent, On.DELETED), Edge(parent, On.FINISHED))
    neither = awaiting(scene, Edge(parent), Edge(parent, On.FINISHED))
    scene.settle(deletes(parent))

    release_all(scene)

    assert [(State.ENQUEUED, 2), (State.ENQUEUED, 2), (State.DELETED, 2)] == [
        (scene.state(child), len(scene.history(child))) for child in (same, both, neither)
    ]
    assert not {key for key in keys_of(server) if key.startswith(("pend:", "n:"))}


def test_child_of_several_pruned_parents_is_deleted_once(scene, server):
    """A child that waits for two parents, or twice for one, is deleted when the first parent is pruned."""
    holder, at = scene.begin(), scene.now()
    parents = [scene.run(holder).id for _ in range(2)]
    child = awaiting(scene, Edge(parents[0]), Edge(parents[0], On.DELETED), Edge(parents[1]))
    scene.storage.end_session(holder.session, [], reason="stopped")
    for run in [Running(job, scene.begin("b")) for job in scene.claim(scene.begin("b"))]:
        scene.settle(fails(run, expires_at=at))
    release_all(scene)

    pruned = scene.storage.prune(10)

    assert (2, State.DELETED, 2) == (pruned, scene.state(child), len(scene.history(child)))
    assert not {key for key in keys_of(server) if key.startswith(("pend:", "n:"))}


def test_dependency_is_deleted_when_its_child_stops_waiting(scene, server):
    """A child may stop waiting because of an operator or because of another parent."""
    one, other = scene.schedule(3_600), scene.schedule(3_600)
    by_hand, by_other = scene.continuation(one), scene.continuation(one, other)
    scene.settle(deletes(by_hand))
    scene.settle(deletes(other))
    release_all(scene)

    result = scene.apply(deletes(one))

    assert State.DELETED == scene.state(by_other)
    assert ("applied", 0) == (result, scene.storage.release(10))
    assert not {key for key in keys_of(server) if key.startswith(("pend:", "n:"))}


def test_parent_with_many_waiting_children_is_pruned_in_several_calls(scene, server):
    """If a parent has more waiting children than one script deletes, all are deleted before the parent."""
    parent = scene.add()
    number = 2 * AT_ONCE + 10
    children = scene.add_many(number, state=State.AWAITING, parents=(Edge(parent),))
    scene.settle(fails(scene.run(scene.begin(), parent), expires_at=scene.now()))
    release_all(scene)

    pruned = scene.storage.prune(1)

    records = [record for record in scene.storage.get(children) if record is not None]
    assert (1, [None], number) == (pruned, scene.storage.get([parent]), len(records))
    assert {(State.DELETED, Moved.PARENT_GONE.value)} == {(one.state, one.reason) for one in records}
    assert f"pend:{parent}" not in keys_of(server)


# ---- partitions and bounds ---------------------------------------------------------------------------------


def test_one_call_runs_several_scripts_up_to_its_limit(scene):
    """A call runs scripts of bounded size until it has reached its limit."""
    at, number = scene.now(), 2 * AT_ONCE + 10
    ids = scene.add_many(number, state=State.SCHEDULED, due_at=at)
    promoted = scene.storage.promote(1_000)
    children = [scene.continuation(ids[0], on=On.DELETED) for _ in range(number)]
    scene.storage.apply([deletes(id, expires_at=at) for id in ids])

    released, pruned = scene.storage.release(1_000), scene.storage.prune(1_000)

    assert (number, number, number) == (promoted.promoted, released, pruned)
    assert {State.ENQUEUED} == {scene.state(child) for child in children}


def prune_once(scene, server):
    """Return how many jobs one script has pruned, and whether there are more to check."""
    database = RedisDatabase(parse_url(server.socket_url()))
    database.clock_offset = scene.storage.clock_offset
    pruned, more, *_ = database.run("prune", 0, 1_000, '"gone"')
    database.close()
    return [pruned, more]


def test_script_deletes_a_bounded_number_of_children(scene, server):
    """The waiting children of a pruned job are deleted in calls of bounded size."""
    parent = scene.add()
    scene.add_many(AT_ONCE + 1, state=State.AWAITING, parents=(Edge(parent),))
    scene.settle(fails(scene.run(scene.begin(), parent), expires_at=scene.now()))
    release_all(scene)

    assert [[0, 1], [1, 0]] == [prune_once(scene, server) for _ in range(2)]


def test_script_checks_a_bounded_number_of_jobs(scene, server):
    """Requeued jobs are skipped in calls of bounded size. On a slow server, a script stops even earlier."""
    ids, at = scene.add_many(1_001), scene.now()
    scene.storage.apply([deletes(id, expires_at=at - HOUR) for id in ids])
    scene.storage.apply([requeues(id) for id in ids])

    assert [[0, 1], [0, 1]] == [prune_once(scene, server) for _ in range(2)]
    assert [0, 0] in [prune_once(scene, server) for _ in range(1_001 // 25)]


def test_script_reads_a_bounded_number_of_bytes(scene, server):
    """Jobs with large results or arguments are read in parts of bounded size."""
    holder, at, large = scene.begin(), scene.now(), '"' + "x" * 30_000 + '"'
    for arguments, result in (("[]", large), (f"[{large}]", "1")):
        for _ in range(40):
            end = succeeds(scene.run(holder, scene.add(arguments=arguments)), expires_at=at - HOUR)
            scene.settle(attrs.evolve(end, result=result))

    runs = [prune_once(scene, server)]
    while runs[-1][1]:
        runs.append(prune_once(scene, server))

    assert max(pruned for pruned, _ in runs) <= 50
    assert 80 == sum(pruned for pruned, _ in runs)


# ---- full memory -------------------------------------------------------------------------------------------


@alone_and_parted
def test_upkeep_continues_while_memory_is_full(scene, server):
    """Upkeep that frees memory continues.

    Sessions are renewed and ended, due jobs are enqueued, and expired jobs are pruned.
    """
    at = scene.now()
    holder, other = scene.begin("a"), scene.begin("b", 60.0)
    pruned, parent, due = scene.add(), scene.add(), scene.schedule(0)
    child = scene.continuation(parent, on=On.DELETED)
    scene.storage.apply([deletes(pruned, expires_at=at), deletes(parent)])
    running = scene.run(holder)
    scene.advance(120)
    server.client().config_set("maxmemory", 1)

    try:
        with pytest.raises(StorageUnavailable):
            scene.add()
        assert [True] == scene.storage.renew([Renewal(holder.session)])
        held = HeldClaim(running.id, running.job.fence, at)
        assert [] == scene.storage.reconcile(holder.session, [held]).lost
        assert [other.session] == [taken.session for taken in scene.storage.orphans(10)]
        assert (1, 1, 1) == (
            scene.storage.promote(10).promoted, scene.storage.release(10), scene.storage.prune(10),
        )  # fmt: skip
        scene.begin("c")
        assert [running.id] == scene.storage.end_session(holder.session, None, reason="killed").crashed
    finally:
        server.client().config_set("maxmemory", 0)
    assert [State.ENQUEUED] * 3 == [scene.state(id) for id in (child, due, running.id)]
