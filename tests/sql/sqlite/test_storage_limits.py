"""Limits and unique keys in an SQLite file: the stored values, and values that a person has written."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from firelock.storage import Duplicate, LimitUse, State, UniqueUse
from firelock.testing.conformance.scene import asks, deletes, retries, succeeds

HOUR = 3_600


def read(path, statement, *values):
    """Return the rows of a query, as a person with a prompt reads them."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement, values).fetchall()


def write(path, statement, *values):
    """Change the file without the storage."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


def keys_in(path):
    """Return the limit keys that have a row."""
    return [key for (key,) in read(path, "SELECT key FROM firelock_limit_keys ORDER BY key")]


def test_lane_of_a_job_is_a_column(scene, path):
    """A job without limits has no lane, and is only in the index of ready jobs."""
    scene.add()
    scene.add_limited(1, "smtp", "tenant:7")

    lanes = read(path, "SELECT lane FROM firelock_jobs ORDER BY seq")

    assert [(None,), ("smtp\ntenant:7",)] == lanes


def test_reused_job_number_does_not_hold_a_key(scene, path):
    """A job with a strict limit is pruned while it waits for a retry, and another job gets its number."""
    holder = scene.begin()
    scene.set_limit("gpu", concurrent=1)
    scene.add_limited(1, LimitUse("gpu", is_strict=True))
    (running,) = scene.take(holder)
    scene.settle(retries(running, due_at=scene.now() + 10**12))
    number = read(path, "SELECT seq FROM firelock_jobs")
    scene.settle(deletes(running.id, at=scene.stamp(), expires_at=1))
    scene.storage.prune(10)
    scene.schedule(HOUR)
    same = read(path, "SELECT seq FROM firelock_jobs")
    waiting = scene.add_limited(1, "gpu")

    claimed = scene.claim_ids(holder)

    assert number == same
    assert waiting == claimed
    assert {State.SCHEDULED: 1, State.PROCESSING: 1} == scene.by_state()


def test_unreadable_limit_settings_do_not_limit_jobs(scene, path):
    """Settings that a person has written by hand must not prevent a job from starting."""
    scene.set_limit("gpu", concurrent=1)
    write(path, "UPDATE firelock_records SET value = '[not json' WHERE kind = 'limit'")
    ids = scene.add_limited(3, "gpu")

    assert ids == scene.claim_ids(scene.begin())


@pytest.mark.parametrize("garbage", ["[1", "", b"\xff"])
@pytest.mark.parametrize("lane", [None, "gpu"])
def test_job_with_unreadable_limits_is_quarantined(scene, path, garbage, lane):
    """The job fails with this reason, because starting it might exceed a limit. Other jobs are claimed."""
    bad = scene.add()
    ids = [scene.add(), *scene.add_limited(2, "gpu")]
    statement = "UPDATE firelock_jobs SET admission_json = ?, lane = ? WHERE id = ?"
    write(path, statement, garbage, lane, bad)
    holder = scene.begin()

    claimed = scene.claim_ids(holder) + scene.claim_ids(holder)

    assert sorted(ids) == sorted(claimed)
    assert read(path, "SELECT state FROM firelock_jobs WHERE id = ?", bad) == [("failed",)]


@pytest.mark.parametrize("stored", ["7", "[[[1]]]", '{"when":"dry"}'])
@pytest.mark.parametrize("lane", [None, "gpu"])
def test_job_with_limits_of_a_newer_release_is_claimed(scene, path, stored, lane):
    """The server postpones the job, and the storage does not change the string that describes the limits."""
    newer = scene.add()
    ids = [newer, scene.add(), *scene.add_limited(2, "gpu")]
    write(path, "UPDATE firelock_jobs SET admission_json = ?, lane = ? WHERE id = ?", stored, lane, newer)
    holder = scene.begin()

    claimed = {one.id: one for one in [*scene.claim(holder), *scene.claim(holder)]}

    assert sorted(ids) == sorted(claimed)
    assert stored == claimed[newer].admission_json == claimed[newer].admission.unread


def test_rows_of_idle_keys_are_forgotten(scene, path):
    """If a key has no running jobs and its whole rate is available, its row is deleted within an hour.

    Other keys keep their rows.
    """
    scene.set_limit("used", concurrent=1)
    scene.set_limit("idle", concurrent=1)
    scene.set_limit("debt", rate=1, per=10 * HOUR * 1_000_000, burst=1)
    holder = scene.begin()
    for key in ("used", "idle", "debt"):
        scene.add_limited(1, key)
    running = {use.job.admission.limits[0].key: use for use in scene.take(holder)}
    for key in ("idle", "debt"):
        scene.settle(succeeds(running[key]))
    stored = keys_in(path)

    scene.storage.prune(10)

    assert ["debt", "idle", "used"] == stored
    assert ["debt", "used"] == keys_in(path)
    assert [] == scene.claim_ids(holder)
    scene.add_limited(1, "used")
    assert [] == scene.claim_ids(holder)


def test_key_without_a_row_counts_its_holders(scene, path):
    """If no row lists the running jobs of a key, they are read from the table of jobs."""
    scene.set_limit("gpu", concurrent=2)
    holder = scene.begin()
    scene.add_limited(5, "gpu")
    scene.claim(holder, 1)
    write(path, "DELETE FROM firelock_limit_keys")

    assert 1 == len(scene.claim(holder, 5))
    assert [] == scene.claim(holder, 5)


def test_unique_key_row_is_kept_as_long_as_its_job(scene, path):
    """Upkeep deletes the key of a pruned job. A job that can still be requeued keeps its key."""
    first, second = (scene.add(admission=asks(unique=UniqueUse(f"shop.send {key}"))) for key in ("1", "2"))
    for job_id, expires_at in ((first, 1), (second, None)):
        scene.settle(deletes(job_id, at=scene.stamp(), expires_at=expires_at))

    scene.storage.prune(10)
    scene.advance(2 * HOUR)
    scene.storage.prune(10)

    assert [("shop.send 2",)] == read(path, "SELECT key FROM firelock_unique_keys")


def test_unique_key_of_a_rolled_back_transaction_is_free(scene, path):
    """The transaction of a caller stored a job with this key before it was rolled back."""
    admission = asks(unique=UniqueUse("shop.send 7"))
    other = scene.new_job(admission_json=None)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        mine = scene.new_job(admission=admission)
        again = scene.new_job(admission=admission)
        inserted = scene.storage.insert([mine, again, other], within=connection)
        connection.execute("ROLLBACK")

    assert [True, Duplicate(mine.id), True] == list(inserted.is_new)
    assert [True] == list(scene.storage.insert([again]).is_new)


def test_last_call_moves_a_job_to_its_lane(scene, path):
    """The row has the arguments and limits of the last call.

    A search by tag finds the job by the call's tags.
    """
    use = UniqueUse("shop.index 7", keeps_last=True)
    job_id = scene.add(admission=asks("gpu", unique=use), tags=("old", "both"))

    scene.storage.insert([scene.new_job(admission=asks("cpu", unique=use), tags=("both", "new"))])

    assert [("cpu",)] == read(path, "SELECT lane FROM firelock_jobs")
    tags = read(path, "SELECT tag FROM firelock_job_tags WHERE job_id = ? ORDER BY tag", job_id)
    assert [("both",), ("new",)] == tags
    assert ["cpu"] == [state.key for state in scene.storage.find_keys()]


def test_limit_settings_are_stored_as_json(scene, path):
    """A person can therefore read the settings of a limit with a SQLite prompt."""
    scene.set_limit("gpu", concurrent=3)

    ((value,),) = read(path, "SELECT value FROM firelock_records WHERE kind = 'limit'")

    assert 3 == json.loads(value)["concurrent"]
