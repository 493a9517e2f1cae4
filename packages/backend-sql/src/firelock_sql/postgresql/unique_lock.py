"""Locks on unique keys on PostgreSQL: one statement locks all keys, in order and with a timeout."""

from __future__ import annotations

from collections.abc import Sequence

from firelock.storage import StorageUnavailable
from firelock_sql.connections.transaction import Text, Transaction

LOCK_TIMEOUT = "5s"
# Inserts rows for new keys. A caller's transaction may have another lock timeout, so the statement sets ours
# before it waits.
_LOCK = Text("""
WITH timeout AS MATERIALIZED (
    SELECT current_setting('lock_timeout') AS before, set_config('lock_timeout', :lock_timeout, true) AS now
)
INSERT INTO firelock_unique_keys (key, job_id, mark, free_at)
SELECT named.key, '', 0, 0 FROM timeout, unnest(:keys::text[]) AS named (key) WHERE timeout.now <> ''
ORDER BY named.key COLLATE "C"
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING (SELECT before FROM timeout)
""")
_GIVE_BACK = Text("SELECT set_config('lock_timeout', :before, true) FROM firelock_unique_keys LIMIT 1")
_NOT_IN_TIME = "55P03"
_SHOWN = 3


def lock_keys(tx: Transaction, keys: Sequence[str]) -> None:
    """Lock these sorted keys until the transaction ends.

    Raises:
        StorageUnavailable: If another transaction that has stored a job with one of the keys stays open.
    """
    try:
        found = tx.all(_LOCK, keys=list(keys), lock_timeout=LOCK_TIMEOUT)
    except Exception as error:
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if code != _NOT_IN_TIME:
            raise
        shown = ", ".join(repr(key.partition(" ")[2]) for key in keys[:_SHOWN])
        more = f" or {len(keys) - _SHOWN} others" if len(keys) > _SHOWN else ""
        unavailable = StorageUnavailable(
            f"Another transaction has stored a job with the unique key {shown}{more}, and has not ended "
            f"within {LOCK_TIMEOUT}. Nothing was stored. Retry after that transaction has ended, and keep "
            "transactions short."
        )
        unavailable.is_untouched = unavailable.has_waited = True
        raise unavailable from error
    if found and found[0][0] != LOCK_TIMEOUT:
        tx.all(_GIVE_BACK, before=found[0][0])
