"""Limits and unique keys on MariaDB: few round trips, no unnecessary reads, and no lane missed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from firelock import State
from firelock.model.limit import UniqueUse
from firelock.storage import Applied, StorageUnavailable
from firelock.testing.conformance.scene import Running, asks, succeeds
from firelock_sql.mysql import lanes as mysql_lanes
from firelock_sql.mysql import storage
from tests.faults.proxy import FaultProxy
from tests.faults.servers import eventually
from tests.scenes import scene_at

MOST = 100
READ = (
    "SELECT rows_read FROM information_schema.table_statistics"
    " WHERE table_schema = %s AND table_name = 'firelock_jobs'"
)


@pytest.fixture
def proxy(mariadb):
    """A counting proxy in front of the server."""
    with FaultProxy(mariadb.server.address) as proxy:
        yield proxy


@pytest.fixture
def scene(mariadb, proxy):
    """An empty storage that is connected through the proxy."""
    with scene_at(mariadb.url(port=proxy.port)) as scene:
        yield scene


@pytest.fixture
def holder(scene):
    """A session that claims jobs."""
    return scene.begin()


def lanes_of(jobs):
    """Return the lane of each job."""
    return ["\n".join(use.key for use in job.admission.limits) for job in jobs]


def waiting(mariadb):
    """Return how many statements wait for another transaction's lock."""
    with mariadb.server.connect() as driver, driver.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
        return int(cursor.fetchone()[1])


def ends(holder, claimed):
    """Return the successful ends of claimed jobs."""
    return [succeeds(Running(job, holder)) for job in claimed]


# ---- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 500])
def test_jobs_with_limits_take_one_round_trip(scene, holder, proxy, number):
    """In this test, each job has different keys."""
    jobs = [
        scene.new_job(admission=asks("smtp", f"tenant:{place % 100}"), created_at=1)
        for place in range(number)
    ]
    before = proxy.traffic

    scene.storage.insert(jobs)

    assert (proxy.traffic - before).trips == 1
    assert sorted(job.id for job in jobs) == sorted(scene.claim_ids(holder, number))
    assert [job.admission for job in jobs] == [
        one.admission for one in scene.storage.get([j.id for j in jobs])
    ]


@pytest.mark.parametrize("queues", [["default"], None], ids=str)
def test_exchange_with_a_limit_takes_few_round_trips(scene, holder, proxy, queues):
    """One round trip settles and reads.

    The next ones read the lane, its key and its jobs. The last one claims the jobs.
    """
    scene.set_limit("big", concurrent=1_000)
    scene.add_limited(3 * MOST, "big")
    claimed = ends(holder, scene.claim(holder, MOST))
    scene.exchange(holder, [claimed.pop()], 1, queues)
    before = proxy.traffic

    exchange = scene.exchange(holder, claimed, MOST, queues)

    assert set(exchange.results) == {Applied.APPLIED}
    assert len(exchange.claim.jobs) == MOST
    assert (proxy.traffic - before).trips <= TRIPS


TRIPS = 5


@pytest.mark.parametrize("queues", [["default"], None], ids=str)
def test_many_lanes_take_as_few_round_trips_as_one(scene, holder, proxy, queues):
    """The lanes that the process remembers are read together, and their first jobs are claimed together."""
    keys = [f"tenant:{place:02}" for place in range(50)]
    scene.set_limit("tenant", concurrent=10)
    for _ in range(3):
        scene.storage.insert([scene.new_job(admission=asks(key)) for key in keys])
    claimed = ends(holder, scene.claim(holder, 50, queues))
    before = proxy.traffic

    exchange = scene.exchange(holder, claimed, 50, queues)

    assert keys == sorted(lanes_of(exchange.claim.jobs))
    assert (proxy.traffic - before).trips <= TRIPS


def test_lanes_of_other_queues_add_no_round_trips(scene, holder, proxy):
    """The search for lanes is part of an existing query and is limited to the queue of the claim."""
    scene.add_limited(3, "big", queue="other")
    scene.add_many(3 * MOST)
    claimed = ends(holder, scene.claim(holder, MOST))
    before = proxy.traffic

    exchange = scene.exchange(holder, claimed, MOST)

    assert len(exchange.claim.jobs) == MOST
    assert (proxy.traffic - before).trips == 2


# ---- lanes -----------------------------------------------------------------------------------------------


def test_new_lanes_are_found_before_between_and_after_known_ones(scene, holder):
    """A process remembers lanes, but also finds new ones."""
    found = []
    for lane in ["m", "c", "x", "a", "p", "z", "m", "d"]:
        scene.add_limited(1, lane)
        found += lanes_of(scene.claim(holder))

    assert found == ["m", "c", "x", "a", "p", "z", "m", "d"]


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
def test_more_lanes_than_one_query_reads_take_turns(scene, holder, monkeypatch, is_known):
    """One job of each lane is claimed before a second job of any lane, however many lanes one query reads."""
    monkeypatch.setattr(mysql_lanes, "_KNOWN_AT_ONCE", 7)
    lanes = [f"t:{place:03}" for place in range(40)]
    for _ in range(3):
        scene.storage.insert([scene.new_job(admission=asks(lane)) for lane in lanes])
    if is_known:
        assert lanes == sorted(lanes_of(scene.claim(holder, 40)))
    scene.add_limited(1, "t:0195")

    first, second = (lanes_of(scene.claim(holder, 30)) for _ in range(2))

    assert (len(set(first)), len(set(second))) == (30, 30)
    assert {*lanes, "t:0195"} == {*first, *second}


def test_number_of_remembered_lanes_is_bounded(scene, holder, monkeypatch):
    """In this test, each lane contains one job and then disappears.

    No lane is missed after the list of remembered lanes is cleared.
    """
    monkeypatch.setattr(mysql_lanes, "_REMEMBERED", 5)
    for turn in range(4):
        lanes = [f"order:{turn}{place}" for place in range(4)]
        scene.storage.insert([scene.new_job(admission=asks(lane)) for lane in lanes])

        assert lanes == sorted(lanes_of(scene.claim(holder)))


def test_claim_does_not_read_jobs_of_a_full_lane(mariadb, scene, holder):
    """If a full lane is the first by name, its jobs are not read.

    Jobs after the claimed ones are not read either.
    """
    if mariadb.server.program.product != "mariadb":
        pytest.skip("MySQL counts no rows by table: it has no userstat")
    scene.set_limit("a", concurrent=1)
    scene.add_limited(1_000, "a")
    scene.add_limited(1_000, "b")
    scene.claim(holder, 2)
    with mariadb.server.connect() as connection, connection.cursor() as cursor:

        def count():
            cursor.execute(READ, [mariadb.name])
            return cursor.fetchone()[0]

        cursor.execute("SET GLOBAL userstat = 1")
        scene.claim(holder, 1)
        before = count()
        taken = scene.claim(holder, 5)
        read = count() - before
        cursor.execute("SET GLOBAL userstat = 0")

    assert ["b"] * 5 == lanes_of(taken)
    assert read < 80


# ---- unique keys -----------------------------------------------------------------------------------------


def test_call_with_several_unique_keys_is_stored(scene):
    """A call can contain new and known keys, and it can be repeated."""
    jobs = [scene.new_job(admission=unique(f"k{place}")) for place in range(3)]
    more = [scene.new_job(admission=unique(f"k{place}")) for place in range(5)]

    assert scene.storage.insert(jobs).is_new == [True, True, True]
    assert list(map(bool, scene.storage.insert(more).is_new)) == [False, False, False, True, True]

    assert scene.by_state() == {State.ENQUEUED: 5}


def unique(key):
    """Return the admission of a job with this unique key."""
    return asks(unique=UniqueUse(f"task {key}"))


def test_wait_for_a_unique_key_of_another_transaction_is_bounded(mariadb, scene, monkeypatch):
    """If another transaction stays open, it delays only calls with its key, and only for a limited time."""
    monkeypatch.setattr(storage, "_KEY_SECONDS", 0.5)
    other = scene.handles.open()
    with mariadb.server.connect() as theirs, theirs.cursor() as cursor:
        cursor.execute(f"USE `{mariadb.name}`")
        cursor.execute("START TRANSACTION")
        cursor.execute("INSERT INTO firelock_unique_keys VALUES ('task held', 'somebody', 0, 0)")

        with pytest.raises(StorageUnavailable, match="held a unique key of this call for 0"):
            other.insert([scene.new_job(admission=unique("held"))])
        assert other.insert([scene.new_job(admission=unique("free"))]).is_new == [True]
        cursor.execute("ROLLBACK")

    assert scene.storage.insert([scene.new_job(admission=unique("held"))]).is_new == [True]


def test_limit_settings_are_stored_after_running_claims(mariadb, scene, holder):
    """A claim that does not read a limit's settings does not record its jobs as running under this limit.

    A claim that reads the settings later must find all of these jobs, so the settings are stored after the
    first claim has ended. In this test, a transaction locks the gaps between sessions, so the first claim
    stops where it would claim its job.
    """
    other, third = scene.handles.open(), scene.begin()
    scene.add_limited(1, "late", queue="first")
    scene.add_limited(1, "late", queue="second")
    with mariadb.server.connect() as theirs, ThreadPoolExecutor(2) as threads:
        theirs.cursor().execute(f"USE `{mariadb.name}`")
        with theirs.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION")
            cursor.execute(
                "SELECT count(*) FROM firelock_jobs FORCE INDEX (firelock_holder)"
                " WHERE session IS NOT NULL FOR UPDATE"
            )
            claim = threads.submit(scene.claim, holder, 1, ["first"])
            eventually(lambda: waiting(mariadb) == 1, 20, "the claim waits")
            put = threads.submit(other.put_record, "limit", "late", json.dumps({"concurrent": 1}))
            eventually(lambda: put.done() or waiting(mariadb) == 2, 20, "the number waits")
            assert not put.done()
            cursor.execute("ROLLBACK")
        put.result()
        assert len(claim.result()) == 1

    assert scene.claim(third, 1, ["second"]) == []
