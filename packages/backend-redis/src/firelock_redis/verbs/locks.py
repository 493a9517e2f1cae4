"""Locks, each of which is a key that is deleted soon after the lock ends. One counter provides the fences."""

from __future__ import annotations

from typing_extensions import override

from firelock_redis.connections.database import RedisVerbs

_SECOND = 1_000_000
# About seventy years, in microseconds. Lua can represent the sum of this and the current time exactly.
_LONGEST = 1 << 51


class LockVerbs(RedisVerbs):
    """The verbs of locks, which are all in the first partition."""

    @override
    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        fence = self._run("locks.acquire", 0, name, owner, _ttl(ttl_seconds))
        return None if fence is None else int(fence)

    @override
    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        ttl = _ttl(ttl_seconds)
        return bool(self._run("locks.renew", 0, name, owner, fence, ttl))

    @override
    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        return bool(self._run("locks.release", 0, name, owner, fence))


def _ttl(seconds: float) -> int:
    return int(min(max(seconds * _SECOND, 0), _LONGEST))
