"""Unique keys in Redis: a later call replaces a job completely, and nothing is left of unused keys."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On
from firelock.model.job import JobFilter
from firelock.model.limit import LimitUse, UniqueUse, Until
from firelock.model.state import State
from firelock.storage import Applied, Duplicate, DuplicateJob
from firelock.testing.conformance.scene import DAY, HOUR, asks, deletes, requeues, succeeds
from tests.redis.counting import CountingProxy
from tests.redis.databases import keys_of
from tests.scenes import scene_at

PARTITIONS = 4
OPTIONS = f"partitions={PARTITIONS}"
KEY = "tasks.run k"
LAST = UniqueUse(KEY, Until.STARTED, keeps_last=True)
AWKWARD = ('a "quoted" one', "brackets ] [ and ,", "back\\slash\\", "ünï\tcode\n", "")


@pytest.fixture
def scene(server, request):
    """An empty storage with one partition, unless the test sets options."""
    server.empty()
    with scene_at(server.socket_url(getattr(request, "param", ""))) as scene:
        yield scene


alone_and_parted = pytest.mark.parametrize("scene", ["", OPTIONS], ids=["alone", "parted"], indirect=True)
parted = pytest.mark.parametrize("scene", [OPTIONS], ids=["parted"], indirect=True)


def call(scene, use=LAST, *limits, **fields):
    """Return the result of a call with the unique key."""
    (answer,) = scene.storage.insert([scene.new_job(admission=asks(*limits, unique=use), **fields)]).is_new
    return answer


# ---- replacement -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), ("x",), AWKWARD], ids=["no tag", "a tag", "awkward tags"])
@pytest.mark.parametrize("after", [(), ("y",), AWKWARD[::-1]], ids=["to none", "to one", "to awkward ones"])
def test_replaced_tags_keep_the_other_fields_of_a_job(scene, before, after):
    """The tags are stored in the same string as the optional fields.

    Only the tags of the call are replaced.
    """
    kept = {
        "timeout_seconds": 7.25, "retry": '{"limit": [1, "]"]}', "nominal_at": 1_764_045_000_123_457,
        "meta_json": '{"t": "]["}',
    }  # fmt: skip
    job_id = scene.add(admission=asks(unique=LAST), tags=before, arguments='["old"]', **kept)

    answer = call(scene, LAST, tags=after, arguments='["new\\n]"]', serializer="pickle", meta_json="{}")

    record = scene.record(job_id)
    assert Duplicate(job_id) == answer
    assert (after, '["new\\n]"]', "pickle") == (record.tags, record.arguments, record.serializer)
    assert kept == {name: getattr(record, name) for name in kept}
    assert {tag: [job_id] for tag in after if tag} == {
        tag: scene.found(JobFilter(tag=tag)) for tag in {*before, *after} if tag and tag in after
    }
    assert [] == [id for tag in set(before) - set(after) if tag for id in scene.found(JobFilter(tag=tag))]


def test_replaced_job_changes_its_lane_and_place(scene, server):
    """The job is claimed according to the limits and the priority of the last call.

    Its old lane is deleted.
    """
    job_id = scene.add(admission=asks("a", LimitUse("b", 2), unique=LAST))
    other = scene.add(priority=1)
    scene.set_limit("a", concurrent=0)

    call(scene, LAST, "c", priority=2)

    assert ["lane:default c"] == [key for key in keys_of(server) if key.startswith("lane:")]
    assert [job_id, other] == scene.claim_ids()
    assert asks("c", unique=LAST) == scene.record(job_id).admission


def test_last_call_of_a_batch_replaces_earlier_ones(scene):
    """The last call counts, whether the first one stored its job before or in the same batch."""
    stored = scene.add(admission=asks(unique=LAST))
    other = attrs.evolve(LAST, key="tasks.run other")
    jobs = [
        scene.new_job(
            admission=asks(f"k:{number}", unique=use), arguments=f"[{number}]", tags=(f"t{number}",)
        )
        for number in range(3)
        for use in (LAST, other)
    ]

    answers = scene.storage.insert(jobs).is_new

    fresh = jobs[1].id
    assert [Duplicate(stored), True, *[Duplicate(stored), Duplicate(fresh)] * 2] == list(answers)
    for one, reasons in ((stored, ["3 duplicate calls"]), (fresh, ["2 duplicate calls"])):
        assert ("[2]", ("t2",)) == (scene.record(one).arguments, scene.record(one).tags)
        assert reasons == [entry.reason for entry in scene.history(one)][1:]
        assert [one] == scene.found(JobFilter(tag="t2", id_prefix=one))
    assert [] == scene.found(JobFilter(tag="t1"))


def test_awaiting_job_is_replaced_and_released(scene):
    """A job that waits for its parent continues to wait, and has the arguments of the last call."""
    parent = scene.add(colocate_with=KEY)
    job_id = scene.add(
        admission=asks(unique=LAST), state=State.AWAITING, parents=(Edge(parent, On.FINISHED),)
    )

    call(scene, LAST, "lane", arguments="[2]")
    scene.settle(succeeds(scene.run(scene.begin(), parent)))
    scene.release()

    assert (State.ENQUEUED, "[2]") == (scene.state(job_id), scene.record(job_id).arguments)
    assert [job_id] == scene.claim_ids()


# ---- no leftovers ------------------------------------------------------------------------------------------


@alone_and_parted
def test_unique_key_is_deleted_with_its_job(scene, server):
    """When a job is pruned, its key is deleted.

    If the key has a minimum time, it is deleted after that time.
    """
    for number in range(20):
        scene.add(admission=asks(unique=UniqueUse(f"tasks.run {number}")))
        scene.add(admission=asks(unique=UniqueUse(f"tasks.run long {number}", at_least=30 * DAY)))
    at, holder = scene.now(), scene.begin()
    for running in [one for _ in range(PARTITIONS + 1) for one in scene.take(holder)]:
        scene.settle(succeeds(running, expires_at=at))

    scene.advance(DAY / SECOND)
    first, left = scene.prune(1_000), scene.storage.find_unique()
    scene.advance(30 * DAY / SECOND)
    scene.prune(1_000)

    assert (40, 20) == (first, len(left))
    assert set() == {"unique", "uz", "swept"} & keys_of(server)


@parted
def test_refused_duplicate_stores_no_job_of_the_batch(scene):
    """The keys of a batch can be in several partitions.

    If one call is refused, no job of the batch is stored.
    """
    scene.add(admission=asks(unique=UniqueUse("tasks.run 7")))
    jobs = [
        scene.new_job(admission=asks(unique=UniqueUse(f"tasks.run {number}", raises=True)))
        for number in range(12)
    ]

    with pytest.raises(DuplicateJob, match="'7'"):
        scene.storage.insert(jobs)

    assert [None] * 12 == scene.storage.get([job.id for job in jobs])
    assert 1 == len(scene.storage.find_unique())


def test_unique_call_takes_one_round_trip(server):
    """The round trip stores the job or returns the duplicate."""
    server.empty()
    with CountingProxy(server) as proxy, scene_at(proxy.url()) as scene:
        scene.add(admission=asks(unique=UniqueUse("tasks.run warm")))
        calls = [scene.new_job(admission=asks(unique=UniqueUse(KEY))) for _ in range(2)]
        with proxy.measure() as measure:
            answers = [scene.storage.insert([job]).is_new[0] for job in calls]

    assert [True, Duplicate(calls[0].id)] == answers
    assert 2 == measure.traffic.trips


def test_page_of_unique_keys_is_in_order(scene):
    """The page contains the requested number of keys that have a given prefix and follow a given key."""
    for number in range(5):
        scene.add(admission=asks(unique=UniqueUse(f"tasks.run {number}")))
    scene.add(admission=asks(unique=UniqueUse("other 1")))

    pages = [scene.storage.find_unique("tasks.", after=after, limit=3) for after in ("", "tasks.run 2")]

    assert [["0", "1", "2"], ["3", "4"]] == [[one.key.split()[1] for one in page] for page in pages]


def test_stored_unique_keys_are_readable_in_redis_cli(scene, server):
    """For each key, redis-cli shows the job, the number of its starts, and the minimum time."""
    job_id = scene.add(admission=asks(unique=UniqueUse(KEY, at_least=HOUR)))

    mark, free_at, holder = server.client().hget("firelock:{0}:unique", KEY).split(" ")

    assert ("0", job_id) == (mark, holder)
    assert HOUR - 60 * SECOND < int(free_at) - scene.now() <= HOUR


def test_only_one_job_of_a_unique_key_is_requeued(scene):
    """If two jobs have the same key, the call requeues one of them and returns `TAKEN` for the other."""
    first = scene.add(admission=asks(unique=UniqueUse(KEY)))
    scene.settle(deletes(first))
    second = scene.add(admission=asks(unique=UniqueUse(KEY)))
    scene.settle(deletes(second))

    results = scene.storage.apply([requeues(first), requeues(second)])

    assert [Applied.APPLIED, Applied.TAKEN] == results
    assert [State.ENQUEUED, State.DELETED] == scene.states(first, second)
