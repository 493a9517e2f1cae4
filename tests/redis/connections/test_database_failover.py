"""A client while a primary is unreachable, and after a failover during which the client was idle."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from firelock.storage import StorageError, StorageUnavailable
from firelock_redis.connections.database import RedisDatabase
from firelock_redis.connections.url import parse_url
from firelock_redis.storage import RedisStorage
from tests.faults.servers import eventually
from tests.redis.sentinel import SentinelGroup
from tests.redis.servers import RedisServer
from tests.scenes import scene_at

_SILENCE = 1.1  # seconds after which an idle connection is checked before its use


def test_idle_client_finds_the_new_primary_after_a_failover(program):
    """A client that was idle during a failover gets the address of the primary from the Sentinels again.

    The old primary was restarted and acts as a primary for a moment, but the client must not write to it.
    """
    with SentinelGroup(program, down_after=0.5) as group, scene_at(group.url()) as scene:
        scene.storage.insert([scene.new_job()])
        silent_since = time.monotonic()
        before = group.primary()
        before.kill()
        group.await_failover(before)
        group.wait_longer()
        before.start()
        eventually(lambda: time.monotonic() > silent_since + _SILENCE, 30, "it was silent for long enough")

        job = scene.new_job()
        scene.storage.insert([job])

        with closing(RedisStorage(RedisDatabase(parse_url(group.url())))) as other:
            assert other.get([job.id]) != [None]


def test_enqueue_uses_another_partition_after_a_refusal(program):
    """The next call uses another partition immediately.

    Otherwise, up to 500 jobs would use the one that refused.
    """
    with RedisServer(program) as server, scene_at(server.url(options="partitions=16")) as scene:
        scene.storage.insert([scene.new_job()])
        server.kill()

        tried = set()
        for _ in range(20):
            job = scene.new_job(id=scene.storage.new_ids(1)[0])
            with pytest.raises(StorageUnavailable):
                scene.storage.insert([job])
            tried.add(job.id[-2:])

    assert len(tried) > 1


def test_claim_returns_jobs_although_another_partition_fails(server):
    """A claim returns the jobs that it claimed before a partition failed.

    Otherwise, these jobs would wait until the session ends.
    """
    server.empty()
    with scene_at(server.socket_url("partitions=2")) as scene:
        heir, job = scene.begin("heir"), scene.new_job(id=f"{0:032x}")
        scene.storage.insert([job])
        server.client().set("firelock:{1}:work", "nobody's")

        assert [claimed.id for claimed in scene.claim(heir, 2)] == [job.id]
        with pytest.raises(StorageError):
            scene.claim(heir, 2)
