"""Findings about batches and waits that do not progress, and cases that must not cause a finding."""

from __future__ import annotations

import attrs
import pytest

from firelock import Firelock
from firelock.storage.memory import MemoryStorage
from tests.core.storage.relations import RelationScene

HOUR = 3_600 * 1_000_000


class Miscounting(MemoryStorage):
    """A storage that counts one failed member too many."""

    def batch_counts(self, ids):
        """See `Storage.batch_counts`."""
        return [one and attrs.evolve(one, failed=one.failed + 1) for one in super().batch_counts(ids)]


def codes(storage):
    """Return the findings by code, without the findings that are always reported for the memory storage."""
    found = Firelock(storage).diagnose().findings
    return {one.code: one for one in found if one.code not in ("not_shared", "no_server")}


def fill(storage, *, is_running=False):
    """Create a batch with two members, of which one or both have ended, and return its id."""
    scene = RelationScene(storage)
    batch = scene.batch()
    scene.put(batch, scene.job(batch=batch.id), scene.job(batch=batch.id))
    scene.settle()
    first, second = scene.claim().values()
    scene.succeed(first)
    if not is_running:
        scene.succeed(second)
    return batch.id


def test_batch_with_only_ended_members_is_reported():
    """The finding appears an hour after the last change of a member, and disappears after a release."""
    storage = MemoryStorage()
    batch = fill(storage)

    found = codes(storage)["batch_undecided"]

    assert batch == found.values["batch"]
    assert f"Batch a batch ({batch}) has 2 members (2 succeeded)" in found.what
    storage.release(100)
    assert {} == codes(storage)


def test_batch_with_a_running_member_is_not_reported():
    """It does not matter how long the member has been running."""
    storage = MemoryStorage()
    fill(storage, is_running=True)

    assert {} == codes(storage)


def test_batch_that_changes_during_the_check_is_not_reported():
    storage = Miscounting()
    scene = RelationScene(storage)
    batch = scene.batch()
    scene.put(batch, attrs.evolve(scene.job(batch=batch.id), created_at=storage.clock()))
    scene.settle()

    assert {} == codes(storage)


def test_batch_with_wrong_counts_is_reported():
    """The finding contains the stored counts and the actual ones."""
    storage = Miscounting()
    batch = fill(storage, is_running=True)

    found = codes(storage)["batch_miscounted"]

    assert (True, batch) == (found.is_error, found.values["batch"])
    assert "counts show 2 members (1 active, 1 succeeded, 1 failed)" in found.what
    assert "but the storage has 2 members (1 active, 1 succeeded)." in found.what


@pytest.mark.parametrize(("late", "is_reported"), [(200, False), (400, True)])
def test_wait_that_exceeds_its_timeout_is_reported(late, is_reported):
    """The finding appears some minutes after the timeout. The upkeep of any server continues the job."""
    storage = MemoryStorage()
    scene = RelationScene(storage)
    job = scene.put(scene.job())
    due_at = storage.clock() + HOUR
    scene.suspend(scene.claim()[job], due_at=due_at)

    storage.clock_offset = HOUR + late * 1_000_000

    found = codes(storage)
    assert is_reported == ("wait_overdue" in found)
    if is_reported:
        assert ("1 job is waiting past the timeout.", due_at) == (
            found["wait_overdue"].what, found["wait_overdue"].since,
        )  # fmt: skip
