"""Across modules: locks, recurring definitions, rollups and logs in Redis are exact, bounded and removed."""

from __future__ import annotations

import json
import re
from contextlib import closing

import attrs
import pytest

from firelock.plugins.loader import Plugins
from firelock.storage import (
    DURATION_BUCKETS,
    LogLine,
    NewJob,
    Progress,
    Record,
    RecordChange,
    Rollup,
    SchemaMismatch,
    State,
    StorageError,
)
from firelock_redis.connections.database import LAYOUT
from tests.redis.databases import keys_of, opened

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
LAST_INSTANT = 253_402_300_799_999_999  # of the year 9999
BASE = 30_000_000 * MINUTE


@pytest.fixture
def database(server):
    """An empty database with one partition."""
    with opened(server) as database:
        yield database


@pytest.fixture
def parted(server):
    """An empty database with several partitions."""
    with opened(server, "partitions=5") as database:
        yield database


# ---- locks -----------------------------------------------------------------------------------------------


def test_key_of_a_lock_expires(database, server):
    """If a lock is not released, its key expires a minute after the lock."""
    fence = database.acquire_lock("lock", "ada", 30.0)
    lives = server.client().pttl("firelock:{0}:lock:lock")
    database.renew_lock("lock", "ada", fence, 600.0)
    renewed = server.client().pttl("firelock:{0}:lock:lock")

    assert 85_000 < lives <= 90_000
    assert 655_000 < renewed <= 660_000


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (1, "before its first release"),
        (LAYOUT - 1, "before its first release"),
        (100, f"newer than this code's {LAYOUT}. Upgrade Firelock"),
    ],
)
def test_unsupported_layout_is_refused_with_its_version(database, server, version, message):
    """A client, a migration and the doctor report the version of the layout and do not change anything."""
    client = server.client()
    client.hset("firelock:{0}:layout", "version", version)

    with closing(Plugins().open_storage(database.url)) as storage:
        with pytest.raises(SchemaMismatch, match=f"has layout {version}, .*{re.escape(message)}"):
            storage.clock()
        with pytest.raises(SchemaMismatch, match=f"has layout {version}, "):
            storage.migrate()

    assert {"version": str(version)} == client.hgetall("firelock:{0}:layout")


def test_released_lock_leaves_no_key(database, server):
    """The key can be deleted because all locks share one counter of fences."""
    for name in ("a", "b"):
        fence = database.acquire_lock(name, "ada", 30.0)
        assert fence is not None
        assert database.release_lock(name, "ada", fence)

    assert {"fences", "layout"} == keys_of(server)


def test_fences_grow_after_the_last_ones_are_lost(database, server):
    """If a failover loses a lock and its fence, the next lock still gets a larger fence."""
    first = database.acquire_lock("lock", "ada", 30.0)
    server.client().delete("firelock:{0}:lock:lock", "firelock:{0}:fences")

    second = database.acquire_lock("lock", "bob", 30.0)

    assert first is not None
    assert second is not None
    assert first < second


def test_fences_grow_after_the_clock_is_set_back(database, server):
    """A fence is larger than the previous fence, even if the clock has gone back."""
    server.client().set("firelock:{0}:fences", 4_000_000_000_000_000)

    assert 4_000_000_000_000_001 == database.acquire_lock("lock", "ada", 30.0)


@pytest.mark.parametrize(("seconds", "is_held"), [(0.0, False), (-1e9, False), (1e-6, False), (1e30, True)])
def test_lock_can_have_any_duration(database, seconds, is_held):
    """A lock with a duration of zero expires immediately. A very long duration lasts for decades."""
    fence = database.acquire_lock("lock", "ada", seconds)

    assert fence is not None
    assert is_held == (database.acquire_lock("lock", "bob", 60.0) is None)


# ---- due records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("due_at", [1, 2**53 + 1, LAST_INSTANT, None])
def test_due_times_of_records_are_exact(database, due_at):
    """A time is sent as a string, so no digits are lost."""
    database.put_record("kind", "key", "a value, with spaces", due_at=due_at)

    assert Record("kind", "key", "a value, with spaces", 1, due_at) == database.get_record("kind", "key")


def test_deleted_records_leave_one_key_per_kind(database, server):
    """The remaining key stores only the largest version."""
    for key in ("a", "b"):
        database.put_record("recurring", key, "{}", due_at=1)

    for key in ("a", "b"):
        database.delete_record("recurring", key)

    assert {"layout", "kf:recurring"} == keys_of(server)


def test_due_records_are_read_in_several_script_calls(database):
    """The list of due records is complete and in order, even if reading it takes many script calls."""
    names = [f"{number:04}" for number in range(1_200)]
    for number, name in enumerate(names):
        database.put_record("recurring", name, "{}", due_at=1 + number // 2)

    assert names == [one.key for one in database.due_records("recurring", 2_000)]
    assert names[:620] == [one.key for one in database.due_records("recurring", 620)]
    assert [] == database.due_records("recurring", 0)


def test_large_records_are_read_in_bounded_replies(database):
    """The reply of one script call has a bounded size, and the result is still complete."""
    names = [f"{number:02}" for number in range(9)]
    for name in names:
        database.put_record("recurring", name, name * 100_000, due_at=1)

    replies = [
        database.database.run("records.list", 0, "recurring", "", 9),
        database.database.run("records.due", 0, "recurring", 0, 9),
    ]

    assert [(1, 1 + 2 * 3)] * 2 == [(reply[0], len(reply)) for reply in replies]
    assert names == [one.key for one in database.list_records("recurring", limit=9)]
    assert names == [one.key for one in database.due_records("recurring", 9)]
    assert names[:5] == [one.key for one in database.due_records("recurring", 5)]


def test_earlier_due_time_wakes_waiting_servers(database, server):
    """A server that waits until the next due time is notified only of an earlier one."""
    puts = [("b", 5), ("c", 9), ("a", 3), ("d", None)]
    with server.client().pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("firelock:{0}:wake")
        listener.get_message(timeout=5.0)
        for name, due_at in puts:
            database.put_record("recurring", name, "{}", due_at=due_at)
        database.put_record("other", "e", "{}", due_at=1)
        received = [message["data"] for message in iter(lambda: listener.get_message(timeout=0.2), None)]

    assert ["*", "*"] == received


def test_jobs_outside_the_records_partition_are_refused(parted):
    """No script can access both partitions, so neither the jobs nor the record is stored."""
    jobs = [NewJob(f"{number:036x}", "t", "[]", "json", "q", 0, State.ENQUEUED, BASE) for number in (0, 1)]
    change = RecordChange("recurring", "nightly", "{}", 0)

    with pytest.raises(StorageError, match="is not in the partition of record 'nightly'"):
        parted.insert(jobs, only_if=change)

    assert ([None, None], None) == (
        parted.get([job.id for job in jobs]), parted.get_record("recurring", "nightly"),
    )  # fmt: skip


# ---- rollups ---------------------------------------------------------------------------------------------


def rollup(minute=BASE, task="send", queue="mail", outcome="succeeded", count=1):
    """Return the rollup of one minute."""
    return Rollup(minute, task, queue, outcome, count, 3 * count, (count,) * (len(DURATION_BUCKETS) + 1))


def test_statistics_add_up_exactly(database):
    """Sums are exact up to the limits of Lua's numbers."""
    large = rollup(count=1 << 50)

    database.record_metrics([large, rollup()])
    database.record_metrics([rollup()])

    expected = rollup(count=(1 << 50) + 2)
    assert [expected] == database.timeline(BASE, BASE + 1)


def test_statistics_with_different_bucket_counts_are_added(database):
    """Rollups of a release with more buckets are added to rollups of a release with fewer buckets."""
    short = attrs.evolve(rollup(), histogram=(1, 2))

    database.record_metrics([short, attrs.evolve(short, histogram=(10, 20, 30))])
    database.record_metrics([attrs.evolve(short, task="other", histogram=(1, 2, 3))])
    database.record_metrics([attrs.evolve(short, task="other", histogram=(10, 20))])

    found = database.timeline(BASE, BASE + 1)
    assert [(11, 22, 3), (11, 22, 30)] == [one.histogram for one in found]


def test_long_timeline_is_complete(database):
    """A timeline of thousands of rollups is read in order, in parts that contain whole minutes."""
    rollups = [
        rollup(BASE + minute * MINUTE, task=f"task{number:02}")
        for minute in range(700)
        for number in range(2)
    ] + [rollup(BASE + 300 * MINUTE, task=f"many{number:03}") for number in range(700)]

    database.record_metrics(rollups)

    expected = sorted(rollups, key=lambda one: (one.minute, one.task))
    following, *minutes = database.database.run(
        "metrics.timeline", 0, BASE + 299 * MINUTE, BASE + DAY, "", ""
    )
    assert (str(BASE + 301 * MINUTE), 2) == (following, len(minutes) // 2)
    assert expected == database.timeline(BASE, BASE + DAY)
    assert 700 == len(database.timeline(BASE, BASE + DAY, task="task01", queue=None))
    assert [] == database.timeline(BASE + DAY, BASE)


@pytest.mark.parametrize("name", ['a","b', ',"mail",', '"', "[", "\\", ",", "", "東京\n"])
def test_timeline_is_filtered_by_exact_names(database, name):
    """A name is found even if it looks like the stored form of a name."""
    kept = [rollup(task=name), rollup(task=name, queue="bulk")]
    database.record_metrics([*kept, rollup(), rollup(task=name + "x"), rollup(task="x", queue=name + ",")])

    assert sorted(kept, key=str) == sorted(database.timeline(BASE, BASE + 1, task=name, queue=None), key=str)
    assert [kept[0]] == database.timeline(BASE, BASE + 1, task=name, queue="mail")
    assert [rollup(task="x", queue=name + ",")] == database.timeline(
        BASE, BASE + 1, task=None, queue=name + ","
    )


def test_old_statistics_are_pruned_up_to_the_limit(database, server):
    """Each call deletes a limited number of minutes that are older than thirty days. No key remains."""
    now = (
        database.database.run("records.put", 0, "kind", "key", "", "", "", "")
        and int(server.client().time()[0]) * SECOND
    )
    database.database.run("records.delete", 0, "kind", "key", "")
    old = [now - 30 * DAY - number * MINUTE for number in range(1, 6)]
    database.record_metrics([rollup(minute) for minute in [*old, now - 29 * DAY]])

    left = []
    for _ in range(3):
        database.prune(3)
        left.append(len(database.timeline(0, now + DAY)))
    database.database.clock_offset = 2 * DAY
    database.prune(3)

    assert ([3, 1, 1], []) == (left, database.timeline(0, now + DAY))
    assert {"layout", "kf:kind"} == keys_of(server)


# ---- logs ------------------------------------------------------------------------------------------------


def known(database, count):
    """Return ids of jobs that are stored, in every partition."""
    ids = [f"{number:036x}" for number in range(count)]
    database.insert([NewJob(id, "noop", "{}", "json", "default", 0, State.ENQUEUED, BASE) for id in ids])
    return ids


def lines(*numbers):
    """Return lines with their numbers as text."""
    return [LogLine(0, BASE, "INFO", f"{number}\n\té", 1) for number in numbers]


def texts(log):
    """Return the numbers in the lines' text."""
    return [int(line.text.split()[0]) for line in log]


def test_long_log_keeps_its_newest_thousand_lines(database):
    """Only the newest thousand lines are kept, even if many lines arrive together.

    Their numbers have no gaps.
    """
    (id,) = known(database, 1)
    results = []
    for start, count in ((0, 3), (3, 1_000), (1_003, 2_777), (3_780, 1)):
        database.append_logs({id: lines(*range(start, start + count))}, {})
        log = database.read_log(id, after=0, limit=2_000)
        results.append((texts(log)[0], log[0].number, texts(log)[-1], log[-1].number, len(log)))

    assert [
        (0, 1, 2, 3, 3), (3, 4, 1_002, 1_003, 1_000), (2_780, 2_781, 3_779, 3_780, 1_000),
        (2_781, 2_782, 3_780, 3_781, 1_000),
    ] == results  # fmt: skip


def test_log_is_read_from_any_line_number(database):
    """If the given line no longer exists, reading continues with the oldest line.

    After the last line, nothing is found.
    """
    (id,) = known(database, 1)
    database.append_logs({id: lines(*range(1_300))}, {})

    assert [301, 302] == [line.number for line in database.read_log(id, after=5, limit=2)]
    assert list(range(400, 1_000)) == [line.number for line in database.read_log(id, after=399, limit=600)]
    assert [] == database.read_log(id, after=1_300, limit=10)
    assert [] == database.read_log(id, after=10**18, limit=10)
    assert [] == database.read_log(id, after=0, limit=0)


def test_omitted_log_lines_leave_no_gap(database):
    """If the first of several script calls omits lines, the lines before them are deleted as well."""
    (id,) = known(database, 1)
    database.append_logs({id: lines(0, 1, 2)}, {})

    database.database.run("logs.append", 0, id, "", 2_000, 1, json.dumps([BASE, "INFO", "2003", 1]))

    assert [2_004] == [line.number for line in database.read_log(id, after=0, limit=10)]
    assert [2_004] == [line.number for line in database.read_log(id, after=2_003, limit=10)]


def test_long_log_lines_are_sent_in_several_script_calls(database, server):
    """Megabytes of lines are sent in several short script calls and read back complete."""
    (id, other) = known(database, 2)
    long = [LogLine(0, BASE, "INFO", f"{number:04}" + "x" * 4_000, 1) for number in range(1_100)]
    database.append_logs({}, {id: Progress(1.0, 2.0, BASE)})
    before = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]

    database.append_logs({id: long, other: lines(1)}, {id: Progress(2.0, 2.0, BASE)})

    calls = server.client().info("commandstats")["cmdstat_evalsha"]["calls"] - before
    log = database.read_log(id, after=0, limit=1_000)
    assert [line.text for line in long[100:]] == [line.text for line in log]
    assert (101, 1_100) == (log[0].number, log[-1].number)
    assert [1] == texts(database.read_log(other, after=0, limit=10))
    assert [Progress(2.0, 2.0, BASE), None] == [one and one.progress for one in database.get([id, other])]
    assert 10 <= calls <= 15


# ---- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["", "two words", "a\ttab", "a\n", "no\u00a0break"])
def test_queue_name_with_white_space_is_refused(database, queue):
    """White space separates the words of a record.

    Such a name is therefore refused, and so is everything else in the same call.
    """
    names = ("default", queue)
    jobs = [NewJob(name or "-", "t", "{}", "json", name, 0, State.ENQUEUED, BASE) for name in names]

    with pytest.raises(StorageError, match="white space"):
        database.insert(jobs)

    assert not database.database.run("reading.ready", 0, "default")
