"""Records in Redis: versions outlive deleted records, pauses reach every partition, and pages are bounded."""

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
    """An empty database with one partition."""
    with opened(server) as database:
        yield database


@pytest.fixture
def parted(server):
    """An empty database with several partitions."""
    with opened(server, f"partitions={PARTITIONS}") as database:
        yield database


def put(database, key, value, kind="queue"):
    """Store the record, regardless of its previous version."""
    return database.put_record(kind, key, value, expected_version=None)


def paused(storage):
    """Return the paused queues of each partition."""
    call, bases = storage.database.connections.call, storage.database.partitions.bases
    return [set(call("SMEMBERS", f"{base}:paused")) for base in bases]


# ---- inserts that depend on a record ---------------------------------------------------------------------


def test_repeated_put_writes_again(database):
    """The reply to the first write may be lost. A WAIT after the repeated write covers both writes."""
    change, call = RecordChange("kind", "key", "value", 0), database.database.connections.call

    def written():
        return int(re.search(r"rdb_changes_since_last_save:(\d+)", call("INFO", "persistence"))[1])

    database.insert([], only_if=change)
    before = written()

    assert Applied.ALREADY is database.insert([], only_if=change).record
    assert written() > before


# ---- versions --------------------------------------------------------------------------------------------


def test_record_versions_of_different_kinds_are_independent(database):
    """The first version of each kind is 1, even if records of another kind were deleted."""
    put(database, "key", "a", "one")
    put(database, "key", "b", "one")
    database.delete_record("one", "key", expected_version=None)

    assert (1, 3) == (put(database, "key", "a", "other"), put(database, "key", "c", "one"))


# ---- lists -----------------------------------------------------------------------------------------------


def test_long_list_of_records_is_read_in_pages(database):
    """The list is complete and in order, even if reading it takes many commands."""
    keys = [f"{number:05}" for number in range(1_203)]
    for key in keys:
        put(database, key, key, "kind")

    whole = database.list_records("kind", after="", limit=5_000)
    part = database.list_records("kind", after="00100", limit=1_000)

    assert keys == [record.key for record in whole]
    assert keys[101:1_101] == [record.key for record in part]
    assert [] == database.list_records("kind", after="", limit=0)


# ---- pauses ----------------------------------------------------------------------------------------------


def test_pause_reaches_every_partition(parted):
    """Changing the record of a queue pauses and resumes the queue in every partition.

    Deleting the record resumes the queue too.
    """
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
def test_only_a_valid_pause_record_pauses_a_queue(parted, value):
    """Other values, other kinds of records, and records that could not be stored do not pause a queue."""
    put(parted, "mail", value)
    put(parted, "mail", PAUSED, "server_order")
    parted.put_record("queue", "bulk", PAUSED, expected_version=3)

    assert [set()] * PARTITIONS == paused(parted)


def test_partition_that_missed_a_pause_is_repaired(parted, server):
    """If a partition has lost or missed a pause, the next `promote` stores the pause there."""
    bases = parted.database.partitions.bases
    parted.database.run(
        "records.put", 0, "queue", "mail", PAUSED, "", "", 1
    )  # and its writer died directly afterwards
    missed = paused(parted)
    parted.promote(10)
    repaired = paused(parted)
    server.client().delete(f"{bases[2]}:paused", f"{bases[2]}:pausing")
    repair_pauses(parted.database)

    assert [{"mail"}, set(), set()] == missed
    assert [{"mail"}] * PARTITIONS == repaired == paused(parted)


def test_late_pause_does_not_undo_a_newer_change(parted):
    """If a pause reaches a partition after a newer change, the pause is ignored."""
    put(parted, "mail", PAUSED)
    late = parted.database.run("records.pauses", 0, 0)
    put(parted, "mail", RESUMED)

    answers = {int(parted.database.run("records.pause", partition, *late)) for partition in (1, 2)}

    assert [set()] * PARTITIONS == paused(parted)
    assert min(answers) > int(late[0])


def test_partitions_agree_after_concurrent_pauses(parted):
    """After concurrent pauses and resumptions, every partition has the state of the first one."""

    def toggle(queue: str) -> None:
        for value in (PAUSED, RESUMED, PAUSED) * 10:
            put(parted, queue, value)

    race([partial(toggle, queue) for queue in ("mail", "bulk") * 3])

    assert [{"mail", "bulk"}] * PARTITIONS == paused(parted)


def test_pause_lost_by_the_first_partition_is_removed_everywhere(parted, server):
    """If a failover loses a pause in the first partition, the pause is removed from all partitions.

    The next pause is kept.
    """
    first = parted.database.partitions.bases[0]
    put(parted, "mail", PAUSED)
    server.client().delete(f"{first}:paused", f"{first}:pausing", f"{first}:k:queue", f"{first}:kz:queue")

    repair_pauses(parted.database)
    lost = paused(parted)
    put(parted, "bulk", PAUSED)

    assert [set()] * PARTITIONS == lost
    assert [{"bulk"}] * PARTITIONS == paused(parted)


def test_change_after_a_failover_reaches_every_partition(parted, server):
    """If the first partition has lost a change, the next change must not count as a repetition of it."""
    first, client = parted.database.partitions.bases[0], server.client()
    put(parted, "mail", PAUSED)
    stamp = client.get(f"{first}:pausing")
    put(parted, "bulk", PAUSED)
    client.srem(f"{first}:paused", "bulk")
    client.set(f"{first}:pausing", stamp)

    put(parted, "other", PAUSED)

    assert [{"mail", "other"}] * PARTITIONS == paused(parted)


def test_failing_partition_does_not_prevent_a_pause_elsewhere(parted, server):
    """The error is raised after all other partitions have been updated. The record is stored."""
    server.client().set(f"{parted.database.partitions.bases[1]}:pausing", "no number")

    with pytest.raises(StorageError, match="number"):
        put(parted, "mail", PAUSED)

    assert [{"mail"}, set(), {"mail"}] == paused(parted)
    assert parted.get_record("queue", "mail") is not None


def test_resumed_queue_wakes_waiting_servers(parted, server):
    """Each partition publishes a message when a queue is resumed there, but not when a queue is paused."""
    with server.client().pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(*(f"{base}:wake" for base in parted.database.partitions.bases))
        for _ in range(PARTITIONS):
            listener.get_message(timeout=5.0)  # the subscription is active
        put(parted, "mail", PAUSED)
        put(parted, "bulk", PAUSED)
        put(parted, "mail", RESUMED)
        put(parted, "mail", RESUMED)
        channels = [message["channel"] for message in iter(lambda: listener.get_message(timeout=0.2), None)]

    assert [f"{base}:wake" for base in parted.database.partitions.bases] == channels


def test_single_partition_pauses_with_one_call(database, server):
    put(database, "mail", RESUMED)
    before = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]
    put(database, "mail", PAUSED)

    after = server.client().info("commandstats")["cmdstat_evalsha"]["calls"]

    assert ([{"mail"}], 1) == (paused(database), after - before)


def test_queue_is_resumed_while_memory_is_full(parted, server):
    """A server whose memory is full refuses new records.

    Resuming a queue is allowed, because running its jobs frees memory.
    """
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
