"""Locks: one row per lock, which is kept for a day after the lock has ended.

Another row, whose name is empty, contains a lower bound for fences. The bound is raised when locks are
deleted, so that their fences never decrease. A lock with an empty name would share that row, and would
continue with its fence like any other lock.
"""

from __future__ import annotations

from typing_extensions import override

from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND

_GET = Text("SELECT owner, fence, expires_at FROM firelock_locks WHERE name = :name FOR UPDATE")
_FLOOR = ""
_FLOOR_FENCE = Text("SELECT fence FROM firelock_locks WHERE name = :name")
_PUT = insert_into("firelock_locks", "name", "owner", "fence", "expires_at")
_TAKE = Text("""
UPDATE firelock_locks SET owner = :owner, fence = :fence, expires_at = :expires_at WHERE name = :name
""")
_IS_HELD = "name = :name AND owner = :owner AND fence = :fence AND expires_at > :now"
_RENEW = Text(f"UPDATE firelock_locks SET expires_at = :expires_at WHERE {_IS_HELD}")  # noqa: S608 - ours
_RELEASE = Text(f"UPDATE firelock_locks SET owner = NULL, expires_at = :now WHERE {_IS_HELD}")  # noqa: S608
_OLD = Text("""
SELECT name, fence FROM firelock_locks
WHERE expires_at < :before AND name > '' ORDER BY name LIMIT :most FOR UPDATE SKIP LOCKED
""")
_RAISE = Text("UPDATE firelock_locks SET fence = :fence WHERE name = :name")
_FORGET = Text("DELETE FROM firelock_locks WHERE name IN :ids")


class SqlLockVerbs(SqlVerbs):
    """The verbs for exclusive locks."""

    @override
    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        return self._database.write(lambda tx: _acquire(tx, name, owner, int(ttl_seconds * _SECOND)))

    @override
    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        def renew(tx: Transaction) -> bool:
            expires_at = tx.now + int(ttl_seconds * _SECOND)
            return (
                tx.changed(_RENEW, name=name, owner=owner, fence=fence, now=tx.now, expires_at=expires_at) > 0
            )

        return self._database.write(renew)

    @override
    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        held = {"name": name, "owner": owner, "fence": fence}
        return self._database.write(lambda tx: tx.changed(_RELEASE, **held, now=tx.now) > 0)


def _acquire(tx: Transaction, name: str, owner: str, ttl: int) -> int | None:
    found = tx.one(_GET, name=name)
    if found is None:
        floor = tx.one(_FLOOR_FENCE, name=_FLOOR)  # must be read after the search for the lock's own row
        first = 1 if floor is None else int(floor[0]) + 1
        tx.run(_PUT, name=name, owner=owner, fence=first, expires_at=tx.now + ttl)
        return first
    holder, fence, ends_at = found
    if holder is not None and holder != owner and ends_at > tx.now:
        return None
    granted: int = fence if holder == owner and ends_at > tx.now else fence + 1
    tx.run(_TAKE, name=name, owner=owner, fence=granted, expires_at=tx.now + ttl)
    return granted


def prune_locks(tx: Transaction, limit: int) -> int:
    """Delete up to `limit` locks that ended a day ago, and raise the lower bound to their fences."""
    _, floor, _ = tx.one(_GET, name=_FLOOR) or (None, None, None)
    old = tx.all(_OLD, before=tx.now - _DAY, most=limit)
    if not old:
        return 0
    fence = max(fence for _, fence in old)
    if floor is None:
        tx.run(_PUT, name=_FLOOR, owner=None, fence=fence, expires_at=0)
    elif fence > floor:
        tx.run(_RAISE, name=_FLOOR, fence=fence)
    tx.run(_FORGET, ids=[str(row[0]) for row in old])
    return len(old)
