"""A server's keys as the package's own modules see them, without a storage around."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from firelock_redis.database import RedisDatabase
from firelock_redis.url import parse_url
from tests.redis.servers import RedisServer

__all__ = ["keys_of", "opened"]


@contextmanager
def opened(server: RedisServer, options: str = "") -> Iterator[RedisDatabase]:
    """Yield an empty database at the server, with options such as `partitions=3`."""
    server.empty()
    database = RedisDatabase(parse_url(server.socket_url(options)))
    try:
        yield database
    finally:
        database.close()


def keys_of(server: RedisServer, pattern: str = "*") -> set[str]:
    """Return the names of its keys, what is before the partition's colon left out."""
    return {key.partition("}:")[2] for key in server.client().keys(pattern)}
