"""A server's storage, and its stored keys."""

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
    """Return the names of the server's keys, without the part up to the partition's colon."""
    return {key.partition("}:")[2] for key in server.client().keys(pattern)}
