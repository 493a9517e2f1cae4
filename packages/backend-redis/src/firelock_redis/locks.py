"""Locks: a key each while it is held, gone soon after; the tokens of all of them are from one row."""

from __future__ import annotations

from firelock_redis.database import RedisDatabase

__all__ = ["acquire_lock", "release_lock", "renew_lock"]

_SECOND = 1_000_000
_LONGEST = 1 << 51  # micros, seventy years: with the present instant still a number that Lua holds exactly


def acquire_lock(database: RedisDatabase, name: str, owner: str, ttl_seconds: float) -> int | None:
    """See `Storage.acquire_lock`."""
    fence = database.run("acquire_lock", 0, database.clock_offset, name, owner, _ttl(ttl_seconds))
    return None if fence is None else int(fence)


def renew_lock(database: RedisDatabase, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
    """See `Storage.renew_lock`."""
    return bool(database.run("renew_lock", 0, database.clock_offset, name, owner, fence, _ttl(ttl_seconds)))


def release_lock(database: RedisDatabase, name: str, owner: str, fence: int) -> bool:
    """See `Storage.release_lock`."""
    return bool(database.run("release_lock", 0, database.clock_offset, name, owner, fence))


def _ttl(seconds: float) -> int:
    return int(min(max(seconds * _SECOND, 0), _LONGEST))
