"""Locks: a row each until a day after its end, and one row that no later fence falls below.

That row has no name; a lock of no name would have it, and go on from there like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, null, select, update

from firelock_sql.statements import Statement, among, insert_into
from firelock_sql.tables import ONE, locks
from firelock_sql.transaction import Database, Transaction

__all__ = ["acquire_lock", "has_old_locks", "prune_locks", "release_lock", "renew_lock"]

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND

_GET = Statement(
    select(locks.c.owner, locks.c.fence, locks.c.expires_at)
    .where(locks.c.name == bindparam("of_name"))
    .with_for_update()
)
_FLOOR = ""
_FLOOR_FENCE = Statement(select(locks.c.fence).where(locks.c.name == bindparam("of_name")))
_PUT = insert_into(locks, "name", "owner", "fence", "expires_at")
_TAKE = Statement(
    update(locks)
    .where(locks.c.name == bindparam("of_name"))
    .values(
        owner=bindparam("new_owner"), fence=bindparam("new_fence"), expires_at=bindparam("new_expires_at")
    )
)
_is_held = (
    (locks.c.name == bindparam("of_name"))
    & (locks.c.owner == bindparam("by_owner"))
    & (locks.c.fence == bindparam("with_fence"))
    & (locks.c.expires_at > bindparam("now"))
)
_RENEW = Statement(update(locks).where(_is_held).values(expires_at=bindparam("new_expires_at")))
_RELEASE = Statement(update(locks).where(_is_held).values(owner=null(), expires_at=bindparam("ended_at")))
_is_old = (locks.c.expires_at < bindparam("before")) & (locks.c.name > bindparam("floor"))
_HAS_OLD = Statement(select(ONE).select_from(locks).where(_is_old).limit(ONE))
_OLD = Statement(
    select(locks.c.name, locks.c.fence)
    .where(_is_old)
    .order_by(locks.c.name)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_RAISE = Statement(
    update(locks).where(locks.c.name == bindparam("of_name")).values(fence=bindparam("new_fence"))
)
_FORGET = Statement(delete(locks).where(among(locks.c.name, "ids")))


def acquire_lock(tx: Transaction, name: str, owner: str, ttl_seconds: float) -> int | None:
    """See `Storage.acquire_lock`."""
    expires_at = tx.now + int(ttl_seconds * _SECOND)
    found: Any = tx.one(_GET, {"of_name": name})
    if found is None:
        floor: Any = tx.one(_FLOOR_FENCE, {"of_name": _FLOOR})  # read after the name was found to be gone
        first = 1 if floor is None else int(floor[0]) + 1
        tx.run(_PUT, {"name": name, "owner": owner, "fence": first, "expires_at": expires_at})
        return first
    holder, fence, ends_at = found
    if holder is not None and holder != owner and ends_at > tx.now:
        return None
    token: int = fence if holder == owner and ends_at > tx.now else fence + 1
    lock = {"of_name": name, "new_owner": owner, "new_fence": token, "new_expires_at": expires_at}
    tx.run(_TAKE, lock)
    return token


def renew_lock(tx: Transaction, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
    """See `Storage.renew_lock`."""
    held = {"of_name": name, "by_owner": owner, "with_fence": fence, "now": tx.now}
    return tx.run(_RENEW, {**held, "new_expires_at": tx.now + int(ttl_seconds * _SECOND)}) > 0


def release_lock(tx: Transaction, name: str, owner: str, fence: int) -> bool:
    """See `Storage.release_lock`."""
    held = {"of_name": name, "by_owner": owner, "with_fence": fence, "now": tx.now}
    return tx.run(_RELEASE, {**held, "ended_at": tx.now}) > 0


def has_old_locks(tx: Transaction) -> bool:
    """Tell whether a lock ended a day ago."""
    return tx.one(_HAS_OLD, {"before": tx.now - _DAY, "floor": _FLOOR}) is not None


def prune_locks(tx: Transaction, database: Database, limit: int) -> int:
    """Up to `limit` locks that ended a day ago are gone, and the fences of their names will not fall."""
    floor: Any = tx.one(_GET, {"of_name": _FLOOR})
    old: Sequence[Any] = tx.all(_OLD, {"before": tx.now - _DAY, "floor": _FLOOR, "most": limit})
    if not old:
        return 0
    fence = max(int(row[1]) for row in old)
    if floor is None:
        tx.run(_PUT, {"name": _FLOOR, "owner": None, "fence": fence, "expires_at": 0})
    elif fence > floor[1]:
        tx.run(_RAISE, {"of_name": _FLOOR, "new_fence": fence})
    tx.run(_FORGET, {"ids": database.among([str(row[0]) for row in old])})
    return len(old)
