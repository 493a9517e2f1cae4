"""The deletion of the tags of pruned jobs on PostgreSQL, with one statement for all tags."""

from __future__ import annotations

from collections.abc import Sequence

from firelock_sql.connections.transaction import Text, Transaction

_UNTAG = Text("""
DELETE FROM firelock_job_tags AS stored
USING unnest(:tags::text[], :created::bigint[], :jobs::text[]) AS gone (tag, created_at, job_id)
WHERE stored.tag = gone.tag AND stored.created_at = gone.created_at AND stored.job_id = gone.job_id
""")


def untag(tx: Transaction, rows: Sequence[tuple[str, int, str]]) -> None:
    """Delete the given rows of tags, each with the job's `created_at` and id."""
    tags, created, jobs = map(list, zip(*rows, strict=True))
    tx.run(_UNTAG, tags=tags, created=created, jobs=jobs)
