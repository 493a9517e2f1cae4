"""A server's storage, and its keys as they lie there."""

from __future__ import annotations

from contextlib import contextmanager

from firelock_redis.connections.database import RedisDatabase
from firelock_redis.connections.url import parse_url
from firelock_redis.storage import RedisStorage


@contextmanager
def opened(server, options=""):
    """Yield the empty storage of the server, with options such as `partitions=3`."""
    server.empty()
    storage = RedisStorage(RedisDatabase(parse_url(server.socket_url(options))))
    try:
        yield storage
    finally:
        storage.close()


def keys_of(server, pattern="*"):
    """Return the names of its keys, what is before the partition's colon left out."""
    return {key.partition("}:")[2] for key in server.client().keys(pattern)}
