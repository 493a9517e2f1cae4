"""A partition whose slot moves to another node: no call sees a part of it, and calls wait for the whole."""

from __future__ import annotations

import threading

import pytest

from firelock.storage import ClaimRequest, NewSession, State, StorageUnavailable
from firelock_redis.layout.partitions import Partitions
from tests.redis.servers import RedisServer
from tests.scenes import scene_at

PARTITIONS = 4
FIRST = 0


@pytest.fixture
def scene(cluster, request):
    """An empty storage with a few partitions, and the options that a test names."""
    cluster.empty()
    url = cluster.url(f"partitions={PARTITIONS}{getattr(request, 'param', '')}")
    with scene_at(url) as scene:
        yield scene


short_timeout = pytest.mark.parametrize("scene", ["&timeout=1"], indirect=True)
replicated = pytest.mark.parametrize("scene", ["&durability=replicated"], indirect=True)


class Move:
    """A move of the first partition's slot to another node."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._slot = cluster.slot_of(Partitions("firelock", PARTITIONS).bases[FIRST])
        self._source: RedisServer = cluster.owner_of(self._slot)
        self._target = next(node for node in cluster.primaries() if node is not self._source)

    def begin(self):
        """Start the move: no key has moved yet, but the nodes redirect to each other."""
        self._cluster.begin_move(self._slot, self._target)

    def move_some(self, limit):
        """Move some of the keys, so that both nodes have a part."""
        self._cluster.move_keys(self._slot, self._source, self._target, limit)

    def end(self):
        """Move the rest of the keys and end the move."""
        while self._cluster.move_keys(self._slot, self._source, self._target):
            pass
        self._cluster.end_move(self._slot, self._source, self._target)


def jobs_in_the_first_partition(scene, number):
    """Store this number of jobs in the slot that will move; return their ids."""
    jobs = [scene.new_job(id=f"{place:030x}-{FIRST:02x}") for place in range(1, number + 1)]
    scene.storage.insert(jobs)
    return [job.id for job in jobs]


@short_timeout
@pytest.mark.parametrize("moved", [0, 3])
def test_partition_is_not_read_or_written_while_its_slot_moves(scene, cluster, moved):
    """While two nodes each have a part of the slot, calls fail and can be repeated.

    After the move, all jobs are still stored.
    """
    scene.storage.begin_session(NewSession("a", "server", "host:1", "host", 1, 5, 3_600.0))
    ids = jobs_in_the_first_partition(scene, 5)
    move = Move(cluster)
    move.begin()
    if moved:
        move.move_some(moved)

    for call in (
        lambda: scene.storage.claim(ClaimRequest(None, 10, "a", 1)),
        lambda: scene.storage.insert([scene.new_job(id=f"{9:030x}-{FIRST:02x}")]),
    ):
        with pytest.raises(StorageUnavailable, match="a slot is being moved"):
            call()
    move.end()

    assert ids == [job.id for job in scene.storage.claim(ClaimRequest(None, 10, "a", 1)).jobs]
    assert {State.PROCESSING: 5} == scene.storage.counts().by_state


def test_call_waits_while_a_slot_moves(scene, cluster):
    """If the move ends within the time limit of the call, the call succeeds."""
    jobs_in_the_first_partition(scene, 5)
    job = scene.new_job(id=f"{9:030x}-{FIRST:02x}")
    move = Move(cluster)
    move.begin()
    answers: list[list[bool]] = []
    calling = threading.Thread(target=lambda: answers.append(scene.storage.insert([job]).is_new))
    calling.start()
    calling.join(0.6)  # longer than the driver repeats a command by itself
    assert [] == answers
    move.end()
    calling.join(10)

    assert [[True]] == answers
    assert scene.storage.get([job.id])[0] is not None


@replicated
def test_replicated_insert_follows_a_moved_slot(scene, cluster):
    """The insert is sent to the new owner of the slot. The error is about this node, which has no replica."""
    with pytest.raises(StorageUnavailable, match="0 of 1 replicas"):
        jobs_in_the_first_partition(scene, 1)
    move = Move(cluster)
    move.begin()
    move.end()

    with pytest.raises(StorageUnavailable, match="0 of 1 replicas"):
        scene.storage.insert([scene.new_job(id=f"{9:030x}-{FIRST:02x}")])
    assert scene.storage.get([f"{9:030x}-{FIRST:02x}"])[0] is not None
