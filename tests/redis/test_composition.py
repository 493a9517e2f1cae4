"""Across modules: batches, memos and streams in Redis: their partitions, cost and removal."""

from __future__ import annotations

from contextlib import closing

import attrs
import pytest

from firelock import ConfigurationError
from firelock.model.batch import BatchCounts
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, Input, On, Relations
from firelock.model.lifecycle import Moved
from firelock.model.memo import MemoKind
from firelock.model.state import State
from firelock.storage import Applied, ClaimRequest, JobFilter
from firelock.testing import Handles
from firelock.testing.conformance.flow_scene import FlowScene, sleeps, suspends
from firelock.testing.conformance.scene import DAY, STAMP, asks, deletes, fails, opener, requeues, succeeds
from tests.redis.counting import CountingProxy
from tests.redis.databases import keys_of

PARTED = "partitions=4"
MANY = 300
DAY_SECONDS = 86_400


@pytest.fixture
def scene(server, request):
    """An empty storage with one partition, unless the test sets options."""
    server.empty()
    with closing(Handles(opener(server.socket_url(getattr(request, "param", ""))))) as handles:
        yield FlowScene(handles)


alone_and_parted = pytest.mark.parametrize("scene", ["", PARTED], ids=["alone", "parted"], indirect=True)
parted = pytest.mark.parametrize("scene", [PARTED], ids=["parted"], indirect=True)


def elsewhere(scene, job_id):
    """Return an id in a different partition from the job's."""
    return next(id for id in scene.storage.new_ids(5_000) if id[-2:] != job_id[-2:])


# ---- colocation --------------------------------------------------------------------------------------------


@parted
def test_related_jobs_in_other_partitions_are_refused(scene):
    """Jobs that are counted together or wait for each other must be in the same partition."""
    batch = scene.batch()
    other = elsewhere(scene, batch)
    for relations in (Relations(batch), Relations(caller_id=batch)):
        stray = scene.new_tied(relations, {"id": other})
        with pytest.raises(
            ConfigurationError, match=rf"{batch}.*colocate_with='{batch}'.*Nothing was stored"
        ):
            scene.storage.insert([scene.new_member(batch), stray])

    assert [] == scene.found(JobFilter(batch_id=batch))
    assert BatchCounts() == scene.batch_counts(batch)


@parted
def test_member_with_a_key_in_another_partition_is_refused_with_a_fix(scene):
    """The error suggests storing the batch in the key's partition, which then also contains the members."""
    batch = scene.batch(colocate_with="tenant:7")
    far = next(
        key
        for key in (f"tenant:{n}" for n in range(100))
        if scene.storage.new_ids(1, key)[0][-2:] != batch[-2:]
    )
    with pytest.raises(ConfigurationError, match=rf"'{far}'.*colocate_with=key.*Nothing was stored"):
        scene.member(batch, admission=asks(far))

    assert [scene.member(batch, admission=asks("tenant:7"))] == scene.found(JobFilter(batch_id=batch))


@parted
def test_signals_reach_jobs_of_every_partition(scene):
    """The sender of a signal does not need to know the partition of the job."""
    holder = scene.begin()
    jobs = [scene.add(id=id) for id in scene.storage.new_ids(8, [f"k{n}" for n in range(8)])]
    assert len({id[-2:] for id in jobs}) > 1
    for one in scene.running(holder, *jobs):
        scene.settle(suspends(one))

    answers = [scene.send(id, "approval") for id in jobs]

    assert [Applied.APPLIED] * 8 == answers
    assert {State.ENQUEUED} == {scene.state(id) for id in jobs}
    assert sorted(jobs) == sorted(scene.claim_ids(scene.begin("other")))


@parted
def test_job_that_waits_for_another_partition_checks_again(scene):
    """No script can read both partitions, so the job is enqueued at intervals to check the called job.

    If the called job is in its own partition, the job is enqueued as soon as that job has ended.
    """
    caller = scene.add()
    here, far = scene.add(colocate_with=caller), scene.add(id=elsewhere(scene, caller))
    (running,) = [one for one in scene.take(scene.begin()) if one.id == caller]

    scene.settle(suspends(running, "c", kind=MemoKind.CALL, children=[here, far]))

    record = scene.record(caller)
    assert (State.AWAITING, "call c") == (record.state, record.waits_for)
    assert record.due_at is not None
    assert record.due_at - record.changed_at <= 10 * SECOND


PLAIN = {
    "evalsha": 3, "del": 2, "get": 1, "hdel": 1, "hincrby": 2, "hmget": 5, "hset": 4, "incrby": 1, "sadd": 2,
    "sismember": 1, "smembers": 1, "srem": 1, "time": 1, "zadd": 5, "zcard": 1, "zpopmin": 1, "zrange": 4,
    "zrem": 2, "exists": 4,
}  # fmt: skip
"""Calls of each command for a hundred plain jobs from insert to end, the same as before batches existed."""

AROUND = {"config|resetstat", "config", "info", "publish", "client|setinfo", "client", "hello", "select"}


# ---- costs -------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server):
    """A counting proxy in front of an empty server."""
    server.empty()
    with CountingProxy(server) as proxy:
        yield proxy


@pytest.fixture
def counted(proxy):
    """A scene behind the proxy, whose scripts are loaded."""
    with closing(Handles(opener(proxy.url()))) as handles:
        scene = FlowScene(handles)
        batch, _ = scene.batch_of(1)
        scene.member(batch)
        holder = scene.begin("warm")
        for one in scene.take(holder):
            scene.keep(one, "a")
            scene.settle(suspends(one))
        scene.settle_all()
        yield scene


def test_members_take_as_few_round_trips_as_plain_jobs(counted, proxy):
    """A chunk of members is stored in one round trip.

    Settling a hundred members takes one round trip, which also makes the next claim.
    """
    batch = counted.batch()
    members = [counted.new_member(batch) for _ in range(MANY)]
    holder = counted.begin()
    with proxy.measure() as measure:
        counted.storage.insert(members)
        running = counted.take(holder, MANY)
        ends = [succeeds(one) for one in running]
        counted.storage.exchange(ends, ClaimRequest(None, 10, holder.session, STAMP))

    assert 3 == measure.traffic.trips
    assert (MANY, 0, 0, MANY, 0, 0) == counted.counts(batch)


def test_step_and_end_take_one_round_trip_each(counted, proxy):
    """A memo changes the stored record of the run.

    The process that has claimed the job remembers this change, so it can settle the job with one script.
    """
    job = counted.add()
    (running,) = counted.running(counted.begin(), job)
    with proxy.measure() as measure:
        counted.keep(running, "a")
        counted.append(running, "out", "piece")
        counted.keep(running, "b")
        assert Applied.APPLIED is counted.apply(succeeds(running))

    assert 4 == measure.traffic.trips
    assert State.SUCCEEDED is counted.state(job)


def test_plain_jobs_run_no_command_of_batches(server, scene):
    """A hundred jobs are stored, claimed and settled.

    The server counts the commands, and none of them belongs to batches or memos.
    """
    holder = scene.begin()
    scene.add()
    for one in scene.take(holder):
        scene.settle(succeeds(one))
    jobs = [scene.new_job() for _ in range(100)]
    server.call("CONFIG", "RESETSTAT")

    scene.storage.insert(jobs)
    claimed = scene.take(holder, 100)
    scene.storage.exchange([succeeds(one) for one in claimed], ClaimRequest(None, 10, holder.session, STAMP))

    ran = commands_of(server)
    few = {name: ran[name] for name in PLAIN}
    assert (PLAIN, set()) == (few, set(ran) - {*PLAIN, *AROUND})


def test_members_of_several_batches_end_with_few_additional_commands(server, scene):
    """An exchange needs two more commands per batch, and another two if the batch has no active members."""
    holder = scene.begin()
    batches = [scene.batch_of(10)[0] for _ in range(3)]
    plain = [scene.add() for _ in range(31)]
    claimed = scene.take(holder, 61)
    of_plain = [one for one in claimed if one.id in plain]
    *of_batches, kept = [one for one in claimed if one.id not in plain]

    ran = []
    for some in (of_plain[:-1], [of_plain[-1], *of_batches]):
        server.call("CONFIG", "RESETSTAT")
        ends = [succeeds(one) for one in some]
        scene.storage.exchange(ends, ClaimRequest(None, 0, holder.session, STAMP))
        ran.append(commands_of(server))

    apart = {name: ran[1][name] - ran[0].get(name, 0) for name in ran[1]}
    assert {"hincrby": 6, "zadd": 2, "incr": 2} == {name: more for name, more in apart.items() if more}
    assert [(10, 0), (10, 0), (9, 1)] == [
        (scene.batch_counts(b).succeeded, scene.batch_counts(b).active) for b in batches
    ]
    assert kept.id in {job.id for job in scene.storage.find(JobFilter(batch_id=batches[2]), limit=20).jobs}


@pytest.mark.parametrize("due", [None, 2 * DAY], ids=["filled", "held"])
def test_batch_stored_with_members_equals_one_stored_before_them(scene, due):
    """The script for a batch with its members stores the same properties as the script for a batch alone."""
    fields = {
        "fails_fast": True, "keeps": (DAY, None, 2 * DAY), "tags": ("a", "b"), "reason": "filled by ada",
        "queue": "batches", "priority": 3, "due_at": due,
    }  # fmt: skip
    alone = scene.new_batch(**fields)
    scene.storage.insert([alone])
    scene.storage.insert([scene.new_member(alone.id)])
    batch = scene.new_batch(**fields)
    jobs = [batch, scene.new_member(batch.id), scene.new_member(batch.id, queue="others", priority=2)]

    assert [True] * 3 == list(scene.storage.insert(jobs).is_new)
    assert [False] * 3 == list(scene.storage.insert(jobs).is_new)

    stored = [
        attrs.evolve(scene.record(one), id="", created_at=0, changed_at=0) for one in (alone.id, batch.id)
    ]
    histories = [[attrs.evolve(step, at=0) for step in scene.history(one)] for one in (alone.id, batch.id)]
    assert stored[0] == stored[1]
    assert histories[0] == histories[1]
    assert attrs.evolve(scene.batch_counts(alone.id), total=2, active=2) == scene.batch_counts(batch.id)
    for wanted in (JobFilter(tag="b"), JobFilter(queue="batches"), JobFilter(state=State.AWAITING)):
        assert {alone.id, batch.id} == set(scene.found(wanted))
    assert [job.id for job in jobs[1:]] == sorted(scene.found(JobFilter(batch_id=batch.id)))


def commands_of(server):
    """Return how often each command was run since the statistics were reset."""
    found = {}
    for name, statistics in server.info("commandstats").items():
        found[name.removeprefix("cmdstat_")] = int(statistics.partition("calls=")[2].partition(",")[0])
    return found


# ---- release -----------------------------------------------------------------------------------------------


@alone_and_parted
def test_sweep_continues_after_its_limit(scene):
    """Each member is checked only once, even in very small steps."""
    batch, members = scene.batch_of(25)
    scene.apply(deletes(batch))

    checked = [scene.storage.release(4) for _ in range(7)]

    assert all(number <= 5 for number in checked)
    scene.settle_all(4)
    assert {State.DELETED} == {scene.state(one) for one in [batch, *members]}
    assert 0 == scene.storage.release(4)


def test_member_added_during_a_stop_is_stopped(scene):
    """The late member was created earlier, so it might be sorted before members that were already checked."""
    batch, _ = scene.batch_of(20, fails_fast=True)
    scene.settle(fails(scene.take(scene.begin(), 1)[0]))
    scene.storage.release(5)

    late = scene.member(batch, created_at=STAMP - DAY)
    scene.settle_all(5)

    record = scene.record(late)
    assert (State.DELETED, Moved.STOPPED) == (record.state, record.reason)
    assert State.FAILED is scene.state(batch)


# ---- no leftovers ------------------------------------------------------------------------------------------


@alone_and_parted
def test_pruning_deletes_all_data_of_a_batch(scene, server):
    """Memos, streams, relations and counts are deleted with their jobs."""
    before = set(keys_of(server))
    batch = scene.new_batch(keeps=(DAY, DAY, DAY))
    first = scene.new_member(batch.id)
    second = scene.new_member(batch.id, first.id)
    inner = scene.new_batch(within=batch.id, keeps=(DAY, DAY, DAY))
    scene.storage.insert([batch, first, second, inner, scene.new_member(inner.id)])
    holder = scene.begin()
    for one in scene.take(holder):
        scene.keep(one, "a")
        scene.append(one, "out", "piece")
        if one.id == first.id:
            scene.settle(sleeps(one, "night", due_at=scene.storage.clock() - SECOND))
        else:
            scene.settle(suspends(one))
            scene.send(one.id, "approval")
    scene.storage.promote(100)
    for _ in range(2):
        for one in scene.take(holder):
            scene.settle(succeeds(one, expires_at=STAMP + 1))
        scene.settle_all()
    assert State.SUCCEEDED is scene.state(batch.id)

    scene.advance(3 * DAY_SECONDS)
    for _ in range(6):
        scene.storage.prune(100)

    assert [] == scene.found(JobFilter())
    left = {key.partition(":")[0] for key in set(keys_of(server)) - before}
    assert left <= {
        "seq",
        "ends",
        "edges",
        "layout",
        "s",
        "ss",
        "sl",
        "sx",
        "sb",
        "living",
        "turn",
        "pausing",
    }


def test_requeued_job_keeps_its_inputs(scene, server):
    """A result that another job uses is kept until that job has ended, even if that job is requeued."""
    batch, (parent,) = scene.batch_of(1, keeps=(None, None, None))
    child = scene.new_tied(
        Relations(batch, inputs=(Input(parent, ("x",)),)),
        {"state": State.AWAITING, "parents": (Edge(parent, On.SUCCEEDED, carries=True),)},
    )
    scene.storage.insert([child])
    holder = scene.begin()
    for one in scene.running(holder, parent):
        scene.settle(succeeds(one, expires_at=STAMP + 1))
    scene.settle_all()
    for one in scene.running(holder, child.id):
        scene.settle(succeeds(one, expires_at=STAMP + DAY))
    assert not [key for key in keys_of(server) if key.startswith("in:")]

    scene.apply(requeues(child.id))

    assert [f"in:{parent}"] == [key for key in keys_of(server) if key.startswith("in:")]
