"""Claims with lanes on PostgreSQL while another transaction holds a snapshot open: complete and in order."""

from __future__ import annotations

import pytest

from firelock.testing.conformance.scene import hands_back
from firelock_sql.postgresql import lanes
from tests.scenes import scene_at


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


@pytest.fixture
def behind(scene, monkeypatch):
    """A session whose reads of the lane "m" begin after the jobs that it has claimed."""
    monkeypatch.setattr(lanes, "_LONG", -1)
    monkeypatch.setattr(lanes, "_MICROS_OF_A_LANE", 0)
    monkeypatch.setattr(lanes, "_DEEP", 1)
    monkeypatch.setattr(lanes, "_IN_A_ROW", 1)
    monkeypatch.setattr(lanes, "_REST", 1e9)
    holder = scene.begin()
    for queues in (["default"], None):
        scene.add_limited(2, "m", priority=5)
        assert 2 == len(scene.claim(holder, 2, queues=queues))
    assert scene.storage._floors.starts_at_floors  # noqa: SLF001 - the precondition of the tests
    return holder


@pytest.mark.parametrize("queues", [["default"], None])
def test_lane_is_claimed_by_priority_and_age(scene, behind, queues):
    """The priorities of the new jobs are above, at and below those of the jobs that were claimed before."""
    wanted = [scene.add_limited(1, "m", priority=priority)[0] for priority in (9, 5, 5, 3, 0, -4)]

    assert wanted[:2] == scene.claim_ids(behind, 2, queues=queues)
    assert wanted[2:] == scene.claim_ids(behind, 10, queues=queues)
    assert [] == scene.claim(behind, 10, queues=queues)


@pytest.mark.parametrize("queues", [["default"], None])
def test_other_lanes_are_found_before_and_after_a_deep_one(scene, behind, queues):
    """The other lanes are found even after the deep lane is empty."""
    wanted = {job for key in ("a", "m", "z") for job in scene.add_limited(1, key)}
    assert wanted == set(scene.claim_ids(behind, 10, queues=queues))

    wanted = {job for key in ("b", "z") for job in scene.add_limited(1, key)}
    assert wanted == set(scene.claim_ids(behind, 10, queues=queues))


def test_handed_back_job_waits_for_a_full_read(scene, behind):
    """Reads already start after the position of the returned job."""
    scene.add_limited(1, "m", priority=5)
    (job,) = scene.take(behind, 1)
    scene.apply(hands_back(job))
    assert [] == scene.claim(behind, 5)

    scene.storage._floors._next_full_at = 0  # noqa: SLF001 - as after the pause

    assert [job.id] == scene.claim_ids(behind, 5)
