"""Claims with partitions: they find jobs even without a hint."""

from __future__ import annotations

import pytest

from firelock.testing.conformance.scene import deletes, requeues, succeeds
from tests.redis.counting import CountingProxy
from tests.scenes import scene_at

PARTITIONS = 4


@pytest.fixture
def scene(server):
    """An empty storage with several partitions."""
    server.empty()
    with scene_at(server.socket_url(f"partitions={PARTITIONS}")) as scene:
        yield scene


def in_partition(place):
    """Return the id of a job in this partition."""
    return f"{place:030x}-{place:02x}"


def test_claim_finds_work_before_its_notification(scene, server):
    """The notification for one partition arrives after its jobs.

    For another partition with jobs, no notification arrives.
    """
    paused = f"{scene.storage.database.partitions.bases[2]}:paused"
    client, holder = server.client(), scene.begin()
    client.sadd(paused, "default")
    silent = scene.add(id=in_partition(2))
    claimed = scene.add(id=in_partition(1))
    assert [claimed] == scene.claim_ids(holder)
    client.srem(paused, "default")

    scene.settle(deletes(claimed))

    assert [silent] == scene.claim_ids(holder)


def test_sender_of_a_late_end_finds_the_requeued_job(server):
    """The process that sends the late outcome of the earlier run notes that the job can run again.

    In this test, published messages are lost.
    """
    server.empty()
    with (
        CountingProxy(server) as proxy,
        scene_at(proxy.url(f"partitions={PARTITIONS}")) as scene,
    ):
        proxy.alter(lambda piece: piece.replace(b"\r\nmessage\r\n", b"\r\nmissing\r\n"))
        running, other = scene.run(scene.begin()), scene.begin("other")
        scene.settle(deletes(running.id))
        scene.settle(requeues(running.id))
        assert [[], []] == [scene.claim(other) for _ in range(2)]

        scene.apply(succeeds(running))

        assert [running.id] == scene.claim_ids(other)
