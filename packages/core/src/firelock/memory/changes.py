"""The steps of a job, done to the table; the end of a parent, and what follows from it."""

from __future__ import annotations

from firelock.lifecycle import Upkeep
from firelock.memory.table import Table
from firelock.storage import Applied, StoredJob, steps
from firelock.values import Transition


def claim(table: Table, row: StoredJob, *, session: str, server: str, now: int) -> StoredJob:
    """The job is processing for this session; return it as it is now."""
    claimed = steps.claimed_by(row, session, server, now=now)
    table.put(claimed)
    return claimed


def apply(table: Table, transition: Transition, now: int) -> Applied:
    """The transition is written if its guards hold; return what became of it."""
    row = table.rows.get(transition.job_id)
    if row is None:
        return Applied.MISSING
    after, result = steps.applied(row, transition, now=now)
    if after is not row:
        table.put(after)
    if result is not Applied.APPLIED:
        return result
    return Applied.RELEASING if transition.job_id in table.releasing else Applied.APPLIED


def release(table: Table, limit: int, now: int) -> int:
    """Up to `limit` children of ended parents were looked at; return how many."""
    looked_at = 0
    while table.releasing and looked_at < limit:
        parent_id = next(iter(table.releasing))
        children = table.releasing[parent_id]
        while children and looked_at < limit:
            child = table.rows.get(children.pop())
            looked_at += 1
            if child is not None:  # deleted and pruned in the meantime
                table.put(steps.followed(child, table.rows[parent_id].record, at=now, now=now))
        if not children:
            del table.releasing[parent_id]
    return looked_at


def prune(table: Table, parent: StoredJob, now: int) -> None:
    """The job is gone; children that waited for another end of it are deleted."""
    reason = Upkeep.PARENT_GONE.value
    for id in list(table.waiting.get(parent.record.id, ())):
        table.put(steps.ended_with(table.rows[id], parent.record, reason=reason, at=now))
    table.remove(parent)
