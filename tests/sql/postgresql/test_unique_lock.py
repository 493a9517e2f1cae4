"""Unique keys on PostgreSQL: waits for other transactions, their duration, and the state afterwards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from firelock.model.answers import Duplicate
from firelock.model.limit import UniqueUse, Until
from firelock.storage import StorageUnavailable
from firelock.testing import eventually
from firelock.testing.conformance.scene import asks
from firelock_sql.postgresql import unique_lock
from tests.scenes import scene_at

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'firelock'"


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


@pytest.fixture
def callers(postgresql):
    """A caller's connection within a transaction."""
    with psycopg.connect(postgresql.url().replace("?listen=off", "")) as connection:
        yield connection
        connection.rollback()


def call(scene, key="t k", **fields):
    """Return a new job with this unique key."""
    return scene.new_job(admission=asks(unique=UniqueUse(key, until=Until.ENDED)), **fields)


def test_call_waits_for_a_transaction_with_its_unique_key(scene, admin, callers):
    """After the commit, the call is a duplicate of the job that the transaction stored."""
    first, second = call(scene), call(scene)
    scene.storage.insert([first], within=callers)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(scene.storage.insert, [second])
        eventually(lambda: admin.execute(WAITING).fetchone() == (1,))
        callers.commit()

        assert [Duplicate(first.id)] == list(answer.result(30).is_new)


def test_wait_for_a_unique_key_times_out(scene, callers, monkeypatch):
    """The error contains the reason and the key. Other keys are not affected."""
    monkeypatch.setattr(unique_lock, "LOCK_TIMEOUT", "50ms")
    scene.storage.insert([call(scene)], within=callers)

    with pytest.raises(StorageUnavailable, match=r"Another transaction.*'k'") as refused:
        scene.storage.insert([call(scene)])

    assert refused.value.is_untouched
    assert [True] == list(scene.storage.insert([call(scene, "t other")]).is_new)


@pytest.mark.parametrize("lock_timeout", ["0", "7s"])
def test_lock_timeout_of_a_callers_transaction_is_kept(scene, callers, lock_timeout):
    """The timeout for waiting for a key applies to nothing else."""
    callers.execute("SELECT set_config('lock_timeout', %s, true)", [lock_timeout])

    scene.storage.insert([call(scene)], within=callers)

    assert (lock_timeout,) == callers.execute("SHOW lock_timeout").fetchone()


def test_batches_with_the_same_unique_keys_do_not_deadlock(scene):
    """Keys are always locked in the same order, whatever their order in a batch."""
    keys = [f"t {letter}" for letter in "aBcDeFgH"]
    batches = [keys, keys[::-1], keys[3:] + keys[:3], keys[1::2] + keys[::2]]
    handles = scene.open(len(batches))

    def stored(number):
        handle, batch = handles[number], batches[number]
        return [list(handle.insert([call(scene, key) for key in batch]).is_new) for _ in range(10)]

    with ThreadPoolExecutor(len(batches)) as pool:
        answers = [row for rows in pool.map(stored, range(len(batches))) for row in rows]

    assert len(keys) == sum(answer is True for row in answers for answer in row)
