"""Locks: one row a name, which stays so that its fence never falls."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, null, select, update

from firelock_sql.database import Transaction
from firelock_sql.statements import Statement, insert_into
from firelock_sql.tables import locks

__all__ = ["acquire_lock", "release_lock", "renew_lock"]

_SECOND = 1_000_000

_GET = Statement(
    select(locks.c.owner, locks.c.fence, locks.c.expires_at)
    .where(locks.c.name == bindparam("of_name"))
    .with_for_update()
)
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
_RELEASE = Statement(update(locks).where(_is_held).values(owner=null()))


def acquire_lock(tx: Transaction, name: str, owner: str, ttl_seconds: float) -> int | None:
    """See `Storage.acquire_lock`."""
    expires_at = tx.now + int(ttl_seconds * _SECOND)
    found: Any = tx.one(_GET, {"of_name": name})
    if found is None:
        tx.run(_PUT, {"name": name, "owner": owner, "fence": 1, "expires_at": expires_at})
        return 1
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
    return tx.run(_RELEASE, held) > 0
