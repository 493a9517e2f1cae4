"""Limits in Redis: no leftovers of lanes and keys, settings in every partition, and bounded reads."""

from __future__ import annotations

import pytest

from firelock import ConfigurationError
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge
from firelock.model.lifecycle import Moved
from firelock.model.limit import LimitUse, UniqueUse
from firelock.model.session import ClaimRequest
from firelock.model.state import State
from firelock.storage import StorageError
from firelock.testing.conformance.scene import DAY, HOUR, asks, deletes, retries, succeeds
from firelock_redis.layout.partitions import tag_of
from tests.redis.counting import CountingProxy
from tests.redis.databases import keys_of
from tests.scenes import scene_at

PARTITIONS = 4
OPTIONS = f"partitions={PARTITIONS}"
WINDOW = 256  # lanes that one claim reads
OF_LANES = ("lane:", "ring:", "laned", "lanes", "slots:", "arrivals", "short", "cut", "swept", "unique", "uz")


@pytest.fixture
def scene(server, request):
    """An empty storage with one partition, unless the test sets options."""
    server.empty()
    with scene_at(server.socket_url(getattr(request, "param", ""))) as scene:
        yield scene


alone_and_parted = pytest.mark.parametrize("scene", ["", OPTIONS], ids=["alone", "parted"], indirect=True)
parted = pytest.mark.parametrize("scene", [OPTIONS], ids=["parted"], indirect=True)


def take_all(scene, holder):
    """Return all jobs that the holder can claim now, in any partition."""
    found = []
    while some := scene.take(holder):
        found += some
    return found


def of_lanes(server):
    """Return the keys that belong to lanes, limits and unique keys."""
    return {key for key in keys_of(server) if key.startswith(OF_LANES)}


def store_keys(scene):
    """Store jobs with limits and unique keys of every kind; return how many can start."""
    scene.set_limit("t", concurrent=5, rate=1_000)
    for number in range(8):
        scene.add_limited(2, f"t:{number}", f"t:{number}/x")
        scene.add_limited(1, LimitUse(f"t:{number}", 3, is_strict=True))
        scene.add_limited(1, f"turns:{number}", start_within=HOUR)
        scene.add(admission=unique(f"t:{number}", at_least=HOUR))
    return 40


def unique(key, **fields):
    """Return the admission of a job with this unique key."""
    return asks(unique=UniqueUse(f"tasks.run {key}", **fields))


# ---- no leftovers ------------------------------------------------------------------------------------------


@alone_and_parted
def test_empty_lane_is_deleted(scene, server):
    """A lane and its ring are deleted together with their last job, whether the job is claimed or deleted."""
    scene.add_limited(3, "a", "a/b")
    (deleted,) = scene.add_limited(1, "c")
    scene.settle(deletes(deleted))

    take_all(scene, scene.begin())

    assert {"lanes"} == of_lanes(server)


@alone_and_parted
def test_upkeep_deletes_idle_limit_keys(scene, server):
    """A limit key is idle if no job uses it or waits for it, and its whole rate is available."""
    holder = scene.begin()
    number = store_keys(scene)
    running = take_all(scene, holder)
    at = scene.now()
    for one in running:
        scene.settle(succeeds(one, expires_at=at))

    before = of_lanes(server)
    scene.advance(2 * DAY / SECOND)
    pruned = [scene.prune(1_000) for _ in range(2)]

    assert (number, [number, 0]) == (len(running), pruned)
    assert {"lanes", "arrivals", "unique", "uz"} < before
    assert set() == of_lanes(server)
    assert ([], []) == (scene.storage.find_keys(), scene.storage.find_unique())


def test_upkeep_keeps_limit_keys_in_use(scene, server):
    """The lists of running jobs are kept, and those of jobs that keep their key between two attempts."""
    scene.set_limit("a", concurrent=1)
    scene.set_limit("b", concurrent=1)
    scene.add_limited(2, "a")
    scene.add_limited(2, LimitUse("b", 1, is_strict=True))
    holder = scene.begin()
    first, second = scene.take(holder)
    scene.settle(retries(second, due_at=scene.now() + HOUR))

    scene.prune(1_000)

    assert [] == scene.claim(holder)
    assert {first.id: "a", second.id: "b"} == {
        one: state.key for state in scene.storage.find_keys() for one in state.holders
    }


def test_full_list_of_holders_drops_ended_jobs(scene, server):
    """When a list has reached its key's limit, ended jobs are removed, so the list never grows larger."""
    scene.set_limit("a", concurrent=3)
    holder = scene.begin()

    for _ in range(10):
        scene.add_limited(1, "a")
        (one,) = scene.take(holder)
        scene.settle(succeeds(one))

    assert server.client().scard("firelock:{0}:slots:a") <= 3


# ---- bounds ------------------------------------------------------------------------------------------------


def test_claim_checks_a_bounded_number_of_lanes(scene, server):
    """If a claim reads many full lanes, more claims follow immediately and find the later lanes."""
    scene.set_limit("full", concurrent=0)
    jobs = [scene.new_job(admission=asks(f"full:{number}")) for number in range(2 * WINDOW)]
    scene.storage.insert(jobs)
    open_id = scene.add_limited(1, "open")
    holder = scene.begin()

    claims = [scene.storage.claim(scene.request(holder)) for _ in range(3)]

    assert [[], [], open_id] == [[job.id for job in claim.jobs] for claim in claims]
    assert all(claim.next_claim_at is not None for claim in claims[:2])


def test_claims_stop_after_checking_all_full_lanes(scene):
    """If no lane contained a job that may start, no claim follows until something changes."""
    scene.set_limit("full", concurrent=0)
    jobs = [scene.new_job(admission=asks(f"full:{number}")) for number in range(2 * WINDOW)]
    scene.storage.insert(jobs)
    holder = scene.begin()

    claims = [scene.storage.claim(scene.request(holder)) for _ in range(8)]

    assert None in [claim.next_claim_at for claim in claims]


def test_five_hundred_jobs_with_different_lanes_are_stored_together(scene):
    """A single script stores five hundred jobs, each with four keys that no other job has."""
    holder = scene.begin()
    jobs = [scene.new_job(admission=asks(*(f"k{key}:{number}" for key in range(4)))) for number in range(500)]

    scene.storage.insert(jobs)

    claimed = [id for _ in range(2) for id in scene.claim_ids(holder, 1_000)]
    assert [job.id for job in jobs] == sorted(claimed)


@pytest.mark.parametrize("number", [1, 500])
def test_jobs_with_limits_take_one_round_trip(server, number):
    """One round trip stores the jobs, and another one settles and claims them."""
    server.empty()
    with CountingProxy(server) as proxy, scene_at(proxy.url()) as scene:
        holder = scene.begin()
        for warm in (asks("warm"), None):
            scene.settle(succeeds(scene.run(holder, scene.add(admission=warm))))
        jobs = [scene.new_job(admission=asks(f"k:{one % 7}")) for one in range(number)]
        with proxy.measure() as storing:
            scene.storage.insert(jobs)
        with proxy.measure() as claiming:
            running = scene.take(holder, number)
        with proxy.measure() as ending:
            scene.storage.exchange([succeeds(one) for one in running], scene.request(holder))

    assert number == len(running)
    assert [1, 1, 1] == [one.traffic.trips for one in (storing, claiming, ending)]


# ---- notifications after an end ----------------------------------------------------------------------------


def test_end_notifies_servers_that_found_its_key_full(scene):
    """A server that found a key full is notified when a job with this key ends.

    Other jobs do not cause a notification.
    """
    scene.set_limit("a", concurrent=1)
    one, other = scene.open()
    scene.add_limited(2, "a")
    scene.add_limited(1, "b")
    holder, waiter = scene.begin("a"), scene.begin("b")
    running = {job.job.admission.limits[0].key: job for job in scene.take(holder, 2)}
    other.claim(scene.request(waiter))

    one.apply([succeeds(running["b"])])
    is_notified_needlessly = other.wait(["default"], 0)
    one.apply([succeeds(running["a"])])

    assert not is_notified_needlessly
    assert other.wait(["default"], 30)


def test_exchange_that_uses_the_freed_key_notifies_no_server(scene):
    """The exchange claims from the queue and has capacity left, so no other server must be notified."""
    scene.set_limit("a", concurrent=1)
    one, other = scene.open()
    scene.add_limited(3, "a")
    holder, waiter = scene.begin("a"), scene.begin("b")
    (first,) = scene.take(holder)
    other.claim(scene.request(waiter))

    claimed = one.exchange([succeeds(first)], scene.request(holder)).claim.jobs

    assert 1 == len(claimed)
    assert not other.wait(["default"], 0)


# ---- partitions --------------------------------------------------------------------------------------------


@parted
def test_limit_settings_apply_in_every_partition(scene):
    """If settings are stored, changed or deleted, this applies to the keys in every partition."""
    holder = scene.begin()
    for number in range(20):
        scene.add_limited(3, f"t:{number}")

    scene.set_limit("t", concurrent=1)
    first = take_all(scene, holder)
    scene.set_limit("t", concurrent=2)
    second = take_all(scene, holder)
    scene.storage.delete_record("limit", "t")
    third = take_all(scene, holder)

    assert [20, 20, 20] == list(map(len, (first, second, third)))


@parted
def test_new_limit_counts_running_jobs(scene):
    """Jobs that were claimed before their key had a limit are counted in every partition."""
    holder = scene.begin()
    for number in range(20):
        scene.add_limited(3, f"t:{number}")
    running = take_all(scene, scene.begin("b"))
    for number in range(20):
        scene.add_limited(1, f"t:{number}")

    scene.set_limit("t", concurrent=3)
    refused = take_all(scene, holder)
    for one in running[:5]:
        scene.settle(succeeds(one))

    assert (60, []) == (len(running), refused)
    assert 1 <= len(take_all(scene, holder)) <= 5


@parted
def test_upkeep_copies_limit_settings_to_a_partition_that_missed_them(scene, server):
    """The settings of the first partition are copied to each partition whose settings differ from them."""
    client, holder = server.client(), scene.begin()
    scene.set_limit("t", concurrent=0)
    for key in client.keys("*:pausing"):
        if f"{{{tag_of(0, PARTITIONS)}}}" not in key:
            client.delete(key, key.replace("pausing", "limits"))
    for number in range(20):
        scene.add_limited(1, f"t:{number}")

    scene.promote()

    assert [] == take_all(scene, holder)


@parted
@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        ({"keys": ("smtp", "tenant:1")}, "All keys of a job .* Use keys that are equal"),
        ({"keys": ("tenant:1",), "unique": "other"}, "All keys of a job .* Use keys that are equal"),
        ({"keys": ("tenant:1",), "colocate_with": "elsewhere"}, "colocate_with=key"),
        ({"keys": ("tenant:1",), "has_parent": True}, "in the partition of its parent"),
    ],
    ids=["two limits", "limit and unique key", "another id", "a parent"],
)
def test_job_with_keys_in_other_partitions_is_refused(scene, fields, fix):
    """The error is one line that names the keys and the fix, and nothing is stored."""
    parent = scene.add(colocate_with=elsewhere(scene, "tenant:1"))
    parents = (Edge(parent),) if fields.get("has_parent") else ()
    admission = both(fields["keys"], fields.get("unique"))
    colocate_with = elsewhere(scene, "tenant:1") if fields.get("colocate_with") else None
    job = scene.new_job(
        admission=admission, parents=parents, colocate_with=colocate_with, state=state_of(parents)
    )

    with pytest.raises(ConfigurationError, match=fix) as caught:
        scene.storage.insert([job])

    assert all(repr(key) in str(caught.value) for key in fields["keys"])
    assert [None] == scene.storage.get([job.id])


def both(keys, unique_key):
    """Return the admission of a job that holds these keys and has that unique key."""
    return asks(*keys, unique=None if unique_key is None else UniqueUse(f"tasks.run {unique_key}"))


def state_of(parents):
    """Return the state of a new job with these parents."""
    return State.AWAITING if parents else State.ENQUEUED


def elsewhere(scene, key):
    """Return a key that belongs to another partition."""
    place = place_of(scene, key)
    return next(other for other in (f"o:{number}" for number in range(99)) if place_of(scene, other) != place)


def place_of(scene, key):
    """Return the end of the ids in the partition of this key."""
    return scene.storage.new_ids(1, key)[0][-2:]


@parted
def test_keys_with_the_same_beginning_share_a_partition(scene):
    """The part before the first slash determines the partition of limit keys and unique keys."""
    names = ["tenant:7", "tenant:7/openai", "tasks.run tenant:7/2026", "tasks.run tenant:7"]

    places = {id[-2:] for name in names for id in scene.storage.new_ids(3, name)}

    assert 1 == len(places)


@parted
def test_new_ids_are_in_the_partitions_of_their_keys(scene):
    """One call creates the ids of jobs with several keys, in order.

    The id of a job without a key can be in any partition.
    """
    keys = ["a:1", None, "b:2", "a:1/x", "c:3"]

    ids = scene.storage.new_ids(len(keys), keys)

    assert sorted(ids) == ids
    assert [place_of(scene, key) for key in keys if key] == [
        id[-2:] for id, key in zip(ids, keys, strict=True) if key
    ]


@parted
def test_claim_returns_when_a_used_up_rate_allows_the_next_start(scene):
    """The claim in another partition returns this time, and a later claim gets the job."""
    scene.set_limit("t", rate=1, per=HOUR, burst=1)
    holder = scene.begin()
    ids = scene.add_limited(2, "t:1")
    first = take_all(scene, holder)
    claim = scene.storage.claim(scene.request(holder))

    scene.advance(HOUR / SECOND)
    second = scene.take(holder)

    assert (ids[:1], ids[1:]) == ([one.id for one in first], [one.id for one in second])
    assert HOUR - 60 * SECOND < claim.next_claim_at - scene.now() + HOUR <= HOUR + SECOND


# ---- various -----------------------------------------------------------------------------------------------


def test_invalid_limit_settings_are_refused(scene):
    """The error is raised when the settings are stored, never by a claim."""
    with pytest.raises(StorageError, match="stored settings of a limit"):
        scene.storage.put_record("limit", "a", "none")

    assert scene.storage.get_record("limit", "a") is None


@pytest.mark.parametrize("garbage", ["[[{", "[[", "{"])
def test_job_with_damaged_limits_fails_without_affecting_others(scene, server, garbage):
    """A job whose limits cannot be read fails with this reason.

    Other jobs with the same key and queue are not affected.
    """
    scene.set_limit("a", concurrent=3)
    broken, strict = scene.add_limited(1, "a"), scene.add_limited(1, LimitUse("a", 1, is_strict=True))
    good = scene.add_limited(1, "a")
    client, holder = server.client(), scene.begin()
    for job_id in (*broken, *strict):
        stored = client.hget("firelock:{0}:jobs", job_id)
        head, _, rest = stored.partition(" [[")
        client.hset("firelock:{0}:jobs", job_id, f"{head} {garbage}\n{rest.partition(chr(10))[2]}")

    claimed = scene.claim_ids(holder)

    assert good == claimed
    assert [State.FAILED] * 2 == scene.states(*broken, *strict)
    assert 3 == len(scene.add_limited(3, "a"))
    assert 2 == len(scene.claim(holder))
    assert ["a"] == [state.key for state in scene.storage.find_keys()]


@pytest.mark.parametrize("stored", ["[[[1]],2,3,4]", "[[7,8],null,null,null]", '{"when":"dry"}', '["dry"]'])
def test_job_with_limits_of_a_newer_release_is_claimed(scene, server, stored):
    """The server postpones the job, and the storage keeps the string unchanged."""
    scene.set_limit("a", concurrent=3)
    (newer,), (good,) = scene.add_limited(1, "a"), scene.add_limited(1, "a")
    client = server.client()
    head, _, rest = client.hget("firelock:{0}:jobs", newer).partition(" [[")
    client.hset("firelock:{0}:jobs", newer, f"{head} {stored}\n{rest.partition(chr(10))[2]}")

    claimed = {one.id: one for one in scene.claim(scene.begin())}

    assert {newer, good} == claimed.keys()
    assert stored == claimed[newer].admission_json == claimed[newer].admission.unread
    assert stored == scene.record(newer).admission_json


def test_wait_is_notified_of_jobs_in_lanes(scene):
    """A server is notified even if it waits without an earlier claim."""
    scene.add_limited(1, "a")

    assert all(scene.storage.wait(queues, 30) for queues in (None, ["default"]))


def test_claim_orders_jobs_with_and_without_limits_by_priority(scene):
    """A job with a higher priority comes first, whether or not it has limits."""
    low = scene.add_limited(1, "a", priority=-1)
    plain = scene.add_many(2)
    high = scene.add_limited(1, "b", priority=9)
    middle = scene.add_many(1, priority=3)

    assert [*high, *middle, *plain, *low] == scene.claim_ids()


def test_small_claims_alternate_between_jobs_with_and_without_limits(scene):
    """In this test, each claim takes a single job."""
    limited, plain = scene.add_limited(4, "a"), scene.add_many(4)
    holder = scene.begin()

    claimed = [scene.claim_ids(holder, 1)[0] for _ in range(4)]

    assert (2, 2) == (len(set(claimed) & set(limited)), len(set(claimed) & set(plain)))


def test_stored_lanes_are_readable_in_redis_cli(scene, server):
    """As described in docs/redis.md, redis-cli shows the lane, the turn and the keys of a waiting job."""
    scene.add_limited(1, "a", "b:7")
    client = server.client()

    assert ["a\nb:7"] == client.zrange("firelock:{0}:ring:default", 0, -1)
    assert 1 == client.zcard("firelock:{0}:lane:default a\nb:7")
    assert {"a\n", "a\ndefault a\nb:7", "b:7\n", "b:7\ndefault a\nb:7"} == set(
        client.zrange("firelock:{0}:lanes", 0, -1)
    )


def test_end_of_a_session_notifies_servers_of_all_freed_keys(scene):
    """All keys of the session become free together. The servers that found them full are notified."""
    scene.set_limit("a", concurrent=2)
    one, other = scene.open()
    scene.add_limited(4, "a")
    dead, waiter = scene.begin("dead"), scene.begin("b")
    scene.take(dead)
    other.claim(ClaimRequest(None, 10, waiter.session, scene.stamp()))

    one.end_session(dead.session, None, reason=Moved.SESSION_LOST.value)

    assert other.wait(None, 30)
    assert 2 == len(scene.claim(waiter))
