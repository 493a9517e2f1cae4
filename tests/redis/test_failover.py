"""What a client does whose primary was replaced while it was silent."""

from __future__ import annotations

import time
from contextlib import closing

from firelock_redis.database import RedisDatabase
from firelock_redis.storage import RedisStorage
from firelock_redis.url import parse_url
from tests.faults.servers import eventually
from tests.redis.sentinel import SentinelGroup
from tests.scenes import scene_at

_SILENCE = 1.1  # seconds after which a connection is looked at before it is used


def test_who_was_silent_during_a_failover_finds_the_new_primary(program):
    """The old one, which is back and leads for a moment, is not written to: the Sentinels are asked anew."""
    with SentinelGroup(program, down_after=0.5) as group, scene_at(group.url()) as scene:
        scene.storage.insert([scene.new_job()])
        silent_since = time.monotonic()
        before = group.primary()
        before.kill()
        group.await_failover(before)
        before.start()
        eventually(lambda: time.monotonic() > silent_since + _SILENCE, 30, "it was silent for long enough")

        job = scene.new_job()
        scene.storage.insert([job])

        with closing(RedisStorage(RedisDatabase(parse_url(group.url())))) as other:
            assert other.get([job.id]) != [None]
