"""Records in Redis: versions outlive what was deleted, pauses reach every partition, pages are bounded."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest

from firelock.storage import Applied, RecordChange, StorageError, StorageUnavailable
from firelock.testing.conformance.race import race
from firelock_redis.verbs.records import repair_pauses
from tests.redis.databases import opened

PARTITIONS = 3
PAUSED, RESUMED = json.dumps({"paused": True}), json.dumps({"paused": False})


@pytest.fixture
def database(server):
    """An empty database of one partition."""
    with opened(server) as database:
        yield database


@pytest.fixture
def parted(server):
    """An empty database of several partitions."""
    with opened(server, f"partitions={PARTITIONS}") as database:
        yield database


def put(database, key, value, kind="queue"):
    """The record is stored, whatever was there."""
    return database.put_record(kind, key, value, expected_version=None)


def paused(storage):
    """Return the paused queues of each partition."""
    call, bases = storage.database.connections.call, storage.database.partitions.bases
    return [set(call("SMEMBERS", f"{base}:paused")) for base in bases]


# ---- inserts that depend on one --------------------------------------------------------------------------


def test_a_repeat_is_a_write_of_its_own(database):
    """A WAIT behind it vouches for what the first try wrote, whose reply was lost."""
    change, call = RecordChange("kind", "key", "value", 0), database.database.connections.call

    def written():
        return int(re.search(r"rdb_changes_since_last_save:(\d+)", call("INFO", "persistence"))[1])

    database.insert([], only_if=change)
    before = written()

    assert Applied.ALREADY is database.insert([], only_if=change).record
    assert written() > before


# ---- versions --------------------------------------------------------------------------------------------


def test_other_kinds_forget_nothing_of_one_another(database):
    """A kind's first version is 1, whatever was deleted in another."""
    put(database, "key", "a", "one")
    put(database, "key", "b", "one")
    database.delete_record("one", "key", expected_version=None)

    assert (1, 3) == (put(database, "key", "a", "other"), put(database, "key", "c", "one"))


# ---- lists -----------------------------------------------------------------------------------------------


def test_a_long_list_is_read_in_pages(database):
    """A list is whole and in order, however many steps it takes."""
    keys = [f"{number:05}" for number in range(1_203)]
    for key in keys:
        put(database, key, key, "kind")

    whole = database.list_records("kind", after="", limit=5_000)
    part = database.list_records("kind", after="00100", limit=1_000)

    assert keys == [record.key for record in whole]
    assert keys[101:1_101] == [record.key for record in part]
    assert [] == database.list_records("kind", after="", limit=0)


# ---- pauses ----------------------------------------------------------------------------------------------


def test_a_pause_reaches_every_partition(parted):
    """A queue's record pauses it everywhere, and resumes it everywhere; so does its end."""
    put(parted, "mail", PAUSED)
    put(parted, "bulk", PAUSED)
    both = paused(parted)
    put(parted, "mail", RESUMED)
    one = paused(parted)
    parted.delete_record("queue", "bulk", expected_version=None)

    assert [{"mail", "bulk"}] * PARTITIONS == both
    assert [{"bulk"}] * PARTITIONS == one
    assert [set()] * PARTITIONS == paused(parted)


@pytest.mark.parametrize("value", ["", "[]", "1", '{"paused": 1}', '{"paused": "true"}', "{"])
def test_only_a_true_pause_of_a_queue_pauses(parted, value):
    """Whatever else a queue's record says is no pause, nor is one of another kind or one not stored."""
    put(parted, "mail", value)
    put(parted, "mail", PAUSED, "server_order")
    parted.put_record("queue", "bulk", PAUSED, expected_version=3)

    assert [set()] * PARTITIONS == paused(parted)


def test_a_partition_that_missed_a_pause_is_repaired(parted, server):
    """A partition that has lost a pause, or never heard of it, has it when somebody promotes."""
    bases = parted.database.partitions.bases
    parted.database.run(
        "records.put", 0, "queue", "mail", PAUSED, "", "", 1
    )  # and its writer died right after
    missed = paused(parted)
    parted.promote(10)
    repaired = paused(parted)
    server.client().delete(f"{bases[2]}:paused", f"{bases[2]}:pausing")
    repair_pauses(parted.database)

    assert [{"mail"}, set(), set()] == missed
    assert [{"mail"}] * PARTITIONS == repaired == paused(parted)


def test_a_late_pause_undoes_nothing(parted):
    """What a partition hears late, behind something newer, is passed over."""
    put(parted, "mail", PAUSED)
    late = parted.database.run("records.pauses", 0, 0)
    put(parted, "mail", RESUMED)

    answers = {int(parted.database.run("records.pause", partition, *late)) for partition in (1, 2)}

    assert [set()] * PARTITIONS == paused(parted)
    assert min(answers) > int(late[0])


def test_partitions_agree_after_any_race(parted):
    """Whoever pauses and resumes at once, in the end every partition has what the first one has."""

    def toggle(queue: str) -> None:
        for value in (PAUSED, RESUMED, PAUSED) * 10:
            put(parted, queue, value)

    race([partial(toggle, queue) for queue in ("mail", "bulk") * 3])

    assert [{"mail", "bulk"}] * PARTITIONS == paused(parted)


def test_what_the_first_partition_lost_is_lost_everywhere(parted, server):
    """A failover that takes a pause from the first partition takes it from all, and the next one holds."""
    first = parted.database.partitions.bases[0]
    put(parted, "mail", PAUSED)
    server.client().delete(f"{first}:paused", f"{first}:pausing", f"{first}:k:queue", f"{first}:kz:queue")

    repair_pauses(parted.database)
    lost = paused(parted)
    put(parted, "bulk", PAUSED)

    assert [set()] * PARTITIONS == lost
    assert [{"bulk"}] * PARTITIONS == paused(parted)


def test_a_change_behind_a_failover_reaches_every_partition(parted, server):
    """A change that follows one that the first partition lost is no repeat of it."""
    first, client = parted.database.partitions.bases[0], server.client()
    put(parted, "mail", PAUSED)
    stamp = client.get(f"{first}:pausing")
    put(parted, "bulk", PAUSED)
    client.srem(f"{first}:paused", "bulk")
    client.set(f"{first}:pausing", stamp)

    put(parted, "other", PAUSED)

    assert [{"mail", "other"}] * PARTITIONS == paused(parted)


def test_one_partition_that_fails_keeps_no_other_from_a_pause(parted, server):
    """The error is raised when every other partition was told; the record is stored."""
    server.client().set(f"{parted.database.partitions.bases[1]}:pausing", "no number")

    with pytest.raises(StorageError, match="number"):
        put(parted, "mail", PAUSED)

    assert [{"mail"}, set(), {"mail"}] == paused(parted)
    assert parted.get_record("queue", "mail") is not None


def test_a_resumed_queue_wakes_those_who_wait(parted, server):
    """Each partition says when a queue is resumed in it, and not when one is paused."""
    with server.client().pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(*(f"{base}:wake" for base in parted.database.partitions.bases))
        for _ in range(PARTITIONS):
            heard.get_message(timeout=5.0)  # it is subscribed
        put(parted, "mail", PAUSED)
        put(parted, "bulk", PAUSED)
        put(parted, "mail", RESUMED)
        put(parted, "mail", RESUMED)
        channels = [message["channel"] for message in iter(lambda: heard.get_message(timeout=0.2), None)]

    assert [f"{base}:wake" for base in parted.database.partitions.bases] == channels


def test_a_single_partition_pauses_in_one_step(database, server):
    """Where there is one partition only, a pause is one call."""
    put(database, "mail", RESUMED)
    before = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]
    put(database, "mail", PAUSED)

    after = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]

    assert ([{"mail"}], 1) == (paused(database), after - before)


def test_a_queue_is_resumed_when_memory_is_full(parted, server):
    """A full server refuses new records, but not to resume a queue: that is what drains it."""
    put(parted, "mail", PAUSED)
    client = server.client()
    client.config_set("maxmemory", "1kb")
    try:
        with pytest.raises(StorageUnavailable, match="memory"):
            put(parted, "key", "value", "kind")
        put(parted, "mail", RESUMED)
    finally:
        client.config_set("maxmemory", "0")

    assert [set()] * PARTITIONS == paused(parted)
